"""The activations of trees, each on a tree of its own, as the engine calls them."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss.activation import NodeActivation, Softmax
from segloss.engine.constants import constant, kept
from segloss.hierarchy.chain import levels_of
from segloss.label_tree import LabelTree
from segloss.shapes import Flat, Nodes, PerVoxel

__all__ = ["Conditional", "Constrained", "Levels", "OnLeaves", "Ordered", "heads_of", "members"]


@kept
def heads_of(tree: LabelTree) -> tuple[int, ...]:
    """The nodes that are no rest."""
    return tuple(node for node in range(len(tree)) if node not in tree.rest)


@kept
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
class OnLeaves(Softmax, _OfTree):
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
class Conditional(_OfTree):
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
class Constrained(_OfTree):
    """The largest logit of the descendants, or the least of the ancestors."""

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


class _Chain(_OfTree):
    """σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)): what is in one level and not in the next."""

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        levels, tree = levels_of(self.tree), self.tree
        z = self.odds(logits)
        yes = {level: logsigmoid(x) for level, x in zip(levels, z, strict=True)}
        no = {level: logsigmoid(-x) for level, x in zip(levels, z, strict=True)}
        for rest in tree.rest:
            outer = tree.parents[rest]
            if outer < 0:
                yes[rest], no[rest] = no[levels[0]], yes[levels[0]]
                continue
            k = levels.index(outer)
            between = self.gap(z, k).neg().expm1().neg().log()
            yes[rest] = yes[outer] + no[levels[k + 1]] + between
            no[rest] = torch.logaddexp(no[outer], yes[levels[k + 1]])
        nodes = range(len(tree))
        return _both([yes[v] for v in nodes], [no[v] for v in nodes])

    @abstractmethod
    def odds(self, logits: Flat) -> list[Tensor]:
        """The log odds of each level, each ``(b, n)``, outermost first: falling."""

    @abstractmethod
    def gap(self, odds: list[Tensor], k: int) -> Tensor:
        """By how much those of level k exceed those of the next."""


@dataclass(frozen=True, eq=False)
class Levels(_Chain):
    """One channel and fixed thresholds."""

    tree: LabelTree
    steepness: float
    thresholds: tuple[float, ...]

    def odds(self, logits: Flat) -> list[Tensor]:
        return [self.steepness * (logits[:, 0] - threshold) for threshold in self.thresholds]

    def gap(self, odds: list[Tensor], k: int) -> Tensor:
        between = self.thresholds[k + 1] - self.thresholds[k]
        return constant((self.steepness * between,), odds[k])


@dataclass(frozen=True, eq=False)
class Ordered(_Chain):
    """A channel for each level."""

    tree: LabelTree

    def odds(self, logits: Flat) -> list[Tensor]:
        return list(accumulate(logits.unbind(1), torch.minimum))

    def gap(self, odds: list[Tensor], k: int) -> Tensor:
        # No wider than what rounding takes away, and their difference would have a log of -inf.
        return (odds[k] - odds[k + 1]).clamp(min=torch.finfo(odds[k].dtype).eps)
