"""Labels and maps at several resolutions, for deep supervision."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from segloss.transforms.arrays import Number, positive, voxel_size
from segloss.transforms.base import ON_GPU_TOO, named_maps
from segloss.transforms.containers import Label, check_channel_first, like, opened
from segloss.transforms.functional import downsample

__all__ = ["DownsampleTargetsD", "DownsampleTargetsDict", "DownsampleTargetsd"]

Scale = Number | Sequence[Number]


class DownsampleTargetsd(MapTransform):
    """Lists of labels and maps, an entry for each resolution at which a network is supervised.

    The label at a key becomes a list of labels, and each map a list beside it. A map is not
    resampled but made anew from the label of its resolution: a thin skeleton would fall to pieces,
    and lie outside the label it belongs to. `monai.data.DataLoader` collates the lists into lists
    of batches, as `segloss.DeepSupervisionLoss` takes them.

    Labels are downsampled to the nearest (each voxel takes the label found at its centre), to
    ``ceil(size * scale)`` voxels along each axis, which is what a strided, padded convolution
    leaves. A MetaTensor's affine follows. Maps that measure distances get a voxel size that grows
    by the ratio of the sizes, so distances keep their unit; a tube keeps its radius in voxels.

    Args:
        keys: Where the labels are, channel first.
        scales: For each resolution a number above 0 and up to 1, or one for each axis. Where it is
            1, the label stays as it is.
        maps: The maps wanted, by name: that of ``key`` is put at ``name + "_" + key``. Array
            transforms of this package, or other `segloss.transforms.base.TargetMap`.
        allow_missing_keys: Skip a missing key instead of raising.

    Raises:
        TypeError: If a map has no name, or is not a `TargetMap`.
        ValueError: If there is no scale, or one is not above 0 and up to 1, or has not one number
            for each axis.

    Example:
        >>> import numpy as np
        >>> from segloss.transforms import SignedDistance, TubedSkeleton
        >>> maps = {"skeleton": TubedSkeleton(), "distance": SignedDistance(num_classes=2)}
        >>> transform = DownsampleTargetsd("label", scales=(1, 0.5, (0.5, 0.25)), maps=maps)
        >>> sample = transform({"label": np.eye(16, dtype=np.uint8)[None]})
        >>> [label.shape for label in sample["label"]]
        [(1, 16, 16), (1, 8, 8), (1, 8, 4)]
        >>> [distance.shape for distance in sample["distance_label"]]
        [(1, 16, 16), (1, 8, 8), (1, 8, 4)]
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        keys: KeysCollection,
        scales: Sequence[Scale],
        maps: Mapping[str, Transform] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scales = tuple(checked_scale(scale) for scale in scales)
        if not self.scales:
            raise ValueError("scales is empty: expected one for each resolution, the first often 1")
        self.maps = named_maps({} if maps is None else maps)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            label = out[key]
            out[key] = labels = [at_scale(label, scale) for scale in self.scales]
            full = np.array(label.shape[1:])
            for name, make in self.maps.items():
                size = np.array(voxel_size(make.spacing_for(label), full.size))
                out[f"{name}_{key}"] = [
                    make(low, spacing=size * full / np.array(low.shape[1:])) for low in labels
                ]
        return out


def checked_scale(scale: Scale) -> Scale:
    """The scale in plain numbers, or an error if a number is not above 0 and up to 1."""
    numbers = tuple(positive("a scale", number) for number in np.atleast_1d(scale).tolist())
    if max(numbers) > 1:
        raise ValueError(f"a scale must be above 0 and up to 1, got {scale}.")
    return numbers[0] if np.ndim(scale) == 0 else numbers


def at_scale(label: Label, scale: Scale) -> Label:
    """A channel-first label at another resolution; the same object if nothing changes."""
    check_channel_first(label)
    full = tuple(label.shape[1:])
    if np.ndim(scale) and np.size(scale) != len(full):
        raise ValueError(
            f"scale {scale} has {np.size(scale)} numbers, but the image has {len(full)} axes."
        )
    # Rounding first: 0.1 * 30 may come out a hair above 3, and would get a voxel more.
    shape = tuple(ceil(round(size, 6)) for size in np.multiply(full, scale).tolist())
    if shape == full:
        return label
    with opened([label]) as (channels,):
        low = like(downsample(channels, (len(channels), *shape)), label)
    if isinstance(low, MetaTensor):
        low.affine = shrunk_affine(low.affine, full, shape)
    return low


def shrunk_affine(affine: Tensor, full: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The affine, ``(*, 4, 4)``, of as large an image with `shape` rather than `full` voxels."""
    # A voxel of the low resolution begins where its first one does, half a voxel before centre.
    ratio = np.divide(full, shape)
    to_full = np.eye(affine.shape[-1])
    axes = np.arange(min(len(full), len(to_full) - 1))
    to_full[axes, axes] = ratio[axes]
    to_full[axes, -1] = (ratio[axes] - 1) / 2
    return affine @ affine.new_tensor(to_full)


DownsampleTargetsD = DownsampleTargetsDict = DownsampleTargetsd
