"""Soft skeletons on the CPU, in single precision: memory and threads for the compiled loops.

PyTorch's operations go over a whole volume for each of the many steps of a soft skeleton. In the
loops of `segloss.engine.loops.skeleton` the steps follow each other through the volume like waves,
and only the planes between the first and the last of them are kept: about 5 k for the skeleton and
2 (k + 3)² for its slope, k being the number of erosions.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate, pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segloss.engine import backend

__all__ = ["skeletons", "slopes", "supports"]


def supports(x: Tensor) -> bool:
    """Whether the loops know maps like these."""
    return backend.chosen() == "auto" and x.device.type == "cpu" and x.dtype == torch.float32


def skeletons(x: Tensor, iterations: int, there: Tensor | None = None) -> Tensor:
    """What `segloss.engine.soft_skeleton.soft_skeleton` says."""
    from segloss.engine.loops import skeleton as loops  # here, as it loads numba

    k, volumes = iterations, _volumes(x, there, float(loops.NOTHING))
    out, parts = torch.empty_like(volumes), _parts(volumes, k + 2)
    rooms, rings = _rooms(volumes, len(parts), [3] * (k + 2), [1] + [2] * (k + 1))

    def work(part: _Part) -> None:
        planes = rooms.pop()
        seen, own = volumes[part.map, part.seen].numpy(), out[part.map, part.own].numpy()
        loops.write_skeleton(seen, part.margin, planes, *rings, own)
        rooms.append(planes)

    _share(len(rooms), work, parts)
    return out.view(x.shape)


def slopes(x: Tensor, iterations: int, scale: Tensor, there: Tensor | None = None) -> Tensor:
    """What `segloss.engine.soft_skeleton.soft_skeleton_slope` says."""
    from segloss.engine.loops import skeleton as loops  # here, as it loads numba

    k, volumes = iterations, _volumes(x, there, float(loops.NOTHING))
    scales, parts = scale.contiguous().view(volumes.shape), _parts(volumes, k + 2)
    slopes = [torch.empty_like(volumes[part.map, part.seen]) for part in parts]
    rooms, rings = _rooms(
        volumes,
        len(parts),
        [2 * (k - i) + 5 for i in range(k + 2)],
        [1] + [2 * (k - i) + 2 for i in range(1, k + 1)],
        [k + 1],
        [3] * (k + 2),
    )

    def work(part: _Part, slope: Tensor) -> None:
        planes = rooms.pop()
        seen, own = volumes[part.map, part.seen].numpy(), scales[part.map, part.own].numpy()
        loops.write_slope(seen, own, part.margin, planes, *rings, slope.numpy())
        rooms.append(planes)

    _share(len(rooms), work, parts, slopes)
    out = torch.zeros_like(volumes)
    for part, slope in zip(parts, slopes, strict=True):
        out[part.map, part.seen] += slope
    return out.view(x.shape)


class _Part(NamedTuple):
    """Planes of a map, and all that they depend on."""

    map: int
    own: slice
    seen: slice

    @property
    def margin(self) -> int:
        """How many planes are seen before the first."""
        return int(self.own.start - self.seen.start)


def _parts(volumes: Tensor, margin: int) -> list[_Part]:
    """As many for each map as make it fast: in a margin there is a quarter of the work to do."""
    maps, planes = volumes.shape[:2]

    def time(count: int) -> float:
        rounds = -(-maps * count // torch.get_num_threads())
        return rounds * (planes + (count - 1) * 2 * margin / 4) / count

    count = min(range(1, max(1, planes // margin) + 1), key=time)
    bounds = list(pairwise([planes * i // count for i in range(count + 1)]))
    return [
        _Part(m, slice(begin, end), slice(max(0, begin - margin), min(planes, end + margin)))
        for m, (begin, end) in product(range(maps), bounds)
    ]


def _volumes(x: Tensor, there: Tensor | None, nothing: float) -> Tensor:
    """Maps of three axes, ``(m, d, h, w)``, and what they hold where no voxel is."""
    x = x.detach() if there is None else x.detach().masked_fill(~there, nothing)
    return x.contiguous().view(*x.shape[:2], -1, x.shape[-1])


def _rooms(volumes: Tensor, parts: int, *sizes: list[int]) -> tuple[list[Any], list[Any]]:
    """For each thread, planes with a frame for all rings; where each begins, and how long it is."""
    h, w = volumes.shape[2:]
    rings, begin = [], 0
    for group in sizes:
        *begins, end = accumulate(group, initial=begin)
        rings.append(torch.tensor([begins, group]).T.contiguous().numpy())
        begin = end
    count = min(parts, torch.get_num_threads())
    planes = volumes.new_empty(count, begin, (h + 2) * (w + 1))
    return list(planes.numpy()), rings


def _share(threads: int, work: Callable[..., None], *arguments: Sequence[Any]) -> None:
    """Work on one argument of each after the other, or in threads."""
    done = (_pool(threads, os.getpid()).map if threads > 1 else map)(work, *arguments)
    deque(done, maxlen=0)


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A forked process, into which threads do not come along, gets a pool of its own."""
    return ThreadPoolExecutor(threads, "segloss")
