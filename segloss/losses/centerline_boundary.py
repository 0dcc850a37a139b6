"""Centrelines that know how wide they are: centreline-boundary Dice."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import whole
from segloss.encoding import Encoded, Encoding, Multiclass
from segloss.engine import sums as engine
from segloss.engine.distance import checked_spacing, squared_boundary_distance, voxel_size
from segloss.engine.soft_skeleton import soft_skeleton
from segloss.engine.sums import Request
from segloss.engine.volumes import Volume, volumes
from segloss.losses.base import RegionOptions, ScoreLoss, Sums, ratio
from segloss.losses.centerline import HARD_SKELETON
from segloss.shapes import Scores

__all__ = ["CenterlineBoundaryDiceLoss", "centerline_boundary_dice"]


def centerline_boundary_dice(
    sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5
) -> Scores:
    r"""One minus the harmonic mean of precision and recall of centrelines, weighted by radius.

    .. math::

        1 - \frac{2 P R}{P + R}, \quad
        P = \frac{\sum w\, p\, u_p\, r_y + \epsilon_n}{\sum w\, p\, u_p\, \rho_p + \epsilon_d}, \quad
        R = \frac{\sum w\, p\, u_y\, r_p + \epsilon_n}{\sum w\, u_y\, \rho_y + \epsilon_d}

    Of a region, r is how deep a voxel is inside over the largest depth, and u is the inverse of the
    radius on the centreline, :math:`(1 - r + r_{min})^{d-1}` in d dimensions, 0 off it: all parts
    of a tree count alike, be they thin or thick. ρ is what r should be: on both centrelines the
    other region's r, else one's own, that of the prediction times p in either case.

    Args:
        sums: The two numerators, ``found`` and ``covered``, and denominators, ``claimed`` and
            ``asked``, each ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`.
        smooth_dr: :math:`\epsilon_d`.

    Returns:
        ``(g, k)``, at most 1, and 0 where the two regions are one. P and R are no proportions: each
        may pass 1, and the score then fall below 0.

    Example:
        >>> import torch
        >>> names, one = ["found", "claimed", "covered", "asked"], torch.ones(1, 1)
        >>> centerline_boundary_dice(dict(zip(names, [one, 2 * one, one, one])))
        tensor([[0.3333]])
    """
    precision = ratio(sums["found"] + smooth_nr, sums["claimed"] + smooth_dr)
    recall = ratio(sums["covered"] + smooth_nr, sums["asked"] + smooth_dr)
    return 1 - ratio(2 * precision * recall, precision + recall)


@final
class CenterlineBoundaryDiceLoss(ScoreLoss):
    """`segloss.centerline_boundary_dice` of logits, also known as cbDice: 0 at the target, to 1.

    As `segloss.CenterlineDiceLoss` it looks at centrelines, but a thin branch counts as much as a
    thick one, and a centreline costs by how far it is from the middle of the other region, not only
    where it leaves it. (Where both coincide, width costs nothing.)

    The prediction's centreline and distances are those of where the probability passes one half.
    They are found anew at every step, on the device of the logits, and have no gradient: it flows
    through the probabilities on the two centrelines. Nothing is pulled while nothing is found, so
    add it to `segloss.DiceLoss`. Six numbers are kept for each voxel and class. Voxels that are
    ignored, or weigh 0, are not there. torch.compile leaves it as it is.

    Takes two maps: ``skeleton=`` of `segloss.transforms.TubedSkeletond` with ``radius=0``, as
    `segloss.CenterlineDiceLoss`, and ``distance=`` of `segloss.transforms.SignedDistanced`,
    negative inside.

    Each class has a score. The authors score all foreground together: for that, give
    ``Multilabel()`` one channel, the largest logit of the foreground less that of the background.

    Args:
        encoding: What the channels mean. A background has no centreline; by default it is left out.
        iterations: How often the prediction is eroded to find its centreline: at least the largest
            radius of a tube, in voxels. With fewer, wide tubes have no centreline.
        spacing: Size of a voxel along each image axis, in the order of the array, or along all: as
            for the map; only the proportions matter.
        **options: Those of `segloss.RegionLoss`; a class is absent where it has no skeleton.

    References:
        Shi et al., "Centerline boundary Dice loss for vascular segmentation", MICCAI 2024. There
        both smoothings are 1, the loss is this less 1, and distances are to the centres of voxels.
        That depths are relative to the deepest voxel, not to the deepest on the centreline, is our
        own: with it the loss is 0 at the target however its skeleton is thinned.

    Example:
        >>> import torch
        >>> from segloss.transforms import SignedDistance, TubedSkeleton
        >>> label = torch.zeros(1, 1, 7, 12, dtype=torch.long)
        >>> label[..., 2:5, :] = 1
        >>> maps = {"skeleton": TubedSkeleton(radius=0)(label[0])[None]}
        >>> maps["distance"] = SignedDistance(num_classes=2)(label[0])[None]
        >>> found = torch.where(label == 1, 9.0, -9.0)
        >>> loss = CenterlineBoundaryDiceLoss(iterations=3)
        >>> loss(torch.cat([-found, found], 1), label, **maps).item() < 1e-3
        True
    """

    needs = ()
    presence = "skeleton"
    compiles = False
    makers: ClassVar[Mapping[str, str]] = {"skeleton": HARD_SKELETON}

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        iterations: int = 10,
        spacing: float | Sequence[float] = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.iterations = whole("iterations", iterations, 0)
        self.spacing = checked_spacing(spacing)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"skeleton", "distance"})

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        samples = volumes(encoded, space, self.encoding.first, self.reads)
        parts = [self._parts(some) for some in samples]
        maps = {name: torch.cat([part[name] for part in parts]).flatten(2) for name in parts[0]}
        names = ("pred*found", "pred*claimed", "pred_squared*alone", "pred*covered", "pred*asked")
        request = Request((*names, "missed"))
        sums, _ = engine.one_pass(replace(encoded, maps=maps), request)
        return {
            "found": sums["pred*found"],
            "claimed": sums["pred*claimed"] + sums["pred_squared*alone"],
            "covered": sums["pred*covered"],
            "asked": sums["pred*asked"] + sums["missed"],
        }

    def score(self, sums: Sums) -> Scores:
        return centerline_boundary_dice(sums, self.smooth_nr, self.smooth_dr)

    def _parts(self, samples: Volume) -> dict[str, Tensor]:
        """What multiplies p, and p² (``alone``), in the sums, and what does not (``missed``)."""
        found, there = samples.pred > 0.5, samples.there
        size = voxel_size(self.spacing, len(samples.space))
        squares = squared_boundary_distance(found, size, there=there)
        depth = squares.to(samples.pred.dtype).sqrt_().mul_(found)
        true_depth = samples.map("distance").neg().clamp_(min=0)
        line, true_line = self._skeleton(found, there), samples.map("skeleton")
        radius, inverse = _weights(depth, line, there)
        true_radius, true_inverse = _weights(true_depth, true_line, there)
        on_line, on_true_line = line * radius, true_line * true_radius
        return {
            "found": inverse * true_radius,
            "claimed": inverse * on_true_line,
            "alone": inverse * radius * (on_true_line == 0),
            "covered": true_inverse * radius,
            "asked": true_inverse * on_line,
            "missed": true_inverse * true_radius * (on_line == 0),
        }

    def _skeleton(self, found: Tensor, there: Tensor | None) -> Tensor:
        """The morphological skeleton of each mask."""
        if there is not None:
            found, there = found & there, there.expand_as(found).flatten(0, 1)
        lines = soft_skeleton(found.float().flatten(0, 1), self.iterations, there)
        return lines.view_as(found)


def _weights(depth: Tensor, line: Tensor, there: Tensor | None) -> tuple[Tensor, Tensor]:
    """The radius r of each voxel from 0 to 1, and its inverse u on the centreline."""
    axes = tuple(range(2, depth.ndim))
    counted = depth if there is None else depth * there
    largest = counted.amax(axes, keepdim=True)
    least = counted.where(counted > 0, inf).amin(axes, keepdim=True)
    nothing = largest == 0
    scale = largest.masked_fill(nothing, 1)
    radius = depth / scale
    inverse = (1 - radius + least.masked_fill(nothing, 0) / scale) ** (len(axes) - 1)
    return radius, inverse * line
