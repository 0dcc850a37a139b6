"""How predictions, or errors, are spread over bins of equal width, from 0 to 1.

A histogram holds, for each node, three rows: for the voxels of each bin Σ w, Σ w y and Σ w x. What
loses only its order within a bin by this needs neither sorting nor all voxels at once; and the bins
of blocks, of samples and of ranks add up. There are three:

- ``errors/256``: x is the error |p - y|. `segloss.LovaszLoss` takes errors in order.
- ``pred/20``: x is the probability p. `segloss.CalibrationErrorLoss` compares means of bins.
- ``pred_between/20``: the same, but each voxel is shared out between the two bins whose centres are
  nearest to p, the more to the nearer; below the first centre and above the last it goes into one.
  So the weight of a voxel in a bin has a slope, too.
"""

import torch
from torch import Tensor

from segloss.engine.block import Block
from segloss.engine.by_number import sums_by_number
from segloss.shapes import Nodes

__all__ = ["histogram", "is_histogram", "slope", "width"]

_KINDS = ("errors", "pred", "pred_between")


def is_histogram(name: str) -> bool:
    """Whether a region sum is a histogram.

    Example:
        >>> is_histogram("errors/256"), is_histogram("error^1.5")
        (True, False)
    """
    kind, slash, _ = name.partition("/")
    return bool(slash) and kind in _KINDS


def width(name: str) -> int:
    """How many numbers it holds for a node."""
    return 3 * _parsed(name)[1]


def histogram(block: Block, name: str) -> Tensor:
    """The three rows of every node side by side, ``(b, v · 3 · bins)``."""
    kind, bins = _parsed(name)
    x = _binned(block, kind)
    rows = []
    for index, part in _bins(x, kind, bins):
        weight = block.weighted(torch.ones_like(x) if part is None else part)
        rows.append(sums_by_number(index, (weight, weight * block.true, weight * x), bins))
    return torch.stack(rows).sum(0).transpose(1, 2).flatten(1)


def slope(block: Block, name: str, scale: Tensor) -> Nodes:
    """Its derivative by the nodes' probabilities, times its scale ``(b, v · 3 · bins, 1)``.

    Without the voxels' weights, which are common to all region sums.
    """
    kind, bins = _parsed(name)
    x = _binned(block, kind)
    b, v, _ = x.shape
    by_weight, by_true, by_x = scale.reshape(b, v, 3, bins).unbind(2)
    spread = _bins(x, kind, bins)
    total = torch.zeros_like(x)
    for index, part in spread:
        total += by_x.gather(2, index) if part is None else part * by_x.gather(2, index)
    if kind == "errors":
        return total.mul_((block.pred - block.true).sign())
    if kind == "pred_between":
        low, high = (
            by_weight.gather(2, index)
            + block.true * by_true.gather(2, index)
            + x * by_x.gather(2, index)
            for index, _ in spread
        )
        between = (x - 0.5).abs() * bins < (bins - 1) / 2
        total += between * bins * (high - low)
    return total


def _parsed(name: str) -> tuple[str, int]:
    kind, _, bins = name.partition("/")
    return kind, int(bins)


def _binned(block: Block, kind: str) -> Nodes:
    return (block.pred - block.true).abs() if kind == "errors" else block.pred


def _bins(x: Nodes, kind: str, bins: int) -> list[tuple[Tensor, Tensor | None]]:
    """The bins of each voxel, and which part of it is in each; None for all."""
    if kind != "pred_between":
        return [((x.detach() * bins).long().clamp_(0, bins - 1), None)]
    place = (x * bins - 0.5).clamp(0, bins - 1)
    low = place.detach().long().clamp_(max=max(0, bins - 2))
    part = place - low
    return [(low, 1 - part), ((low + 1).clamp_(max=bins - 1), part)]
