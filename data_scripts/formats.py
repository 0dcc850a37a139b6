"""One function per file format: read the header, and say how to get at the voxels."""

import gzip
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np

from segloss.data_scripts.grids import BadVolume, Grid, Header, checked_grid

__all__ = ["LABELS", "PICTURES", "Stored", "opened", "stem", "suffix"]

BLOCK = 2**24
"""Bytes read at a time."""


@dataclass(frozen=True)
class Stored:
    """A file whose header has been read.

    Attributes:
        grid: Where its voxels lie.
        channels: Numbers per voxel.
        blocks: Reads the first channel (the brightness, if the channels are colours), some planes
            of the last axis at a time. Values are scaled as the header says.
    """

    grid: Grid
    channels: int
    blocks: Callable[[], Iterator[np.ndarray]]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line about the file.

    Readers of damaged bytes raise nearly anything: OSError, EOFError, zlib.error, SyntaxError,
    struct.error, KeyError, each library's own.
    """
    try:
        yield
    except (BadVolume, MemoryError):
        raise
    except FileNotFoundError as error:
        raise BadVolume(f"{path.name}: does not exist in {path.parent}.") from error
    except IsADirectoryError as error:
        raise BadVolume(f"{path.name}: is a folder; expected a file.") from error
    except PermissionError as error:
        raise BadVolume(f"{path.name}: may not be read. Check its permissions.") from error
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise BadVolume(f"{path.name}: is damaged ({what}). Export or copy it again.") from error


def opened(path: Path, *, picture: bool) -> Stored:
    """Read a file's header.

    Args:
        path: The file.
        picture: Whether it is an image rather than a label: colours become brightness, and
            formats that lose detail are welcome.

    Raises:
        BadVolume: If it cannot be read, or is no image of 2 or 3 axes.
    """
    ending = suffix(path)
    if ending in PICTURES and not picture:
        raise BadVolume(
            f"{path.name}: {ending} files hold pictures, not labels; expected one of "
            f"{', '.join(LABELS)}. Save labels without loss, for example as PNG."
        )
    if ending not in LABELS | PICTURES:
        known = LABELS | PICTURES if picture else LABELS
        raise BadVolume(
            f"{path.name}: is of an unknown format; expected one of {', '.join(known)}. Convert it."
        )
    with naming(path):
        if path.is_dir():
            raise IsADirectoryError
        if path.stat().st_size == 0:
            raise BadVolume(f"{path.name}: is empty (0 bytes). Export or copy it again.")
        return (LABELS | PICTURES)[ending](path, picture)


def suffix(path: Path) -> str:
    """The end of a file's name that tells its format, in lower case: ".nii.gz", not ".gz"."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem(path: Path) -> str:
    """A file's name without its suffix.

    Example:
        >>> stem(Path("labels/case.01.nii.gz"))
        'case.01'
    """
    return path.name[: len(path.name) - len(suffix(path))]


def _nifti(path: Path, picture: bool) -> Stored:
    with _stream(path) as stream:
        header = _nifti_header(path, stream)
    shape = tuple(map(int, header.get_data_shape()))
    channels = shape[3] if len(shape) == 4 else 1
    space = shape[:3] if len(shape) == 4 else shape
    grid = checked_grid(
        path.name,
        space,
        header.get_best_affine(),
        sizes=header.get_zooms()[: len(space)],
        nifti=header,
    )
    dtype = header.get_data_dtype()
    if dtype.kind not in "biuf":
        raise BadVolume(f"{path.name}: holds colours or complex numbers ({dtype}); expected one "
                        f"number per voxel.")  # fmt: skip
    promised = header.get_data_offset() + math.prod(shape) * dtype.itemsize
    held = path.stat().st_size * (1032 if suffix(path) == ".nii.gz" else 1)  # DEFLATE's best
    if promised > held:
        raise BadVolume(
            f"{path.name}: is cut short: its header promises {promised} bytes, more than a file of "
            f"{path.stat().st_size} bytes holds. Export or copy it again."
        )
    return Stored(grid, channels, partial(_nifti_blocks, path, header, grid.shape))


def _nifti_header(path: Path, stream: IO[bytes]) -> Header:
    start = stream.read(4)
    for kind, size in ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540)):
        if size in (int.from_bytes(start, "little"), int.from_bytes(start, "big")):
            block = start + stream.read(size - 4)
            if len(block) < size:
                raise BadVolume(f"{path.name}: is cut short within its header. Copy it again.")
            header = kind(block, check=False)
            if bytes(header["magic"])[:2] == b"n+":
                return header
    raise BadVolume(
        f"{path.name}: is not a NIfTI file, whatever its name says; it begins with {start!r}. "
        f"Export it again."
    )


def _nifti_blocks(path: Path, header: Header, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    dtype = header.get_data_dtype()
    slope, intercept = header.get_slope_inter()
    plane = math.prod(shape[:-1])
    step = max(1, BLOCK // (plane * dtype.itemsize))
    with naming(path), _stream(path) as stream:
        stream.seek(header.get_data_offset())
        for start in range(0, shape[-1], step):
            planes = min(step, shape[-1] - start)
            block = np.empty(plane * planes, dtype)
            _fill(path, stream, block, start * plane, math.prod(shape))
            if (slope or 1.0, intercept or 0.0) != (1.0, 0.0):
                block = block * np.float64(slope) + np.float64(intercept or 0.0)
            yield block.reshape((*shape[:-1], planes), order="F")
        while stream.read(BLOCK):  # gzip compares its checksum when it comes to the end
            pass


def _fill(path: Path, stream: IO[bytes], block: np.ndarray, done: int, voxels: int) -> None:
    """Read until the block is full."""
    wanted = block.view(np.uint8).data
    got = 0
    while got < len(wanted):
        try:
            count = stream.readinto(wanted[got:])  # type: ignore[attr-defined]
        except EOFError:
            count = 0
        if not count:
            raise BadVolume(
                f"{path.name}: is cut short: it ends after {done + got // block.itemsize} of "
                f"{voxels} voxels. Export or copy it again."
            )
        got += count


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if its name says that they are packed."""
    packed = suffix(path) == ".nii.gz"
    with path.open("rb") as raw:
        magic = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if packed and not magic:
            raise BadVolume(
                f"{path.name}: is not compressed with gzip, though its name ends in .gz. Rename it "
                f"if it is a .nii file, or export it again."
            )
        if magic and not packed:
            raise BadVolume(f"{path.name}: is compressed with gzip. Rename it to end in .nii.gz.")
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            yield stream  # type: ignore[misc]


LABELS: dict[str, Callable[[Path, bool], Stored]] = {
    ".nii.gz": _nifti,
    ".nii": _nifti,
}
PICTURES: dict[str, Callable[[Path, bool], Stored]] = {}
