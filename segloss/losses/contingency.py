"""Scores of all four: hits, false alarms, misses, and right rejections."""

from collections.abc import Sequence
from typing import final

from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import fraction
from segloss.encoding import Encoding, Multiclass
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.losses.base import Loss, Reduction, RegionOptions, ScoreLoss, Sums, class_mean, ratio
from segloss.shapes import Reduced, Scores

__all__ = [
    "MCCLoss",
    "RegionProportionLoss",
    "SensitivitySpecificityLoss",
    "matthews",
    "region_proportion",
    "sensitivity_specificity",
]


def matthews(sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Scores:
    r"""One minus Matthews' correlation coefficient of prediction and target.

    .. math::

        1 - \frac{TP \cdot TN - FP \cdot FN}{\sqrt{(TP + FP)(TP + FN)(TN + FP)(TN + FN)}}

    It is smoothed as if there were more voxels, of the class and as many of the rest:
    :math:`\epsilon_n` recognised and :math:`\epsilon_d - \epsilon_n` mistaken, of either. So a
    class absent from both has a coefficient of 1 for equal ε.

    Args:
        sums: ``overlap`` (TP), ``alarm`` (FP), ``miss`` (FN) and ``rejected`` (TN), each
            ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 2; 1 is what a guess gets.

    Example:
        >>> import torch
        >>> sums = {"overlap": 3.0, "alarm": 1.0, "miss": 1.0, "rejected": 3.0}
        >>> matthews({name: torch.full((1, 1), x) for name, x in sums.items()})
        tensor([[0.5000]])
    """
    hit, rejected = sums["overlap"] + smooth_nr, sums["rejected"] + smooth_nr
    alarm = sums["alarm"] + (smooth_dr - smooth_nr)
    miss = sums["miss"] + (smooth_dr - smooth_nr)
    count = hit + rejected + alarm + miss
    # Shares, of which single precision can hold the product of four.
    hit, rejected, alarm, miss = (ratio(x, count) for x in (hit, rejected, alarm, miss))
    spread = (hit + alarm) * (hit + miss) * (rejected + alarm) * (rejected + miss)
    constant = spread == 0
    covariance = hit * rejected - alarm * miss
    return 1 - (covariance / spread.masked_fill(constant, 1).sqrt()).masked_fill(constant, 0)


def sensitivity_specificity(
    sums: Sums,
    sensitivity: float = 0.05,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Scores:
    r"""The mean squared error inside the class and outside of it, each weighed apart.

    .. math:: \lambda \Bigl(1 - \frac{G - \sum w y (1 - p)^2 + \epsilon_n}{G + \epsilon_d}\Bigr)
        + (1 - \lambda) \Bigl(1 - \frac{R - \sum w (1 - y) p^2 + \epsilon_n}{R + \epsilon_d}\Bigr)

    with :math:`G = \sum w y` and :math:`R = \sum w (1 - y)`; for equal ε the quotients of error and
    size. Where y is soft, a voxel counts on both sides: our reading.

    Args:
        sums: ``overlap``, ``pred_squared_true``, ``true``, and for the rest ``alarm``,
            ``rejected`` and ``pred_squared_rest``, each ``(g, k)``.
        sensitivity: λ, from 0 to 1.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> # Two voxels of the class, two of the rest, and a probability of a half in all of them.
        >>> sums = {"overlap": 1.0, "pred_squared_true": 0.5, "true": 2.0}
        >>> sums |= {"alarm": 1.0, "pred_squared_rest": 0.5, "rejected": 1.0}
        >>> sensitivity_specificity({name: torch.full((1, 1), x) for name, x in sums.items()})
        tensor([[0.2500]])
    """
    outside = sums["alarm"] + sums["rejected"]
    right = 2 * sums["overlap"] - sums["pred_squared_true"]
    missed = 1 - ratio(right + smooth_nr, sums["true"] + smooth_dr)
    quiet = outside - sums["pred_squared_rest"]
    alarmed = 1 - ratio(quiet + smooth_nr, outside + smooth_dr)
    return sensitivity * missed + (1 - sensitivity) * alarmed


def region_proportion(sums: Sums) -> Scores:
    r"""By how much of the image prediction and target differ in size.

    .. math:: \frac{|\sum w p - \sum w y|}{\sum w}

    Args:
        sums: ``pred``, ``true`` and ``count``, each ``(g, k)``.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> sums = {"pred": 3.0, "true": 1.0, "count": 4.0}
        >>> region_proportion({name: torch.full((1, 1), x) for name, x in sums.items()})
        tensor([[0.5000]])
    """
    return ratio((sums["pred"] - sums["true"]).abs(), sums["count"])


@final
class MCCLoss(ScoreLoss):
    """`segloss.matthews` of logits: from 0 (all right) by 1 (a guess) to 2 (all wrong).

    Unlike Dice it counts right rejections, and treats the class and the rest alike. Takes the
    options of `segloss.RegionLoss`.

    References:
        Abhishek and Hamarneh, "Matthews correlation coefficient loss for deep convolutional
        networks: application to skin lesion segmentation", ISBI 2021. The smoothing is ours.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> MCCLoss()(logits, labels)
        tensor(1.0000)
    """

    needs = ("overlap", "alarm", "miss", "rejected")

    def score(self, sums: Sums) -> Scores:
        return matthews(sums, self.smooth_nr, self.smooth_dr)


@final
class SensitivitySpecificityLoss(ScoreLoss):
    """`segloss.sensitivity_specificity` of logits: from 0 to 1.

    The class and the rest count by their weights, whatever their sizes: a small class is not
    drowned. Its squared errors hardly pull where a prediction is confidently wrong; add it to a
    cross entropy.

    Args:
        encoding: What the channels mean.
        sensitivity: λ, from 0 to 1: the weight of the errors inside the class. Small by default,
            because there an error is a larger part of the whole.
        **options: Those of `segloss.RegionLoss`.

    References:
        Brosch et al., "Deep convolutional encoder networks for multiple sclerosis lesion
        segmentation", MICCAI 2015.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> SensitivitySpecificityLoss()(logits, labels)
        tensor(0.2500)
    """

    needs = ("overlap", "pred_squared_true", "true", "alarm", "rejected", "pred_squared_rest")

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        sensitivity: float = 0.05,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.sensitivity = fraction("sensitivity", sensitivity)

    def score(self, sums: Sums) -> Scores:
        return sensitivity_specificity(sums, self.sensitivity, self.smooth_nr, self.smooth_dr)


@final
class RegionProportionLoss(Loss):
    """`segloss.region_proportion` of logits: from 0 (the right size, anywhere) to 1.

    It says how large a class is, not where: a term to add to a cross entropy, against the bias of
    sizes that this has where classes are unequal.

    Args:
        encoding: What the channels mean.
        group: Sizes are compared for each ``"sample"``, for the ``"batch"``, or for all
            ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.

    References:
        Liu et al., "The hidden label-marginal biases of segmentation losses", 2021: its L1 form;
        the published norm is our sum over the classes, k times their mean.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 0, 1]]])
        >>> RegionProportionLoss()(logits, labels)
        tensor(0.2500)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)

    @property
    def request(self) -> Request:
        return Request(("pred", "true", "count"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        score, known = region_proportion(regions), self.known(regions["count"])
        return class_mean(score, self.class_weight, self.reduction, known)
