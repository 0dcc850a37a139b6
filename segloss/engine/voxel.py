"""Losses of single voxels as functions φ(m) of the cross entropy m = -log p(true class).

Every φ comes with its slope in closed form: differentiating powers of 1 - p automatically gives
NaN at saturated voxels. A `VoxelSum` is Σ w α φ(m) over a sample, with a weight α for each class;
its *pull* is its derivative by the cross entropies, or by the logits of sigmoids.

The cross entropy is that of the voxel's label, or of each node's yes or no: of the latter if the
activation gives labels no probability of their own, or if the sum asks for it.

What depends on the probabilities of the other outcomes too is a `Relative`, without a closed form;
or, if it is linear in the label, a `segloss.engine.logit_cost.LogitCost`, with one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from segloss.activation import Activation, NodeActivation, Outcomes, Sigmoid, Softmax
from segloss.engine.block import Block
from segloss.engine.constants import constant
from segloss.engine.logit_cost import CostSum

__all__ = [
    "CrossEntropy",
    "Focal",
    "Phi",
    "Relative",
    "VoxelSum",
    "binary_pull",
    "class_pull",
    "has_closed_form",
    "label_weight",
    "phi_of",
    "voxel_costs",
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


class Relative(ABC):
    """φ(m) = m of a measure m of the outcomes' cross entropies; autograd differentiates it.

    The outcomes are the channels of a softmax, and the yes and the no of a sigmoid.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name and parameters; equal names are equal measures."""

    @abstractmethod
    def measure(self, m: Tensor, surprises: Tensor) -> Tensor:
        """What to sum up.

        Args:
            m: The cross entropy of an outcome, ``(b, k, n)``.
            surprises: -log p of every outcome, ``(o, b, 1 or k, n)``.
        """

    def value(self, m: Tensor) -> Tensor:
        """The measure as it is."""
        return m

    def slope(self, m: Tensor) -> Tensor:
        """1 throughout."""
        return torch.ones_like(m)


@dataclass(frozen=True)
class VoxelSum:
    """Σ w α φ(m), and Σ w α to divide it by, for each sample.

    Args:
        phi: The loss of a voxel as a function of its cross entropy.
        class_weight: α for each node; None for 1.
        of: The cross entropy of the voxel's ``"label"``; of each ``"step"`` down the tree to it,
            times α of the node that it leads to; or of each ``"node"``'s yes or no.
        no: φ of a node's no, if another than that of its yes.
    """

    phi: Phi
    class_weight: tuple[float, ...] | None = None
    of: Literal["label", "step", "node"] = "label"
    no: Phi | None = None

    @property
    def name(self) -> str:
        """Equal names are equal sums: strings, which torch.compile can compare."""
        return f"{self.phi.name}, {self.phi_of_no.name} of {self.of} {self.class_weight}"

    @property
    def phi_of_no(self) -> Phi:
        """φ of a node's no."""
        return self.phi if self.no is None else self.no


def has_closed_form(activation: Activation, terms: tuple[VoxelSum | CostSum, ...]) -> bool:
    """Whether the gradient needs no autograd."""
    sums = [term for term in terms if isinstance(term, VoxelSum)]
    if any(isinstance(term.phi, Relative) for term in sums):
        return False
    if isinstance(activation, Softmax):
        return not any(term.of == "node" or _weighs_steps(term) for term in sums)
    return isinstance(activation, Sigmoid)


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


def _class_shares(block: Block, class_weight: tuple[float, ...] | None) -> Tensor | None:
    """The shares w α y, shaped like the cross entropies; None if it is 1 throughout."""
    alpha: Tensor | None = None
    if class_weight is not None:
        alpha = constant(class_weight, block.logits)
    shares: Tensor | None
    if block.labels is None:
        shares = block.true if alpha is None else block.true * alpha[:, None]
    else:
        if block.outcomes is not None:
            alpha = _outcome_weight(block.outcomes, alpha)
        shares = None if alpha is None else alpha[block.labels][:, None]
    if shares is None:
        return block.voxel_weight
    return shares if block.voxel_weight is None else shares * block.voxel_weight


def label_weight(
    class_weight: tuple[float, ...], outcomes: Outcomes | None, like: Tensor
) -> Tensor:
    """How much each label counts for the cross entropy, by the weights of what it names: ``(t,)``."""
    weight = constant(class_weight, like)
    return weight if outcomes is None else outcomes.named.to(weight) @ weight


