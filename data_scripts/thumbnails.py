"""A label at a glance: its surface in the colours of its classes, as a small picture."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.ndimage import gaussian_filter

from segloss.data_scripts.pictures import color
from segloss.data_scripts.sheets import class_bits, turned
from segloss.data_scripts.volumes import Grid
from segloss.transforms.arrays import bounding_box

__all__ = ["thumbnail"]

Array = npt.NDArray[Any]

SIDE = 128  # pixels of the longer one
LIGHT = np.array([-0.4, -0.55, 0.73])  # comes from above, left, and where one looks from


def thumbnail(labels: Array, grid: Grid, classes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Draw a label on nothing, cut to where there is some.

    Of a volume one sees the surface from the side on which it looks largest, with light and shade.

    Args:
        labels: Of the grid's shape.
        grid: Where they lie.
        classes: Of each class, its labels. Where classes overlap, the last is seen.

    Returns:
        A WebP file, or nothing if there is no voxel of any class.
    """
    turn, sizes = turned(grid)
    bits = turn(class_bits(labels, classes))
    bits = bits[bounding_box(bits > 0)]
    if not bits.size:
        return b""
    if bits.ndim == 2:
        seen, plane, shade = bits.T, sizes, np.ones(bits.T.shape)
    else:
        axis = _broadest(bits, sizes)
        plane = sizes[:axis] + sizes[axis + 1 :]
        depth = (bits > 0).argmax(axis)
        seen = np.take_along_axis(bits, np.expand_dims(depth, axis), axis).squeeze(axis).T
        shade = _shade(depth.T * sizes[axis], seen > 0, plane[::-1])
    last = np.frexp(seen.astype(np.float64))[1]  # the number of the highest bit, from 1 on
    inks = np.array([(0.0, 0.0, 0.0), *(to_rgb(color(n + 1)) for n in range(len(classes)))])
    painted = inks[np.minimum(last, len(classes))] * shade[..., None]
    pixels = np.dstack([painted, seen > 0])
    return _packed(np.rint(255 * pixels).astype(np.uint8), plane)


def _broadest(bits: Array, sizes: tuple[float, ...]) -> int:
    """The axis along which the silhouette has the largest area."""
    areas = [
        np.count_nonzero((bits > 0).any(axis)) * np.prod(sizes) / sizes[axis] for axis in range(3)
    ]
    return int(np.argmax(areas))


def _shade(depth: Array, seen: Array, sizes: tuple[float, ...]) -> Array:
    """Brightness of a surface, from how far away it is: by its slope, and darker further away."""
    far = float(depth[seen].max())
    smooth = gaussian_filter(np.where(seen, depth, far).astype(np.float64), 0.8, mode="nearest")
    slopes = [
        np.gradient(smooth, size, axis=axis) if smooth.shape[axis] > 1 else np.zeros(smooth.shape)
        for axis, size in enumerate(sizes)
    ]
    normals = np.stack([slopes[1], slopes[0], np.ones(smooth.shape)])
    normals /= np.linalg.norm(normals, axis=0)
    lit = np.tensordot(LIGHT / np.linalg.norm(LIGHT), normals, axes=1).clip(0)
    return np.asarray((0.5 + 0.6 * lit).clip(0, 1) * (1 - 0.3 * smooth / max(far, 1e-9)))


def _packed(pixels: Array, sizes: tuple[float, ...]) -> bytes:
    """Scale to true proportions, and compress."""
    width, height = pixels.shape[1] * sizes[0], pixels.shape[0] * sizes[1]
    scale = SIDE / max(width, height)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(pixels, "RGBA").resize(shape, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=75)
    return file.getvalue()
