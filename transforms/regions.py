"""Labels of nested classes to regions, a channel each, and regions to labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type

from segloss.label_tree import LabelTree
from segloss.transforms.arrays import Number, fitting, integers, one_of
from segloss.transforms.base import numpy_dtype
from segloss.transforms.containers import channels_of
from segloss.transforms.nesting import (
    Rule,
    channel_nodes,
    complete_channels,
    holding,
    label_of_leaf,
    labels_to_regions,
    node_of_value,
    regions_to_labels,
)

__all__ = [
    "LabelsToRegions",
    "LabelsToRegionsD",
    "LabelsToRegionsDict",
    "LabelsToRegionsd",
    "RegionsToLabels",
    "RegionsToLabelsD",
    "RegionsToLabelsDict",
    "RegionsToLabelsd",
]


class LabelsToRegions(Transform):
    """One channel for each node of a tree: 1 wherever the label lies in it, 0 elsewhere.

    What networks with a sigmoid for each region learn from, and what Dice for each region is
    measured on. Takes ``(1, *S)`` label values and gives ``(R, *S)``; arrays, tensors and
    MetaTensors come back as what they were.

    Args:
        tree: Which class is part of which.
        nodes: The nodes that get a channel, in that order. None: all but the rests (see
            `segloss.LabelTree`), such as the background.
        values: The node that each label value stands for, by name, as in ``{0: "background", 4:
            "enhancing tumour"}``. None: label i is leaf i of the tree.
        ignore: The label of unknown voxels, which stays as it is in every channel; and what stands
            in a channel where the label names a node above it, so that the voxel may belong to it or
            not. Score such channels with ``Multilabel(ignore=...)``.
        dtype: Of the regions; NumPy's or torch's.

    Raises:
        TypeError: When called, if labels are not integers.
        ValueError: If a node is not in the tree, a label value is negative, or `dtype` cannot hold
            the ignore label; when called, if a label stands for no node, or stands for a node above
            one that has a channel and there is no `ignore`, or the shape is not ``(1, *S)``.

    Example:
        >>> import numpy as np
        >>> tree = LabelTree({"whole tumour": {"tumour core": ["enhancing tumour"]}})
        >>> LabelsToRegions(tree)(np.array([[[0, 1, 2, 3]]]))
        array([[[0, 1, 1, 1]],
               [[0, 0, 1, 1]],
               [[0, 0, 0, 1]]], dtype=uint8)
    """

    backend = [TransformBackends.NUMPY]

    def __init__(
        self,
        tree: LabelTree,
        nodes: Sequence[str] | None = None,
        values: Mapping[int, str] | None = None,
        ignore: int | None = None,
        dtype: Any = np.uint8,
    ) -> None:
        channel_nodes(tree, nodes)
        node_of_value(tree, values, ignore)
        self.tree = tree
        self.nodes = None if nodes is None else tuple(nodes)
        self.values = None if values is None else dict(values)
        self.ignore = ignore
        self.dtype = holding(numpy_dtype(dtype), ignore)

    def __call__(self, label: NdarrayOrTensor) -> NdarrayOrTensor:
        """The regions, ``(R, *S)``, of a label ``(1, *S)``."""
        channels = channels_of(label)
        if len(channels) != 1:
            raise ValueError(
                f"the label has shape {channels.shape}: expected label values in one channel"
            )
        regions = labels_to_regions(
            channels[0],
            self.tree,
            nodes=self.nodes,
            values=self.values,
            ignore=self.ignore,
            dtype=self.dtype,
        )
        return convert_to_dst_type(regions, label, dtype=regions.dtype)[0]


class LabelsToRegionsd(MapTransform):
    """`LabelsToRegions` for dictionaries: the regions take the label's place.

    Args:
        keys: Where the labels are.
        tree: See `LabelsToRegions`.
        nodes: See `LabelsToRegions`.
        values: See `LabelsToRegions`.
        ignore: See `LabelsToRegions`.
        dtype: See `LabelsToRegions`.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> tree = LabelTree({"hippocampus": ["anterior", "posterior"]})
        >>> sample = LabelsToRegionsd("label", tree)({"label": np.ones((1, 8, 8, 8))})
        >>> sample["label"].shape
        (3, 8, 8, 8)
    """

    backend = LabelsToRegions.backend

    def __init__(
        self,
        keys: KeysCollection,
        tree: LabelTree,
        nodes: Sequence[str] | None = None,
        values: Mapping[int, str] | None = None,
        ignore: int | None = None,
        dtype: Any = np.uint8,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = LabelsToRegions(tree, nodes, values, ignore, dtype)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.transform(out[key])
        return out


class RegionsToLabels(Transform):
    """The label of each voxel, from the probabilities of the regions of a tree, or from masks.

    The inverse of `LabelsToRegions`, and a label whatever the regions are: nested or not, a rule
    settles it. Takes ``(R, *S)`` and gives ``(1, *S)``; the labels' own regions are nested exactly.
    Place it last, after whatever averages or resamples probabilities.

    Args:
        tree: Which class is part of which.
        rule: ``"child_wins"``, which is nnU-Net's, ``"parent_gates"``, ``"top_down"`` or
            ``"argmax_leaf"``; see `segloss.transforms.nesting.regions_to_labels`.
        threshold: Above it a region counts, for the first two rules.
        nodes: The nodes whose channels these are, in that order; only a rest may be missing. None:
            all but the rests.
        values: The leaf that each label value stands for, by name. None: label i is leaf i.
        dtype: Of the labels; NumPy's or torch's.

    Raises:
        TypeError: If `dtype` does not hold integers.
        ValueError: If `rule` is unknown, a node is not in the tree or missing, or a leaf has no
            label or two; when called, if there is not one channel for each node, or one holds
            anything but numbers from 0 to 1.

    Example:
        >>> import numpy as np
        >>> tree = LabelTree({"fibre": ["axon"]}, rest={"fibre": "myelin"})
        >>> fibre, axon = [[0.1, 0.9, 0.2]], [[0.0, 0.1, 0.8]]
        >>> RegionsToLabels(tree)(np.array([fibre, axon]))
        array([[[0, 1, 2]]], dtype=uint8)
        >>> RegionsToLabels(tree, rule="parent_gates")(np.array([fibre, axon]))
        array([[[0, 1, 0]]], dtype=uint8)
    """

    backend = [TransformBackends.NUMPY]

    def __init__(
        self,
        tree: LabelTree,
        rule: str = "child_wins",
        threshold: Number = 0.5,
        nodes: Sequence[str] | None = None,
        values: Mapping[int, str] | None = None,
        dtype: Any = np.uint8,
    ) -> None:
        complete_channels(tree, nodes)
        labels = np.array(label_of_leaf(tree, values))
        self.tree = tree
        self.rule: Rule = one_of("rule", rule, Rule)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be a probability below 1, got {threshold}")
        self.threshold = threshold
        self.nodes = None if nodes is None else tuple(nodes)
        self.values = None if values is None else dict(values)
        self.dtype = integers(numpy_dtype(dtype))
        fitting("label", labels, self.dtype)

    def __call__(self, regions: NdarrayOrTensor) -> NdarrayOrTensor:
        """The labels, ``(1, *S)``, of regions ``(R, *S)``."""
        labels = regions_to_labels(
            channels_of(regions),
            self.tree,
            rule=self.rule,
            threshold=self.threshold,
            nodes=self.nodes,
            values=self.values,
        )[None].astype(self.dtype)
        return convert_to_dst_type(labels, regions, dtype=labels.dtype)[0]


class RegionsToLabelsd(MapTransform):
    """`RegionsToLabels` for dictionaries: the labels take the regions' place.

    Args:
        keys: Where the regions are.
        tree: See `RegionsToLabels`.
        rule: See `RegionsToLabels`.
        threshold: See `RegionsToLabels`.
        nodes: See `RegionsToLabels`.
        values: See `RegionsToLabels`.
        dtype: See `RegionsToLabels`.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> tree = LabelTree({"hippocampus": ["anterior", "posterior"]})
        >>> sample = RegionsToLabelsd("pred", tree)({"pred": np.full((3, 8, 8, 8), 0.6)})
        >>> sample["pred"].shape
        (1, 8, 8, 8)
    """

    backend = RegionsToLabels.backend

    def __init__(
        self,
        keys: KeysCollection,
        tree: LabelTree,
        rule: str = "child_wins",
        threshold: Number = 0.5,
        nodes: Sequence[str] | None = None,
        values: Mapping[int, str] | None = None,
        dtype: Any = np.uint8,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = RegionsToLabels(tree, rule, threshold, nodes, values, dtype)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.transform(out[key])
        return out


LabelsToRegionsD = LabelsToRegionsDict = LabelsToRegionsd
RegionsToLabelsD = RegionsToLabelsDict = RegionsToLabelsd
