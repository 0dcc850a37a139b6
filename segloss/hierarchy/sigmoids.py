"""Losses that know the target while they keep sigmoids of a tree's nodes in order."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import Unpack

from segloss.activation import NodeActivation
from segloss.arguments import not_negative
from segloss.engine.voxel import CrossEntropy, Focal, Phi
from segloss.hierarchy.activations import MaxConstraint, TreeActivation
from segloss.hierarchy.encoding import Tree
from segloss.hierarchy.losses import a_tree
from segloss.hierarchy.on_trees import heads_of
from segloss.label_tree import LabelTree
from segloss.losses.base import VoxelLoss, VoxelOptions
from segloss.shapes import Flat, Nodes, PerVoxel

__all__ = ["MaxConstraintLoss", "TreeMinLoss"]


class _OfHeads(VoxelLoss):
    """A mean over the voxels and the nodes that have a channel."""

    def full_class_weight(self, channels: int) -> tuple[float, ...] | None:
        tree = a_tree(self.encoding).tree
        given = super().full_class_weight(channels) or [1.0] * len(tree)
        return tuple(0.0 if node in tree.rest else given[node] for node in range(len(tree)))


@final
class TreeMinLoss(_OfHeads):
    """Focal loss of the least of a true node's ancestors, and of the largest of a false one's parts.

    A node is as true as its least ancestor, and as false as its largest descendant, itself among
    both: sigmoids that break the nesting are wrong. It is asked for, not guaranteed: predict with
    `segloss.MaxConstraint`. Rests have no channel, and do not count. The loss is from 0.

    Args:
        encoding: The tree, with `segloss.MaxConstraint`, in either mode.
        gamma: Of the focal loss; 0 for plain cross entropy.
        **options: Those of `segloss.VoxelLoss`. ``class_weight``, one number for each node, is how
            much its yes or no counts.

    References:
        Li et al., "Deep hierarchical semantic segmentation", CVPR 2022. Its code takes the mean over
        each level's nodes, and adds these up.

    Example:
        >>> import torch
        >>> from segloss import LabelTree, MaxConstraint, Tree
        >>> tree = Tree(LabelTree({"liver": {"tumour": None}}), MaxConstraint())
        >>> TreeMinLoss(tree)(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 2))
        tensor(0.1733)
    """

    def __init__(
        self,
        encoding: Tree,
        *,
        gamma: float = 2.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(_constrained(encoding), **options)
        self.gamma = not_negative("gamma", gamma)

    @property
    def reading(self) -> Tree:
        """The tree, with the least ancestor for yes and the largest descendant for no."""
        return replace(a_tree(self.encoding), activation=_MinAndMax())

    @property
    def phi(self) -> Phi:
        return Focal(self.gamma) if self.gamma else CrossEntropy()


@final
class MaxConstraintLoss(_OfHeads):
    """Cross entropy of the maxima, in which a true node may only lean on true descendants.

    The probability of a false node is the largest of its descendants', that of a true node the
    largest of its *true* descendants'; a node is its own descendant. So a wrong child cannot lift
    its parent to the right answer. Rests have no channel, and do not count. The loss is from 0.

    Args:
        encoding: The tree, with ``MaxConstraint("max")``.
        **options: Those of `segloss.VoxelLoss`. ``class_weight``, one number for each node, is how
            much its yes or no counts.

    References:
        Giunchiglia and Lukasiewicz, "Coherent hierarchical multi-label classification networks",
        NeurIPS 2020.

    Example:
        >>> import torch
        >>> from segloss import LabelTree, MaxConstraint, Tree
        >>> tree = Tree(LabelTree({"liver": {"tumour": None}}), MaxConstraint())
        >>> MaxConstraintLoss(tree)(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 2))
        tensor(0.6931)
    """

    def __init__(self, encoding: Tree, **options: Unpack[VoxelOptions]) -> None:
        super().__init__(_constrained(encoding), **options)
        if encoding.activation != MaxConstraint("max"):
            raise ValueError(f'MaxConstraintLoss needs MaxConstraint("max"), got {encoding}')

    @property
    def reading(self) -> Tree:
        """The tree, with the largest true descendant for yes and the largest of all for no."""
        return replace(a_tree(self.encoding), activation=_TrueMax())

    @property
    def phi(self) -> CrossEntropy:
        return CrossEntropy()


def _constrained(encoding: Tree) -> Tree:
    if not isinstance(a_tree(encoding).activation, MaxConstraint):
        raise TypeError(
            "encoding must have a channel for each node that is no rest, Tree(tree, "
            f"MaxConstraint()), got {encoding}"
        )
    return encoding


@dataclass(frozen=True)
class _MinAndMax(TreeActivation):
    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        return MaxConstraint().channels(tree)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return _MinAndMaxOf(tree)


@dataclass(frozen=True)
class _TrueMax(TreeActivation):
    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        return MaxConstraint().channels(tree)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return _TrueMaxOf(tree)


@dataclass(frozen=True, eq=False)
class _Heads(NodeActivation):
    """Sigmoids of heads; what stands for a rest does not count."""

    tree: LabelTree
    joint = False

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        every = self.spread({v: logits[:, i] for i, v in enumerate(heads_of(self.tree))})
        return logsigmoid(every), logsigmoid(-every)

    def surprise(
        self, logits: Flat, true: Nodes, known: Nodes | None, weight: tuple[float, ...] | None
    ) -> PerVoxel:
        raise TypeError("sigmoids of nodes give labels no probability of their own")

    def spread(self, z: dict[int, Tensor]) -> Nodes:
        """Those of the heads, with zeros for the rests, ``(b, v, n)``."""
        nothing = torch.zeros_like(next(iter(z.values())))
        return torch.stack([z.get(node, nothing) for node in range(len(self.tree))], 1)

    def largest(self, z: dict[int, Tensor]) -> dict[int, Tensor]:
        """The largest of each node's descendants'."""
        largest = dict(z)
        for node in reversed(heads_of(self.tree)):
            parent = self.tree.parents[node]
            if parent >= 0:
                largest[parent] = torch.maximum(largest[parent], largest[node])
        return largest


class _MinAndMaxOf(_Heads):
    def answers(self, logits: Flat, true: Nodes) -> tuple[Nodes, Nodes]:
        z = {node: logits[:, i] for i, node in enumerate(heads_of(self.tree))}
        least = dict(z)
        for node in heads_of(self.tree):
            parent = self.tree.parents[node]
            if parent >= 0:
                least[node] = torch.minimum(least[node], least[parent])
        return logsigmoid(self.spread(least)), logsigmoid(-self.spread(self.largest(z)))


class _TrueMaxOf(_Heads):
    def answers(self, logits: Flat, true: Nodes) -> tuple[Nodes, Nodes]:
        z = {node: logits[:, i] for i, node in enumerate(heads_of(self.tree))}
        lifted = dict(z)
        for node in reversed(heads_of(self.tree)):
            parent = self.tree.parents[node]
            if parent >= 0:
                of_true = lifted[node].masked_fill(true[:, node] == 0, -torch.inf)
                lifted[parent] = torch.maximum(lifted[parent], of_true)
        return logsigmoid(self.spread(lifted)), logsigmoid(-self.spread(self.largest(z)))
