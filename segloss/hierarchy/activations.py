"""Activations that cannot break the nesting: each gives log p and log(1 - p) of every node.

An activation is a frozen dataclass of options; `segloss.Tree` binds it to a tree for the engine, by
`TreeActivation.on`. Everything is computed in logs, in single precision or more.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss.activation import NodeActivation, Softmax
from segloss.arguments import one_of
from segloss.hierarchy.chain import levels_of
from segloss.label_tree import LabelTree
from segloss.shapes import Flat, Logits, Nodes, PerVoxel

__all__ = [
    "ConditionalSigmoid",
    "LeafSoftmax",
    "MaxConstraint",
    "MultiLevelActivation",
    "TreeActivation",
    "heads_of",
    "members",
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
        return _OnLeaves(members=members(tree, like.dtype, like.device), tree=tree)


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
        return _Conditional(tree)


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
        return _Constrained(tree, self.mode)


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
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.steepness < float("inf"):
            raise ValueError(f"steepness must be a finite number above 0, got {self.steepness!r}")
        given = self.thresholds or ()
        if any(not a < b for a, b in pairwise(given)):
            raise ValueError(f"thresholds must increase, got {given}")

    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        self._all_thresholds(tree)
        return ("depth",)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return _Levels(tree, self.steepness, self._all_thresholds(tree))

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
        return self.thresholds


def _heads(tree: LabelTree) -> tuple[str, ...]:
    return tuple(tree.names[node] for node in heads_of(tree))


@lru_cache(maxsize=64)
def heads_of(tree: LabelTree) -> tuple[int, ...]:
    """The nodes that are no rest."""
    return tuple(node for node in range(len(tree)) if node not in tree.rest)


@lru_cache(maxsize=64)
def members(tree: LabelTree, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Which leaf lies in which node, ``(v, l)``."""
    return torch.tensor(tree.membership, dtype=dtype, device=device)


def _siblings(tree: LabelTree) -> dict[int, list[int]]:
    """The nodes below each node, those at the top under -1."""
    below: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parents):
        below.setdefault(parent, []).append(node)
    return below


def _both(yes: list[Tensor], no: list[Tensor]) -> tuple[Nodes, Nodes]:
    # Rounding must not make a probability more than 1: its cross entropy would be below 0.
    return torch.stack(yes, 1).clamp(max=0), torch.stack(no, 1).clamp(max=0)


class _OfTree(NodeActivation):
    """What the activations of trees share: the way down to a label costs what its steps cost."""

    tree: LabelTree

    def surprise(
        self, logits: Flat, true: Nodes, known: Nodes | None, weight: tuple[float, ...] | None
    ) -> PerVoxel:
        log_p = self.log_probabilities(logits)[0]
        total = torch.zeros_like(log_p[:, 0])
        for node, parent in enumerate(self.tree.parents):
            step = -log_p[:, node] if parent < 0 else log_p[:, parent] - log_p[:, node]
            cost = 1 if weight is None else weight[node]
            total = total + cost * true[:, node] * step.clamp(min=0)
        return total[:, None]


@dataclass(frozen=True, eq=False, kw_only=True)
class _OnLeaves(Softmax, _OfTree):
    """Sums over leaves, up the tree; and over all others, down the tree."""

    tree: LabelTree

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        z = logits - logits.detach().amax(1, keepdim=True)
        below = _siblings(self.tree)
        inside: dict[int, Tensor] = {leaf: z[:, i] for i, leaf in enumerate(self.tree.leaves)}
        for node in reversed(range(len(self.tree))):
            if node in below:
                parts = torch.stack([inside[child] for child in below[node]], 1)
                inside[node] = parts.logsumexp(1)
        outside: dict[int, Tensor] = {}
        for parent, nodes in sorted(below.items()):
            others = _without_each(torch.stack([inside[node] for node in nodes], 1))
            for i, node in enumerate(nodes):
                beside = others[:, i]
                outside[node] = beside if parent < 0 else torch.logaddexp(outside[parent], beside)
        every = torch.stack([inside[node] for node in below[-1]], 1).logsumexp(1)
        order = range(len(self.tree))
        return _both([inside[v] - every for v in order], [outside[v] - every for v in order])


