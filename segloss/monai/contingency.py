"""Matthews' correlation coefficient by MONAI's arguments."""

from typing import final

from segloss.monai.base import Activation, SumOfTerms, group_of, reduction_of
from segloss.monai.channels import Channels, activation_of
from segloss.monai.region_terms import Matthews

__all__ = ["MCCLoss"]


@final
class MCCLoss(SumOfTerms):
    """`monai.losses.MCCLoss`: from 0 (all right) by 1 (a guess) to 2 (all wrong).

    A class absent from the target has a loss of 1, with no gradient, unless the prediction is
    exactly 0 there: as in MONAI. `segloss.MCCLoss` is smoothed otherwise, and has one.

    Args:
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(b, k)`` (``(k,)`` with `batch`).
        smooth_nr: Added to the numerator, in voxels squared.
        smooth_dr: Added to the product under the root, in voxels to the fourth.
        batch: See `DiceLoss`.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]])
        >>> MCCLoss(to_onehot_y=True, softmax=True)(logits, labels)
        tensor(1.)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        reduction: str = "mean",
        smooth_nr: float = 0.0,
        smooth_dr: float = 1e-5,
        batch: bool = False,
    ) -> None:
        term = Matthews(
            Channels(activation=activation_of(sigmoid, softmax, other_act)),
            background=include_background,
            reduction=reduction_of(reduction),
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            group=group_of(batch),
            as_image=False,
        )
        super().__init__((1.0, term))
