"""What the manifest says of a class: in how many pieces it lies, how long it is, how thin."""

from itertools import product
from typing import Literal

import cc3d
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from segloss.transforms.arrays import Mask, Spacing, Unchecked, boolean, bounding_box, voxel_size

__all__ = ["centreline_length", "component_count", "thinnest_radius"]


def component_count(mask: Unchecked) -> int:
    """Count the pieces of a mask. Voxels that share a corner are connected.

    Args:
        mask: ``(H, W)`` or ``(D, H, W)`` bool.

    Returns:
        How many connected components there are; 0 for an empty mask.

    Raises:
        TypeError: If `mask` is not bool.
        ValueError: If it has neither two nor three axes.

    Example:
        >>> component_count(np.array([[1, 0, 0, 1], [0, 1, 0, 1]], dtype=bool))
        2
    """
    mask = boolean("mask", mask)
    # A margin, because cc3d 4.1 fails on a volume that is a single line of voxels.
    around = np.pad(mask[bounding_box(mask)], 1)
    connectivity: Literal[8, 26] = 8 if mask.ndim == 2 else 26
    _, count = cc3d.connected_components(around, connectivity=connectivity, return_N=True)
    return int(count)


def centreline_length(centreline: Unchecked, spacing: Spacing = None) -> float:
    """How long a centreline is: the least length of links that hold its pieces together.

    Voxels that share a corner are linked centre to centre, and the lengths of a minimum spanning
    forest of these links are summed. So a diagonal step counts with its true length and a fork is
    not counted twice, whatever clump of voxels it is made of. A closed loop lacks one step. The
    voxels of a straight line that runs askew make a detour: up to 8 % in two dimensions and 13 % in
    three if their sides are equal.

    Args:
        centreline: ``(H, W)`` or ``(D, H, W)`` bool, one voxel thick.
        spacing: Size of a voxel along each axis in the order of the array, or along all. None: 1.

    Returns:
        The length in the unit of `spacing`; 0 if no two voxels touch.

    Raises:
        TypeError: If `centreline` is not bool.
        ValueError: If it has neither two nor three axes, or a spacing is not above 0.

    References:
        Kruskal, "On the shortest spanning subtree of a graph and the traveling salesman problem",
        Proceedings of the American Mathematical Society 7, 1956.

    Example:
        >>> diagonal = np.eye(4, dtype=bool)
        >>> centreline_length(diagonal, spacing=(3.0, 4.0))
        15.0
    """
    centreline = boolean("centreline", centreline)
    sizes = np.asarray(voxel_size(spacing, centreline.ndim))
    return _spanning_length(centreline, sizes)


def thinnest_radius(radii: np.ndarray) -> float | None:
    """How thin a structure gets: the 5th percentile of the radii along its centreline.

    Not the least of them: where a centreline ends or runs out at the surface, the boundary is half
    a voxel away, however thick the structure is.

    Args:
        radii: For each voxel of the centreline, how far it is from the boundary; any shape. That
            is minus `segloss.transforms.functional.signed_distance` there.

    Returns:
        The radius below which 5 % of the centreline lie, or None if there is no centreline.

    Example:
        >>> thinnest_radius(np.array([0.5, 2.0, 2.0, 2.0, 2.0]))
        0.8
    """
    return float(np.percentile(radii, 5)) if radii.size else None


def _spanning_length(mask: Mask, sizes: np.ndarray) -> float:
    # Numbered as in a volume with a margin, so that no neighbour is one across the border. Only the
    # voxels of the centreline are held, and each finds a neighbour by its number.
    shape = tuple(side + 2 for side in mask.shape)
    numbers = np.ravel_multi_index(tuple(axis + 1 for axis in np.nonzero(mask)), shape)
    if not numbers.size:
        return 0.0
    strides = np.append(np.cumprod(shape[:0:-1])[::-1], 1)
    links = []
    for step in product((-1, 0, 1), repeat=mask.ndim):
        if step > (0,) * mask.ndim:  # half of the directions: each link once
            wanted = numbers + strides @ step
            place = np.searchsorted(numbers, wanted)
            start = np.flatnonzero(numbers.take(place, mode="clip") == wanted)
            length = np.full(start.size, np.linalg.norm(sizes * step))
            links.append((length, start, place[start]))
    lengths, starts, ends = map(np.concatenate, zip(*links, strict=True))
    graph = coo_array((lengths, (starts, ends)), shape=(numbers.size, numbers.size))
    return float(minimum_spanning_tree(graph.tocsr()).sum())
