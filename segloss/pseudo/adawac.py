"""Adaptively weighted consistency: hard samples learn from labels, easy ones from agreement."""

from typing import final

import torch
from torch import Tensor, nn

from segloss.arguments import fraction, not_negative, whole
from segloss.encoding import Encoding, Multiclass
from segloss.losses.base import one_pass
from segloss.losses.soft_overlap import SquaredDiceLoss
from segloss.losses.voxelwise import CrossEntropyLoss
from segloss.shapes import Logits, Reduced, Target

__all__ = ["AdaWACLoss"]


@final
class AdaWACLoss(nn.Module):
    r"""Cross entropy and consistency of two views, balanced for each sample by an adversary.

    Every sample i of the data set has two weights that add up to 1. Before they are used they
    follow the larger of the sample's two losses,

    .. math:: w_i \propto w_i \, e^{\eta \ell_i}, \qquad \ell_i = (CE_i, \lambda AC_i)

    and the loss of a batch is

    .. math:: r \, D + (1 - r) \frac{1}{B} \sum_i w_i \cdot \ell_i

    with CE and the Dice loss D averaged over both views and AC the mean squared difference of the
    views' features. From 0. The weights are kept as logarithms: as products, which the authors'
    code keeps, one of them becomes exactly 0 after some fifty to a hundred visits and stays so for
    ever. They move in training mode only, get no gradient, and are in the ``state_dict``.

    Under DistributedDataParallel each process has weights of its own, so a sample must always go to
    the same rank; a sampler that shuffles over ranks gives every rank its own idea of a sample.

    Args:
        samples: How many samples the data set has.
        encoding: What the channels mean.
        rate: η, how fast the weights move. The authors' scripts use 8 (U-Net) and 2 (TransUNet).
        consistency: λ; the scripts use 2.
        dice_ratio: r, 0 to 1.

    Attributes:
        log_weights: ``(samples, 2)``, of cross entropy and of consistency.
        terms: After a call, detached means: ``"dice"``, ``"cross_entropy"``, ``"consistency"`` and
            ``"share"``, the weight of the cross entropy.

    References:
        Xie et al., "Adaptively weighted data augmentation consistency regularization for robust
        optimization under concept shift", ICML 2023. The formula is that of the authors' code; we
        could not compare it with the paper.

    Example:
        >>> loss = AdaWACLoss(10)
        >>> logits, labels = torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
        >>> features, index = torch.zeros(2, 8, 1, 1), torch.tensor([3, 7])
        >>> value = loss((logits, logits), (labels, labels), (features, features), index)
        >>> loss.log_weights[3].exp()  # 2/3 to 1/3: the views agree, the labels are not learned
        tensor([0.6667, 0.3333])
    """

    log_weights: Tensor

    def __init__(
        self,
        samples: int,
        encoding: Encoding = Multiclass(),
        *,
        rate: float = 1.0,
        consistency: float = 1.0,
        dice_ratio: float = 0.5,
    ) -> None:
        super().__init__()
        samples = whole("samples", samples)
        self.rate = not_negative("rate", rate)
        self.consistency = not_negative("consistency", consistency)
        self.dice_ratio = fraction("dice_ratio", dice_ratio)
        self.dice = SquaredDiceLoss(encoding, group="batch")
        self.cross_entropy = CrossEntropyLoss(encoding, group="sample", reduction="none")
        self.register_buffer("log_weights", torch.full((samples, 2), 0.5).log())
        self.terms: dict[str, Tensor] = {}

    def forward(
        self,
        logits: tuple[Logits, Logits],
        targets: tuple[Target, Target],
        features: tuple[Tensor, Tensor],
        index: Tensor,
    ) -> Reduced:
        """The loss of a batch in two views, in float32 or wider.

        Args:
            logits: Of the two views, each ``(b, c, *space)``.
            targets: Their targets, each what the encoding takes.
            features: Of both views, each ``(b, f, *coarse)``; the authors take the deepest of the
                encoder, and do not undo flips and rotations.
            index: ``(b,)`` int64: which samples of the data set these are, each once.
        """
        self._check(features, index)
        index = index.to(self.log_weights.device)
        views = [
            one_pass([self.dice, self.cross_entropy], x, y, {})
            for x, y in zip(logits, targets, strict=True)
        ]
        dice, surprise = ((x + y) / 2 for x, y in zip(*views, strict=True))
        one, other = (
            x.as_subclass(Tensor).to(torch.promote_types(x.dtype, torch.float32)) for x in features
        )
        apart = self.consistency * (one - other).square().flatten(1).mean(1)
        losses = torch.stack((surprise, apart.to(surprise.dtype)), 1)
        weights = self._moved(index, losses.detach())
        weighted = (weights * losses).sum(1).mean()
        self.terms = {
            "dice": dice.detach(),
            "cross_entropy": surprise.detach().mean(),
            "consistency": apart.detach().mean(),
            "share": weights[:, 0].mean(),
        }
        value: Tensor = self.dice_ratio * dice + (1 - self.dice_ratio) * weighted
        return value

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"{len(self.log_weights)}, rate={self.rate}, consistency={self.consistency}, "
            f"dice_ratio={self.dice_ratio}"
        )

    @torch.no_grad()
    def _moved(self, index: Tensor, losses: Tensor) -> Tensor:
        """The weights of these samples, ``(b, 2)``, moved towards the larger losses."""
        if self.training:
            moved = self.log_weights[index] + self.rate * losses.to(self.log_weights)
            self.log_weights[index] = moved.log_softmax(1)
        weights: Tensor = self.log_weights[index].exp().to(losses)
        return weights

    def _check(self, features: tuple[Tensor, Tensor], index: Tensor) -> None:
        one, other = features
        if one.shape != other.shape:
            raise ValueError(
                f"the second view's features have shape {tuple(other.shape)}, expected the "
                f"first's, {tuple(one.shape)}"
            )
        if index.dtype != torch.int64 or index.shape != one.shape[:1]:
            raise ValueError(
                f"index has shape {tuple(index.shape)} and dtype {index.dtype}, expected "
                f"({len(one)},) and int64: the number of each sample in the data set"
            )
        if index.device.type == "cpu":  # where looking costs nothing
            count = len(self.log_weights)
            numbers = index.tolist()
            if min(numbers) < 0 or max(numbers) >= count:
                raise ValueError(f"index holds {numbers}, expected numbers from 0 to {count - 1}")
            if len(set(numbers)) < len(numbers):
                raise ValueError(f"index holds {numbers}: a sample may be in a batch only once")
