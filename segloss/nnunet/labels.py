"""What the channels of an nnU-Net target mean, as the workers and the loss need to know it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segloss.encoding import Encoding, Multiclass, Multilabel

__all__ = ["Labels"]

# Marks unknown voxels in a region's channel of 0 and 1.
_UNKNOWN = 255


@dataclass(frozen=True)
class Labels:
    """How nnU-Net writes its target: class labels in one channel, or a channel for each region.

    An ignore label stays a label among labels; beside regions it is one more channel, the last.

    Args:
        classes: Number of foreground classes, or of regions.
        regions: Whether the target holds regions.
        ignore: The ignore label, if there is one.

    Example:
        >>> Labels(classes=2, regions=True, ignore=3).channels
        3
    """

    classes: int
    regions: bool = False
    ignore: int | None = None

    @classmethod
    def of(cls, manager: Any) -> "Labels":
        """Those of nnU-Net's label manager."""
        if manager.has_regions:
            return cls(len(manager.foreground_regions), True, manager.ignore_label)
        return cls(len(manager.foreground_labels), False, manager.ignore_label)

    @property
    def channels(self) -> int:
        """How many channels nnU-Net's target has."""
        return self.classes + (self.ignore is not None) if self.regions else 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which nnU-Net delivers it."""
        return torch.bool if self.regions else torch.int16

    def encoding(self, background: bool) -> Encoding:
        """The same for a loss. Regions have no background to leave out."""
        if self.regions:
            return Multilabel()
        return Multiclass(background=background, ignore=self.ignore)

    def for_loss(self, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Take a batch's target apart into that of a loss and the weight of its voxels."""
        if not self.regions or self.ignore is None:
            return target, {}
        return target[:, :-1], {"weight": target[:, -1:].logical_not()}

    def for_maps(self, target: Tensor) -> "tuple[np.ndarray | _Regions, int | None]":
        """Take a sample's target apart into the channels of a label and its ignore value."""
        channels = target.numpy()
        if not self.regions or self.ignore is None:
            return channels, self.ignore
        return _Regions(channels[:-1], channels[-1]), _UNKNOWN


class _Regions:
    """Masks in whose channels the unknown voxels are marked, one at a time."""

    def __init__(self, masks: np.ndarray, unknown: np.ndarray) -> None:
        self.masks, self.unknown = masks, unknown

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> np.ndarray:
        marked: np.ndarray = self.masks[index].astype(np.uint8)
        marked[self.unknown] = _UNKNOWN
        return marked
