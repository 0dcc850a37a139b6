"""The sums of every node of a tree from one small matrix.

Where labels name nodes, the sums that are linear in p are products of the soft **confusion**,
Σ w p_l [label = t] for each channel l and label t, and of the **tally** of the labels, Σ w [label =
t]. So the voxels are gone through once for the channels, however many nodes there are above them.
"""

import torch
from torch import Tensor

from segloss.activation import Outcomes, Softmax
from segloss.encoding import Encoded
from segloss.engine.block import Block, product

__all__ = ["SUMS", "confusion", "instead_of", "node_sums", "slope", "tally", "width"]

SUMS = ("confusion", "tally")
_FROM_THEM = frozenset({"count", "pred", "true", "overlap", "true_squared"})


def instead_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """What to sum up so that `node_sums` has those of these names that it can give."""
    others = tuple(name for name in names if name not in _FROM_THEM.union(SUMS))
    return others if len(others) == len(names) else (*SUMS, *others)


def width(name: str, encoded: Encoded) -> int:
    """How many numbers a sum has for a sample."""
    assert encoded.outcomes is not None
    t = len(encoded.outcomes.member)
    if name == "tally":
        return t
    flat = isinstance(encoded.activation, Softmax)
    return t * (encoded.logits.shape[1] if flat else encoded.nodes)


def confusion(block: Block) -> Tensor:
    """Σ w p [label = t], ``(b, c · t)``; of the nodes if the activation is not a softmax."""
    pred = block.softmax[0] if isinstance(block.activation, Softmax) else block.pred
    return torch.bmm(pred, _weighted_outcome(block).transpose(1, 2)).flatten(1)


def tally(block: Block) -> Tensor:
    """Σ w [label = t], ``(b, t)``."""
    return _weighted_outcome(block).sum(2)


def slope(block: Block, scale: Tensor) -> Tensor:
    """Derivative of the confusion by the channels' probabilities, times its scale, ``(b, c, n)``."""
    b, c, _ = block.logits.shape
    gathered = torch.bmm(scale.reshape(b, c, -1), block.outcome)
    return gathered if block.voxel_weight is None else gathered.mul_(block.voxel_weight)


def node_sums(
    sums: dict[str, Tensor], outcomes: Outcomes, members: Tensor | None
) -> dict[str, Tensor]:
    """The sums of every node, each ``(b, v)``, from the confusion and the tally."""
    if "confusion" not in sums:
        return {}
    b, t = sums["tally"].shape
    member = outcomes.member.T.to(sums["tally"])
    known = torch.ones_like(member) if outcomes.known is None else outcomes.known.T.to(member)
    matrix = sums["confusion"].reshape(b, -1, t)
    if members is not None:
        matrix = product(members, matrix)
    true = sums["tally"] @ (known * member).T
    return {
        "count": sums["tally"] @ known.T,
        "pred": (matrix * known).sum(2),
        "true": true,
        "overlap": (matrix * (known * member)).sum(2),
        "true_squared": true,
    }


def _weighted_outcome(block: Block) -> Tensor:
    weight = block.voxel_weight
    return block.outcome if weight is None else block.outcome * weight
