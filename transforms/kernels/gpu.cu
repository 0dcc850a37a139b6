// The loops over voxels, for a GPU. Each kernel is a loop over things that do not depend on each
// other, and the threads share them out.

#ifndef EACH // the tests have their own, for a CPU
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ inline
#define EACH(i, count)                                                                     \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (count);      \
         i += gridDim.x * (long long)blockDim.x)
#endif

typedef unsigned char Voxel;
typedef unsigned int Bits;

// ---------------------------------------------------------------------------------------------
// Thinning. A neighbourhood of 3 x 3 x 3 voxels is an integer of 27 bits: bit 9 z + 3 y + x. In
// octal a digit is a line along x, three digits are a plane, and the last three are the first.

#define CENTRE 0000020000u
#define FACES 0020252020u
#define FACES_AND_EDGES 0272757272u
#define NOT_FIRST_X 0666666666u
#define NOT_LAST_X 0333333333u
#define NOT_FIRST_Y 0770770770u
#define NOT_LAST_Y 0077077077u

#define THERE 1
#define CANDIDATE 2

DEVICE Bits neighbourhood(const Voxel *volume, long long v, long long line, long long plane) {
    Bits bits = 0;
    for (int z = 0; z < 3; ++z)
        for (int y = 0; y < 3; ++y) {
            const Voxel *u = volume + v + (z - 1) * plane + (y - 1) * line;
            Bits three = (u[-1] & THERE) | (u[0] & THERE) << 1 | (u[1] & THERE) << 2;
            bits |= three << (9 * z + 3 * y);
        }
    return bits & ~CENTRE;
}

// Whether the voxels around the centre are one piece, by faces, edges and corners.
DEVICE bool one_piece(Bits bits) {
    Bits piece = bits & (0u - bits);
    for (Bits before = 0; piece != before;) {
        before = piece;
        piece |= (piece << 1 & NOT_FIRST_X) | (piece >> 1 & NOT_LAST_X);
        piece |= (piece << 3 & NOT_FIRST_Y) | (piece >> 3 & NOT_LAST_Y);
        piece |= piece << 9 | piece >> 9;
        piece &= bits;
    }
    return bits && piece == bits;
}

// Whether what is empty around the centre, and touches a face of it, is one piece, by faces.
DEVICE bool one_gap(Bits bits) {
    Bits empty = ~bits & FACES_AND_EDGES, faces = empty & FACES;
    Bits piece = faces & (0u - faces);
    for (Bits before = 0; piece != before;) {
        before = piece;
        piece |= (piece << 1 & NOT_FIRST_X) | (piece >> 1 & NOT_LAST_X)
               | (piece << 3 & NOT_FIRST_Y) | (piece >> 3 & NOT_LAST_Y) | piece << 9 | piece >> 9;
        piece &= empty;
    }
    return faces && !(faces & ~piece);
}

// Whether the topology stays as it is when the centre goes: it is a simple point.
DEVICE bool simple(Bits bits) { return one_piece(bits) && one_gap(bits); }

DEVICE bool end_of_line(Bits bits) { return !(bits & (bits - 1)); }

// Find what may go from one of the borders: `border` leads from a voxel to where it has to be empty.
KERNEL mark(Voxel *volume, const long long *voxels, long long border, long long line,
            long long plane, long long count) {
    EACH(i, count) {
        long long v = voxels[i];
        if (!volume[v] || volume[v + border] & THERE) continue;
        Bits bits = neighbourhood(volume, v, line, plane);
        if (!end_of_line(bits) && simple(bits)) volume[v] = THERE | CANDIDATE;
    }
}

// Take the candidates away that may go still. No two of the voxels are neighbours.
KERNEL peel(Voxel *volume, const long long *voxels, int *removed, long long line, long long plane,
            long long count) {
    EACH(i, count) {
        long long v = voxels[i];
        if (!(volume[v] & CANDIDATE)) continue;
        bool goes = simple(neighbourhood(volume, v, line, plane));
        volume[v] = goes ? 0 : THERE;
        if (goes) *removed = 1;
    }
}

// ---------------------------------------------------------------------------------------------
// Distances, one axis after the other. On each axis a voxel looks both ways along its line, until
// the way alone is longer than what it has found. `stride` leads from a voxel to the next one,
// `area` is the squared distance between the two.

