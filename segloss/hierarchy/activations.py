"""Activations that cannot break the nesting: each gives log p and log(1 - p) of every node.

An activation is a frozen dataclass of options; `segloss.Tree` binds it to a tree for the engine, by
`TreeActivation.on`. Everything is computed in logs, in single precision or more.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from segloss.activation import NodeActivation
from segloss.arguments import above_zero, number, one_of
from segloss.hierarchy.chain import deepest, levels_of
from segloss.hierarchy.on_trees import (
    Conditional,
    Constrained,
    Levels,
    OnLeaves,
    Ordered,
    heads_of,
    members,
)
from segloss.label_tree import LabelTree
from segloss.shapes import Logits

__all__ = [
    "ConditionalSigmoid",
    "LeafSoftmax",
    "MaxConstraint",
    "MultiLevelActivation",
    "OrderedLevels",
    "TreeActivation",
]


class TreeActivation(ABC):
    """How the probabilities of a tree's nodes come from logits.

    Called with logits ``(b, c, *space)`` and a `LabelTree`, it returns log p and log(1 - p) of all
    nodes, each ``(b, v, *space)`` in single precision or more, with p of a node at most that of its
    parent.
    """

    joint: ClassVar[bool] = True
    """A label has a probability of its own; if not, each node is a question of its own."""

    @abstractmethod
    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        """What each channel of the logits stands for.

        Raises:
            ValueError: If the activation cannot read such a tree.
        """

    @abstractmethod
    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        """The same for one tree, as the engine needs it, in the type and place of a tensor."""

    def leaves(self, log_p: Tensor, tree: LabelTree) -> Tensor:
        """The label of each voxel, ``(b, 1, *space)`` int64, from log p of all nodes."""
        return log_p[:, list(tree.leaves)].argmax(1, keepdim=True)

    def __call__(self, logits: Logits, tree: LabelTree) -> tuple[Tensor, Tensor]:
        names = self.channels(tree)
        if logits.shape[1] != len(names):
            raise ValueError(
                f"the input has {logits.shape[1]} channels, but {self} needs {len(names)} for this "
                f"tree: {', '.join(names)}"
            )
        z = logits.flatten(2).to(torch.promote_types(logits.dtype, torch.float32))
        with torch.autocast(logits.device.type, enabled=False):
            yes, no = self.on(tree, z).log_probabilities(z)
        space = logits.shape[2:]
        return yes.unflatten(2, space), no.unflatten(2, space)


@final
@dataclass(frozen=True)
class LeafSoftmax(TreeActivation):
    """A softmax over the leaves; the probability of a node is the sum over its leaves.

    One channel for each leaf, in their order. Siblings exclude each other, labels of inner nodes are
    the sum over what they leave open, and the gradient is that of a softmax: the default.

    Example:
        >>> from segloss import LabelTree
        >>> tree = LabelTree({"liver": ["rest of liver", "tumour"]})
        >>> log_p, log_rest = LeafSoftmax()(torch.zeros(1, 3, 1, 1), tree)
        >>> dict(zip(tree.names, log_p.exp().flatten().tolist()))
        {'background': 0.333..., 'liver': 0.666..., 'rest of liver': 0.333..., 'tumour': 0.333...}
    """

    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        return tuple(tree.names[leaf] for leaf in tree.leaves)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return OnLeaves(members=members(tree, like.dtype, like.device), tree=tree)


@final
@dataclass(frozen=True)
class ConditionalSigmoid(TreeActivation):
    """A sigmoid for each node, given its parent; the probability is the product down the path.

    One channel for each node that is no rest. Siblings may overlap or be absent: what is in a node
    but in none of its children is its rest, and outside all, the background. A channel means
    nothing outside the parent of its node.

    References:
        Shi et al., "Deep neural networks for rank-consistent ordinal regression based on
        conditional probabilities" (CORN), 2021, for a chain.

    Example:
        >>> from segloss import LabelTree
        >>> tree = LabelTree({"liver": {"tumour": None}})
        >>> log_p, log_rest = ConditionalSigmoid()(torch.zeros(1, 2, 1, 1), tree)
        >>> dict(zip(tree.names, log_p.exp().flatten().tolist()))
        {'background': 0.5, 'liver': 0.5, 'rest of liver': 0.25, 'tumour': 0.25}
    """

    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        return _heads(tree)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return Conditional(tree)


@final
@dataclass(frozen=True)
class MaxConstraint(TreeActivation):
    """A sigmoid for each node, then the largest of its descendants' or the least of its ancestors'.

    One channel for each node that is no rest; the probability of a rest is the smaller of its
    parent's and of one minus its largest sibling's. The gradient of a node reaches one channel
    only. Train with `segloss.MaxConstraintLoss` or `segloss.TreeMinLoss`, which know the target.

    Args:
        mode: ``"max"``: a child lifts its parents. ``"min"``: a parent holds its children down,
            which is right where false children are the trouble.

    References:
        Giunchiglia and Lukasiewicz, "Coherent hierarchical multi-label classification networks",
        NeurIPS 2020, for ``"max"``.

    Example:
        >>> from segloss import LabelTree
        >>> tree = LabelTree({"liver": {"tumour": None}})
        >>> logits = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
        >>> for mode in ("max", "min"):
        ...     log_p, log_rest = MaxConstraint(mode)(logits, tree)
        ...     print([round(p, 2) for p in log_p.exp().flatten().tolist()])
        [0.12, 0.88, 0.12, 0.88]
        [0.5, 0.5, 0.5, 0.5]
    """

    mode: Literal["max", "min"] = "max"
    joint: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("max", "min"))

    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        return _heads(tree)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return Constrained(tree, self.mode)


@final
@dataclass(frozen=True)
class MultiLevelActivation(TreeActivation):
    r"""One channel x for a chain of nested nodes: level k is where x is above its threshold.

    .. math:: p_k = \sigma(s (x - \theta_k)), \qquad \theta_1 < \theta_2 < \dots < \theta_K

    For trees in which every node has one child, and a rest. x is a depth: it passes all levels on
    its way in, so a thin rim of the levels between is left wherever an inner structure touches the
    background. The probability of a level without the next never exceeds tanh(sΔ/4), with Δ
    between their thresholds, and the gradient of a loss other than cross entropy fades as sΔ grows:
    0.987 at the defaults.

    Decoding counts the levels with a probability above one half; the likeliest leaf may be another.
    To learn the thresholds, see `segloss.LevelThresholds`.

    The published equation could not be had; this is a sum of shifted sigmoids on one channel, as
    its abstract describes it.

    Args:
        steepness: s.
        thresholds: θ, one for each level, increasing; by default 1 apart, with mean 0.

    References:
        Hu et al., "Hierarchical multi-class segmentation of glioma images using networks with
        multi-level activation function", BrainLes 2018; Piraud et al., "Multi-level activation for
        segmentation of hierarchically-nested classes", ECCV workshops 2018.

    Example:
        >>> from segloss import LabelTree
        >>> tree = LabelTree({"whole": {"core": None}})
        >>> log_p, log_rest = MultiLevelActivation()(torch.zeros(1, 1, 1, 1), tree)
        >>> [round(p, 3) for p in log_p.exp().flatten().tolist()]
        [0.007, 0.993, 0.987, 0.007]
    """

    steepness: float = 10.0
    thresholds: Sequence[float] | None = None

    def __post_init__(self) -> None:
        above_zero("steepness", self.steepness)
        given = tuple(number("thresholds", threshold) for threshold in self.thresholds or ())
        if self.thresholds is not None:
            object.__setattr__(self, "thresholds", given)
        if any(not a < b for a, b in pairwise(given)):
            raise ValueError(f"thresholds must increase, got {given}")

    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        self._all_thresholds(tree)
        return ("depth",)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return Levels(tree, self.steepness, self._all_thresholds(tree))

    def leaves(self, log_p: Tensor, tree: LabelTree) -> Tensor:
        return deepest(log_p, tree)

    def _all_thresholds(self, tree: LabelTree) -> tuple[float, ...]:
        levels = levels_of(tree)
        if self.thresholds is None:
            return tuple(k - (len(levels) - 1) / 2 for k in range(len(levels)))
        if len(self.thresholds) != len(levels):
            names = ", ".join(tree.names[level] for level in levels)
            raise ValueError(
                f"thresholds has {len(self.thresholds)} numbers, expected {len(levels)}, one for "
                f"each level: {names}"
            )
        return tuple(self.thresholds)


@final
@dataclass(frozen=True)
class OrderedLevels(TreeActivation):
    """A channel for each level of a chain of nested nodes, outermost first: a sigmoid of each.

    `segloss.LevelThresholds` gives such channels, each below the one before; train no others with
    it. A channel that is not is taken for as large as the least before it, so that nothing breaks
    the nesting: then nothing is left between the two, and no gradient parts them. Decoding counts the
    levels with a probability above one half.

    References:
        Cao, Mirjalili and Raschka, "Rank consistent ordinal regression for neural networks"
        (CORAL), 2020, whose order of the channels comes from training alone.

    Example:
        >>> from segloss import LabelTree
        >>> tree = LabelTree({"whole": {"core": None}})
        >>> log_p, log_rest = OrderedLevels()(torch.tensor([2.0, -1.0]).view(1, 2, 1, 1), tree)
        >>> dict(zip(tree.names, [round(p, 3) for p in log_p.exp().flatten().tolist()]))
        {'background': 0.119, 'whole': 0.881, 'rest of whole': 0.612, 'core': 0.269}
    """

    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        return tuple(tree.names[level] for level in levels_of(tree))

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return Ordered(tree)

    def leaves(self, log_p: Tensor, tree: LabelTree) -> Tensor:
        return deepest(log_p, tree)


def _heads(tree: LabelTree) -> tuple[str, ...]:
    return tuple(tree.names[node] for node in heads_of(tree))
