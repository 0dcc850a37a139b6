"""A batch as dense one-hot volumes, and the sums over it, by their definitions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass
class Dense:
    """Everything spelt out for every voxel and channel: ``(b, c, n)``, float64."""

    logits: Tensor
    log_pred: Tensor  # log p
    log_rest: Tensor  # log (1 - p)
    true: Tensor
    weight: Tensor
    maps: dict[str, Tensor]
    exclusive: bool  # softmax; otherwise a sigmoid for each channel
    space: tuple[int, ...]

    @property
    def pred(self) -> Tensor:
        return self.log_pred.exp()


def one_hot(labels: Tensor, channels: int) -> Tensor:
    """Which class a voxel has; a label that is no class gives a column of zeros."""
    classes = torch.arange(channels, device=labels.device)
    return (labels[:, None] == classes.view(1, -1, *[1] * (labels.ndim - 1))).double()


def dense(encoding: Any, input: Tensor, target: Tensor, maps: dict[str, Tensor]) -> Dense:
    """Spell a batch out. The options of the encoding are all that is taken from the package."""
    b, c, *space = input.shape
    logits = input.double().reshape(b, c, -1)
    n = logits.shape[2]
    exclusive = type(encoding).__name__ == "Multiclass"
    target, soft = target.double(), target.shape == input.shape
    weight = torch.ones(b, c, n, dtype=torch.float64, device=input.device)
    if encoding.ignore is not None:
        ignored = (target == encoding.ignore).reshape(b, -1, n)
        weight = weight * (~ignored).double()
        target = torch.where(target == encoding.ignore, 0.0, target)
        if exclusive and not soft:  # of no class, rather than of the first
            target = torch.where(ignored.reshape(target.shape), -1.0, target)
    spelt_out = soft or not exclusive
    true = target.reshape(b, c, n) if spelt_out else one_hot(target.reshape(b, n), c)
    given = maps.get("weight")
    if given is not None:
        weight = weight * given.double().reshape(b, -1, n)
    if exclusive:
        log_pred = logits.log_softmax(1)
        log_rest = torch.log(-torch.expm1(log_pred))
    else:
        log_pred, log_rest = logsigmoid(logits), logsigmoid(-logits)
    channels = {k: _per_channel(k, m, (b, c, *space)) for k, m in maps.items() if k != "weight"}
    return Dense(logits, log_pred, log_rest, true, weight, channels, exclusive, tuple(space))


def _per_channel(name: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    b, c, *space = shape
    values = values.double()
    if name == "skeleton" and tuple(values.shape) in ((b, *space), (b, 1, *space)) and c > 1:
        labels = values.reshape(b, -1)
        return one_hot(torch.where(labels == 0, -1.0, labels), c)
    values = values.reshape(b, -1, *space).flatten(2)
    if name == "instances" and values.shape[1] == 1:  # numbers for all classes
        return values.expand(b, c, -1)
    absent = values.new_zeros(b, c - values.shape[1], values.shape[2])
    return torch.cat([absent, values], 1)


def region_sum(x: Dense, name: str) -> Tensor:
    """The sum of that name, ``(b, c)``."""
    p, y, w = x.pred, x.true, x.weight
    factors = {"": torch.ones_like(p), "pred": p, "pred_squared": p**2}
    if name.startswith("error^"):
        error, _, _ = name.partition("*")
        factors[error] = (p - y).abs() ** float(error.removeprefix("error^"))
        if error == name:
            return (w * factors[error]).sum(2)
    factor, _, values = name.rpartition("*")
    values, _, power = values.partition("^")
    if values in x.maps:
        s = x.maps[values]
        return (w * factors[factor] * (s.abs() ** float(power) if power else s)).sum(2)
    terms = {
        "count": lambda: w,
        "overlap": lambda: w * p * y,
        "pred": lambda: w * p,
        "true": lambda: w * y,
        "pred_squared": lambda: w * p**2,
        "true_squared": lambda: w * y**2,
        "pred_squared_true": lambda: w * p**2 * y,
    }
    return terms[name]().sum(2)


def pooled(sums: Tensor, group: str) -> Tensor:
    """``(b, …)`` sums to ``(g, …)``; one process, so that ``"ranks"`` is the batch."""
    return sums if group == "sample" else sums.sum(0, keepdim=True)
