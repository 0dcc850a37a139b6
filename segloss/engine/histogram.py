"""How the errors |p - y| of each node are spread over bins of equal width, from 0 to 1.

Sorting the errors of a volume is slow and needs all of them at once. What `segloss.LovaszLoss` does
with them in order it does with bins nearly as well, and the bins of blocks, of samples and of ranks
add up. A sum named ``errors/256`` holds, for each node, three rows of 256 numbers: for the voxels
of each bin Σ w, Σ w y and Σ w |p - y|. Only the last row has a slope.
"""

import torch
from torch import Tensor

from segloss.engine.block import Block
from segloss.shapes import Nodes

__all__ = ["histogram", "is_histogram", "slope", "width"]

_PREFIX = "errors/"


def is_histogram(name: str) -> bool:
    """Whether a region sum is a histogram.

    Example:
        >>> is_histogram("errors/256"), is_histogram("error^1.5")
        (True, False)
    """
    return name.startswith(_PREFIX)


def width(name: str) -> int:
    """How many numbers it holds for a node."""
    return 3 * _bins(name)


def histogram(block: Block, name: str) -> Tensor:
    """The three rows of every node side by side, ``(b, v · 3 · bins)``."""
    error, bins = (block.pred - block.true).abs(), _bins(name)
    b, v, n = error.shape
    first = bins * torch.arange(b * v, device=error.device)
    place = (_bin(error, bins).reshape(b * v, n) + first[:, None]).flatten()
    # A bin may hold almost all of the voxels: single precision would stop counting.
    exact = torch.float32 if error.device.type == "mps" else torch.float64
    weight = block.weighted(torch.ones_like(error))
    rows = [
        error.new_zeros(b * v * bins, dtype=exact).index_add(0, place, x.flatten().to(exact))
        for x in (weight, weight * block.true, weight * error)
    ]
    return torch.stack(rows).reshape(3, b, v, bins).permute(1, 2, 0, 3).flatten(1)


def slope(block: Block, name: str, scale: Tensor) -> Nodes:
    """Its derivative by the nodes' probabilities, times its scale ``(b, v · 3 · bins, 1)``.

    Without the voxels' weights, which are common to all region sums.
    """
    error, bins = block.pred - block.true, _bins(name)
    b, v, _ = error.shape
    by_bin = scale.reshape(b, v, 3, bins)[:, :, 2]
    return by_bin.gather(2, _bin(error.abs(), bins)).mul_(error.sign())


def _bins(name: str) -> int:
    return int(name.removeprefix(_PREFIX))


def _bin(error: Tensor, bins: int) -> Tensor:
    return (error.detach() * bins).long().clamp_(0, bins - 1)
