"""The maps of a channel-first label, one channel at a time.

The MONAI transforms stack what comes out; the command line writes it to disk, and never holds more
than one. A label of one channel holds class ids. One of several channels holds regions, 0 or 1, that
may overlap; each gets a map of its own. The channels of a label may be computed when they are asked
for, too: each is asked for once, in order.

Maps are made when the next one is asked for, and errors are raised then.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from segloss.transforms.arrays import (
    DistanceMap,
    LabelMap,
    Mask,
    Number,
    Spacing,
    class_ids,
    fitting,
    positive,
    region,
    whole,
)
from segloss.transforms.functional import (
    boundary_band,
    boundary_weight,
    instance_regions,
    signed_distance,
    soften,
    tube,
    tubed_skeleton,
)

__all__ = [
    "Channels",
    "band_channels",
    "distance_channels",
    "distance_count",
    "instance_channels",
    "skeleton_channels",
    "soft_channels",
    "weight_channels",
]


@runtime_checkable
class Channels(Protocol):
    """A channel-first label: an array ``(C, *S)``, or any sequence of C arrays ``*S``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def skeleton_channels(
    channels: Channels,
    *,
    radius: int = 2,
    per_class: bool = False,
    ignore: int | None = None,
    dtype: Any = np.int16,
    centrelines: Channels | None = None,
) -> Iterator[LabelMap]:
    """The tubes around the centrelines: see `segloss.transforms.functional.tubed_skeleton`.

    Args:
        channels: The label, channel first.
        radius: Steps from the centreline to the surface of the tube, in voxels.
        per_class: Thin each class by itself, rather than all classes as one (class ids only).
        ignore: The label of unknown voxels; they are on no tube.
        dtype: Of the map of class ids.
        centrelines: What `segloss.transforms.functional.centreline` makes of each channel (of class
            ids with the same `per_class`), if it is there already.

    Yields:
        The class id on the tube, in `dtype`; for regions, a bool map each.

    Raises:
        TypeError: If labels are not integers, or `dtype` holds none.
        ValueError: If a class id is negative or too large for `dtype`, a region is not 0 or 1, or
            the centrelines are not those of the channels.
    """
    if centrelines is not None and len(centrelines) != len(channels):
        raise ValueError(
            f"centrelines has {len(centrelines)} entries, but the label has {len(channels)} "
            f"channels: expected one for each."
        )
    several = len(channels) > 1
    for index, labels in enumerate(_labels(channels, ignore)):
        found = (
            tubed_skeleton(labels, radius=radius, per_class=per_class, ignore=ignore)
            if centrelines is None
            else tube(centrelines[index], labels, radius=radius, per_class=per_class, ignore=ignore)
        )
        found = found.astype(np.bool_, copy=False) if several else fitting("class id", found, dtype)
        yield found
        del found  # or it would stay while the next one is made


def distance_count(
    channels: Channels, *, num_classes: int | None = None, background: bool = False
) -> int:
    """How many maps `distance_channels` makes.

    Raises:
        TypeError: If `num_classes` is not an integer.
        ValueError: If `num_classes` is below 2, missing for class ids, or not the number of
            regions.
    """
    if num_classes is not None:
        num_classes = whole("num_classes", num_classes, least=2)
    if len(channels) > 1:
        if num_classes not in {None, len(channels)}:
            raise ValueError(
                f"the label has {len(channels)} channels, a region each, but num_classes is "
                f"{num_classes}: leave it out, or pass class ids in one channel."
            )
        return len(channels)
    if num_classes is None:
        raise ValueError(
            "num_classes is needed to know how many maps a label of class ids gets, whichever of "
            "the classes are in it."
        )
    return num_classes if background else num_classes - 1


def distance_channels(
    channels: Channels,
    *,
    num_classes: int | None = None,
    background: bool = False,
    spacing: Spacing = None,
    ignore: int | None = None,
    convention: str = "face",
    clip: Number | None = None,
    normalize: bool = False,
) -> Iterator[DistanceMap]:
    """The distances to the boundary: see `segloss.transforms.functional.signed_distance`.

    Args:
        channels: The label, channel first.
        num_classes: Number of classes, the background included; needed for class ids.
        background: Whether class 0 gets a map as well (class ids only).
        spacing: Size of a voxel along each axis in the order of the array, or along all. None: 1.
        ignore: The label of unknown voxels: 0 in every map, and distances are to known voxels.
        convention: ``"face"`` or ``"kervadec"``.
        clip: Distances beyond ``±clip`` become ``±clip``.
        normalize: Divide by `clip`, or without one each map by its own largest absolute value.

    Yields:
        A float32 map for each region, or for each class from 1 (with `background` from 0) on.

    Raises:
        TypeError: If labels are not integers.
        ValueError: As `distance_count`; if a class id is negative or not below `num_classes`, a
            region is not 0 or 1, a spacing or `clip` is not above 0, or `convention` is unknown.
    """
    count = distance_count(channels, num_classes=num_classes, background=background)
    limit = None if clip is None else positive("clip", clip)
    for mask, unknown in _masks(channels, count, background, ignore):
        distance = signed_distance(mask, spacing=spacing, convention=convention, unknown=unknown)
        if limit is not None:
            np.clip(distance, -limit, limit, out=distance)
        if normalize:
            largest = limit or max(distance.max(), -distance.min())
            if largest:
                distance /= largest
        yield distance
        del distance  # or it would stay while the next one is made


