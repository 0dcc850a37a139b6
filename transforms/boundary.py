"""The boundaries of a label: how far away they are, and what lies near them.

Array functions; `segloss.transforms.functional` is where they are imported from.
"""

from math import log, sqrt

import edt
import numpy as np

from segloss.transforms.arrays import (
    DistanceMap,
    LabelMap,
    Mask,
    Number,
    Spacing,
    Unchecked,
    WeightKind,
    boolean,
    class_boxes,
    class_ids,
    convention_named,
    grown,
    namespace,
    on_gpu,
    one_of,
    positive,
    voxel_size,
)
from segloss.transforms.components import numbered
from segloss.transforms.kernels import distance, gpu, nearest

__all__ = ["boundary_band", "boundary_weight", "signed_distance"]


def signed_distance(
    mask: Unchecked,
    *,
    spacing: Spacing = None,
    convention: str = "face",
    unknown: Unchecked | None = None,
) -> DistanceMap:
    """How far each voxel is from the boundary of a mask: negative inside, positive outside.

    The boundary is made of the faces between voxels of the mask and others, and the distance is the
    Euclidean one from a voxel's centre to the nearest point of such a face: half a voxel on either
    side of it, and zero on it. It is exact for any spacing. The border of the image is no boundary.

    Args:
        mask: ``(H, W)`` or ``(D, H, W)`` bool.
        spacing: Size of a voxel along each axis in the order of the array, or along all; distances
            are in its unit. None: in voxels.
        convention: ``"face"`` as above. ``"kervadec"`` reproduces the map of Kervadec et al.,
            "Boundary loss for highly unbalanced segmentation" (Medical Image Analysis 67, 2021):
            outside the distance to the nearest centre within the mask, inside minus the distance to
            the nearest centre beyond, plus 1. That 1 has the unit of `spacing`: with voxels smaller
            than 1, those just inside come out positive. Only for comparison with published results.
        unknown: Voxels that may or may not belong to the mask. They come out as 0, and distances
            are to voxels that are known.

    Returns:
        float32, the shape of `mask`. 0 throughout if the mask is empty or, with ``"face"``, full:
        there is no boundary. (For a full mask the published map holds the distance to a voxel
        outside the image; ``"kervadec"`` reproduces that, too.)

    Raises:
        TypeError: If `mask` or `unknown` is not bool.
        ValueError: If a spacing is not above 0, or the convention is none of the two, or there are
            neither two nor three axes.

    Example:
        >>> import numpy as np
        >>> mask = np.array([[0, 0, 1, 1, 0]], dtype=bool)
        >>> signed_distance(mask, spacing=(1.0, 2.0))
        array([[ 3.,  1., -1., -1.,  1.]], dtype=float32)
    """
    signed = {"face": _to_faces, "kervadec": _as_published}[convention_named(convention)]
    mask = boolean("mask", mask)
    size = voxel_size(spacing, mask.ndim)
    if unknown is not None:
        unknown = boolean("unknown", unknown)
        if unknown.shape != mask.shape:
            raise ValueError(f"unknown has shape {unknown.shape}, but mask has {mask.shape}.")
        mask = mask & ~unknown
    if not mask.any():
        return np.zeros_like(mask, dtype=np.float32)
    if unknown is None:
        return signed(mask, size)
    # Seen from outside, the unknown is not the mask yet; seen from inside, it is the mask still.
    outside, inside = signed(mask, size), signed(mask | unknown, size)
    return np.where(unknown, np.float32(0), np.where(mask, inside, outside))


