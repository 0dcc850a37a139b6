"""``segloss report``: a page about a preprocessed data set, to be opened in any browser."""

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jinja2
import typer
from joblib import cpu_count
from rich.console import Console
from rich.progress import track

from segloss.data_scripts.datasets import natural
from segloss.data_scripts.manifest import VERSION, FolderError, Record, read_manifest
from segloss.data_scripts.pictures import color
from segloss.data_scripts.scheduling import WorkerDied, results
from segloss.data_scripts.sheets import recorded_classes
from segloss.data_scripts.summary import MEASURES, ClassSummary, summarise
from segloss.data_scripts.thumbnails import thumbnail
from segloss.data_scripts.volumes import BadVolume, read_label
from segloss.data_scripts.writing import appearing, writable

__all__ = ["page", "report"]

COLUMNS = (
    ("case", "Case", "text"),
    ("part", "Part", "text"),
    ("state", "State", "number"),
    ("shape", "Shape", "number"),
    ("spacing", "Voxel", "number"),
    ("voxels", "Voxels", "number"),
    ("components", "Pieces", "number"),
    ("centreline_length", "Length", "number"),
    ("thinnest_radius", "Radius", "number"),
    ("seconds", "Seconds", "number"),
    ("notes", "Notes", "number"),
)
NOUNS = {"voxels": "voxels", "centreline_length": "length"}


class Sitter(NamedTuple):
    """Whose picture is made."""

    case: str
    label: Path
    classes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """A case as the page shows it."""

    record: Record
    state: str
    notes: list[str]
    picture: str
    """Of the label, as a data URL; empty if there is none."""

    def sortable(self, column: str, key: str | None = None) -> float | None:
        """What the table is sorted by, for one class or for all; None comes last."""
        record = self.record
        if column in MEASURES:
            entries = [record.classes.get(key, {})] if key else list(record.classes.values())
            values = [entry[column] for entry in entries if entry.get(column) is not None]
            if not values:
                return None
            return float(min(values) if column == "thinnest_radius" else sum(values))
        found: Mapping[str, float | None] = {
            "state": ("good", "check", "failed").index(self.state),
            "shape": math.prod(record.shape) if record.shape else None,
            "spacing": math.prod(record.spacing) if record.spacing else None,
        }
        return found[column]


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="What preprocess has written.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="[default: DIR/report.html]"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time. [default: as many as CPU cores]")
    ] = None,
) -> None:
    """Make one page about a preprocessed data set: every case, what is in it, and what is odd.

    The page is a single file that needs no network. Its table is sorted by a click on a heading,
    and the address keeps the order: report.html#sort=voxels:desc. A label that cannot be drawn gets
    a line here and in the page, and then the exit status is 1.

    \b
    Examples:
      segloss report maps
      segloss report maps --out vessels.html --jobs 4
    """  # noqa: D301  # typer wants the control character, not the letters
    try:
        found = read_manifest(folder).values()
    except FolderError as error:
        raise typer.BadParameter(str(error), param_hint="DIR") from error
    records = sorted(found, key=lambda record: natural(record.case))
    console = Console(stderr=True, highlight=False)
    pictures: dict[str, bytes] = {}
    problems: dict[str, str] = {}
    tasks = _sitters(records)
    coming = results(_picture, tasks, jobs=min(jobs or cpu_count(), len(tasks) or 1))
    for sitter, outcome in track(coming, "Drawing labels", total=len(tasks), console=console):
        if isinstance(outcome, bytes):
            pictures[sitter.case] = outcome
        else:
            line = f"{sitter.case}: {outcome}" if isinstance(outcome, WorkerDied) else outcome
            problems[sitter.case] = line
            console.print(line, style="red", markup=False, soft_wrap=True)
    target = folder / "report.html" if out is None else out
    with writable(target), appearing(target) as (unfinished,):
        unfinished.write_text(page(folder, records, pictures, problems), encoding="utf-8")
    console.print(f"{len(records)} cases in {target}")
    if problems:
        raise typer.Exit(1)


def page(
    folder: Path,
    records: Sequence[Record],
    pictures: Mapping[str, bytes],
    problems: Mapping[str, str],
) -> str:
    """The page as text.

    Args:
        folder: Where the maps are.
        records: Its manifest.
        pictures: Thumbnails by case, WebP.
        problems: Why there is no thumbnail of a case.
    """
    classes = summarise(records)
    rows = [
        _row(record, classes, pictures.get(record.case, b""), problems.get(record.case))
        for record in records
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, short=_short, bytes=_bytes, time=_time, hash=_hash)
    return environment.get_template("report.html").render(
        name=_name(folder),
        folder=str(folder),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=VERSION,
        versions=sorted({record.version for record in records}),
        maps=_maps(records),
        states=Counter(row.state for row in rows),
        size=sum(output["bytes"] for record in records for output in record.outputs.values()),
        seconds=sum(record.seconds for record in records),
        units=sorted({record.unit for record in records if record.error is None}),
        classes=classes,
        columns=COLUMNS,
        measures=MEASURES,
        rows=rows,
        color=color,
    )


def _sitters(records: Sequence[Record]) -> list[Sitter]:
    """What there is to draw; a class has the same place, so the same colour, in every case."""
    good = [record for record in records if record.error is None]
    labels: dict[str, tuple[int, ...]] = {}
    for record in good:
        labels.update(recorded_classes(record).names)
    names = {summary.name: labels[summary.name] for summary in summarise(good)}
    return [Sitter(record.case, Path(record.label), names) for record in good]


def _picture(sitter: Sitter) -> bytes | str:
    """The thumbnail of a case, or why there is none."""
    try:
        volume = read_label(sitter.label)
        return thumbnail(volume.array, volume.grid, sitter.classes)
    except (BadVolume, OSError, ValueError, TypeError, MemoryError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        return line if isinstance(error, BadVolume) else f"{sitter.label.name}: {line}"


def _row(
    record: Record, classes: Sequence[ClassSummary], picture: bytes, problem: str | None
) -> Row:
    notes = [record.error] if record.error else list(record.warnings)
    if problem:
        notes.append(f"no picture: {problem}")
    for summary in classes:
        far = [
            f"{cases[record.case]:.3g} × the median {NOUNS[measure]}"
            for measure, cases in summary.outliers.items()
            if record.case in cases
        ]
        if far:
            notes.append(f"outlying {summary.name}: {', '.join(far)}")
    state = "failed" if record.error else "check" if notes else "good"
    url = f"data:image/webp;base64,{base64.b64encode(picture).decode()}" if picture else ""
    return Row(record, state, notes, url)


def _name(folder: Path) -> str:
    """What the datalist calls the data set, or else the folder's name."""
    try:
        name = json.loads((folder / "datalist.json").read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, AttributeError):
        name = None
    return name if isinstance(name, str) and name else folder.resolve().name


def _maps(records: Sequence[Record]) -> list[tuple[str, str, int]]:
    """Each map, the options it was made with where they are any, and for how many cases."""
    made = Counter(
        (
            name,
            ", ".join(
                f"{key} {_option(value)}" for key, value in options.items() if value is not None
            ),
        )
        for record in records
        for name, options in record.parameters.items()
    )
    return [(name, options, count) for (name, options), count in made.items()]


def _option(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _short(number: float) -> str:
    """Three digits or more, whatever the size."""
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 999.5:  # or its three digits would be four
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _hash(script: str) -> str:
    """What a browser compares a script with before it runs it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
