"""Other people's losses, as their papers and defaults state them, without their edge cases."""

import torch
from torch import Tensor

from tests.reference.dense import one_hot


def skeleton_recall(logits: Tensor, skeleton: Tensor, smooth: float = 1.0) -> Tensor:
    """Kirchhoff et al. 2024: minus the recall, pooled over the batch, foreground classes' mean.

    `skeleton` holds labels, ``(b, *space)``, 0 off the skeletons.
    """
    c = logits.shape[1]
    p, s = logits.double().softmax(1).transpose(0, 1), one_hot(skeleton, c).transpose(0, 1)
    covered, length = (p * s).flatten(1).sum(1)[1:], s.flatten(1).sum(1)[1:]
    return -((covered + smooth) / (length + smooth)).mean()


def dice_and_cross_entropy(
    logits: Tensor, labels: Tensor, *, batch_dice: bool, smooth: float = 1e-5
) -> Tensor:
    """nnU-Net's default: minus the Dice of the foreground classes, plus cross entropy.

    The smoothing is added once to 2 Σ p y and once to Σ p + Σ y; the ratio is averaged over classes
    and, unless `batch_dice`, samples.
    """
    c = logits.shape[1]
    p, y = logits.double().softmax(1), one_hot(labels, c)
    over = (0, *range(2, p.ndim)) if batch_dice else tuple(range(2, p.ndim))
    overlap, pred, true = ((x.sum(over))[..., 1:] for x in (p * y, p, y))
    score = (2 * overlap + smooth) / (pred + true + smooth)
    cross_entropy = -(y * logits.double().log_softmax(1)).sum(1).mean()
    return cross_entropy - score.mean()


def boundary(logits: Tensor, distance: Tensor) -> Tensor:
    """Kervadec et al. 2019, eq. 5: the mean of p φ over voxels and foreground classes."""
    return (logits.double().softmax(1)[:, 1:] * distance.double()).mean()


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Lin et al. 2017, eq. 4, for softmax: the mean over the voxels."""
    p = (logits.double().softmax(1) * one_hot(labels, logits.shape[1])).sum(1)
    return ((1 - p) ** gamma * -torch.log(p)).mean()
