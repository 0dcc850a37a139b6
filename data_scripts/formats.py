"""The file formats that there are; for each, how to get from a file to its grid and its voxels."""

import logging
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from segloss.data_scripts.grids import BadVolume, Grid, checked_grid
from segloss.data_scripts.nifti import read_nifti
from segloss.data_scripts.stored import Stored, naming, slabs, suffix

__all__ = ["LABELS", "PICTURES", "opened"]

_MUTING = threading.Lock()

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what matters becomes an error


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


def _itk(path: Path, picture: bool) -> Stored:
    """NRRD and MetaImage, whose positions count to the left and to the back (LPS)."""
    try:
        itk: Any = import_module("SimpleITK")
    except ImportError as error:
        raise BadVolume(
            f"{path.name}: {suffix(path)} files are read with SimpleITK, which is not installed: "
            f"pip install 'segloss-monai[nrrd]'"
        ) from error
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    with _muted():
        reader.ReadImageInformation()
    shape = reader.GetSize()
    axes = min(len(shape), 3)
    affine = np.eye(4)
    directions = np.reshape(reader.GetDirection(), (len(shape), len(shape)))[:axes, :axes]
    affine[:axes, :axes] = directions * np.array(reader.GetSpacing()[:axes])
    affine[:axes, 3] = reader.GetOrigin()[:axes]
    affine[:2] = 0.0 - affine[:2]
    grid = checked_grid(path.name, shape[:3], affine)

    def blocks() -> Iterator[np.ndarray]:
        with naming(path):
            with _muted():
                image = reader.Execute()
            array = itk.GetArrayViewFromImage(image)
            if image.GetNumberOfComponentsPerPixel() > 1:
                array = array[..., 0]
            yield from slabs(path, array.T[..., 0] if len(shape) > 3 else array.T)

    return Stored(grid, reader.GetNumberOfComponents() * math.prod(shape[3:]), blocks)


@contextmanager
def _muted() -> Iterator[None]:
    """Keep what SimpleITK prints of a damaged file, besides raising it, out of the lines of others."""
    with _MUTING, Path(os.devnull).open("wb") as nowhere:
        own = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)


def _flat(path: Path, picture: bool) -> Stored:
    """PNG and photographs."""
    with _photograph(path) as image:
        grid = Grid(image.size, np.eye(4))
        bands = len(image.getbands())

    def blocks() -> Iterator[np.ndarray]:
        with naming(path), _photograph(path) as image:
            colours = bands > 1 or image.mode == "P"
            yield from slabs(
                path, np.asarray(image.convert("L") if colours and picture else image).T
            )

    return Stored(grid, bands, blocks)


@contextmanager
def _photograph(path: Path) -> Iterator[Image.Image]:
    kinds = ("PNG",) if suffix(path) == ".png" else ("JPEG", "BMP")
    try:
        with warnings.catch_warnings():  # of many pixels, which labels of whole slides have
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=kinds)
    except Image.DecompressionBombError as error:
        raise BadVolume(
            f"{path.name}: has more pixels than Pillow opens ({error}). Save it as TIFF."
        ) from error
    with image:
        yield image


def _tiff(path: Path, picture: bool) -> Stored:
    """One image, or a stack: width, height, and the pages as the third axis.

    Sizes of pixels are not taken from the file: those that there are mostly mean print.
    """
    with tifffile.TiffFile(path) as file:
        file.filehandle.seek(file.pages.next_page_offset or 0)
        if any(file.filehandle.read(file.tiff.offsetsize)):  # tifffile would do without the rest
            raise EOFError
        if len(file.series) != 1:
            raise BadVolume(
                f"{path.name}: holds {len(file.series)} images of different kinds; expected one, or "
                f"a stack of equal ones. Save each as a file of its own."
            )
        axes, shape = file.series[0].axes, file.series[0].shape
    colours = axes.endswith("S")
    space = axes.removesuffix("S")
    if space not in {"YX", "ZYX", "QYX", "IYX"}:
        raise BadVolume(
            f"{path.name}: has the axes {axes}; expected YX, or ZYX for a stack. Save each time and "
            f"channel as a file of its own."
        )
    grid = Grid(shape[: len(space)][::-1], np.eye(4))

    def blocks() -> Iterator[np.ndarray]:
        with naming(path), tifffile.TiffFile(path) as file:
            try:
                array = file.series[0].asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                raise BadVolume(
                    f"{path.name}: is compressed in a way that needs a further package: pip install "
                    f"imagecodecs"
                ) from error
            yield from slabs(path, (_brightness(array) if colours else array).T)

    return Stored(grid, shape[-1] if colours else 1, blocks)


def _brightness(colours: np.ndarray) -> np.ndarray:
    """Of red, green, blue and perhaps more; of fewer, the first is it."""
    if colours.shape[-1] < 3:
        return colours[..., 0]
    return np.asarray(colours[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32))


LABELS: dict[str, Callable[[Path, bool], Stored]] = {
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
    ".nrrd": _itk,
    ".mha": _itk,
    ".mhd": _itk,
    ".png": _flat,
    ".tif": _tiff,
    ".tiff": _tiff,
}
PICTURES: dict[str, Callable[[Path, bool], Stored]] = dict.fromkeys(
    (".jpg", ".jpeg", ".bmp"), _flat
)
