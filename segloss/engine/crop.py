"""A part of each image of a batch, for what is too slow for all of it."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from segloss.encoding import Encoded

__all__ = ["Box", "cropped", "draw_box"]

Box = tuple[slice, ...]
"""A range of voxels along each axis."""


def draw_box(
    size: tuple[int, ...], space: tuple[int, ...], draw: Random, around: Tensor | None
) -> Box:
    """A box of that size in an image, at random.

    Args:
        size: Its edges, no longer than those of the image.
        space: The image axes.
        draw: Where chance comes from.
        around: Booleans, one for each voxel, on the CPU or not: the box is around one of those that
            are true, moved into the image. Anywhere, if none is or none are given.
    """
    room = [n - edge for n, edge in zip(space, size, strict=True)]
    corner = [draw.randint(0, last) for last in room]
    voxels = () if around is None else around.view(space).nonzero()
    if len(voxels):
        middle = voxels[draw.randrange(len(voxels))].tolist()
        wanted = [at - edge // 2 for at, edge in zip(middle, size, strict=True)]
        corner = [max(0, min(at, last)) for at, last in zip(wanted, room, strict=True)]
    return tuple(slice(at, at + edge) for at, edge in zip(corner, size, strict=True))


def cropped(encoded: Encoded, space: tuple[int, ...], boxes: Sequence[Box]) -> Encoded:
    """The batch without its maps, and with nothing left of each sample but its box."""

    def cut(x: Tensor) -> Tensor:
        pairs = zip(x, boxes, strict=True)
        return torch.stack(
            [row.unflatten(-1, space)[(..., *box)].flatten(-len(space)) for row, box in pairs]
        )

    weight = None if encoded.weight is None else cut(encoded.weight)
    return replace(
        encoded, logits=cut(encoded.logits), target=cut(encoded.target), weight=weight, maps={}
    )
