"""The work on one case: read its label, write its maps, and note what is in it."""

import errno
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segloss.data_scripts.backends import Backend, channels_made, from_gpu, to_gpu
from segloss.data_scripts.datasets import Case, Classes
from segloss.data_scripts.manifest import VERSION, Record, digest, paths
from segloss.data_scripts.measures import centreline_length, component_count, thinnest_radius
from segloss.data_scripts.recipes import Distance, Label, Recipe, Skeleton
from segloss.data_scripts.stored import naming
from segloss.data_scripts.volumes import (
    BadVolume,
    Grid,
    map_files,
    read_grid,
    read_label,
    write_map,
)
from segloss.transforms.arrays import Box, Mask, bounding_box, class_boxes, class_ids, grown
from segloss.transforms.functional import centreline, signed_distance

__all__ = ["DISK_FULL", "Task", "failed", "work"]

Array = npt.NDArray[Any]
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Task:
    """A case, the maps it needs, and what is known of it from before."""

    case: Case
    classes: Classes
    recipes: Mapping[str, Recipe]
    folder: Path
    known: Record | None = None
    force: bool = False
    """Make the maps even if they are up to date."""
    backend: Backend = Backend.cpu
    """Where to make them: settled, not ``auto``."""

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """Whatever the maps depend on beside the label, a table for each."""
        classes = {
            "num_classes": self.classes.count,
            "region_labels": self.classes.regions and list(map(list, self.classes.regions)),
            "ignore": self.classes.ignore,
            "backend": self.backend.value,
        }
        return {name: {**asdict(recipe), **classes} for name, recipe in self.recipes.items()}  # type: ignore[call-overload]


