"""Sums that need more than a voxel by itself: its neighbours, its instance.

A `Measure` says which sums and what their slope in the probabilities is; `measured` adds them up
block by block, keeps only the logits, and reads them again for the gradient.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segloss.activation import Sigmoid, Softmax
from segloss.encoding import Encoded
from segloss.engine.block import Block, Place
from segloss.shapes import Nodes

__all__ = ["Measure", "measured"]


class Measure(ABC):
    """Sums over the probabilities of the nodes, for every sample."""

    shape: tuple[int, ...]
    """Of the sums of a sample."""

    @abstractmethod
    def places(self, encoded: Encoded) -> list[Place]:
        """The blocks to work in; they may overlap, if each sum is made in one of them."""

    @abstractmethod
    def sums(self, block: Block, encoded: Encoded, place: Place) -> Tensor:
        """What the block contributes, ``(b, *shape)``."""

    @abstractmethod
    def slope(self, block: Block, encoded: Encoded, place: Place, scale: Tensor) -> Nodes:
        """Derivative by the block's probabilities of the sums, each times its scale."""


def measured(encoded: Encoded, measure: Measure) -> Tensor:
    """The sums, ``(b, *shape)``: float64 (float32 on Apple's GPUs), differentiable once.

    torch.compile cannot see into it.
    """
    sums: Tensor = _Measured.apply(encoded.logits, encoded, measure)  # type: ignore[no-untyped-call]
    return sums


class _Measured(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, encoded: Encoded, measure: Measure) -> Tensor:
        ctx.save_for_backward(logits, encoded.target, encoded.weight, *encoded.maps.values())
        nothing = logits.new_empty(0)
        maps = dict.fromkeys(encoded.maps, nothing)
        ctx.encoded = replace(encoded, logits=nothing, target=nothing, weight=None, maps=maps)
        ctx.measure = measure
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        total = logits.new_zeros(len(logits), *measure.shape, dtype=exact)
        with torch.autocast(logits.device.type, enabled=False):
            for place in measure.places(encoded):
                total[place[0]] += measure.sums(Block(encoded, place), encoded, place)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        logits, target, weight, *values = ctx.saved_tensors
        maps = dict(zip(ctx.encoded.maps, values, strict=True))
        encoded = replace(ctx.encoded, logits=logits, target=target, weight=weight, maps=maps)
        grad = torch.zeros_like(logits)
        further = torch.is_grad_enabled()
        scale = scale.to(encoded.classes.dtype)
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            for samples, voxels in ctx.measure.places(encoded):
                place = (samples, voxels)
                block = Block(encoded, place, checked=True)
                slope = ctx.measure.slope(block, encoded, place, scale[samples])
                by_logits = _by_logits(encoded, place, slope, block.pred)
                grad[samples, :, voxels] += block.by_input(by_logits)
        if further:
            grad = _Last.apply(grad, logits)  # type: ignore[no-untyped-call]
        return grad, None, None


class _Last(torch.autograd.Function):
    """A gradient that depends on the logits in a way that nobody has written down."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, logits: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError(
            "a loss of instances, skeletons or other sums over more than a voxel was asked for its "
            "second derivative, and has only the first: take it out of what is differentiated twice"
        )


def _by_logits(encoded: Encoded, place: Place, slope: Nodes, pred: Nodes) -> Tensor:
    """Derivative by the logits, from that by the probabilities."""
    if isinstance(encoded.activation, Softmax) and encoded.activation.members is None:
        flow = slope * pred
        return flow.addcmul_(pred, flow.sum(1, keepdim=True), value=-1)
    if isinstance(encoded.activation, Sigmoid):
        flow = slope * pred
        return flow.addcmul_(flow, pred, value=-1)
    with torch.enable_grad():
        block = Block(encoded, place, checked=True)
        block.logits = block.logits.detach().requires_grad_()
        (grad,) = torch.autograd.grad(block.pred, block.logits, slope)
    return grad
