"""Labels of nested classes as channels, a region each, and back again. NumPy only.

A **region** is what belongs to a node of a `segloss.LabelTree`, whatever leaf of it: a whole tumour
with its core. Channels are the regions of some nodes, in any order; a *rest*, what the children of
a node leave of it, need not be among them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from segloss.label_tree import LabelTree
from segloss.transforms.arrays import (
    LARGEST_ID,
    LabelMap,
    Number,
    Unchecked,
    check_space,
    class_ids,
    one_of,
)

__all__ = ["Rule", "labels_to_regions", "regions_to_labels"]

Rule: TypeAlias = Literal["child_wins", "parent_gates", "top_down", "argmax_leaf"]
"""How regions that need not be nested become labels: see `regions_to_labels`."""


def channel_nodes(tree: LabelTree, nodes: Sequence[str] | None) -> tuple[int, ...]:
    """The numbers of the nodes that have a channel: those named, or all but the rests.

    Raises:
        ValueError: If a name is not in the tree, or comes twice.
    """
    if nodes is None:
        return tuple(v for v in range(len(tree)) if v not in tree.rest)
    found = tuple(tree.index(name) for name in nodes)
    if len(set(found)) < len(found) or not found:
        raise ValueError(f"nodes must be names of the tree, each once, got {list(nodes)}")
    return found


def node_of_value(
    tree: LabelTree, values: Mapping[int, str] | None, ignore: int | None = None
) -> dict[int, int]:
    """What node each label value stands for; the leaves in order, unless it is said.

    Raises:
        TypeError: If a value is not an integer.
        ValueError: If a value is out of range or the ignore label, or a node is not in the tree.
    """
    if values is None:
        found = dict(enumerate(tree.leaves))
    else:
        found = {value: tree.index(name) for value, name in values.items()}
    for value, node in found.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"values: a label is an integer, got {value!r}")
        if value == ignore or not 0 <= value <= LARGEST_ID:
            raise ValueError(
                f"values: {value} stands for {tree.names[node]!r}, but "
                + ("is the ignore label" if value == ignore else f"labels are 0 to {LARGEST_ID}")
            )
    return found


def labels_to_regions(
    labels: LabelMap,
    tree: LabelTree,
    *,
    nodes: Sequence[str] | None = None,
    values: Mapping[int, str] | None = None,
    ignore: int | None = None,
    dtype: Any = np.uint8,
) -> Unchecked:
    """The region of each node.

    Args:
        labels: ``(*space)`` label values.
        tree: Which class is part of which.
        nodes: Whose regions, channel by channel; None for all nodes but the rests.
        values: The node that each label value stands for; None: label i is leaf i of the tree.
        ignore: The label of unknown voxels, which stays as it is in every channel; and what stands
            in a channel where the label says only that the voxel may belong to the region.
        dtype: Of the result.

    Returns:
        ``(R, *space)``, 1 in the region, 0 outside.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If a label stands for no node, or if, without `ignore`, one stands for a node
            above one that has a channel.

    Example:
        >>> tree = LabelTree({"fibre": ["myelin", "axon"]})
        >>> labels_to_regions(np.array([[0, 1, 2]]), tree, nodes=["fibre", "axon"])
        array([[[0, 1, 1]],
               [[0, 0, 1]]], dtype=uint8)
    """
    channels = channel_nodes(tree, nodes)
    node_of = node_of_value(tree, values, ignore)
    kind = holding(dtype, ignore)
    ids, unknown = class_ids(labels, ignore)
    beyond = max(node_of) + 1
    codes = ids if unknown is None else np.where(unknown, beyond, ids)
    present = np.bincount(np.minimum(ids, beyond).ravel(), minlength=beyond + 1)
    if unknown is not None:
        present[0] -= unknown.sum()  # where they are unknown, ids are 0
    rows = np.zeros((beyond + 1, len(channels)), kind)
    rows[beyond] = ignore or 0
    for value in np.flatnonzero(present).tolist():
        if value not in node_of:
            raise ValueError(_unmapped(ids, node_of, tree))
        rows[value] = _row(tree, channels, node_of[value], value, ignore)
    out = np.empty((len(channels), *ids.shape), kind)
    for channel, column in zip(out, rows.T, strict=True):
        np.take(column, codes, out=channel)
    return out


def holding(dtype: Any, ignore: int | None) -> "np.dtype[Any]":
    """The dtype, or an error if it cannot hold regions and the ignore label."""
    kind: np.dtype[Any] = np.dtype(dtype)
    if ignore is not None and (kind.kind == "b" or np.array(ignore).astype(kind) != ignore):
        raise ValueError(f"dtype {kind} cannot hold the ignore label {ignore}: pass a wider one")
    return kind


def _row(
    tree: LabelTree, channels: tuple[int, ...], node: int, value: int, ignore: int | None
) -> list[int]:
    """What a voxel of the node has in each channel."""
    above, below = tree.ancestors(node), tree.descendants(node)
    if ignore is None and any(v in below and v != node for v in channels):
        parts = [tree.names[v] for v in channels if v in below and v != node]
        raise ValueError(
            f"label {value} stands for {tree.names[node]!r}: whether its voxels belong to {parts} "
            "is unknown. Pass ignore=255, and a loss that ignores it"
        )
    return [1 if v in above else (ignore or 0) if v in below else 0 for v in channels]


def _unmapped(ids: LabelMap, node_of: Mapping[int, int], tree: LabelTree) -> str:
    wrong = [value for value in np.unique(ids).tolist() if value not in node_of]
    known = ", ".join(f"{value} ({tree.names[node]})" for value, node in node_of.items())
    return f"labels holds {wrong}, which stand for no node of the tree; known are {known}"


def regions_to_labels(
    regions: Unchecked,
    tree: LabelTree,
    *,
    rule: Rule = "child_wins",
    threshold: Number = 0.5,
    nodes: Sequence[str] | None = None,
    values: Mapping[int, str] | None = None,
) -> LabelMap:
    """The leaf that each voxel belongs to, by the probabilities of the regions.

    Regions predicted one by one need not be nested, and siblings may overlap. A rule settles it:

    - ``"child_wins"``: a region counts where it or any part of it is above the threshold, as in
      nnU-Net: an enhancing tumour outside the whole tumour is kept, and is whole tumour too.
    - ``"parent_gates"``: a region counts where it and all that it is part of are above the
      threshold: an enhancing tumour outside the whole tumour is dropped.
    - ``"top_down"``: no threshold: from the top, the most probable of the children, and so on.
    - ``"argmax_leaf"``: no threshold: the most probable leaf.

    Where several siblings count, the most probable does (in order, if they are equal). Where a
    parent counts but none of its children, it is the rest; if there is none, the most probable
    child. A rest without a channel has the probability that its siblings leave of the parent's, not
    below 0.

    Args:
        regions: ``(R, *space)``, probabilities, or 0 and 1.
        tree: Which class is part of which.
        rule: As above.
        threshold: Of the probability.
        nodes: Whose regions the channels are; None for all nodes but the rests.
        values: The leaf that each label value stands for; None: label i is leaf i of the tree.

    Returns:
        ``(*space)``: the label, int64.

    Raises:
        ValueError: If `rule` is unknown, there is not one channel for each node, a node other than
            a rest has none, a leaf has no label or two, or the regions hold anything but numbers
            from 0 to 1.

    Example:
        >>> tree = LabelTree({"fibre": ["axon"]}, rest={"fibre": "myelin"})
        >>> regions = np.array([[[0.1, 0.9, 0.9, 0.2]], [[0.1, 0.1, 0.7, 0.8]]])
        >>> regions_to_labels(regions, tree)
        array([[0, 1, 2, 2]])
        >>> regions_to_labels(regions, tree, rule="parent_gates")
        array([[0, 1, 2, 0]])
    """
    channels = complete_channels(tree, nodes)
    labels = np.array(label_of_leaf(tree, values))
    one_of("rule", rule, Rule)
    if len(regions) != len(channels):
        names = ", ".join(tree.names[v] for v in channels)
        raise ValueError(f"there are {len(regions)} regions, expected {len(channels)}: {names}")
    check_space("a region", regions[0])
    by_node = dict(zip(channels, map(_probability, regions), strict=True))
    if rule == "child_wins":
        for v in sorted(channels, reverse=True):
            parent = tree.parents[v]
            if parent >= 0:
                by_node[parent] = np.maximum(by_node[parent], by_node[v])
    elif rule != "parent_gates":
        _add_rests(by_node, tree)
    if rule == "argmax_leaf":
        leaf, _ = _most_probable({leaf: by_node[v] for leaf, v in enumerate(tree.leaves)})
    else:
        limit = None if rule == "top_down" else threshold
        leaf = _descend(_family(tree, -1), tree, by_node, limit)
    return np.take(labels, leaf)


def label_of_leaf(tree: LabelTree, values: Mapping[int, str] | None) -> list[int]:
    """The label value of each leaf; an error unless each has one."""
    node_of = node_of_value(tree, values)
    label_of = {node: value for value, node in node_of.items()}
    wrong = [tree.names[v] for v in set(tree.leaves) ^ label_of.keys()]
    if wrong or len(label_of) < len(node_of):
        raise ValueError(
            f"values: expected one label for each leaf of the tree and no other node, got "
            f"{values}; see {sorted(wrong)}"
        )
    return [label_of[leaf] for leaf in tree.leaves]


def complete_channels(tree: LabelTree, nodes: Sequence[str] | None) -> tuple[int, ...]:
    """The nodes that have a channel; an error if one that is no rest has none."""
    channels = channel_nodes(tree, nodes)
    for v, name in enumerate(tree.names):
        if v not in channels and v not in tree.rest:
            raise ValueError(
                f"nodes: {name!r} is missing; only a rest can be told from the others, such as "
                f"{[tree.names[rest] for rest in tree.rest]}"
            )
    return channels


def _probability(region: Unchecked) -> Unchecked:
    values = region.astype(np.float32) if region.dtype.kind in "biu" else region
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"regions holds values from {values.min():g} to {values.max():g}, expected "
            "probabilities from 0 to 1, or masks: apply a sigmoid or the tree's activation first"
        )
    return values


def _add_rests(by_node: dict[int, Unchecked], tree: LabelTree) -> None:
    """Give the rests without a channel what their siblings leave of their parent; parents first."""
    for v in tree.rest:
        if v not in by_node:
            parent = tree.parents[v]
            siblings = [by_node[u] for u in _family(tree, parent) if u != v]
            whole = by_node[parent] if parent >= 0 else np.float32(1)
            by_node[v] = np.maximum(whole - np.add.reduce(siblings), 0)


def _family(tree: LabelTree, node: int) -> tuple[int, ...]:
    """The children of a node; those at the top for -1."""
    return (
        tree.children[node]
        if node >= 0
        else tuple(v for v, parent in enumerate(tree.parents) if parent < 0)
    )


def _most_probable(by_key: Mapping[int, Unchecked]) -> tuple[Unchecked, Unchecked]:
    """The key of the largest value at each voxel, the first of several, and that value."""
    (first, largest), *others = by_key.items()
    best = np.full(largest.shape, first, np.int64)
    largest = largest.copy()
    for key, values in others:
        more = values > largest
        best[more] = key
        np.copyto(largest, values, where=more)
    return best, largest


def _descend(
    family: tuple[int, ...],
    tree: LabelTree,
    by_node: Mapping[int, Unchecked],
    threshold: Number | None,
) -> LabelMap:
    """The leaf of each voxel, if it lies in this family's parent."""
    best, largest = _most_probable({v: by_node[v] for v in family if v in by_node})
    rest = next((v for v in family if v in tree.rest), None)
    if threshold is not None and rest is not None:
        best[largest <= threshold] = rest
    labels = np.empty(best.shape, np.int64)
    for v in family:
        here = best == v
        if tree.children[v]:
            inside = {u: by_node[u][here] for u in tree.descendants(v) if u in by_node}
            labels[here] = _descend(tree.children[v], tree, inside, threshold)
        else:
            labels[here] = tree.leaves.index(v)
    return labels
