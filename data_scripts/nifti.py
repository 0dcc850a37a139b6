"""Reading NIfTI files, some planes at a time."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from segloss.data_scripts.grids import BadVolume, Header, checked_grid
from segloss.data_scripts.stored import BLOCK, Stored, check_numbers, naming, suffix

__all__ = ["read_nifti"]


def read_nifti(path: Path, picture: bool) -> Stored:
    """A fourth axis counts as channels, as MONAI has it."""
    with _stream(path) as stream:
        header = _nifti_header(path, stream)
    shape = tuple(map(int, header.get_data_shape()))
    channels = shape[3] if len(shape) == 4 else 1
    space = shape[:3] if len(shape) == 4 else shape
    grid = checked_grid(
        path.name,
        space,
        header.get_best_affine(),
        sizes=[float(size) for size in header.get_zooms()[: len(space)]],
        nifti=header,
    )
    dtype = header.get_data_dtype()
    check_numbers(path, dtype)
    offset = header.get_data_offset()
    if offset < header.single_vox_offset:
        raise BadVolume(
            f"{path.name}: says that its numbers begin at byte {offset}, which is in its header "
            f"(vox_offset). Export it again."
        )
    promised = offset + math.prod(shape) * dtype.itemsize
    held = path.stat().st_size * (1032 if suffix(path) == ".nii.gz" else 1)  # DEFLATE's best
    if promised > held:
        raise BadVolume(
            f"{path.name}: is cut short: its header promises {promised} bytes, more than a file of "
            f"{path.stat().st_size} bytes holds. Export or copy it again."
        )
    return Stored(grid, channels, partial(_nifti_blocks, path, header, grid.shape))


def _nifti_header(path: Path, stream: BufferedIOBase) -> Header:
    start = stream.read(4)
    kinds: dict[int, type[Header]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
    for size, kind in kinds.items():
        if size in (int.from_bytes(start, "little"), int.from_bytes(start, "big")):
            block = np.frombuffer(start.ljust(size), np.uint8).copy()
            _fill(stream, block[4:])
            header = kind(block.tobytes(), check=False)
            if bytes(header["magic"])[:2] == b"n+":
                return header
    raise BadVolume(
        f"{path.name}: is not a NIfTI file, whatever its name says; it begins with {start!r}. "
        f"Export it again."
    )


def _nifti_blocks(path: Path, header: Header, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    dtype = header.get_data_dtype()
    plane = math.prod(shape[:-1])
    step = max(1, BLOCK // (plane * dtype.itemsize))
    with naming(path), _stream(path) as stream:
        slope, intercept = header.get_slope_inter()  # raises for a slope without an intercept
        stream.seek(header.get_data_offset())
        for start in range(0, shape[-1], step):
            planes = min(step, shape[-1] - start)
            block = np.empty(plane * planes, dtype)
            _fill(stream, block)
            if (slope, intercept) not in {(None, None), (1.0, 0.0)}:
                block = block * np.float64(slope) + np.float64(intercept)
            yield block.reshape((*shape[:-1], planes), order="F")
        while stream.read(BLOCK):  # gzip compares its checksum when it comes to the end
            pass


def _fill(stream: BufferedIOBase, block: np.ndarray) -> None:
    """Read until the block is full."""
    wanted = block.view(np.uint8).data
    got = 0
    while got < len(wanted):
        count = stream.readinto(wanted[got:])
        if not count:
            raise EOFError
        got += count


@contextmanager
def _stream(path: Path) -> Iterator[BufferedIOBase]:
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
        with igzip.IGzipFile(fileobj=raw, mode="rb") as stream:
            yield stream
