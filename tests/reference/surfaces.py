"""What errors cost by where they are, voxel by voxel, in float64."""

from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.reference.dense import Dense, pooled

__all__ = ["SURFACE", "boundary_distance", "boundary_dou_score", "surface_cost", "worst_and_kept"]

SURFACE = ("HausdorffLoss", "HausdorffDTLoss", "RegionWiseLoss")


def surface_cost(loss: Any, x: Dense) -> Tensor:
    """What each voxel adds to the score of a class, before the mean: ``(b, c, n)``."""
    error, distance = (x.pred - x.true).abs(), x.maps["distance"]
    if type(loss).__name__ == "RegionWiseLoss":
        deepest = torch.where(x.weight != 0, -distance, 0.0).amax(2, keepdim=True).clamp(min=0)
        depth = -distance / torch.where(deepest == 0, 1.0, deepest)
        cost: Tensor = x.weight * error * torch.where(distance < 0, depth, 1.0)
        return cost
    far = distance.abs() ** loss.alpha
    if type(loss).__name__ == "HausdorffDTLoss":
        spacing = loss.spacing
        if not isinstance(spacing, tuple):
            spacing = (spacing,) * len(x.space)
        found = boundary_distance(x.pred.detach() > 0.5, x.weight != 0, x.space, spacing)
        far = far + found**loss.alpha
    squares: Tensor = x.weight * error**2 * far
    return squares


def boundary_distance(
    mask: Tensor, there: Tensor, space: tuple[int, ...], spacing: tuple[float, ...]
) -> Tensor:
    """From each centre to the nearest box of the other side that is there, 0 if there is none."""
    at = torch.tensor(list(product(*map(range, space))), dtype=torch.float64)
    way = ((at[:, None] - at).abs() - 0.5).clamp(min=0) * torch.tensor(spacing).double()
    way = way.norm(dim=2)
    rows = []
    for side, known in zip(mask.flatten(0, 1), there.flatten(0, 1), strict=True):
        other = (side[:, None] != side) & known
        nearest = torch.where(other, way, torch.inf).amin(1)
        rows.append(torch.where(nearest == torch.inf, 0.0, nearest))
    return torch.stack(rows).reshape(mask.shape)


def boundary_dou_score(loss: Any, x: Dense) -> Tensor:
    """``(g, c)`` of the boundary difference-over-union loss."""

    def total(values: Tensor) -> Tensor:
        return pooled((x.weight * values).sum(2), loss.group)

    border, size = total(_border(x)), total(x.true)
    thin = torch.where(size == 0, 0.0, border / torch.where(size == 0, 1.0, size))
    alpha = (1 - 2 * thin).clamp(max=0.8)
    overlap, squares = total(x.pred * x.true), total(x.pred**2) + total(x.true**2)
    top = squares - 2 * overlap + loss.smooth_dr - loss.smooth_nr
    bottom = squares - (1 + alpha) * overlap + loss.smooth_dr
    return torch.where(bottom == 0, 1.0, top / torch.where(bottom == 0, 1.0, bottom))


def _border(x: Dense) -> Tensor:
    """What each voxel exceeds its least neighbour by, among those that are there."""
    places = list(product(*map(range, x.space)))
    number = {place: i for i, place in enumerate(places)}
    exceeds = []
    for place, i in number.items():
        least = x.true[..., i]
        for axis, step in product(range(len(place)), (-1, 1)):
            beside = number.get((*place[:axis], place[axis] + step, *place[axis + 1 :]))
            if beside is not None:
                there = x.weight[..., beside] != 0
                least = torch.where(there, torch.minimum(least, x.true[..., beside]), least)
        exceeds.append(x.true[..., i] - least)
    return torch.stack(exceeds, -1)


def worst_and_kept(loss: Any, x: Dense) -> tuple[Tensor, Tensor]:
    """Of the generalized surface loss: what there is to lose, and what is not lost; ``(g, c)``."""
    worst = x.weight * x.maps["distance"] ** 2
    kept = worst * (1 - (x.pred - x.true).abs()) ** 2
    return pooled(worst.sum(2), loss.group), pooled(kept.sum(2), loss.group)
