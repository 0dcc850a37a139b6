"""Weights that are large near the boundaries of a label, for any loss."""

from monai.config import KeysCollection

from segloss.transforms.arrays import (
    Array,
    Number,
    Spacing,
    WeightKind,
    checked_spacing,
    one_of,
    positive,
)
from segloss.transforms.base import ON_GPU_TOO, TargetMap, TargetMapd, stacked
from segloss.transforms.channels import weight_channels

__all__ = ["BoundaryWeight", "BoundaryWeightD", "BoundaryWeightDict", "BoundaryWeightd"]


class BoundaryWeight(TargetMap):
    """A weight for each voxel that is large where classes, or instances, meet.

    See `segloss.transforms.functional.boundary_weight`. A label of one channel, ``(1, *S)`` class
    ids, gives ``(1, *S)`` float32, the boundaries of all classes together; one of R channels, 0 or
    1 each, gives ``(R, *S)``, weights for each region.

    Args:
        kind: ``"distance"``: 1 + strength · exp(-d² / (2 sigma²)), where d is the distance from a
            voxel's centre to the nearest face between two classes. ``"unet"``: the same with
            d1 + d2, the distances to the nearest two instances, 0 inside of one (Ronneberger et
            al., 2015, without the weight that balances the classes: for that, losses have
            `class_weight`). Instances are connected components of voxels with the same id.
            ``"linear"``: 1 + strength · (1 - d / the largest d in the image) (Caliva et al., 2019,
            with ``strength=1``).
        strength: What the weight exceeds 1 by where the distance is 0.
        sigma: How fast that falls off, in the unit of the spacing; not for ``"linear"``. The U-Net
            paper has 5 pixels.
        spacing: Size of a voxel along each axis of the image in the order of the array, or along
            all. None: that of the MetaTensor's affine, in mm; for anything else 1.
        ignore: The label of unknown voxels: their weight is 0, and no boundary is where they begin.

    Raises:
        TypeError: When called, if labels are not integers.
        ValueError: If `kind` is unknown, or `strength`, `sigma` or a spacing is not above 0; when
            called, if a class id is negative, a region is not 0 or 1, or the shape is no
            channel-first image's.

    Example:
        >>> import numpy as np
        >>> label = np.array([[[0, 0, 0, 1, 1, 0, 0, 1, 1, 0]]])
        >>> BoundaryWeight("unet", strength=10, sigma=1)(label).round(1)
        array([[[1. , 1. , 1. , 1. , 1.4, 2.4, 2.4, 1.4, 1. , 1. ]]], dtype=float32)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        kind: str = "distance",
        strength: Number = 10,
        sigma: Number = 5,
        spacing: Spacing = None,
        ignore: int | None = None,
    ) -> None:
        self.kind = one_of("kind", kind, WeightKind)
        self.strength = positive("strength", strength)
        self.sigma = positive("sigma", sigma)
        self.spacing = checked_spacing(spacing)
        self.ignore = ignore

    def make(self, channels: Array, spacing: Spacing) -> Array:
        weights = weight_channels(
            channels,
            kind=self.kind,
            strength=self.strength,
            sigma=self.sigma,
            spacing=spacing,
            ignore=self.ignore,
        )
        return stacked(weights, len(channels))


class BoundaryWeightd(TargetMapd):
    """`BoundaryWeight` for dictionaries: adds the weights of ``label`` as ``weight_label``.

    Place it after the last random spatial transform: weights that are zoomed with the image belong
    to distances that are no longer there.

    Args:
        keys: Where the labels are.
        kind: See `BoundaryWeight`.
        strength: See `BoundaryWeight`.
        sigma: See `BoundaryWeight`.
        spacing: See `BoundaryWeight`.
        ignore: See `BoundaryWeight`.
        new_key_prefix: The map of ``key`` is put at ``new_key_prefix + key``.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> sample = BoundaryWeightd("label", sigma=2)({"label": np.eye(8)[None]})
        >>> sample["weight_label"].shape
        (1, 8, 8)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        keys: KeysCollection,
        kind: str = "distance",
        strength: Number = 10,
        sigma: Number = 5,
        spacing: Spacing = None,
        ignore: int | None = None,
        new_key_prefix: str = "weight_",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = BoundaryWeight(kind, strength, sigma, spacing, ignore)
        super().__init__(keys, transform, new_key_prefix, allow_missing_keys)


BoundaryWeightD = BoundaryWeightDict = BoundaryWeightd