def work(task: Task) -> Record:
    """Make the maps of a case that are not there yet or not up to date.

    Returns:
        Its record: with an error if the case is bad; the known one if there was nothing to do.

    Raises:
        OSError: If the disk is full, which no other case will survive either.
    """
    start = time.perf_counter()
    record = _blank(task)
    try:
        with naming(task.case.label):
            record = replace(record, digest=digest(task.case.label))
        _check_places(task.case)
        valid = _valid(task, record.digest)
        if task.known is not None and not task.recipes.keys() - valid:
            return replace(
                task.known,
                label=record.label,
                images=record.images,
                part=record.part,
                classes={
                    number: {**entry, "name": _name(task.classes, int(number))}
                    for number, entry in task.known.classes.items()
                },
            )
        record = _made(task, record, valid)
    except (BadVolume, OSError, ValueError, TypeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        record = failed(task, str(error) or type(error).__name__)
    return replace(record, finished=_now(), seconds=round(time.perf_counter() - start, 3))


def failed(task: Task, reason: str) -> Record:
    """The record of a case from which nothing could be made."""
    line, name = " ".join(reason.split()), task.case.label.name
    error = line if line.startswith(name) else f"{name}: {line}"
    return replace(_blank(task), finished=_now(), error=error)


def _check_places(case: Case) -> None:
    """Raise if an image lies elsewhere than the label."""
    for path in case.images:
        if differs := read_grid(path).same_place(read_grid(case.label)):
            raise BadVolume(f"{case.label.name}: does not lie where {path} does: {differs}")


def _blank(task: Task) -> Record:
    case = task.case
    return Record(
        case=case.name,
        label=str(case.label),
        images=[str(path) for path in case.images],
        part=case.part,
        digest="",
        version=VERSION,
        finished="",
        seconds=0.0,
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _valid(task: Task, found: str) -> set[str]:
    """The maps that are what they would be if they were made again."""
    known = task.known
    if known is None or known.error is not None or known.digest != found:
        return set()
    parameters = task.parameters

    def intact(output: Mapping[str, Any]) -> bool:
        files = paths(task.folder, output)
        return (
            all(file.is_file() for file in files)
            and sum(file.stat().st_size for file in files) == output["bytes"]
        )

    return {
        name
        for name, output in known.outputs.items()
        if not (task.force and name in parameters)
        and known.parameters[name] == parameters.get(name, known.parameters[name])
        and intact(output)
    }


def _made(task: Task, record: Record, valid: set[str]) -> Record:
    """Write what is not valid; delete what was made of another label and is not made again."""
    case, known = task.case, task.known
    task.backend.settled()  # raises on a machine of a cluster that has no GPU
    volume = read_label(case.label)
    task.classes.check(volume.array, case.label.name)
    recipes = {name: recipe for name, recipe in task.recipes.items() if name not in valid}
    skeleton = task.recipes.get("skeleton")
    per_class = isinstance(skeleton, Skeleton) and skeleton.per_class
    label = _label(volume.array, volume.grid, task, per_class)
    radii: dict[int, Array] = {}
    warnings = [] if volume.array.any() else ["the label is empty: no voxel is above 0"]
    outputs, parameters = {}, {}
    for name, recipe in recipes.items():
        target = task.folder / name / f"{case.name}.nii.gz"
        size = _written(target, name, recipe, label, volume.grid, task.backend, radii, warnings)
        files = [
            file.relative_to(task.folder).as_posix()
            for file in map_files(target, volume.grid, recipe.count(label))
        ]
        outputs[name] = {"path": files[0] if len(files) == 1 else files, "bytes": size}
        parameters[name] = task.parameters[name]
    if known is not None:
        for name, output in known.outputs.items():
            if name in valid:
                outputs[name], parameters[name] = output, known.parameters[name]
            elif name not in recipes:
                for file in paths(task.folder, output):
                    file.unlink(missing_ok=True)
    return replace(
        record,
        parameters=parameters,
        outputs=outputs,
        shape=list(volume.array.shape),
        spacing=list(volume.grid.spacing or (1.0,) * volume.array.ndim),
        unit=volume.grid.unit,
        classes=_classes(task.classes, label, radii),
        warnings=warnings,
    )


def _label(array: Array, grid: Grid, task: Task, per_class: bool) -> Label:
    classes = task.classes
    channels = classes.channels(array)

    def line(channel: Array) -> Array:
        if task.backend is Backend.cupy:
            found = centreline(to_gpu(channel), per_class=per_class, ignore=classes.ignore)
            return from_gpu(found)
        return centreline(channel, per_class=per_class, ignore=classes.ignore)

    return Label(
        channels=channels,
        num_classes=_num_classes(classes),
        ignore=classes.ignore,
        spacing=grid.spacing,
        centrelines=[line(channel) for channel in channels],
    )


def _num_classes(classes: Classes) -> int | None:
    if classes.regions is None:
        return classes.count
    return 2 if len(classes.regions) == 1 else None  # one region is a label of two classes


def _written(
    path: Path,
    name: str,
    recipe: Recipe,
    label: Label,
    grid: Grid,
    backend: Backend,
    radii: dict[int, Array],
    warnings: list[str],
) -> int:
    """Write a map; of exact distances, note those on the centrelines on the way."""

    def made() -> Iterator[Array]:
        channels = channels_made(recipe, label, backend)
        if isinstance(recipe, Distance) and recipe.exact:
            return _noting(channels, label, 0 if recipe.background else 1, radii)
        return channels

    def write(dtype: npt.DTypeLike, step: float | None) -> int:
        form = f"in steps of 1/{round(1 / step)} {grid.unit}" if step else f"as {np.dtype(dtype)}"
        return write_map(
            path,
            made(),
            grid,
            count=recipe.count(label),
            dtype=dtype,
            step=step,
            description=f"segloss {VERSION} {name} {form}",
        )

    step = recipe.step(label)
    if step is not None:
        try:
            return write(np.int16, step)
        except OverflowError:
            warnings.append(
                f"{name}: beyond {2**15 * step:g} {grid.unit}{'s' * (grid.unit == 'voxel')}, so "
                f"stored as float32, which takes twice the room; `clip` in --config prevents it"
            )
    return write(recipe.dtype(label), None)


def _noting(
    channels: Iterator[Array], label: Label, first: int, radii: dict[int, Array]
) -> Iterator[Array]:
    for number, distances in enumerate(channels, first):
        several = len(label.channels) > 1
        line = label.centrelines[number - 1] > 0 if several else label.centrelines[0] == number
        radii[number] = -distances[line]
        yield distances


def _classes(
    classes: Classes, label: Label, radii: Mapping[int, Array]
) -> dict[str, dict[str, Any]]:
    """What there is of each class or region: those declared, or else those found."""

    def entry(number: int, voxels: int, components: int, line: Mask, inside: Array) -> Any:
        return {
            "name": _name(classes, number),
            "voxels": voxels,
            "components": components,
            "centreline_length": centreline_length(line, label.spacing),
            "thinnest_radius": thinnest_radius(inside),
        }

    if classes.regions:
        declared: Iterable[int] = range(1, len(classes.regions) + 1)
    else:
        declared = sorted((classes.values or set(range(classes.count or 0))) - {0, classes.ignore})
    nothing = np.zeros((1,) * label.channels[0].ndim, dtype=bool), np.zeros(0, np.float32)
    found = {str(number): entry(number, 0, 0, *nothing) for number in declared}
    for number, mask, line in _parts(label):
        inside = radii[number] if number in radii else _radii(mask, line, label.spacing)
        found[str(number)] = entry(number, int(mask.sum()), component_count(mask), line, inside)
    return found


def _name(classes: Classes, number: int) -> str:
    values = classes.regions[number - 1] if classes.regions else (number,)
    return next((name for name, those in classes.names.items() if those == values), str(number))


def _parts(label: Label) -> Iterator[tuple[int, Mask, Mask]]:
    """Each class or region that there is, and its centreline, cut out with a margin of a voxel."""
    if len(label.channels) > 1:
        for number, line in enumerate(label.centrelines, start=1):
            mask: Mask = label.channels[number - 1] == 1
            if mask.any():
                around = _around(bounding_box(mask))
                yield number, mask[around], line[around] > 0
        return
    ids, _ = class_ids(label.channels[0], label.ignore)
    for number, box in class_boxes(ids):
        around = _around(box)
        yield number, ids[around] == number, label.centrelines[0][around] == number


def _around(box: Box) -> Box:
    return grown(box, reach=0, size=(1.0,) * len(box))  # one voxel more on each side


def _radii(mask: Mask, line: Mask, spacing: tuple[float, ...] | None) -> Array:
    distances: Array = signed_distance(mask, spacing=spacing)[line]
    return -distances
