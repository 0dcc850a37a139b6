"""The distance of logits to the shares of the labels around them, neighbour by neighbour."""

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.reference.dense import Dense, pooled

__all__ = ["around", "neighbour_scores"]


def neighbour_scores(loss: Any, x: Dense, space: tuple[int, ...]) -> Tensor:
    """``(g, c)``: the mean distance of each channel's logits."""
    b, c, _ = x.logits.shape
    there = (x.weight != 0).double().reshape(b, c, *space)
    true = x.true.reshape(b, c, *space)
    share = around(true * there) / around(there).clamp(min=1)
    share = share.reshape(b, c, -1)
    apart = x.logits - share if x.exclusive else (x.logits - (2 * share - 1)) / 2
    total, count = (pooled(z.sum(2), loss.group) for z in (x.weight * apart.abs(), x.weight))
    return torch.where(count == 0, 0.0, total / torch.where(count == 0, 1.0, count))


def around(x: Tensor) -> Tensor:
    """The sum over each voxel and its neighbours, ``(b, c, *space)``; 0 beyond the border."""
    space = x.shape[2:]
    padded = pad(x, [1, 1] * len(space))
    total = torch.zeros_like(x)
    for start in product(range(3), repeat=len(space)):
        here = tuple(slice(i, i + size) for i, size in zip(start, space, strict=True))
        total = total + padded[(slice(None), slice(None), *here)]
    return total
