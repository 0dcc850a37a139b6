"""Other surrogates of the error than cross entropy, functions of all the logits of a voxel."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from segloss.encoding import Multiclass, Multilabel
from segloss.engine.logit_cost import LogitCost
from segloss.losses.base import VoxelLoss

__all__ = ["SparsemaxLoss", "SquentropyLoss"]

# Up to so many rows, comparing each two of them is faster than sorting the columns: on a CPU, a
# tenth of the time with 4 rows, a fifth with 32.
_FEW = 32


@dataclass(frozen=True)
class Squentropy(LogitCost):
    """Cross entropy plus the mean square of the other logits."""

    name = "squentropy"

    def value(self, logits: Tensor, shares: Tensor) -> Tensor:
        surprise = -(shares * logits.log_softmax(1)).sum(1)
        return surprise + (_others(shares) * logits.square()).sum(1)

    def slope(self, logits: Tensor, pred: Tensor, shares: Tensor) -> Tensor:
        slope = pred * shares.sum(1, keepdim=True) - shares
        return slope.addcmul_(_others(shares), logits, value=2)


@dataclass(frozen=True)
class Sparsemax(LogitCost):
    """Ω(p*) + ⟨p*, f⟩ - f_y, with p* the nearest distribution to f and Ω(p) = ½ (1 - |p|²)."""

    name = "sparsemax"

    def value(self, logits: Tensor, shares: Tensor) -> Tensor:
        logits = logits - logits.detach().amax(1, keepdim=True)
        pred = sparsemax(logits)
        most = (pred * logits).sum(1, keepdim=True) + (1 - pred.square().sum(1, keepdim=True)) / 2
        return (shares * (most - logits)).sum(1)

    def slope(self, logits: Tensor, pred: Tensor, shares: Tensor) -> Tensor:
        logits = logits - logits.amax(1, keepdim=True)
        return sparsemax(logits) * shares.sum(1, keepdim=True) - shares


def sparsemax(logits: Tensor) -> Tensor:
    """The distribution over axis 1 that is nearest to the logits, the largest of which is 0.

    Example:
        >>> sparsemax(torch.tensor([[0.0, -0.5, -3.0]]))
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    # The threshold is the largest of those that any number of the largest logits would have.
    first, *rest = _descending(logits.detach())
    total, threshold = first, first - 1
    for count, row in enumerate(rest, 2):
        total = total + row
        threshold = torch.maximum(threshold, (total - 1) / count)
    support = (logits > threshold[:, None]).to(logits)
    # Once more, of the logits themselves, for autograd: the support is constant around them.
    threshold = ((support * logits).sum(1, keepdim=True) - 1) / support.sum(1, keepdim=True)
    return (logits - threshold).relu()


def _descending(x: Tensor) -> list[Tensor]:
    """The rows of axis 1, sorted."""
    rows = list(x.unbind(1))
    if len(rows) > _FEW:
        return list(x.sort(1, descending=True).values.unbind(1))
    for end in range(len(rows) - 1, 0, -1):
        for i in range(end):  # the least of the first rows goes to their end
            pair = rows[i], rows[i + 1]
            rows[i], rows[i + 1] = torch.maximum(*pair), torch.minimum(*pair)
    return rows


def _others(shares: Tensor) -> Tensor:
    """How much a voxel is said to be any other outcome, each in an equal part."""
    return (shares.sum(1, keepdim=True) - shares) / (shares.shape[1] - 1)


@final
class SquentropyLoss(VoxelLoss):
    r"""Cross entropy, plus the mean square of the logits of the other classes: from 0.

    .. math:: -\log p_y + \frac{1}{K - 1} \sum_{k \ne y} f_k^2

    of the K logits f. The logits of what a voxel is not are drawn to 0, which keeps the others from
    growing against them without bound: calibration, without anything to choose. It is least, 0, as
    the true logit grows and the others are 0. With `segloss.Multilabel` the logits of yes and no are
    f/2 and -f/2, our reading.

    Takes `segloss.Multiclass` or `segloss.Multilabel`, and the options of `segloss.VoxelLoss`.

    References:
        Hui, Belkin and Wright, "Cut your losses with squentropy", ICML 2023.

    Example:
        >>> logits, labels = torch.ones(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> SquentropyLoss()(logits, labels)
        tensor(1.6931)
    """

    takes = (Multiclass, Multilabel)

    @property
    def phi(self) -> LogitCost:
        return Squentropy()


@final
class SparsemaxLoss(VoxelLoss):
    r"""How far the label is from winning by a margin of 1: from 0, which it reaches.

    .. math:: \tfrac{1}{2} \bigl(1 - |p^*|^2\bigr) + \langle p^*, f \rangle - f_y,
        \quad p^* = \operatorname{argmin}_p |p - f|^2

    over distributions p, of the logits f. Its gradient is p* - y, and p* is exactly 0 for classes
    that are well below the best: once the true logit is 1 above all others, a voxel neither costs
    nor pulls, so a large easy background drops out by itself. With two classes, or
    `segloss.Multilabel`, it is the modified Huber loss of the margin t = f_y - f_k: -t up to -1,
    (1 - t)²/4 from -1 to 1, then 0. Exact, by sorting the logits of each voxel.

    The probabilities that belong to it are p*; those of a softmax, which other losses use, differ.

    Takes `segloss.Multiclass` or `segloss.Multilabel`, and the options of `segloss.VoxelLoss`.

    References:
        Martins and Astudillo, "From softmax to sparsemax", ICML 2016.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> SparsemaxLoss()(logits, labels)
        tensor(0.2500)
    """

    takes = (Multiclass, Multilabel)

    @property
    def phi(self) -> LogitCost:
        return Sparsemax()
