"""Penalties on logits that run away: terms to add to a loss that learns the labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative
from segloss.encoding import Encoded, Encoding, Multiclass, Multilabel
from segloss.engine.groups import Group
from segloss.engine.logit_cost import LogitCost
from segloss.engine.neighbours import neighbour_distances
from segloss.engine.sums import Request
from segloss.losses.base import (
    Loss,
    Reduction,
    Sums,
    VoxelLoss,
    VoxelOptions,
    class_mean,
    ratio,
)
from segloss.shapes import Reduced

__all__ = ["LogSumExpLoss", "MarginSmoothingLoss", "NeighbourAwareCalibrationLoss"]


@dataclass(frozen=True)
class MarginExcess(LogitCost):
    """The mean over the outcomes of what the largest logit exceeds each by, beyond the margin."""

    margin: float

    @property
    def name(self) -> str:
        return f"margin excess {self.margin}"

    def value(self, logits: Tensor, shares: Tensor) -> Tensor:
        excess = logits.amax(1, keepdim=True) - logits - self.margin
        return shares.sum(1) * excess.relu().mean(1)

    def slope(self, logits: Tensor, pred: Tensor, shares: Tensor) -> Tensor:
        top = logits.amax(1, keepdim=True)
        best, below = (logits == top).to(logits), (top - logits > self.margin).to(logits)
        best = best / best.sum(1, keepdim=True)
        slope = best * below.sum(1, keepdim=True) - below
        return slope * shares.mean(1, keepdim=True)


@dataclass(frozen=True)
class LogSumExp(LogitCost):
    """The square of log Σ e^f."""

    name = "squared log-sum-exp"

    def value(self, logits: Tensor, shares: Tensor) -> Tensor:
        return shares.sum(1) * logits.logsumexp(1).square()

    def slope(self, logits: Tensor, pred: Tensor, shares: Tensor) -> Tensor:
        return pred * (2 * logits.logsumexp(1, keepdim=True) * shares.sum(1, keepdim=True))


@final
class MarginSmoothingLoss(VoxelLoss):
    r"""By how much the logits of a voxel are further apart than a margin, on average: from 0.

    .. math:: \frac{1}{K} \sum_k \max\Bigl(0, \max_j f_j - f_k - M\Bigr)

    of the K logits f. It does not look at the label, and costs nothing within the margin; label
    smoothing, which it stands for, pulls at every voxel. A term to add: the paper's loss is
    ``CrossEntropyLoss() + 0.1 * MarginSmoothingLoss()``. With `segloss.Multilabel` the logits are
    f/2 and -f/2, of yes and no: half of what \|f\| exceeds M by.

    Args:
        encoding: What the channels mean: `segloss.Multiclass` or `segloss.Multilabel`.
        margin: M, in logits.
        **options: Those of `segloss.VoxelLoss`. Class weights are those of the labels, all the same.

    References:
        Liu et al., "The devil is in the margin: margin-based label smoothing for network
        calibration", CVPR 2022.

    Example:
        >>> import torch
        >>> logits = torch.tensor([14.0, 0.0]).reshape(1, 2, 1, 1)
        >>> MarginSmoothingLoss(margin=10.0)(logits, torch.zeros(1, 1, 1))
        tensor(2.)
    """

    takes = (Multiclass, Multilabel)

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        margin: float = 10.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.margin = not_negative("margin", margin)

    @property
    def phi(self) -> LogitCost:
        return MarginExcess(self.margin)


@final
class LogSumExpLoss(VoxelLoss):
    r"""The mean square of the logits' log-sum-exp: from 0.

    .. math:: \Bigl(\log \sum_k e^{f_k}\Bigr)^2

    of the logits f. A softmax does not change if all logits of a voxel grow together, so nothing
    else keeps them from it; half precision, of which large numbers have few digits left, is the
    better for logits near 0. It does not look at the label: a term to add, with a small weight, as in
    ``CrossEntropyLoss() + 1e-4 * LogSumExpLoss()``, where the authors call it the z-loss. With
    `segloss.Multilabel` the logits are f/2 and -f/2, of yes and no, our reading; the least value is
    then (log 2)².

    Takes `segloss.Multiclass` or `segloss.Multilabel`, and the options of `segloss.VoxelLoss`. Class
    weights are those of the labels, all the same.

    References:
        Chowdhery et al., "PaLM: scaling language modeling with pathways", JMLR 2023, section 5.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> LogSumExpLoss()(logits, labels)
        tensor(0.4805)
    """

    takes = (Multiclass, Multilabel)

    @property
    def phi(self) -> LogitCost:
        return LogSumExp()


@final
class NeighbourAwareCalibrationLoss(Loss):
    r"""The mean distance of the logits to the shares of the labels around each voxel: from 0.

    .. math:: |f_k - \tau_k|, \quad \tau_k = \text{the mean of } y_k \text{ over the neighbours}

    of the logits f, not of the probabilities: a penalty that holds logits between 0 and 1, inside an
    object near its label, at boundaries between. The neighbours are the 3 × 3 (× 3) voxels around
    a voxel, itself among them. Those that are ignored, have no weight, or would lie beyond the border
    are none: the authors' code counts voxels beyond the border as labelled 0, MONAI's as of no
    class. A term to add: the paper's loss is
    ``CrossEntropyLoss() + 0.1 * NeighbourAwareCalibrationLoss()``. With `segloss.Multilabel` the
    logits of yes and no are ½ + f/2 and ½ - f/2, our reading: f is drawn to 2τ - 1.

    It costs a pass of its own over each channel, and memory for a few volumes of one channel.
    torch.compile leaves it as it is.

    Args:
        encoding: What the channels mean: `segloss.Multiclass` or `segloss.Multilabel`.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1: the weight of its
            logit, whatever a voxel's label.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.

    References:
        Murugesan et al., "Trust your neighbours: penalty-based constraints for model calibration",
        MICCAI 2023, with the mean of the neighbours and the L1 distance.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[[0, 0, 1, 1]]])
        >>> logits = torch.tensor([[1.0, 2 / 3, 1 / 3, 0.0], [0.0, 1 / 3, 2 / 3, 1.5]])
        >>> NeighbourAwareCalibrationLoss()(logits[None, :, None], labels)
        tensor(0.0625)
    """

    takes = (Multiclass, Multilabel)
    compiles = False

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
        return Request(("count",))

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        return {"distance": neighbour_distances(encoded, space, self.encoding.first)}

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        score = ratio(regions["distance"], regions["count"])
        return class_mean(score, self.class_weight, self.reduction)
