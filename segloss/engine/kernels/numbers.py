"""Sums over the voxels of each number: of each instance, of each bin of a histogram.

Adding with atomics would make threads wait for each other wherever most voxels have the same number,
and no two runs would round alike. Here every program compares its voxels with all numbers and adds up
in places of its own: more arithmetic, the same order always.
"""
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor

from segloss.engine.kernels.compile import compiled

__all__ = ["MOST", "agrees", "sums_by_number"]

MOST = 2048
"""How many numbers it takes, beyond which comparing with all of them costs too much."""

_NUMBERS, _VOXELS = 256, 16  # of a tile: a few numbers for each thread, compared with all voxels
_EACH = 4096  # voxels of a program, few enough for single precision


@compiled
def _sum_by_number(
    numbers, values, out, n, nodes, count, tiles,
    M: tl.constexpr, NUMBERS: tl.constexpr, VOXELS: tl.constexpr,
):  # fmt: skip
    """Add up ``tiles`` tiles of the ``(b, m, k, n)`` values: ``out`` is ``(b k, programs, m, count)``."""
    program, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    own = tl.program_id(2) * NUMBERS + tl.arange(0, NUMBERS)[None, :]
    sample, node = row // nodes, row % nodes
    sums = ()
    for _ in tl.static_range(M):
        sums += (tl.zeros((NUMBERS,), tl.float32),)
    for tile in range(tiles):
        voxel = (program * tiles + tile) * VOXELS + tl.arange(0, VOXELS)[:, None]
        here = tl.load(numbers + row * n + voxel, voxel < n, -1).to(tl.int32) == own
        more = ()
        for j in tl.static_range(M):
            first = ((sample * M + j) * nodes + node) * n
            x = tl.load(values + first + voxel, voxel < n, 0)
            more += (sums[j] + tl.sum(tl.where(here, x, 0), 0),)
        sums = more
    own = tl.program_id(2) * NUMBERS + tl.arange(0, NUMBERS)
    place = out + (row * tl.num_programs(0) + program) * M * count + own
    for j in tl.static_range(M):
        tl.store(place + j * count, sums[j], mask=own < count)


def sums_by_number(numbers: Tensor, values: Tensor, count: int) -> Tensor:
    """Add up the values of each number: ``(b, m, k, count)``, float64.

    Args:
        numbers: Integers from 0, below `count`, ``(b, k, n)``.
        values: float32, ``(b, m, k, n)``.
        count: How many numbers there are, at most `MOST`.
    """
    b, m, k, n = values.shape
    tiles = triton.cdiv(min(n, _EACH), _VOXELS)
    programs, parts = triton.cdiv(n, tiles * _VOXELS), triton.cdiv(count, _NUMBERS)
    out = values.new_empty(b * k, programs, m, count)
    with torch.cuda.device_of(values):
        _sum_by_number[programs, b * k, parts](
            numbers.contiguous(), values.contiguous(), out, n, k, count, tiles,
            M=m, NUMBERS=min(_NUMBERS, triton.next_power_of_2(count)), VOXELS=_VOXELS,
            enable_fp_fusion=True,
        )  # fmt: skip
    return out.sum(1, dtype=torch.float64).view(b, k, m, count).transpose(1, 2)


def agrees(device: torch.device) -> bool:
    """Whether the kernel and PyTorch's operations give the same sums of a few values."""
    numbers = (torch.arange(2002, device=device) % 300).view(1, 2, 1001)
    values = torch.linspace(0, 1, 6006, device=device).view(1, 3, 2, 1001)
    expected = values.new_zeros(1, 3, 2, 300, dtype=torch.float64)
    expected.scatter_add_(3, numbers[:, None].expand_as(values), values.double())
    return sums_by_number(numbers, values, 300).allclose(expected, rtol=1e-4)
