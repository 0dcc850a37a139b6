"""The instances of a label, numbered: for losses and metrics that look at each by itself."""

from typing import Any

import numpy as np
from monai.config import KeysCollection

from segloss.transforms.arrays import (
    Array,
    Regions,
    Spacing,
    checked_spacing,
    integers,
    one_of,
    whole,
)
from segloss.transforms.base import ON_GPU_TOO, TargetMap, TargetMapd, numpy_dtype, stacked
from segloss.transforms.channels import instance_channels

__all__ = ["InstanceRegions", "InstanceRegionsD", "InstanceRegionsDict", "InstanceRegionsd"]


class InstanceRegions(TargetMap):
    """The connected components of a label, numbered from 1; or the region nearest to each.

    See `segloss.transforms.functional.instance_regions`. A label of one channel, ``(1, *S)`` class
    ids, gives ``(1, *S)``: a component belongs to one class, and all classes are numbered through.
    A label of R channels, 0 or 1 each, gives ``(R, *S)``, numbered from 1 in each.

    Args:
        regions: ``"components"``: the voxels of each, 0 elsewhere. ``"voronoi"``: every voxel has
            the number of the nearest component, from centre to centre.
        connectivity: Voxels are connected if they are neighbours along at most so many axes at
            once: 1 is faces only. None: the number of axes.
        spacing: Size of a voxel along each axis of the image in the order of the array, or along
            all, for ``"voronoi"``. None: that of the MetaTensor's affine; for anything else 1.
        ignore: The label of unknown voxels: in no instance and no region, 0.
        dtype: Of the map, integers; NumPy's or torch's.

    Raises:
        TypeError: If `dtype` holds no integers; when called, if labels are not integers.
        ValueError: If `regions` is unknown, `connectivity` is below 1, or a spacing is not above 0;
            when called, if `connectivity` exceeds the number of axes, there are more instances than
            `dtype` can number, a class id is negative, a region is not 0 or 1, or the shape is no
            channel-first image's.

    Example:
        >>> import numpy as np
        >>> label = np.array([[[0, 1, 1, 0, 0, 0, 1, 2, 0]]])
        >>> InstanceRegions()(label)
        array([[[0, 1, 1, 0, 0, 0, 2, 3, 0]]], dtype=int32)
        >>> InstanceRegions("voronoi")(label)
        array([[[1, 1, 1, 1, 1, 2, 2, 3, 3]]], dtype=int32)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        regions: str = "components",
        connectivity: int | None = None,
        spacing: Spacing = None,
        ignore: int | None = None,
        dtype: Any = np.int32,
    ) -> None:
        self.regions = one_of("regions", regions, Regions)
        self.connectivity = connectivity
        if connectivity is not None:
            self.connectivity = whole("connectivity", connectivity, least=1)
        self.spacing = checked_spacing(spacing)
        self.ignore = ignore
        self.dtype = integers(numpy_dtype(dtype))

    def make(self, channels: Array, spacing: Spacing) -> Array:
        instances = instance_channels(
            channels,
            regions=self.regions,
            connectivity=self.connectivity,
            spacing=spacing,
            ignore=self.ignore,
            dtype=self.dtype,
        )
        return stacked(instances, len(channels))


class InstanceRegionsd(TargetMapd):
    """`InstanceRegions` for dictionaries: adds the instances of ``label`` as ``instances_label``.

    Place it after the last random spatial transform; or before, with its key beside the label's in
    every later one, and ``mode="nearest"``. A crop made later may cut an instance in two, which keep
    one number.

    Args:
        keys: Where the labels are.
        regions: See `InstanceRegions`.
        connectivity: See `InstanceRegions`.
        spacing: See `InstanceRegions`.
        ignore: See `InstanceRegions`.
        dtype: See `InstanceRegions`.
        new_key_prefix: The map of ``key`` is put at ``new_key_prefix + key``.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> sample = InstanceRegionsd("label")({"label": np.eye(8)[None]})
        >>> int(sample["instances_label"].max())
        1
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        keys: KeysCollection,
        regions: str = "components",
        connectivity: int | None = None,
        spacing: Spacing = None,
        ignore: int | None = None,
        dtype: Any = np.int32,
        new_key_prefix: str = "instances_",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = InstanceRegions(regions, connectivity, spacing, ignore, dtype)
        super().__init__(keys, transform, new_key_prefix, allow_missing_keys)


InstanceRegionsD = InstanceRegionsDict = InstanceRegionsd
