"""Sums over a target map, and over powers of the errors: Σ w f |s|^α, named ``f*s^α``.

The factor f is ``pred``, ``pred_squared`` or ``error^γ``, which is |p - y|^γ. Without ``^α`` it is
the map as it is, with its sign; without ``f*`` there is no factor, and ``error^γ`` alone needs no
map. So ``error^1*distance^2`` is Σ w |p - y| s² for the map ``distance``.
"""

import torch
from torch import Tensor
from torch.linalg import vecdot

from segloss.engine.block import Block
from segloss.shapes import Nodes

__all__ = ["add_slope", "map_in", "total"]


def map_in(name: str) -> str | None:
    """The map that such a sum reads, if any.

    Example:
        >>> map_in("error^1.5*distance^2"), map_in("error^1.5")
        ('distance', None)
    """
    factor, _, values = name.rpartition("*")
    if not factor and name.startswith("error^"):
        return None
    return values.partition("^")[0]


def total(block: Block, name: str) -> Tensor:
    """The sum of that name, ``(b, k)`` for the last k nodes, those that the map has."""
    if map_in(name) is None:
        return block.weighted(_factor(block, name)).sum(2)
    factor, _, values = name.rpartition("*")
    weighted = block.weighted(_map(block, values))
    if not factor:
        return weighted.sum(2)
    product: Tensor = vecdot(_factor(block, factor)[:, -weighted.shape[1] :], weighted)
    return product


def add_slope(block: Block, name: str, scale: Tensor, slope: Nodes) -> None:
    """Add its derivative by the nodes' probabilities, times its scale ``(b, k, 1)``, to a slope.

    Without the voxels' weights, which are common to all region sums.
    """
    if map_in(name) is None:
        slope.addcmul_(_slope(block, name), scale)
        return
    factor, _, values = name.rpartition("*")
    if factor:
        by_factor = _map(block, values)
        if factor != "pred":
            by_factor = by_factor * _slope(block, factor)[:, -by_factor.shape[1] :]
        slope[:, -by_factor.shape[1] :].addcmul_(by_factor, scale)


def _map(block: Block, name: str) -> Tensor:
    name, _, power = name.partition("^")
    return block.maps[name].abs().pow(float(power)) if power else block.maps[name]


def _factor(block: Block, name: str) -> Nodes:
    if name == "pred":
        return block.pred
    if name == "pred_squared":
        return block.pred.square()
    return (block.pred - block.true).abs().pow(_power(name))


def _slope(block: Block, name: str) -> Nodes:
    if name == "pred":
        return torch.ones_like(block.pred)
    if name == "pred_squared":
        return 2 * block.pred
    error, gamma = block.pred - block.true, _power(name)
    return error.abs().pow_(gamma - 1).mul_(error.sign_()).mul_(gamma)


def _power(name: str) -> float:
    gamma = float(name.removeprefix("error^"))
    if not gamma >= 1:
        raise ValueError(
            f"sum {name!r}: the power must be 1 or more, or its slope is infinite at 0"
        )
    return gamma
