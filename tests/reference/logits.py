"""Losses that all the logits of a voxel enter, by the formula of each."""

from typing import Any

import torch
from torch import Tensor

from tests.reference.dense import Dense, pooled

__all__ = ["LOGITS", "logit_mean"]

LOGITS = (
    "SquentropyLoss",
    "SparsemaxLoss",
    "MarginSmoothingLoss",
    "LogSumExpLoss",
)


def logit_mean(loss: Any, x: Dense, first: int) -> Tensor:
    """The mean of what a voxel costs over those that count, each group's."""
    f, y, w = x.logits, x.true, x.weight
    given = [1.0] * (y.shape[1] - first) if loss.class_weight is None else list(loss.class_weight)
    alpha = y.new_tensor([0.0] * first + given)[:, None]
    if not x.exclusive:
        f, y, w = torch.stack([f / 2, -f / 2], 1), torch.stack([y, 1 - y], 1), w[:, None]
    w, alpha = w.expand_as(y), alpha.expand_as(y)
    share = w * alpha * y
    if type(loss).__name__ == "CrossEntropyLoss":
        counted = torch.where(alpha == 0, 0.0, y)
        soft = (1 - loss.label_smoothing) * counted + loss.label_smoothing * counted.mean(1, True)
        entry = -w * alpha * soft * f.log_softmax(1)
    else:
        by_label = [logit_cost(loss, f, label) for label in range(f.shape[1])]
        entry = share * torch.stack(by_label, 1)
    total, norm = (pooled(z.flatten(1).sum(1), loss.group) for z in (entry, share))
    return torch.where(norm == 0, 0.0, total / torch.where(norm == 0, 1.0, norm))


def logit_cost(loss: Any, f: Tensor, label: int) -> Tensor:
    """The cost of logits ``(b, outcomes, …)`` if the label is that outcome: ``(b, …)``."""
    name, outcomes = type(loss).__name__, f.shape[1]
    if name == "SquentropyLoss":
        others = sum(f[:, k] ** 2 for k in range(outcomes) if k != label)
        surprise: Tensor = f.logsumexp(1) - f[:, label]
        return surprise + others / (outcomes - 1)
    if name == "MarginSmoothingLoss":
        top = f.max(1).values
        excess = [(top - f[:, k] - loss.margin).clamp(min=0) for k in range(outcomes)]
        return torch.stack(excess).mean(0)
    if name == "LogSumExpLoss":
        return f.exp().sum(1).log() ** 2
    assert name == "SparsemaxLoss", name
    # The threshold is the largest of those that any number of the largest logits would have.
    largest = f.sort(1, descending=True).values
    each = [(largest[:, :m].sum(1) - 1) / m for m in range(1, outcomes + 1)]
    threshold = torch.stack(each).max(0).values
    square = threshold**2
    above = [torch.where(f[:, k] > threshold, f[:, k] ** 2 - square, 0.0) for k in range(outcomes)]
    return torch.stack(above).sum(0) / 2 + 0.5 - f[:, label]
