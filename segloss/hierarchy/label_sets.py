"""Partial labels as encodings: data sets that label different things, in one batch."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from segloss.activation import Activation, Outcomes, Sigmoid
from segloss.encoding import Encoded, Encoding, expect_shape, numbered
from segloss.engine.block import check_labels
from segloss.engine.constants import kept
from segloss.hierarchy.activations import LeafSoftmax
from segloss.hierarchy.label_space import LabelSpace, leaves_in
from segloss.hierarchy.labelled_nodes import encoded_nodes
from segloss.hierarchy.on_trees import heads_of
from segloss.shapes import Logits, Map, Target

__all__ = ["LabelHeads", "LabelSets", "LabelsOfLeaves", "PartialLabels"]


@dataclass(frozen=True)
class PartialLabels(Encoding):
    """Labels that mean what the data set of their sample says: the base of `LabelSets`.

    Args:
        space: What the labels of each data set stand for.
    """

    space: LabelSpace

    def __post_init__(self) -> None:
        if not isinstance(self.space, LabelSpace):
            raise TypeError(f"space must be a LabelSpace(tree, datasets), got {self.space!r}")

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """What the network's channels stand for: as many as there are names."""

    @property
    @abstractmethod
    def scored(self) -> tuple[int, ...]:
        """The nodes that are scored."""

    @abstractmethod
    def activation(self, like: Tensor) -> Activation:
        """How their probabilities come from the channels, in the type and place of a tensor."""

    def says(self, leaves: frozenset[int], node: int, labelled: bool) -> tuple[bool, bool]:
        """Whether a label tells if its voxels are in a node, and whether they are.

        Args:
            leaves: Those that the label leaves possible.
            node: Its number.
            labelled: The label's data set labels the node.
        """
        within = leaves_in(self.space.tree, node)
        return labelled and (leaves <= within or not leaves & within), leaves <= within

    @property
    def first(self) -> int:
        """The first scored node."""
        return 0

    @property
    def all_channels(self) -> "PartialLabels":
        """The same reading of the channels; equal ones share a pass."""
        return self

    @property
    def reads(self) -> frozenset[str]:
        """``dataset``, unless there is only one."""
        return frozenset({"dataset"}) if len(self.space.names) > 1 else frozenset()

    @property
    def partial(self) -> bool:
        """A node that the data set of a sample does not label is left out of the mean."""
        return True

    def nodes(self, channels: int) -> int:
        """How many nodes are scored."""
        return len(self.scored)

    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        """Check the shapes and flatten them; `maps` holds the ``dataset``, and maybe a ``weight``."""
        outcomes, rows = _outcomes(self, numbered(logits, 1).dtype, logits.device)
        rows = self._rows_of(rows, maps.get("dataset"), len(logits))
        return encoded_nodes(
            logits,
            target,
            {name: m for name, m in maps.items() if name != "dataset"},
            channels=self.channels,
            wanted_by=type(self).__name__,
            nodes=len(self.scored),
            activation=self.activation,
            outcomes=replace(outcomes, rows=rows),
        )

    def _rows_of(self, rows: Tensor, dataset: Tensor | None, b: int) -> Tensor:
        """The rows of each sample's label values, ``(b, r)``."""
        if dataset is None:
            return rows.expand(b, -1)
        expect_shape("dataset", dataset, (b,), (b, 1))
        numbers = dataset.reshape(b)
        names = ", ".join(self.space.names)
        check_labels("dataset", numbers, len(rows), f"the data sets are {names}")
        return rows[numbers.long()]


@dataclass(frozen=True)
class LabelsOfLeaves(PartialLabels):
    """A softmax over the leaves, of which all nodes are scored."""

    @property
    def channels(self) -> tuple[str, ...]:
        return LeafSoftmax().channels(self.space.tree)

    @property
    def scored(self) -> tuple[int, ...]:
        return tuple(range(len(self.space.tree)))

    def activation(self, like: Tensor) -> Activation:
        return LeafSoftmax().on(self.space.tree, like)


