"""Centreline Dice: are thin structures found along their whole length, and only there?"""

from typing import final

import numpy as np

from segloss.metrics.base import Mask, MaskMetric
from segloss.transforms.functional import skeleton

__all__ = ["CenterlineDiceMetric"]


@final
class CenterlineDiceMetric(MaskMetric):
    r"""Centreline Dice (clDice) with hard skeletons, from 0 to 1; higher is better.

    Where :math:`S_P` and :math:`S_T` are the skeletons of the predicted mask :math:`P` and the true
    mask :math:`T`, topology precision is the part of :math:`S_P` inside :math:`T`, topology
    sensitivity the part of :math:`S_T` inside :math:`P`, and the metric is their harmonic mean:

    .. math:: 2 \frac{|S_P \cap T|}{|S_P|} \frac{|S_T \cap P|}{|S_T|} \bigg/
              \left(\frac{|S_P \cap T|}{|S_P|} + \frac{|S_T \cap P|}{|S_T|}\right)

    A mask so small that thinning leaves nothing of it is its own skeleton. Two empty masks have no
    centreline to compare: NaN, which `aggregate` leaves out. One empty mask scores 0.

    Call it with ``y_pred`` and ``y``: binarised masks (B, C, H, W) or (B, C, H, W, D) of any dtype,
    MetaTensor or not, or lists of masks without the batch axis. It returns one value per sample and
    class, (B, C), float32, and keeps it for `aggregate`.

    Args:
        include_background: Whether channel 0 counts. It always does where it is the only one.
        reduction: How `aggregate` reduces samples and classes; MONAI's names.
        get_not_nans: Have `aggregate` return how many values counted, too.

    Raises:
        ValueError: ``reduction`` is unknown; on calling, shapes differ or masks are not binary.

    References:
        Shit et al., "clDice: a Novel Topology-Preserving Loss Function for Tubular Structure
        Segmentation", CVPR 2021.

    Example:
        >>> import torch
        >>> line = torch.zeros(1, 1, 9, 20)
        >>> line[..., 4, :] = 1
        >>> half = line.clone()
        >>> half[..., 10:] = 0
        >>> metric = CenterlineDiceMetric()
        >>> metric(y_pred=half, y=line)  # precision 1, sensitivity 1/2
        tensor([[0.6667]])
    """

    def score(self, pred: Mask, true: Mask) -> float:
        if not pred.any() and not true.any():
            return np.nan
        precision, sensitivity = _inside(pred, true), _inside(true, pred)
        return 2 * precision * sensitivity / max(precision + sensitivity, 1e-12)


def _inside(mask: Mask, other: Mask) -> float:
    """The part of a mask's skeleton that lies inside another mask."""
    line = skeleton(mask)
    if not line.any():
        line = mask  # thinning can wear a speck of a few voxels away: it is its own centreline
    return float((line & other).sum() / max(line.sum(), 1))
