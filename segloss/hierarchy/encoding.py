"""Nested classes as an encoding: every ordinary loss then scores all nodes of the tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from segloss.activation import Outcomes
from segloss.encoding import Encoded, Encoding, numbered
from segloss.engine.constants import kept
from segloss.hierarchy.activations import LeafSoftmax, TreeActivation
from segloss.hierarchy.labelled_nodes import encoded_nodes
from segloss.label_tree import LabelTree
from segloss.shapes import Logits, Map, Target

__all__ = ["Tree"]

_DEFAULT = LeafSoftmax()


@final
@dataclass(frozen=True)
class Tree(Encoding):
    """Nested classes: losses score every node of a tree, and no child exceeds its parent.

    The target holds labels, ``(b, *space)`` or ``(b, 1, *space)``: a leaf's is its number among the
    leaves, see `segloss.LabelTree`. A label may name an inner node too, if `labels` says so: the
    voxel is somewhere in it, and counts for nothing in the sums of the nodes inside. Maps, and
    ``class_weight``, are by node: ``(b, v, *space)``, and v numbers.

    The cross entropy of a label is -log p of its node. With `segloss.ConditionalSigmoid`, whose
    siblings may overlap, it is that of the yes or no of each node whose parent holds the voxel. With
    `segloss.MaxConstraint` it is that of the yes or no of every node.

    Args:
        tree: The classes.
        activation: How their probabilities come from the channels.
        labels: The node that each label names, from label 0 on. By default the leaves.
        ignore: Label of the voxels that count for nothing.

    Raises:
        ValueError: If a label names no node, or the tree does not suit the activation.

    Example:
        >>> import torch
        >>> from segloss import DiceLoss, LabelTree
        >>> tree = Tree(LabelTree({"liver": {"tumour": None}}))
        >>> tree.channels
        ('background', 'rest of liver', 'tumour')
        >>> logits, labels = torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
        >>> DiceLoss(tree, reduction="none")(logits, labels)
        tensor([[1.0000, 0.2000, 0.5000, 1.0000]])
    """

    tree: LabelTree
    activation: TreeActivation = _DEFAULT
    labels: Sequence[str] | None = None
    ignore: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tree, LabelTree):
            raise TypeError(f"tree must be a LabelTree, Tree(LabelTree(...)), got {self.tree!r}")
        if not isinstance(self.activation, TreeActivation):
            raise TypeError(
                f"activation must be one such as LeafSoftmax(), got {self.activation!r}"
            )
        self.activation.channels(self.tree)
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(self.labels))
        if not self.named:
            raise ValueError("labels is empty, expected the name of a node for each label")

    @property
    def channels(self) -> tuple[str, ...]:
        """What the network's channels stand for: as many as there are names."""
        return self.activation.channels(self.tree)

    @property
    def joint(self) -> bool:
        """Whether a label has a probability of its own; if not, each node is one question."""
        return self.activation.joint

    @property
    def first(self) -> int:
        """The first scored node."""
        return 0

    @property
    def all_channels(self) -> "Tree":
        """The same reading of the channels; equal ones share a pass."""
        return self

    def nodes(self, channels: int) -> int:
        """How many nodes the tree has."""
        return len(self.tree)

    def probabilities(self, logits: Logits) -> Tensor:
        """The probability of every node, ``(b, v, *space)``: apply it last, after all averaging.

        Args:
            logits: ``(b, c, *space)``.
        """
        return self.activation(logits, self.tree)[0].exp()

    def decode(self, logits: Logits) -> Tensor:
        """The label of the likeliest leaf, ``(b, 1, *space)`` int64: nested by construction.

        With an activation of levels, it is the leaf as deep as there are levels above one half.

        Args:
            logits: ``(b, c, *space)``.
        """
        return self.activation.leaves(self.activation(logits, self.tree)[0], self.tree)

    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        """Check the shapes and flatten them; `maps` may hold a ``weight``."""
        like = numbered(logits, 1)
        return encoded_nodes(
            logits,
            target,
            maps,
            channels=self.channels,
            wanted_by=self.activation,
            nodes=len(self.tree),
            activation=lambda like: self.activation.on(self.tree, like),
            outcomes=_outcomes(self.tree, self.named, like.dtype, like.device),
            ignore=self.ignore,
        )

    @property
    def named(self) -> tuple[int, ...]:
        """The node of each label."""
        if self.labels is None:
            return self.tree.leaves
        return tuple(map(self.tree.index, self.labels))


@kept
def _outcomes(
    tree: LabelTree, named: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Outcomes:
    def table(rows: list[list[bool]]) -> Tensor:
        return torch.tensor(rows, dtype=dtype, device=device)

    nodes = range(len(tree))
    above = [set(tree.ancestors(node)) for node in named]
    below = [set(tree.descendants(node)) - {node} for node in named]
    whole = all(len(inside) == 0 for inside in below)
    sets = torch.tensor([tree.membership[node] for node in named], device=device)
    return Outcomes(
        member=table([[v in path for v in nodes] for path in above]),
        named=table([[v == node for v in nodes] for node in named]),
        described=f"the encoding names {len(named)} labels",
        known=None if whole else table([[v not in inside for v in nodes] for inside in below]),
        sets=sets,
        single=sets.int().argmax(1) if whole else None,
        plain=named == tree.leaves,
    )
