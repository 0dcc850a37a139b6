"""Overlap and cross entropy of few foreground voxels, weighed and bent alike."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import fraction, number
from segloss.encoding import Encoding, Multiclass
from segloss.engine.sums import Request
from segloss.engine.voxel import CrossEntropy, Focal, VoxelSum
from segloss.losses.base import RegionOptions, ScoreLoss, Sums, ratio
from segloss.losses.overlap import tversky
from segloss.losses.reshaped_overlap import joined, power
from segloss.shapes import Reduced, Scores

__all__ = ["UnifiedFocalLoss"]


@final
class UnifiedFocalLoss(ScoreLoss):
    r"""A focal Tversky loss and a focal cross entropy with the same two parameters: from 0.

    With p the probability of the true class, a voxel costs

    .. math:: - (1 - \delta) (1 - p)^\gamma \log p \text{ if background, } - \delta \log p
        \text{ elsewhere},

    and with :math:`T_k` the Tversky index that weighs false negatives by δ and false positives by
    1 - δ, a class costs

    .. math:: 1 - T_0, \quad (1 - T_k)^{1 - \gamma} \text{ for the others}.

    So easy background is let go of, and foreground that is nearly right is not. That is the
    asymmetric form; in the symmetric one all voxels have the factor, and all classes the exponent.
    Slopes stay finite: below 0.0001 the power is a straight line. ``reduction="none"`` gives
    ``(g, k)``, the voxels' mean added to each class.

    Args:
        encoding: `segloss.Multiclass`, whose channel 0 is the background. For a single foreground
            channel, give the network a second one.
        delta: δ, from 0 to 1.
        gamma: γ, from 0, below 1.
        region_weight: How much the classes count, from 0 to 1; the voxels count the rest.
        asymmetric: Which form.
        **options: Those of `segloss.RegionLoss`. ``class_weight`` weighs the classes of the one term
            and the voxels of the other; ``empty`` is about the classes.

    References:
        Yeung et al., "Unified focal loss: generalising Dice and cross entropy-based losses to handle
        class imbalanced medical image segmentation", Computerized Medical Imaging and Graphics 2022,
        for one foreground class. For several: the mean over all classes is ours, and so are the
        straight lines.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> UnifiedFocalLoss(delta=0.5, gamma=0.0)(logits, labels)
        tensor(0.4233)
    """

    takes = (Multiclass,)
    needs = ("overlap", "pred", "true")

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        delta: float = 0.6,
        gamma: float = 0.5,
        region_weight: float = 0.5,
        asymmetric: bool = True,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.delta = fraction("delta", delta)
        if not 0 <= number("gamma", gamma) < 1:
            raise ValueError(
                f"gamma must lie between 0 and 1, without 1, where the power is constant, got {gamma!r}"
            )
        self.gamma = float(gamma)
        self.region_weight = fraction("region_weight", region_weight)
        self.asymmetric = asymmetric

    def completed(self, channels: int) -> Request:
        """The request, with one sum over the voxels of the background and one over the others."""
        weight = self.full_class_weight(channels) or (1.0,) * channels
        focal = Focal(self.gamma)
        background = VoxelSum(focal, weight[:1] + (0.0,) * (channels - 1))
        foreground = VoxelSum(CrossEntropy() if self.asymmetric else focal, (0.0, *weight[1:]))
        return Request(self.request.regions, (background, foreground))

    def score(self, sums: Sums) -> Scores:
        error = tversky(sums, 1 - self.delta, self.delta, self.smooth_nr, self.smooth_dr)
        bent = power(error, 1 - self.gamma)
        if self.asymmetric and self.encoding.first == 0:
            return torch.cat([error[:, :1], bent[:, 1:]], 1)
        return bent

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        score, present = self.scores(regions)
        (background, of_background), (foreground, of_foreground) = voxels
        cost = (1 - self.delta) * background + self.delta * foreground
        surprise = (1 - self.region_weight) * ratio(cost, of_background + of_foreground)
        score = self.region_weight * score
        return joined(score, surprise, self.class_weight, self.reduction, present)
