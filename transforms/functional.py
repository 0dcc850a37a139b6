"""Target maps as functions of arrays: no channels, no batch, no MONAI, no PyTorch.

Every function takes one image of two or three axes and returns one of the same shape (`downsample`
takes any axes, and returns fewer voxels). An array of CuPy is worked on by its GPU, and an array of
CuPy is returned. They are written family by family in modules of their own; this is where they are
imported from.
"""

from segloss.transforms.arrays import Unchecked, namespace
from segloss.transforms.boundary import boundary_band, boundary_weight, signed_distance
from segloss.transforms.centreline import centreline, skeleton, tube, tubed_skeleton
from segloss.transforms.components import instance_regions
from segloss.transforms.softening import soften

__all__ = [
    "boundary_band",
    "boundary_weight",
    "centreline",
    "downsample",
    "instance_regions",
    "signed_distance",
    "skeleton",
    "soften",
    "tube",
    "tubed_skeleton",
]


def downsample(labels: Unchecked, shape: tuple[int, ...]) -> Unchecked:
    """A label map with fewer voxels: each takes the label found at its centre.

    The same as ``torch.nn.functional.interpolate(..., size=shape, mode="nearest-exact")``, for any
    dtype.

    Args:
        labels: Any axes, any dtype.
        shape: The new number of voxels along each axis.

    Returns:
        The dtype of `labels`, of shape `shape`.

    Raises:
        ValueError: If `shape` has another number of axes, or asks for more voxels or for none.

    Example:
        >>> import numpy as np
        >>> downsample(np.arange(6)[None], (1, 3))
        array([[1, 3, 5]])
    """
    axes = list(zip(shape, labels.shape, strict=False))
    if len(shape) != labels.ndim or not all(1 <= new <= old for new, old in axes):
        raise ValueError(
            f"shape is {tuple(shape)}: expected {labels.ndim} numbers, from 1 to {labels.shape}"
        )
    # The centre of voxel i of `new` is (i + ½) old / new voxels from the edge; in whole numbers.
    xp = namespace(labels)
    found = [(2 * xp.arange(new) + 1) * old // (2 * new) for new, old in axes]
    low: Unchecked = labels[xp.ix_(*found)]
    return low
