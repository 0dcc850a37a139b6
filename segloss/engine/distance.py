"""Exact Euclidean distances of voxels to a mask, on the mask's own device.

The squared distance is a sum over the axes, so it can be minimised along one axis after the other.
Along the first of them, where all that there is is the mask, the nearest voxel to the left and to
the right is found by a scan. Along the others each voxel asks all those of its line,

    d²(x) = min over k of  d²(x + k) + s² k²,

for all lines of a block at once and for one k after the other: no index, nothing that depends on
the data, so that a GPU has nothing to wait for. On the CPU it stops at the k beyond which nothing
is nearer.
"""

from collections.abc import Iterator, Sequence
from math import inf, prod
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "Convention",
    "checked_spacing",
    "squared_boundary_distance",
    "squared_distance",
    "voxel_size",
]

Convention = Literal["face", "centre"]
"""Where a voxel begins: at its nearest face, half a voxel before its centre, or at its centre."""

# Numbers in a block: what the CPU keeps at hand.
_CPU = 1 << 17


def squared_distance(
    mask: Tensor, spacing: tuple[float, ...], convention: Convention = "centre"
) -> Tensor:
    """The squared distance from the centre of every voxel to the nearest voxel of a mask.

    Args:
        mask: Booleans, ``(*, *space)``: any number of volumes.
        spacing: Size of a voxel along each image axis, in the order of the array; says how many
            axes there are.
        convention: What of a voxel is to be reached: its nearest point (``"face"``), or its
            centre. In it the distance is 0 either way.

    Returns:
        float32, ``(*, *space)``; infinite if the mask is empty.

    Example:
        >>> mask = torch.tensor([[False, False, True, False]])
        >>> squared_distance(mask, (1.0, 2.0))
        tensor([[16.,  4.,  0.,  4.]])
        >>> squared_distance(mask, (1.0, 2.0), "face")
        tensor([[9., 1., 0., 1.]])
    """
    first_step = 0.5 if convention == "face" else 0.0
    mask = mask.contiguous()
    at = torch.arange(mask.shape[-1], device=mask.device, dtype=torch.float32)
    left = at.where(mask, -inf).cummax(-1).values
    right = at.where(mask, inf).flip(-1).cummin(-1).values.flip(-1)
    near = torch.minimum(at - left, right - at)
    squares = near.sub_(first_step).clamp_(min=0).mul_(spacing[-1]).square_()
    for axis in range(-2, -1 - len(spacing), -1):
        lines = squares.view(-1, mask.shape[axis], prod(mask.shape[axis + 1 :]))
        for block in _blocks(lines):
            _sweep(block, spacing[axis], first_step)
    return squares


def squared_boundary_distance(
    mask: Tensor,
    spacing: tuple[float, ...],
    convention: Convention = "face",
    there: Tensor | None = None,
) -> Tensor:
    """The squared distance from the centre of every voxel to the nearest one on the other side.

    With ``"face"`` that is the boundary of the mask, as in `segloss.transforms.SignedDistance`:
    half a voxel for those that touch it.

    Args:
        mask: See `squared_distance`.
        spacing: See `squared_distance`.
        convention: See `squared_distance`.
        there: Booleans that broadcast with the mask: the voxels that are on one side or the other;
            None for all. What the others get means nothing.

    Returns:
        float32, ``(*, *space)``; 0 throughout a volume that has no boundary.

    Example:
        >>> squared_boundary_distance(torch.tensor([[False, False, True, True]]), (1.0, 1.0))
        tensor([[2.2500, 0.2500, 0.2500, 2.2500]])
    """
    inside, outside = mask, ~mask
    if there is not None:
        inside, outside = inside & there, outside & there
    squares = squared_distance(inside, spacing, convention)
    squares += squared_distance(outside, spacing, convention)  # one of the two is 0
    return squares.masked_fill_(squares == inf, 0)


def voxel_size(spacing: float | Sequence[float], axes: int) -> tuple[float, ...]:
    """The size of a voxel along each of so many axes."""
    sizes = tuple(spacing) if isinstance(spacing, Sequence) else (spacing,) * axes
    if len(sizes) != axes:
        raise ValueError(
            f"spacing has {len(sizes)} numbers, {sizes}, but the input has {axes} image axes: "
            "expected one for each, in the order of the array, or one for all"
        )
    return sizes


def checked_spacing(spacing: float | Sequence[float]) -> float | tuple[float, ...]:
    """The spacing in plain numbers, or an error if one of them is not above 0."""
    sizes = tuple(spacing) if isinstance(spacing, Sequence) else (spacing,)
    for size in sizes:
        if not 0 < size < inf:
            raise ValueError(f"spacing must hold finite numbers above 0, got {spacing!r}")
    numbers = tuple(map(float, sizes))
    return numbers if isinstance(spacing, Sequence) else numbers[0]


def _blocks(lines: Tensor) -> Iterator[Tensor]:
    """Parts of ``(i, n, j)`` with whole lines along the middle axis."""
    if lines.device.type != "cpu":
        yield lines
        return
    _, length, width = lines.shape
    count = max(1, _CPU // length)
    for part in lines.split(max(1, count // width)):
        yield from part.split(min(count, width), 2)


def _sweep(squares: Tensor, step: float, first_step: float) -> None:
    """Let the voxels of a line, along the middle axis, know of each other."""
    before, after = squares.clone(), squares.clone()
    for k in range(1, squares.shape[1]):
        way = (step * (k - first_step)) ** 2
        if squares.device.type == "cpu" and k % 4 == 1 and bool(after.max() <= way):
            break
        from_there = before + way
        torch.minimum(after[:, k:], from_there[:, :-k], out=after[:, k:])
        torch.minimum(after[:, :-k], from_there[:, k:], out=after[:, :-k])
    squares.copy_(after)
