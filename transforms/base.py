"""What every target map does with MONAI: containers, metadata, spacing, keys."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, affine_to_spacing
from monai.transforms import MapTransform, Transform
from monai.utils import (
    TransformBackends,
    convert_to_dst_type,
    convert_to_numpy,
    get_equivalent_dtype,
)

from segloss.transforms.arrays import Spacing, Unchecked

__all__ = ["TargetMap", "TargetMapd", "stacked"]


def channels_of(label: NdarrayOrTensor) -> np.ndarray:
    """A label's voxels in NumPy, or an error if they are not a channel-first image.

    Raises:
        ValueError: If there are not a channel axis and two or three axes of space.
    """
    channels: np.ndarray = convert_to_numpy(label)
    if channels.ndim not in {3, 4} or 0 in channels.shape:
        raise ValueError(
            f"the label has shape {channels.shape}: expected (channels, H, W) or (channels, D, H, "
            f"W), none of them empty. A missing channel axis is added by `EnsureChannelFirstd(..., "
            f"channel_dim='no_channel')`; batches go through one sample at a time."
        )
    return channels


def spacing_of(label: NdarrayOrTensor) -> Spacing:
    """Size of a voxel as the label itself knows it: from a MetaTensor's affine, or unknown."""
    if not isinstance(label, MetaTensor):
        return None
    return affine_to_spacing(convert_to_numpy(label.affine))[: label.ndim - 1].tolist()  # type: ignore[no-any-return]


def numpy_dtype(dtype: Any) -> "np.dtype[Any]":
    """The NumPy dtype of a NumPy or torch dtype."""
    return np.dtype(get_equivalent_dtype(dtype, np.ndarray))  # type: ignore[no-untyped-call]


def stacked(maps: Iterator[Unchecked], count: int) -> np.ndarray:
    """So many maps as the channels of one array, without a second copy of more than one."""
    first = next(maps)
    if count == 1:
        return first[None]
    stack = np.empty((count, *first.shape), first.dtype)
    stack[0] = first
    del first
    for index in range(1, count):
        stack[index] = next(maps)
    return stack


class TargetMap(Transform, ABC):
    """A map computed from a channel-first label: the base of the array transforms here.

    A subclass supplies `make`; what comes in is what goes out: a NumPy array, a tensor (on its
    device), or a MetaTensor with its metadata. The work is done on the CPU, without randomness, so
    `monai.data.CacheDataset` computes it once.

    A label of one channel holds class ids. One of several channels holds regions, 0 or 1, that may
    overlap; each gets a map of its own.

    Example:
        >>> import numpy as np
        >>> class Foreground(TargetMap):
        ...     def make(self, channels, spacing):
        ...         return channels > 0
        >>> Foreground()(np.array([[[0, 2], [1, 0]]]))
        array([[[False,  True],
                [ True, False]]])
    """

    backend = [TransformBackends.NUMPY]
    spacing: Spacing = None

    def __call__(self, label: NdarrayOrTensor, *, spacing: Spacing = None) -> NdarrayOrTensor:
        """The map of a label.

        Args:
            label: ``(C, H, W)`` or ``(C, D, H, W)``.
            spacing: Size of a voxel, in place of the transform's own and the label's.

        Returns:
            A map for each region or class, channel first; its dtype is the transform's choice.
        """
        channels = channels_of(label)
        result = self.make(channels, self.spacing_for(label) if spacing is None else spacing)
        return convert_to_dst_type(result, label, dtype=result.dtype)[0]

    def spacing_for(self, label: NdarrayOrTensor) -> Spacing:
        """Size of the label's voxels: as this transform was told, else as the label knows it."""
        return spacing_of(label) if self.spacing is None else self.spacing

    @abstractmethod
    def make(self, channels: np.ndarray, spacing: Spacing) -> np.ndarray:
        """The map, channel first, of a channel-first label. `spacing` has not been checked."""


class TargetMapd(MapTransform):
    """A `TargetMap` for dictionaries: the label stays as it is, its map is added beside it.

    Args:
        keys: Where the labels are.
        transform: Makes the map.
        new_key_prefix: The map of ``key`` is put at ``new_key_prefix + key``.
        allow_missing_keys: Skip a missing key instead of raising.

    Raises:
        ValueError: If `new_key_prefix` is empty: the map would take the label's place.

    Example:
        >>> import numpy as np
        >>> from segloss.transforms import TubedSkeleton
        >>> transform = TargetMapd("label", TubedSkeleton(), "centre_")
        >>> list(transform({"label": np.ones((1, 5, 5))}))
        ['label', 'centre_label']
    """

    backend = TargetMap.backend

    def __init__(
        self,
        keys: KeysCollection,
        transform: TargetMap,
        new_key_prefix: str,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not new_key_prefix:
            raise ValueError("new_key_prefix is empty: the map would take the label's place.")
        self.transform = transform
        self.new_key_prefix = new_key_prefix

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            out[f"{self.new_key_prefix}{key}"] = self.transform(out[key])
        return out
