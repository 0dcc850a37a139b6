"""Signed distance maps of a label, for boundary losses."""

from monai.config import KeysCollection

from segloss.transforms.arrays import (
    Array,
    Number,
    Spacing,
    checked_spacing,
    convention_named,
    positive,
    whole,
)
from segloss.transforms.base import ON_GPU_TOO, TargetMap, TargetMapd, stacked
from segloss.transforms.channels import distance_channels, distance_count

__all__ = ["SignedDistance", "SignedDistanceD", "SignedDistanceDict", "SignedDistanced"]


class SignedDistance(TargetMap):
    """How far each voxel is from the boundary of each class: negative inside, positive outside.

    Exact and Euclidean, zero on the faces between voxels; a class that is absent, or fills the
    image, has no boundary, and 0 throughout. See `segloss.transforms.functional.signed_distance`.

    A label of one channel, ``(1, *S)`` class ids, gives ``(K, *S)`` float32, one channel for each
    class from 1 (with `background` from 0) to ``num_classes - 1``. A label of R channels, 0 or 1
    each, gives ``(R, *S)``.

    Args:
        num_classes: Number of classes, the background included; needed for class ids.
        background: Whether class 0 gets a map as well (class ids only).
        spacing: Size of a voxel along each axis of the image in the order of the array, or along
            all; distances are in its unit. None: that of the MetaTensor's affine, in mm; for
            anything else 1, so that distances are in voxels.
        ignore: The label of unknown voxels: 0 in every map, and distances are to known voxels.
        convention: ``"face"``, or ``"kervadec"`` for the published map, whose sign is wrong just
            inside the boundary where voxels are smaller than 1.
        clip: Distances beyond ``±clip`` become ``±clip``.
        normalize: Divide by `clip`, or without one each map by its own largest absolute value.

    Raises:
        TypeError: When called, if labels are not integers.
        ValueError: If `num_classes` < 2, a spacing or `clip` is not above 0, or `convention` is
            unknown; when called, if a class id is not below `num_classes`, if `num_classes` is
            missing or is not the number of regions, a region is not 0 or 1, or the shape is no
            channel-first image's.

    Example:
        >>> import numpy as np
        >>> label = np.array([[[0, 0, 1, 1, 0, 2]]])
        >>> SignedDistance(num_classes=3)(label)
        array([[[ 1.5,  0.5, -0.5, -0.5,  0.5,  1.5]],
               [[ 4.5,  3.5,  2.5,  1.5,  0.5, -0.5]]], dtype=float32)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        num_classes: int | None = None,
        background: bool = False,
        spacing: Spacing = None,
        ignore: int | None = None,
        convention: str = "face",
        clip: Number | None = None,
        normalize: bool = False,
    ) -> None:
        self.num_classes = None if num_classes is None else whole("num_classes", num_classes, 2)
        self.background = background
        self.spacing = checked_spacing(spacing)
        self.ignore = ignore
        self.convention = convention_named(convention)
        self.clip = None if clip is None else positive("clip", clip)
        self.normalize = normalize

    def make(self, channels: Array, spacing: Spacing) -> Array:
        maps = distance_channels(
            channels,
            num_classes=self.num_classes,
            background=self.background,
            spacing=spacing,
            ignore=self.ignore,
            convention=self.convention,
            clip=self.clip,
            normalize=self.normalize,
        )
        count = distance_count(channels, num_classes=self.num_classes, background=self.background)
        return stacked(maps, count)


class SignedDistanced(TargetMapd):
    """`SignedDistance` for dictionaries: adds the distances of ``label`` as ``distance_label``.

    Place it after the last random spatial transform: a map that is rotated or zoomed with the image
    holds distances no longer.

    Args:
        keys: Where the labels are.
        num_classes: See `SignedDistance`.
        background: See `SignedDistance`.
        spacing: See `SignedDistance`.
        ignore: See `SignedDistance`.
        convention: See `SignedDistance`.
        clip: See `SignedDistance`.
        normalize: See `SignedDistance`.
        new_key_prefix: The map of ``key`` is put at ``new_key_prefix + key``.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> sample = SignedDistanced("label", num_classes=3)({"label": np.ones((1, 8, 8, 8))})
        >>> sample["distance_label"].shape
        (2, 8, 8, 8)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int | None = None,
        background: bool = False,
        spacing: Spacing = None,
        ignore: int | None = None,
        convention: str = "face",
        clip: Number | None = None,
        normalize: bool = False,
        new_key_prefix: str = "distance_",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = SignedDistance(
            num_classes, background, spacing, ignore, convention, clip, normalize
        )
        super().__init__(keys, transform, new_key_prefix, allow_missing_keys)


SignedDistanceD = SignedDistanceDict = SignedDistanced
