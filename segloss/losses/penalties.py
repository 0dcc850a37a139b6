"""Penalties on logits that run away: terms to add to a loss that learns the labels."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative
from segloss.encoding import Encoding, Multiclass, Multilabel
from segloss.engine.logit_cost import LogitCost
from segloss.losses.base import VoxelLoss, VoxelOptions

__all__ = ["LogSumExpLoss", "MarginSmoothingLoss"]


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
