"""Overlap that looks at the boundary the more, the more of the target is boundary."""

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad

from segloss.encoding import Encoded
from segloss.engine.volumes import Volume, border, volumes
from segloss.losses.base import ScoreLoss, Sums, ratio
from segloss.shapes import Scores

__all__ = ["BoundaryDoULoss", "boundary_dou"]

# The authors cut α off here.
_LARGEST = 0.8


def boundary_dou(sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Scores:
    r"""The difference of two regions over their union, with part of the intersection left out.

    .. math::

        1 - \frac{(1 - \alpha) \sum w p y + \epsilon_n}
                 {\sum w p^2 + \sum w y^2 - (1 + \alpha) \sum w p y + \epsilon_d}, \quad
        \alpha = \min\Big(1 - 2 \frac{C}{S}, 0.8\Big)

    with C the target's voxels at its boundary and S all of its voxels. The larger the target, the
    more of the intersection is left out, and the more its boundary counts. α = -1 is squared Dice,
    α = 0 squared Jaccard.

    Args:
        sums: ``overlap``, ``pred_squared``, ``true_squared``, ``true`` (S) and ``border`` (C), each
            ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> sums = dict(overlap=6.0, pred_squared=9.0, true_squared=9.0, true=9.0, border=8.0)
        >>> boundary_dou({name: torch.tensor([[x]]) for name, x in sums.items()})
        tensor([[0.3600]])
    """
    alpha = (1 - 2 * ratio(sums["border"], sums["true"])).clamp(max=_LARGEST)
    overlap, size = sums["overlap"], sums["pred_squared"] + sums["true_squared"]
    return 1 - ratio((1 - alpha) * overlap + smooth_nr, size - (1 + alpha) * overlap + smooth_dr)


@final
class BoundaryDoULoss(ScoreLoss):
    """`segloss.boundary_dou` of logits: from 0 to 1. Takes the options of `segloss.RegionLoss`.

    Needs no map: the voxels at the boundary, those of a class next to one (along an axis) that is
    not of it, are counted in the target at every step. The border of the image is no boundary, nor
    is that of voxels that are ignored, or weigh 0. A soft target's boundary is what each voxel
    exceeds its least neighbour by.

    For a class that is absent the published loss is 1 whatever the prediction, without a gradient.
    Here that is ``empty="smooth"``; ``"penalise"`` pulls down what is found of it.

    References:
        Sun et al., "Boundary difference over union loss for medical image segmentation", MICCAI
        2023. In the authors' code sums run over the batch (``group="batch"``), the border of the
        image is a boundary, and the smoothings amount to 0 and 1e-5. It is for 2D; 6 neighbours in
        3D are our own reading.

    Example:
        >>> import torch
        >>> label = torch.zeros(1, 5, 5, dtype=torch.long)
        >>> label[:, 1:4, 1:4] = 1
        >>> found = torch.where(label == 1, 9.0, -9.0)
        >>> found[:, 3] = -9.0  # a side is missing
        >>> BoundaryDoULoss(reduction="none")(torch.stack([-found, found], 1), label)
        tensor([[0.1111, 0.2195]])
    """

    needs = ("overlap", "pred_squared", "true_squared", "true")

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        first = self.encoding.first
        counts = [_border(samples) for samples in volumes(encoded, space, first)]
        return {"border": pad(torch.cat(counts), (first, 0))}

    def score(self, sums: Sums) -> Scores:
        return boundary_dou(sums, self.smooth_nr, self.smooth_dr)


def _border(samples: Volume) -> Tensor:
    """How many voxels are at the boundary of each node, by their weights, ``(b, k)``."""
    at = border(samples.true, samples.there, len(samples.space))
    if samples.weight is not None:
        at = at * samples.weight
    return at.flatten(2).sum(2)
