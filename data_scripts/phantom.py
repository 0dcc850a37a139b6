"""Branching vessels that look a little like the real thing, from a seed."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, zoom

__all__ = ["BRIGHTNESS", "Phantom", "vessel_phantom"]

Array = npt.NDArray[np.float64]

BRIGHTNESS: Mapping[str, Mapping[str, float]] = {
    "one": {"vessel": 1.0},
    "nested": {"wall": 0.5, "lumen": 1.0},
    "several": {"artery": 1.0, "vein": 0.6},
}
"""The classes there can be, from 1 on, and the part of the contrast that each has."""

LUMEN = 0.6
"""Its radius, as a part of the vessel's."""


class Phantom(NamedTuple):
    """A volume and what is in it."""

    image: npt.NDArray[np.float32]
    """Brightness: about 0 outside the vessels and ``contrast`` inside."""
    label: npt.NDArray[np.uint8]
    """The class in the vessels, from 1 on; 0 elsewhere."""


class Vessel(NamedTuple):
    """A stretch between two forks: balls in a row, in the units of the spacing."""

    centers: Array
    radii: Array


def vessel_phantom(
    shape: tuple[int, ...],
    *,
    seed: int,
    spacing: tuple[float, ...] | None = None,
    classes: str = "one",
    trees: int = 3,
    radius: float = 3.0,
    thinnest: float = 0.7,
    contrast: float = 1.0,
    fading: float = 0.3,
    noise: float = 0.3,
    bias: float = 0.15,
    blur: float = 0.7,
) -> Phantom:
    """Grow vessel trees from the faces of a volume, and take a noisy picture of them.

    Each tree enters through a face, winds, tapers and forks until its twigs are as thin as
    ``thinnest`` or leave the volume. The cross-sections of a fork's children add up to the parent's
    by Murray's law. The same arguments always give the same phantom.

    Args:
        shape: Voxels along each of two or three axes, 8 or more each.
        seed: Chooses the phantom; 0 or more.
        spacing: Size of a voxel along each axis; 1 by default. Lengths are in this unit.
        classes: What the labels tell apart, in vessels that are the same for all three. ``"one"``:
            1 is vessel. ``"nested"``: 1 is the wall, half as bright, and 2 the lumen, with 0.6 of
            the radius; it is nowhere broken, and where a vessel is one voxel wide it is all lumen.
            ``"several"``: the trees are by turns 1, an artery, and 2, a vein with 0.6 of the
            brightness; where trees cross, a voxel belongs to the one that was grown first.
        trees: How many trees enter the volume. Each is one connected component unless two meet.
        radius: Radius of a tree where it enters.
        thinnest: Radius below which a vessel ends.
        contrast: Brightness of a wide vessel above the background; blur makes thin ones fainter.
        fading: How much of a vessel's brightness is lost in places, as where the blood is slow: 0
            nowhere, 1 all of it here and there. Such gaps must be bridged by reason.
        noise: Standard deviation of the Gaussian noise.
        bias: Strength of the smooth field that brightens one region and darkens another: the
            standard deviation of its logarithm, roughly.
        blur: Standard deviation of the Gaussian point spread, in voxels.

    Returns:
        The image, float32, and the label, uint8, both of the given shape.

    Raises:
        ValueError: An argument is out of its range; the message names it.

    References:
        Murray, "The physiological principle of minimum work", PNAS 12, 1926: the cube of a
        vessel's radius is the sum of the cubes of its children's.

    Example:
        >>> image, label = vessel_phantom((32, 32, 32), seed=0)
        >>> image.dtype, image.shape, int(label.max())
        (dtype('float32'), (32, 32, 32), 1)
    """
    spacing = (1.0,) * len(shape) if spacing is None else spacing
    if len(shape) not in (2, 3) or min(shape) < 8:
        raise ValueError(f"shape must be two or three numbers, each 8 or more, got {shape}")
    if len(spacing) != len(shape) or min(spacing) <= 0:
        raise ValueError(f"spacing must be {len(shape)} positive numbers, got {spacing}")
    if seed < 0 or trees < 0:
        raise ValueError(f"seed and trees must be 0 or more, got seed={seed}, trees={trees}")
    if classes not in BRIGHTNESS:
        raise ValueError(f"classes must be one of {', '.join(BRIGHTNESS)}, got {classes!r}")
    if not 0 < thinnest <= radius:
        raise ValueError(f"thinnest must lie between 0 and radius={radius}, got {thinnest}")
    if not 0 <= fading <= 1:
        raise ValueError(f"fading must lie between 0 and 1, got {fading}")
    if min(noise, bias, blur) < 0:
        raise ValueError(
            f"noise, bias and blur must be 0 or more, got noise={noise}, bias={bias}, blur={blur}"
        )
    rng = np.random.default_rng(seed)
    units = np.asarray(spacing, dtype=np.float64)
    extent, step = np.asarray(shape) * units, units.min() / 2
    grown = [list(_grow(rng, extent, radius, thinnest, step)) for _ in range(trees)]
    label = np.zeros(shape, dtype=np.uint8)
    for number, tree in reversed(list(enumerate(grown))):  # the first is drawn over the others
        for vessel in tree:
            _draw(label, vessel, units, 1 + number % 2 if classes == "several" else 1)
    if classes == "nested":
        for vessel in (vessel for tree in grown for vessel in tree):
            _draw(label, vessel._replace(radii=LUMEN * vessel.radii), units, 2)
    often = tuple(-(-n // 6) for n in shape)
    brightness = contrast * (1 - fading * _stretched(rng.uniform(0, 1, often), shape, order=1))
    part = np.array([0.0, *BRIGHTNESS[classes].values()], dtype=np.float32)
    image = gaussian_filter(part[label] * brightness, blur)
    image += 1.0  # tissue has some brightness of its own for the field to act on
    image *= np.exp(_stretched(rng.normal(0, bias, (4,) * len(shape)), shape, order=3))
    image += noise * rng.standard_normal(shape, dtype=np.float32) - 1.0
    return Phantom(image, label)


def _stretched(coarse: Array, shape: tuple[int, ...], order: int) -> npt.NDArray[np.float32]:
    """Interpolate random numbers on a coarse grid: a field as smooth as the grid is coarse."""
    factors = np.divide(shape, coarse.shape)
    field = zoom(coarse, factors, order=order, mode="nearest", grid_mode=True, output=np.float32)
    return np.asarray(field)


def _grow(
    rng: np.random.Generator, extent: Array, radius: float, thinnest: float, step: float
) -> Iterator[Vessel]:
    """Grow one tree from a face inwards; the balls of a vessel are ``step`` apart."""
    root, axes = radius, extent.size
    center, direction = rng.uniform(0.2, 0.8, axes) * extent, rng.normal(0, 0.3, axes)
    axis, side = rng.integers(axes), rng.integers(2)
    center[axis], direction[axis] = side * extent[axis], 1 - 2 * side
    tips = [(center, direction / np.linalg.norm(direction), radius)]
    while tips:
        center, direction, radius = tips.pop()
        length = rng.uniform(6, 16) * np.sqrt(radius * root)  # twigs are slender
        steps = int(length / step) + 1
        bends = rng.normal(0, 0.2 * np.sqrt(step / radius), (steps, axes))
        directions = direction + np.cumsum(bends, axis=0)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        centers = center + step * np.cumsum(directions, axis=0)
        radii = radius * np.linspace(1, 0.9, steps)
        outside = ((centers < 0) | (centers >= extent)).any(axis=1)
        if outside.any():
            end = int(outside.argmax())
            yield Vessel(centers[:end], radii[:end])
            continue
        yield Vessel(centers, radii)
        share = rng.uniform(0.2, 0.5)  # of the flow; a small share leaves as a side branch
        away = rng.normal(size=axes)
        away -= (away @ directions[-1]) * directions[-1]
        away /= np.linalg.norm(away)
        for part, turn in ((share, 1 - share), (1 - share, -share)):
            child = radii[-1] * part ** (1 / 3)
            if child >= thinnest:
                turned = directions[-1] + 1.2 * turn * away
                tips.append((centers[-1], turned / np.linalg.norm(turned), child))


def _draw(label: npt.NDArray[np.uint8], vessel: Vessel, units: Array, class_id: int) -> None:
    """Fill the balls, and in any case the voxels at their centres, so that thin vessels stay whole."""
    last = np.asarray(label.shape) - 1  # a quotient may round up to the first voxel outside
    nearest = np.minimum(np.floor(vessel.centers / units).astype(int), last)
    label[tuple(nearest.T)] = class_id
    reach = np.ceil(vessel.radii[:, None] / units).astype(int)
    first, end = np.maximum(nearest - reach, 0), np.minimum(nearest + reach, last) + 1
    grid = [(np.arange(n) + 0.5) * unit for n, unit in zip(label.shape, units, strict=True)]
    for ball, box in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
        part = tuple(map(slice, *box))
        sides = zip(grid, part, vessel.centers[ball], strict=True)
        squares = np.ix_(*((at[side] - center) ** 2 for at, side, center in sides))
        label[part][sum(squares) <= vessel.radii[ball] ** 2] = class_id
