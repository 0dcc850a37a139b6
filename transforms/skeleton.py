"""Tubes around the centrelines of a label, for skeleton recall."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection

from segloss.transforms.arrays import Array, LabelMap, Spacing, integers, on_gpu, whole
from segloss.transforms.base import ON_GPU_TOO, TargetMap, TargetMapd, numpy_dtype, stacked
from segloss.transforms.centreline import centrelines
from segloss.transforms.channels import skeleton_channels

__all__ = ["TubedSkeleton", "TubedSkeletonD", "TubedSkeletonDict", "TubedSkeletond"]


class TubedSkeleton(TargetMap):
    """The label within a few steps of its centreline; 0 elsewhere.

    Kirchhoff et al., "Skeleton recall loss" (ECCV 2024); with the default arguments, and on the CPU,
    the map is bit-identical to theirs. See `segloss.transforms.functional.tubed_skeleton`.

    A label of one channel, ``(1, *S)`` class ids, gives ``(1, *S)``: the class id on the tube. A
    label of R channels, 0 or 1 each, gives ``(R, *S)`` bool: a tube for each region.

    Args:
        radius: Steps from the centreline to the surface of the tube, in voxels.
        per_class: Thin each class by itself, rather than all classes as one.
        ignore: The label of unknown voxels; they are on no tube.
        dtype: Of the map of class ids; NumPy's or torch's.

    Raises:
        TypeError: If `radius` is not an integer, or `dtype` holds none; when called, if labels are
            not integers.
        ValueError: If `radius` is negative; when called, if a class id is negative or too large
            for `dtype`, a region is not 0 or 1, or the shape is no channel-first image's.

    Example:
        >>> import numpy as np
        >>> TubedSkeleton(radius=0)(np.ones((1, 3, 8), dtype=np.uint8))
        array([[[0, 0, 0, 0, 0, 0, 1, 0],
                [1, 1, 1, 1, 1, 1, 0, 0],
                [0, 0, 0, 0, 0, 0, 0, 0]]], dtype=int16)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        radius: int = 2,
        per_class: bool = False,
        ignore: int | None = None,
        dtype: Any = np.int16,
    ) -> None:
        self.radius = whole("radius", radius, least=0)
        self.per_class = per_class
        self.ignore = ignore
        self.dtype = integers(numpy_dtype(dtype))

    def make(self, channels: Array, spacing: Spacing) -> Array:
        return self._tubes(channels)

    def make_all(self, several: Sequence[Array], spacings: Sequence[Spacing]) -> list[Array]:
        if not on_gpu(several[0]):
            return super().make_all(several, spacings)
        lines = centrelines(
            [labels for channels in several for labels in channels],
            per_class=self.per_class,
            ignore=self.ignore,
        )
        return [
            self._tubes(channels, lines[i * len(channels) : (i + 1) * len(channels)])
            for i, channels in enumerate(several)
        ]

    def _tubes(self, channels: Array, lines: list[LabelMap] | None = None) -> Array:
        tubes = skeleton_channels(
            channels,
            radius=self.radius,
            per_class=self.per_class,
            ignore=self.ignore,
            dtype=self.dtype,
            centrelines=lines,
        )
        return stacked(tubes, len(channels))


class TubedSkeletond(TargetMapd):
    """`TubedSkeleton` for dictionaries: adds the tube of ``label`` as ``skeleton_label``.

    Place it after the last random spatial transform; or before, with its key beside the label's in
    every later one, and ``mode="nearest"``.

    Args:
        keys: Where the labels are.
        radius: See `TubedSkeleton`.
        per_class: See `TubedSkeleton`.
        ignore: See `TubedSkeleton`.
        dtype: See `TubedSkeleton`.
        new_key_prefix: The map of ``key`` is put at ``new_key_prefix + key``.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> sample = TubedSkeletond("label")({"label": np.ones((1, 8, 8, 8))})
        >>> sample["skeleton_label"].shape
        (1, 8, 8, 8)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        keys: KeysCollection,
        radius: int = 2,
        per_class: bool = False,
        ignore: int | None = None,
        dtype: Any = np.int16,
        new_key_prefix: str = "skeleton_",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = TubedSkeleton(radius, per_class, ignore, dtype)
        super().__init__(keys, transform, new_key_prefix, allow_missing_keys)


TubedSkeletonD = TubedSkeletonDict = TubedSkeletond
