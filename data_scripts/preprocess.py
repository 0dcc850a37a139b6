"""``segloss preprocess``: the target maps of a whole data set, made once."""

import json
import os
import re
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from joblib import cpu_count
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segloss.data_scripts.backends import Backend, BackendError
from segloss.data_scripts.casework import DISK_FULL, Task, failed, work
from segloss.data_scripts.datasets import Dataset, SourceError, open_dataset
from segloss.data_scripts.manifest import FolderError, Manifest, Record, opened
from segloss.data_scripts.recipes import Config, Distance, Recipe, RecipeError
from segloss.data_scripts.scheduling import SchedulerError, WorkerDied, results
from segloss.data_scripts.volumes import BadVolume, read_grid, read_label
from segloss.data_scripts.writing import appearing

__all__ = ["preprocess"]

VOXEL_BYTES = 6 * 4  # what a case takes at most for each voxel, in bytes: see benchmarks/preprocess
PROCESS_BYTES = 300 << 20  # what a process takes before its first case
USAGE_ERRORS = (RecipeError, SourceError, FolderError, SchedulerError, BackendError)


def preprocess(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of labels, a quoted glob, a MONAI datalist, or an nnU-Net raw data set.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="The folder for the maps; made if need be.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the labels' images are, under the labels' names, unless SOURCE says it.",
        ),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(
            help="Of skeleton, distance, instances, band and weight, joined by commas. "
            "[default: those in --config, or skeleton,distance]"
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Options of the maps; see above.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=2, help="Number of classes with background, unless SOURCE says it."),
    ] = None,
    ignore: Annotated[
        int | None, typer.Option(help="The label of unknown voxels, unless SOURCE says it.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time. [default: as many as CPU cores]")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Such as 16G: fewer jobs if need be. [default: the machine's]"
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Work on the cluster of this Dask scheduler."),
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(
            help="What makes the maps: the CPU, or CuPy on a GPU, which all jobs share; auto is "
            "CuPy where it can be used."
        ),
    ] = Backend.cpu,
    force: Annotated[bool, typer.Option("--force", help="Make again what is up to date.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first case with an error or a warning.")
    ] = False,
) -> None:
    """Make the target maps of a data set: once, on disk, beside a datalist that MONAI loads.

    For each label OUT/MAP/NAME.nii.gz, on the label's own grid. OUT/datalist.json lists what SOURCE
    lists, with "skeleton_label", "distance_label" and so on as new keys; OUT/manifest.jsonl holds
    what is in each case. A case that cannot be used gets a line here and is left out of the list;
    then the exit status is 1. Run it again, after any kind of end, and it makes what is missing or
    out of date, because the label or an option has changed.

    Options of the maps, as --config reads them, with their defaults:

    \b
      maps:
        skeleton: {radius: 2, per_class: false}
        distance: {background: false, convention: face, clip: null, normalize: false}
        instances: {regions: components, connectivity: null}
        band: {width: 2.0}
        weight: {kind: distance, strength: 10.0, sigma: 5.0}
      classes: 3
      ignore: 255

    \b
    Examples:
      segloss preprocess labels --images images --out maps --classes 2
      segloss preprocess dataset.json --out maps --maps skeleton,band --config maps.yaml
      segloss preprocess nnUNet_raw/Dataset005_Vessels --out maps --jobs 4 --max-memory 16G
      segloss preprocess "data/**/*_seg.nii.gz" --out maps --maps skeleton --strict
      segloss preprocess labels --out /shared/maps --classes 2 --scheduler tcp://head:8786
      segloss preprocess labels --out maps --classes 2 --backend cupy --jobs 2
    """  # noqa: D301  # typer wants the control character, not the letters
    console = Console(stderr=True, highlight=False)
    try:
        settings = Config.read(config) if config else Config.of({})
        recipes = settings.recipes(maps)
        dataset = open_dataset(
            source,
            images=images,
            besides=out,
            classes=settings.classes if classes is None else classes,
            ignore=settings.ignore if ignore is None else ignore,
        )
        _check_classes(dataset, recipes)
        if scheduler is None or backend is Backend.auto:  # a cluster's machines have their GPUs
            backend = backend.settled()
        limit = _bytes(max_memory)
        if scheduler is None:
            jobs = _affordable(dataset, jobs or cpu_count(), limit, console)
        elif jobs is not None or max_memory is not None:
            raise SchedulerError(
                "--jobs and --max-memory are for this machine; with --scheduler, Dask's own "
                "workers have their number and limits: leave them out"
            )
        with opened(out) as manifest:
            _sweep(out)  # after a run that was killed
            tasks = [
                Task(case, dataset.classes, recipes, out.resolve(), known, force, backend)
                for case in dataset.cases
                for known in [manifest.records.get(case.name)]
            ]
            coming = results(work, tasks, jobs=jobs or 1, scheduler=scheduler)
            count = _work_through(tasks, coming, manifest, console, strict)
            _sweep(out)  # after workers that were
            _write_datalist(dataset, manifest, out)
    except USAGE_ERRORS as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        console.print(
            f"The disk is full: {error}. What is finished is safe; make room, and run the same "
            f"command again.",
            style="red",
        )
        raise typer.Exit(1) from error
    kinds = ", ".join(f"{count[kind]} {kind}" for kind in ("made", "up to date", "failed"))
    console.print(
        f"{len(tasks)} cases: {kinds}. Maps and datalist.json are in {out}", soft_wrap=True
    )
    if count["failed"]:
        raise typer.Exit(1)


