"""``segloss phantom``: branching vessels that look a little like the real thing, from a seed."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from scipy.ndimage import gaussian_filter, zoom

__all__ = ["Phantom", "phantom", "vessel_phantom"]

Array = npt.NDArray[np.float64]
N = TypeVar("N", int, float)


class Phantom(NamedTuple):
    """A volume and what is in it."""

    image: npt.NDArray[np.float32]
    """Brightness: about 0 outside the vessels and ``contrast`` inside."""
    label: npt.NDArray[np.uint8]
    """1 in the vessels, 0 elsewhere."""


class Vessel(NamedTuple):
    """A stretch between two forks: balls in a row, in the units of the spacing."""

    centers: Array
    radii: Array


def vessel_phantom(
    shape: tuple[int, ...],
    *,
    seed: int,
    spacing: tuple[float, ...] | None = None,
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
    label = np.zeros(shape, dtype=np.uint8)
    for _ in range(trees):
        for vessel in _grow(rng, np.asarray(shape) * units, radius, thinnest, units.min() / 2):
            _draw(label, vessel, units)
    often = tuple(-(-n // 6) for n in shape)
    brightness = contrast * (1 - fading * _stretched(rng.uniform(0, 1, often), shape, order=1))
    image = gaussian_filter(label * brightness, blur)
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


def _draw(label: npt.NDArray[np.uint8], vessel: Vessel, units: Array) -> None:
    """Fill the balls, and in any case the voxels at their centres, so that thin vessels stay whole."""
    last = np.asarray(label.shape) - 1  # a quotient may round up to the first voxel outside
    nearest = np.minimum(np.floor(vessel.centers / units).astype(int), last)
    label[tuple(nearest.T)] = 1
    reach = np.ceil(vessel.radii.max(initial=0) / units).astype(int)
    around = np.indices(2 * reach + 1).reshape(len(units), -1).T - reach
    voxels = nearest[:, None] + around
    offsets = (voxels + 0.5) * units - vessel.centers[:, None]
    drawn = (offsets**2).sum(-1) <= vessel.radii[:, None] ** 2
    drawn &= ((voxels >= 0) & (voxels < label.shape)).all(-1)
    label[tuple(voxels[drawn].T)] = 1


def phantom(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", file_okay=False, help="Made if it is not there.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many to make.")] = 8,
    shape: Annotated[str, typer.Option(metavar="ZxYxX", help="Voxels, 2D or 3D.")] = "96x96x96",
    spacing: Annotated[
        str | None,
        typer.Option(metavar="ZxYxX", help="Voxel size in mm; 1 along each axis if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first; the next has the next.")] = 0,
    held_out: Annotated[
        int, typer.Option(min=0, help="How many go into the list's validation part.")
    ] = 0,
    noise: Annotated[float, typer.Option(min=0, help="Standard deviation.")] = 0.3,
    contrast: Annotated[float, typer.Option(help="Of wide vessels; thin ones have less.")] = 1.0,
) -> None:
    """Make phantoms of branching vessels: NIfTI images, labels, and a MONAI datalist.

    Writes OUT/images/*.nii.gz, OUT/labels/*.nii.gz (1 is vessel) and OUT/datalist.json. The same
    options always give the same files. A case that cannot be written is reported, left out of the
    list, and makes the exit status 1.

    \b
    Examples:
      segloss phantom vessels
      segloss phantom vessels --count 20 --held-out 4
      segloss phantom stacks --shape 24x128x128 --spacing 4x1x1
      segloss phantom fundus --shape 512x512 --noise 0.5 --seed 100
    """  # noqa: D301  # typer wants the control character, not the letters
    voxels = _numbers(shape, "--shape", int, least=8)
    sizes = _numbers(spacing, "--spacing", float, least=1e-6) if spacing else (1.0,) * len(voxels)
    if len(sizes) != len(voxels):
        raise typer.BadParameter(
            f"expected {len(voxels)} numbers, as many as the shape has, got {spacing!r}",
            param_hint="--spacing",
        )
    if held_out > count:
        raise typer.BadParameter(
            f"{held_out} is more than --count {count}", param_hint="--held-out"
        )
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    parts: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for number in track(range(count), "Growing vessels", console=console):
        name = f"phantom_{seed + number:04d}.nii.gz"
        case = {"image": f"images/{name}", "label": f"labels/{name}"}
        made = vessel_phantom(
            voxels, seed=seed + number, spacing=sizes, noise=noise, contrast=contrast
        )
        try:
            _save(made.image, sizes, out / case["image"])
            _save(made.label, sizes, out / case["label"])
        except OSError as error:
            console.print(f"{name}: {error}", style="red")
        else:
            parts["training" if number < count - held_out else "validation"].append(case)
    written = sum(map(len, parts.values()))
    datalist = {"name": "vessel phantoms", "labels": {"0": "background", "1": "vessel"}, **parts}
    (out / "datalist.json").write_text(json.dumps(datalist, indent=2) + "\n")
    console.print(f"{written} of {count} written to {out}", highlight=False)
    if written < count:
        raise typer.Exit(1)


def _numbers(text: str, option: str, kind: type[N], least: N) -> tuple[N, ...]:
    """Read ``96x96x96`` or ``0.5x0.5``."""
    try:
        numbers = tuple(kind(part) for part in text.split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) not in (2, 3) or not all(least <= n < math.inf for n in numbers):
        raise typer.BadParameter(
            f"expected two or three {kind.__name__}s joined by x, each {least:g} or more, got {text!r}",
            param_hint=option,
        )
    return numbers


def _save(array: npt.NDArray[np.generic], spacing: tuple[float, ...], path: Path) -> None:
    """Write a NIfTI file. The final name appears only once the file is whole."""
    sizes = (*spacing, 1.0)[:3]  # an affine has three axes even for an image of two
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        nib.save(nib.Nifti1Image(array, np.diag([*sizes, 1.0])), unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