def soft_channels(
    channels: Channels,
    *,
    num_classes: int | None = None,
    sigma: Number = 1,
    ignore: int | None = None,
) -> Iterator[DistanceMap]:
    """Memberships by a voxel and its neighbours: see `segloss.transforms.functional.soften`.

    Args:
        channels: The label, channel first.
        num_classes: Number of classes, the background included; needed for class ids.
        sigma: Of the Gaussian weights of the neighbours, in voxels.
        ignore: The label of unknown voxels, which keep it in every map.

    Yields:
        A float32 map for each region, or for each class from 0 on: as many as `distance_count` says,
        with the background.

    Raises:
        TypeError: If labels are not integers.
        ValueError: As `distance_count`; if a class id is negative or not below `num_classes`, a
            region is not 0 or 1, or `sigma` is not above 0.
    """
    count = distance_count(channels, num_classes=num_classes, background=True)
    for mask, unknown in _masks(channels, count, True, ignore):
        soft = soften(mask, sigma=sigma, unknown=unknown)
        if unknown is not None:
            soft[unknown] = ignore
        yield soft
        del soft  # or it would stay while the next one is made


def instance_channels(
    channels: Channels,
    *,
    regions: str = "components",
    connectivity: int | None = None,
    spacing: Spacing = None,
    ignore: int | None = None,
    dtype: Any = np.int32,
) -> Iterator[LabelMap]:
    """The instances, numbered: see `segloss.transforms.functional.instance_regions`.

    Args:
        channels: The label, channel first.
        regions: ``"components"``, or ``"voronoi"`` for the region of the nearest one.
        connectivity: Steps along so many axes at once connect; None: along all.
        spacing: Size of a voxel along each axis in the order of the array, or along all. None: 1.
        ignore: The label of unknown voxels; they are 0.
        dtype: Of the maps.

    Yields:
        A map for each channel, numbered from 1 in each.

    Raises:
        TypeError: If labels are not integers, or `dtype` holds none.
        ValueError: If a class id is negative, a region is not 0 or 1, there are too many instances
            for `dtype`, or an option is none that there is.
    """
    for labels in _labels(channels, ignore):
        yield instance_regions(
            labels,
            regions=regions,
            connectivity=connectivity,
            spacing=spacing,
            ignore=ignore,
            dtype=dtype,
        )


def band_channels(
    channels: Channels,
    *,
    width: Number,
    spacing: Spacing = None,
    ignore: int | None = None,
    dtype: Any = np.bool_,
) -> Iterator[np.ndarray]:
    """The voxels near boundaries: see `segloss.transforms.functional.boundary_band`.

    Args:
        channels: The label, channel first.
        width: Largest distance from a voxel's centre to the boundary, in the unit of `spacing`.
        spacing: Size of a voxel along each axis in the order of the array, or along all. None: 1.
        ignore: The label of unknown voxels: never in the band, and no boundary where they begin.
        dtype: Of the maps.

    Yields:
        A band for each channel: for class ids that of all classes together.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If `width` or a spacing is not above 0, a class id is negative, or a region is
            not 0 or 1.
    """
    for labels in _labels(channels, ignore):
        yield boundary_band(labels, width=width, spacing=spacing, ignore=ignore).astype(
            dtype, copy=False
        )


def weight_channels(
    channels: Channels,
    *,
    kind: str = "distance",
    strength: Number = 10,
    sigma: Number = 5,
    spacing: Spacing = None,
    ignore: int | None = None,
) -> Iterator[DistanceMap]:
    """The weights near boundaries: see `segloss.transforms.functional.boundary_weight`.

    Args:
        channels: The label, channel first.
        kind: ``"distance"``, ``"unet"`` or ``"linear"``.
        strength: What the weight exceeds 1 by where the distance is 0.
        sigma: How fast that falls off, in the unit of `spacing`.
        spacing: Size of a voxel along each axis in the order of the array, or along all. None: 1.
        ignore: The label of unknown voxels: their weight is 0.

    Yields:
        A float32 map for each channel: for class ids that of all classes together.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If `strength`, `sigma` or a spacing is not above 0, `kind` is unknown, a class
            id is negative, or a region is not 0 or 1.
    """
    for labels in _labels(channels, ignore):
        yield boundary_weight(
            labels, kind=kind, strength=strength, sigma=sigma, spacing=spacing, ignore=ignore
        )


def _labels(channels: Channels, ignore: int | None) -> Iterator[LabelMap]:
    """Each channel as a label map of its own; regions are checked."""
    for index in range(len(channels)):
        labels = channels[index]
        if len(channels) > 1:
            region(labels, ignore)  # raises unless it is one
        yield labels


def _masks(
    channels: Channels, count: int, background: bool, ignore: int | None
) -> Iterator[tuple[Mask, Mask | None]]:
    """Each region or class, and the voxels that may or may not belong to it."""
    if len(channels) == 1:
        return _classes(channels[0], count, background, ignore)
    return (region(channels[index], ignore) for index in range(count))


def _classes(
    labels: LabelMap, count: int, background: bool, ignore: int | None
) -> Iterator[tuple[Mask, Mask | None]]:
    """Each class, and the voxels that may or may not belong to it."""
    first = 0 if background else 1
    ids, unknown = class_ids(labels, ignore)
    if ids.max() >= first + count:
        raise ValueError(
            f"the label holds class {ids.max()}, but num_classes is {first + count}: ids go up to "
            f"{first + count - 1}. If it stands for unknown voxels, pass ignore={ids.max()}."
        )
    for class_id in range(first, first + count):
        mask = ids == class_id
        yield mask if unknown is None else mask & ~unknown, unknown
