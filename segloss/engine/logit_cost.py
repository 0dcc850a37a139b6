"""Costs of single voxels as functions of their logits, with slopes in closed form.

Some losses depend on every logit of a voxel, not on the cross entropy of its label alone, yet are
linear in the label: what a voxel costs is a sum over its outcomes, by how much it is said to be
each. The outcomes of a softmax are its channels. Those of a sigmoid of f are yes and no, with the
logits f/2 and -f/2: their softmax is the sigmoid, and neither is preferred.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from segloss.activation import Softmax
from segloss.engine.block import Block
from segloss.engine.constants import constant
from segloss.shapes import Flat

__all__ = ["CostSum", "LogitCost"]


class LogitCost(ABC):
    """What a voxel costs, and the derivative by its logits.

    Axis 1 of all tensors holds the outcomes, ``(b, o, …)``. Costs are linear in the shares of the
    outcomes, each w α y.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name and parameters; equal names are equal costs."""

    def shares(self, true: Tensor, class_weight: Tensor | None) -> Tensor:
        """The shares of the outcomes, from their weighted memberships w y and from α."""
        return true if class_weight is None else true * class_weight

    @abstractmethod
    def value(self, logits: Tensor, shares: Tensor) -> Tensor:
        """What each voxel costs, ``(b, …)``; autograd can differentiate it."""

    @abstractmethod
    def slope(self, logits: Tensor, pred: Tensor, shares: Tensor) -> Tensor:
        """Derivative by the logits, from these and their probabilities."""


@dataclass(frozen=True)
class CostSum:
    """The sum of a cost over a sample, and Σ w α y to divide it by.

    Args:
        cost: The cost of a voxel.
        class_weight: α for each channel; None for 1.
    """

    cost: LogitCost
    class_weight: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """Equal names are equal sums."""
        return f"{self.cost.name} {self.class_weight}"

    def sums(self, block: Block) -> Tensor:
        """Both for a block, ``(b, 2)``."""
        true, alpha = self._memberships(block)
        value = self.cost.value(_by_outcome(block, block.logits), self.cost.shares(true, alpha))
        norm = true if alpha is None else true * alpha
        return torch.stack((value.flatten(1).sum(1), norm.flatten(1).sum(1)), 1)

    def slope(self, block: Block) -> Flat:
        """Derivative of the first by the block's logits."""
        shares = self.cost.shares(*self._memberships(block))
        logits = _by_outcome(block, block.logits)
        if isinstance(block.activation, Softmax):
            return self.cost.slope(logits, block.softmax[0], shares)
        pred = torch.stack((block.pred, 1 - block.pred), 1)
        yes, no = self.cost.slope(logits, pred, shares).unbind(1)
        return (yes - no) / 2

    def _memberships(self, block: Block) -> tuple[Tensor, Tensor | None]:
        """The weighted memberships w y, and α, which broadcasts with them."""
        alpha = self.class_weight
        weight = None if alpha is None else constant(alpha, block.logits)[:, None]
        true = block.weighted(block.true)
        if not isinstance(block.activation, Softmax):
            true = torch.stack((true, block.weighted(1 - block.true)), 1)
        return true, weight


def _by_outcome(block: Block, logits: Flat) -> Tensor:
    """The logits of the outcomes."""
    if isinstance(block.activation, Softmax):
        return logits
    return torch.stack((logits / 2, -logits / 2), 1)
