"""Losses of single voxels as functions φ(m) of the cross entropy m = -log p(true class).

Every φ comes with its slope in closed form: differentiating powers of 1 - p automatically gives
NaN at saturated voxels. A `VoxelSum` is Σ w α φ(m) over a sample, with a weight α for each class;
its *pull* is its derivative by the cross entropies, or by the logits of sigmoids.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss.engine.block import Block

__all__ = [
    "CrossEntropy",
    "Focal",
    "Phi",
    "VoxelSum",
    "binary_pull",
    "class_pull",
    "phi_of",
    "voxel_sums",
]


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


@dataclass(frozen=True)
class VoxelSum:
    """Σ w α φ(m), and Σ w α to divide it by, for each sample.

    Args:
        phi: The loss of a voxel as a function of its cross entropy.
        class_weight: α for each channel; None for 1.
    """

    phi: Phi
    class_weight: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """Equal names are equal sums: strings, which torch.compile can compare."""
        return f"{self.phi.name} {self.class_weight}"


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


def _class_cross_entropy(block: Block) -> Tensor:
    """-log softmax: ``(b, 1, n)`` of the labelled class, or ``(b, c, n)`` of every class."""
    logits = block.logits
    if block.labels is not None:
        logits = logits.gather(1, block.labels[:, None])
    _, top, total = block.softmax
    return total.log() + (top - logits)  # the largest logit first: it may be huge


def _class_shares(block: Block, class_weight: tuple[float, ...] | None) -> Tensor | None:
    """The shares w α y, shaped like the cross entropies; None if it is 1 throughout."""
    shares = None if block.labels is not None else block.true
    if class_weight is not None:
        alpha = block.logits.new_tensor(class_weight)
        by_voxel = alpha[:, None] if block.labels is None else alpha[block.labels][:, None]
        shares = by_voxel if shares is None else shares * by_voxel
    return block.weight if shares is None else block.weighted(shares)


def class_pull(block: Block, terms: tuple[VoxelSum, ...], scales: Tensor) -> Tensor:
    """Derivative of the voxel sums by the cross entropies."""
    pull = scales.new_zeros(1, 1, 1)
    for term, scale in zip(terms, scales, strict=True):
        if term.phi != CrossEntropy():  # whose slope is 1 everywhere
            scale = term.phi.slope(_class_cross_entropy(block)) * scale
        shares = _class_shares(block, term.class_weight)
        pull = pull + (scale if shares is None else scale * shares)
    return pull


def _entry_weight(block: Block, class_weight: tuple[float, ...] | None) -> Tensor:
    """The weights w α of every entry of a multi-label target."""
    ones = torch.ones_like(block.pred)
    if class_weight is not None:
        ones *= block.logits.new_tensor(class_weight)[:, None]
    return block.weighted(ones)


def binary_pull(block: Block, terms: tuple[VoxelSum, ...], scales: Tensor) -> Tensor:
    """Derivative of the voxel sums by the logits of a multi-label head."""
    yes, no = _binary_cross_entropies(block)
    pull = torch.zeros_like(block.pred)
    for term, scale in zip(terms, scales, strict=True):
        towards_no = (1 - block.true) * term.phi.slope(no) * block.pred
        towards_yes = block.true * term.phi.slope(yes) * (1 - block.pred)
        pull += _entry_weight(block, term.class_weight) * scale * (towards_no - towards_yes)
    return pull


def _binary_cross_entropies(block: Block) -> tuple[Tensor, Tensor]:
    """-log p and -log(1 - p), by a formula whose slope is right at 0 too."""
    logits = block.logits
    return -logsigmoid(logits), -logsigmoid(-logits)


def voxel_sums(block: Block, terms: tuple[VoxelSum, ...]) -> list[Tensor]:
    """Each sum and its normaliser, ``(b, 2)``."""
    if not terms:
        return []
    b, _, n = block.logits.shape
    sums = []
    if block.exclusive:
        m = _class_cross_entropy(block)
        for term in terms:
            shares, value = _class_shares(block, term.class_weight), phi_of(term.phi, m)
            if shares is None:
                total, norm = value.sum((1, 2)), value.new_full((b,), n)
            else:
                total, norm = (value * shares).sum((1, 2)), shares.sum((1, 2))
            sums.append(torch.stack((total, norm), 1))
        return sums
    yes, no = _binary_cross_entropies(block)
    for term in terms:
        value = block.true * phi_of(term.phi, yes) + (1 - block.true) * phi_of(term.phi, no)
        weight = _entry_weight(block, term.class_weight)
        sums.append(torch.stack(((value * weight).sum((1, 2)), weight.sum((1, 2))), 1))
    return sums
