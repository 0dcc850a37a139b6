"""Thinning of volumes, by queueing the border instead of scanning for it.

The result is that of Lee, Kashyap and Chu, "Building skeleton models via 3-D medial surface/axis
thinning algorithms" (CVGIP: Graphical Models and Image Processing 56, 1994), in the order in which
scikit-image visits voxels, so the two agree bit for bit. Six borders are peeled in turn. In a border,
the voxels that may go are found first, and then removed one by one in raster order, each if its
neighbourhood is still connected. Scikit-image looks at the whole volume each time; here a queue
holds the voxels whose neighbourhood has changed since they were last tested.

A neighbourhood of 3 × 3 × 3 voxels is an integer of 27 bits: bit 9 z + 3 y + x, the centre (13) empty.
"""

from itertools import combinations

import numpy as np

from segloss.compiled import compiled

__all__ = ["thin"]

_BITS = np.arange(27)
_EVERY = (1 << 27) - 1


def _where(keep: np.ndarray) -> int:
    return int(sum(1 << int(bit) for bit in _BITS[keep]))


# A step of one voxel is a shift of the bits, once those that would run into the next line are off.
_NOT_FIRST_X, _NOT_LAST_X = _where(_BITS % 3 > 0), _where(_BITS % 3 < 2)
_NOT_FIRST_Y, _NOT_LAST_Y = _where(_BITS // 3 % 3 > 0), _where(_BITS // 3 % 3 < 2)


def _euler_changes() -> np.ndarray:
    """What a voxel adds to eight times the Euler number, by octant of its neighbourhood.

    The Euler number of a union of closed unit cubes is corners - edges + faces - cubes. Summed over
    blocks of 2 × 2 × 2 voxels, each block counts the corner at its middle once, an edge that ends
    there half, a face a quarter and a cube an eighth. Entry ``[octant, block]`` compares the block,
    one bit for each voxel, with and without the voxel that is the centre of the neighbourhood.
    """
    blocks = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(bool).reshape(-1, 2, 2, 2)
    octuple = np.zeros(256, dtype=np.int64)
    for merged in (axes for count in range(4) for axes in combinations((1, 2, 3), count)):
        parts = blocks.any(axis=merged)  # a corner, edge or face is there if a voxel touches it
        octuple -= (-2) ** len(merged) * parts.reshape(256, -1).sum(axis=1)
    block = np.arange(256)
    return np.stack([octuple[block | 128 >> o] - octuple[block] for o in range(8)]).astype(np.int8)


_EULER_CHANGES = _euler_changes()


@compiled
def neighbourhood(volume: np.ndarray, v: int, line: int, plane: int) -> int:
    """The 26 neighbours of a voxel, as bits."""
    bits = 0
    for z in range(3):
        for y in range(3):
            u = v + (z - 1) * plane + (y - 1) * line
            three = volume[u - 1] | volume[u] << 1 | volume[u + 1] << 2
            bits |= three << (9 * z + 3 * y)
    return bits & ~(1 << 13)


@compiled
def connected(bits: int) -> bool:
    """Whether the neighbours are one piece, or none, without the centre."""
    piece = bits & -bits
    while True:
        grown = piece | (piece << 1 & _NOT_FIRST_X) | (piece >> 1 & _NOT_LAST_X)
        grown |= (grown << 3 & _NOT_FIRST_Y) | (grown >> 3 & _NOT_LAST_Y)
        grown |= grown << 9 | grown >> 9
        grown &= bits
        if grown == piece:
            return piece == bits
        piece = grown


@compiled
def removable(bits: int) -> bool:
    """Whether the centre is neither the end of a line nor needed by the topology."""
    if bits & (bits - 1) == 0 and bits:
        return False
    change = 0
    for octant in range(8):
        corner = bits >> (octant // 4 * 9 + octant // 2 % 2 * 3 + octant % 2)
        block = corner & 3 | corner >> 1 & 12 | corner >> 5 & 48 | corner >> 6 & 192
        change += _EULER_CHANGES[octant, block]
    return change == 0 and connected(bits)


@compiled
def thin(volume: np.ndarray, line: int, plane: int, flat: bool, queue: np.ndarray) -> None:
    """Thin a volume in place.

    Args:
        volume: 0 or 1, uint8, raveled; 0 on all six sides.
        line: Voxels from a voxel to the next one along y.
        plane: Voxels from a voxel to the next one along z.
        flat: Peel the four borders within a plane only.
        queue: An entry for each voxel that is 1, in raster order: their indices, overwritten.
    """
    queued = np.zeros(volume.size, dtype=np.uint8)
    candidates = np.empty_like(queue)
    borders = np.array([-line, line, 1, -1, plane, -plane])[: 4 if flat else 6]

    length = 0
    for v in queue:
        for border in borders:
            if not volume[v + border]:
                queue[length] = v
                length += 1
                queued[v] = 1
                break

    idle = 0
    while idle < borders.size:
        idle = 0
        for border in borders:
            found = waiting = 0
            for i in range(length):
                v = queue[i]
                if not volume[v]:
                    continue
                if not volume[v + border]:
                    if not removable(neighbourhood(volume, v, line, plane)):
                        queued[v] = 0  # until a neighbour goes, the answer stays the same
                        continue
                    candidates[found] = v
                    found += 1
                queue[waiting] = v
                waiting += 1
            length = waiting

            removed = 0
            candidates[:found].sort()
            for i in range(found):
                v = candidates[i]
                if connected(neighbourhood(volume, v, line, plane)):
                    volume[v] = 0
                    candidates[removed] = v
                    removed += 1

            for i in range(removed):
                for z in (-plane, 0, plane):
                    for y in (-line, 0, line):
                        for x in (-1, 0, 1):
                            u = candidates[i] + z + y + x
                            if volume[u] and not queued[u]:
                                queued[u] = 1
                                queue[length] = u
                                length += 1
            idle += removed == 0
