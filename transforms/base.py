"""What every target map does with MONAI: containers, metadata, spacing, keys."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor, affine_to_spacing
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_numpy, get_equivalent_dtype

from segloss.transforms.arrays import Array, Spacing, Unchecked
from segloss.transforms.containers import Label, like, opened

__all__ = ["ON_GPU_TOO", "TargetMap", "TargetMapd", "named_maps", "numpy_dtype", "stacked"]

ON_GPU_TOO = [TransformBackends.NUMPY, TransformBackends.CUPY]
"""The `backend` of a map that CuPy can make."""


def spacing_of(label: Label) -> Spacing:
    """Size of a voxel as the label itself knows it: from a MetaTensor's affine, or unknown."""
    if not isinstance(label, MetaTensor):
        return None
    return affine_to_spacing(convert_to_numpy(label.affine))[: label.ndim - 1].tolist()  # type: ignore[no-any-return]


def numpy_dtype(dtype: Any) -> "np.dtype[Any]":
    """The NumPy dtype of a NumPy or torch dtype."""
    return np.dtype(get_equivalent_dtype(dtype, np.ndarray))  # type: ignore[no-untyped-call]


def stacked(maps: Iterator[Unchecked], count: int) -> Array:
    """So many maps as the channels of one array, without a second copy of more than one."""
    first = next(maps)
    if count == 1:
        return first[None]
    stack = np.empty_like(first, shape=(count, *first.shape))
    stack[0] = first
    del first
    for index in range(1, count):
        stack[index] = next(maps)
    return stack


class TargetMap(Transform, ABC):
    """A map computed from a channel-first label: the base of the array transforms here.

    A subclass supplies `make`; what comes in is what goes out: an array of NumPy or CuPy, a tensor
    (on its device), or a MetaTensor with its metadata. The work is done where the label is if the
    subclass has ``backend = ON_GPU_TOO`` and CuPy is installed, and otherwise on the CPU; to choose,
    move the label. There is no randomness, so `monai.data.CacheDataset` computes it once.

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

    def __call__(self, label: Label, *, spacing: Spacing = None) -> Label:
        """The map of a label.

        Args:
            label: ``(C, H, W)`` or ``(C, D, H, W)``.
            spacing: Size of a voxel, in place of the transform's own and the label's.

        Returns:
            A map for each region or class, channel first; its dtype is the transform's choice.
        """
        return self.together([label], spacing=spacing)[0]

    def together(self, labels: Sequence[Label], *, spacing: Spacing = None) -> list[Label]:
        """The maps of several labels of one shape, on one device: as if one by one."""
        spacings = [self.spacing_for(label) if spacing is None else spacing for label in labels]
        with opened(labels, gpu=TransformBackends.CUPY in self.backend) as several:
            results = self.make_all(several, spacings)
            return [like(result, label) for result, label in zip(results, labels, strict=True)]

    def spacing_for(self, label: Label) -> Spacing:
        """Size of the label's voxels: as this transform was told, else as the label knows it."""
        return spacing_of(label) if self.spacing is None else self.spacing

    @abstractmethod
    def make(self, channels: Array, spacing: Spacing) -> Array:
        """The map, channel first, of a channel-first label. `spacing` has not been checked."""

    def make_all(self, several: Sequence[Array], spacings: Sequence[Spacing]) -> list[Array]:
        """`make` for several labels of one shape; for a map that is faster made at once."""
        return [self.make(each, size) for each, size in zip(several, spacings, strict=True)]


def named_maps(maps: Mapping[str, Transform]) -> dict[str, TargetMap]:
    """The maps by name, or an error if they have none, or one is no `TargetMap`."""
    if not isinstance(maps, Mapping):
        raise TypeError(
            f"maps must give each transform a name, as in {{'skeleton': TubedSkeleton()}}, "
            f"got {maps!r}"
        )
    found: dict[str, TargetMap] = {}
    for name, make in maps.items():
        if not isinstance(make, TargetMap):
            raise TypeError(
                f"maps[{name!r}] is {make!r}: expected an array transform that makes a map, "
                f"such as TubedSkeleton(), or another TargetMap."
            )
        found[name] = make
    return found


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