def boundary_band(
    labels: LabelMap, *, width: Number, spacing: Spacing = None, ignore: int | None = None
) -> Mask:
    """The voxels within `width` of a face between two classes, on both sides of it.

    Args:
        labels: ``(H, W)`` or ``(D, H, W)`` class ids, 0 for background; integers, or floats that
            hold integers.
        width: Largest distance from a voxel's centre to the boundary, in the unit of `spacing`. The
            voxels that touch the boundary are half a voxel away from it.
        spacing: Size of a voxel along each axis in the order of the array, or along all. None: 1.
        ignore: The label of unknown voxels. They are never in the band, and where they meet a class
            there is no boundary.

    Returns:
        bool, the shape of `labels`.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If `width` or a spacing is not above 0, a label is negative, or there are
            neither two nor three axes.

    Example:
        >>> import numpy as np
        >>> boundary_band(np.array([[0, 0, 0, 1, 1, 1, 1]]), width=1.5).astype(int)
        array([[0, 1, 1, 1, 1, 0, 0]])
    """
    width = positive("width", width)
    ids, unknown = class_ids(labels, ignore)
    limit = width * width * (1 + 1e-6)  # the squares are float32: a voxel at `width` is within it
    return _squares(ids, unknown, voxel_size(spacing, ids.ndim), width) <= limit


def boundary_weight(
    labels: LabelMap,
    *,
    kind: str = "distance",
    strength: Number = 10,
    sigma: Number = 5,
    spacing: Spacing = None,
    ignore: int | None = None,
) -> DistanceMap:
    """A weight for each voxel that is large where classes, or instances, meet.

    With ``kind="distance"`` it is ``1 + strength · exp(-d² / (2 sigma²))``, where d is the distance
    from the voxel's centre to the nearest face between two classes, half a voxel for those that
    touch one: the absolute value of `signed_distance`, over all classes.

    With ``kind="unet"`` it is ``1 + strength · exp(-(d1 + d2)² / (2 sigma²))`` after Ronneberger et
    al., "U-Net: Convolutional networks for biomedical image segmentation" (MICCAI 2015), where d1
    and d2 are the distances from the voxel's centre to the nearest and the second nearest instance:
    to the nearest point of a voxel of it, 0 inside. It is large in narrow gaps between instances.
    The instances are those of `instance_regions`, so labels may be class ids or instance ids. Where
    there are fewer than two, the weight is 1.

    With ``kind="linear"`` it is ``1 + strength · (1 - d / D)``, with d as for ``"distance"`` and D
    the largest d in the image: the distance map penalty of Caliva et al., "Distance map loss penalty
    term for semantic segmentation" (MIDL 2019), with ``strength=1``; that their maps are reversed and
    scaled so is our reading. It has no use for `sigma`. Without a boundary it is 1.

    The U-Net paper's balance of the classes takes the place of the 1: add it, and subtract 1. A
    loss's `class_weight` multiplies the whole instead.

    Args:
        labels: ``(H, W)`` or ``(D, H, W)`` class ids, 0 for background; integers, or floats that
            hold integers.
        kind: ``"distance"``, ``"unet"`` or ``"linear"``.
        strength: What the weight exceeds 1 by where the distance is 0. The U-Net paper has 10.
        sigma: How fast that falls off, in the unit of `spacing`. The U-Net paper has 5 pixels.
        spacing: Size of a voxel along each axis in the order of the array, or along all. None: 1.
        ignore: The label of unknown voxels. Their weight is 0; they belong to no instance, and
            where they meet a class there is no boundary.

    Returns:
        float32, the shape of `labels`; from 1 to ``1 + strength`` where labels are known.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If `strength`, `sigma` or a spacing is not above 0, `kind` is unknown, a label is
            negative, or there are neither two nor three axes.

    Example:
        >>> import numpy as np
        >>> label = np.array([[0, 0, 0, 1, 1, 0, 0, 1, 1, 0]])
        >>> boundary_weight(label, strength=10, sigma=1).round(1)
        array([[1.4, 4.2, 9.8, 9.8, 9.8, 9.8, 9.8, 9.8, 9.8, 9.8]], dtype=float32)
        >>> boundary_weight(label, kind="unet", strength=10, sigma=1).round(1)
        array([[1. , 1. , 1. , 1. , 1.4, 2.4, 2.4, 1.4, 1. , 1. ]], dtype=float32)
        >>> boundary_weight(label, kind="linear", strength=1).round(1)
        array([[1. , 1.4, 1.8, 1.8, 1.8, 1.8, 1.8, 1.8, 1.8, 1.8]], dtype=float32)
    """
    one_of("kind", kind, WeightKind)
    strength, sigma = positive("strength", strength), positive("sigma", sigma)
    ids, unknown = class_ids(labels, ignore)
    size = voxel_size(spacing, ids.ndim)
    if kind == "linear":
        weight = _linear(ids, unknown, size)
    else:
        # Further away than this, 1 is the nearest float32.
        reach = sigma * sqrt(2 * max(0.0, log(strength) + 24 * log(2)))
        squares = (
            _squares(ids, unknown, size, reach)
            if kind == "distance"
            else _squares_to_two(numbered(ids), size, reach)
        )
        squares *= -0.5 / sigma**2
        weight = np.exp(squares, out=squares)
    weight *= strength
    weight += 1
    if unknown is not None:
        weight[unknown] = 0
    return weight


