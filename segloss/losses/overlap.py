"""Overlap of prediction and target: Dice, Jaccard, Tversky, generalised Dice."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, final, get_args

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative, one_of
from segloss.encoding import Encoding, Multiclass
from segloss.engine.constants import constant
from segloss.engine.sums import Request
from segloss.losses.base import RegionLoss, RegionOptions, ScoreLoss, Sums, ratio, reduced
from segloss.shapes import GroupScores, Reduced, Scores

__all__ = [
    "DiceLoss",
    "GeneralizedDiceLoss",
    "GeneralizedLoss",
    "JaccardLoss",
    "TverskyLoss",
    "dice",
    "generalized_dice",
    "jaccard",
    "tversky",
]

Weighting = Literal["square", "simple", "uniform"]


def dice(sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Scores:
    r"""One minus the soft Dice coefficient.

    .. math:: 1 - \frac{2 \sum w p y + \epsilon_n}{\sum w p + \sum w y + \epsilon_d}

    Args:
        sums: ``overlap``, ``pred`` and ``true``, each ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> dice({"overlap": torch.ones(1, 1), "pred": torch.ones(1, 1), "true": torch.ones(1, 1)})
        tensor([[0.]])
    """
    return 1 - ratio(2 * sums["overlap"] + smooth_nr, sums["pred"] + sums["true"] + smooth_dr)


def jaccard(sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Scores:
    r"""One minus the soft intersection over union.

    .. math:: 1 - \frac{\sum w p y + \epsilon_n}{\sum w p + \sum w y - \sum w p y + \epsilon_d}

    Takes and returns what `dice` does.

    Example:
        >>> import torch
        >>> half = torch.tensor([[0.5]])
        >>> jaccard({"overlap": half, "pred": half, "true": 2 * half}, 0, 0)
        tensor([[0.5000]])
    """
    overlap = sums["overlap"]
    return 1 - ratio(overlap + smooth_nr, sums["pred"] + sums["true"] - overlap + smooth_dr)


def tversky(
    sums: Sums,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Scores:
    r"""One minus the Tversky index, which weighs false positives and false negatives apart.

    .. math:: 1 - \frac{TP + \epsilon_n}{TP + \alpha FP + \beta FN + \epsilon_d}

    with :math:`TP = \sum w p y`, :math:`FP = \sum w p - TP` and :math:`FN = \sum w y - TP`.
    ``alpha=beta=0.5`` is Dice, ``alpha=beta=1`` is Jaccard. Takes and returns what `dice` does.

    Example:
        >>> import torch
        >>> half = torch.tensor([[0.5]])
        >>> tversky({"overlap": half, "pred": half, "true": 2 * half}, 0.3, 0.7, 0, 0)
        tensor([[0.4118]])
    """
    hit = sums["overlap"]
    false = alpha * (sums["pred"] - hit) + beta * (sums["true"] - hit)
    return 1 - ratio(hit + smooth_nr, hit + false + smooth_dr)


def generalized_dice(
    sums: Sums,
    weight: Scores,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> GroupScores:
    r"""One minus the Dice coefficient of all classes together, each with a weight.

    .. math::

        1 - \frac{2 \sum_k \omega_k \sum w p y + \epsilon_n}
                 {\sum_k \omega_k (\sum w p + \sum w y) + \epsilon_d}

    Args:
        sums: ``overlap``, ``pred`` and ``true``, each ``(g, k)``.
        weight: :math:`\omega`, ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`.
        smooth_dr: :math:`\epsilon_d`.

    Returns:
        ``(g, 1)``, from 0 to 1.

    Example:
        >>> import torch
        >>> sums = {"overlap": [[9.0, 1.0]], "pred": [[10.0, 3.0]], "true": [[10.0, 1.0]]}
        >>> sums = {name: torch.tensor(values) for name, values in sums.items()}
        >>> generalized_dice(sums, weight=sums["true"] ** -2)
        tensor([[0.4810]])
    """
    overlap, both = sums["overlap"] * weight, (sums["pred"] + sums["true"]) * weight
    overlap, both = overlap.sum(1, keepdim=True), both.sum(1, keepdim=True)
    return 1 - ratio(2 * overlap + smooth_nr, both + smooth_dr)


@final
class DiceLoss(ScoreLoss):
    """`segloss.dice` of logits: from 0 (all of the target, nothing else) to 1.

    Takes the options of `segloss.RegionLoss`. Its optimum for a soft target is a hard prediction.

    References:
        Milletari et al., "V-Net", 3DV 2016; this form, without squares, as in MONAI and nnU-Net.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> DiceLoss(reduction="none")(logits, labels)
        tensor([[0.3333, 1.0000]])
    """

    needs = ("overlap", "pred", "true")

    def score(self, sums: Sums) -> Scores:
        return dice(sums, self.smooth_nr, self.smooth_dr)


@final
class JaccardLoss(ScoreLoss):
    """`segloss.jaccard` of logits: from 0 to 1. Takes the options of `segloss.RegionLoss`.

    References:
        Rahman and Wang, "Optimizing intersection-over-union in deep neural networks for image
        segmentation", ISVC 2016.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> JaccardLoss(reduction="none")(logits, labels)
        tensor([[0.5000, 1.0000]])
    """

    needs = ("overlap", "pred", "true")

    def score(self, sums: Sums) -> Scores:
        return jaccard(sums, self.smooth_nr, self.smooth_dr)


@final
class TverskyLoss(ScoreLoss):
    """`segloss.tversky` of logits: from 0 to 1.

    Args:
        encoding: What the channels mean.
        alpha: Cost of a false positive.
        beta: Cost of a false negative.
        **options: Those of `segloss.RegionLoss`.

    References:
        Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional
        deep networks", MLMI 2017, for the form and the defaults. MONAI's are 0.5 and 0.5. Which of
        the two letters goes with false positives differs between papers.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> TverskyLoss(alpha=0.5, beta=0.5, reduction="none")(logits, labels)
        tensor([[0.3333, 1.0000]])
    """

    needs = ("overlap", "pred", "true")

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.alpha = not_negative("alpha", alpha)
        self.beta = not_negative("beta", beta)

    def score(self, sums: Sums) -> Scores:
        return tversky(sums, self.alpha, self.beta, self.smooth_nr, self.smooth_dr)


class GeneralizedLoss(RegionLoss):
    """One ratio of all classes of a group together, each by its volume: see `GeneralizedDiceLoss`."""

    needs: ClassVar[tuple[str, ...]]
    """The names of the sums that `score` reads."""

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        weighting: Weighting = "square",
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.weighting: Weighting = one_of("weighting", weighting, get_args(Weighting))

    @abstractmethod
    def score(self, sums: Sums, weight: Scores) -> GroupScores:
        """One number for each group."""

    @property
    def request(self) -> Request:
        return Request((*self.needs, "pred", "true", "count"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        true, count = regions["true"], regions["count"]
        absent = true == 0
        power = {"square": 2, "simple": 1, "uniform": 0}[self.weighting]
        weight = true.masked_fill(absent, 1).pow(-power).masked_fill(absent, 0)
        if self.empty == "smooth":
            largest = weight.amax(1, keepdim=True)
            weight = torch.where(absent, largest.masked_fill(largest == 0, 1), weight)
        if self.class_weight is not None:
            weight = weight * constant(self.class_weight, weight)
        score = self.score(regions, weight)
        if self.empty == "penalise":
            wrong = ratio(regions["pred"], count).masked_fill(~absent, 0)
            known = self.known(count)
            share = torch.ones_like(wrong) if known is None else known.to(wrong)
            score = score + ratio(wrong.sum(1, keepdim=True), share.sum(1, keepdim=True))
        return reduced(score.masked_fill((count == 0).all(1, keepdim=True), 0), self.reduction)


@final
class GeneralizedDiceLoss(GeneralizedLoss):
    """`segloss.generalized_dice` of logits: one number for each group, from 0 to 1.

    A class counts by the inverse of its volume, so that small ones matter. An absent class has no
    such weight: it gets the largest of the others', or 1 if they are absent too (``empty="smooth"``),
    none (``"skip"``), or none but its mean probability is added to the loss (``"penalise"``; the sum
    may pass 1).

    Args:
        encoding: What the channels mean.
        weighting: ``"square"`` for 1/volume², ``"simple"`` for 1/volume, or ``"uniform"``.
        **options: Those of `segloss.RegionLoss`; ``class_weight`` multiplies the weighting, the
            smoothing is added to the weighted sums, and ``reduction="none"`` gives ``(g, 1)``.

    References:
        Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly
        unbalanced segmentations", DLMIA 2017.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> GeneralizedDiceLoss(empty="skip")(logits, labels)
        tensor(0.3333)
    """

    needs = ("overlap",)

    def score(self, sums: Sums, weight: Scores) -> GroupScores:
        return generalized_dice(sums, weight, self.smooth_nr, self.smooth_dr)