def _outcome_weight(outcomes: Outcomes, class_weight: Tensor | None) -> Tensor | None:
    """How much each label counts, ``(t,)``: nothing if it says nothing; None for 1."""
    weight = None if class_weight is None else outcomes.named.to(class_weight) @ class_weight
    if outcomes.known is None:
        return weight
    telling = (~outcomes.sets.all(1)).to(outcomes.known)
    return telling if weight is None else weight * telling


def class_pull(block: Block, terms: list[tuple[VoxelSum, Tensor]]) -> Tensor:
    """Derivative by the cross entropies of the voxel sums, each times its scale ``(b, 1, 1)``."""
    pull = block.logits.new_zeros(1, 1, 1)
    for term, scale in terms:
        if term.phi != CrossEntropy():  # whose slope is 1 everywhere
            scale = term.phi.slope(block.cross_entropy) * scale
        shares = _class_shares(block, term.class_weight)
        pull = pull + (scale if shares is None else scale * shares)
    return pull


def _entry_weight(block: Block, class_weight: tuple[float, ...] | None) -> Tensor:
    """The weights w α of every entry of a multi-label target."""
    ones = torch.ones_like(block.pred)
    if class_weight is not None:
        ones *= constant(class_weight, block.logits)[:, None]
    return block.weighted(ones)


def binary_pull(block: Block, terms: list[tuple[VoxelSum, Tensor]]) -> Tensor:
    """The same by the logits of a multi-label head."""
    yes, no = (-log for log in block.answers)
    pull = torch.zeros_like(block.pred)
    for term, scale in terms:
        towards_no = (1 - block.true) * term.phi_of_no.slope(no) * block.pred
        towards_yes = block.true * term.phi.slope(yes) * (1 - block.pred)
        pull += _entry_weight(block, term.class_weight) * scale * (towards_no - towards_yes)
    return pull


def voxel_sums(block: Block, terms: tuple[VoxelSum | CostSum, ...]) -> list[Tensor]:
    """Each sum and its normaliser, ``(b, 2)``."""
    return [
        term.sums(block) if isinstance(term, CostSum) else _summed(block, *voxel_costs(block, term))
        for term in terms
    ]


def voxel_costs(block: Block, term: VoxelSum) -> tuple[Tensor, Tensor | None]:
    """φ(m) and its shares w α y, each ``(b, k, n)`` or ``(b, 1, n)``; None for shares of 1."""
    by_node = term.of == "node" or not block.activation.joint
    return _costs_by_node(block, term) if by_node else _costs_by_label(block, term)


def _summed(block: Block, value: Tensor, shares: Tensor | None) -> Tensor:
    b, _, n = block.logits.shape
    if shares is None:
        return torch.stack((value.sum((1, 2)), value.new_full((b,), n)), 1)
    return torch.stack(((value * shares).sum((1, 2)), shares.sum((1, 2))), 1)


def _costs_by_label(block: Block, term: VoxelSum) -> tuple[Tensor, Tensor | None]:
    by_step = term.of == "step"
    if isinstance(block.activation, Softmax) and not _weighs_steps(term):
        m = block.cross_entropy
    else:
        assert isinstance(block.activation, NodeActivation)
        weight = term.class_weight if by_step else None
        m = block.activation.surprise(block.logits, block.true, block.known, weight)
    if isinstance(term.phi, Relative):
        m = term.phi.measure(m, _surprises(block))
    return phi_of(term.phi, m), _class_shares(block, None if by_step else term.class_weight)


def _surprises(block: Block) -> Tensor:
    """-log p of every channel, ``(c, b, 1, n)``."""
    assert isinstance(block.activation, Softmax), "only a softmax lists the outcomes of a label"
    _, top, total = block.softmax
    return (total.log() + (top - block.logits)).movedim(1, 0)[:, :, None]


def _weighs_steps(term: VoxelSum) -> bool:
    return term.of == "step" and term.class_weight is not None


def _costs_by_node(block: Block, term: VoxelSum) -> tuple[Tensor, Tensor]:
    yes, no = (-log for log in block.answers)
    if isinstance(term.phi, Relative):
        both = torch.stack((yes, no))
        yes, no = term.phi.measure(yes, both), term.phi.measure(no, both)
    by_yes, by_no = phi_of(term.phi, yes), phi_of(term.phi_of_no, no)
    value = block.true * by_yes + (1 - block.true) * by_no
    return value, _entry_weight(block, term.class_weight)
