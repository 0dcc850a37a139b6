"""Losses of partial labels as they are written down, in float64, voxel by voxel of sets."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LeafSets = Sequence[Mapping[int, frozenset[int]]]
"""For each sample, the leaves that each of its label values stands for."""


def possible(target: Tensor, sets: LeafSets, leaves: int) -> Tensor:
    """Which leaves each voxel may be, ``(b, l, n)``."""
    mask = torch.zeros(len(target), leaves, target[0].numel(), dtype=torch.bool)
    for sample, labels in enumerate(target.flatten(1).tolist()):
        for voxel, label in enumerate(labels):
            for leaf in sets[sample][label]:
                mask[sample, leaf, voxel] = True
    return mask


def label_set_cross_entropy(
    logits: Tensor, target: Tensor, sets: LeafSets, weight: Tensor | None = None
) -> Tensor:
    """-log of the summed probability of the set, over the voxels of which something is known."""
    p = logits.double().flatten(2).softmax(1)
    mask = possible(target, sets, p.shape[1])
    told = (~mask.all(1)).double()
    if weight is not None:
        told = told * weight.flatten(1)
    m = -(p * mask).sum(1).log()
    return (m * told).sum() / told.sum().clamp(min=1e-300)


def covered(node: frozenset[int], sets: Mapping[int, frozenset[int]]) -> bool:
    """Whether the labels of a data set make up all of a node."""
    return all(any(leaf in s and s <= node for s in sets.values()) for leaf in node)


def dice_of_nodes(
    p: Tensor,
    target: Tensor,
    sets: LeafSets,
    nodes: Sequence[frozenset[int]],
    leaves: int,
    smooth: float,
) -> tuple[Tensor, Tensor]:
    """One minus Dice of each (sample, node), and which of them count; p of nodes, ``(b, v, n)``."""
    mask = possible(target, sets, leaves)
    scores, valid = [], []
    for sample in range(len(p)):
        for v, node in enumerate(nodes):
            inside = torch.tensor([leaf in node for leaf in range(leaves)])
            touches, leaks = mask[sample, inside].any(0), mask[sample, ~inside].any(0)
            known, y = (~(touches & leaks)).double(), (~leaks).double()
            if not covered(node, sets[sample]):
                known = known * 0
            q = p[sample, v]
            top = 2 * (known * q * y).sum() + smooth
            scores.append(1 - top / ((known * q).sum() + (known * y).sum() + smooth))
            valid.append(bool(known.any()))
    shape = (len(p), len(nodes))
    return torch.stack(scores).reshape(shape), torch.tensor(valid).reshape(shape)


def exclusion_log(
    logits: Tensor,
    target: Tensor,
    sets: LeafSets,
    nodes: Sequence[frozenset[int]],
    counted: Sequence[bool],
) -> Tensor:
    """-log(1 - p) of nodes that a data set does not label, where a label rules them out."""
    p = logits.double().flatten(2).softmax(1)
    mask = possible(target, sets, p.shape[1])
    total, count = torch.zeros((), dtype=torch.float64), 0
    for sample in range(len(p)):
        for node, counts in zip(nodes, counted, strict=True):
            if not counts or covered(node, sets[sample]):
                continue
            inside = sorted(node)
            ruled_out = ~mask[sample, inside].any(0)
            total = total - (1 - p[sample, inside].sum(0)).log()[ruled_out].sum()
            count += int(ruled_out.sum())
    return total / max(count, 1)


def exclusion_dice(
    logits: Tensor,
    target: Tensor,
    sets: LeafSets,
    nodes: Sequence[frozenset[int]],
    counted: Sequence[bool],
    smooth: float,
) -> Tensor:
    """Mean Dice of each node's prediction with where it cannot be, over the batch."""
    p = logits.double().flatten(2).softmax(1)
    mask = possible(target, sets, p.shape[1])
    told = (~mask.all(1)).double()
    scores = []
    for node, counts in zip(nodes, counted, strict=True):
        if counts:
            q = p[:, sorted(node)].sum(1) * told
            e = (~mask[:, sorted(node)].any(1)).double() * told
            scores.append((2 * (q * e).sum() + smooth) / (q.sum() + e.sum() + smooth))
    return torch.stack(scores).mean()


def null_bce(
    logits: Tensor, target: Tensor, sets: LeafSets, nodes: Sequence[frozenset[int]], leaves: int
) -> tuple[Tensor, Tensor]:
    """For each sample the mean over its known entries, and how many classes it labels."""
    z = logits.double().flatten(2)
    mask = possible(target, sets, leaves)
    means, classes = [], []
    for sample in range(len(z)):
        entries, labelled = [], 0
        for v, node in enumerate(nodes):
            if not covered(node, sets[sample]):
                continue
            inside = torch.tensor([leaf in node for leaf in range(leaves)])
            touches, leaks = mask[sample, inside].any(0), mask[sample, ~inside].any(0)
            known = ~(touches & leaks)
            p = z[sample, v].sigmoid()
            entries.append(-torch.where(leaks, (1 - p).log(), p.log())[known])
            labelled += bool(known.any())
        means.append(torch.cat(entries).mean() if labelled else z.new_zeros(()))
        classes.append(labelled)
    return torch.stack(means), torch.tensor(classes, dtype=torch.float64)
