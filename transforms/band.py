"""The voxels around the boundaries of a label."""

from typing import Any

import numpy as np
from monai.config import KeysCollection

from segloss.transforms.arrays import Array, Number, Spacing, checked_spacing, positive
from segloss.transforms.base import ON_GPU_TOO, TargetMap, TargetMapd, numpy_dtype, stacked
from segloss.transforms.channels import band_channels

__all__ = ["BoundaryBand", "BoundaryBandD", "BoundaryBandDict", "BoundaryBandd"]


class BoundaryBand(TargetMap):
    """The voxels within `width` of a face between two classes, on both sides of it.

    See `segloss.transforms.functional.boundary_band`. A label of one channel, ``(1, *S)`` class
    ids, gives ``(1, *S)``, the boundaries of all classes together; one of R channels, 0 or 1 each,
    gives ``(R, *S)``, a band for each region.

    Args:
        width: Largest distance from a voxel's centre to the boundary, in the unit of the spacing;
            the voxels that touch the boundary are half a voxel away from it.
        spacing: Size of a voxel along each axis of the image in the order of the array, or along
            all. None: that of the MetaTensor's affine, in mm; for anything else 1.
        ignore: The label of unknown voxels: never in the band, and no boundary where they begin.
        dtype: Of the map; NumPy's or torch's, bool or a number.

    Raises:
        TypeError: When called, if labels are not integers.
        ValueError: If `width` or a spacing is not above 0; when called, if a class id is negative,
            a region is not 0 or 1, or the shape is no channel-first image's.

    Example:
        >>> import numpy as np
        >>> BoundaryBand(width=1, dtype=np.uint8)(np.array([[[0, 0, 0, 1, 1, 2, 2, 2]]]))
        array([[[0, 0, 1, 1, 1, 1, 0, 0]]], dtype=uint8)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        width: Number,
        spacing: Spacing = None,
        ignore: int | None = None,
        dtype: Any = np.bool_,
    ) -> None:
        self.width = positive("width", width)
        self.spacing = checked_spacing(spacing)
        self.ignore = ignore
        self.dtype = numpy_dtype(dtype)

    def make(self, channels: Array, spacing: Spacing) -> Array:
        bands = band_channels(
            channels, width=self.width, spacing=spacing, ignore=self.ignore, dtype=self.dtype
        )
        return stacked(bands, len(channels))


class BoundaryBandd(TargetMapd):
    """`BoundaryBand` for dictionaries: adds the band of ``label`` as ``band_label``.

    Place it after the last random spatial transform; or before, with its key beside the label's in
    every later one, and ``mode="nearest"``.

    Args:
        keys: Where the labels are.
        width: See `BoundaryBand`.
        spacing: See `BoundaryBand`.
        ignore: See `BoundaryBand`.
        dtype: See `BoundaryBand`.
        new_key_prefix: The map of ``key`` is put at ``new_key_prefix + key``.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> sample = BoundaryBandd("label", width=2)({"label": np.eye(8)[None]})
        >>> sample["band_label"].shape
        (1, 8, 8)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        keys: KeysCollection,
        width: Number,
        spacing: Spacing = None,
        ignore: int | None = None,
        dtype: Any = np.bool_,
        new_key_prefix: str = "band_",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = BoundaryBand(width, spacing, ignore, dtype)
        super().__init__(keys, transform, new_key_prefix, allow_missing_keys)


BoundaryBandD = BoundaryBandDict = BoundaryBandd
