"""Give every voxel the label of the nearest labelled one.

The squared distance from x to a labelled voxel y is a sum over the axes, so the least one is found
along one axis after the other, as in Felzenszwalb and Huttenlocher, "Distance transforms of sampled
functions" (Theory of Computing 8, 2012): on a line of voxels, each that knows of a label at squared
distance g is a parabola g + s² (x - k)², and the lower envelope of all parabolas is walked along. Each
parabola carries its label; where several are lowest, the lowest label wins, and because "nearest, then
lowest label" is an order, the answer does not depend on that of the axes.
"""

import numpy as np

from segloss.transforms.kernels.compile import compiled

__all__ = ["spread_labels"]

_TILE = 16  # neighbouring lines are copied together: the volume is read in order of its memory


@compiled
def spread_line(
    labels: np.ndarray,
    squares: np.ndarray,
    area: float,
    site: np.ndarray,
    height: np.ndarray,
    name: np.ndarray,
    since: np.ndarray,
) -> None:
    """Let the labels of a line spread along it.

    Args:
        labels: The nearest label that each voxel knows of; replaced.
        squares: How far away that is, squared; infinite where none is known. Replaced.
        area: Squared distance between two voxels.
        site: Room for the envelope, an entry for each voxel: where a parabola has its lowest point,
        height: how high that is,
        name: its label,
        since: and from where on it is the lowest of all.
    """
    parabolas = 0
    for k in range(labels.size):
        low = squares[k]
        if low == np.inf:
            continue
        start = -np.inf
        while parabolas:
            there = site[parabolas - 1]
            rise = (low - height[parabolas - 1]) / area
            start = 0.5 * (k + there + rise / (k - there))
            if start >= since[parabolas - 1]:  # if equal, it is lowest there beside others
                break
            parabolas -= 1
            start = -np.inf
        site[parabolas] = k
        height[parabolas] = low
        name[parabolas] = labels[k]
        since[parabolas] = start
        parabolas += 1

    lowest = 0
    for x in range(labels.size if parabolas else 0):
        while lowest + 1 < parabolas and since[lowest + 1] < x:
            lowest += 1
        least = height[lowest] + area * (x - site[lowest]) ** 2
        label = name[lowest]
        other = lowest + 1
        while other < parabolas and height[other] + area * (x - site[other]) ** 2 <= least:
            label = min(label, name[other])
            other += 1
        labels[x] = label
        squares[x] = least


@compiled
def spread(labels: np.ndarray, squares: np.ndarray, area: float) -> None:
    """`spread_line` along the middle axis of a volume."""
    planes, length, width = labels.shape
    tile_labels = np.empty((_TILE, length), labels.dtype)
    tile_squares = np.empty((_TILE, length))
    site, height, since = np.empty(length), np.empty(length), np.empty(length)
    name = np.empty(length, labels.dtype)
    for plane in range(planes):
        for left in range(0, width, _TILE):
            lines = min(_TILE, width - left)
            for i in range(length):
                for j in range(lines):
                    tile_labels[j, i] = labels[plane, i, left + j]
                    tile_squares[j, i] = squares[plane, i, left + j]
            for j in range(lines):
                spread_line(tile_labels[j], tile_squares[j], area, site, height, name, since)
            for i in range(length):
                for j in range(lines):
                    labels[plane, i, left + j] = tile_labels[j, i]
                    squares[plane, i, left + j] = tile_squares[j, i]


def spread_labels(labels: np.ndarray, spacing: tuple[float, ...]) -> None:
    """Replace every 0 by the label that is nearest, from centre to centre.

    Args:
        labels: Labels of two or three axes, changed in place; C-contiguous, not 0 throughout.
        spacing: Size of a voxel along each axis.
    """
    squares = np.where(labels > 0, np.float32(0), np.float32(np.inf))
    # In units of the smallest spacing, and beginning there, squares are whole numbers for as long
    # as possible, and two that are equal stay so.
    unit = min(spacing)
    for axis in sorted(range(labels.ndim), key=lambda axis: spacing[axis]):
        # Any axis is the middle one of three, once those before and after are merged.
        before, after = labels.shape[:axis], labels.shape[axis + 1 :]
        shape = (int(np.prod(before)), labels.shape[axis], int(np.prod(after)))
        spread(labels.reshape(shape), squares.reshape(shape), (spacing[axis] / unit) ** 2)
