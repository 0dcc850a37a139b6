"""How probabilities come from logits, and what labels say of them, as the engine needs to know it.

The engine knows the gradients of a softmax, over channels or sets of them, and of sigmoids. Nested
classes bring activations of their own, anything that gives log p and log(1 - p) of each node: a
`NodeActivation`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from segloss.shapes import Flat, Nodes, PerVoxel

__all__ = ["Activation", "Affine", "NodeActivation", "Outcomes", "Sigmoid", "Softmax"]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What each of t labels says of the v nodes; a row for each label.

    Args:
        member: ``(t, v)``, 1 where the label lies in the node, 0 elsewhere, in the type to compute
            in.
        named: ``(t, v)``, with rows that add up to 1: how much each node's class weight counts for
            the cross entropy of the label.
        described: What the labels are, for error messages, as in "the tree names 3 labels".
        sets: ``(t, c)`` booleans: the leaves that the label leaves possible, at least one; the
            channels of a softmax.
        known: ``(t, v)``, 1 where the label says whether it lies in the node, 0 where it leaves
            this open: such a voxel counts for nothing in the sums of that node. None if all is
            known. A label of which nothing is known has a cross entropy of 0 and no share in its
            mean.
        single: ``(t,)`` int64: the one channel of each set, if every set has but one.
        plain: Label i is channel i of a softmax.
        rows: ``(b, r)`` int64: the row of each target value, sample by sample, -1 for values that
            must not occur. None if values are rows.
    """

    member: Tensor
    named: Tensor
    described: str
    sets: Tensor
    known: Tensor | None = None
    single: Tensor | None = None
    plain: bool = False
    rows: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Affine:
    """Logits as a loss sees them: slope · logit + shift - margin · membership of the target.

    Args:
        slope: ``(c, 1)``, in the type to compute in.
        shift: ``(c, 1)``.
        margin: ``(c, 1)``; None for 0.
    """

    slope: Tensor
    shift: Tensor
    margin: Tensor | None = None


class Activation:
    """What the engine needs to know to read logits."""

    joint: bool = True
    """A label has a probability of its own; if not, each node is a question of its own."""


@dataclass(frozen=True, eq=False)
class Sigmoid(Activation):
    """Each channel is a node, with a sigmoid of its own."""

    joint = False


@dataclass(frozen=True, eq=False)
class Softmax(Activation):
    """Channels exclude each other; a node is a channel, or a set of channels.

    Args:
        members: ``(v, c)``, 1 where the channel belongs to the node, in the type to compute in.
            None if the nodes are the channels.
    """

    members: Tensor | None = None


class NodeActivation(Activation, ABC):
    """Any probabilities of nodes, as log p and log(1 - p); autograd differentiates them."""

    @abstractmethod
    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        """The logs of p and of 1 - p of every node, each ``(b, v, n)``."""

    def answers(self, logits: Flat, true: Nodes) -> tuple[Nodes, Nodes]:
        """The logs of the probabilities of yes and of no for the cross entropy of each node.

        Args:
            logits: ``(b, c, n)``.
            true: Memberships of the nodes, ``(b, v, n)``; yes counts where it is 1, no where 0.
        """
        return self.log_probabilities(logits)

    @abstractmethod
    def surprise(
        self, logits: Flat, true: Nodes, known: Nodes | None, weight: tuple[float, ...] | None
    ) -> PerVoxel:
        """Minus the log of the probability of the voxel's label, ``(b, 1, n)``, if `joint`.

        Args:
            logits: ``(b, c, n)``.
            true: Memberships of the nodes, ``(b, v, n)``.
            known: Which of them are known, ``(b, v, n)``; None for all.
            weight: How much each node's step down the tree counts; None for 1.
        """
