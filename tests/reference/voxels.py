"""What a voxel costs if its label is one outcome among several, by the formula of each loss."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.reference.overlap import lined

__all__ = ["ADJUSTED", "VOXEL", "adjusted", "voxel_cost"]

ADJUSTED = ("LogitAdjustedCrossEntropyLoss", "VectorScalingLoss", "LDAMLoss")
VOXEL = (
    "CrossEntropyLoss",
    "FocalLoss",
    "GeneralizedCrossEntropyLoss",
    "CompSumLoss",
    "ReverseCrossEntropyLoss",
    "SymmetricCrossEntropyLoss",
    "NormalizedCrossEntropyLoss",
    "LDRKLLoss",
    "Poly1CrossEntropyLoss",
    "Poly1FocalLoss",
    "AsymmetricLoss",
    *ADJUSTED,
)


def voxel_cost(loss: Any, log_p: Tensor, log_rest: Tensor, label: int) -> Any:
    """The cost of ``log_p``, ``(b, outcomes, …)``, if the label is that outcome: ``(b, …)``.

    ``log_rest`` is log(1 - p) of each outcome.
    """
    name, outcomes = type(loss).__name__, log_p.shape[1]
    surprise, p = -log_p[:, label], log_p[:, label].exp()
    wrong = log_rest[:, label].exp()
    if name in ("CrossEntropyLoss", *ADJUSTED):
        return surprise
    if name == "Poly1CrossEntropyLoss":
        return surprise + loss.epsilon * wrong
    if name == "Poly1FocalLoss":
        focal = surprise if loss.gamma == 0 else wrong**loss.gamma * surprise
        return focal + loss.epsilon * wrong ** (loss.gamma + 1)
    if name == "UnifiedFocalLoss":
        focal = surprise if loss.gamma == 0 else wrong**loss.gamma * surprise
        if label == 0:
            return (1 - loss.delta) * focal
        return loss.delta * (surprise if loss.asymmetric else focal)
    if name == "AsymmetricLoss":
        return _asymmetric(loss, log_p, label)
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


def _asymmetric(loss: Any, log_p: Tensor, label: int) -> Any:
    yes, no = log_p[:, 0].exp(), log_p[:, 1].exp()
    if label == 0:
        return -((1 - yes) ** loss.gamma_yes) * log_p[:, 0]
    if loss.shift == 0:
        return -(yes**loss.gamma_no) * log_p[:, 1]
    costs = no < 1 - loss.shift
    left = torch.where(costs, no + loss.shift, 0.5)  # 1 - u
    return torch.where(costs, -((1 - left) ** loss.gamma_no) * left.log(), 0.0)


def adjusted(loss: Any, logits: Tensor, true: Tensor) -> Tensor:
    """The logits whose cross entropy the loss is; ``true`` has their shape."""
    channels = []
    for k, prior in enumerate(loss.prior):
        f, y = logits[:, k], true[:, k]
        if type(loss).__name__ == "LogitAdjustedCrossEntropyLoss":
            binary = type(loss.encoding).__name__ == "Multilabel"
            f = f + loss.tau * (math.log(prior) - (math.log(1 - prior) if binary else 0))
        elif type(loss).__name__ == "VectorScalingLoss":
            f = f * (prior / max(loss.prior)) ** loss.gamma + loss.tau * math.log(prior)
        else:
            raw = [p**-0.25 for p in loss.prior]
            f = loss.scale * (f - loss.max_margin * raw[k] / max(raw) * y)
        channels.append(f)
    return torch.stack(channels, 1)


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
