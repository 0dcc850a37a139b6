"""Losses of instances as the loop that they replace: a mask, a Dice, one component after the other."""

from typing import Any

import torch
from torch import Tensor

from tests.reference.dense import Dense

__all__ = ["INSTANCE", "instance_score"]

INSTANCE = ("BlobLoss", "ConnectedComponentDiceLoss")


def instance_score(loss: Any, x: Dense) -> Tensor:
    """The mean score of the components of each group and class, ``(g, c)``; 0 if there is none."""
    numbers = x.maps["instances"]
    b, c, _ = x.true.shape
    groups = [[i] for i in range(b)] if loss.group == "sample" else [list(range(b))]
    rows = []
    for group in groups:
        for k in range(c):
            scores = [score for i in group for score in _components(loss, x, numbers[i, k], i, k)]
            rows.append(torch.stack(scores).mean() if scores else 0 * x.logits.sum())
    return torch.stack(rows).reshape(len(groups), c)


def _components(loss: Any, x: Dense, own: Tensor, i: int, k: int) -> list[Tensor]:
    """The score of each component that has a voxel of the class."""
    scores = []
    for r in own.unique():
        here = own == r
        if r == 0 or not (x.weight[i, k] * x.true[i, k] * here).any():
            continue
        if type(loss).__name__ == "BlobLoss":
            here = here | (own == 0)
        w = x.weight[i, k] * here
        p, y = x.pred[i, k], x.true[i, k]
        top, bottom = 2 * (w * p * y).sum() + loss.smooth_nr, (w * p).sum() + (w * y).sum()
        scores.append(1 - top / (bottom + loss.smooth_dr))
    return scores
