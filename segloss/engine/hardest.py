"""Which voxels of each group cost most, found without sorting.

The costs are kept for the whole batch, in single precision or more, and where voxels do not count
alike so are their weights: a number or two for each voxel (or entry of sigmoids). Read as integers,
the bits of floating-point numbers from 0 on are in the order of the numbers; the threshold is found
bit by bit, from the highest, by adding up the weight of what is not below it. That is exact, takes
the same steps whatever the costs are, and lets samples, batches and ranks add up.
"""

import torch
from torch import Tensor

from segloss.encoding import Encoded
from segloss.engine.block import Block, places
from segloss.engine.groups import Group, pool
from segloss.engine.voxel import VoxelSum, voxel_costs

__all__ = ["hardest"]


@torch.no_grad()
def hardest(encoded: Encoded, term: VoxelSum, percent: float, group: Group) -> Tensor:
    """How much of each voxel is among the hardest, ``(b, 1 or v, n)``.

    All of those that cost more than a threshold, nothing of those that cost less, and the same part
    of each that costs just that: so much that the parts together have that percentage of a group's
    weight Σ w α y. What has no weight has no part.
    """
    with torch.autocast(encoded.logits.device.type, enabled=False):
        cost, mass = _costs(encoded, term)
    bits = cost.abs().view(torch.int32 if cost.dtype == torch.float32 else torch.int64)
    exact = torch.float32 if cost.device.type == "mps" else torch.float64

    def total(of: Tensor) -> Tensor:
        """The weight of some of the voxels, of each group, ``(g, 1, 1)``."""
        summed = of.sum((1, 2)) if mass is None else (mass * of).sum((1, 2), dtype=exact)
        return pool(summed.to(exact)[None], group)[0][:, None, None]

    wanted = total(torch.ones_like(bits, dtype=torch.bool)) * percent / 100
    threshold = torch.zeros_like(wanted, dtype=bits.dtype)
    for bit in reversed(range(torch.iinfo(bits.dtype).bits - 1)):
        higher = threshold | (1 << bit)
        threshold = torch.where(total(bits >= higher) >= wanted, higher, threshold)
    above, equal = bits > threshold, bits == threshold
    at = total(equal)
    part = (wanted - total(above)) / at.masked_fill(at == 0, 1)
    return torch.where(equal, part.to(cost), above.to(cost))


def _costs(encoded: Encoded, term: VoxelSum) -> tuple[Tensor, Tensor | None]:
    """What each voxel costs, and its weight w α y, each ``(b, 1 or v, n)``; None if all count 1."""
    b, _, n = encoded.logits.shape
    joint = encoded.activation.joint and term.of != "node"
    cost = encoded.classes.new_empty(b, 1 if joint else encoded.nodes, n)
    mass: Tensor | None = None
    for samples, voxels in places(encoded):
        value, shares = voxel_costs(Block(encoded, (samples, voxels)), term)
        if shares is not None and joint:  # of memberships, the mean over the labels
            by_voxel = shares.sum(1, keepdim=True)
            mean = (value * shares).sum(1, keepdim=True) / by_voxel.masked_fill(by_voxel == 0, 1)
            value, shares = mean, by_voxel
        cost[samples, :, voxels] = value
        if shares is not None:
            mass = torch.empty_like(cost) if mass is None else mass
            mass[samples, :, voxels] = shares
    return cost, mass
