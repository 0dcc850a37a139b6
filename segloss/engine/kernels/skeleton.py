"""Soft skeletons in a few kernels for each erosion, instead of many of PyTorch's operations.

A kernel reads the neighbours of its voxels, which the caches hold, and writes what is made of them:
from the memory itself every volume is read once. A minimum or a maximum is that of the first
neighbour, in a fixed order, that has it, and the number of that neighbour is written down for the
way back: there, every voxel asks its neighbours whether theirs came from it. So nothing is added up
by atomics, and always in one order.

Voxels that do not exist hold `NOTHING`: to a minimum it is too large, and a maximum takes it for 0.
"""
# ruff: noqa: ANN001, ANN202

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segloss.engine.backend import backend
from segloss.engine.kernels.compile import compiled

__all__ = ["agrees", "skeleton", "slope"]

NOTHING: tl.constexpr = tl.constexpr(2.0)
"""Instead of a value of the map, which is at most 1, where there is no voxel."""

_VOXELS = 256  # of a program


def skeleton(x: Tensor, there: Tensor | None, iterations: int) -> Tensor:
    """The soft skeleton of a map; see `segloss.engine.soft_skeleton.soft_skeleton`.

    Args:
        x: From 0 to 1, of two or three axes.
        there: Booleans: the voxels that exist.
        iterations: How often to erode before the last piece.
    """
    x = _held(x, there)
    rest = torch.ones_like(x)
    for _ in range(iterations + 1):
        eroded = torch.empty_like(x)
        _launch(_erode, x, eroded)
        _launch(_take_piece, x, eroded, rest, rest)
        x = eroded
    return _existing(rest.neg_().add_(1), there)


def slope(x: Tensor, there: Tensor | None, iterations: int, scale: Tensor) -> Tensor:
    """Derivative by a map of the sum of its soft skeleton times a scale.

    Args:
        x: See `skeleton`.
        there: See `skeleton`.
        iterations: See `skeleton`.
        scale: One number for each voxel, 0 for those that do not exist.
    """
    maps, rests = [_held(x, there)], [torch.ones_like(x)]
    for i in range(iterations + 1):
        maps.append(torch.empty_like(x))
        _launch(_erode, maps[i], maps[i + 1])
        if i < iterations:
            rests.append(torch.empty_like(x))
            _launch(_take_piece, maps[i], maps[i + 1], rests[i], rests[i + 1])
    scale, flow = scale.clone(memory_format=torch.contiguous_format), torch.zeros_like(maps[0])
    pull, spare = torch.empty_like(flow), torch.empty_like(flow)
    most, least = torch.empty_like(flow, dtype=torch.int8), torch.empty_like(flow, dtype=torch.int8)
    while rests:
        eroded, x = maps.pop(), maps[-1]
        _launch(_pull, x, eroded, rests.pop(), scale, pull, most)
        _launch(_undo_dilation, x, pull, most, flow, least)
        _launch(_undo_erosion, flow, least, pull, spare)
        flow, spare = spare, flow
    return flow


def agrees(device: torch.device) -> bool:
    """Whether the kernels and PyTorch's operations give the same slope of a small map."""
    from segloss.engine.soft_skeleton import soft_skeleton_slope

    x = torch.arange(693, device=device).mul(0.7).sin().square().view(1, 7, 9, 11)
    there = x < 0.95
    scale = x * there
    found = slope(x[0], there[0], 1, scale[0])
    with backend("torch"):
        expected = soft_skeleton_slope(x, 1, scale, there)[0]
    return found.allclose(expected, rtol=1e-4, atol=1e-6)


def _held(x: Tensor, there: Tensor | None) -> Tensor:
    return (x if there is None else x.masked_fill(~there, NOTHING.value)).contiguous()


def _existing(x: Tensor, there: Tensor | None) -> Tensor:
    return x if there is None else x.masked_fill_(~there, 0)


def _launch(kernel: Any, x: Tensor, *others: Tensor) -> None:
    h = x.shape[1] if x.ndim == 3 else 1
    with torch.cuda.device_of(x):
        kernel[triton.cdiv(x.numel(), _VOXELS),](
            x, *others, (len(x), h, x.shape[-1]), VOXELS=_VOXELS, enable_fp_fusion=True
        )


@compiled
def _erode(x, out, shape, VOXELS: tl.constexpr):
    """The least of each voxel and its neighbours."""
    voxel, at = _own(shape, VOXELS)
    tl.store(out + voxel, _least(x, voxel, at, shape)[0], mask=at[0] < shape[0])


@compiled
def _take_piece(x, eroded, rest, out, shape, VOXELS: tl.constexpr):
    """Multiply the rest by what the piece leaves that dilating does not bring back."""
    voxel, at = _own(shape, VOXELS)
    inside = at[0] < shape[0]
    piece, _ = _piece(x, eroded, voxel, at, shape)
    tl.store(out + voxel, tl.load(rest + voxel, inside, 0) * (1 - piece), mask=inside)


