"""The kernels as PyTorch operators: autograd and torch.compile know them, and see nothing inside."""

from typing import Any

import torch
import triton
from torch import Tensor

from segloss.engine.kernels.batch import Batch, strides
from segloss.engine.kernels.dense import dense_rows
from segloss.engine.kernels.tile import sum_rows, write_gradient

__all__ = ["agrees", "row_sums"]

_PROGRAMS = 2048  # that sum up: enough to fill any GPU, few enough that adding theirs is nothing
_SCHEMA = (
    "Tensor logits, Tensor target, Tensor? weight, Tensor[] affine, Tensor[] maps, str rows, "
    "bool softmax, int? ignore"
)


@torch.library.custom_op("segloss::row_sums", mutates_args=(), schema=f"({_SCHEMA}) -> Tensor")
def row_sums(*arguments: Any) -> Tensor:
    """The sums of the rows of a `Batch`, given item by item: ``(b, rows, c)`` in float64."""
    batch = Batch(*arguments)
    b, c, n = batch.logits.shape
    constants = batch.constants
    rows = len(constants["KINDS"])
    tiles = triton.cdiv(n, constants["LANES"] * constants["VOXELS"])
    tiles_each = triton.cdiv(tiles, max(1, _PROGRAMS // b))
    programs = triton.cdiv(tiles, tiles_each)
    sums = batch.logits.new_empty(b, programs, rows, c, dtype=batch.dtype)
    with torch.cuda.device_of(batch.logits):
        sum_rows[programs, b](*batch.tensors, sums, batch.strides, n, tiles_each, **constants)
    return sums.sum(1, dtype=torch.float64)


@torch.library.custom_op(
    "segloss::row_gradient", mutates_args=(), schema=f"(Tensor scale, {_SCHEMA}) -> Tensor"
)
def _row_gradient(scale: Tensor, *arguments: Any) -> Tensor:
    """Derivative by the logits of the rows, each times its scale, ``(b, rows, c)``."""
    batch = Batch(*arguments)
    b, _, n = batch.logits.shape
    constants, gradient = batch.constants, torch.empty_like(batch.logits)
    with torch.cuda.device_of(batch.logits):
        write_gradient[triton.cdiv(n, constants["LANES"] * constants["VOXELS"]), b](
            *batch.tensors, scale.to(batch.dtype).contiguous(), gradient, strides(gradient),
            batch.strides, n, **constants,
        )  # fmt: skip
    return gradient


@row_sums.register_fake
def _(*arguments: Any) -> Tensor:
    batch = Batch(*arguments)
    b, c, _ = batch.logits.shape
    return batch.logits.new_empty(b, batch.rows.count("; ") + 1, c, dtype=torch.float64)


@_row_gradient.register_fake
def _(scale: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(Batch(*arguments).logits)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    batch = Batch(*inputs)
    # Saved as autograd saves, so that changing one in place before backward is an error.
    ctx.save_for_backward(*batch[:3], *batch.affine, *batch.maps)
    ctx.affine, ctx.maps, ctx.rest = len(batch.affine), len(batch.maps), batch[5:]


def _backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
    logits, target, weight, *others = ctx.saved_tensors
    batch = Batch(logits, target, weight, others[: ctx.affine], others[ctx.affine :], *ctx.rest)
    if torch.is_grad_enabled():  # someone wants second derivatives
        sums = dense_rows(batch)
        (gradient,) = torch.autograd.grad(
            sums, batch.logits, slope.to(sums.dtype), create_graph=True
        )
    else:
        gradient = _row_gradient(slope, *batch)
    return gradient, None, None, [None] * ctx.affine, [None] * ctx.maps, None, None, None


row_sums.register_autograd(_backward, setup_context=_setup)


def agrees(device: torch.device) -> bool:
    """Whether kernels and PyTorch's operations give the same sums and gradient of a small batch."""
    with torch.inference_mode(False), torch.enable_grad():
        logits = torch.linspace(-3, 3, 6006, device=device).view(2, 3, 1001).requires_grad_()
        labels = (torch.arange(2002, device=device) % 3).view(2, 1001)
        batch = Batch(logits, labels, None, [], [], "overlap; yes cross entropy", True, None)
        found, expected = row_sums(*batch), dense_rows(batch)
        gradients = [torch.autograd.grad(x.sum(), logits)[0] for x in (found, expected)]
    same = found.allclose(expected.to(found.dtype), rtol=1e-4)
    return same and gradients[0].allclose(gradients[1], rtol=1e-4, atol=1e-6)
