"""Losses of partial labels that no ordinary loss gives: exclusion, and the null cross entropy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from segloss.arguments import not_negative, one_of
from segloss.engine.constants import constant
from segloss.engine.groups import GROUPS, Group, pool
from segloss.engine.sums import Request
from segloss.engine.voxel import CrossEntropy, VoxelSum
from segloss.hierarchy.label_sets import LabelHeads, LabelSets, LabelsOfLeaves
from segloss.hierarchy.label_space import leaves_in
from segloss.losses.base import Loss, Reduction, Sums, class_mean, ratio, reduced
from segloss.losses.overlap import dice
from segloss.shapes import Reduced

__all__ = ["ExclusionLoss", "NullBCELoss"]

Mode = Literal["log", "dice"]
Classes = Literal["mean", "sum"]


@dataclass(frozen=True)
class _Exclusion(LabelsOfLeaves):
    """What labels exclude: where a voxel is one organ, it is no other, labelled or not."""

    mode: Mode

    def says(self, leaves: frozenset[int], node: int, labelled: bool) -> tuple[bool, bool]:
        excluded = not leaves & leaves_in(self.space.tree, node)
        if node in self.space.tree.rest or len(leaves) == len(self.space.tree.leaves):
            return False, False
        return (excluded and not labelled, False) if self.mode == "log" else (True, excluded)


@final
class ExclusionLoss(Loss):
    r"""What a labelled organ says of unlabelled ones: they are not there.

    ``"log"`` is the mean of :math:`-\log(1 - p_v)` over the voxels whose label excludes node v, for
    the nodes v that the data set of the sample does not label: from 0. ``"dice"`` is the published
    form, the soft Dice coefficient of the prediction of each node that is no rest with where it
    cannot be, from 0 to 1. Its gradient raises the prediction wherever it is not excluded, and it is
    there for comparison.

    The cross entropy with `segloss.LabelSets` contains the constraint already, since its
    probabilities add up to 1; this weighs it more.

    Args:
        encoding: `segloss.LabelSets`.
        mode: ``"log"`` or ``"dice"``.
        group: The mean, or the coefficient, is of each ``"sample"``, the ``"batch"``, or all
            ``"ranks"``' batches.
        class_weight: A number for each node.
        smooth_nr: Added to the numerator of ``"dice"``, in voxels.
        smooth_dr: Added to its denominator.
        reduction: ``"mean"`` or ``"sum"`` over the groups (and nodes), or ``"none"``.

    References:
        Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ
        segmentation", MedIA 2021. Its code weighs the Dice form by 2.

    Example:
        >>> from segloss import LabelSets, LabelSpace, LabelTree
        >>> tree = LabelTree({"liver": None, "spleen": None})
        >>> space = LabelSpace(tree, {"livers": {0: "others", 1: "liver"}})
        >>> logits, livers = torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
        >>> ExclusionLoss(LabelSets(space))(logits, livers)  # no spleen there: -log(2/3)
        tensor(0.4055)
    """

    def __init__(
        self,
        encoding: LabelSets,
        *,
        mode: Mode = "log",
        group: Group = "batch",
        class_weight: Sequence[float] | None = None,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        reduction: Reduction = "mean",
    ) -> None:
        if not isinstance(encoding, LabelSets):
            raise TypeError(f"encoding must be LabelSets(space), got {encoding!r}")
        super().__init__(
            _Exclusion(encoding.space, one_of("mode", mode, get_args(Mode))),
            group=group,
            class_weight=class_weight,
            reduction=reduction,
        )
        self.mode = mode
        self.smooth_nr = not_negative("smooth_nr", smooth_nr)
        self.smooth_dr = not_negative("smooth_dr", smooth_dr)

    @property
    def request(self) -> Request:
        if self.mode == "log":
            return Request(voxels=(VoxelSum(CrossEntropy(), of="node"),))
        return Request(("overlap", "pred", "true", "count"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        if self.mode == "log":
            ((total, norm),) = voxels
            return reduced(ratio(total, norm), self.reduction)
        counted = regions["count"] != 0
        overlap = 1 - dice(regions, self.smooth_nr, self.smooth_dr)
        overlap = overlap.masked_fill(~counted, 0)
        return class_mean(overlap, self.class_weight, self.reduction, counted)


@final
class NullBCELoss(Loss):
    """The binary cross entropy of the classes that a sample's data set labels, and of no other.

    The other classes are null: their heads get no gradient from the sample. A sample has the mean
    over all its voxels and labelled classes, and as many classes as it labels. The loss is from 0.

    Args:
        encoding: `segloss.LabelHeads`.
        classes: The ``"mean"`` over all pairs of a sample and a class that it labels; or the
            ``"sum"`` over the classes and the mean over the samples, so that a class weighs the same
            however many others its data set labels.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.
        class_weight: A number for each head.
        reduction: ``"mean"`` or ``"sum"`` over the groups, or ``"none"``.

    References:
        Kim et al., "Learning semantic segmentation from multiple datasets with label shifts"
        (class-independent, "null" loss), ECCV 2022; Ulrich et al., "MultiTalent", MICCAI 2023: the
        sum over classes, and over samples, ``group="sample", reduction="sum"``.

    Example:
        >>> from segloss import LabelHeads, LabelSpace, LabelTree
        >>> tree = LabelTree({"liver": None, "spleen": None})
        >>> space = LabelSpace(tree, {"livers": {0: "others", 1: "liver"}})
        >>> logits, livers = torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
        >>> NullBCELoss(LabelHeads(space))(logits, livers)  # of the liver alone
        tensor(0.6931)
    """

    def __init__(
        self,
        encoding: LabelHeads,
        *,
        classes: Classes = "mean",
        group: Group = "batch",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        if not isinstance(encoding, LabelHeads):
            raise TypeError(f"encoding must be LabelHeads(space), got {encoding!r}")
        super().__init__(encoding, group="sample", class_weight=class_weight, reduction=reduction)
        self.classes: Classes = one_of("classes", classes, get_args(Classes))
        self.over: Group = one_of("group", group, GROUPS)

    @property
    def request(self) -> Request:
        return Request(("count",), (VoxelSum(CrossEntropy(), of="node"),))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        ((total, norm),) = voxels
        labelled = (regions["count"] != 0).to(total)
        if self.class_weight is not None:
            labelled = labelled * constant(self.class_weight, labelled)
        classes = labelled.sum(1)
        shares = classes if self.classes == "mean" else torch.ones_like(classes)
        value, share = pool(torch.stack((classes * ratio(total, norm), shares)), self.over)
        return reduced(ratio(value, share), self.reduction)
