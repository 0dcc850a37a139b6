"""Which label is nearest, for every voxel at once; and how far the nearest two are.

The squared distance to a labelled voxel is a sum over the axes, so the least one is found along one
axis after the other, as in Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions"
(Theory of Computing 8, 2012). On a line of voxels, each that knows of a label at squared distance g
is a parabola g + s² (x - k)², and the lower envelope of all parabolas is walked along. Here each
carries its label. Where several are lowest the lowest label wins; "nearest, then lowest label" is an
order, so the answer does not depend on that of the axes.

To know the nearest two labels of every voxel it is enough that the voxels of each line know theirs:
what comes third on its way to x comes third at x, too. So after the envelope that finds the nearest
label of each voxel, another is made for each run of voxels that found the same, without that label.
"""

import numpy as np

from segloss.compiled import compiled

__all__ = ["nearest_two", "spread_labels"]

_TILE = 16  # neighbouring lines are copied together: the volume is read in order of its memory


@compiled
def envelope(
    heights: np.ndarray,
    labels: np.ndarray,
    shift: float,
    area: float,
    first: int,
    last: int,
    begin: int,
    end: int,
    least: np.ndarray,
    found: np.ndarray,
) -> None:
    """The lowest of some parabolas: heights[k] + area (x - k - shift)², `first` <= k < `last`.

    Args:
        heights: Where each has its lowest point; infinite if there is none.
        labels: What each is called.
        shift: How far to the right of its index it stands.
        area: Squared distance between two voxels.
        first: The first parabola that counts,
        last: and the one after the last.
        begin: The first voxel x that asks,
        end: and the one after the last.
        least: For each x how high the lowest parabola is; written.
        found: And its label: the lowest of those that are lowest. Written.
    """
    apex = np.empty(last - first, np.int64)
    since = np.empty(last - first)
    count = 0
    for k in range(first, last):
        if heights[k] == np.inf:
            continue
        start = -np.inf
        while count:
            there = apex[count - 1]
            rise = (heights[k] - heights[there]) / area
            start = 0.5 * (k + there + rise / (k - there)) + shift
            if start >= since[count - 1]:  # if equal, it is lowest there beside others
                break
            count -= 1
            start = -np.inf
        apex[count] = k
        since[count] = start
        count += 1

    lowest = 0
    for x in range(begin, end):
        least[x] = np.inf
        found[x] = 0
        if count == 0:
            continue
        while lowest + 1 < count and since[lowest + 1] < x:
            lowest += 1
        k = apex[lowest]
        least[x] = heights[k] + area * (x - k - shift) ** 2
        found[x] = labels[k]
        for other in range(lowest + 1, count):
            k = apex[other]
            if heights[k] + area * (x - k - shift) ** 2 > least[x]:
                break
            found[x] = min(found[x], labels[k])


@compiled
def spread(labels: np.ndarray, squares: np.ndarray, area: float) -> None:
    """Let labels spread along the middle axis of a volume.

    Args:
        labels: The nearest label that each voxel knows of; replaced.
        squares: How far away that is, squared; infinite where none is known. Replaced.
        area: Squared distance between two voxels.
    """
    planes, length, width = labels.shape
    old_labels, new_labels = np.empty((2, _TILE, length), labels.dtype)
    old_squares, new_squares = np.empty((2, _TILE, length))
    for plane in range(planes):
        for left in range(0, width, _TILE):
            lines = min(_TILE, width - left)
            for i in range(length):
                for j in range(lines):
                    old_labels[j, i] = labels[plane, i, left + j]
                    old_squares[j, i] = squares[plane, i, left + j]
            for j in range(lines):
                envelope(
                    old_squares[j], old_labels[j], 0.0, area, 0, length, 0, length,
                    new_squares[j], new_labels[j],
                )  # fmt: skip
            for i in range(length):
                for j in range(lines):
                    labels[plane, i, left + j] = new_labels[j, i]
                    squares[plane, i, left + j] = new_squares[j, i]


def spread_labels(labels: np.ndarray, spacing: tuple[float, ...]) -> None:
    """Replace every 0 by the label that is nearest, from centre to centre.

    Args:
        labels: Labels of two or three axes, changed in place; C-contiguous.
        spacing: Size of a voxel along each axis.
    """
    squares = np.where(labels > 0, np.float32(0), np.float32(np.inf))
    # In units of the smallest spacing, and beginning there, squares are whole numbers for as long
    # as possible, and two that are equal stay so.
    unit = min(spacing)
    for axis in sorted(range(labels.ndim), key=lambda axis: spacing[axis]):
        shape = _middle(labels.shape, axis)
        spread(labels.reshape(shape), squares.reshape(shape), (spacing[axis] / unit) ** 2)


