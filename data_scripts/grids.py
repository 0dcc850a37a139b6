"""Where the voxels of a file lie in the patient, and whether distances can be measured there."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import nibabel as nib
import numpy as np

__all__ = ["BadVolume", "Grid", "Unit", "checked_grid"]

Unit: TypeAlias = Literal["mm", "um", "voxel"]
Header: TypeAlias = nib.Nifti1Header  # of which the one of NIfTI-2 is a subclass

SKEW = 1e-3
"""Largest cosine between two axes that still counts as a right angle.

Distances are computed as if it were one, which puts them off by at most half of this, relatively:
one quantisation step of 1/64 mm in 32 mm. Headers rounded to six decimals stay below a tenth of it.
"""

ROUNDING = 1e-3
"""Largest relative difference between two statements of the same voxel size."""

APART = 0.1
"""Largest distance between two grids that count as the same, in voxels, at their worst corner.

Tools that store directions as quaternions, or origins with three digits, put the far corner off by
some hundredths of a voxel. The mistakes to be found begin at half a voxel: centre against corner.
"""


class BadVolume(ValueError):
    """A file that cannot be used. The message is one line for people, and begins with its name."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a file lie.

    Axes are in the order in which MONAI's `LoadImage` delivers them: x, y, z for NIfTI, NRRD and
    MetaImage; width, height for pictures.

    Attributes:
        shape: Voxels along each of 2 or 3 axes.
        affine: (4, 4) float64, from voxel indices to positions, x to the right, y to the front, z
            up (RAS+). The identity where the file does not say.
        spacing: Size of a voxel along each axis, in `unit`; None where the file does not say.
        nifti: The header of a NIfTI file, which maps made from it repeat; None for other formats.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    spacing: tuple[float, ...] | None = None
    nifti: Header | None = None

    @property
    def unit(self) -> Unit:
        """What distances on this grid are in: "mm", "um" (micrometres), or "voxel"."""
        if self.spacing is None:
            return "voxel"
        return "um" if self.nifti is not None and _length(self.nifti) == "micron" else "mm"

    def same_place(self, other: "Grid") -> str | None:
        """What keeps two grids from lying on top of each other, in words; None if they do.

        Corners may lie a tenth of a voxel apart, which is more than headers lose by rounding and
        less than any mistake amounts to. Where one grid has no spacing, only the shapes count.

        Example:
            >>> near = Grid((4, 4), np.eye(4), (1.0, 1.0))
            >>> far = Grid((4, 4), np.diag([1.0, 1.5, 1.0, 1.0]), (1.0, 1.5))
            >>> near.same_place(near) is None
            True
            >>> near.same_place(far)
            'the voxel sizes differ: 1 x 1 and 1 x 1.5 mm'
        """
        if self.shape != other.shape:
            return f"the shapes differ: {self.shape} and {other.shape}"
        if self.spacing is None or other.spacing is None:
            return None
        if self.unit != other.unit:
            return f"the units differ: {self.unit} and {other.unit}"
        if not np.allclose(self.spacing, other.spacing, rtol=0.01, atol=0):
            sizes = f"{_by(self.spacing)} and {_by(other.spacing)}"
            return f"the voxel sizes differ: {sizes} {self.unit}"
        corners = np.array([*product(*((0, n - 1) for n in self.shape))])
        apart = np.linalg.norm(self._positions(corners) - other._positions(corners), axis=1)
        if apart.max() <= APART * min(self.spacing):
            return None
        first, second = (_at(grid.affine[:3, 3]) for grid in (self, other))
        lie = f"they lie up to {apart.max():.4g} {self.unit} apart"
        if first != second:
            return f"{lie}: the first voxel is at {first} and at {second}"
        return f"{lie}: the axes point in different directions"

    def _positions(self, voxels: np.ndarray) -> np.ndarray:
        columns = self.affine[:3, : len(self.shape)]
        return np.asarray(voxels @ columns.T + self.affine[:3, 3])


def checked_grid(
    name: str,
    shape: Sequence[int],
    affine: np.ndarray,
    *,
    sizes: Sequence[float] | None = None,
    nifti: Header | None = None,
) -> Grid:
    """The grid that a header describes, or an error if no distance can be measured on it.

    Args:
        name: The file's name, for messages.
        shape: Voxels along each axis.
        affine: From voxel indices to positions, RAS+.
        sizes: The voxel sizes, where the header states them a second time.
        nifti: The header itself, if it is a NIfTI file's.

    Raises:
        BadVolume: For a number of axes other than 2 or 3, an axis without voxels, voxel sizes that
            are not finite and above 0 or contradict each other, axes not at right angles.
    """
    shape = tuple(map(int, shape))
    axes = len(shape)
    if axes not in {2, 3}:
        raise BadVolume(
            f"{name}: has {axes} {'axis' if axes == 1 else 'axes'}, shape {_by(shape)}; expected 2 "
            f"or 3. Save each volume in a file of its own."
        )
    if min(shape) < 1:
        raise BadVolume(f"{name}: has shape {_by(shape)}, so no voxels. Export it again.")
    if nifti is not None and _length(nifti) == "meter":
        raise BadVolume(
            f"{name}: states its lengths in metres, which other programs read as mm. Save it in mm."
        )
    affine = np.array(affine, dtype=np.float64)
    columns = affine[:3, :axes]
    spacing = np.linalg.norm(columns, axis=0)
    for said in (spacing,) if sizes is None else (np.asarray(sizes, dtype=np.float64), spacing):
        if not (np.isfinite(said).all() and (said > 0).all()):
            raise BadVolume(
                f"{name}: has voxels of {_by(said)} mm; expected sizes above 0. Correct the header."
            )
    if not np.isfinite(affine).all():
        raise BadVolume(f"{name}: has an affine that is not finite. Correct the header.")
    if sizes is not None and not np.allclose(sizes, spacing, rtol=ROUNDING, atol=0):
        raise BadVolume(
            f"{name}: states voxels of {_by(sizes)} mm (pixdim) but places them {_by(spacing)} mm "
            f"apart (affine). Correct the one that is wrong."
        )
    cosines = np.abs(np.triu((columns.T @ columns) / np.outer(spacing, spacing), 1))
    if cosines.max() > SKEW:
        one, other = np.unravel_index(cosines.argmax(), cosines.shape)
        angle = np.degrees(np.arccos(min(float(cosines.max()), 1.0)))
        raise BadVolume(
            f"{name}: axes {one} and {other} meet at {angle:.1f} degrees (a sheared or singular "
            f"affine); expected 90. Resample it onto a grid with right angles."
        )
    return Grid(shape, affine, tuple(map(float, spacing)), nifti)


def _length(header: Header) -> str:
    """The unit of length that a NIfTI header states, "unknown" if none or not a valid one."""
    code = int(header["xyzt_units"]) % 8
    return ("unknown", "meter", "mm", "micron")[code] if code < 4 else "unknown"


def _by(numbers: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{number:.6g}" for number in numbers)


def _at(position: np.ndarray) -> str:
    return "(" + ", ".join(f"{number:.2f}" for number in position) + ")"
