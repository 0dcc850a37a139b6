"""Sums over the voxels of each number: of each instance, of each bin of a histogram."""

import torch
from torch import Tensor

from segloss.engine import backend
from segloss.shapes import Nodes

__all__ = ["sums_by_number"]


def sums_by_number(numbers: Tensor, values: tuple[Nodes, Nodes, Nodes], count: int) -> Tensor:
    """Add up each of three values over the voxels of each number: ``(b, 3, k, count)``.

    In float64 (float32 on Apple's GPUs): a number may have almost all voxels, which single precision
    would stop counting. By loops on the CPU and by Triton on a GPU, always in one order; by PyTorch,
    which on a GPU adds up in any order, what Triton does not take, and under autograd.

    Args:
        numbers: Integers from 0, below `count`, ``(b, k, n)``.
        values: Each ``(b, k, n)``.
        count: How many numbers there are.

    Example:
        >>> numbers, ones = torch.tensor([[[0, 2, 2]]]), torch.ones(1, 1, 3)
        >>> sums_by_number(numbers, (ones, 2 * ones, ones), 3)[0, :, 0]
        tensor([[1., 0., 2.],
                [2., 0., 4.],
                [1., 0., 2.]], dtype=torch.float64)
    """
    first = values[0]
    traced = torch.compiler.is_compiling() or any(x.requires_grad for x in values)
    single = first.dtype == torch.float32
    if not traced and single and backend.triton_runs(first.device, "numbers"):
        from segloss.engine.kernels import numbers as kernels

        if count <= kernels.MOST:
            return kernels.sums_by_number(numbers, torch.stack(values, 1), count)
    if not traced and first.device.type == "cpu":
        return _by_loops(numbers, values, count)
    exact = torch.float32 if first.device.type == "mps" else torch.float64
    stacked = torch.stack(values, 1).to(exact)
    total = stacked.new_zeros(*stacked.shape[:3], count)
    return total.scatter_add(3, numbers[:, None].expand_as(stacked), stacked)


def _by_loops(numbers: Tensor, values: tuple[Nodes, ...], count: int) -> Tensor:
    from segloss.engine.loops.instances import add_up_by_number  # here, as it loads numba

    b, k, _ = numbers.shape
    total = torch.zeros(b, len(values), k, count, dtype=torch.float64)
    for i, out in enumerate(total):
        rows = [x[i].detach().contiguous().numpy() for x in (numbers, *values)]
        add_up_by_number(*rows, out.numpy())
    return total
