"""Focal loss, alone and beside Dice, by MONAI's arguments."""

import warnings
from collections.abc import Sequence
from typing import final

from segloss.arguments import not_negative, numbers
from segloss.engine.voxel import Focal
from segloss.monai.base import (
    Activation,
    SumOfTerms,
    Weights,
    check_logits,
    class_weight,
    reduction_of,
)
from segloss.monai.channels import Channels
from segloss.monai.overlap import DiceLoss, GeneralizedDiceLoss
from segloss.monai.voxel_terms import FocalMean

__all__ = ["DiceFocalLoss", "FocalLoss", "GeneralizedDiceFocalLoss"]


@final
class FocalLoss(SumOfTerms):
    """`monai.losses.FocalLoss`: from 0.

    Args:
        include_background: Score channel 0 too. With a softmax it is part of that in any case.
        to_onehot_y: See `DiceLoss`.
        gamma: The power of the probability of being wrong, from 0.
        alpha: With a softmax the weight of the foreground, 1 - alpha being that of the background,
            or a weight for each scored class. With sigmoids the weight of entries that are 1, those
            that are 0 having 1 - alpha, or one for each scored class, those that are 0 having 1.
        weight: See `DiceLoss`.
        reduction: ``"mean"`` over samples, classes and voxels, or ``"sum"`` over samples and
            classes of the mean over the voxels. There is no ``"none"``.
        use_softmax: A softmax instead of sigmoids.
        ignore_index: See `DiceLoss`.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> FocalLoss(to_onehot_y=True, use_softmax=True)(logits, labels)
        tensor(0.0866)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        weight: Weights | None = None,
        reduction: str = "mean",
        use_softmax: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        by_class: float | tuple[float, ...] | None
        if alpha is None or isinstance(alpha, (int, float)):
            by_class = None if alpha is None else _share(alpha)
        else:
            by_class = numbers("alpha", alpha)
        one_weight = isinstance(by_class, float)
        if use_softmax and one_weight and not include_background:
            warnings.warn(
                "alpha weighs the foreground against the background, and include_background=False "
                "leaves no background: alpha has no effect; give one for each scored class",
                stacklevel=2,
            )
            by_class = None
        if use_softmax:
            channels = Channels(activation="softmax", ignore=ignore_index)
        else:
            channels = Channels(
                activation="sigmoid",
                ignore=ignore_index,
                positive=(by_class,) if isinstance(by_class, float) else by_class,
                negative=1 - by_class if isinstance(by_class, float) else 1.0,
            )
        term = FocalMean(
            channels,
            Focal(not_negative("gamma", gamma)),
            alpha=by_class if use_softmax else None,
            background=include_background,
            weight=class_weight(weight),
            reduction=reduction_of(reduction, voxels=True),
        )
        super().__init__((1.0, term))


def _share(alpha: float) -> float:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, or one for each class, got {alpha!r}")
    return float(alpha)


@final
class DiceFocalLoss(SumOfTerms):
    """`monai.losses.DiceFocalLoss`: Dice plus the focal loss of sigmoids; from 0.

    The focal loss is that of sigmoids whatever the activation, as in MONAI. For a softmax's write
    ``segloss.DiceLoss() + segloss.FocalLoss()``.

    Args:
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`; this or another activation must be given.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`. The focal loss takes the input as logits.
        squared_pred: See `DiceLoss`.
        jaccard: See `DiceLoss`.
        reduction: ``"mean"`` or ``"sum"``; there is no ``"none"``.
        smooth_nr: Added to Dice's numerator.
        smooth_dr: Added to Dice's denominator.
        batch: See `DiceLoss`.
        gamma: See `FocalLoss`.
        weight: See `DiceLoss`.
        lambda_dice: Weight of Dice.
        lambda_focal: Weight of the focal loss.
        alpha: See `FocalLoss`.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> DiceFocalLoss(to_onehot_y=True, sigmoid=True)(logits, labels)
        tensor(0.8400)
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
        gamma: float = 2.0,
        weight: Weights | None = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: float | None = None,
    ) -> None:
        check_logits(sigmoid, softmax, other_act)
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
            weight,
        )
        focal = FocalLoss(include_background, to_onehot_y, gamma, alpha, weight, reduction)
        super().__init__(
            *dice.scaled("lambda_dice", lambda_dice), *focal.scaled("lambda_focal", lambda_focal)
        )


@final
class GeneralizedDiceFocalLoss(SumOfTerms):
    """`monai.losses.GeneralizedDiceFocalLoss`: generalised Dice plus the focal loss of sigmoids.

    From 0. The focal loss is that of sigmoids whatever the activation, as in MONAI.

    Args:
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`; this or another activation must be given.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`. The focal loss takes the input as logits.
        w_type: See `GeneralizedDiceLoss`.
        reduction: ``"mean"`` or ``"sum"``; there is no ``"none"``.
        smooth_nr: Added to Dice's numerator.
        smooth_dr: Added to Dice's denominator.
        batch: See `DiceLoss`.
        gamma: See `FocalLoss`.
        weight: Of the focal loss, see `DiceLoss`.
        lambda_gdl: Weight of the generalised Dice.
        lambda_focal: Weight of the focal loss.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> GeneralizedDiceFocalLoss(to_onehot_y=True, softmax=True)(logits, labels)
        tensor(0.6732)
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
        gamma: float = 2.0,
        weight: Weights | None = None,
        lambda_gdl: float = 1.0,
        lambda_focal: float = 1.0,
    ) -> None:
        check_logits(sigmoid, softmax, other_act)
        dice = GeneralizedDiceLoss(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            w_type,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
        )
        focal = FocalLoss(include_background, to_onehot_y, gamma, None, weight, reduction)
        super().__init__(
            *dice.scaled("lambda_gdl", lambda_gdl), *focal.scaled("lambda_focal", lambda_focal)
        )
