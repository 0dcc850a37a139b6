"""What the other kernels do, on a GPU: for arrays of CuPy.

The distances and the components are the same as on the CPU: the definitions are in `distance`,
`nearest` and `segloss.transforms.components`. Thinning visits voxels in another order. A border's
candidates are found as in `thinning`, but then not one voxel after the other is tested again:
voxels whose coordinates are odd or even alike, an eighth of them, are never neighbours, so all of
these can go at once and the topology stays. This is how Bertrand and Aktouf, "Three-dimensional
thinning algorithm using subfields" (Vision Geometry III, 1994), divide space.
"""

from functools import cache
from importlib import import_module
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from segloss.transforms.arrays import Array, namespace

__all__ = ["nearest_two", "numbered", "spread_labels", "squared_distance", "thinned"]

_THREADS = 256


@cache
def _module() -> Any:
    source = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
    return import_module("cupy").RawModule(code=source, options=("--std=c++14",))


@cache
def _kernel(name: str) -> Any:
    return _module().get_function(name)


def _launch(name: str, count: int, *arguments: Any) -> None:
    """Run a kernel, whose last argument is how many things there are to do."""
    if count:
        blocks = min(-(-count // _THREADS), 2**20)
        _kernel(name)((blocks,), (_THREADS,), (*arguments, np.int64(count)))


def thinned(masks: Array) -> Array:
    """The centrelines of several masks at once, each as if it were alone.

    Args:
        masks: ``(N, D, H, W)`` bool. If D is 1, the borders within the plane are peeled only.

    Returns:
        The same, thinned.
    """
    xp = namespace(masks)
    volume = xp.pad(masks.view(np.uint8), [(0, 0), (1, 1), (1, 1), (1, 1)])
    depth, height, width = volume.shape[1:]
    line, plane = np.int64(width), np.int64(height * width)
    borders = [-line, line, np.int64(1), np.int64(-1), plane, -plane][: 4 if depth == 3 else 6]

    voxels = xp.flatnonzero(volume)
    parity = voxels // plane % depth % 2 * 4 + voxels // line % height % 2 * 2 + voxels % width % 2
    parity = parity.astype(np.uint8)
    voxels = voxels[xp.argsort(parity)]
    ends = xp.cumsum(xp.bincount(parity, minlength=8)).tolist()
    subfields = [voxels[start:end] for start, end in pairwise([0, *ends])]

    removed = xp.ones(1, np.int32)
    while removed[0]:
        removed.fill(0)
        for border in borders:
            _launch("mark", voxels.size, volume, voxels, border, line, plane)
            for subfield in subfields:
                _launch("peel", subfield.size, volume, subfield, removed, line, plane)
    found: Array = volume[:, 1:-1, 1:-1, 1:-1] != 0
    return found


def squared_distance(labels: Array, spacing: tuple[float, ...], shift: float = 0.5) -> Array:
    """The squared distance of every voxel's centre to the nearest voxel of another label.

    Args:
        labels: Labels of two or three axes, integers or bool.
        spacing: Size of a voxel along each axis.
        shift: What is nearest of a voxel: the face before it, or with 0 its centre.

    Returns:
        float32, the shape of `labels`; infinite if there is one label only. Sums are float32.
    """
    labels = labels.astype(np.int32, copy=False)
    before: Array = namespace(labels).full(labels.shape, np.inf, np.float32)
    after = np.empty_like(before)
    for stride, length, size in _axes(labels.shape, spacing):
        area = np.float32(size**2)
        _launch(
            "sweep", labels.size, labels, before, after, stride, length, area, np.float32(shift)
        )
        before, after = after, before
    return before


def spread_labels(labels: Array, spacing: tuple[float, ...]) -> None:
    """Replace every 0 by the label that is nearest, from centre to centre; in place."""
    xp = namespace(labels)
    old = labels.astype(np.int32)
    before = _zero_on(old)
    new, after = xp.empty_like(old), xp.empty_like(before)
    unit = min(spacing)  # and beginning there, for the reason that `nearest` has
    for stride, length, size in sorted(_axes(labels.shape, spacing), key=lambda axis: axis[2]):
        area = np.float32((size / unit) ** 2)
        _launch("spread", labels.size, old, before, new, after, stride, length, area)
        old, before, new, after = new, after, old, before
    labels[...] = old


def nearest_two(labels: Array, spacing: tuple[float, ...], reach: float) -> tuple[Array, Array]:
    """The squared distances from every voxel's centre to the nearest two labels within reach."""
    xp = namespace(labels)
    near_labels = labels.astype(np.int32)
    near = _zero_on(near_labels)
    old = near, near_labels, xp.full_like(near, np.inf), xp.zeros_like(near_labels)
    new = tuple(xp.empty_like(array) for array in old)
    limit, infinite = np.float32(reach**2), np.float32(np.inf)
    for stride, length, size in _axes(labels.shape, spacing):
        area = np.float32(size**2)
        _launch("spread_two", labels.size, *old, *new, stride, length, area, limit, infinite)
        old, new = new, old
    return old[0], old[2]


def numbered(ids: Array, connectivity: int) -> Array:
    """The connected components of class ids, numbered from 1 in the order of their first voxels.

    Raises:
        ValueError: If there are 2³¹ voxels or more.
    """
    if ids.size >= 2**31:
        raise ValueError(
            f"labels has {ids.size} voxels: on a GPU components are found among fewer than 2³¹. "
            f"Pass the labels in NumPy."
        )
    xp = namespace(ids)
    ids = ids.astype(np.int32, copy=False)
    itself = xp.arange(ids.size, dtype=np.int32)
    roots = itself.copy()
    height, width = (np.int64(size) for size in ids.shape[-2:])
    _launch("connect", ids.size, ids, roots, height, width, np.int64(connectivity))
    _launch("find_roots", ids.size, roots)
    inside = ids.ravel() > 0
    numbers = xp.cumsum((roots == itself) & inside, dtype=np.int32)
    found: Array = xp.where(inside, numbers[roots], 0).reshape(ids.shape)
    return found


def _zero_on(labels: Array) -> Array:
    """Squared distances to labels before any axis is looked along: infinite elsewhere."""
    squares: Array = namespace(labels).full(labels.shape, np.inf, np.float32)
    squares[labels > 0] = 0
    return squares


def _axes(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> list[tuple[np.int64, np.int64, float]]:
    """For each axis, beginning with the last, its stride, its length, and the size of a voxel."""
    return [
        (np.int64(prod(shape[axis + 1 :])), np.int64(shape[axis]), spacing[axis])
        for axis in reversed(range(len(shape)))
    ]
