"""Whether probabilities come true: of the voxels given 70 %, are 70 % of the class?"""

from collections.abc import Sequence
from typing import Literal, final, get_args

from torch import Tensor

from segloss.arguments import one_of, whole
from segloss.encoding import Encoding, Multiclass
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.losses.base import Loss, Reduction, Sums, class_mean, ratio
from segloss.shapes import Reduced, Scores

__all__ = ["CalibrationErrorLoss", "calibration_error"]

Binning = Literal["hard", "soft"]

# Of a bin with less weight, in voxels, the means have a slope too steep to follow; as published.
_LEAST = 0.01


def calibration_error(bins: Tensor, least: float) -> Scores:
    r"""By how much the mean probability of a bin differs from how often it comes true, on average.

    .. math:: \frac{1}{\#\{i : W_i > \text{least}\}} \sum_{i : W_i > \text{least}}
        \Bigl|\frac{P_i - Y_i}{W_i}\Bigr|

    Args:
        bins: For each bin W = Σ w, Y = Σ w y and P = Σ w p, ``(g, k, 3, bins)``.
        least: Bins with no more weight than this are left out, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1; 0 if no bin is left.

    Example:
        >>> import torch
        >>> bins = torch.tensor([[4.0, 0.0, 2.0], [1.0, 0.0, 2.0], [1.0, 0.0, 1.6]])
        >>> calibration_error(bins[None, None], 0.0)  # 25 % said and right, 80 % said and all right
        tensor([[0.1000]])
    """
    weight, true, pred = bins.unbind(2)
    filled = weight > least
    gap = ratio(pred - true, weight).abs() * filled
    return ratio(gap.sum(-1), filled.sum(-1).to(gap))


@final
class CalibrationErrorLoss(Loss):
    """`segloss.calibration_error` of logits, the marginal L1 average calibration error: from 0 to 1.

    Voxels are put into bins by their probability of a class; in each bin, the mean probability
    should be the share of voxels that are of the class. Every bin with voxels in it counts alike, so
    the few uncertain voxels of a volume as much as the many certain ones. It says how probable, not
    where: a term to add, as published to Dice and cross entropy,
    ``DiceLoss() + CrossEntropyLoss() + CalibrationErrorLoss()``. Classes that are absent are scored
    like the others, where the authors score them 0; their probabilities should be 0.

    The bins are made in the one pass over the voxels. On a GPU they are summed up in no fixed order,
    unless `torch.use_deterministic_algorithms` is on.

    Args:
        encoding: What the channels mean.
        bins: How many bins of equal width there are.
        binning: ``"hard"``: a voxel is in one bin, and pulls by the mean probability of this alone.
            ``"soft"``: it is shared out between the bins whose centres are nearest, linearly, and
            pulls by its shares as well, so the loss has no jumps where voxels change their bins; bins
            with less than a hundredth of a voxel are left out.
        group: Bins are of each ``"sample"``, as published, of the ``"batch"``, or of all
            ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.

    References:
        Barfoot et al., "Average calibration error: a differentiable loss for improved reliability in
        image segmentation", MICCAI 2024, and "Average calibration losses for reliable uncertainty in
        medical image segmentation", 2025, for soft bins.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 0, 1]]])
        >>> CalibrationErrorLoss()(logits, labels)
        tensor(0.2500)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        bins: int = 20,
        binning: Binning = "hard",
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)
        self.bins = whole("bins", bins)
        self.binning: Binning = one_of("binning", binning, get_args(Binning))

    @property
    def request(self) -> Request:
        return Request((self._histogram,))

    @property
    def _histogram(self) -> str:
        return f"pred/{self.bins}" if self.binning == "hard" else f"pred_between/{self.bins}"

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        found = regions[self._histogram]
        bins = found.reshape(len(found), -1, 3, self.bins)
        score = calibration_error(bins, 0.0 if self.binning == "hard" else _LEAST)
        known = self.known(bins[:, :, 0].sum(-1))
        return class_mean(score, self.class_weight, self.reduction, known)
