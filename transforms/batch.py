"""The maps of a mini-batch, for labels that were augmented as one."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import final

import torch
from monai.transforms import Transform
from torch import Tensor, nn

from segloss.transforms.base import named_maps
from segloss.transforms.containers import Label, stays_on_gpu

__all__ = ["TargetMaps"]


@final
class TargetMaps(nn.Module):
    """The maps of a batch of labels, made where the labels are: after augmentation on a GPU.

    There CuPy makes them, all centrelines of the batch at once; without CuPy, and for labels on the
    CPU, as many threads as PyTorch has share the samples. Each map is the one that its transform
    makes of the sample alone.

    Args:
        maps: Transforms that make the maps, by the name that losses know them by, like those of
            `segloss.transforms.DownsampleTargetsd`. Distances are in the unit of their `spacing`; by
            default that of a MetaTensor's affine, or voxels.

    Raises:
        TypeError: If a map has no name, or is not a `TargetMap`.
        ValueError: If there is none; when called, if labels are not ``(B, C, *S)``, or not what a
            transform takes.

    Example:
        >>> from segloss import DiceLoss, SkeletonRecallLoss
        >>> from segloss.transforms import SignedDistance, TubedSkeleton
        >>> maps = TargetMaps({"skeleton": TubedSkeleton(), "distance": SignedDistance(3)})
        >>> label = torch.eye(8, dtype=torch.int64).expand(2, 1, 8, 8)
        >>> {name: tuple(each.shape) for name, each in maps(label).items()}
        {'skeleton': (2, 1, 8, 8), 'distance': (2, 2, 8, 8)}
    """

    def __init__(self, maps: Mapping[str, Transform]) -> None:
        super().__init__()
        self.maps = named_maps(maps)
        if not self.maps:
            raise ValueError("maps is empty: expected a transform for each map, by name")

    @torch.no_grad()
    def forward(self, label: Tensor) -> dict[str, Tensor]:
        """The maps of labels.

        Args:
            label: ``(B, 1, *S)`` class ids, or ``(B, R, *S)`` regions, 0 or 1 each; two or three
                axes of space.

        Returns:
            For each name a map ``(B, K, *S)`` on the label's device, as its transform describes it.
        """
        if label.ndim not in {4, 5} or 0 in label.shape:
            raise ValueError(
                f"the label has shape {tuple(label.shape)}: expected (batch, channels, H, W) or "
                f"(batch, channels, D, H, W), none of them empty"
            )
        samples = [label[i] for i in range(len(label))]
        if stays_on_gpu(label):
            made = {name: make.together(samples) for name, make in self.maps.items()}
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                coming = {name: pool.map(make, samples) for name, make in self.maps.items()}
                made = {name: list(each) for name, each in coming.items()}
        return {name: torch.stack(list(map(_plain, each))) for name, each in made.items()}

    def extra_repr(self) -> str:
        """The names of the maps."""
        return f"maps={list(self.maps)}"


def _plain(found: Label) -> Tensor:
    return torch.as_tensor(found).as_subclass(Tensor)
