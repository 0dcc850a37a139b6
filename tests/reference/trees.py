"""Nested classes by their definitions: probabilities of nodes, memberships and losses, in float64.

Nothing here is stable or fast; a tree is its list of parents, which leaves are rests, and labels
that number the leaves.
"""

from typing import Any

import torch
from torch import Tensor


def leaves(parents: tuple[int, ...]) -> list[int]:
    return [v for v in range(len(parents)) if v not in parents]


def path(parents: tuple[int, ...], node: int) -> list[int]:
    """The node and its ancestors."""
    return [node] if parents[node] < 0 else [node, *path(parents, parents[node])]


def memberships(
    parents: tuple[int, ...], named: list[int], labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether a voxel lies in each node, and whether that is known, each ``(b, v, *space)``."""
    true = torch.zeros(labels.shape[0], len(parents), *labels.shape[1:], dtype=torch.float64)
    known = torch.ones_like(true)
    for node in range(len(parents)):
        for label, t in enumerate(named):
            here = labels == label
            if node in path(parents, t):
                true[:, node][here] = 1
            elif t in path(parents, node):
                known[:, node][here] = 0
    return true, known


def leaf_softmax(z: Tensor, parents: tuple[int, ...]) -> Tensor:
    """Sums over leaves, ``(b, v, *space)``."""
    p, own = z.double().softmax(1), leaves(parents)
    sums = []
    for node in range(len(parents)):
        below = [i for i, leaf in enumerate(own) if node in path(parents, leaf)]
        sums.append(p[:, below].sum(1))
    return torch.stack(sums, 1)


def conditional_sigmoid(z: Tensor, parents: tuple[int, ...], rest: tuple[int, ...]) -> Tensor:
    """Products of sigmoids down the path; a rest is its parent and none of its siblings."""
    heads = [v for v in range(len(parents)) if v not in rest]
    given = {v: z.double()[:, i].sigmoid() for i, v in enumerate(heads)}
    for r in rest:
        given[r] = torch.ones_like(z[:, 0], dtype=torch.float64)
        for v in heads:
            if parents[v] == parents[r]:
                given[r] = given[r] * (1 - given[v])
    products = []
    for v in range(len(parents)):
        p = torch.ones_like(given[0])
        for u in path(parents, v):
            p = p * given[u]
        products.append(p)
    return torch.stack(products, 1)


def max_constraint(z: Tensor, parents: tuple[int, ...], rest: tuple[int, ...], mode: str) -> Tensor:
    """The largest sigmoid of a node's descendants, or the least of its ancestors."""
    heads = [v for v in range(len(parents)) if v not in rest]
    h = {v: z.double()[:, i].sigmoid() for i, v in enumerate(heads)}
    p = {}
    for v in heads:
        kin = [
            u for u in heads if (v in path(parents, u) if mode == "max" else u in path(parents, v))
        ]
        every = torch.stack([h[u] for u in kin])
        p[v] = every.amax(0) if mode == "max" else every.amin(0)
    for r in rest:
        beside = torch.stack([p[v] for v in heads if parents[v] == parents[r]]).amax(0)
        p[r] = 1 - beside if parents[r] < 0 else torch.minimum(1 - beside, p[parents[r]])
    return torch.stack([p[v] for v in range(len(parents))], 1)


def multi_level(
    x: Tensor, parents: tuple[int, ...], rest: tuple[int, ...], s: float, theta: Any
) -> Tensor:
    """σ(s (x - θ)) of each level, and differences of neighbours for the rests."""
    heads = [v for v in range(len(parents)) if v not in rest]
    level = {v: (s * (x.double()[:, 0] - t)).sigmoid() for v, t in zip(heads, theta, strict=True)}
    p = []
    for v in range(len(parents)):
        if v in level:
            p.append(level[v])
        else:
            outer = 1.0 if parents[v] < 0 else level[parents[v]]
            (inner,) = (u for u in heads if parents[u] == parents[v])
            p.append(outer - level[inner])
    return torch.stack(p, 1)


def node_dice(p: Tensor, true: Tensor, weight: Tensor, smooth: float = 1e-5) -> Tensor:
    """One minus Dice, ``(b, v)``."""
    space = tuple(range(2, p.ndim))
    both = (weight * p).sum(space) + (weight * true).sum(space)
    return 1 - (2 * (weight * p * true).sum(space) + smooth) / (both + smooth)


def label_cross_entropy(p: Tensor, named: list[int], labels: Tensor) -> Tensor:
    """-log p of the node that the label names, per voxel."""
    nodes = torch.tensor(named)[labels]
    return -p.gather(1, nodes[:, None])[:, 0].log()


def step_cross_entropy(
    p: Tensor, parents: tuple[int, ...], true: Tensor, weight: list[float]
) -> Tensor:
    """-Σ w log(p child / p parent) down the path, per voxel."""
    total = torch.zeros_like(p[:, 0])
    for v, parent in enumerate(parents):
        above = 1.0 if parent < 0 else p[:, parent]
        total = total - weight[v] * true[:, v] * (p[:, v] / above).log()
    return total


def heads_cross_entropy(
    z: Tensor, parents: tuple[int, ...], rest: tuple[int, ...], true: Tensor, known: Tensor
) -> Tensor:
    """Binary cross entropy of each head where its parent holds the voxel, summed, per voxel."""
    total = torch.zeros_like(true[:, 0])
    for i, v in enumerate(v for v in range(len(parents)) if v not in rest):
        q, y = z.double()[:, i].sigmoid(), true[:, v]
        inside = 1.0 if parents[v] < 0 else true[:, parents[v]]
        total = total - inside * known[:, v] * (y * q.log() + (1 - y) * (1 - q).log())
    return total
