"""Surfaces: how far from the target's boundary are the errors?"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.encoding import Encoded, Encoding, Multiclass
from segloss.engine import sums as engine
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.engine.volumes import Volume, volumes
from segloss.losses.base import Loss, Reduction, RegionOptions, Sums, class_mean, ratio
from segloss.losses.overlap import GeneralizedLoss, Weighting
from segloss.shapes import GroupScores, Reduced, Scores

__all__ = [
    "BoundaryLoss",
    "DistanceLoss",
    "GeneralizedSurfaceLoss",
    "RegionWiseLoss",
    "boundary",
    "generalized_surface",
    "region_wise",
]


def boundary(sums: Sums) -> Scores:
    r"""The mean over the voxels of probability times signed distance.

    .. math:: \frac{\sum w p \varphi}{\sum w}

    Args:
        sums: ``pred*distance`` and ``count``, each ``(g, k)``.

    Returns:
        ``(g, k)``, in the unit of the distance. The least value, negative, is reached by the
        target itself.

    Example:
        >>> import torch
        >>> boundary({"pred*distance": torch.tensor([[-3.0]]), "count": torch.tensor([[6.0]])})
        tensor([[-0.5000]])
    """
    return ratio(sums["pred*distance"], sums["count"])


def generalized_surface(
    sums: Sums,
    weight: Scores,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> GroupScores:
    r"""One minus the share of the worst that is avoided, by squared distance to the boundary.

    .. math::

        1 - \frac{\sum_k \omega_k \sum w \varphi^2 (1 - |p - y|)^2 + \epsilon_n}
                 {\sum_k \omega_k \sum w \varphi^2 + \epsilon_d}

    Args:
        sums: ``error^1*distance^2``, ``error^2*distance^2`` and ``distance^2``, each ``(g, k)``.
        weight: :math:`\omega`, ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`.
        smooth_dr: :math:`\epsilon_d`.

    Returns:
        ``(g, 1)``, from 0 to 1.

    Example:
        >>> import torch
        >>> names, one = ["error^1*distance^2", "error^2*distance^2", "distance^2"], torch.ones(1, 1)
        >>> generalized_surface(dict(zip(names, [2 * one, one, 4 * one])), weight=one)
        tensor([[0.7500]])
    """
    worst = (weight * sums["distance^2"]).sum(1, keepdim=True)
    lost = 2 * sums["error^1*distance^2"] - sums["error^2*distance^2"]
    kept = worst - (weight * lost).sum(1, keepdim=True)
    return 1 - ratio(kept + smooth_nr, worst + smooth_dr)


def region_wise(sums: Sums) -> Scores:
    r"""The mean over the voxels of errors times how deep in the class they are.

    .. math:: \frac{\sum w |p - y| z}{\sum w}

    with z = 1 outside the class, and inside the distance to its boundary over the largest such.

    Args:
        sums: ``error*depth``, the numerator, and ``count``, each ``(g, k)``.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> region_wise({"error*depth": torch.tensor([[1.5]]), "count": torch.tensor([[6.0]])})
        tensor([[0.2500]])
    """
    return ratio(sums["error*depth"], sums["count"])


class DistanceLoss(Loss):
    """One mean over the voxels for each group and class, of errors by the map ``distance=``.

    Args:
        encoding: What the channels mean. By default the background is left out.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)

    @abstractmethod
    def score(self, sums: Sums) -> Scores:
        """One number for each group and class."""

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        score, known = self.score(regions), self.known(regions["count"])
        return class_mean(score, self.class_weight, self.reduction, known)


@final
class BoundaryLoss(DistanceLoss):
    """`segloss.boundary` of logits: each false voxel costs its distance to the boundary.

    Unlike other losses here it passes 0 and stays negative at its optimum, which is the target; it
    is linear in the probabilities, so its gradient does not fade, and alone it collapses to an
    empty prediction where the background is large. Add it to a region loss, with a weight that
    grows (`segloss.rebalanced`). A class whose map is 0 throughout costs nothing.

    Takes the map ``distance=``, ``(b, k, *space)`` for the k scored classes or all channels,
    negative inside, of `segloss.transforms.SignedDistanced`. Far voxels dominate it: clip the map
    there, and divide by the clip, so that weights mean the same for every spacing.

    Args:
        encoding: What the channels mean. By default the background is left out.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.

    References:
        Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, eq. 5.

    Example:
        >>> import torch
        >>> logits, label = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> distance = torch.tensor([[[[1.5, 0.5, -0.5, -1.5]]]])
        >>> BoundaryLoss()(logits, label, distance=distance)
        tensor(0.)
        >>> BoundaryLoss()(logits + distance.sign() * torch.tensor([[[[9.0]], [[-9.0]]]]), label, distance=distance)
        tensor(-0.5000)
    """

    @property
    def request(self) -> Request:
        return Request(("pred*distance", "count"))

    def score(self, sums: Sums) -> Scores:
        return boundary(sums)


@final
class GeneralizedSurfaceLoss(GeneralizedLoss):
    """`segloss.generalized_surface` of logits: one number for each group, from 0 to 1.

    Unlike `BoundaryLoss` it is bounded, and 0 at the target. **It is flat where the prediction is
    confidently wrong** (the slope in p is 2 φ² (1 - |p - y|)), so add it to a cross entropy, with a
    weight that grows (`segloss.rebalanced`). A class counts by the inverse of its volume, so that
    small ones matter.

    Takes the map ``distance=``, ``(b, k, *space)`` for the k scored classes or all channels, of
    `segloss.transforms.SignedDistanced`, whose sign does not matter here. An absent class has a map
    of 0 and no say. If its map is not 0, ``empty`` gives it the largest weight of the others, or 1
    if they are absent too (``"smooth"``), or none (``"skip"``); ``"penalise"`` gives it none, and
    adds its mean probability to the loss, map or no map (the sum may pass 1).

    Args:
        encoding: What the channels mean. By default the background is left out.
        weighting: ``"square"`` for 1/volume², ``"simple"`` for 1/volume, or ``"uniform"``.
        **options: Those of `segloss.RegionLoss`; ``class_weight`` multiplies the weighting, the
            smoothing is added to the weighted sums, and ``reduction="none"`` gives ``(g, 1)``.

    References:
        Celaya, Riviere and Fuentes, "A generalized surface loss for reducing the Hausdorff distance
        in medical imaging segmentation", 2023 (arXiv:2302.03868). There 1 - y - p stands for
        1 - abs(p - y), which is the same for a hard target; for a soft one, ours is 0 at p = y.

    Example:
        >>> import torch
        >>> logits, label = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> distance = torch.tensor([[[[1.5, 0.5, -0.5, -1.5]]]])
        >>> GeneralizedSurfaceLoss()(logits, label, distance=distance)
        tensor(0.7500)
    """

    needs = ("error^1*distance^2", "error^2*distance^2", "distance^2")

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        weighting: Weighting = "square",
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, weighting=weighting, **options)

    def score(self, sums: Sums, weight: Scores) -> GroupScores:
        return generalized_surface(sums, weight, self.smooth_nr, self.smooth_dr)


@final
class RegionWiseLoss(DistanceLoss):
    """`segloss.region_wise` of logits: a miss costs by its depth, a false alarm costs 1.

    From 0, at the target, to 1. Misses weigh little next to the boundary, where labels are least
    sure. A class that is absent, or fills the image, has no boundary: its errors cost 1 each.

    Takes the map ``distance=``, ``(b, k, *space)`` for the k scored classes or all channels,
    negative inside, of `segloss.transforms.SignedDistanced`, in any unit; depths are those of a
    sample. The map that the authors publish is made of it here, so that one map serves all losses
    of surfaces.

    Args:
        encoding: What the channels mean. By default the background is left out; the authors score
            it too.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.

    References:
        Valverde and Tohka, "Region-wise loss for biomedical image segmentation", Pattern
        Recognition 2023: the rectified form. Theirs is Σ p times the map, 1 outside and minus the
        depth inside; this is that less its least value, with the same gradient where the target is
        hard. Their distances are to centres of voxels, half a voxel more than to faces.

    Example:
        >>> import torch
        >>> logits, label = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> distance = torch.tensor([[[[1.5, 0.5, -0.5, -1.5]]]])
        >>> RegionWiseLoss()(logits, label, distance=distance)
        tensor(0.4167)
    """

    @property
    def request(self) -> Request:
        return Request(("count",))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"distance"})

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        parts = volumes(encoded, space, self.encoding.first, self.reads)
        depth = torch.cat([_depth(samples) for samples in parts])
        own = replace(encoded, maps={"depth": depth})
        sums, _ = engine.one_pass(own, Request(("error^1*depth",)))
        return {"error*depth": sums["error^1*depth"]}

    def score(self, sums: Sums) -> Scores:
        return region_wise(sums)


def _depth(samples: Volume) -> Tensor:
    """What an error costs in each voxel, ``(b, k, n)``."""
    distance = samples.map("distance").flatten(2)
    counted = distance if samples.there is None else distance * samples.there.flatten(2)
    deepest = counted.amin(2, keepdim=True)
    return torch.where(distance < 0, distance / deepest.masked_fill(deepest == 0, -1), 1)
