"""A file of which only the header has been read, and what the formats have in common."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segloss.data_scripts.grids import BadVolume, Grid

__all__ = ["BLOCK", "Stored", "check_numbers", "naming", "slabs", "stem", "suffix"]

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
    except EOFError as error:
        raise BadVolume(f"{path.name}: is cut short. Export or copy it again.") from error
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        what = re.sub(r".*ERROR: (\w+\(0x\w+\): )?", "", what)  # where in ITK's code it was raised
        raise BadVolume(f"{path.name}: is damaged ({what}). Export or copy it again.") from error


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


def slabs(path: Path, array: np.ndarray) -> Iterator[np.ndarray]:
    """Some planes of an array at a time."""
    check_numbers(path, array.dtype)
    planes = max(1, BLOCK * array.shape[-1] // max(1, array.nbytes))
    for start in range(0, array.shape[-1], planes):
        yield array[..., start : start + planes]


def check_numbers(path: Path, dtype: np.dtype[Any]) -> None:
    """Raise unless a file holds plain numbers."""
    if dtype.kind not in "biuf":
        raise BadVolume(
            f"{path.name}: holds colours or complex numbers ({dtype}); expected one number per "
            f"voxel."
        )
