"""The instances of a label: its connected components, and what is nearest to each.

An array function; `segloss.transforms.functional` is where it is imported from.
"""

from typing import Any, Literal

import cc3d
import numpy as np

from segloss.transforms.arrays import (
    LabelMap,
    Regions,
    Spacing,
    bounding_box,
    class_ids,
    fitting,
    integers,
    on_gpu,
    one_of,
    voxel_size,
    whole,
)
from segloss.transforms.kernels import gpu, nearest

__all__ = ["instance_regions", "numbered"]

_NEIGHBOURS: dict[int, tuple[Literal[4, 6, 8, 18, 26], ...]] = {2: (4, 8), 3: (6, 18, 26)}


def instance_regions(
    labels: LabelMap,
    *,
    regions: str = "components",
    connectivity: int | None = None,
    spacing: Spacing = None,
    ignore: int | None = None,
    dtype: Any = np.int32,
) -> LabelMap:
    """The instances of a label, numbered from 1; or for every voxel the number of the nearest one.

    An instance is a connected component of voxels with the same class id. All classes are numbered
    through, in the order in which the first voxel of each instance comes in the array, so the same
    label gives the same numbers.

    With ``regions="voronoi"`` every voxel gets the number of the instance that is nearest, so that
    the image falls into as many regions as there are instances, as instance-wise losses and metrics
    need it (CC-Dice: Jaus et al., "Every component counts: Rethinking the measure of success for
    medical semantic segmentation in multi-instance segmentation tasks", AAAI 2025). Distances are
    exact, Euclidean, and from the centre of a voxel to that of another. If two instances are
    equally far, the lower number counts (up to the rounding of float32, unless voxels have the same
    size along all axes).

    Args:
        labels: ``(H, W)`` or ``(D, H, W)`` class ids, 0 for background; integers, or floats that
            hold integers.
        regions: ``"components"`` or ``"voronoi"``.
        connectivity: Voxels are connected if they are neighbours along at most so many axes at
            once, as in scikit-image: 1 is faces, 2 edges too, 3 corners too. None: the number of
            axes.
        spacing: Size of a voxel along each axis in the order of the array, or along all; for
            ``"voronoi"``. None: 1.
        ignore: The label of unknown voxels. They belong to no instance, connect nothing, and are 0
            in every case.
        dtype: Of the map: integers.

    Returns:
        `dtype`, the shape of `labels`. 0 throughout if there is no instance.

    Raises:
        TypeError: If labels are not integers, or `dtype` holds none.
        ValueError: If there are more instances than `dtype` can number, `connectivity` is not from
            1 to the number of axes, `regions` is none of the two, a spacing is not above 0, a label
            is negative, or there are neither two nor three axes.

    Example:
        >>> import numpy as np
        >>> label = np.array([[0, 1, 1, 0, 0, 0, 1, 2, 0]])
        >>> instance_regions(label)
        array([[0, 1, 1, 0, 0, 0, 2, 3, 0]], dtype=int32)
        >>> instance_regions(label, regions="voronoi")
        array([[1, 1, 1, 1, 1, 2, 2, 3, 3]], dtype=int32)
    """
    one_of("regions", regions, Regions)
    dtype = integers(dtype)
    ids, unknown = class_ids(labels, ignore)
    size = voxel_size(spacing, ids.ndim)
    instances = fitting("instance", numbered(ids, connectivity), dtype)
    if regions == "voronoi" and instances.any():
        kernels = gpu if on_gpu(instances) else nearest
        kernels.spread_labels(instances, size)
        if unknown is not None:
            instances[unknown] = 0
    return instances


def numbered(ids: LabelMap, connectivity: int | None = None) -> LabelMap:
    """The connected components of class ids, numbered from 1 in the order of their first voxels.

    Returns:
        int32, 0 where `ids` is.
    """
    neighbours = _NEIGHBOURS[ids.ndim]
    if connectivity is None:
        connectivity = ids.ndim
    elif whole("connectivity", connectivity, least=1) > ids.ndim:
        raise ValueError(
            f"connectivity must be from 1 to {ids.ndim}, the number of axes, got {connectivity}."
        )
    if on_gpu(ids):
        return gpu.numbered(ids, connectivity)
    instances = np.zeros(ids.shape, np.int32)
    box = bounding_box(ids > 0)
    # With a margin, because cc3d numbers in another order where an axis has a single voxel, and
    # version 4.1 fails on a volume that is a single line.
    margin = np.pad(ids[box], 1)
    found = cc3d.connected_components(margin, connectivity=neighbours[connectivity - 1])
    instances[box] = found[(slice(1, -1),) * ids.ndim]
    return instances
