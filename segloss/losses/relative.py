"""Losses of single voxels that read the probabilities of every outcome, not of the true one only.

Their gradients come from autograd, a block of voxels at a time; the pass keeps only the logits all
the same.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import above_zero, not_negative, number
from segloss.encoding import Encoding, Multiclass, Multilabel
from segloss.engine.voxel import Phi, Relative
from segloss.losses.base import VoxelLoss, VoxelOptions

__all__ = ["LDRKLLoss", "NormalizedCrossEntropyLoss"]

# The margin in units of λ: beyond it, single precision cannot see what the margin asks for.
_WIDEST = 8.0


@dataclass(frozen=True)
class Normalized(Relative):
    """m / Σ -log p over all outcomes."""

    name = "normalized"

    def measure(self, m: Tensor, surprises: Tensor) -> Tensor:
        return m / surprises.sum(0)


@dataclass(frozen=True)
class Robust(Relative):
    """λ log Σ e^((f_k - f_y + c [k ≠ y]) / λ), with the logs of the probabilities as logits f."""

    temperature: float
    margin: float
    adaptation: float | None

    @property
    def name(self) -> str:
        return f"LDR-KL {self.temperature} {self.margin} {self.adaptation}"

    def measure(self, m: Tensor, surprises: Tensor) -> Tensor:
        temperature = self._adapted(m.detach(), surprises.detach())
        total = torch.logsumexp(-surprises / temperature, 0) + m / temperature
        # log(1 + e^c' (e^total - 1)) for c' = c / λ, without the power of what may be huge
        margin = self.margin / temperature
        return temperature * (
            margin + total + torch.log1p(torch.expm1(-margin) * torch.exp(-total))
        )

    def _adapted(self, m: Tensor, surprises: Tensor) -> Tensor:
        """λ of each voxel, ``(b, k, n)``: the less, the surer the prediction."""
        fixed = torch.full_like(m, self.temperature)
        if self.adaptation is None:
            return fixed
        margin, outcomes = self.margin / self.temperature, len(surprises)
        log_even = torch.log_softmax(-surprises / self.temperature, 0)
        log_true = -m / self.temperature - torch.logsumexp(-surprises / self.temperature, 0)
        # The odds of the others are e^margin higher than without it; their sum then is `total`.
        true = log_true.exp()
        total = true + math.exp(margin) * (1 - true)
        raised = (log_even.exp() * log_even).sum(0) - true * log_true + margin * (1 - true)
        negentropy = (true * log_true + math.exp(margin) * raised) / total - total.log()
        certainty = (negentropy + math.log(outcomes)) / math.log(outcomes)
        return fixed * (1 - certainty / self.adaptation)


@final
class NormalizedCrossEntropyLoss(VoxelLoss):
    """The mean of -log p of the true class over the sum of -log p of all: from 0, below 1.

    With `segloss.Multilabel`, all are yes and no. Robust, but slow alone, the more classes the
    slower, and the slower the larger the logits: add a passive loss, as `segloss.active_passive`
    does. Its gradient comes from autograd, a block at a time.

    Args:
        encoding: What the channels mean: `segloss.Multiclass` or `segloss.Multilabel`.
        group: See `segloss.VoxelLoss`.
        class_weight: See `segloss.VoxelLoss`.
        reduction: See `segloss.VoxelLoss`.

    References:
        Ma et al., "Normalized loss functions for deep learning with noisy labels", ICML 2020.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> NormalizedCrossEntropyLoss()(logits, labels)
        tensor(0.2500)
    """

    takes = (Multiclass, Multilabel)

    @property
    def phi(self) -> Phi:
        return Normalized()


@final
class LDRKLLoss(VoxelLoss):
    r"""The label-distributionally robust loss: the worst mixture of the classes' margins, from 0.

    .. math::

        \max_q \sum_k q_k (f_k - f_y + c [k \ne y]) - \lambda \sum_k q_k \log q_k
        = \lambda \log \sum_k e^{(f_k - f_y + c [k \ne y]) / \lambda}

    of the logits f. This is the paper's value plus λ log K for K classes, so that it is 0 where
    nothing is left to learn. λ = 1 without a margin is cross entropy; λ → 0 the largest margin, as
    in a support vector machine; λ → ∞ the mean one, whose pull is the same at every voxel, and
    which is robust. The pull of a voxel is never above 1. With `segloss.Multilabel`, the classes are
    yes and no, with f and 0. Its gradient comes from autograd, a block at a time.

    λ and c are in units of the logits. The authors' experiments normalise these first (their λ is
    10, their c 0.1, and these are the defaults); we do not.

    Args:
        encoding: What the channels mean: `segloss.Multiclass` or `segloss.Multilabel`.
        temperature: λ, above 0.
        margin: c, from 0 to 8 times the least λ.
        adaptation: α > 1 for a λ of each voxel, from (1 - 1/α) λ where the prediction, softmax(f /
            λ) with the margin, is certain to λ where it is even: λ (1 - KL / (α log K)), with the
            divergence from the even distribution. This is our reading of ALDR-KL: one step that
            remembers nothing, where the paper has a λ for each sample of the training set; λ gets
            no gradient, and terms without one are left out. The paper's α is 2. None for a fixed λ.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Zhu et al., "Label distributionally robust losses for multi-class classification: consistency,
        robustness and adaptivity", ICML 2023.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> LDRKLLoss(temperature=2.0, margin=0.0)(logits, labels)
        tensor(1.3863)
    """

    takes = (Multiclass, Multilabel)

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        temperature: float = 10.0,
        margin: float = 0.1,
        adaptation: float | None = None,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.temperature = above_zero("temperature", temperature)
        self.adaptation = None if adaptation is None else number("adaptation", adaptation)
        if adaptation is not None and adaptation <= 1:
            raise ValueError(
                f"adaptation must be a number above 1, or None for a fixed λ, got {adaptation!r}"
            )
        self.margin = not_negative("margin", margin)
        widest = _WIDEST * temperature * (1 if adaptation is None else 1 - 1 / adaptation)
        if self.margin > widest:
            raise ValueError(
                f"margin must be at most {_WIDEST:g} times the least temperature, {widest:g} here, "
                f"to be seen in single precision, got {margin!r}"
            )

    @property
    def phi(self) -> Phi:
        return Robust(self.temperature, self.margin, self.adaptation)
