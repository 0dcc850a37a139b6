"""Files that are either whole or not there; and maps, which are such files, compressed NIfTI."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from uuid import uuid4

import nibabel as nib
import numpy as np
import numpy.typing as npt
import typer
from isal import igzip

from segloss.data_scripts.grids import Grid, Header
from segloss.data_scripts.stored import BLOCK, stem, suffix

__all__ = ["appearing", "map_files", "read_map", "writable", "write_map"]

LARGEST_AXIS = 32767
"""Of NIfTI-1, which counts voxels in int16."""


def map_files(path: Path, grid: Grid, count: int) -> tuple[Path, ...]:
    """The files that a map of `count` channels is written to.

    One, with the channels on the last axis, which MONAI's readers find by themselves. But a third
    axis of a NIfTI file is always space, so channels of a 2D map go into a file each: as a list of
    files, `LoadImage` stacks them, and the list is what belongs into a datalist.

    Example:
        >>> flat = Grid((8, 8), np.eye(4))
        >>> [file.name for file in map_files(Path("distance.nii.gz"), flat, 2)]
        ['distance_0000.nii.gz', 'distance_0001.nii.gz']
    """
    if len(grid.shape) == 3 or count == 1:
        return (path,)
    return tuple(path.with_name(f"{stem(path)}_{k:04d}.nii.gz") for k in range(count))


def write_map(
    path: Path,
    channels: Iterable[np.ndarray],
    grid: Grid,
    *,
    count: int,
    dtype: npt.DTypeLike,
    step: float | None = None,
    description: str,
) -> int:
    """Write a map as compressed NIfTI, channel after channel.

    The files of `map_files` appear under their names only when all of them are whole; see
    `appearing`. The same channels always make the same bytes.

    Args:
        path: Ends in .nii.gz.
        channels: `count` arrays of the grid's shape. One is held at a time.
        grid: The label's; its geometry becomes the map's.
        count: Number of channels.
        dtype: Of the numbers in the file. Channels must fit into it without loss; bool becomes 0
            and 1.
        step: If given, the file holds whole multiples of it, nearest to the values, and says so in
            its header (scl_slope), which every reader applies. A power of two keeps them exact.
        description: For the header, at most 79 characters.

    Returns:
        How many bytes the files have together.

    Raises:
        ValueError: For a channel of another shape or a number of channels other than `count`, or an
            argument out of range.
        TypeError: If a channel does not fit into `dtype`.
        OverflowError: If a value is not finite, or too large to be a multiple of `step` in `dtype`.
        OSError: If the disk is full, for example.
    """
    stored = np.dtype(np.uint8) if np.dtype(dtype) == bool else np.dtype(dtype)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"path must end in .nii.gz, got {path.name!r}")
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    if step is not None and (stored.kind not in "iu" or not (math.isfinite(step) and step > 0)):
        raise ValueError(f"step must be above 0, and dtype an integer, got {step} and {stored}")
    if len(description.encode()) > 79:
        raise ValueError(f"description must have at most 79 characters, got {description!r}")
    files = map_files(path, grid, count)
    header = _header(grid, count // len(files), stored, step, description)
    waiting = iter(channels)
    with appearing(*files) as unfinished:
        for file in unfinished:
            with _packed(file) as stream:
                stream.write(header)
                for _ in range(count // len(files)):
                    # by no name here, or it would stay while the next is made
                    _write_channel(stream, path.name, next(waiting, None), grid.shape, stored, step)
        if next(waiting, None) is not None:
            raise ValueError(f"{path.name}: got more than {count} channels")
        return sum(file.stat().st_size for file in unfinished)


def read_map(path: Path | Sequence[Path]) -> np.ndarray:
    """Read a map that `write_map` wrote, or the files of one.

    Returns:
        (K, *S): integers, or float32 if the file holds floats or multiples of a step.
    """
    files = (path,) if isinstance(path, Path) else tuple(path)
    channels = []
    for file in files:
        image = nib.load(file)
        assert isinstance(image, nib.Nifti1Image)
        array = np.asanyarray(image.dataobj)
        if array.dtype == np.float64:  # nibabel's, when it applies a scale
            array = array.astype(np.float32)
        channels.append(np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None])
    return channels[0] if len(channels) == 1 else np.concatenate(channels)


def _header(
    grid: Grid, channels: int, dtype: np.dtype[Any], step: float | None, description: str
) -> bytes:
    """The file's first bytes, up to the numbers."""
    shape = grid.shape if channels == 1 else (*grid.shape, channels)
    large = max(shape) > LARGEST_AXIS
    header: Header = nib.Nifti2Header(endianness="<") if large else nib.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    if grid.nifti is not None:
        space = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
                 "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")  # fmt: skip
        for field in space:
            header[field] = grid.nifti[field]
        header["pixdim"][:4] = grid.nifti["pixdim"][:4]
    else:
        known = grid.spacing is not None
        header.set_qform(grid.affine, code="scanner" if known else "unknown")
        header.set_sform(grid.affine, code="scanner" if known else "aligned")
        header.set_xyzt_units("mm" if known else "unknown")
    header["descrip"] = description.encode()
    header.set_slope_inter(1.0 if step is None else step, 0.0)
    header["magic"] = b"n+2\x00\r\n\x1a\n" if large else b"n+1"
    header["vox_offset"] = header.sizeof_hdr + 4
    return bytes(header.binaryblock) + bytes(4)  # no extensions


