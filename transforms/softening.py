"""Labels that are less certain where they change.

Array functions; `segloss.transforms.functional` is where they are imported from.
"""

from math import exp

import numpy as np

from segloss.transforms.arrays import Array, DistanceMap, Number, Unchecked, boolean, positive

__all__ = ["soften"]


def soften(mask: Unchecked, *, sigma: Number = 1, unknown: Unchecked | None = None) -> DistanceMap:
    """How much each voxel belongs to a mask, if its neighbours have a say: label smoothing in space.

    Half of it is what the voxel itself says, the other half the mean of its neighbours, the
    3 × 3 (× 3) voxels around it, each with the weight exp(-d² / (2 sigma²)) of its distance d in
    voxels. So a voxel never belongs to the mask by less than a half if it is in it, nor by more if
    it is not; away from boundaries nothing changes. Beyond the border the image goes on with the
    voxels at its border. It is linear: what is made of the masks of all classes adds up to 1.

    Args:
        mask: ``(H, W)`` or ``(D, H, W)`` bool.
        sigma: Of the Gaussian, in voxels. The paper has 1.
        unknown: Voxels that may or may not belong to the mask. They come out as 0, and have no say
            in others.

    Returns:
        float32 from 0 to 1, the shape of `mask`.

    Raises:
        TypeError: If a mask is not bool.
        ValueError: If `sigma` is not above 0, there are neither two nor three axes, or the shapes
            differ.

    References:
        Islam and Glocker, "Spatially varying label smoothing: capturing uncertainty from expert
        annotations", IPMI 2021. Its kernel of Gaussian weights has the sum of the others in its
        centre, which is the half.

    Example:
        >>> import numpy as np
        >>> soften(np.array([[False, False, True, True, True]])).round(2)
        array([[0.  , 0.17, 0.83, 1.  , 1.  ]], dtype=float32)
    """
    tap = exp(-1 / (2 * positive("sigma", sigma) ** 2))
    own = boolean("mask", mask).astype(np.float64)
    known = np.ones_like(own)
    if unknown is not None:
        if unknown.shape != mask.shape:
            raise ValueError(f"unknown has shape {unknown.shape}, but mask has {mask.shape}.")
        known -= boolean("unknown", unknown)
        own *= known
    told = _neighbours(known, tap)
    alone = told == 0
    mean = np.where(alone, own, _neighbours(own, tap) / np.where(alone, 1, told))
    return ((own + mean) / 2 * known).astype(np.float32)


def _neighbours(x: Array, tap: float) -> Array:
    """The sum of the neighbours of each voxel; a step along each of k axes has the weight tap^k."""
    total = np.zeros_like(x)
    for axis in range(x.ndim):
        rows = np.moveaxis(x + total, axis, 0)
        around = np.concatenate((rows[:1], rows[:-1])) + np.concatenate((rows[1:], rows[-1:]))
        total += tap * np.moveaxis(around, 0, axis)
    return total
