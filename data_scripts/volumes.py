"""Label maps and images from files of any format, checked as they are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segloss.data_scripts.formats import LABELS, PICTURES, opened
from segloss.data_scripts.grids import BadVolume, Grid, Unit
from segloss.data_scripts.stored import stem, suffix
from segloss.data_scripts.writing import map_files, read_map, write_map

__all__ = [
    "IMAGE_SUFFIXES",
    "SUFFIXES",
    "BadVolume",
    "Grid",
    "Unit",
    "Volume",
    "map_files",
    "read_grid",
    "read_image",
    "read_label",
    "read_map",
    "stem",
    "suffix",
    "write_map",
]

SUFFIXES = tuple(LABELS)
"""Endings of the files that a label can be read from."""

IMAGE_SUFFIXES = (*LABELS, *PICTURES)
"""Endings of the files that an image can be read from."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Numbers, and where they lie. The array has the grid's shape and is in C order."""

    array: np.ndarray
    grid: Grid


def read_grid(path: Path) -> Grid:
    """Where the voxels of a label or an image lie, from its header.

    Further channels of an image are no axes of its grid.

    Raises:
        BadVolume: If the file cannot be read, or no distance can be measured on its grid.
    """
    return opened(path, picture=True).grid


def read_label(path: Path) -> Volume:
    """Read a label map, and check that it is one.

    A file is read some planes at a time, so that a label stored as float64 never lies in memory
    that way. Palette pictures count as the indices that they store.

    Args:
        path: A file that ends in one of `SUFFIXES`.

    Returns:
        The labels, in the smallest of uint8, uint16 and uint32 that holds them, and their grid.

    Raises:
        BadVolume: If the file cannot be read, has not 2 or 3 axes, holds several channels or
            anything but whole numbers from 0 to 4294967295, or if no distance can be measured on
            its grid: voxel sizes not above 0, axes not at right angles.
    """
    stored = opened(path, picture=False)
    if stored.channels != 1:
        raise BadVolume(
            f"{path.name}: holds {stored.channels} channels (or time points); expected one label "
            f"per voxel. Save the labels as one number each, or each channel in a file of its own."
        )
    labels = np.empty(stored.grid.shape, np.uint8)
    start = 0
    for block in stored.blocks():
        ids = _whole_numbers(path.name, block, start)
        if ids.dtype.itemsize > labels.itemsize:
            labels = labels.astype(ids.dtype)
        labels[..., start : start + ids.shape[-1]] = ids
        start += ids.shape[-1]
    return Volume(labels, stored.grid)


def read_image(path: Path) -> Volume:
    """Read an image to look at.

    Returns:
        The values, float32, and their grid. Of several channels, the first; of colours, the
        brightness.

    Raises:
        BadVolume: If the file cannot be read, or no distance can be measured on its grid.
    """
    stored = opened(path, picture=True)
    image = np.empty(stored.grid.shape, np.float32)
    start = 0
    for block in stored.blocks():
        image[..., start : start + block.shape[-1]] = block
        start += block.shape[-1]
    return Volume(image, stored.grid)


def _whole_numbers(name: str, block: np.ndarray, start: int) -> np.ndarray:
    """The block as unsigned integers, the smallest that hold it.

    Args:
        name: The file's name, for messages.
        block: Some planes of a label.
        start: Index of the first of them, for messages.
    """
    if block.dtype.kind == "b":
        return block.astype(np.uint8)  # a view may hold 255 for True
    low, high = block.min(), block.max()  # NaN if there is one
    if block.dtype.kind == "f" and not (
        np.isfinite(high - low) and (block == np.rint(block)).all()
    ):
        with np.errstate(invalid="ignore"):
            wrong = block != np.rint(block)
        value, voxel = _first(block, wrong | ~np.isfinite(block), start)
        raise BadVolume(
            f"{name}: holds {value:.6g} at voxel {voxel}; expected whole numbers. If it was "
            f"resampled, do it again with nearest neighbours; if it is a probability map, "
            f"threshold it."
        )
    if low < 0:
        value, voxel = _first(block, block < 0, start)
        raise BadVolume(
            f"{name}: holds {value:.0f} at voxel {voxel}; expected 0 or more. Give unknown voxels "
            f"a label above the others and name it with --ignore."
        )
    if high > np.iinfo(np.uint32).max:
        value, voxel = _first(block, block > np.iinfo(np.uint32).max, start)
        raise BadVolume(
            f"{name}: holds {value:.0f} at voxel {voxel}; expected labels below 2**32. Number them "
            f"from 1 on."
        )
    return block.astype(np.min_scalar_type(int(high)), copy=False)


def _first(block: np.ndarray, wrong: np.ndarray, start: int) -> tuple[float, tuple[int, ...]]:
    """The first voxel, in the file's own order, where something is wrong; and its value."""
    where = np.unravel_index(int(np.argmax(wrong.ravel(order="F"))), block.shape, order="F")
    voxel = tuple(map(int, where))
    return float(block[voxel]), (*voxel[:-1], voxel[-1] + start)
