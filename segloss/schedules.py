"""Weights that change from epoch to epoch: functions of the number of epochs done."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from segloss.arguments import not_negative

if TYPE_CHECKING:
    from segloss.compose import CompoundLoss
    from segloss.losses.base import Loss

__all__ = ["Constant", "Cosine", "Linear", "Step", "rebalanced"]


@dataclass(frozen=True)
class Constant:
    """The same weight for ever.

    Example:
        >>> Constant(0.5)(100)
        0.5
    """

    value: float

    def __post_init__(self) -> None:
        not_negative("value", self.value)

    def __call__(self, epoch: int) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp(ABC):
    """From ``start`` to ``end`` over ``steps`` epochs, and ``end`` from then on."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        not_negative("start", self.start)
        not_negative("end", self.end)
        _check_steps("steps", self.steps)

    def __call__(self, epoch: int) -> float:
        share = self.share(min(epoch / self.steps, 1.0))
        return self.start * (1 - share) + self.end * share

    @abstractmethod
    def share(self, time: float) -> float:
        """How much of the way is done when this much of the time is."""


@final
class Linear(Ramp):
    """From ``start`` to ``end`` in equal steps over ``steps`` epochs, then ``end``.

    Example:
        >>> [Linear(0.0, 1.0, 4)(epoch) for epoch in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    def share(self, time: float) -> float:
        return time


@final
class Cosine(Ramp):
    """From ``start`` to ``end`` along half a cosine over ``steps`` epochs, then ``end``.

    Example:
        >>> round(Cosine(1.0, 0.0, 10)(5), 6)
        0.5
    """

    def share(self, time: float) -> float:
        return (1 - math.cos(math.pi * time)) / 2


@dataclass(frozen=True)
class Step:
    """``start``, multiplied by ``factor`` after each ``every`` epochs.

    Example:
        >>> [Step(1.0, 0.5, 10)(epoch) for epoch in (0, 9, 10, 20)]
        [1.0, 1.0, 0.5, 0.25]
    """

    start: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        not_negative("start", self.start)
        not_negative("factor", self.factor)
        _check_steps("every", self.every)

    def __call__(self, epoch: int) -> float:
        return self.start * self.factor ** (epoch // self.every)


def rebalanced(
    region: "Loss | CompoundLoss",
    boundary: "Loss | CompoundLoss",
    rate: float = 0.01,
    floor: float = 0.01,
) -> "CompoundLoss":
    r"""Kervadec's schedule: the boundary loss takes the region loss's weight over, bit by bit.

    .. math:: \alpha L_{region} + (1 - \alpha) L_{boundary}

    with α = 1 at first, less by ``rate`` for each epoch, down to ``floor``.

    References:
        Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019.

    Example:
        >>> from segloss import BoundaryLoss, DiceLoss, rebalanced
        >>> loss = rebalanced(DiceLoss(), BoundaryLoss())
        >>> loss.step()
        >>> [round(weight, 3) for weight in loss.weights.values()]
        [0.99, 0.01]
    """
    if not 0 < rate <= 1 or not 0 <= floor < 1:
        raise ValueError(
            f"rate must lie in (0, 1] and floor in [0, 1), got rate={rate} and floor={floor}"
        )
    return region * Rebalance(rate, floor) + boundary * Rebalance(rate, floor, rising=True)


@dataclass(frozen=True)
class Rebalance:
    """α of `rebalanced`, or 1 - α if ``rising``."""

    rate: float
    floor: float
    rising: bool = False

    def __call__(self, epoch: int) -> float:
        alpha = max(1 - self.rate * epoch, self.floor)
        return 1 - alpha if self.rising else alpha


def _check_steps(name: str, steps: int) -> None:
    if not_negative(name, steps) < 1:
        raise ValueError(f"{name} must be at least 1 epoch, got {steps}")
