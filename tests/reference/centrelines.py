"""Centreline Dice by its formula, on a soft skeleton by ordinary pooling."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.reference.dense import Dense, pooled

__all__ = ["centreline_score", "pooled_skeleton"]


def pooled_skeleton(x: Tensor, iterations: int, there: Tensor | None = None) -> Tensor:
    """The published recursion, with windows written out and infinity for what is not there."""
    there = torch.ones_like(x, dtype=torch.bool) if there is None else there

    def windows(x: Tensor, value: float) -> Tensor:
        padded = functional.pad(x.masked_fill(~there, value), (1, 1) * x.ndim, value=value)
        for axis in range(x.ndim):
            padded = padded.unfold(axis, 3, 1)
        return padded.flatten(x.ndim)

    def cross(d: int) -> list[int]:
        centre = (3**d - 1) // 2
        return [centre, *(centre + step * 3**axis for axis in range(d) for step in (-1, 1))]

    def eroded(x: Tensor) -> Tensor:
        return windows(x, math.inf)[..., cross(x.ndim)].amin(-1).masked_fill(~there, 0)

    def opened(x: Tensor) -> Tensor:
        return windows(eroded(x), -math.inf).amax(-1).masked_fill(~there, 0)

    skeleton = functional.relu(x - opened(x))
    for _ in range(iterations):
        x = eroded(x)
        delta = functional.relu(x - opened(x))
        skeleton = skeleton + functional.relu(delta - skeleton * delta)
    return skeleton


def centreline_score(loss: Any, x: Dense) -> Tensor:
    """``(g, c)``: one minus the harmonic mean of the two proportions."""
    b, c, _ = x.true.shape
    shape = (b, c, *x.space)
    pred, there = x.pred.reshape(shape), (x.weight != 0).reshape(shape)
    rows = [
        torch.stack([pooled_skeleton(pred[i, k], loss.iterations, there[i, k]) for k in range(c)])
        for i in range(b)
    ]
    skeleton, asked = torch.stack(rows).flatten(2), x.maps["skeleton"]

    def share(part: Tensor, whole: Tensor) -> Tensor:
        top, bottom = (pooled((x.weight * v).sum(2), loss.group) for v in (part, whole))
        bottom = bottom + loss.smooth_dr
        return torch.where(
            bottom == 0, 0.0, (top + loss.smooth_nr) / torch.where(bottom == 0, 1.0, bottom)
        )

    precision, recall = share(skeleton * x.true, skeleton), share(x.pred * asked, asked)
    both = precision + recall
    mean = 2 * precision * recall / torch.where(both == 0, 1.0, both)
    return 1 - torch.where(both == 0, 0.0, mean)
