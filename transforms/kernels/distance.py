"""Exact Euclidean distance to the nearest voxel of another label, for every voxel at once.

A voxel is a closed box, and what is measured is the way from the centre of a voxel to the nearest
point of a box with another label: the boundary is where the faces are. In squares,

    d²(x) = min over y with another label of  Σᵢ sᵢ² max(|xᵢ - yᵢ| - ½, 0)²,

which can be minimised one axis after the other. On a line of voxels, take a run of equal labels and
the squares g that the axes before have found. Seen from x, a voxel y of the run ends half a voxel
before its centre, so it is a parabola over a *site* halfway to its neighbour:

    d²(x) = min( g(x),  min over the sites k + ½ of the run of  h(k) + s² (x - k - ½)² ),

with h(k) = min(g(k), g(k + 1)) between two voxels of the run, and h = 0 at an end where the run meets
another label, for then the box of that label begins there. Nothing beyond an end can be nearer than
the end. Where the image ends there is no site: what lies outside is not known.

So both sides of every boundary come out of one sweep per axis, each in linear time by the lower
envelope of parabolas of Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions"
(Theory of Computing 8, 2012).
"""

import numpy as np

from segloss.compiled import compiled

__all__ = ["squared_distance"]

_TILE = 16  # neighbouring lines are copied together: the volume is read in order of its memory


@compiled
def sweep_line(
    labels: np.ndarray,
    squares: np.ndarray,
    step: float,
    site: np.ndarray,
    height: np.ndarray,
    since: np.ndarray,
) -> None:
    """Let the squared distances of a line, one number per voxel, know of each other.

    Args:
        labels: The labels of the line.
        squares: Squared distances so far, infinite where none is known; replaced.
        step: Distance between two voxels.
        site: Room for the envelope, one entry more than there are voxels: where a parabola has its
            lowest point,
        height: how high that is,
        since: and from where on it is the lowest of all.
    """
    last = labels.size - 1
    area = step * step
    first = 0
    while first <= last:
        end = first
        while end < last and labels[end + 1] == labels[first]:
            end += 1

        parabolas = 0
        for k in range(first - 1, end + 1):
            if k < first:
                low = 0.0 if first > 0 else np.inf
            elif k == end:
                low = 0.0 if end < last else np.inf
            else:
                low = min(squares[k], squares[k + 1])
            if low == np.inf:
                continue
            here = k + 0.5
            start = -np.inf
            while parabolas:
                there = site[parabolas - 1]
                rise = (low - height[parabolas - 1]) / area
                start = 0.5 * (here + there + rise / (here - there))
                if start > since[parabolas - 1]:
                    break
                parabolas -= 1
                start = -np.inf
            site[parabolas] = here
            height[parabolas] = low
            since[parabolas] = start
            parabolas += 1

        if parabolas:
            lowest = 0
            for x in range(first, end + 1):
                while lowest + 1 < parabolas and since[lowest + 1] < x:
                    lowest += 1
                way = x - site[lowest]
                squares[x] = min(squares[x], height[lowest] + area * way * way)
        first = end + 1


@compiled
def sweep(labels: np.ndarray, squares: np.ndarray, step: float) -> None:
    """`sweep_line` along the middle axis of a volume."""
    planes, length, width = labels.shape
    tile_labels = np.empty((_TILE, length), labels.dtype)
    tile_squares = np.empty((_TILE, length))
    site, height, since = np.empty(length + 1), np.empty(length + 1), np.empty(length + 1)
    for plane in range(planes):
        for left in range(0, width, _TILE):
            lines = min(_TILE, width - left)
            for i in range(length):
                for j in range(lines):
                    tile_labels[j, i] = labels[plane, i, left + j]
                    tile_squares[j, i] = squares[plane, i, left + j]
            for j in range(lines):
                sweep_line(tile_labels[j], tile_squares[j], step, site, height, since)
            for i in range(length):
                for j in range(lines):
                    squares[plane, i, left + j] = tile_squares[j, i]


def squared_distance(labels: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The squared distance of every voxel's centre to the nearest voxel of another label.

    Args:
        labels: Labels of two or three axes, integers or bool; C-contiguous.
        spacing: Size of a voxel along each axis.

    Returns:
        float32, the shape of `labels`; infinite if there is one label only. Sums are float64.
    """
    # The kernel is compiled for these two dtypes alone.
    small = labels.itemsize == 1
    labels = labels.view(np.uint8) if small else labels.astype(np.int32, copy=False)
    squares = np.full(labels.shape, np.inf, dtype=np.float32)
    for axis in reversed(range(labels.ndim)):
        # Any axis is the middle one of three, once those before and after are merged.
        before, after = labels.shape[:axis], labels.shape[axis + 1 :]
        shape = (int(np.prod(before)), labels.shape[axis], int(np.prod(after)))
        sweep(labels.reshape(shape), squares.reshape(shape), spacing[axis])
    return squares
