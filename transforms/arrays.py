"""The arrays that target maps are made of: their shapes by name, and what is asked of them."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from scipy.ndimage import find_objects

__all__ = [
    "Array",
    "Box",
    "Convention",
    "DistanceMap",
    "LabelMap",
    "Mask",
    "Number",
    "Regions",
    "Spacing",
    "Unchecked",
    "WeightKind",
    "boolean",
    "bounding_box",
    "checked_spacing",
    "class_boxes",
    "class_ids",
    "convention_named",
    "fitting",
    "grown",
    "integers",
    "namespace",
    "on_gpu",
    "one_of",
    "positive",
    "region",
    "voxel_size",
    "whole",
]

if TYPE_CHECKING:
    Array: TypeAlias = np.ndarray
else:
    Array = Any
"""An array of NumPy, or one of CuPy, which is on a GPU and understands what NumPy's does."""

Unchecked: TypeAlias = Shaped[Array, "..."]
"""An array as the caller has it: the function itself says what it expects."""

LabelMap: TypeAlias = Shaped[Array, "*space"]
"""A class id for each voxel, 0 where there is nothing. Integers, or floats that hold integers."""

Mask: TypeAlias = Bool[Array, "*space"]
"""Whether a voxel belongs to something."""

DistanceMap: TypeAlias = Float32[Array, "*space"]
"""How far a voxel's centre is from something, negative on the inside."""

Number: TypeAlias = float | int

Spacing: TypeAlias = Number | Sequence[Number] | np.ndarray | None
"""Size of a voxel along each axis, or along all of them; None is 1: distances are in voxels."""

Convention: TypeAlias = Literal["face", "kervadec"]
"""Where a signed distance is zero: on the faces between voxels, or as the boundary loss's paper."""

Regions: TypeAlias = Literal["components", "voronoi"]
"""What belongs to an instance: its own voxels, or all that are nearest to it."""

WeightKind: TypeAlias = Literal["distance", "linear", "unet"]
"""What a weight falls off with: the distance to a boundary, or those to two instances."""

Box: TypeAlias = tuple[slice, ...]
"""Where a part of an image lies in it: a slice for each axis."""

LARGEST_ID = 2**16 - 1

_RENUMBER = (
    "If these are instances, number them from 1 on, for example with "
    "`skimage.segmentation.relabel_sequential`."
)


def on_gpu(array: Array) -> bool:
    """Whether it is an array of CuPy rather than of NumPy."""
    return not isinstance(array, np.ndarray)


def namespace(array: Array) -> Any:
    """The module whose functions make arrays beside this one: `numpy`, or `cupy`.

    Functions of arrays need no such choice: NumPy's call CuPy's when they are given its arrays.
    """
    return import_module("cupy") if on_gpu(array) else np


def check_space(name: str, array: Unchecked) -> None:
    """Raise unless an array is an image of two or three axes, with voxels in it."""
    if array.ndim not in {2, 3} or 0 in array.shape:
        raise ValueError(
            f"{name} has shape {array.shape}: expected an image of two or three axes, none of them "
            f"empty. Channels and batches go through one at a time."
        )


def boolean(name: str, mask: Unchecked) -> Mask:
    """The mask in C order, or an error if it is none."""
    check_space(name, mask)
    if mask.dtype != bool:
        raise TypeError(
            f"{name} has dtype {mask.dtype}, expected bool: compare the labels with a class id "
            f"first, as in `labels == 1`."
        )
    return namespace(mask).ascontiguousarray(mask)  # type: ignore[no-any-return]


def class_ids(labels: LabelMap, ignore: int | None = None) -> tuple[LabelMap, Mask | None]:
    """Take a label map apart into class ids and voxels that no one knows about.

    Args:
        labels: Integers, bool, or floats that hold integers exactly, as MONAI's readers yield them.
        ignore: The label that stands for "unknown".

    Returns:
        The class ids in C order, an integer dtype, 0 where they are unknown; and where they are
        unknown, or None if every voxel is known.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If a class id is negative or 2³¹ or more, or the shape is no image's.
    """
    check_space("labels", labels)
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            ids = labels.astype(np.int32)
        wrong = ids != labels
        if wrong.any():
            raise TypeError(
                f"labels must be integers, or floats that hold integers, got "
                f"{labels[wrong][0]}: resample labels with mode='nearest'."
            )
    elif labels.dtype.kind in "biu":
        ids = labels.view(np.uint8) if labels.dtype == bool else labels
        ids = ids.astype(ids.dtype.newbyteorder("="), copy=False)
    else:
        raise TypeError(f"labels has dtype {labels.dtype}: expected integers, bool or floats.")

    if on_gpu(ids) and ids.itemsize < 4:
        ids = ids.astype(np.int32)  # CuPy compares with nothing that is beyond the dtype
    unknown = None if ignore is None else ids == ignore
    if unknown is not None and unknown.any():
        ids = np.where(unknown, 0, ids).astype(ids.dtype, copy=False)
    else:
        unknown = None
    if ids.dtype.kind == "i" and ids.min() < 0:
        raise ValueError(
            f"labels holds {ids.min()}: class ids are 0 or more. If it stands for unknown voxels, "
            f"pass ignore={ids.min()}."
        )
    largest = np.iinfo(np.int32).max  # in which most of what follows counts
    if np.iinfo(ids.dtype).max > largest and ids.max() > largest:
        raise ValueError(f"labels holds {ids.max()}: ids up to {largest} are handled. {_RENUMBER}")
    return namespace(ids).ascontiguousarray(ids), unknown


