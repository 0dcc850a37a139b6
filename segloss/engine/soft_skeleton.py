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
else to the first neighbour that is. So it is done by PyTorch's operations here; the kernels of
`segloss.engine.kernels.skeleton` on a GPU, and on the CPU, in single precision, the loops of
`segloss.engine.skeleton_waves`, give the same numbers in far fewer steps.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import pad

from segloss.encoding import Encoded
from segloss.engine import backend, skeleton_waves
from segloss.engine.block import Block, Place
from segloss.engine.probability import Measure
from segloss.engine.volumes import Volume
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
        volume = self._volume(block)
        skeleton = soft_skeleton(volume.pred[0], self.iterations, _first(volume.there))
        skeleton = self._own(skeleton, volume, place).flatten(1)
        overlap = vecdot(skeleton, volume.true[0].flatten(1))
        return pad(torch.stack([skeleton.sum(1), overlap]), (self.first, 0))[None]

    def slope(self, block: Block, encoded: Encoded, place: Place, scale: Tensor) -> Nodes:
        """Of the nodes before the first scored one it is 0."""
        volume = self._volume(block)
        alone, times_true = scale[0, :, self.first :].view(2, -1, *[1] * len(self.space))
        scale = self._own(volume.true[0] * times_true + alone, volume, place)
        slope = soft_skeleton_slope(
            volume.pred[0], self.iterations, scale, _first(volume.there)
        ).flatten(1)
        return pad(slope[None], (0, 0, self.first, 0))

    def _volume(self, block: Block) -> Volume:
        return Volume(block, (-1, *self.space[1:]), self.shape[1] - self.first)

    def _own(self, x: Tensor, volume: Volume, place: Place) -> Tensor:
        """Weigh voxels, those in the margins of a slab by 0; the ends of the image have none."""
        if volume.weight is not None:
            x *= volume.weight[0]
        if place[1].start > 0:
            x[:, : self.margin] = 0
        if place[1].stop < math.prod(self.space):
            x[:, -self.margin :] = 0
        return x


def soft_skeleton(x: Tensor, iterations: int, there: Tensor | None = None) -> Tensor:
    """The soft skeletons of maps, from 0 to 1.

    Args:
        x: Maps from 0 to 1, ``(m, *space)`` with two or three image axes.
        iterations: How often to erode before the last piece; at least the radius of what is to be
            thinned, in voxels.
        there: Booleans, ``(m or 1, *space)``: the voxels that exist; 0 is the skeleton elsewhere.

    Example:
        >>> bar = torch.ones(1, 3, 5)
        >>> soft_skeleton(torch.nn.functional.pad(bar, (1, 1, 1, 1)), 1)[0, 1:-1, 1:-1]
        tensor([[0., 0., 0., 0., 0.],
                [0., 1., 1., 1., 0.],
                [0., 0., 0., 0., 0.]])
    """
    if skeleton_waves.supports(x):
        return skeleton_waves.skeletons(x, iterations, there)
    skeleton, _ = _of_one(x)
    return torch.stack([skeleton(*each, iterations) for each in _each(x, there)])


def soft_skeleton_slope(
    x: Tensor, iterations: int, scale: Tensor, there: Tensor | None = None
) -> Tensor:
    """Derivatives by the maps of the sums of their soft skeletons, each voxel times a scale.

    Args:
        x: See `soft_skeleton`.
        iterations: See `soft_skeleton`.
        scale: ``(m, *space)``, 0 for voxels that do not exist.
        there: See `soft_skeleton`.
    """
    if skeleton_waves.supports(x):
        return skeleton_waves.slopes(x, iterations, scale, there)
    _, slope = _of_one(x)
    each = zip(_each(x, there), scale, strict=True)
    return torch.stack([slope(*of, iterations, by) for of, by in each])


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


def _first(x: Tensor | None) -> Tensor | None:
    return None if x is None else x[0]


def _each(x: Tensor, there: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One map after the other: what a skeleton needs is kept for one of them only."""
    return zip(x, [None] * len(x) if there is None else there.expand(x.shape), strict=True)


def _of_one(x: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """What makes the skeleton of one of these maps, and what its slope."""
    if not backend.triton_runs(x.device, "skeleton"):
        return _skeleton, _slope
    from segloss.engine.kernels import skeleton as kernels

    return kernels.skeleton, kernels.slope


def _skeleton(x: Tensor, there: Tensor | None, iterations: int) -> Tensor:
    x = _filled(x, there, 1)
    rest = torch.ones_like(x)
    for _ in range(iterations + 1):
        eroded = _eroded(x, there)
        rest *= (x - _opened(eroded, there)).clamp_(min=0).neg_().add_(1)
        x = eroded
    return _filled(1 - rest, there, 0)


def _slope(x: Tensor, there: Tensor | None, iterations: int, scale: Tensor) -> Tensor:
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
