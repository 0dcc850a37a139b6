"""Cross entropy and focal loss as polynomials of 1 - p, with their first coefficient free."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative, number
from segloss.encoding import Encoding, Multiclass
from segloss.engine.voxel import Focal, Phi
from segloss.losses.base import VoxelLoss, VoxelOptions

__all__ = ["Poly1CrossEntropyLoss", "Poly1FocalLoss"]


@dataclass(frozen=True)
class Poly1:
    """φ(m) = a^γ m + ε a^(γ+1), with a = 1 - e^-m the probability of being wrong."""

    gamma: float
    epsilon: float

    @property
    def name(self) -> str:
        return f"poly-1 {self.gamma} {self.epsilon}"

    def value(self, m: Tensor) -> Tensor:
        wrong = -torch.expm1(-m)
        return Focal(self.gamma).value(m) + self.epsilon * wrong.pow(self.gamma + 1)

    def slope(self, m: Tensor) -> Tensor:
        right = torch.exp(-m)
        wrong = -torch.expm1(-m)
        further = self.epsilon * (self.gamma + 1) * wrong.pow(self.gamma) * right
        return Focal(self.gamma).slope(m) + further


@final
class Poly1CrossEntropyLoss(VoxelLoss):
    """The mean of -log p + ε (1 - p), with p the probability of the true class: from 0.

    Cross entropy is the sum of (1 - p)^j / j over all j; ε is added to the coefficient of j = 1. A
    voxel pulls by 1 + ε p times as much as with cross entropy: with ε above 0 what is nearly right
    pulls more, below 0 less. With `segloss.Multilabel`, of every entry.

    Args:
        encoding: What the channels mean.
        epsilon: ε, at least -1: below, what is nearly right would be pushed away.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Leng et al., "PolyLoss: a polynomial expansion perspective of classification loss functions",
        ICLR 2022, Poly-1.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> Poly1CrossEntropyLoss(epsilon=2.0)(logits, labels)
        tensor(1.6931)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        epsilon: float = 1.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.epsilon = _at_least_minus_one(epsilon)

    @property
    def phi(self) -> Phi:
        return Poly1(0.0, self.epsilon)


@final
class Poly1FocalLoss(VoxelLoss):
    """The mean of (1 - p)^γ (-log p) + ε (1 - p)^(γ+1), with p that of the true class: from 0.

    `segloss.FocalLoss` with its first coefficient free; finite as it is.

    Args:
        encoding: What the channels mean.
        epsilon: ε, at least -1: below, what is nearly right would be pushed away.
        gamma: γ; 0 gives `segloss.Poly1CrossEntropyLoss`.
        **options: Those of `segloss.VoxelLoss`. ``class_weight``, the focal loss's α, weighs both
            terms; some code has it weigh the first only.

    References:
        Leng et al., "PolyLoss: a polynomial expansion perspective of classification loss functions",
        ICLR 2022, Poly-1 of the focal loss.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> Poly1FocalLoss(gamma=1.0)(logits, labels)
        tensor(0.5966)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        epsilon: float = 1.0,
        gamma: float = 2.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.epsilon = _at_least_minus_one(epsilon)
        self.gamma = not_negative("gamma", gamma)

    @property
    def phi(self) -> Phi:
        return Poly1(self.gamma, self.epsilon)


def _at_least_minus_one(epsilon: float) -> float:
    if number("epsilon", epsilon) < -1:
        raise ValueError(
            f"epsilon must be a number of at least -1, or nearly right voxels are pushed away, "
            f"got {epsilon!r}"
        )
    return float(epsilon)
