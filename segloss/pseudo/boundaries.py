"""Which voxels of a label lie at the boundary of a class; plain tensors, on any device.

Both masks take the voxels beyond the border of the image to be those at it, so that the border is
no boundary.
"""

import torch
from torch import Tensor

from segloss.shapes import Map

__all__ = ["label_boundary", "sobel_boundary"]


def label_boundary(label: Map) -> Map:
    """The voxels around which, within one step along each axis, there are several labels.

    Both sides of every boundary, and all of what is one voxel thin.

    Args:
        label: ``(b, *space)`` class labels.

    Returns:
        ``(b, *space)`` bool.

    Example:
        >>> label_boundary(torch.tensor([[[0, 0, 0, 1, 1, 1]]]))
        tensor([[[False, False,  True,  True, False, False]]])
    """
    largest = smallest = label
    for axis in range(1, label.ndim):
        largest = torch.maximum(
            torch.maximum(largest, _before(largest, axis)), _after(largest, axis)
        )
        smallest = torch.minimum(
            torch.minimum(smallest, _before(smallest, axis)), _after(smallest, axis)
        )
    return largest != smallest


def sobel_boundary(label: Map, classes: int) -> Map:
    """The voxels where the Sobel gradient of some class's mask is not zero.

    The kernels are odd: a voxel between two equal neighbours is not found, so that what is one
    voxel thin, a vessel or a small lesion, has a boundary beside it but none on it.

    Args:
        label: ``(b, *space)`` class labels.
        classes: How many classes there are.

    Returns:
        ``(b, *space)`` bool.

    Example:
        >>> sobel_boundary(torch.tensor([[[0, 0, 1, 0, 0]]]), classes=2)
        tensor([[[False,  True, False,  True, False]]])
    """
    found = torch.zeros_like(label, dtype=torch.bool)
    for k in range(classes):
        mask = (label == k).to(torch.int8)  # sums of integers: exact, however the device adds up
        for axis in range(1, label.ndim):
            slope = _after(mask, axis) - _before(mask, axis)
            for other in set(range(1, label.ndim)) - {axis}:
                slope = _before(slope, other) + 2 * slope + _after(slope, other)
            found |= slope != 0
    return found


def _before(x: Tensor, axis: int) -> Tensor:
    """The voxel before each along an axis; at the border itself."""
    return torch.cat((x.narrow(axis, 0, 1), x.narrow(axis, 0, x.shape[axis] - 1)), axis)


def _after(x: Tensor, axis: int) -> Tensor:
    """The voxel after each along an axis; at the border itself."""
    end = x.shape[axis] - 1
    return torch.cat((x.narrow(axis, 1, end), x.narrow(axis, end, 1)), axis)