def _write_channel(
    stream: BufferedIOBase,
    name: str,
    channel: np.ndarray | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    step: float | None,
) -> None:
    """Write a channel's numbers as the file holds them: the first axis varies fastest."""
    if channel is None:
        raise ValueError(f"{name}: got fewer channels than count says")
    if channel.shape != shape:
        raise ValueError(f"{name}: a channel has shape {channel.shape}, expected {shape}")
    if step is None and not np.can_cast(channel.dtype, dtype, "safe"):
        raise TypeError(f"{name}: a channel of {channel.dtype} does not fit into {dtype}")
    planes = max(1, BLOCK // (math.prod(shape[:-1]) * 4))
    for start in range(0, shape[-1], planes):
        block = channel[..., start : start + planes]
        if step is not None:
            block = np.rint(block * (1 / step))
            low, high, held = block.min(), block.max(), np.iinfo(dtype)
            if not (held.min <= low and high <= held.max):
                raise OverflowError(
                    f"{name}: values from {low * step:.6g} to {high * step:.6g} are not multiples "
                    f"of {step:g} that {dtype} holds. Limit them (clip), or use a larger step."
                )
        stream.write(block.astype(dtype, copy=False).ravel(order="F").data)


@contextmanager
def appearing(*files: Path) -> Iterator[list[Path]]:
    """Temporary names for files, which get their own when all went well and are gone otherwise.

    They lie beside the files, in folders that are made if need be, and are called
    ``.unfinished-…``, with the file's suffix.
    """
    # A name of its own for each attempt: a killed run may leave a process that goes on for a while.
    unfinished = [file.with_name(f".unfinished-{uuid4().hex}{suffix(file)}") for file in files]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        for temporary, file in zip(unfinished, files, strict=True):
            temporary.replace(file)
    finally:
        for temporary in unfinished:
            temporary.unlink(missing_ok=True)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what keeps a command from writing its one result into a line about it."""
    try:
        yield
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}.") from error


@contextmanager
def _packed(file: Path) -> Iterator[BufferedIOBase]:
    """A stream that compresses into a file, which is on the disk when the stream is closed."""
    with file.open("wb") as raw:
        # without a name and a time in it, equal maps make equal files
        with igzip.IGzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as stream:
            yield stream
        raw.flush()
        os.fsync(raw.fileno())
