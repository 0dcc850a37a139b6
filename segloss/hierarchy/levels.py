"""Losses of one depth channel that passes through nested levels."""

from dataclasses import dataclass, replace
from math import log
from typing import Literal, final, get_args

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.activation import NodeActivation
from segloss.arguments import one_of
from segloss.engine.sums import Request
from segloss.engine.voxel import CrossEntropy, VoxelSum
from segloss.hierarchy.activations import (
    MultiLevelActivation,
    OrderedLevels,
    TreeActivation,
)
from segloss.hierarchy.chain import levels_of
from segloss.hierarchy.encoding import Tree
from segloss.hierarchy.losses import a_tree
from segloss.label_tree import LabelTree
from segloss.losses.base import VoxelLoss, VoxelOptions
from segloss.shapes import Flat, Nodes, PerVoxel

__all__ = ["MultiLevelLoss"]

Kind = Literal["nll", "cumulative", "normalised", "squared"]


@final
class MultiLevelLoss(VoxelLoss):
    r"""Losses of K nested levels, which the target counts as y, 0 to K.

    With :math:`p_k` the probability of level k and :math:`a = \sum_k p_k` the expected level:

    - ``"nll"``: minus the log probability of the label, as `segloss.CrossEntropyLoss`; it does not
      reach 0, see there;
    - ``"cumulative"``: the mean over the levels of their binary cross entropies (CORAL);
    - ``"normalised"``: the cross entropy of a/K against y/K, less the entropy of y/K;
    - ``"squared"``: (a - y)²/K².

    All are from 0. The last two fade where the levels are far apart: see `segloss.MultiLevelActivation`. For Dice of
    every level, add `segloss.DiceLoss`. The formulas are ours: the papers' could not be had.

    Args:
        encoding: The tree, with `segloss.MultiLevelActivation` or `segloss.OrderedLevels`, whose
            labels are leaves.
        kind: Which of the four.
        **options: Those of `segloss.VoxelLoss`. ``class_weight``, one number for each node, is with
            ``"cumulative"`` how much its level counts, else the voxels labelled so.

    Example:
        >>> import torch
        >>> from segloss import LabelTree, MultiLevelActivation, Tree
        >>> tree = Tree(LabelTree({"whole": {"core": None}}), MultiLevelActivation())
        >>> depth, labels = torch.zeros(1, 1, 4, 4), torch.full((1, 4, 4), 2)
        >>> for kind in ("nll", "cumulative", "normalised", "squared"):
        ...     print(kind, MultiLevelLoss(tree, kind=kind)(depth, labels))
        nll tensor(5.0067)
        cumulative tensor(2.5067)
        normalised tensor(0.6931)
        squared tensor(0.2500)
    """

    def __init__(
        self,
        encoding: Tree,
        *,
        kind: Kind = "nll",
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(a_tree(encoding), **options)
        if not isinstance(encoding.activation, MultiLevelActivation | OrderedLevels):
            raise TypeError(
                "encoding must have the activation MultiLevelActivation() or OrderedLevels(), got "
                f"{encoding}"
            )
        for node in set(encoding.named).difference(encoding.tree.leaves):
            raise ValueError(f"the label of {encoding.tree.names[node]!r} is no leaf's: no level")
        self.kind: Kind = one_of("kind", kind, get_args(Kind))

    @property
    def reading(self) -> Tree:
        """The tree, with the expected level for ``"normalised"`` and ``"squared"``."""
        encoding = a_tree(self.encoding)
        if self.kind in ("nll", "cumulative"):
            return encoding
        return replace(encoding, activation=_Expected(encoding.activation, self.kind))

    def full_class_weight(self, channels: int) -> tuple[float, ...] | None:
        given = super().full_class_weight(channels)
        if self.kind != "cumulative":
            return given
        tree = a_tree(self.encoding).tree
        weight = given or [1.0] * len(tree)
        return tuple(0.0 if v in tree.rest else weight[v] for v in range(len(tree)))

    @property
    def request(self) -> Request:
        of: Literal["node", "label"] = "node" if self.kind == "cumulative" else "label"
        return Request(voxels=(VoxelSum(self.phi, of=of),))

    @property
    def phi(self) -> CrossEntropy:
        return CrossEntropy()


@dataclass(frozen=True)
class _Expected(TreeActivation):
    """The levels of an activation, whose labels cost what the expected level is off."""

    levels: TreeActivation
    kind: str

    def channels(self, tree: LabelTree) -> tuple[str, ...]:
        return self.levels.channels(tree)

    def on(self, tree: LabelTree, like: Tensor) -> NodeActivation:
        return _ExpectedOf(self.levels.on(tree, like), levels_of(tree), self.kind)


@dataclass(frozen=True, eq=False)
class _ExpectedOf(NodeActivation):
    nodes: NodeActivation
    levels: tuple[int, ...]
    kind: str

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        return self.nodes.log_probabilities(logits)

    def surprise(
        self, logits: Flat, true: Nodes, known: Nodes | None, weight: tuple[float, ...] | None
    ) -> PerVoxel:
        every, count = (true, *self.log_probabilities(logits)), len(self.levels)
        # One by one: a list as an index would be copied to the GPU, and waited for.
        true, yes, no = (torch.stack([x[:, k] for k in self.levels], 1) for x in every)
        share = true.mean(1, keepdim=True)
        if self.kind == "squared":
            return (yes.exp().mean(1, keepdim=True) - share).square()
        inside = yes.logsumexp(1, keepdim=True) - log(count)
        outside = no.logsumexp(1, keepdim=True) - log(count)
        entropy = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
        off = -(share * inside + (1 - share) * outside) - entropy
        return off.clamp(min=0)  # rounding
