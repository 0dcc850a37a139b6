"""Dice and cross entropy by MONAI's arguments."""

from typing import final

from torch import Tensor

from segloss.arguments import not_negative, one_of
from segloss.engine.voxel import CrossEntropy
from segloss.losses.base import Reduction
from segloss.monai.base import (
    Activation,
    SumOfTerms,
    Term,
    check_logits,
    class_weight,
    reduction_of,
)
from segloss.monai.channels import Channels
from segloss.monai.overlap import DiceLoss
from segloss.monai.voxel_terms import BinaryEntropy, LabelEntropy, Smoothing

__all__ = ["DiceCELoss"]


@final
class DiceCELoss(SumOfTerms):
    """`monai.losses.DiceCELoss`: Dice plus cross entropy, in one pass; from 0.

    The cross entropy is that of a softmax, or, with ``sigmoid=True``, of the yes or no of every
    entry. It scores the background in any case.

    Args:
        include_background: Dice of channel 0 too; a single channel always is.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`; this or another activation must be given.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`. The cross entropy is that of a softmax of the input.
        squared_pred: See `DiceLoss`.
        jaccard: See `DiceLoss`.
        reduction: ``"mean"`` or ``"sum"``.
        smooth_nr: Added to Dice's numerator.
        smooth_dr: Added to Dice's denominator.
        batch: See `DiceLoss`.
        weight: A number for each class: the weights of a softmax's cross entropy, or, with sigmoids,
            of entries that are 1; and of the scored classes' Dice.
        lambda_dice: Weight of Dice.
        lambda_ce: Weight of the cross entropy.
        label_smoothing: Share of the label that goes to all classes alike, with a softmax.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> DiceCELoss(to_onehot_y=True, softmax=True)(logits, labels)
        tensor(1.3598)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Tensor | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        check_logits(sigmoid, softmax, other_act)
        reduction = one_of("reduction", str(reduction), ("mean", "sum"))
        by_class = class_weight(weight)
        dice = DiceLoss(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            squared_pred,
            jaccard,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            by_class if by_class is None or include_background else by_class[1:] or None,
        )
        entropy = _cross_entropy(sigmoid, by_class, reduction_of(reduction), label_smoothing)
        scale = not_negative("lambda_ce", lambda_ce)
        super().__init__(
            *dice.scaled("lambda_dice", lambda_dice), *((scale * w, term) for w, term in entropy)
        )


def _cross_entropy(
    sigmoid: bool, weight: tuple[float, ...] | None, reduction: Reduction, smoothing: float
) -> list[tuple[float, Term]]:
    if not 0 <= smoothing <= 1 or (sigmoid and smoothing):
        raise ValueError(
            f"label_smoothing must be from 0 to 1, and is for a softmax, got {smoothing!r}"
            + (" with sigmoid=True" if sigmoid else "")
        )
    if sigmoid:
        channels = Channels(activation="sigmoid", positive=weight)
        return [(1.0, BinaryEntropy(channels, CrossEntropy(), reduction=reduction))]
    channels = Channels(activation="softmax")
    label = LabelEntropy(channels, CrossEntropy(), weight=weight, reduction=reduction)
    if not smoothing:
        return [(1.0, label)]
    rest = Smoothing(channels, weight=weight, reduction=reduction)
    return [(1 - smoothing, label), (smoothing, rest)]