def _without_each(x: Tensor) -> Tensor:
    """The log of Σ e^x over all of ``(b, k, n)`` but one, for each one, k at least 2."""
    if x.shape[1] == 2:
        return x.flip(1)
    top, index = x.detach().max(1, keepdim=True)
    is_top = torch.zeros_like(x, dtype=torch.bool).scatter_(1, index, True)
    odds = (x - top).exp()
    rest = (odds.sum(1, keepdim=True) - odds).masked_fill(is_top, 1)  # at least 1: the top is in it
    without_top = x.masked_fill(is_top, -torch.inf).logsumexp(1, keepdim=True)
    return torch.where(is_top, without_top, rest.log() + top)


@dataclass(frozen=True, eq=False)
class _Conditional(_OfTree):
    """log p = log p of the parent + log σ, and 1 - p = (1 - p of the parent) + p of it (1 - σ)."""

    tree: LabelTree

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        yes, no = self._steps(logits)
        log_p: list[Tensor] = []
        log_rest: list[Tensor] = []
        for node, parent in enumerate(self.tree.parents):
            if parent < 0:
                log_p.append(yes[node])
                log_rest.append(no[node])
            else:
                log_p.append(log_p[parent] + yes[node])
                log_rest.append(torch.logaddexp(log_rest[parent], log_p[parent] + no[node]))
        return _both(log_p, log_rest)

    def surprise(
        self, logits: Flat, true: Nodes, known: Nodes | None, weight: tuple[float, ...] | None
    ) -> PerVoxel:
        total = torch.zeros_like(logits[:, 0])
        for channel, node in enumerate(heads_of(self.tree)):
            z, y, parent = logits[:, channel], true[:, node], self.tree.parents[node]
            no = 1 - y if known is None else (1 - y) * known[:, node]
            step = -(y * logsigmoid(z) + no * logsigmoid(-z))
            if parent >= 0:
                step = step * true[:, parent]
            total = total + (1 if weight is None else weight[node]) * step
        return total[:, None]

    def _steps(self, logits: Flat) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The log probability of each node, and of its opposite, given its parent."""
        heads = heads_of(self.tree)
        yes = {node: logsigmoid(logits[:, i]) for i, node in enumerate(heads)}
        no = {node: logsigmoid(-logits[:, i]) for i, node in enumerate(heads)}
        for nodes in _siblings(self.tree).values():
            others = [node for node in nodes if node in heads]
            for rest in set(nodes).difference(others):
                none, some = no[others[0]], yes[others[0]]
                for node in others[1:]:
                    some = torch.logaddexp(some, none + yes[node])
                    none = none + no[node]
                yes[rest], no[rest] = none, some
        return yes, no


@dataclass(frozen=True, eq=False)
class _Constrained(_OfTree):
    tree: LabelTree
    mode: Literal["max", "min"]
    joint = False

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        tree, heads = self.tree, heads_of(self.tree)
        z = {node: logits[:, i] for i, node in enumerate(heads)}
        for node in reversed(heads) if self.mode == "max" else heads:
            parent = tree.parents[node]
            if parent >= 0 and self.mode == "max":
                z[parent] = torch.maximum(z[parent], z[node])
            elif parent >= 0:
                z[node] = torch.minimum(z[node], z[parent])
        for parent, nodes in _siblings(tree).items():
            others = [node for node in nodes if node in heads]
            for rest in set(nodes).difference(others):
                z[rest] = -reduce(torch.maximum, [z[node] for node in others])
                if parent >= 0:
                    z[rest] = torch.minimum(z[rest], z[parent])
        every = torch.stack([z[node] for node in range(len(tree))], 1)
        return logsigmoid(every), logsigmoid(-every)


@dataclass(frozen=True, eq=False)
class _Levels(_OfTree):
    """σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)): what is in one level and not in the next."""

    tree: LabelTree
    steepness: float
    thresholds: tuple[float, ...]

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        levels, tree = levels_of(self.tree), self.tree
        z = [self.steepness * (logits[:, 0] - threshold) for threshold in self.thresholds]
        yes = {level: logsigmoid(x) for level, x in zip(levels, z, strict=True)}
        no = {level: logsigmoid(-x) for level, x in zip(levels, z, strict=True)}
        for rest in tree.rest:
            outer = tree.parents[rest]
            if outer < 0:
                yes[rest], no[rest] = no[levels[0]], yes[levels[0]]
                continue
            k = levels.index(outer)
            gap = self.steepness * (self.thresholds[k + 1] - self.thresholds[k])
            share = logits.new_tensor(-gap).expm1().neg().log()
            yes[rest] = yes[outer] + no[levels[k + 1]] + share
            no[rest] = torch.logaddexp(no[outer], yes[levels[k + 1]])
        nodes = range(len(tree))
        return _both([yes[v] for v in nodes], [no[v] for v in nodes])
