"""The mean of the largest costs, by sorting."""

from typing import Any

import torch
from torch import Tensor

from tests.reference.dense import Dense

__all__ = ["hardest_mean"]


def hardest_mean(loss: Any, x: Dense, first: int) -> Tensor:
    """Of each group's voxels (or entries), as many as k percent of the weight make up."""
    channels = x.true.shape[1]
    given = [1.0] * (channels - first) if loss.class_weight is None else list(loss.class_weight)
    alpha = x.true.new_tensor([0.0] * first + given)[:, None]
    if x.exclusive:
        each = x.weight * alpha * x.true
        weight = each.sum(1)
        cost = (each * -x.log_pred).sum(1) / torch.where(weight == 0, 1.0, weight)
    else:
        weight = (x.weight * alpha).flatten(1)
        cost = (-x.true * x.log_pred - (1 - x.true) * x.log_rest).flatten(1)
    if loss.group != "sample":
        cost, weight = cost.reshape(1, -1), weight.reshape(1, -1)
    return torch.stack([_mean_of_most(*group, loss.k) for group in zip(cost, weight, strict=True)])


def _mean_of_most(cost: Tensor, weight: Tensor, percent: float) -> Tensor:
    order = cost.argsort(descending=True)
    cost, weight = cost[order], weight[order]
    wanted = weight.sum() * percent / 100
    part = torch.minimum((wanted - (weight.cumsum(0) - weight)).clamp(min=0), weight)
    return (part * cost).sum() / (wanted if wanted > 0 else 1)
