"""Which voxels of each group cost most, found without sorting.

The costs are kept for the whole batch, in single precision or more, and where voxels do not count
alike so are their weights: a number or two for each voxel (or entry of sigmoids). Read as integers,
the bits of floating-point numbers from 0 on are in the order of the numbers; the threshold is found
eleven bits at a time, from the highest, by adding up the weight that each of their values has. That
is exact, takes the same steps whatever the costs are, and lets samples, batches and ranks add up.
"""

import torch
from torch import Tensor

from segloss.encoding import Encoded
from segloss.engine.block import Block, places
from segloss.engine.groups import Group, pool
from segloss.engine.scan import running_sum
from segloss.engine.voxel import VoxelSum, voxel_costs

__all__ = ["hardest"]

# Bits that are looked at together: 2048 values, and three rounds for single precision.
_DIGITS = 11


@torch.no_grad()
def hardest(encoded: Encoded, term: VoxelSum, percent: float, group: Group) -> Tensor:
    """How much of each voxel is among the hardest, ``(b, 1 or v, n)``.

    All of those that cost more than a threshold, nothing of those that cost less, and the same part
    of each that costs just that: so much that the parts together have that percentage of a group's
    weight Σ w α y. What has no weight has no part.
    """
    with torch.autocast(encoded.logits.device.type, enabled=False):
        cost, mass = _costs(encoded, term)
    bits = cost.abs().view(torch.int32 if cost.dtype == torch.float32 else torch.int64).flatten(1)
    exact = torch.float32 if cost.device.type == "mps" else torch.float64
    each = torch.ones((), dtype=exact, device=cost.device).expand_as(bits)
    each = each if mass is None else mass.flatten(1).to(exact)
    wanted = pool(each.sum(1, keepdim=True)[None], group)[0] * percent / 100
    threshold = torch.zeros_like(wanted, dtype=bits.dtype)
    rest = torch.iinfo(bits.dtype).bits - 1
    while rest:
        digits = min(_DIGITS, rest)
        rest -= digits
        # What begins as the threshold does is told apart; what is below is 0, what is above the last.
        place = ((bits >> rest) - (threshold >> rest)).clamp_(-1, 1 << digits).add_(1).long()
        spread = torch.zeros(len(bits), (1 << digits) + 2, dtype=exact, device=bits.device)
        spread = pool(spread.scatter_add_(1, place, each)[None], group)[0]
        from_here = running_sum(spread.flip(1)).flip(1)
        found = (from_here[:, 1:-1] >= wanted).sum(1, keepdim=True).clamp(min=1)
        threshold = threshold | ((found - 1).to(threshold) << rest)
    above, at = from_here.gather(1, found + 1), spread.gather(1, found)
    part = ((wanted - above) / at.masked_fill(at == 0, 1)).to(cost)
    chosen = torch.where(bits == threshold, part, (bits > threshold).to(cost))
    return chosen.view_as(cost)


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
