"""Target maps as their papers publish them, or as their definition says, in the plainest way.

Shared by the tests and the benchmarks.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter
from skimage.morphology import dilation, skeletonize

__all__ = ["box_distance", "published_distance", "published_tube"]


def published_tube(labels: np.ndarray) -> np.ndarray:
    """Skeleton recall's target: the skeleton of all classes, dilated twice, times the label."""
    skeleton = skeletonize(labels > 0).astype(np.int16)
    tube: np.ndarray = dilation(dilation(skeleton)) * labels.astype(np.int16)
    return tube


def published_distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The boundary loss's map: from centre to centre, and an offset of 1 inside."""
    if not mask.any():
        return np.zeros(mask.shape)
    outside = distance_transform_edt(~mask, sampling=spacing)
    inside = distance_transform_edt(mask, sampling=spacing)
    distance: np.ndarray = outside * ~mask - (inside - 1) * mask
    return distance


def box_distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Signed distance to the voxels on the other side as closed boxes, in float64.

    On a grid of half the spacing every voxel has a node at its centre, and its box is the 3 × 3 × 3
    nodes around it.
    """
    centres = (slice(1, None, 2),) * mask.ndim

    def to(side: np.ndarray) -> np.ndarray:
        nodes = np.zeros([2 * size + 1 for size in side.shape], dtype=bool)
        nodes[centres] = side
        boxes = maximum_filter(nodes, 3, mode="constant")
        distance: np.ndarray = distance_transform_edt(~boxes, sampling=[s / 2 for s in spacing])
        return distance[centres]

    return np.where(mask, -to(~mask), to(mask))
