"""Dice and Tversky bent: which structures learn most, the well or the badly found?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative
from segloss.encoding import Encoding, Multiclass
from segloss.engine.voxel import VoxelSum
from segloss.losses.base import (
    Reduction,
    RegionOptions,
    ScoreLoss,
    Sums,
    class_mean,
    ratio,
    reduced,
)
from segloss.losses.overlap import dice, tversky
from segloss.shapes import Reduced, Scores

__all__ = [
    "ExponentialLogarithmicLoss",
    "FocalTverskyLoss",
    "LogCoshDiceLoss",
    "focal_tversky",
    "joined",
    "log_cosh_dice",
    "logarithmic_dice",
    "power",
]

_NEAR_ZERO = 1e-4


def power(x: Tensor, exponent: float) -> Tensor:
    """Raise to a power, below 0.0001 continued by a straight line through 0.

    Exponents below 1 have an infinite slope at 0: NaN for whatever is perfect.

    Example:
        >>> import torch
        >>> power(torch.tensor([0.0, 0.25]), 0.5)
        tensor([0.0000, 0.5000])
    """
    return x * x.clamp(min=_NEAR_ZERO).pow(exponent - 1)


def log_cosh_dice(sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Scores:
    """The logarithm of the hyperbolic cosine of `segloss.dice`.

    Takes what `segloss.dice` does.

    Returns:
        ``(g, k)``, from 0 to 0.4338.

    Example:
        >>> import torch
        >>> one, none = torch.ones(1, 1), torch.zeros(1, 1)
        >>> log_cosh_dice({"overlap": none, "pred": one, "true": one}, smooth_nr=0)
        tensor([[0.4338]])
    """
    half = dice(sums, smooth_nr, smooth_dr) / 2
    return torch.log1p(2 * half.sinh().square())  # log cosh, with all digits near 0


def focal_tversky(
    sums: Sums,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Scores:
    """`segloss.tversky` to the power γ, below 0.0001 a straight line to 0.

    Args:
        sums: ``overlap``, ``pred`` and ``true``, each ``(g, k)``.
        alpha: Cost of a false positive.
        beta: Cost of a false negative.
        gamma: γ.
        smooth_nr: Added to the numerator of the index, in voxels.
        smooth_dr: Added to its denominator, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> half = torch.tensor([[0.5]])
        >>> focal_tversky({"overlap": half, "pred": half, "true": 2 * half}, gamma=2)
        tensor([[0.1695]])
    """
    return power(tversky(sums, alpha, beta, smooth_nr, smooth_dr), gamma)


def logarithmic_dice(
    sums: Sums, gamma: float = 0.3, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5
) -> Scores:
    """Minus the logarithm of the soft Dice coefficient, to the power γ.

    Logarithms of less than 0.0001, and powers of less, are continued by straight lines.

    Args:
        sums: ``overlap``, ``pred`` and ``true``, each ``(g, k)``.
        gamma: γ.
        smooth_nr: Added to the numerator of the coefficient, in voxels.
        smooth_dr: Added to its denominator, in voxels.

    Returns:
        ``(g, k)``, from 0; for γ = 0.3 to 2.01, where nothing overlaps.

    Example:
        >>> import torch
        >>> half = torch.tensor([[0.5]])
        >>> logarithmic_dice({"overlap": half, "pred": half, "true": 2 * half}, gamma=1)
        tensor([[0.4055]])
    """
    error = dice(sums, smooth_nr, smooth_dr)
    least = 1 - _NEAR_ZERO
    beyond = (error - least).clamp(min=0) / _NEAR_ZERO
    return power(beyond - torch.log1p(-error.clamp(max=least)), gamma)


def joined(
    score: Tensor,
    surprise: Tensor,
    class_weight: tuple[float, ...] | None,
    reduction: Reduction,
    present: Tensor | None,
) -> Tensor:
    """Reduce ``(g, k)`` scores as `class_mean` does, with a mean over voxels, ``(g,)``, added."""
    if reduction == "mean":  # absent classes leave the mean of the scores alone
        return class_mean(score, class_weight, "mean", present) + surprise.mean()
    score = class_mean(score, class_weight, "none", present)
    return reduced(score + surprise[:, None], reduction)


@final
class LogCoshDiceLoss(ScoreLoss):
    """`segloss.log_cosh_dice` of logits: from 0 to 0.4338.

    The Dice loss d with the slope tanh d: the gradient fades as the overlap becomes good, and is at
    most 0.76 of that of `segloss.DiceLoss`. Takes the options of `segloss.RegionLoss`.

    References:
        Jadon, "A survey of loss functions for semantic segmentation", CIBCB 2020.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> LogCoshDiceLoss(reduction="none")(logits, labels)
        tensor([[0.0546, 0.4338]])
    """

    needs = ("overlap", "pred", "true")

    def score(self, sums: Sums) -> Scores:
        return log_cosh_dice(sums, self.smooth_nr, self.smooth_dr)


@final
class FocalTverskyLoss(ScoreLoss):
    """`segloss.focal_tversky` of logits: from 0 to 1.

    γ is the exponent itself. The paper writes its exponent 1/γ: its 4/3 is our 0.75. With an
    exponent below 1 what is nearly right pulls more than in `segloss.TverskyLoss`, above 1 less.
    Slopes stay finite for every γ: below 0.0001 the power is a straight line.

    Args:
        encoding: What the channels mean.
        alpha: Cost of a false positive.
        beta: Cost of a false negative.
        gamma: γ.
        **options: Those of `segloss.RegionLoss`.

    References:
        Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
        lesion segmentation", ISBI 2019.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> FocalTverskyLoss(alpha=0.5, beta=0.5, gamma=2, reduction="none")(logits, labels)
        tensor([[0.1111, 1.0000]])
    """

    needs = ("overlap", "pred", "true")

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.75,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.alpha = not_negative("alpha", alpha)
        self.beta = not_negative("beta", beta)
        self.gamma = not_negative("gamma", gamma)

    def score(self, sums: Sums) -> Scores:
        return focal_tversky(
            sums, self.alpha, self.beta, self.gamma, self.smooth_nr, self.smooth_dr
        )


@dataclass(frozen=True)
class _PowerOfCrossEntropy:
    """φ(m) = m^γ, near 0 as `power` has it."""

    gamma: float

    @property
    def name(self) -> str:
        return f"cross entropy to the power {self.gamma}"

    def value(self, m: Tensor) -> Tensor:
        return power(m, self.gamma)

    def slope(self, m: Tensor) -> Tensor:
        factor = torch.full_like(m, self.gamma).masked_fill(m < _NEAR_ZERO, 1)
        return factor * m.clamp(min=_NEAR_ZERO).pow(self.gamma - 1)


@final
class ExponentialLogarithmicLoss(ScoreLoss):
    """Powers of logarithms of overlap and of probability, weighed and added: from 0.

    `segloss.logarithmic_dice` of each class, and the mean over the voxels of (-log p(true
    class))^γ. With γ below 1 it pulls at what is nearly right and at what is quite wrong, and
    less in between. ``reduction="none"`` gives ``(g, k)``, the voxels' mean added to each class.

    Args:
        encoding: What the channels mean.
        gamma: γ of both terms; above 1 it pulls at what is wrong.
        dice_weight: Weight of the overlap.
        cross_entropy_weight: Weight of the voxels.
        **options: Those of `segloss.RegionLoss`. ``class_weight`` weighs the classes of the first
            term and the voxels of the second, the latter as in `segloss.CrossEntropyLoss`;
            ``empty`` is about the first. Only voxels have weights in the paper: the square root of
            the inverse frequencies of their classes.

    References:
        Wong et al., "3D segmentation with exponential logarithmic loss for highly unbalanced object
        sizes", MICCAI 2018. The straight lines near 0 are ours.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> ExponentialLogarithmicLoss(gamma=1)(logits, labels)
        tensor(0.6931)
    """

    needs = ("overlap", "pred", "true")

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        gamma: float = 0.3,
        dice_weight: float = 0.8,
        cross_entropy_weight: float = 0.2,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.gamma = not_negative("gamma", gamma)
        self.dice_weight = not_negative("dice_weight", dice_weight)
        self.cross_entropy_weight = not_negative("cross_entropy_weight", cross_entropy_weight)

    @property
    def voxel_terms(self) -> tuple[VoxelSum, ...]:
        return (VoxelSum(_PowerOfCrossEntropy(self.gamma)),)

    def score(self, sums: Sums) -> Scores:
        return logarithmic_dice(sums, self.gamma, self.smooth_nr, self.smooth_dr)

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        score, present = self.scores(regions)
        ((total, norm),) = voxels
        surprise = self.cross_entropy_weight * ratio(total, norm)
        score = self.dice_weight * score
        return joined(score, surprise, self.class_weight, self.reduction, present)
