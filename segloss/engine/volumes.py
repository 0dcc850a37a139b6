"""Whole samples with their image axes, for what must look beyond the single voxel."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from segloss.encoding import Encoded
from segloss.engine.block import Block, places

__all__ = ["Volume", "border", "volumes"]


class Volume:
    """The scored nodes of some samples, without gradient; each property is ``(b, k, *space)``.

    Args:
        block: The samples, whole.
        space: Their image axes.
        scored: How many nodes are scored, k; they are the last.
    """

    def __init__(self, block: Block, space: tuple[int, ...], scored: int) -> None:
        self.block, self.space, self.scored = block, space, scored

    @property
    def pred(self) -> Tensor:
        """Probabilities."""
        return self._cut(self.block.pred)

    @property
    def true(self) -> Tensor:
        """Memberships."""
        return self._cut(self.block.true)

    @property
    def weight(self) -> Tensor | None:
        """How much each voxel counts, ``(b, 1 or k, *space)``; None if equally."""
        return None if self.block.weight is None else self._cut(self.block.weight)

    @property
    def there(self) -> Tensor | None:
        """Booleans, ``(b, 1 or k, *space)``: the voxels that count; None for all."""
        return None if self.weight is None else self.weight != 0

    def map(self, name: str) -> Tensor:
        """The target map of that name; 0 for a node that it lacks."""
        x = self.block.maps[name]
        return self._cut(pad(x, (0, 0, max(0, self.scored - x.shape[1]), 0)))

    def _cut(self, x: Tensor) -> Tensor:
        x = x[:, -self.scored :]
        return x.reshape(*x.shape[:2], *self.space)


def volumes(
    encoded: Encoded, space: tuple[int, ...], first: int, maps: frozenset[str] = frozenset()
) -> Iterator[Volume]:
    """The samples of a batch, one by one if they are large.

    Args:
        encoded: The batch.
        space: Its image axes.
        first: The first scored node.
        maps: The target maps that are asked for.
    """
    wanted = {name: x for name, x in encoded.maps.items() if name in maps}
    encoded = replace(encoded, logits=encoded.logits.detach(), maps=wanted)
    for start, stop in dict.fromkeys((x.start, x.stop) for x, _ in places(encoded)):
        block = Block(encoded, (slice(start, stop), slice(None)))
        yield Volume(block, space, encoded.nodes - first)


def border(x: Tensor, there: Tensor | None, axes: int) -> Tensor:
    """How much each voxel exceeds the least of its neighbours along the last axes.

    Of a mask, the voxels at its boundary. What is not there, or beyond the image, is no neighbour.

    Args:
        x: From 0 to 1.
        there: Booleans: the voxels that exist; None for all.
        axes: How many axes the image has.

    Example:
        >>> border(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), None, 2)
        tensor([[0., 0., 1., 0.]])
    """
    x = x if there is None else x.masked_fill(~there, 1)
    least = x.clone()
    for axis in range(-axes, 0):
        steps = x.shape[axis] - 1
        for to, of in ((0, 1), (1, 0)):
            part, beside = least.narrow(axis, to, steps), x.narrow(axis, of, steps)
            if torch.compiler.is_compiling():  # which writes into no part of a tensor
                part.copy_(torch.minimum(part, beside))
            else:
                torch.minimum(part, beside, out=part)
    return x - least
