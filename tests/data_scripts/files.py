"""Files for the tests of the command line: good ones, real ones, and twenty kinds of bad ones."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

__all__ = [
    "MALFORMED",
    "Malformed",
    "ball",
    "itk",
    "load",
    "npz_as_nifti",
    "write_itk",
    "write_nifti",
]

Array = npt.NDArray[Any]


def ball(shape: tuple[int, ...] = (12, 10, 8), label: int = 1) -> npt.NDArray[np.uint8]:
    """A ball in the middle of a volume, or a disk in the middle of a picture."""
    middle = [(n - 1) / 2 for n in shape]
    steps = np.ogrid[tuple(slice(n) for n in shape)]
    squares = sum((step - at) ** 2 for step, at in zip(steps, middle, strict=True))
    return np.where(squares <= (min(shape) / 3) ** 2, label, 0).astype(np.uint8)


def write_nifti(
    path: Path, array: Array, affine: Sequence[float] | Array = (1, 1, 1, 1), **header: Any
) -> None:
    """Write a NIfTI file; of an affine, the diagonal is enough. Header fields are set as they are."""
    matrix = np.diag(affine) if np.ndim(affine) == 1 else np.asarray(affine)
    image = nib.Nifti1Image(array, matrix.astype(float))
    path.write_bytes(_with_header(image.to_bytes(), header, packed=path.suffix == ".gz"))


def _with_header(content: bytes, fields: dict[str, Any], packed: bool) -> bytes:
    """The file with header fields as given, however wrong: nibabel would correct them."""
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    content = bytes(header.binaryblock) + content[348:]
    return gzip.compress(content, mtime=0) if packed else content


def load(path: Path) -> nib.Nifti1Image:
    """A NIfTI file as nibabel sees it."""
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


def itk() -> Any:
    """SimpleITK, or a skipped test."""
    import pytest

    return pytest.importorskip("SimpleITK", reason="NRRD and MetaImage need the extra nrrd")


def write_itk(path: Path, array: Array, **geometry: Any) -> None:
    """Write NRRD or MetaImage; the array's axes are x, y, z. Geometry is as SimpleITK has it."""
    image = itk().GetImageFromArray(np.ascontiguousarray(array.T))
    for name, value in geometry.items():
        getattr(image, f"Set{name.capitalize()}")(value)
    itk().WriteImage(image, str(path))


def npz_as_nifti(path: Path, folder: Path) -> Path:
    """The label, or else the vessels, of one of the real data's .npz files, as NIfTI."""
    with np.load(path) as held:
        if "label" in held:
            label = held["label"]
        else:
            label = held["vessels"] if "vessels" in held else held["bits"] >> 1 & 1
        spacing = held["spacing"]
    target = folder / f"{path.stem}.nii.gz"
    write_nifti(target, label, [*spacing, 1])
    return target


@dataclass(frozen=True)
class Malformed:
    """A file that is not a label."""

    name: str
    """Of the file, which is different for each."""
    write: Callable[[Path], object]
    """Makes it; some do so by leaving nothing."""
    words: str
    """What the message must say, as a regular expression."""


def _cut(share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rng = np.random.default_rng(0)
        write_nifti(path, rng.integers(0, 3, (20, 20, 20), dtype=np.uint8))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def _unpacked(path: Path) -> None:
    write_nifti(path.with_suffix(""), ball())
    path.with_suffix("").rename(path)


def _flipped_bit(path: Path) -> None:
    write_nifti(path, ball())
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # in gzip's checksum
    path.write_bytes(content)


def _picture(**changes: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.fromarray(ball((40, 30)) * 255).convert(changes.get("mode", "L"))
        image.save(path, format=changes.get("format"))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * changes.get("share", 1))])

    return write


def _damaged_itk(path: Path) -> None:
    write_itk(path, ball((30, 30, 30)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 200])


def _nifti(array: Array, *affine: Any, **header: Any) -> Callable[[Path], None]:
    return lambda path: write_nifti(path, array, *affine, **header)


def _with(value: float, dtype: npt.DTypeLike = np.float32) -> Array:
    label = ball().astype(dtype)
    label[3, 2, 1] = value
    return label


SHEARED = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SINGULAR = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
PIXDIM = [1, 1, 1, 1, 1, 1, 1, 1]

