"""The middle of thin structures: centrelines, and tubes around them.

Array functions; `segloss.transforms.functional` is where they are imported from.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from skimage.morphology import skeletonize

from segloss.transforms.arrays import (
    Box,
    LabelMap,
    Mask,
    Unchecked,
    boolean,
    bounding_box,
    class_boxes,
    class_ids,
    on_gpu,
    whole,
)
from segloss.transforms.kernels import gpu
from segloss.transforms.kernels.thinning import thin

__all__ = ["centreline", "centrelines", "skeleton", "tube", "tubed_skeleton"]


def skeleton(mask: Unchecked) -> Mask:
    """The centreline of a mask, one voxel thick, with the pieces and holes of the mask.

    In two dimensions this is the algorithm of Zhang and Suen ("A fast parallel algorithm for
    thinning digital patterns", Communications of the ACM 27, 1984) in scikit-image's version. In
    three it is that of Lee, Kashyap and Chu (CVGIP 56, 1994), computed here, several times faster
    than scikit-image's version and bit-identical to it. On a GPU it is Lee's in both cases, and
    voxels are visited in another order, so that the centreline may run beside the CPU's.

    Args:
        mask: ``(H, W)`` or ``(D, H, W)`` bool.

    Returns:
        bool, the shape of `mask`; True on the centreline.

    Raises:
        TypeError: If `mask` is not bool.
        ValueError: If it has neither two nor three axes.

    Example:
        >>> import numpy as np
        >>> skeleton(np.ones((3, 8), dtype=bool)).astype(int)
        array([[0, 0, 0, 0, 0, 0, 1, 0],
               [1, 1, 1, 1, 1, 1, 0, 0],
               [0, 0, 0, 0, 0, 0, 0, 0]])
    """
    mask = boolean("mask", mask)
    if on_gpu(mask):
        return _thinned_at_once([mask])[0]
    centreline = np.zeros_like(mask)
    box = bounding_box(mask)
    centreline[box] = _thinned(mask[box], flat=len(mask) == 1)
    return centreline


def centreline(labels: LabelMap, *, per_class: bool = False, ignore: int | None = None) -> LabelMap:
    """The labels on the centreline, 0 elsewhere: `tubed_skeleton` of radius 0.

    Args:
        labels: ``(H, W)`` or ``(D, H, W)`` class ids, 0 where there is nothing; integers, or floats
            that hold integers.
        per_class: Thin each class by itself, rather than all classes as one; see `tubed_skeleton`.
        ignore: The label of unknown voxels. They belong to no class, hence to no centreline.

    Returns:
        The shape and dtype of `labels`: the class id on the centreline, 0 elsewhere.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If a label is negative, or there are neither two nor three axes.

    Example:
        >>> import numpy as np
        >>> vessel = np.ones((3, 8), dtype=np.uint8)
        >>> vessel[:, 4:] = 2
        >>> centreline(vessel)
        array([[0, 0, 0, 0, 0, 0, 2, 0],
               [1, 1, 1, 1, 2, 2, 0, 0],
               [0, 0, 0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    return centrelines([labels], per_class=per_class, ignore=ignore)[0]


def centrelines(
    several: Sequence[LabelMap], *, per_class: bool = False, ignore: int | None = None
) -> list[LabelMap]:
    """`centreline` of several label maps of one shape: on a GPU, all are thinned at once."""
    each_ids = [class_ids(labels, ignore)[0] for labels in several]
    dtypes = [labels.dtype for labels in several]
    return _centrelines(each_ids, per_class, dtypes)


def tube(
    centreline: Unchecked,
    labels: LabelMap,
    *,
    radius: int,
    per_class: bool = False,
    ignore: int | None = None,
) -> LabelMap:
    """The labels within `radius` steps of a centreline that is there already.

    ``tube(centreline(labels), labels, radius=2)`` is ``tubed_skeleton(labels)``; thinning is nearly
    all of its cost, and this way it is paid once for several radii, or for other uses of the
    centreline.

    Args:
        centreline: What `centreline` made of these labels, with the same `per_class` and `ignore`.
        labels: ``(H, W)`` or ``(D, H, W)`` class ids, 0 where there is nothing; integers, or floats
            that hold integers.
        radius: Steps from voxel to voxel through faces that lead from the centreline to the surface
            of the tube.
        per_class: A class's tube is around its own centreline only.
        ignore: The label of unknown voxels. They belong to no class, hence to no tube.

    Returns:
        The shape and dtype of `labels`: the class id on the tube, which never leaves the class; 0
        elsewhere.

    Raises:
        TypeError: If labels or the centreline are not integers, or `radius` is not.
        ValueError: If the centreline has another shape than the labels, or holds another class
            where it runs; if `radius` or a label is negative, or there are neither two nor three
            axes.

    Example:
        >>> import numpy as np
        >>> vessel = np.ones((5, 8), dtype=np.uint8)
        >>> tube(centreline(vessel), vessel, radius=1)
        array([[0, 0, 0, 0, 0, 1, 1, 0],
               [0, 0, 1, 1, 1, 1, 1, 1],
               [0, 1, 1, 1, 1, 1, 1, 0],
               [0, 0, 1, 1, 1, 0, 0, 0],
               [0, 0, 0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    radius = whole("radius", radius, least=0)
    ids, _ = class_ids(labels, ignore)
    if centreline.shape != labels.shape:
        raise ValueError(
            f"centreline has shape {centreline.shape}, but labels have {labels.shape}."
        )
    line, _ = class_ids(centreline)
    on_line = line != 0
    astray = line[on_line] != ids[on_line]
    if astray.any():
        raise ValueError(
            f"centreline holds {line[on_line][astray][0]} where labels hold "
            f"{ids[on_line][astray][0]}: pass what `centreline` makes of these labels, with the "
            f"same `ignore`."
        )
    around = line.astype(labels.dtype)
    _widen(around, ids, radius, per_class)
    return around


def tubed_skeleton(
    labels: LabelMap, *, radius: int = 2, per_class: bool = False, ignore: int | None = None
) -> LabelMap:
    """The labels within `radius` steps of the centreline: a tube, as skeleton recall wants it.

    Kirchhoff et al., "Skeleton recall loss for connectivity conserving and resource efficient
    segmentation of thin tubular structures" (ECCV 2024). With the default arguments the result is
    bit-identical to the published one, except on a GPU: see `skeleton`.

    Args:
        labels: ``(H, W)`` or ``(D, H, W)`` class ids, 0 where there is nothing; integers, or floats
            that hold integers.
        radius: Steps from voxel to voxel through faces that lead from the centreline to the surface
            of the tube. 0 keeps the bare centreline.
        per_class: Thin each class by itself. Otherwise all classes are thinned as one, and what is
            left is labelled: a vessel that changes class half-way gets no two ends there, but two
            classes that lie side by side share one centreline.
        ignore: The label of unknown voxels. They belong to no class, hence to no tube.

    Returns:
        The shape and dtype of `labels`: the class id on the tube, which never leaves the class; 0
        elsewhere.

    Raises:
        TypeError: If labels are not integers, or `radius` is not.
        ValueError: If `radius` or a label is negative, or there are neither two nor three axes.

    Example:
        >>> import numpy as np
        >>> vessel = np.ones((5, 8), dtype=np.uint8)
        >>> vessel[:, 4:] = 2
        >>> tubed_skeleton(vessel, radius=1)
        array([[0, 0, 0, 0, 0, 2, 2, 0],
               [0, 0, 1, 1, 2, 2, 2, 2],
               [0, 1, 1, 1, 2, 2, 2, 0],
               [0, 0, 1, 1, 2, 0, 0, 0],
               [0, 0, 0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    radius = whole("radius", radius, least=0)
    ids, _ = class_ids(labels, ignore)
    (around,) = _centrelines([ids], per_class, [labels.dtype])
    _widen(around, ids, radius, per_class)
    return around


def _parts(ids: LabelMap, per_class: bool) -> Iterator[tuple[Mask, Box]]:
    """What is thinned by itself, cut out of the image, and where it was: each class, or all."""
    if not per_class:
        box = bounding_box(ids > 0)
        yield ids[box] > 0, box
        return
    for class_id, box in class_boxes(ids):
        yield ids[box] == class_id, box


def _centrelines(
    several: Sequence[LabelMap], per_class: bool, dtypes: Sequence["np.dtype[Any]"]
) -> list[LabelMap]:
    lines = [np.zeros_like(ids, dtype=dtype) for ids, dtype in zip(several, dtypes, strict=True)]
    parts = (
        (line[box], ids[box], inside)
        for line, ids in zip(lines, several, strict=True)
        for inside, box in _parts(ids, per_class)
    )
    if on_gpu(lines[0]):
        together = list(parts)
        thinned = _thinned_at_once([inside for _, _, inside in together])
        for (line, ids, _), on_line in zip(together, thinned, strict=True):
            np.copyto(line, ids, where=on_line, casting="unsafe")
    else:  # one after the other, so that only one is in memory
        for line, ids, inside in parts:
            on_line = _thinned(inside, flat=len(lines[0]) == 1)
            np.copyto(line, ids, where=on_line, casting="unsafe")
    return lines


def _widen(line: LabelMap, ids: LabelMap, radius: int, per_class: bool) -> None:
    """Make a centreline a tube, in place."""
    for inside, box in _parts(ids, per_class):
        near = (line[box] != 0) & inside
        for _ in range(radius):
            near = _step_wider(near)
        np.copyto(line[box], ids[box], where=near & inside, casting="unsafe")


def _thinned(mask: Mask, *, flat: bool) -> Mask:
    """`skeleton` of a mask that has been cut out of an image, `flat` if of a single plane."""
    if not mask.size:
        return mask
    if mask.ndim == 2:
        return np.asarray(skeletonize(mask), dtype=bool)
    volume = np.pad(mask, 1)
    voxels = volume.ravel().view(np.uint8)
    queue = np.flatnonzero(voxels).astype(np.int32 if voxels.size < 2**31 else np.int64)
    thin(voxels, volume.shape[2], volume.shape[1] * volume.shape[2], flat, queue)
    return volume[1:-1, 1:-1, 1:-1]


def _thinned_at_once(masks: list[Mask]) -> list[Mask]:
    """`skeleton` of masks on a GPU, of one shape."""
    if not masks:
        return []
    shape = masks[0].shape
    planes = np.stack(masks).reshape(len(masks), -1, *shape[-2:])  # an image is a single plane
    return list(gpu.thinned(planes).reshape(len(masks), *shape))


def _step_wider(mask: Mask) -> Mask:
    """The mask and every voxel that shares a face with it: dilation by a cross."""
    wider = mask.copy()
    for axis in range(mask.ndim):
        before = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        wider[after] |= mask[before]
        wider[before] |= mask[after]
    return wider
