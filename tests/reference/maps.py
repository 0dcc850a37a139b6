"""Target maps as their papers publish them, or as their definition says, in the plainest way.

Shared by the tests and the benchmarks.
"""

import numpy as np
from scipy.ndimage import (
    distance_transform_edt,
    generate_binary_structure,
    label,
    maximum_filter,
)
from skimage.morphology import dilation, skeletonize

__all__ = [
    "box_distance",
    "components",
    "instance_distances",
    "published_distance",
    "published_tube",
    "weight_near_two",
]


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


def components(labels: np.ndarray, connectivity: int) -> np.ndarray:
    """The connected components of each class, numbered in the order of their first voxels."""
    steps = generate_binary_structure(labels.ndim, connectivity)
    numbers = np.zeros(labels.shape, dtype=np.int64)
    for c in np.unique(labels[labels > 0]):
        found, _ = label(labels == c, steps)
        numbers += np.where(found, found + numbers.max(), 0)
    _, first = np.unique(numbers[numbers > 0], return_index=True)
    in_order = np.zeros(len(first) + 1, dtype=np.int64)
    in_order[1 + np.argsort(first)] = 1 + np.arange(len(first))
    return in_order[numbers]


def instance_distances(instances: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """From every voxel's centre to the nearest centre of a voxel of each instance."""
    each = range(1, instances.max() + 1)
    return np.stack([distance_transform_edt(instances != n, sampling=spacing) for n in each])


def weight_near_two(
    instances: np.ndarray, spacing: tuple[float, ...], strength: float, sigma: float
) -> np.ndarray:
    """The U-Net's weight without its balance of classes; distances are to voxels as closed boxes."""
    if instances.max() < 2:
        return np.ones(instances.shape)
    each = range(1, instances.max() + 1)
    outside = [np.maximum(box_distance(instances == n, spacing), 0) for n in each]
    nearest, second = np.sort(outside, axis=0)[:2]
    weight: np.ndarray = 1 + strength * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return weight