@compiled
def _pull(x, eroded, rest, scale, pull, most, shape, VOXELS: tl.constexpr):
    """Flow into the map by the piece; the scale of the pieces before; where maxima come from."""
    voxel, at = _own(shape, VOXELS)
    inside = at[0] < shape[0]
    piece, number = _piece(x, eroded, voxel, at, shape)
    by_skeleton = tl.load(scale + voxel, inside, 0)
    by_piece = tl.load(rest + voxel, inside, 0) * by_skeleton
    tl.store(pull + voxel, tl.where(piece > 0, by_piece, 0), mask=inside)
    tl.store(scale + voxel, by_skeleton * (1 - piece), mask=inside)
    tl.store(most + voxel, number.to(tl.int8), mask=inside)


@compiled
def _undo_dilation(x, pull, most, flow, least, shape, VOXELS: tl.constexpr):
    """Flow into the eroded map out of what was dilated; where its minima come from."""
    voxel, at = _own(shape, VOXELS)
    inside = at[0] < shape[0]
    total = tl.load(flow + voxel, inside, 0)
    for j in tl.static_range(27):
        dz, dy, dx = _of_all(j)
        number = _neighbour(most, voxel, at, shape, -dz, -dy, -dx, -1)
        total -= tl.where(number == j, _neighbour(pull, voxel, at, shape, -dz, -dy, -dx, 0), 0)
    _, number = _least(x, voxel, at, shape)
    tl.store(flow + voxel, total, mask=inside)
    tl.store(least + voxel, number.to(tl.int8), mask=inside)


@compiled
def _undo_erosion(flow, least, pull, out, shape, VOXELS: tl.constexpr):
    """Flow into the map out of what was eroded, and by the piece."""
    voxel, at = _own(shape, VOXELS)
    inside = at[0] < shape[0]
    total = tl.load(pull + voxel, inside, 0)
    for j in tl.static_range(7):
        dz, dy, dx = _of_cross(j)
        number = _neighbour(least, voxel, at, shape, -dz, -dy, -dx, -1)
        total += tl.where(number == j, _neighbour(flow, voxel, at, shape, -dz, -dy, -dx, 0), 0)
    tl.store(out + voxel, total, mask=inside)


@compiled
def _own(shape, VOXELS: tl.constexpr):
    """The voxels of a program, and their plane, row and column."""
    voxel = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    return voxel, (voxel // (shape[1] * shape[2]), voxel // shape[2] % shape[1], voxel % shape[2])


@compiled
def _neighbour(values, voxel, at, shape, dz, dy, dx, nothing):
    inside = (at[0] + dz >= 0) & (at[0] + dz < shape[0]) & (at[1] + dy >= 0)
    inside &= (at[1] + dy < shape[1]) & (at[2] + dx >= 0) & (at[2] + dx < shape[2])
    return tl.load(values + voxel + (dz * shape[1] + dy) * shape[2] + dx, inside, nothing)


@compiled
def _of_cross(j):
    """The voxel itself, then its neighbours along the first axis, the second, the third."""
    axis, sign = (j - 1) // 2, (j - 1) % 2 * 2 - 1
    return sign * (axis == 0), sign * (axis == 1), sign * (axis == 2)


@compiled
def _of_all(j):
    """Along each axis itself, before, after; the first axis changes first."""
    return 1 - (j % 3 + 1) % 3, 1 - (j // 3 % 3 + 1) % 3, 1 - (j // 9 + 1) % 3


@compiled
def _least(x, voxel, at, shape):
    """The minimum, and the number of the neighbour that has it; nothing where nothing is."""
    own = _neighbour(x, voxel, at, shape, 0, 0, 0, NOTHING)
    least, number = own, tl.zeros_like(voxel)
    for j in tl.static_range(1, 7):
        dz, dy, dx = _of_cross(j)
        other = _neighbour(x, voxel, at, shape, dz, dy, dx, NOTHING)
        less = other < least  # never of NaN
        least, number = tl.where(less, other, least), tl.where(less, j, number)
    return tl.where(own == NOTHING, own, least), number


@compiled
def _piece(x, eroded, voxel, at, shape):
    """What opening takes away; and the number of the neighbour that has the maximum."""
    most = tl.zeros(voxel.shape, x.dtype.element_ty)
    number = tl.zeros_like(voxel)
    for j in tl.static_range(27):
        dz, dy, dx = _of_all(j)
        other = _neighbour(eroded, voxel, at, shape, dz, dy, dx, NOTHING)
        more = (other > most) & (other != NOTHING)
        most, number = tl.where(more, other, most), tl.where(more, j, number)
    lost = _neighbour(x, voxel, at, shape, 0, 0, 0, NOTHING) - most
    return tl.where(lost < 0, 0, lost), number
