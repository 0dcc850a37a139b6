"""What has been made in an output folder: a line of JSON for each case, and a lock for who writes."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segloss.data_scripts.volumes import read_label, suffix

__all__ = [
    "VERSION",
    "FolderError",
    "Manifest",
    "Record",
    "digest",
    "opened",
    "paths",
    "read_manifest",
]

VERSION = version("segloss-monai")
NAME = "manifest.jsonl"
LOCK = ".lock"


class FolderError(ValueError):
    """The output folder cannot be used as it is; the message says why and what to do."""


@dataclass(frozen=True)
class Record:
    """What is known about a case after it has been worked on."""

    case: str
    label: str
    """Path of the label, absolute."""
    images: list[str]
    """Paths of the images that belong to it, absolute."""
    part: str
    """The part of the datalist: ``"training"``, ``"validation"``, …"""
    digest: str
    """Of the label's file; empty if that could not be read."""
    version: str
    """Of this package."""
    finished: str
    """When: ISO 8601, UTC."""
    seconds: float
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The options of each map that has been made."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each map: ``path``, relative to the folder, or a list of them; and ``bytes`` in all."""
    shape: list[int] = field(default_factory=list)
    spacing: list[float] = field(default_factory=list)
    unit: str = "voxel"
    """Of the spacing and of every length: ``"mm"``, ``"um"`` or ``"voxel"``."""
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each class: ``name``, ``voxels``, ``components``, ``centreline_length`` and
    ``thinnest_radius`` (None where there is no centreline)."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    """Why there are no maps, in one line."""


def digest(path: Path) -> str:
    """A fingerprint of a label's bytes, wherever they are.

    Raises:
        BadVolume: If a header's numbers are in a file of their own, and cannot be read.
    """
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    if suffix(path) in {".mhd", ".nrrd"}:  # whose numbers may be in a file of their own
        found.update(read_label(path).array.data)
    return found.hexdigest()


def paths(folder: Path, output: Mapping[str, Any]) -> list[Path]:
    """The files of a map, as `Record.outputs` has it."""
    path = output["path"]
    return [folder / each for each in ([path] if isinstance(path, str) else path)]


def read_manifest(folder: Path) -> dict[str, Record]:
    """The last record of each case, in the order in which the cases first appeared.

    Args:
        folder: Where `segloss preprocess` has written.

    Raises:
        FolderError: If there is no manifest, or a line of it is none of ours.
    """
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FolderError(
            f"{path} cannot be read ({error.strerror}): is {folder} what `segloss preprocess "
            f"--out` was given?"
        ) from error
    records: dict[str, Record] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what a kill has cut short has no end
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError) as error:
            known = ", ".join(each.name for each in fields(Record))
            raise FolderError(
                f"{path}, line {number}, is not the record of a case ({error}); it has {known}. "
                f"Delete the line, and its case is made again."
            ) from error
        records[record.case] = record
    return records


class Manifest:
    """The records of a folder, and the one who adds to them. Made by `opened`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.path.touch()
        self.records = read_manifest(folder)
        whole = self.path.read_bytes().rfind(b"\n") + 1
        os.truncate(self.path, whole)

    def add(self, record: Record) -> None:
        """Append a record; once this returns, it is on the disk."""
        before = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, before)
            raise
        self.records[record.case] = record


@contextmanager
def opened(folder: Path) -> Iterator[Manifest]:
    """The manifest of a folder, which is made if need be and belongs to this process meanwhile.

    The lock is the operating system's and goes with the process, however that ends.

    Raises:
        FolderError: If another process has the folder, or it cannot be written to.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise FolderError(
            f"another run is writing to {folder}: wait for its end, or choose another folder."
        ) from error
    except OSError as error:
        raise FolderError(f"{folder} cannot be written to: {error.strerror}.") from error
    try:
        yield Manifest(folder)
    finally:
        lock.release()