@final
@dataclass(frozen=True)
class LabelSets(LabelsOfLeaves):
    """Partial labels of classes that exclude each other: a softmax over the leaves of a tree.

    The cross entropy of a label is -log of the probability that the voxel is any of the leaves that
    the label leaves possible. For a background into which unlabelled organs have gone this is the
    marginal loss, or target adaptive loss; an unknown voxel costs exactly 0.

    Region losses score every node of the tree: in each sample those that its data set labels, on
    the voxels whose label says whether they are in the node. A node that no sample of a group labels
    is left out of the mean.

    The target holds labels, ``(b, *space)`` or ``(b, 1, *space)``. Losses take ``dataset=``, the
    number of each sample's data set, ``(b,)``, unless there is only one. Maps, and
    ``class_weight``, are by node: ``(b, v, *space)``, and v numbers. The weight of a label is the
    mean of those of the nodes it stands for.

    Args:
        space: What the labels of each data set stand for.

    References:
        Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ
        segmentation", MedIA 2021; Fang and Yan, "Multi-organ segmentation over partially labeled
        datasets with multi-scale feature abstraction" (target adaptive loss), TMI 2020. The first's
        code adds logits where the paper adds probabilities; these are probabilities.

    Example:
        >>> import torch
        >>> from segloss import CrossEntropyLoss, LabelSpace, LabelTree
        >>> tree = LabelTree({"liver": None, "spleen": None})
        >>> space = LabelSpace(tree, {
        ...     "livers": {0: "others", 1: "liver"}, "spleens": {0: "others", 1: "spleen"}
        ... })
        >>> logits, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
        >>> CrossEntropyLoss(LabelSets(space))(logits, labels, dataset=torch.tensor([0, 1]))
        tensor(0.4055)
    """


@final
@dataclass(frozen=True)
class LabelHeads(PartialLabels):
    """Partial labels of classes that may overlap: a sigmoid for each node that is no rest.

    A head learns from the samples whose data set labels its node, and nothing from the others: no
    class is taken to be absent because no one looked for it. Nothing keeps the heads nested; decode
    them with `segloss.transforms.RegionsToLabels`.

    The target and the arguments of losses are as for `segloss.LabelSets`.

    Args:
        space: What the labels of each data set stand for.

    References:
        Ulrich et al., "MultiTalent", MICCAI 2023.

    Example:
        >>> import torch
        >>> from segloss import DiceLoss, LabelSpace, LabelTree
        >>> tree = LabelTree({"liver": None, "spleen": None})
        >>> space = LabelSpace(tree, {"livers": {0: "others", 1: "liver"}})
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
        >>> DiceLoss(LabelHeads(space))(logits, labels)  # of the liver alone
        tensor(0.3333)
    """

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.space.tree.names[node] for node in self.scored)

    @property
    def scored(self) -> tuple[int, ...]:
        return heads_of(self.space.tree)

    def activation(self, like: Tensor) -> Activation:
        return Sigmoid()


@kept
def _outcomes(
    encoding: PartialLabels, dtype: torch.dtype, device: torch.device
) -> tuple[Outcomes, Tensor]:
    """What each label of each data set says, and the row of each label value, ``(d, r)``."""
    space = encoding.space
    tree, leaves = space.tree, range(len(space.tree.leaves))
    names = [tree.names[node] for node in encoding.scored]
    known: list[list[bool]] = []
    member: list[list[bool]] = []
    named: list[list[float]] = []
    sets: list[list[bool]] = []
    values = [value for labels in space.values for value, *_ in labels]
    rows = torch.full((len(space.names), max(values) + 1), -1)
    for number, (dataset, labels) in enumerate(zip(space.names, space.values, strict=True)):
        labelled = space.labelled(dataset)
        for value, meaning, possible in labels:
            rows[number, value] = len(sets)
            told = [encoding.says(possible, node, node in labelled) for node in encoding.scored]
            known.append([known for known, _ in told])
            member.append([inside for _, inside in told])
            named.append([(name in meaning) / len(meaning) for name in names])
            sets.append([leaf in possible for leaf in leaves])
    of_datasets = "; ".join(
        f"{dataset} has {', '.join(str(value) for value, *_ in labels)}"
        for dataset, labels in zip(space.names, space.values, strict=True)
    )
    channels = torch.tensor(sets, device=device)
    return Outcomes(
        member=torch.tensor(member, dtype=dtype, device=device),
        named=torch.tensor(named, dtype=dtype, device=device),
        described=of_datasets,
        known=torch.tensor(known, dtype=dtype, device=device),
        sets=channels,
        single=channels.int().argmax(1) if all(sum(row) == 1 for row in sets) else None,
    ), rows.to(device)
