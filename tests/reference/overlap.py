"""The scores of the further overlap losses, by the formula of each, voxel by voxel."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.reference.dense import Dense, pooled

__all__ = ["exact_lovasz", "lined", "overlap_score"]

NEAR_ZERO = 1e-4


def overlap_score(loss: Any, x: Dense) -> Tensor:
    """``(g, c)``, whatever is absent or ignored."""
    name = type(loss).__name__
    p, y, w = x.pred, x.true, x.weight
    a, b = loss.smooth_nr, loss.smooth_dr

    def total(values: Tensor) -> Tensor:
        return pooled(values.sum(2), loss.group)

    if name == "LovaszLoss":
        return _lovasz(loss, x)
    if name == "SquaredDiceLoss":
        return 1 - _over(2 * total(w * p * y) + a, total(w * p * p) + total(w * y * y) + b)
    shared = total(w * torch.minimum(p, y))
    if name == "DiceSemimetricLoss":
        return 1 - _over(2 * shared + a, total(w * p) + total(w * y) + b)
    if name == "JaccardMetricLoss":
        return 1 - _over(shared + a, total(w * torch.maximum(p, y)) + b)
    if name == "CompatibleTverskyLoss":
        excess = loss.alpha * total(w * (p - y).relu()) + loss.beta * total(w * (y - p).relu())
        return 1 - _over(shared + a, shared + excess + b)
    hit, false_alarm = total(w * p * y), total(w * p * (1 - y))
    miss, rejected = total(w * (1 - p) * y), total(w * (1 - p) * (1 - y))
    if name == "DicePlusPlusLoss":
        return 1 - _over(2 * hit + a, 2 * hit + total(w * (p - y).abs() ** loss.gamma) + b)
    if name == "SensitivitySpecificityLoss":
        missed = total(w * y * (1 - p) ** 2), total(w * y)
        alarmed = total(w * (1 - y) * p**2), total(w * (1 - y))
        inside, outside = (1 - _over(n - e + a, n + b) for e, n in (missed, alarmed))
        score: Tensor = loss.sensitivity * inside + (1 - loss.sensitivity) * outside
        return score
    if name == "MCCLoss":
        hit, rejected = hit + a, rejected + a
        miss, false_alarm = miss + b - a, false_alarm + b - a
        sides = (hit + miss) * (hit + false_alarm) * (rejected + miss) * (rejected + false_alarm)
        nothing = sides == 0
        scale = torch.where(nothing, 1.0, sides).sqrt()
        return 1 - torch.where(nothing, 0.0, (hit * rejected - miss * false_alarm) / scale)
    if name == "FocalTverskyLoss":
        index = _over(hit + a, hit + loss.alpha * false_alarm + loss.beta * miss + b)
        return lined(1 - index, loss.gamma)
    if name == "UnifiedFocalLoss":
        index = _over(hit + a, hit + (1 - loss.delta) * false_alarm + loss.delta * miss + b)
        score = lined(1 - index, 1 - loss.gamma)
        if loss.asymmetric:
            score = torch.cat([1 - index[:, :1], score[:, 1:]], 1)
        return score
    coefficient = _over(2 * hit + a, 2 * hit + false_alarm + miss + b)
    if name == "LogCoshDiceLoss":
        return (((1 - coefficient).exp() + (coefficient - 1).exp()) / 2).log()
    assert name == "ExponentialLogarithmicLoss", name
    tangent = 1 - coefficient / NEAR_ZERO - math.log(NEAR_ZERO)
    low = coefficient < NEAR_ZERO
    surprise = torch.where(low, tangent, -torch.where(low, 1.0, coefficient).log())
    return lined(surprise, loss.gamma)


def lined(x: Tensor, exponent: float) -> Tensor:
    """A power, and the line through 0 that meets it where it begins."""
    low = x < NEAR_ZERO
    return torch.where(
        low, x * NEAR_ZERO**exponent / NEAR_ZERO, torch.where(low, 1.0, x) ** exponent
    )


def exact_lovasz(error: Tensor, true: Tensor, weight: Tensor, a: float, b: float) -> Tensor:
    """Sort the errors, let the Jaccard loss grow with each of them: the definition."""
    order = error.argsort(descending=True)
    error, true, weight = error[order], true[order], weight[order]
    size = (weight * true).sum()
    hits, found = size - (weight * true).cumsum(0), (weight * (1 - true)).cumsum(0)
    nothing = 1 - _over(size + a, size + b)
    cost = torch.cat([nothing[None], 1 - _over(hits + a, size + found + b)])
    return nothing + (error * (cost[1:] - cost[:-1])).sum()


def _lovasz(loss: Any, x: Dense) -> Tensor:
    """Each error is replaced by the mean error of its bin, and these are taken in order."""
    parts = [x.pred, x.true, x.weight]
    if loss.group != "sample":
        parts = [part.movedim(1, 0).flatten(1)[None] for part in parts]
    p, y, w = parts
    g, c, _ = p.shape
    error = (p - y).abs()
    bins = (error.detach() * loss.bins).floor().clamp(max=loss.bins - 1)
    scores = []
    for i in range(g):
        for k in range(c):
            mean = error[i, k]
            for here in bins[i, k].unique():
                inside = (bins[i, k] == here).double() * w[i, k]
                if inside.sum() > 0:
                    value = (inside * error[i, k]).sum() / inside.sum()
                    mean = torch.where(bins[i, k] == here, value, mean)
            args = (mean, y[i, k], w[i, k])
            scores.append(exact_lovasz(*args, loss.smooth_nr, loss.smooth_dr))
    return torch.stack(scores).reshape(g, c)


def _over(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom == 0, 0.0, top / torch.where(bottom == 0, 1.0, bottom))
