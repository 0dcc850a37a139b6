"""``segloss inspect``: a picture of a case, to look at before anything is learnt from it."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import typer
from joblib import cpu_count
from rich.console import Console
from rich.progress import track

from segloss.data_scripts.classes import Classes
from segloss.data_scripts.manifest import FolderError, Record, digest, paths, read_manifest
from segloss.data_scripts.pictures import draw
from segloss.data_scripts.scheduling import WorkerDied, results
from segloss.data_scripts.sheets import Scene, recorded_classes
from segloss.data_scripts.stored import naming
from segloss.data_scripts.volumes import BadVolume, Grid, read_image, read_label, stem
from segloss.data_scripts.writing import appearing
from segloss.transforms.arrays import class_ids, voxel_size
from segloss.transforms.channels import skeleton_channels
from segloss.transforms.kernels.distance import squared_distance

__all__ = ["Subject", "inspect", "scene"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """What to draw, and where to."""

    name: str
    label: Path
    image: Path | None
    picture: Path
    radius: int = 2
    record: Record | None = None
    """What `segloss preprocess` says of it, if that has made its maps,"""
    folder: Path = Path()
    """and the folder where they are."""

    def has(self, name: str) -> bool:
        """Whether a map is stored."""
        return self.record is not None and name in self.record.outputs


def inspect(
    cases: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CASE]...",
            help="Label files; with --from, names of cases, and all of them if none is given.",
        ),
    ] = None,
    preprocessed: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", file_okay=False, help="Show the maps that are there."
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the label was drawn on.")
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Made if it is not there.")
    ] = Path("pictures"),
    radius: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of the skeleton's tube, which is 2 unless stored.", show_default=False
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time. [default: as many as CPU cores]")
    ] = None,
) -> None:
    """Draw cases: slices and projections of the image, with label, skeleton and distance.

    Writes OUT/NAME.png for each case. Skeletons and distances are those that `segloss preprocess`
    has stored in --from DIR; what is not there is computed. A case that cannot be drawn gets a line
    here, and then the exit status is 1.

    \b
    Examples:
      segloss inspect labels/case7.nii.gz
      segloss inspect labels/case7.nii.gz --image images/case7.nii.gz --radius 3
      segloss inspect labels/*.nii.gz --out drawings
      segloss inspect --from maps
      segloss inspect --from maps case7 case9
    """  # noqa: D301  # typer wants the control character, not the letters
    if preprocessed is None:
        subjects = _files([Path(case) for case in cases or ()], image, out, radius)
    else:
        if image is not None or radius is not None:
            raise typer.BadParameter(
                "the images and maps of --from are those it was made with: leave it out",
                param_hint="--image" if image is not None else "--radius",
            )
        subjects = _recorded(preprocessed, cases or [], out)
    console = Console(stderr=True, highlight=False)
    failed = 0
    coming = results(_drawn, subjects, jobs=min(jobs or cpu_count(), len(subjects) or 1))
    for subject, problem in track(coming, "Drawing", total=len(subjects), console=console):
        if problem is not None:
            failed += 1
            line = f"{subject.name}: {problem}" if isinstance(problem, WorkerDied) else problem
            console.print(line, style="red", markup=False, soft_wrap=True)
    console.print(f"{len(subjects) - failed} of {len(subjects)} drawn in {out}")
    if failed:
        raise typer.Exit(1)


def scene(subject: Subject) -> Scene:
    """Read, and where need be compute, what a picture shows.

    Raises:
        BadVolume: If a file cannot be used.
    """
    label = read_label(subject.label)
    labels, grid = label.array, label.grid
    warnings = list(subject.record.warnings) if subject.record else []
    if subject.record and subject.record.digest != digest(subject.label):
        warnings.append("the label has changed since its maps were made")
    image = None
    if subject.image is not None:
        read = read_image(subject.image)
        if differs := read.grid.same_place(grid):
            raise BadVolume(
                f"{subject.label.name}: does not lie where {subject.image} does: {differs}"
            )
        image = read.array
    meaning = _meaning(labels, subject.record)
    if not labels.any() and not warnings:
        warnings.append("the label is empty: no voxel is above 0")
    distance, unit = _distance(subject, labels, grid, meaning)
    skeleton = _skeleton(subject, labels, meaning)
    return Scene(
        subject.name, grid, labels, meaning.names, skeleton, distance, unit, image, warnings
    )


def _files(
    labels: Sequence[Path], image: Path | None, out: Path, radius: int | None
) -> list[Subject]:
    if not labels:
        raise typer.BadParameter(
            "expected label files, or --from with a folder of maps", param_hint="CASE"
        )
    if image is not None and len(labels) > 1:
        raise typer.BadParameter(
            f"one image goes with one label, got {len(labels)}: draw them one by one, or from "
            f"what `segloss preprocess` makes of a data set",
            param_hint="--image",
        )
    subjects = [
        Subject(
            stem(label), label, image, out / f"{stem(label)}.png", 2 if radius is None else radius
        )
        for label in labels
    ]
    name, count = Counter(subject.name for subject in subjects).most_common(1)[0]
    if count > 1:
        raise typer.BadParameter(
            f"{count} labels are named {name}, and one picture would replace the other: draw them "
            f"with another --out each",
            param_hint="CASE",
        )
    return subjects


def _recorded(folder: Path, names: Sequence[str], out: Path) -> list[Subject]:
    try:
        records = read_manifest(folder)
    except FolderError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    for name in names:
        if name not in records:
            near = difflib.get_close_matches(name, records, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise typer.BadParameter(f"{folder} has no case {name}{hint}", param_hint="CASE")
    return [
        Subject(
            record.case,
            Path(record.label),
            Path(record.images[0]) if record.images else None,
            out / f"{record.case}.png",
            record=record,
            folder=folder,
        )
        for record in (records[name] for name in names or records)
    ]


def _drawn(subject: Subject) -> str | None:
    """Draw a subject; what went wrong, in a line."""
    if subject.record is not None and subject.record.error is not None:
        return subject.record.error
    try:
        figure = draw(scene(subject))
        with appearing(subject.picture) as (unfinished,):
            figure.savefig(unfinished, format="png")
    except (BadVolume, OSError, ValueError, TypeError, MemoryError) as error:
        line, name = " ".join(str(error).split()) or type(error).__name__, subject.label.name
        return line if isinstance(error, BadVolume) else f"{name}: {line}"
    return None


def _meaning(labels: Array, record: Record | None) -> Classes:
    """What the labels mean; without a record, each value is a class."""
    if record is not None:
        return recorded_classes(record)
    found = np.unique(labels)
    names = {str(value): (int(value),) for value in found[found > 0]}
    return Classes(names, None, None, None, None)


def _skeleton(subject: Subject, labels: Array, meaning: Classes) -> Array:
    """The number of the class or region on its skeleton, the last where several run."""
    channels: Iterable[Array]
    if subject.has("skeleton"):
        channels = _stored(subject, "skeleton", labels.shape)
    else:
        channels = skeleton_channels(
            meaning.channels(labels),
            radius=subject.radius,
            ignore=meaning.ignore,
            dtype=labels.dtype,
        )
    numbers = np.zeros(labels.shape, np.min_scalar_type(len(meaning.names)))
    if meaning.regions is not None:
        for number, channel in enumerate(channels, start=1):
            numbers[channel > 0] = number
        return numbers
    (ids,) = channels
    number_of = np.zeros(int(ids.max()) + 1, numbers.dtype)
    for number, (value,) in enumerate(meaning.names.values(), start=1):
        if value < len(number_of):
            number_of[value] = number
    return np.asarray(number_of[ids])


def _distance(subject: Subject, labels: Array, grid: Grid, meaning: Classes) -> tuple[Array, str]:
    """Distance to the nearest boundary of any class, negative inside; and its unit."""
    ids, _ = class_ids(labels, meaning.ignore)
    unit = "voxels" if grid.unit == "voxel" else str(grid.unit)
    nearest = np.full(labels.shape, np.inf, np.float32)
    if subject.record is not None and subject.has("distance"):
        if subject.record.parameters["distance"]["normalize"]:
            unit = "of the largest distance"
        for channel in _stored(subject, "distance", labels.shape):
            if channel.any():  # or there is no such class
                np.fmin(nearest, np.abs(channel), out=nearest)
    else:
        size = voxel_size(grid.spacing, labels.ndim)
        nearest = np.sqrt(squared_distance(ids.astype(np.int32, copy=False), size))
    nearest[~np.isfinite(nearest)] = 0  # there is no boundary
    return np.where(ids > 0, -nearest, nearest), unit


def _stored(subject: Subject, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
    """The channels of a map that is there, one at a time."""
    assert subject.record is not None
    for file in paths(subject.folder, subject.record.outputs[name]):
        with naming(file):
            image: Any = nib.load(file)
            if image.shape[: len(shape)] != shape:
                raise BadVolume(
                    f"{file.name}: has shape {image.shape}, but the label has {shape}: run "
                    f"`segloss preprocess` again"
                )
            several = len(image.shape) > len(shape)
            for number in range(image.shape[-1] if several else 1):
                yield np.asarray(image.dataobj[..., number] if several else image.dataobj)
