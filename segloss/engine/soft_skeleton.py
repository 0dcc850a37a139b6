r"""The soft skeleton of a probability map, and its gradient with few volumes in memory.

A map is eroded again and again; what eroding takes away for good, so that dilating does not bring
it back, is a piece of the skeleton, and the soft skeleton is the union of the pieces,

.. math:: S = 1 - \prod_{i=0}^{k} (1 - \delta_i), \quad
    \delta_i = \max(0, E_i - \text{dilate}(E_{i+1})), \quad E_{i+1} = \text{erode}(E_i), \quad
    E_0 = p

with the cross for erosions and the full neighbourhood for dilations. This is the recursion of
Shit et al., "clDice", CVPR 2021, written as a product.

What is not there (beyond the border, or of no weight) takes part in no minimum and no maximum.
Minima and maxima are taken by shifting, so that their gradient needs no indices and does not depend
on the order in which a GPU adds up: it goes to the voxel itself if that is one of the extremes,
else to the first neighbour that is.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from segloss.encoding import Encoded
from segloss.engine.block import Block, Place
from segloss.engine.probability import Measure
from segloss.shapes import Nodes

__all__ = ["SoftSkeletonSums", "outlasts", "soft_skeleton", "soft_skeleton_slope"]

_Box = tuple[slice, ...]

# Rows of a slab, in margins: more cost memory, fewer time, because margins are computed twice.
_MARGINS = 3

# Voxels of a slab on a GPU, which small operations leave idle.
_GPU = 1 << 22


class SoftSkeletonSums(Measure):
    """Σ w S(p) and Σ w S(p) y of the nodes from the first scored one on: shape ``(2, v)``.

    Args:
        iterations: k, how often to erode before the last piece.
        space: The image axes.
        first: The first scored node.
        nodes: How many nodes there are, v.
    """

    def __init__(self, iterations: int, space: tuple[int, ...], first: int, nodes: int) -> None:
        self.iterations, self.space, self.first = iterations, space, first
        self.margin = iterations + 2  # one erosion more than iterations, and a dilation
        self.shape = (2, nodes)

    def places(self, encoded: Encoded) -> list[Place]:
        """Slabs of a sample, each with as many more rows on both sides as its skeleton looks at."""
        rows, plane = self.space[0], math.prod(self.space[1:])
        on_cpu = encoded.logits.device.type == "cpu"
        least = max(_MARGINS * self.margin, 0 if on_cpu else _GPU // plane)
        count = max(1, rows // least)
        bounds = [rows * i // count for i in range(count + 1)]
        return [
            (
                slice(i, i + 1),
                slice(max(0, a - self.margin) * plane, min(rows, b + self.margin) * plane),
            )
            for i in range(len(encoded.logits))
            for a, b in itertools.pairwise(bounds)
        ]

    def sums(self, block: Block, encoded: Encoded, place: Place) -> Tensor:
        """What one slab, without its margins, adds to both sums."""
        total = block.logits.new_zeros(1, *self.shape)
        for node, pred, there in self._volumes(block):
            skeleton = self._own(soft_skeleton(pred, self.iterations, there), place).flatten()
            if block.weight is not None:
                skeleton *= _row(block.weight, node)
            total[0, 0, node] = skeleton.sum()
            total[0, 1, node] = skeleton.dot(block.true[0, node])
        return total

    def slope(self, block: Block, encoded: Encoded, place: Place, scale: Tensor) -> Nodes:
        """A node at a time: what a skeleton needs is kept for one of them only."""
        slopes = []
        for node, pred, there in self._volumes(block):
            by_skeleton = scale[0, 0, node] + scale[0, 1, node] * block.true[0, node]
            if block.weight is not None:
                by_skeleton *= _row(block.weight, node)
            by_skeleton = self._own(by_skeleton.view_as(pred), place)
            by_pred = soft_skeleton_slope(pred, self.iterations, by_skeleton, there)
            slopes.append(by_pred.flatten())
        return pad(torch.stack(slopes)[None], (0, 0, self.first, 0))

    def _volumes(self, block: Block) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        for node in range(self.first, self.shape[1]):
            there = None if block.weight is None else (_row(block.weight, node) != 0)
            there = None if there is None else there.view(-1, *self.space[1:])
            yield node, block.pred[0, node].view(-1, *self.space[1:]), there

    def _own(self, x: Tensor, place: Place) -> Tensor:
        """Set the margins of a slab to 0; the ends of the volume have none."""
        start, stop = place[1].start, place[1].stop
        if start > 0:
            x[: self.margin] = 0
        if stop < math.prod(self.space):
            x[-self.margin :] = 0
        return x


def soft_skeleton(x: Tensor, iterations: int, there: Tensor | None = None) -> Tensor:
    """The soft skeleton of a map of two or three axes, from 0 to 1.

    Args:
        x: From 0 to 1.
        iterations: How often to erode before the last piece; at least the radius of what is to be
            thinned, in voxels.
        there: Booleans: the voxels that exist.

    Example:
        >>> bar = torch.ones(3, 5)
        >>> soft_skeleton(torch.nn.functional.pad(bar, (1, 1, 1, 1)), 1)[1:-1, 1:-1]
        tensor([[0., 0., 0., 0., 0.],
                [0., 1., 1., 1., 0.],
                [0., 0., 0., 0., 0.]])
    """
    x = _filled(x, there, 1)
    rest = torch.ones_like(x)
    for _ in range(iterations + 1):
        eroded = _eroded(x, there)
        rest *= (x - _opened(eroded, there)).clamp_(min=0).neg_().add_(1)
        x = eroded
    return 1 - rest


def soft_skeleton_slope(
    x: Tensor, iterations: int, scale: Tensor, there: Tensor | None = None
) -> Tensor:
    """Derivative by the map of the sum of its soft skeleton times a scale.

    Args:
        x: See `soft_skeleton`.
        iterations: See `soft_skeleton`.
        scale: One number for each voxel, 0 for those that do not exist.
        there: See `soft_skeleton`.
    """
    erosions, rests = [_filled(x, there, 1)], [torch.ones_like(x)]
    for _ in range(iterations):
        erosions.append(_eroded(erosions[-1], there))
        piece = (erosions[-2] - _opened(erosions[-1], there)).clamp_(min=0)
        rests.append(piece.neg_().add_(1).mul_(rests[-1]))
    eroded = _eroded(erosions[-1], there)
    flow = torch.zeros_like(x)
    while erosions:
        x, stages = erosions.pop(), list(_dilated(eroded, there))
        opened = stages.pop()
        piece = (x - opened).clamp_(min=0)
        pull = rests.pop().mul_(scale).mul_(piece.sign())
        scale = piece.neg_().add_(1).mul_(scale)
        back = -pull
        while stages:
            stage = stages.pop()
            back = _routed(back, stage, opened, [len(stages)])
            opened = stage
        flow = _filled(flow.add_(back), there, 0)
        flow = _filled(_routed(flow, x, eroded, range(x.ndim)), there, 0).add_(pull)
        eroded = x
    return flow


def outlasts(mask: Tensor, erosions: int) -> bool:
    """Whether anything is left of a mask after so many erosions; waits for a GPU to tell.

    Of a mask without a border there is always everything left, which says nothing: False.
    """
    x = mask.byte()
    if x.all():
        return False
    for _ in range(erosions):
        if not x.any():
            return False
        x = _eroded(x, None)
    return bool(x.any())


def _row(weight: Tensor, node: int) -> Tensor:
    return weight[0, node if weight.shape[1] > 1 else 0]


def _filled(x: Tensor, there: Tensor | None, value: float) -> Tensor:
    return x if there is None else x.masked_fill(~there, value)


def _eroded(x: Tensor, there: Tensor | None) -> Tensor:
    return _filled(_extreme(x, range(x.ndim), torch.minimum), there, 1)


def _opened(eroded: Tensor, there: Tensor | None) -> Tensor:
    return deque(_dilated(eroded, there), maxlen=1).pop()


def _dilated(x: Tensor, there: Tensor | None) -> Iterator[Tensor]:
    """The map without what is not there, and the maxima along one axis after the other."""
    x = _filled(x, there, 0)
    yield x
    for axis in range(x.ndim):
        x = _extreme(x, [axis], torch.maximum)
        yield x


def _extreme(x: Tensor, axes: Iterable[int], pick: Callable[..., Tensor]) -> Tensor:
    """The minimum or the maximum of each voxel and its neighbours along the axes."""
    out = x.clone()
    for to, there in _steps(axes, x.shape):
        pick(x[there], out[to], out=out[to])
    return out


def _routed(scale: Tensor, x: Tensor, extreme: Tensor, axes: Iterable[int]) -> Tensor:
    """The gradient of `_extreme`: every voxel's, to where its extreme comes from."""
    # Comparisons are written as numbers: on the CPU, masks take several times as long.
    hit = torch.eq(x, extreme, out=torch.empty_like(x))
    flow = scale * hit
    left = scale - flow
    for to, there in _steps(axes, x.shape):
        here = torch.eq(x[there], extreme[to], out=hit[to]).mul_(left[to])
        flow[there] += here
        left[to] -= here
    return flow


def _steps(axes: Iterable[int], shape: Sequence[int]) -> Iterator[tuple[_Box, _Box]]:
    """For each neighbour along the axes: the voxels that have one, and those that are one."""
    for axis in axes:
        everything = (slice(None),) * axis
        lower, upper = slice(0, shape[axis] - 1), slice(1, None)
        yield (*everything, upper), (*everything, lower)
        yield (*everything, lower), (*everything, upper)