@compiled
def two_on_line(
    near: np.ndarray,
    near_labels: np.ndarray,
    far: np.ndarray,
    far_labels: np.ndarray,
    area: float,
    limit: float,
) -> None:
    """Let the voxels of a line know of each other's nearest two labels.

    A voxel is a closed box, and what is measured is the way to the nearest point of it. So seen from
    its right, a voxel ends half a voxel after its centre, and seen from its left half a voxel
    before: all parabolas stand halfway between two voxels.

    Args:
        near: Squared distance to the nearest label, infinite where none is known; replaced.
        near_labels: Which label that is, 0 for none; replaced.
        far: The same for the second nearest; replaced.
        far_labels: Never that of `near_labels` unless both are 0; replaced.
        area: Squared distance between two voxels.
        limit: Squared distances above it become infinite.
    """
    length = near.size
    if near.min() == np.inf:
        return
    window = int(np.sqrt(limit / area)) + 1
    low, low_labels = np.empty(length), np.empty(length, near_labels.dtype)
    next_low, next_labels = np.empty(length), np.empty(length, near_labels.dtype)
    for k in range(length - 1):  # between a voxel and the next: the nearest two of both
        one, other = (k, k + 1) if near[k] <= near[k + 1] else (k + 1, k)
        low[k], low_labels[k] = near[one], near_labels[one]
        next_low[k], next_labels[k] = far[one], far_labels[one]
        if near_labels[other] != near_labels[one]:
            if near[other] < next_low[k]:
                next_low[k], next_labels[k] = near[other], near_labels[other]
        elif far[other] < next_low[k]:
            next_low[k], next_labels[k] = far[other], far_labels[other]

    least, found = np.empty(length), np.empty(length, near_labels.dtype)
    envelope(low, low_labels, 0.5, area, 0, length - 1, 0, length, least, found)
    for x in range(length):
        if near[x] <= least[x]:
            least[x], found[x] = near[x], near_labels[x]

    rest, rest_labels = np.empty(length), np.empty(length, near_labels.dtype)
    next_least, next_found = np.empty(length), np.empty(length, near_labels.dtype)
    begin = 0
    while begin < length:
        label = found[begin]
        end = begin + 1
        while end < length and found[end] == label:
            end += 1
        first, last = max(0, begin - window), min(length - 1, end + window)
        for k in range(first, last):
            if low_labels[k] != label:
                rest[k], rest_labels[k] = low[k], low_labels[k]
            else:
                rest[k], rest_labels[k] = next_low[k], next_labels[k]
        envelope(rest, rest_labels, 0.5, area, first, last, begin, end, next_least, next_found)
        for x in range(begin, end):
            own, own_label = near[x], near_labels[x]
            if own_label == label:
                own, own_label = far[x], far_labels[x]
            if own > next_least[x]:
                own, own_label = next_least[x], next_found[x]
            far[x], far_labels[x] = (own, own_label) if own <= limit else (np.inf, 0)
            near[x], near_labels[x] = (least[x], label) if least[x] <= limit else (np.inf, 0)
        begin = end


@compiled
def two_along(
    near: np.ndarray,
    near_labels: np.ndarray,
    far: np.ndarray,
    far_labels: np.ndarray,
    area: float,
    limit: float,
) -> None:
    """`two_on_line` along the middle axis of a volume."""
    planes, length, width = near.shape
    labels = np.empty((2, _TILE, length), near_labels.dtype)
    squares = np.empty((2, _TILE, length))
    for plane in range(planes):
        for left in range(0, width, _TILE):
            lines = min(_TILE, width - left)
            for i in range(length):
                for j in range(lines):
                    squares[0, j, i] = near[plane, i, left + j]
                    squares[1, j, i] = far[plane, i, left + j]
                    labels[0, j, i] = near_labels[plane, i, left + j]
                    labels[1, j, i] = far_labels[plane, i, left + j]
            for j in range(lines):
                two_on_line(squares[0, j], labels[0, j], squares[1, j], labels[1, j], area, limit)
            for i in range(length):
                for j in range(lines):
                    near[plane, i, left + j] = squares[0, j, i]
                    far[plane, i, left + j] = squares[1, j, i]
                    near_labels[plane, i, left + j] = labels[0, j, i]
                    far_labels[plane, i, left + j] = labels[1, j, i]


def nearest_two(
    labels: np.ndarray, spacing: tuple[float, ...], reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """The squared distances from every voxel's centre to the nearest two labels.

    Args:
        labels: Labels of two or three axes, 0 where there is none; C-contiguous. On return each
            voxel has the nearest one.
        spacing: Size of a voxel along each axis.
        reach: What is further away is left out.

    Returns:
        Two float32 arrays of the shape of `labels`: to the nearest point of the nearest label, 0 if
        the voxel has one itself, and to that of the second; infinite where there is none.
    """
    near = np.where(labels > 0, np.float32(0), np.float32(np.inf))
    far, far_labels = np.full_like(near, np.inf), np.zeros_like(labels)
    for axis in reversed(range(labels.ndim)):
        shape = _middle(labels.shape, axis)
        area = spacing[axis] ** 2
        two_along(
            *(array.reshape(shape) for array in (near, labels, far, far_labels)), area, reach**2
        )
    return near, far


def _middle(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """The shape in which that axis is the middle one of three: those around it are merged."""
    return int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))
