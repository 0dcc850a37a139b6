"""Betti numbers: how many pieces, how many loops, and by how many the prediction is off."""

from typing import Literal, final

import cc3d
import numpy as np
from monai.utils import MetricReduction
from skimage.measure import euler_number

from segloss.metrics.base import Mask, MaskMetric

__all__ = ["BettiErrorMetric", "betti_number"]


def betti_number(mask: Mask, dimension: int) -> int:
    r"""Count the pieces (0) or the loops (1) of a mask.

    Voxels of the mask that share a corner are connected (8 neighbours in 2D, 26 in 3D); voxels of
    the background are if they share a face. What lies beyond the array is background. Loops follow
    from the Euler number :math:`\chi`: :math:`b_1 = b_0 - \chi` in 2D, and
    :math:`b_1 = b_0 + b_2 - \chi` in 3D, where :math:`b_2` counts the cavities, the components of
    the background that do not touch the border.

    Args:
        mask: bool, two or three axes.
        dimension: 0 for connected components, 1 for holes (2D) or handles (3D).

    Returns:
        The Betti number, 0 or more.

    Raises:
        ValueError: The mask has neither two nor three axes, or the dimension is neither 0 nor 1.

    Example:
        >>> ring = np.ones((3, 3), dtype=bool)
        >>> ring[1, 1] = False
        >>> betti_number(ring, 0), betti_number(ring, 1)
        (1, 1)
    """
    if mask.ndim not in (2, 3):
        raise ValueError(f"mask must have two or three axes, got shape {mask.shape}")
    if dimension not in (0, 1):
        raise ValueError(f"dimension must be 0 (pieces) or 1 (loops), got {dimension!r}")
    # A margin, because cc3d 4.1 fails on a volume that is a single line of voxels.
    pieces = _components(np.pad(mask, 1), 8 if mask.ndim == 2 else 26)
    if dimension == 0:
        return pieces
    cavities = 0
    if mask.ndim == 3:
        outside = np.pad(~mask, 1, constant_values=True)  # one component holds all of the border
        cavities = _components(outside, 6) - 1
    return pieces + cavities - int(euler_number(mask, connectivity=mask.ndim))


def _components(mask: Mask, connectivity: Literal[6, 8, 26]) -> int:
    _, count = cc3d.connected_components(mask, connectivity=connectivity, return_N=True)
    return count


@final
class BettiErrorMetric(MaskMetric):
    """Absolute difference of the Betti numbers of prediction and truth; lower is better.

    Betti-0 counts connected components, so its error shows vessels broken into pieces and specks;
    Betti-1 counts loops, so its error shows false bridges and torn rings. An error of 0 does not
    say that the pieces are in the right place: read it beside an overlap.

    Call it with ``y_pred`` and ``y``: binarised masks (B, C, H, W) or (B, C, H, W, D) of any dtype,
    MetaTensor or not, or lists of masks without the batch axis. It returns one value per sample and
    class, (B, C), float32, never NaN, and keeps it for `aggregate`.

    Args:
        dimension: 0 for components, 1 for loops; see `betti_number`.
        include_background: Whether channel 0 counts. It always does where it is the only one.
        reduction: How `aggregate` reduces samples and classes; MONAI's names.
        get_not_nans: Have `aggregate` return how many values counted, too.

    Raises:
        ValueError: ``dimension`` or ``reduction`` is unknown; on calling, shapes differ or masks
            are not binary.

    References:
        Hu et al., "Topology-Preserving Deep Image Segmentation", NeurIPS 2019, who average the
        error over patches; here it is that of the whole volume.

    Example:
        >>> import torch
        >>> whole = torch.ones(1, 1, 5, 5)
        >>> broken = whole.clone()
        >>> broken[..., 2, :] = 0
        >>> BettiErrorMetric(dimension=0)(y_pred=broken, y=whole)  # two pieces instead of one
        tensor([[1.]])
    """

    def __init__(
        self,
        dimension: int = 0,
        *,
        include_background: bool = False,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(
            include_background=include_background, reduction=reduction, get_not_nans=get_not_nans
        )
        if dimension not in (0, 1):
            raise ValueError(f"dimension must be 0 (pieces) or 1 (loops), got {dimension!r}")
        self.dimension = dimension

    def score(self, pred: Mask, true: Mask) -> float:
        return float(abs(betti_number(pred, self.dimension) - betti_number(true, self.dimension)))
