"""nnU-Net's loss with terms of ours, at every scale of deep supervision."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from segloss.compose import CompoundLoss, Weight
from segloss.losses.base import Loss
from segloss.nnunet.fused import fused
from segloss.nnunet.labels import Labels
from segloss.nnunet.peer import DeepSupervisionWrapper

__all__ = ["TermsLoss"]


class TermsLoss(nn.Module):
    """What nnU-Net calls as ``loss(output, target)``; the maps are handed over beside the call.

    Args:
        base: The loss that nnU-Net's trainer built, its deep supervision included.
        terms: What is added to it at each scale, with nnU-Net's own weights of the scales.
        labels: What the channels of the target mean.
        base_weight: What nnU-Net's loss is multiplied by.
        fuse: Compute nnU-Net's loss in one pass with the terms rather than by its own code: the
            same number, with less memory.

    Attributes:
        scale_weights: The weight of each scale.
        maps: The maps of each scale that counts; set for the time of a step.
        epoch: The number of epochs done, for weights that are schedules.

    Raises:
        TypeError: If nnU-Net's loss is to be fused and is none that we know.
        ValueError: If there is no term.
    """

    def __init__(
        self,
        base: nn.Module,
        terms: Mapping[str, tuple[Weight, Loss]],
        labels: Labels,
        *,
        base_weight: Weight = 1.0,
        fuse: bool = False,
    ) -> None:
        super().__init__()
        self.labels, self.base_weight = labels, base_weight
        wrapper: Any = base if isinstance(base, DeepSupervisionWrapper) else None
        self.supervised = wrapper is not None
        self.scale_weights = tuple(map(float, wrapper.weight_factors)) if wrapper else (1.0,)
        self.excess = 0.0
        self.base: nn.Module | None = None
        if fuse:
            own, self.excess = fused(wrapper.loss if wrapper else base, labels.classes)
            replaced = CompoundLoss(own) * base_weight
            self.compound = replaced + CompoundLoss(terms) if terms else replaced
        else:
            self.base, self.compound = base, CompoundLoss(terms)
        self.maps: Sequence[Mapping[str, Tensor]] | None = None
        self.epoch = 0

    @property
    def needs(self) -> frozenset[str]:
        """The maps that the terms read."""
        losses = [cast(Loss, loss) for loss in self.compound.losses.values()]
        return frozenset().union(*(loss.request.maps | loss.reads for loss in losses))

    @property
    def terms(self) -> dict[str, Tensor]:
        """The value of each term at full resolution, detached and without its weight."""
        return self.compound.terms

    def forward(
        self, output: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The loss of a batch.

        Raises:
            RuntimeError: If nobody set the maps.
            ValueError: If outputs, targets and maps are not one for each scale.
        """
        if self.maps is None:
            raise RuntimeError(
                "the maps are missing: this loss works inside train_step and validation_step"
            )
        outputs, targets = self.scales("output", output), self.scales("target", target)
        maps = self.scales("maps", list(self.maps) if self.supervised else self.maps[0])
        weight = self.base_weight
        weight = weight(self.epoch) if callable(weight) else weight
        self.compound.epoch = self.epoch
        total: Tensor = outputs[0].new_zeros((), dtype=torch.float32)
        if self.base is not None and weight:
            total = total + weight * self.base(output, target)
        for i in reversed(range(len(outputs))):  # the first scale last: its terms stay
            if self.scale_weights[i]:
                own, voxels = self.labels.for_loss(targets[i])
                value = self.compound(outputs[i], own, **maps[i], **voxels)
                total = total + self.scale_weights[i] * (value - weight * self.excess)
        return total

    def scales(self, name: str, given: Any) -> Sequence[Any]:
        """What is given for each scale, if for each; nnU-Net's wrapper would drop a surplus."""
        many = isinstance(given, list | tuple)
        if many != self.supervised:
            kind = "a list with one for each scale" if self.supervised else "no list"
            raise ValueError(f"{name} is {type(given).__name__}, expected {kind}")
        scales: Sequence[Any] = given if many else [given]
        if len(scales) != len(self.scale_weights):
            raise ValueError(
                f"{name} has {len(scales)} scales, but nnU-Net's loss has "
                f"{len(self.scale_weights)} weights: a scale left out would not be noticed"
            )
        return scales