MALFORMED: list[Malformed] = [
    Malformed("cut.nii.gz", _cut(0.6), "cut short"),
    Malformed("cut-in-header.nii.gz", _cut(0.01), "cut short"),
    Malformed("cut.nii", _cut(0.6), "cut short: its header promises 8352 bytes"),
    Malformed("cut-in-header.nii", _cut(0.02), "cut short"),
    Malformed("flipped-bit.nii.gz", _flipped_bit, "damaged.*CRC"),
    Malformed("unpacked.nii.gz", _unpacked, "not compressed with gzip"),
    Malformed("packed.nii", lambda path: path.write_bytes(gzip.compress(b"x")), "compressed with gzip. Rename"),
    Malformed("empty.nii.gz", lambda path: path.write_bytes(b""), r"empty \(0 bytes\)"),
    Malformed("text.nii.gz", lambda path: path.write_text("see the other folder\n"), "not compressed with gzip"),
    Malformed("text.nii", lambda path: path.write_text("see the other folder\n" * 50), "not a NIfTI file.*b'see '"),
    Malformed("packed-text.nii.gz", lambda path: path.write_bytes(gzip.compress(b"see" * 200)), "not a NIfTI file"),
    Malformed("4d.nii.gz", _nifti(np.zeros((6, 5, 4, 3), np.uint8)), "3 channels .*expected one label"),
    Malformed("5d.nii.gz", _nifti(np.zeros((6, 5, 4, 1, 3), np.uint8)), "has 5 axes, shape 6 x 5 x 4 x 1 x 3; expected 2 or 3"),
    Malformed("1d.nii.gz", _nifti(np.zeros(6, np.uint8)), "has 1 axis, shape 6; expected 2 or 3"),
    Malformed("no-voxels.nii.gz", _nifti(ball(), dim=[3, 12, 0, 8, 1, 1, 1, 1]), "shape 12 x 0 x 8, so no voxels"),
    Malformed("huge.nii.gz", _nifti(ball(), dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "cut short: its header promises"),
    Malformed("fraction.nii.gz", _nifti(_with(0.5)), r"holds 0.5 at voxel \(3, 2, 1\); expected whole numbers"),
    Malformed("nan.nii.gz", _nifti(_with(np.nan)), r"holds nan at voxel \(3, 2, 1\); expected whole numbers"),
    Malformed("infinite.nii.gz", _nifti(_with(np.inf)), r"holds inf at voxel \(3, 2, 1\)"),
    Malformed("negative.nii.gz", _nifti(_with(-1, np.int16)), r"holds -1 at voxel \(3, 2, 1\); expected 0 or more"),
    Malformed("beyond.nii.gz", _nifti(_with(2.0**40, np.float64)), r"holds 1099511627776 at voxel \(3, 2, 1\); expected labels below"),
    Malformed("complex.nii.gz", _nifti(ball().astype(np.complex64)), "colours or complex numbers"),
    Malformed("zero-pixdim.nii.gz", _nifti(ball(), pixdim=[1, 1, 0, 1, 1, 1, 1, 1]), "voxels of 1 x 0 x 1 mm; expected sizes above 0"),
    Malformed("nan-pixdim.nii.gz", _nifti(ball(), pixdim=[1, 1, np.nan, 1, 1, 1, 1, 1]), "voxels of 1 x nan x 1 mm"),
    Malformed("zero-column.nii.gz", _nifti(ball(), srow_y=[0, 0, 0, 0], sform_code=1), "voxels of 1 x 0 x 1 mm"),
    Malformed("nan-affine.nii.gz", _nifti(ball(), srow_y=[0, np.nan, 0, 0], sform_code=1), "voxels of 1 x nan x 1 mm"),
    Malformed("nan-offset.nii.gz", _nifti(ball(), srow_y=[0, 1, 0, np.nan], sform_code=1), "affine that is not finite"),
    Malformed("nan-intercept.nii.gz", _nifti(ball(), scl_slope=1, scl_inter=np.nan), "damaged.*intercept nan"),
    Malformed("offset.nii.gz", _nifti(ball(), vox_offset=0), "numbers begin at byte 0, which is in its header"),
    Malformed("two-sizes.nii.gz", _nifti(ball(), pixdim=[1, 1, 1, 2.5, 1, 1, 1, 1], sform_code=1), r"1 x 1 x 2.5 mm \(pixdim\) but places them 1 x 1 x 1 mm"),
    Malformed("sheared.nii.gz", _nifti(ball(), SHEARED, pixdim=[1, 1, 1.0198039, 1, 1, 1, 1, 1]), "axes 0 and 1 meet at 78.7 degrees"),
    Malformed("singular.nii.gz", _nifti(ball(), srow_x=[1, 1, 0, 0], srow_y=[0, 0, 0, 0], sform_code=1), "axes 0 and 1 meet at 0.0 degrees"),
    Malformed("metres.nii.gz", _nifti(ball(), xyzt_units=1), "in metres"),
    Malformed("colours.png", _picture(mode="RGB"), "3 channels .*expected one label"),
    Malformed("transparent.png", _picture(mode="LA"), "2 channels .*expected one label"),
    Malformed("cut.png", _picture(share=0.7), "damaged"),
    Malformed("photograph.png", _picture(format="JPEG"), "damaged"),
    Malformed("photograph.jpg", _picture(), "pictures, not labels"),
    Malformed("colours.tif", lambda path: tifffile.imwrite(path, np.zeros((8, 9, 3), np.uint8), photometric="rgb"), "3 channels"),
    Malformed("film.tif", lambda path: tifffile.imwrite(path, np.zeros((5, 8, 9), np.uint8), imagej=True, metadata={"axes": "TYX"}), "axes TYX; expected YX"),
    Malformed("text.tif", lambda path: path.write_text("see the other folder\n"), "damaged"),
    Malformed("text.nrrd", lambda path: path.write_text("see the other folder\n"), "damaged"),
    Malformed("cut.nrrd", _damaged_itk, "damaged"),
    Malformed("cut.mha", _damaged_itk, "damaged"),
    Malformed("half.mhd", lambda path: path.write_text("ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = gone.raw\n"), "damaged"),
    Malformed("missing.nii.gz", lambda path: None, "does not exist"),
    Malformed("folder.nii.gz", lambda path: path.mkdir(), "is a folder"),
    Malformed("unknown.npz", lambda path: path.write_bytes(b"PK"), "unknown format; expected one of .nii.gz"),
]  # fmt: skip
"""No label among them. `folder / name` is the file to write."""