def _work_through(
    tasks: list[Task],
    coming: Generator[tuple[Task, Record | WorkerDied]],
    manifest: Manifest,
    console: Console,
    strict: bool,
) -> Counter[str]:
    """Record and report what becomes of each task; how often which."""
    count: Counter[str] = Counter()
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        Progress(TextColumn("Making maps"), *columns, console=console) as bar,
        closing(coming),
    ):
        each = bar.add_task("", total=len(tasks))
        for task, result in coming:
            record = failed(task, str(result)) if isinstance(result, WorkerDied) else result
            new = task.force or record != task.known
            if new:
                manifest.add(record)
            if record.error is not None:
                console.print(record.error, style="red", markup=False, soft_wrap=True)
            warnings = [f"{task.case.name}: {text}" for text in record.warnings if new]
            for warning in warnings:
                console.print(warning, style="yellow", markup=False, soft_wrap=True)
            count["failed" if record.error else "made" if new else "up to date"] += 1
            bar.advance(each)
            if strict and (record.error or warnings):
                console.print("Stopped, because of --strict.", style="red")
                raise typer.Exit(1)
    return count


def _sweep(out: Path) -> None:
    for leftover in out.rglob(".unfinished-*"):
        leftover.unlink(missing_ok=True)


def _write_datalist(dataset: Dataset, manifest: Manifest, out: Path) -> None:
    """List every good case with its maps; paths are relative to the list's own folder."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for case in dataset.cases:
        record = manifest.records[case.name]
        if record.error is None:
            entry = dataset.entry(case, out)
            for name, output in record.outputs.items():
                entry[f"{name}_label"] = output["path"]
            parts.setdefault(case.part, []).append(entry)
    content = json.dumps({**dataset.heading(out), **parts}, indent=2, ensure_ascii=False)
    with appearing(out / "datalist.json") as (unfinished,):
        unfinished.write_text(content + "\n", encoding="utf-8")


def _check_classes(dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
    """Raise if distances are wanted of who knows how many classes."""
    classes = dataset.classes
    needs = any(isinstance(recipe, Distance) for recipe in recipes.values())
    if not needs or classes.count is not None or classes.regions:
        return
    for case in dataset.cases:
        try:
            found = np.unique(read_label(case.label).array)
        except BadVolume:
            continue
        seen = ", ".join(map(str, found[:20])) + (", …" if len(found) > 20 else "")
        raise SourceError(
            f"distance maps need the number of classes: pass --classes, background included. "
            f"{case.label.name}, for one, holds the labels {seen}, which makes --classes "
            f"{max(int(found[-1]) + 1, 2)}"
        )
    raise SourceError(
        "distance maps need the number of classes: pass --classes, background included"
    )


def _bytes(size: str | None) -> int:
    """Read ``16G``, or ask the machine what it has."""
    if size is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", size.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise typer.BadParameter(
            f"expected a size such as 16G or 800M, got {size!r}", param_hint="--max-memory"
        )
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _affordable(dataset: Dataset, jobs: int, limit: int, console: Console) -> int:
    """As many jobs as there is memory for, if all of them had the largest case."""
    jobs = min(jobs, len(dataset.cases))
    largest, name = 0, ""
    for case in dataset.cases if jobs > 1 else ():
        try:
            voxels = int(np.prod(read_grid(case.label).shape))
        except BadVolume:  # its own line comes when its turn does
            continue
        largest, name = max((largest, name), (voxels, case.name))
    need = PROCESS_BYTES + VOXEL_BYTES * largest
    affordable = max(1, min(jobs, limit // need))
    if affordable < jobs:
        console.print(
            f"{affordable} at a time rather than {jobs}: {name} may take {need / 2**30:.1f} GiB, "
            f"and there are {limit / 2**30:.1f}"
        )
    return affordable
