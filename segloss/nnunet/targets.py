"""Maps on their way from nnU-Net's workers to the loss: packed behind the channels of the target.

nnU-Net's loader hands on an image and a segmentation and nothing else, so the maps travel as more
channels of the segmentation. These are int16 as nnU-Net's labels are, so that the labels come back
as they were; distances are put into the same two bytes as halves. Only where nnU-Net's target is
bool (regions) and the maps are too does the whole stay bool.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segloss.nnunet.labels import Labels
from segloss.nnunet.maps import Sample, TargetMap
from segloss.nnunet.peer import BasicTransform

__all__ = ["AppendMaps", "unpacked"]


class AppendMaps(BasicTransform):
    """Appends the maps of a label to its channels, at every scale whose loss counts.

    It stands at the very end of nnU-Net's pipeline, so that maps belong to exactly the labels that
    the loss will see: augmented, turned into regions, at each scale of deep supervision.

    Args:
        labels: What the channels of the segmentation mean.
        maps: The maps by name.
        spacing: Size of a voxel at full resolution along each axis, in mm.
        scale_weights: The weight of each scale in the loss; none are made where it is 0.
    """

    def __init__(
        self,
        labels: Labels,
        maps: Mapping[str, TargetMap],
        spacing: Sequence[float],
        scale_weights: Sequence[float],
    ) -> None:
        super().__init__()
        self.labels, self.maps = labels, dict(maps)
        self.spacing, self.scale_weights = tuple(spacing), tuple(scale_weights)

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Replace the segmentation, a tensor ``(c, *space)`` or a list of them, by the packed."""
        given = data_dict["segmentation"]
        scales = given if isinstance(given, list) else [given]
        full = scales[0].shape[1:]
        packed = [
            self._packed(scale, [a / b for a, b in zip(full, scale.shape[1:], strict=True)])
            if weight
            else scale
            for scale, weight in zip(scales, self.scale_weights, strict=True)
        ]
        return {**data_dict, "segmentation": packed if isinstance(given, list) else packed[0]}

    def _packed(self, target: Tensor, shrunk: Sequence[float]) -> Tensor:
        if target.dtype != self.labels.dtype or len(target) != self.labels.channels:
            raise ValueError(
                f"the segmentation is {target.dtype} with {len(target)} channels, expected "
                f"{self.labels.dtype} with {self.labels.channels}: does a transform of this "
                "trainer change it?"
            )
        channels, ignore = self.labels.for_maps(target)
        spacing = tuple(a * b for a, b in zip(self.spacing, shrunk, strict=True))
        sample = Sample(channels, ignore, self.labels, spacing, tuple(shrunk))
        count = sum(each.channels(self.labels) for each in self.maps.values())
        dtype = container(self.labels, self.maps)
        packed = torch.empty(len(target) + count, *target.shape[1:], dtype=dtype)
        packed[: len(target)] = target
        rest = iter(packed[len(target) :])
        for name, each in self.maps.items():
            for channel in each.make(sample):
                next(rest).copy_(_stored(name, channel))
        return packed


def container(labels: Labels, maps: Mapping[str, TargetMap]) -> torch.dtype:
    """The dtype of a packed target."""
    return torch.int16 if any(each.real for each in maps.values()) else labels.dtype


def unpacked(
    packed: Tensor, labels: Labels, maps: Mapping[str, TargetMap]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Take a packed batch ``(b, c, *space)`` apart into nnU-Net's own target and the maps.

    Raises:
        ValueError: If its channels are not those of the target and the maps.
    """
    counts = [each.channels(labels) for each in maps.values()]
    expected, dtype = labels.channels + sum(counts), container(labels, maps)
    if packed.shape[1] != expected or packed.dtype != dtype:
        raise ValueError(
            f"the target is {packed.dtype} with {packed.shape[1]} channels, expected {dtype} with "
            f"{expected}, the maps ({', '.join(maps)}) included: does this trainer make its "
            "batches without get_training_transforms?"
        )
    target, *found = packed.split([labels.channels, *counts], 1)
    return target.to(labels.dtype), {
        name: channels.view(torch.float16) if each.real else channels
        for (name, each), channels in zip(maps.items(), found, strict=True)
    }


def _stored(name: str, channel: np.ndarray) -> Tensor:
    values = torch.from_numpy(channel)
    if not values.is_floating_point():
        return values
    least, most = (float(bound) for bound in values.aminmax())
    if max(-least, most) > torch.finfo(torch.float16).max:
        raise OverflowError(
            f"the {name} map goes from {least:g} to {most:g}, but is kept in half precision, which "
            "ends at 65504: clip it, or measure it in voxels"
        )
    return values.half().view(torch.int16)