// The squared distance to the nearest voxel of another label: to a point `shift` before its centre.
KERNEL sweep(const int *labels, const float *before, float *squares, long long stride,
             long long length, float area, float shift, long long count) {
    EACH(i, count) {
        long long x = i / stride % length;
        float least = before[i];
        for (int side = -1; side <= 1; side += 2) {
            long long reach = side < 0 ? x : length - 1 - x;
            for (long long r = 1; r <= reach; ++r) {
                float way = r - shift, square = area * way * way;
                if (square >= least) break;
                long long k = i + side * r * stride;
                bool other = labels[k] != labels[i];
                float found = other ? square : before[k] + square;
                if (found < least) least = found;
                if (other) break; // nothing beyond is nearer
            }
        }
        squares[i] = least;
    }
}

// The nearest label, from centre to centre; the lowest of those that are equally near.
KERNEL spread(const int *labels, const float *before, int *nearest, float *squares,
              long long stride, long long length, float area, long long count) {
    EACH(i, count) {
        long long x = i / stride % length;
        float least = before[i];
        int label = labels[i];
        for (int side = -1; side <= 1; side += 2) {
            long long reach = side < 0 ? x : length - 1 - x;
            for (long long r = 1; r <= reach; ++r) {
                float way = r, square = area * way * way;
                if (square > least) break;
                long long k = i + side * r * stride;
                float found = before[k] + square;
                if (found < least || (found == least && labels[k] < label)) {
                    least = found;
                    label = labels[k];
                }
            }
        }
        nearest[i] = label;
        squares[i] = least;
    }
}

struct Two {
    float near, far;
    int near_label, far_label;
};

DEVICE void offer(Two *two, float square, int label) {
    if (label == two->near_label) {
        if (square < two->near) two->near = square;
    } else if (square < two->near) {
        two->far = two->near, two->far_label = two->near_label;
        two->near = square, two->near_label = label;
    } else if (square < two->far) {
        two->far = square, two->far_label = label;
    }
}

// The squared distances to the nearest two labels: to the nearest point of a voxel of each, no
// further than `limit`. What is not found is infinite, and its label 0.
KERNEL spread_two(const float *near, const int *near_labels, const float *far,
                  const int *far_labels, float *new_near, int *new_near_labels, float *new_far,
                  int *new_far_labels, long long stride, long long length, float area,
                  float limit, float infinite, long long count) {
    EACH(i, count) {
        long long x = i / stride % length;
        Two two = {near[i], far[i], near_labels[i], far_labels[i]};
        for (int side = -1; side <= 1; side += 2) {
            long long reach = side < 0 ? x : length - 1 - x;
            for (long long r = 1; r <= reach; ++r) {
                float way = r - 0.5f, square = area * way * way;
                if (square > limit || square >= two.far) break;
                long long k = i + side * r * stride;
                if (near_labels[k]) offer(&two, near[k] + square, near_labels[k]);
                if (far_labels[k]) offer(&two, far[k] + square, far_labels[k]);
            }
        }
        bool has_near = two.near <= limit, has_far = two.far <= limit;
        new_near[i] = has_near ? two.near : infinite;
        new_near_labels[i] = has_near ? two.near_label : 0;
        new_far[i] = has_far ? two.far : infinite;
        new_far_labels[i] = has_far ? two.far_label : 0;
    }
}

// ---------------------------------------------------------------------------------------------
// Connected components. Each voxel has a parent with the same id and no higher index; what has
// itself is a root, the first voxel of its piece.

DEVICE int root(const int *parents, int v) {
    while (parents[v] != v) v = parents[v];
    return v;
}

DEVICE void unite(int *parents, int a, int b) {
    while (true) {
        a = root(parents, a), b = root(parents, b);
        if (a == b) return;
        if (a < b) {
            int lower = a;
            a = b, b = lower;
        }
        int parent = atomicMin(parents + a, b);
        if (parent == a) return;
        a = parent; // another thread was faster: its parent and ours are one piece
    }
}

// Unite each voxel with those neighbours that come before it, if they have its id; neighbours along
// at most `connectivity` axes at once.
KERNEL connect(const int *ids, int *parents, long long height, long long width,
               long long connectivity, long long count) {
    EACH(i, count) {
        if (!ids[i]) continue;
        long long x = i % width, y = i / width % height, z = i / width / height;
        for (int step = 0; step < 13; ++step) {
            int dz = step / 9 - 1, dy = step / 3 % 3 - 1, dx = step % 3 - 1;
            if (dz * dz + dy * dy + dx * dx > connectivity) continue;
            bool inside = z + dz >= 0 && y + dy >= 0 && y + dy < height // z + dz is never too high
                       && x + dx >= 0 && x + dx < width;
            long long k = i + (dz * height + dy) * width + dx;
            if (inside && ids[k] == ids[i]) unite(parents, i, k);
        }
    }
}

// Let each voxel know its root.
KERNEL find_roots(int *parents, long long count) {
    EACH(i, count) parents[i] = root(parents, i);
}