def _linear(ids: LabelMap, unknown: Mask | None, size: tuple[float, ...]) -> DistanceMap:
    """How near a boundary is: 1 on it, 0 where it is farthest, or is none."""
    across = sqrt(sum((step * count) ** 2 for step, count in zip(size, ids.shape, strict=True)))
    away = np.sqrt(_squares(ids, unknown, size, across))
    measured = np.isfinite(away)
    if not measured.any():
        return np.zeros_like(away)
    nearness: DistanceMap = np.where(measured, 1 - away / away[measured].max(), 0)
    return nearness.astype(np.float32, copy=False)


def _squares(
    ids: LabelMap, unknown: Mask | None, size: tuple[float, ...], reach: float
) -> DistanceMap:
    """The squared distance to the nearest known voxel of another class.

    With unknown voxels it may be infinite beyond `reach`, and is on them.
    """
    if unknown is None:
        return _squared_distance(ids, size)

    squares = np.full_like(ids, np.inf, dtype=np.float32)
    known_ids = ids.astype(np.int32) + 1
    known_ids[unknown] = 0
    for known_id, box in class_boxes(known_ids):
        around = grown(box, reach, size)
        this, other = (known_ids[around] == known_id), known_ids[around] > 0
        other &= ~this
        np.copyto(squares[around], _squared_distance(other, size), where=this)
    return squares


def _squares_to_two(instances: LabelMap, size: tuple[float, ...], reach: float) -> DistanceMap:
    """The square of d1 + d2, the distances to the nearest two instances; infinite beyond `reach`."""
    kernels = gpu if on_gpu(instances) else nearest
    first, second = kernels.nearest_two(instances, size, reach)
    both: DistanceMap = np.sqrt(first, out=first)
    both += np.sqrt(second, out=second)
    both *= both
    return both


def _to_faces(mask: Mask, spacing: tuple[float, ...]) -> DistanceMap:
    if mask.all():
        return np.zeros_like(mask, dtype=np.float32)
    distances = _squared_distance(mask, spacing)
    np.sqrt(distances, out=distances)
    if on_gpu(mask):  # CuPy's functions have no `where`
        np.copyto(distances, -distances, where=mask)
    else:
        np.negative(distances, out=distances, where=mask)
    return distances


def _as_published(mask: Mask, spacing: tuple[float, ...]) -> DistanceMap:
    if mask.all():
        # SciPy's answer has no meaning, but it is what the published code returns: as if the only
        # voxel beyond were the one that comes before the first along the first axis.
        sizes = zip(spacing, mask.shape, strict=True)
        axes = [step * namespace(mask).arange(size) for step, size in sizes]
        axes[0] = axes[0] + spacing[0]
        grid = np.meshgrid(*axes, indexing="ij", sparse=True)
        published: DistanceMap = (1 - np.sqrt(sum(axis**2 for axis in grid))).astype(np.float32)
        return published
    if on_gpu(mask):
        to_centres = np.sqrt(gpu.squared_distance(mask, spacing, shift=0))
        from_centres: DistanceMap = np.where(mask, 1 - to_centres, to_centres)
        return from_centres
    outside, inside = (
        edt.edt(side, anisotropy=spacing, black_border=False, parallel=1) for side in (~mask, mask)
    )
    return np.asarray(np.where(mask, 1 - inside, outside), dtype=np.float32)


def _squared_distance(labels: LabelMap | Mask, spacing: tuple[float, ...]) -> DistanceMap:
    if on_gpu(labels):
        return gpu.squared_distance(labels, spacing)
    return distance.squared_distance(labels, spacing)
