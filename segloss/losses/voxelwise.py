"""Losses of single voxels, averaged: cross entropy, focal loss."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import fraction, not_negative
from segloss.encoding import Encoding, Multiclass, Multilabel
from segloss.engine.logit_cost import LogitCost
from segloss.engine.voxel import CrossEntropy, Focal
from segloss.losses.base import VoxelLoss, VoxelOptions

__all__ = ["CrossEntropyLoss", "FocalLoss"]


@dataclass(frozen=True)
class SmoothedCrossEntropy(LogitCost):
    """-Σ α ((1 - ε) y + ε/K) log p over K outcomes."""

    smoothing: float

    @property
    def name(self) -> str:
        return f"smoothed cross entropy {self.smoothing}"

    def shares(self, true: Tensor, class_weight: Tensor | None) -> Tensor:
        """The smoothed memberships, each with the weight of its class; none of unscored voxels."""
        if class_weight is not None:
            true = true * (class_weight != 0)
        shares = true.lerp(true.mean(1, keepdim=True), self.smoothing)
        return shares if class_weight is None else shares * class_weight

    def value(self, logits: Tensor, shares: Tensor) -> Tensor:
        return -(shares * logits.log_softmax(1)).sum(1)

    def slope(self, logits: Tensor, pred: Tensor, shares: Tensor) -> Tensor:
        return pred * shares.sum(1, keepdim=True) - shares


@final
class CrossEntropyLoss(VoxelLoss):
    """The mean of -log p(true class): from 0.

    With `segloss.Multilabel` it is the binary cross entropy of every entry. As in PyTorch the mean
    is weighted by ``weight=``, by class, and leaves ignored voxels out.

    Args:
        encoding: What the channels mean. Smoothing takes `segloss.Multiclass` or
            `segloss.Multilabel`.
        label_smoothing: ε, from 0 to 1: the target becomes (1 - ε) y + ε/K, of the K channels, or
            of yes and no with `segloss.Multilabel`. The least value is then above 0, and reached
            where the prediction is as smooth as the target. With labels, value and gradient are
            those of PyTorch, which weighs each part of the smoothed target by the class of the part,
            but divides by the weights of the labels; unlike there, a voxel whose class has the
            weight 0 counts for nothing at all.
        **options: Those of `segloss.VoxelLoss`.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> CrossEntropyLoss()(logits, labels)
        tensor(0.6931)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        label_smoothing: float = 0.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.label_smoothing = fraction("label_smoothing", label_smoothing)
        if self.label_smoothing and not isinstance(encoding, (Multiclass, Multilabel)):
            raise TypeError(
                "label_smoothing is defined for the encodings Multiclass and Multilabel, got "
                f"{encoding!r}: leave it at 0"
            )

    @property
    def phi(self) -> CrossEntropy | LogitCost:
        if self.label_smoothing:
            return SmoothedCrossEntropy(self.label_smoothing)
        return CrossEntropy()


@final
class FocalLoss(VoxelLoss):
    """The mean of (1 - p)^γ times -log p, with p the probability of the true class: from 0.

    The softmax form with `segloss.Multiclass`, the one-against-the-rest form with
    `segloss.Multilabel`: different losses. Finite for every γ ≥ 0, in value and gradient, at any
    logits. MONAI divides the softmax form by the number of channels too: its value is ours / c.

    Args:
        encoding: What the channels mean.
        gamma: γ; 0 is cross entropy.
        **options: Those of `segloss.VoxelLoss`; ``class_weight`` is the paper's α.

    References:
        Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 4 and 5.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> FocalLoss(gamma=1)(logits, labels)
        tensor(0.3466)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        gamma: float = 2.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.gamma = not_negative("gamma", gamma)

    @property
    def phi(self) -> Focal:
        return Focal(self.gamma)
