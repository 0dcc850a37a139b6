"""Dice, masked Dice, Tversky and generalised Dice by MONAI's arguments."""

from typing import final

from torch import Tensor

from segloss.arguments import not_negative, one_of
from segloss.encoding import expect_shape
from segloss.monai.base import (
    Activation,
    SumOfTerms,
    Weights,
    class_weight,
    group_of,
    reduction_of,
)
from segloss.monai.channels import Channels, activation_of
from segloss.monai.region_terms import GeneralizedOverlap, Overlap
from segloss.shapes import Logits, Reduced, Target

__all__ = ["DiceLoss", "GeneralizedDiceLoss", "MaskedDiceLoss", "TverskyLoss"]


class DiceLoss(SumOfTerms):
    """`monai.losses.DiceLoss`: from 0 to 1 times the weight.

    Args:
        include_background: Score channel 0 too; a single channel always is.
        to_onehot_y: Has no effect: labels are known by their single channel.
        sigmoid: The channels are logits of sigmoids.
        softmax: The channels are logits of a softmax.
        other_act: A function that makes them probabilities. Without any of the three they are
            probabilities, and values outside 0 to 1 are an error.
        squared_pred: Squares in the denominator.
        jaccard: Jaccard instead of Dice.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(b, k, 1, 1)`` (``(k, 1, 1)`` with
            `batch`; one more 1 in 3D).
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: Score the batch as one.
        weight: A number for each scored class, or one for all; not normalised. As in MONAI it has
            no effect where only one class is scored.
        soft_label: The target holds soft memberships, at which the loss is to be least.
        ignore_index: Label of the voxels that count for nothing.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> DiceLoss(to_onehot_y=True, softmax=True)(logits, labels)
        tensor(0.6667)
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
        weight: Weights | None = None,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        cost = 1.0 if jaccard else 0.5
        term = Overlap(
            Channels(activation=activation_of(sigmoid, softmax, other_act), ignore=ignore_index),
            cost,
            cost,
            background=include_background,
            squared=squared_pred,
            reduction=reduction_of(reduction),
            # MONAI's fraction is that of Tversky, doubled.
            smooth_nr=not_negative("smooth_nr", smooth_nr) / 2,
            smooth_dr=not_negative("smooth_dr", smooth_dr) / 2,
            group=group_of(batch),
            weight=class_weight(weight),
            soft=soft_label,
        )
        super().__init__((1.0, term))


@final
class MaskedDiceLoss(DiceLoss):
    """`monai.losses.MaskedDiceLoss`: Dice of the voxels in a mask.

    Voxels outside it count for nothing, in no class. Takes the options of `DiceLoss`, but for
    ``ignore_index``.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> mask = torch.ones(1, 1, 4, 4)
        >>> MaskedDiceLoss(to_onehot_y=True, softmax=True)(logits, labels, mask)
        tensor(0.6667)
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
        weight: Weights | None = None,
        soft_label: bool = False,
    ) -> None:
        super().__init__(
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
            weight,
            soft_label,
        )

    def forward(self, input: Logits, target: Target, mask: Tensor | None = None) -> Reduced:
        """The loss of the voxels in the mask.

        Args:
            input: ``(b, c, *space)``.
            target: Labels ``(b, 1, *space)``, or memberships shaped like the input.
            mask: ``(b, 1, *space)`` or ``(1, 1, *space)`` of 0 and 1; None for all voxels.
        """
        if mask is None:
            return self.scored(input, target)
        b, space = len(input), input.shape[2:]
        expect_shape("mask", mask, *dict.fromkeys([(b, 1, *space), (1, 1, *space)]))
        return self.scored(input, target, weight=mask.expand(b, 1, *space))


@final
class TverskyLoss(SumOfTerms):
    """`monai.losses.TverskyLoss`: from 0 to 1.

    Args:
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`.
        alpha: Cost of a false positive.
        beta: Cost of a false negative.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(b, k)`` (``(k,)`` with `batch`).
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: See `DiceLoss`.
        soft_label: See `DiceLoss`.
        ignore_index: See `DiceLoss`.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7)(logits, labels)
        tensor(0.7059)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        term = Overlap(
            Channels(activation=activation_of(sigmoid, softmax, other_act), ignore=ignore_index),
            alpha,
            beta,
            background=include_background,
            reduction=reduction_of(reduction),
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            group=group_of(batch),
            soft=soft_label,
            as_image=False,
        )
        super().__init__((1.0, term))


class GeneralizedDiceLoss(SumOfTerms):
    """`monai.losses.GeneralizedDiceLoss`: from 0 to 1.

    Args:
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`.
        w_type: A class counts by one over its volume squared (``"square"``), one over its volume
            (``"simple"``), or as any other (``"uniform"``).
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(b, 1, 1, 1)`` (``(1, 1, 1)`` with
            `batch`; one more 1 in 3D).
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: See `DiceLoss`.
        soft_label: See `DiceLoss`.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> GeneralizedDiceLoss(to_onehot_y=True, softmax=True)(logits, labels)
        tensor(0.5000)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        w_type: str = "square",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
    ) -> None:
        powers = {"square": -2, "simple": -1, "uniform": 0}
        term = GeneralizedOverlap(
            Channels(activation=activation_of(sigmoid, softmax, other_act)),
            powers[one_of("w_type", str(w_type), tuple(powers))],
            background=include_background,
            reduction=reduction_of(reduction),
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            group=group_of(batch),
            soft=soft_label,
        )
        super().__init__((1.0, term))
