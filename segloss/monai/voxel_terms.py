"""Focal loss and cross entropy as MONAI averages them, from the engine's sums over voxels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.engine.constants import constant
from segloss.engine.sums import Request
from segloss.engine.voxel import Phi, Relative, VoxelSum
from segloss.losses.base import Sums, ratio, reduced
from segloss.monai.base import Term, TermOptions
from segloss.monai.channels import Channels, counted
from segloss.shapes import Reduced

__all__ = ["BinaryEntropy", "FocalMean", "LabelEntropy", "Smoothing"]


class EntryTerm(Term):
    """A sum of φ over the voxels, or, without a softmax, over all entries.

    Args:
        encoding: The channels.
        phi: φ.
        alpha: One more weight for each scored class; or a number for all but the first, which has
            the rest of 1.
        **options: Those of `Term`.
    """

    def __init__(
        self,
        encoding: Channels,
        phi: Phi,
        *,
        alpha: float | tuple[float, ...] | None = None,
        **options: Unpack[TermOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.phi = phi
        self.alpha = alpha
        self.positive = encoding.positive

    @property
    def request(self) -> Request:
        return Request(voxels=(VoxelSum(self.phi),))

    def full_class_weight(self, channels: int) -> tuple[float, ...] | None:
        skipped = self.skipped(channels)
        if self.positive is not None:
            self.by_class("alpha or weight", self.positive, channels)
        if not skipped and self.weight is None and self.alpha is None:
            return None
        weight = self.by_class("weight", self.weight or (1.0,), channels)
        alpha = (1.0,) if self.alpha is None else self.alpha
        if isinstance(alpha, float):
            alpha = (1 - alpha,) + (alpha,) * (channels - 1)
        alpha = self.by_class("alpha", alpha, channels)
        return (0.0,) * skipped + tuple(a * w for a, w in zip(alpha, weight, strict=True))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        ((total, norm),) = voxels
        return torch.stack((total, norm))


@final
class FocalMean(EntryTerm):
    """Its mean over voxels and classes alike, also over those that a softmax leaves at 0.

    A ``"sum"`` is over samples and classes, of the means over their voxels.
    """

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        total, channels = value[0], input.shape[1]
        if self.ignore is None:
            voxels = torch.full_like(total, input[0, 0].numel())
        else:
            voxels = counted(target, self.ignore).flatten(1).sum(1).to(total)
        if self.reduction == "sum":
            return reduced(ratio(total, voxels), "sum")
        return ratio(total.sum(), voxels.sum() * (channels - self.skipped(channels)))


@final
class BinaryEntropy(EntryTerm):
    """Cross entropy of sigmoids: its mean, or its sum, over voxels and classes."""

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        total = value[0].sum()
        return total if self.reduction == "sum" else total / input.numel()


@final
class LabelEntropy(EntryTerm):
    """Cross entropy of a softmax: its mean is weighted over labels, but not over memberships."""

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        return _label_mean(value, self.reduction, input, target)


@final
class Smoothing(Term):
    """The mean over the classes of -log p, weighted: what label smoothing adds."""

    @property
    def request(self) -> Request:
        return Request(("true",), (VoxelSum(EveryClass(self.weight)),))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        true, ((total, _),) = regions["true"], voxels
        norm = true if self.weight is None else true * constant(self.weight, true)
        return torch.stack((total, norm.sum(1)))

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        return _label_mean(value, self.reduction, input, target)


@dataclass(frozen=True)
class EveryClass(Relative):
    """The mean over the classes of weight times -log p."""

    weight: tuple[float, ...] | None

    @property
    def name(self) -> str:
        return f"every class {self.weight}"

    def measure(self, m: Tensor, surprises: Tensor) -> Tensor:
        if self.weight is not None:
            surprises = surprises * constant(self.weight, surprises).view(-1, 1, 1, 1)
        return surprises.mean(0)


def _label_mean(value: Tensor, reduction: str, input: Tensor, target: Tensor) -> Tensor:
    """The sum over the batch, or what PyTorch calls the mean: by the weights of labels only."""
    total, weights = value.sum(1).unbind()
    if reduction == "sum":
        return total
    if target.shape[1] == input.shape[1]:
        weights = torch.full_like(weights, input[:, 0].numel())
    return ratio(total, weights)
