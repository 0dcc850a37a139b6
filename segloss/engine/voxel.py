"""Losses of single voxels as functions φ(m) of the cross entropy m = -log p(true class).

Every φ comes with its slope in closed form: differentiating powers of 1 - p automatically gives
NaN at saturated voxels. A φ is a frozen dataclass, so that equal ones are computed once.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["CrossEntropy", "Focal", "Phi", "phi_of"]


@runtime_checkable
class Phi(Protocol):
    """A function of the cross entropy m ≥ 0, and its derivative."""

    @property
    def name(self) -> str:
        """Its name and parameters; equal names are equal functions."""
        ...

    def value(self, m: Tensor) -> Tensor:
        """φ(m), elementwise."""
        ...

    def slope(self, m: Tensor) -> Tensor:
        """dφ/dm, elementwise."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """φ(m) = m."""

    name = "cross entropy"

    def value(self, m: Tensor) -> Tensor:
        return m

    def slope(self, m: Tensor) -> Tensor:
        return torch.ones_like(m)


@dataclass(frozen=True)
class Focal:
    """φ(m) = a^γ m, with a = 1 - e^-m the probability of being wrong."""

    gamma: float

    @property
    def name(self) -> str:
        return f"focal {self.gamma}"

    def value(self, m: Tensor) -> Tensor:
        return _wrong(m).pow(self.gamma) * m

    def slope(self, m: Tensor) -> Tensor:
        wrong = _wrong(m)
        certain = wrong == 0
        m_over_wrong = torch.where(certain, 1.0, m / wrong.masked_fill(certain, 1.0))
        return wrong.pow(self.gamma) * (1 + self.gamma * (1 - wrong) * m_over_wrong)


def phi_of(phi: Phi, m: Tensor) -> Tensor:
    """φ(m) under autograd, which sees the closed-form slope."""
    if not m.requires_grad:
        return phi.value(m)
    value: Tensor = _WithSlope.apply(m, phi)  # type: ignore[no-untyped-call]
    return value


def _wrong(m: Tensor) -> Tensor:
    return -torch.expm1(-m)


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, phi: Phi) -> Tensor:
        ctx.save_for_backward(m)
        ctx.phi = phi
        return phi.value(m).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (m,) = ctx.saved_tensors
        return grad * ctx.phi.slope(m), None