def region(channel: LabelMap, ignore: int | None = None) -> tuple[Mask, Mask | None]:
    """Take one channel of 0 and 1 apart into a mask and voxels that no one knows about.

    Raises:
        ValueError: If it holds anything but 0, 1 and `ignore`.
    """
    ids, unknown = class_ids(channel, ignore)
    if ids.max() > 1:
        raise ValueError(
            f"a label of several channels holds {ids.max()}: each channel is a region of 0 and 1"
            f"{'' if ignore is None else f' (and ignore={ignore})'}. A map of class ids has one "
            f"channel: add it with `EnsureChannelFirstd(..., channel_dim='no_channel')`."
        )
    return ids == 1, unknown


def whole(name: str, value: int, least: int) -> int:
    """The value, or an error if it is not an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer of {least} or more, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {value}.")
    return int(value)


def positive(name: str, value: Number) -> float:
    """The value, or an error if it is not a finite number above zero."""
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value}.")
    return float(value)


def one_of(name: str, value: str, choices: Any) -> Any:
    """The value, or an error if it is none of the words of a `Literal`."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}.")
    return value


def convention_named(name: str) -> Convention:
    """The convention of that name, or an error if there is none."""
    return one_of("convention", name, Convention)  # type: ignore[no-any-return]


def integers(dtype: Any) -> "np.dtype[Any]":
    """The dtype in this machine's order of bytes, or an error if it does not hold integers."""
    known: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    if known.kind not in "iu":
        raise TypeError(f"dtype must hold integers, got {known}.")
    return known


def fitting(name: str, ids: LabelMap, dtype: Any) -> LabelMap:
    """The ids in another dtype, or an error if the largest does not fit."""
    dtype = integers(dtype)
    if int(ids.max()) > np.iinfo(dtype).max:
        raise ValueError(f"{name} {ids.max()} does not fit into dtype {dtype}: pass a wider one.")
    return ids.astype(dtype, copy=False)


def voxel_size(spacing: Spacing, ndim: int) -> tuple[float, ...]:
    """Size of a voxel along each of `ndim` axes.

    Raises:
        ValueError: If there is not one size per axis, or one is not a finite number above zero.
    """
    if spacing is None:
        return (1.0,) * ndim
    sizes = np.atleast_1d(spacing).astype(float).tolist()
    if np.ndim(spacing) == 0:
        sizes *= ndim
    if len(sizes) != ndim:
        raise ValueError(
            f"spacing has {len(sizes)} entries, {tuple(sizes)}: expected {ndim}, one for each axis "
            f"of the image in its own order."
        )
    return tuple(positive("spacing", size) for size in sizes)


def checked_spacing(spacing: Spacing) -> Spacing:
    """The spacing in plain numbers, or an error if one of them is not finite and above zero."""
    if spacing is None:
        return None
    sizes = voxel_size(spacing, np.size(spacing))
    return sizes[0] if np.ndim(spacing) == 0 else sizes


def bounding_box(mask: Mask) -> Box:
    """The smallest box that holds the mask; empty slices if the mask is empty.

    On a GPU it is that of the whole image: a smaller one would have to be waited for.
    """
    if on_gpu(mask):
        return _whole_box(mask)
    box: Box = ()
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hit = np.flatnonzero(mask[box].any(axis=others))
        box += (slice(hit[0], hit[-1] + 1) if hit.size else slice(0, 0),)
    return box


def _whole_box(array: Array) -> Box:
    return tuple(slice(0, size) for size in array.shape)


def grown(box: Box, reach: Number, size: tuple[float, ...]) -> Box:
    """The box and what lies up to `reach` beyond it, in an image whose voxels have that size."""
    margin = [ceil(reach / step) + 1 for step in size]
    return tuple(
        slice(max(0, side.start - more), side.stop + more)
        for side, more in zip(box, margin, strict=True)
    )


def class_boxes(ids: LabelMap) -> Iterator[tuple[int, Box]]:
    """Each class id above 0 that there is, with its bounding box; on a GPU, the whole image's."""
    largest = int(ids.max())
    if largest > LARGEST_ID:
        raise ValueError(
            f"labels holds {largest}: class by class, ids up to {LARGEST_ID} are handled. "
            f"{_RENUMBER}"
        )
    if on_gpu(ids):
        yield from ((class_id, _whole_box(ids)) for class_id in np.unique(ids).tolist() if class_id)
        return
    for class_id, box in enumerate(find_objects(ids), start=1):
        if box is not None:
            yield class_id, box
