"""Losses of trees: Dice and cross entropy of every node, steps weighted by height, Wasserstein."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Literal, final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative, number, one_of
from segloss.encoding import Encoding
from segloss.engine.constants import constant
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.engine.voxel import CrossEntropy, VoxelSum
from segloss.hierarchy.activations import LeafSoftmax
from segloss.hierarchy.encoding import Tree
from segloss.label_tree import LabelTree
from segloss.losses.base import (
    Loss,
    Reduction,
    RegionOptions,
    ScoreLoss,
    Sums,
    VoxelLoss,
    VoxelOptions,
    ratio,
    reduced,
    shares,
)
from segloss.losses.overlap import dice
from segloss.shapes import Reduced, Scores

__all__ = [
    "GeneralizedWassersteinDiceLoss",
    "HierarchicalCrossEntropyLoss",
    "HierarchicalDiceCELoss",
    "a_tree",
]


def a_tree(encoding: Encoding) -> Tree:
    """The encoding, if it is that of a tree."""
    if not isinstance(encoding, Tree):
        raise TypeError(f"encoding must be a Tree(LabelTree(...)), got {encoding!r}")
    return encoding


@final
class HierarchicalDiceCELoss(ScoreLoss):
    """Dice of every node of a tree, plus a cross entropy, in one pass: from 0.

    The conditional cross entropy is the exact one of the label: the sum of -log p(child | parent)
    down to it, so every ancestor counts once. The marginal one is the mean over voxels and nodes of
    the yes or no of each node, as in region-based training; it counts an ancestor again with each
    of its descendants.

    ``class_weight``, one number for each node, weighs the nodes' Dice, and the steps down to the
    nodes or their yes and no.

    Args:
        encoding: The tree; with `segloss.MaxConstraint` only ``"marginal"``.
        cross_entropy: ``"conditional"`` or ``"marginal"``.
        lambda_dice: Weight of the mean Dice.
        lambda_ce: Weight of the cross entropy.
        **options: Those of `segloss.RegionLoss`; the cross entropy is a mean over each group too,
            and ``reduction="none"`` gives one number for each group.

    Example:
        >>> import torch
        >>> from segloss import LabelTree, Tree
        >>> loss = HierarchicalDiceCELoss(Tree(LabelTree({"liver": {"tumour": None}})))
        >>> loss(torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 2))
        tensor(1.7736)
    """

    needs = ("overlap", "pred", "true")

    def __init__(
        self,
        encoding: Tree,
        *,
        cross_entropy: Literal["conditional", "marginal"] = "conditional",
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(a_tree(encoding), **options)
        self.cross_entropy = one_of("cross_entropy", cross_entropy, ("conditional", "marginal"))
        if cross_entropy == "conditional" and not encoding.joint:
            raise ValueError(
                f"{encoding.activation} gives labels no probability of their own: "
                'say cross_entropy="marginal"'
            )
        self.lambda_dice = not_negative("lambda_dice", lambda_dice)
        self.lambda_ce = not_negative("lambda_ce", lambda_ce)

    @property
    def voxel_terms(self) -> tuple[VoxelSum, ...]:
        of: Literal["step", "node"] = "step" if self.cross_entropy == "conditional" else "node"
        return (VoxelSum(CrossEntropy(), of=of),)

    def score(self, sums: Sums) -> Scores:
        return dice(sums, self.smooth_nr, self.smooth_dr)

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        score, present = self.scores(regions)
        weight = shares(score, self.class_weight, present)
        overlap = ratio((score * weight).sum(1), weight.sum(1))
        ((total, norm),) = voxels
        both = self.lambda_dice * overlap + self.lambda_ce * ratio(total, norm)
        return reduced(both, self.reduction)


@final
class HierarchicalCrossEntropyLoss(VoxelLoss):
    r"""Cross entropy whose steps down the tree count the less the higher they are: from 0.

    .. math:: -\sum_{u \in A(v)} e^{-\alpha h(u)} \log p(u \mid \text{parent of } u)

    for a voxel labelled v, with its ancestors A, itself among them, and h a node's height: 0 of a
    leaf. With α = 0 it is `segloss.CrossEntropyLoss`. The larger α, the more the last step counts
    against the first ones: which child it is, rather than in which part of the tree.

    Args:
        encoding: The tree, with an activation that gives labels a probability of their own.
        alpha: α.
        **options: Those of `segloss.VoxelLoss`. ``class_weight``, one number for each node,
            multiplies its step too.

    References:
        Bertinetto et al., "Making better mistakes: leveraging class hierarchies with deep
        networks", CVPR 2020.

    Example:
        >>> import torch
        >>> from segloss import LabelTree, Tree
        >>> tree = Tree(LabelTree({"liver": {"tumour": None}}))
        >>> logits, labels = torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 2)
        >>> [round(HierarchicalCrossEntropyLoss(tree, alpha=a)(logits, labels).item(), 4) for a in (0, 1)]
        [1.0986, 0.8423]
    """

    def __init__(
        self,
        encoding: Tree,
        *,
        alpha: float = 0.1,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(a_tree(encoding), **options)
        if not encoding.joint:
            raise ValueError(f"{encoding.activation} gives labels no probability of their own")
        self.alpha = not_negative("alpha", alpha)

    def full_class_weight(self, channels: int) -> tuple[float, ...] | None:
        given = super().full_class_weight(channels)
        if self.alpha == 0:
            return given
        heights = _heights(a_tree(self.encoding).tree)
        by_height = [math.exp(-self.alpha * height) for height in heights]
        return tuple(a * b for a, b in zip(by_height, given or [1] * len(heights), strict=True))

    @property
    def phi(self) -> CrossEntropy:
        return CrossEntropy()

    @property
    def request(self) -> Request:
        return Request(voxels=(VoxelSum(self.phi, of="step"),))


def _heights(tree: LabelTree) -> list[int]:
    heights = [0] * len(tree)
    for node in reversed(range(len(tree))):
        if tree.parents[node] >= 0:
            heights[tree.parents[node]] = max(heights[tree.parents[node]], heights[node] + 1)
    return heights


@final
class GeneralizedWassersteinDiceLoss(Loss):
    r"""Dice in which a mistake costs the distance between the two leaves: from 0 to 1.

    .. math::

        W = \sum_l M_{y l} \, p_l, \qquad
        1 - \frac{2 \sum w \alpha_y (1 - W) + \epsilon_n}
                 {2 \sum w \alpha_y (1 - W) + \sum w W + \epsilon_d}

    with M the distances between the leaves, and α 0 for the background and 1 for the others, or one
    over a class's volume, one voxel added. It is linear in p: add a cross entropy.

    Args:
        encoding: The tree, with `segloss.LeafSoftmax`, whose labels are leaves.
        distances: M, a row for each leaf, from 0 to 1, 0 on the diagonal; by default
            `segloss.LabelTree.distance_matrix`.
        weighting: ``"foreground"``, or ``"volume"`` (the paper's generalised form).
        group: Scores are of each ``"sample"``, of the ``"batch"``, or of all ``"ranks"``' batches.
        class_weight: One number for each node, by which the voxels labelled so count.
        smooth_nr: Added to the numerator, in voxels.
        smooth_dr: Added to the denominator, in voxels.
        reduction: ``"mean"`` or ``"sum"`` over the groups, or ``"none"`` for ``(g,)``.

    References:
        Fidon et al., "Generalised Wasserstein Dice score for imbalanced multi-class segmentation
        using holistic convolutional networks", BrainLes 2017.

    Example:
        >>> import torch
        >>> from segloss import LabelTree, Tree
        >>> tree = Tree(LabelTree({"tumour": ["oedema", "core"]}))
        >>> logits, labels = torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 1]]])
        >>> GeneralizedWassersteinDiceLoss(tree)(logits, labels)
        tensor(0.6667)
    """

    def __init__(
        self,
        encoding: Tree,
        *,
        distances: Sequence[Sequence[float]] | None = None,
        weighting: Literal["foreground", "volume"] = "foreground",
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            a_tree(encoding), group=group, class_weight=class_weight, reduction=reduction
        )
        tree, leaves = encoding.tree, encoding.tree.leaves
        if not isinstance(encoding.activation, LeafSoftmax):
            raise TypeError(f"encoding must have the activation LeafSoftmax(), got {encoding}")
        for node in set(encoding.named).difference(leaves):
            raise ValueError(f"the label of {tree.names[node]!r} is no leaf's: it has no distance")
        rows = tree.distance_matrix()
        if distances is not None:
            rows = tuple(tuple(number("distances", d) for d in row) for row in distances)
        if {len(rows), *map(len, rows)} != {len(leaves)}:
            raise ValueError(
                f"distances has {len(rows)} rows, expected {len(leaves)} rows and columns, one for "
                f"each leaf: {', '.join(encoding.channels)}"
            )
        for i, row in enumerate(rows):
            if row[i] or any(not 0 <= d <= 1 for d in row):
                raise ValueError(f"distances must be from 0 to 1, 0 on the diagonal, got {row}")
        self.distances = rows
        self.weighting = one_of("weighting", weighting, ("foreground", "volume"))
        self.smooth_nr = not_negative("smooth_nr", smooth_nr)
        self.smooth_dr = not_negative("smooth_dr", smooth_dr)

    @property
    def request(self) -> Request:
        return Request(("confusion", "tally"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        encoding, tally = a_tree(self.encoding), regions["tally"]
        named = [self.distances[encoding.tree.leaves.index(node)] for node in encoding.named]
        g, t = tally.shape
        matrix = constant(tuple(chain.from_iterable(named)), tally).view(t, -1)
        wrong = (regions["confusion"].reshape(g, -1, t) * matrix.T).sum(1)
        if self.weighting == "volume":
            alpha = 1 / (tally + 1)
        else:
            outside = {v for v in encoding.tree.rest if encoding.tree.parents[v] < 0}
            alpha = constant(tuple(node not in outside for node in encoding.named), tally)
        counts = torch.ones_like(tally)
        if self.class_weight is not None:
            weight = tuple(self.class_weight[node] for node in encoding.named)
            counts = counts * constant(weight, tally)
        right = 2 * (counts * alpha * (tally - wrong)).sum(1)
        every = counts * (wrong if self.weighting == "foreground" else alpha * wrong)
        score = 1 - ratio(right + self.smooth_nr, right + every.sum(1) + self.smooth_dr)
        return reduced(score.masked_fill(tally.sum(1) == 0, 0), self.reduction)
