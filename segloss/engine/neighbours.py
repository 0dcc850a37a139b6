"""How far the logits of a voxel are from the labels around it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segloss.activation import Softmax
from segloss.encoding import Encoded
from segloss.engine.block import Block

__all__ = ["neighbour_distances"]


def neighbour_distances(encoded: Encoded, space: tuple[int, ...], first: int) -> Tensor:
    """Σ w |f - τ|, with τ the mean of y over a voxel and its neighbours, ``(b, v)``.

    These are the 3 × 3 (× 3) voxels around it, as far as they lie in the image and have a weight.
    With sigmoids it is Σ w |f/2 - (τ - ½)|. Nothing but the logits is kept for the gradient. A
    sample and a node at a time, so that memory beyond the gradient is a few volumes.

    Args:
        encoded: The batch.
        space: Its image axes.
        first: The first scored node; the sums of those before it are 0.
    """
    sums: Tensor = _Distances.apply(encoded.logits, encoded, space, first)  # type: ignore[no-untyped-call]
    return sums


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, encoded: Encoded, space: tuple[int, ...], first: int
    ) -> Tensor:
        ctx.save_for_backward(logits, encoded.target, encoded.weight)
        nothing = logits.new_empty(0)
        ctx.encoded = replace(encoded, logits=nothing, target=nothing, weight=None, maps={})
        ctx.space, ctx.first = space, first
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        sums = logits.new_zeros(len(logits), encoded.nodes, dtype=exact)
        for sample, node, distance, weight in _distances(encoded, space, first):
            distance = distance.abs() if weight is None else distance.abs() * weight
            sums[sample, node] = distance.sum(dtype=exact)
        return sums

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        logits, target, weight = ctx.saved_tensors
        encoded = replace(ctx.encoded, logits=logits, target=target, weight=weight)
        scale = scale.to(encoded.classes.dtype)
        if not isinstance(encoded.activation, Softmax):
            scale = scale / 2
        grad = torch.zeros_like(logits)
        parts = _distances(encoded, ctx.space, ctx.first, checked=True)
        for sample, node, distance, weight in parts:
            pull = distance.sign() if weight is None else distance.sign() * weight
            grad[sample, node] = pull * scale[sample, node]
        return grad, None, None, None


def _distances(
    encoded: Encoded, space: tuple[int, ...], first: int, *, checked: bool = False
) -> Iterator[tuple[int, int, Tensor, Tensor | None]]:
    """For each sample and node f - τ, or (f + 1) / 2 - τ, and the weight, each ``(n,)``."""
    for sample in range(len(encoded.logits)):
        block = Block(encoded, (slice(sample, sample + 1), slice(None)), checked=checked)
        weight = None if block.voxel_weight is None else block.voxel_weight[0]
        there = block.logits.new_ones(1, block.logits.shape[2])
        if weight is not None:
            there = (weight != 0).to(weight)
        # One row for all nodes, unless each has its own weights.
        share = [1 / _around(row, space).clamp(min=1) for row in there]
        for node in range(first, encoded.nodes):
            row = node if len(share) > 1 else 0
            # Of labels, the sums are small whole numbers: bytes are a quarter of the work.
            true = block.true[0, node] if block.labels is None else (block.labels[0] == node).byte()
            if weight is not None:
                true = true * there[row].to(true)
            logits = block.logits[0, node]
            if not isinstance(encoded.activation, Softmax):
                logits = (logits + 1) / 2
            distance = logits - _around(true, space) * share[row]
            yield sample, node, distance, None if weight is None else weight[row]


def _around(x: Tensor, space: tuple[int, ...]) -> Tensor:
    """The sum of each voxel and its neighbours, in the type of the voxels."""
    x = x.view(space)
    for axis, size in enumerate(space):
        summed = x.clone()
        summed.narrow(axis, 0, size - 1).add_(x.narrow(axis, 1, size - 1))
        summed.narrow(axis, 1, size - 1).add_(x.narrow(axis, 0, size - 1))
        x = summed
    return x.flatten()
