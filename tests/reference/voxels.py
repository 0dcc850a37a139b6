"""What a voxel costs if its label is one outcome among several, by the formula of each loss."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.reference.overlap import lined

__all__ = ["VOXEL", "voxel_cost"]

VOXEL = (
    "CrossEntropyLoss",
    "FocalLoss",
    "GeneralizedCrossEntropyLoss",
    "CompSumLoss",
    "ReverseCrossEntropyLoss",
    "SymmetricCrossEntropyLoss",
    "NormalizedCrossEntropyLoss",
    "LDRKLLoss",
)


def voxel_cost(loss: Any, log_p: Tensor, log_rest: Tensor, label: int) -> Any:
    """The cost of ``log_p``, ``(b, outcomes, …)``, if the label is that outcome: ``(b, …)``.

    ``log_rest`` is log(1 - p) of each outcome.
    """
    name, outcomes = type(loss).__name__, log_p.shape[1]
    surprise, p = -log_p[:, label], log_p[:, label].exp()
    wrong = log_rest[:, label].exp()
    if name == "CrossEntropyLoss":
        return surprise
    if name == "FocalLoss":
        return surprise if loss.gamma == 0 else wrong**loss.gamma * surprise
    if name == "ExponentialLogarithmicLoss":
        return lined(surprise, loss.gamma)
    if name == "GeneralizedCrossEntropyLoss":
        if loss.truncate is not None:
            p = torch.where(p <= loss.truncate, loss.truncate, p)
        return -p.log() if loss.q == 0 else (1 - p**loss.q) / loss.q
    if name == "CompSumLoss":
        others = [log_p[:, k] - log_p[:, label] for k in range(outcomes) if k != label]
        odds = torch.stack(others).exp().sum(0)
        rate = 1 - loss.tau
        return (1 + odds).log() if rate == 0 else ((1 + odds) ** rate - 1) / rate
    if name in ("ReverseCrossEntropyLoss", "SymmetricCrossEntropyLoss"):
        log_true = [0.0 if k == label else loss.log_zero for k in range(outcomes)]
        reverse = torch.zeros_like(p)
        for k in range(outcomes):
            reverse = reverse - log_p[:, k].exp() * log_true[k]
        if name == "ReverseCrossEntropyLoss":
            return reverse
        return loss.alpha * surprise + loss.beta * reverse
    if name == "NormalizedCrossEntropyLoss":
        return surprise / sum(-log_p[:, k] for k in range(outcomes))
    assert name == "LDRKLLoss", name
    return _robust(loss, log_p, label)


def _robust(loss: Any, log_p: Tensor, label: int) -> Any:
    margin = torch.full_like(log_p, loss.margin)
    margin[:, label] = 0
    raised = log_p - log_p[:, label : label + 1] + margin
    temperature = loss.temperature
    if loss.adaptation is not None:
        q = (raised.detach() / temperature).softmax(1)
        divergence = (q * (q * q.shape[1]).log()).nan_to_num(0).sum(1, keepdim=True)
        most = loss.adaptation * math.log(q.shape[1])
        temperature = temperature * (1 - divergence / most)
    total = (raised / temperature).logsumexp(1, keepdim=True)
    return (temperature * total)[:, 0]
