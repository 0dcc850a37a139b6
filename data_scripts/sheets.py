"""The planes of a case that a picture shows: slices, and projections along the axes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from segloss.data_scripts.classes import Classes
from segloss.data_scripts.manifest import Record
from segloss.data_scripts.volumes import Grid

__all__ = ["MOST", "Scene", "Sheet", "class_bits", "recorded_classes", "sheets", "turned"]

Array = npt.NDArray[Any]

ENDS = (("R", "L"), ("A", "P"), ("S", "I"))  # where the axes of a turned volume begin and end
MOST = 64
"""Classes that are told apart."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What there is to draw. Arrays have the grid's shape and order."""

    name: str
    grid: Grid
    labels: Array
    classes: Mapping[str, tuple[int, ...]]
    """Of each class or region: its name, and the labels that belong to it."""
    skeleton: Array
    """The number of the class, 1 for the first, on its skeleton; 0 elsewhere."""
    distance: Array
    """Distance to the nearest boundary, negative inside."""
    distance_unit: str
    image: Array | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Sheet:
    """A plane of a scene. Arrays are (rows, columns), the first row on top."""

    title: str
    size: tuple[float, float]
    """Width and height, in the unit of the grid."""
    ends: Sequence[str]
    """What is on the left, on the right, at the top and at the bottom; empty if no one knows."""
    grey: Array
    limits: tuple[float, float]
    """What is black, and what is white."""
    classes: Array
    """The set of classes of each pixel, a bit each."""
    skeleton: Array | None = None
    distance: Array | None = None


def turned(grid: Grid) -> tuple[Callable[[Array], Array], tuple[float, ...]]:
    """How to turn a grid's arrays so that their planes, transposed, can be looked at.

    The axes of a volume then lead to the patient's left, to the back and down, as radiologists
    look at it. What does not say how it lies stays as it is.

    Returns:
        What turns an array, without copying it; and the voxel sizes afterwards.
    """
    sizes = grid.spacing or (1.0,) * len(grid.shape)
    if not _in_patient(grid):
        return lambda array: array, sizes
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(grid.affine), nib.orientations.axcodes2ornt("LPI")
    )
    order = np.argsort(turn[:, 0])
    return (
        lambda array: np.asarray(nib.orientations.apply_orientation(array, turn)),
        tuple(sizes[axis] for axis in order),
    )


def class_bits(labels: Array, classes: Mapping[str, tuple[int, ...]]) -> Array:
    """For each voxel the set of its classes, a bit each; those from the 64th on share the last.

    Example:
        >>> class_bits(np.array([0, 1, 2]), {"vessel": (1, 2), "lumen": (2,)})
        array([0, 1, 3], dtype=uint8)
    """
    bits = min(len(classes), MOST)
    table = np.zeros(int(labels.max()) + 1, np.min_scalar_type(2**bits - 1))
    for number, values in enumerate(classes.values()):
        there = [value for value in values if value < len(table)]
        table[there] |= table.dtype.type(1 << min(number, MOST - 1))
    return np.asarray(table[labels])


def recorded_classes(record: Record) -> Classes:
    """What the labels of a case meant when its maps were made."""
    stated = next(iter(record.parameters.values()), {})
    regions = [tuple(values) for values in stated.get("region_labels") or ()]
    names = {
        entry["name"]: regions[int(number) - 1] if regions else (int(number),)
        for number, entry in record.classes.items()
    }
    return Classes(names, None, tuple(regions) or None, stated.get("ignore"), None)


def sheets(scene: Scene, bits: Array) -> list[list[Sheet]]:
    """Rows of planes: of a volume slices and projections, of an image three times itself.

    Args:
        scene: The case.
        bits: Its `class_bits`.
    """
    return [_flat(scene, bits)] if bits.ndim == 2 else _solid(scene, bits)


def _in_patient(grid: Grid) -> bool:
    return grid.spacing is not None and len(grid.shape) == 3


def _flat(scene: Scene, bits: Array) -> list[Sheet]:
    grey = 0.3 * (bits > 0) if scene.image is None else scene.image
    limits = (0.0, 1.0) if scene.image is None else _window(scene.image)
    sheet = _sheet("label", turned(scene.grid)[1], (), grey, limits, bits)
    return [
        sheet,
        replace(sheet, title="skeleton", skeleton=scene.skeleton.T),
        replace(sheet, title="distance", distance=scene.distance.T),
    ]


def _solid(scene: Scene, bits: Array) -> list[list[Sheet]]:
    turn, sizes = turned(scene.grid)
    bits, skeleton, distance = map(turn, (bits, scene.skeleton, scene.distance))
    image = None if scene.image is None else turn(scene.image)
    limits = (0.0, 1.0) if image is None else _window(image)
    inside = bits > 0
    slices, projections = [], []
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        plane, ends = sizes[:axis] + sizes[axis + 1 :], ENDS[:axis] + ENDS[axis + 1 :]
        letters = [letter for pair in ends for letter in pair]
        if not _in_patient(scene.grid):
            name, letters = f"along axis {axis}", []
        index = _middle(inside, axis)
        grey: Array = np.take(inside, index, axis) * 0.3
        if image is not None:
            grey = image.take(index, axis)
        sheet = _sheet(f"{name}, slice", plane, letters, grey, limits, bits.take(index, axis))
        line, depth = skeleton.take(index, axis).T, distance.take(index, axis).T
        slices.append(replace(sheet, skeleton=line, distance=depth))
        grey = np.sqrt(inside.sum(axis)) if image is None else np.fmax.reduce(image, axis)
        bright = (0.0, 1.4 * float(grey.max()) or 1.0) if image is None else _window(grey)
        seen = np.bitwise_or.reduce(bits, axis)
        sheet = _sheet(f"{name}, projection", plane, letters, grey, bright, seen)
        projections.append(replace(sheet, skeleton=skeleton.max(axis).T))
    return [slices, projections]


def _sheet(
    title: str,
    sizes: Sequence[float],
    ends: Sequence[str],
    grey: Array,
    limits: tuple[float, float],
    bits: Array,
) -> Sheet:
    width, height = (side * size for side, size in zip(bits.shape, sizes, strict=True))
    return Sheet(title, (width, height), ends, grey.T, limits, bits.T)


def _middle(inside: Array, axis: int) -> int:
    """The slice through the centre of mass, or that with most label if the centre is hollow."""
    voxels = inside.sum(axis=tuple(other for other in range(inside.ndim) if other != axis))
    if not voxels.any():
        return len(voxels) // 2
    centre = round(float(np.average(np.arange(len(voxels)), weights=voxels)))
    return centre if voxels[centre] else int(voxels.argmax())


def _window(image: Array) -> tuple[float, float]:
    """What is black and what is white: all values but the most extreme lie between."""
    sample = image.ravel()[:: max(1, image.size // 1_000_000)]
    known = sample[np.isfinite(sample)]
    low, high = np.percentile(known, (0.5, 99.8)) if known.size else (0.0, 0.0)
    return float(low), float(high) if high > low else float(low) + 1
