"""What a data set consists of: its cases, and what its labels mean."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from segloss.data_scripts.classes import (
    UNKNOWN,
    Classes,
    SourceError,
    declared_by_monai,
    declared_by_nnunet,
)
from segloss.data_scripts.volumes import IMAGE_SUFFIXES, SUFFIXES, stem, suffix

__all__ = ["Case", "Classes", "Dataset", "SourceError", "natural", "open_dataset"]

COUNTS = {"numTraining", "numTest"}
"""Keys that say how many cases a list has, which a list of other cases must not repeat."""


@dataclass(frozen=True)
class Case:
    """One label, and the images that it belongs to."""

    name: str
    """Unique in its data set; what tells subfolders apart is in it, as in ``"siteA/case1"``."""
    label: Path
    """Absolute. The file may be missing."""
    images: tuple[Path, ...]
    """Absolute: one, or one for each channel; none if the source names none."""
    part: str
    """The part of the datalist that it is in: ``"training"``, ``"validation"``, …"""
    entry: dict[str, Any]
    """The item of the datalist as its author wrote it; made in the same way for other sources."""


@dataclass(frozen=True)
class Dataset:
    """Cases in their natural order, and what their labels mean.

    To write a datalist of them into another folder: start with ``heading(folder)``, make a list for
    each ``part``, and put ``entry(case, folder)`` and the new keys of each case into it.
    """

    cases: tuple[Case, ...]
    classes: Classes
    source: Path
    """What was opened."""
    kind: Literal["folder", "datalist", "nnunet"]
    base: Path
    """The folder that relative paths in the cases' entries start from, absolute."""
    header: dict[str, Any]
    """What a datalist holds beside labelled cases, as its author wrote it, without their number."""

    def entry(self, case: Case, folder: Path) -> dict[str, Any]:
        """The case's item for a datalist in another folder; relative paths start from there.

        Which strings are paths is MONAI's decision: "image" and "label" are, and whatever else
        names an existing file.
        """
        return self._moved_item(case.entry, folder)

    def heading(self, folder: Path) -> dict[str, Any]:
        """What stands beside the labelled cases in a datalist in another folder."""

        def moved(key: str, item: Any) -> Any:
            if isinstance(item, dict):
                return self._moved_item(item, folder)
            return self._moved(item, folder, certain=key == "test")  # as MONAI has it

        return {
            key: [moved(key, item) for item in value] if isinstance(value, list) else value
            for key, value in self.header.items()
        }

    def _moved_item(self, item: dict[str, Any], folder: Path) -> dict[str, Any]:
        return {
            key: self._moved(value, folder, certain=key in {"image", "label"})
            for key, value in item.items()
        }

    def _moved(self, value: Any, folder: Path, certain: bool) -> Any:
        if isinstance(value, list):
            return [self._moved(each, folder, certain) for each in value]
        if not isinstance(value, str) or Path(value).is_absolute():
            return value
        path = _absolute(self.base, value)
        return os.path.relpath(path, folder) if certain or path.exists() else value


def open_dataset(
    source: str,
    *,
    images: Path | None = None,
    classes: int | None = None,
    ignore: int | None = None,
    besides: Path | None = None,
) -> Dataset:
    """Find the cases of a data set, and what its labels mean.

    Args:
        source: A folder, in which labels are found at any depth; a glob; one label; a datalist as
            MONAI reads it; or a raw data set of nnU-Net, its folder or its dataset.json.
        images: Where the images of labels without a list are: each bears its label's name, whatever
            its format, in the same subfolder.
        classes: Number of classes with background, if the source does not say.
        ignore: The label of unknown voxels, if the source does not say.
        besides: A folder in which there are no labels, wherever it lies.

    Raises:
        SourceError: If nothing is found, two labels bear the same name, a list cannot be read, or
            the arguments contradict the source. Files that a list names need not be there.
    """
    path = Path(source)
    if images is not None and (path.suffix.lower() == ".json" or (path / "dataset.json").is_file()):
        raise SourceError(f"{source} is a list, which names its images itself: leave {images} out.")
    if path.is_dir():
        listing = path / "dataset.json"
        found = (
            _listed(listing)
            if listing.is_file()
            else _of_files(source, path, _below(path), images, besides)
        )
    elif path.suffix.lower() == ".json" and path.is_file():
        found = _listed(path)
    elif path.is_file():
        found = _of_files(source, path.parent, [path], images, besides)
    elif glob.has_magic(source):
        # unlike Path.glob, this leaves hidden files alone
        matches = map(Path, glob.glob(source, recursive=True))  # noqa: PTH207
        files = [match for match in matches if match.is_file()]
        found = _of_files(source, _fixed(path), files, images, besides)
    else:
        raise SourceError(
            f"{source} does not exist; expected a folder of labels, a quoted glob, a datalist "
            f"(.json), or a raw data set of nnU-Net."
        )
    return replace(found, classes=found.classes.stated(classes, ignore))


def _below(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    """The files in a folder and its subfolders, linked ones too, each once; but for hidden ones."""
    seen = set() if seen is None else seen
    seen.add(folder.resolve())
    try:
        entries = sorted(folder.iterdir(), key=Path.is_symlink)
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield entry
        elif entry.resolve() not in seen:
            yield from _below(entry, seen)


def _fixed(pattern: Path) -> Path:
    """The folder that a glob starts from."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern


def _of_files(
    source: str, base: Path, files: Iterable[Path], images: Path | None, besides: Path | None
) -> Dataset:
    """Labels without a list; whatever ends otherwise is no label."""
    base, files = _absolute(Path.cwd(), base), list(files)
    labels = [_absolute(Path.cwd(), file) for file in files if suffix(file) in SUFFIXES]
    if besides is not None:
        labels = [label for label in labels if _absolute(Path.cwd(), besides) not in label.parents]
    if not labels:
        endings = Counter(suffix(file) or "no suffix" for file in files).most_common(3)
        seen = ", ".join(f"{count} with {ending}" for ending, count in endings) or "nothing"
        raise SourceError(
            f"{source}: no labels found, but {seen}; expected files that end in one of "
            f"{', '.join(SUFFIXES)}."
        )
    image_of = {} if images is None else _named_images(_absolute(Path.cwd(), images))
    cases = []
    for label in labels:
        name = _name(label, base)
        entry: dict[str, Any] = {"label": str(label.relative_to(base))}
        found: tuple[Path, ...] = ()
        if images is not None:
            image = _absolute(Path.cwd(), images) / f"{name}{suffix(label)}"  # or what is there
            found = (image_of.get(name, image),)
            entry = {"image": os.path.relpath(found[0], base), **entry}
        cases.append(Case(name, label, found, "training", entry))
    return Dataset(_ordered(cases), UNKNOWN, Path(source), "folder", base, {})


def _named_images(folder: Path) -> dict[str, Path]:
    """The images below a folder, by the name of the case that they belong to."""
    found: dict[str, Path] = {}
    for file in _below(folder):
        if suffix(file) in IMAGE_SUFFIXES:
            name = _name(file, folder)
            if name in found:
                raise SourceError(f"{found[name]} and {file} are both images of {name}. Move one.")
            found[name] = file
    if not found:
        raise SourceError(
            f"{folder}: no images found; expected files that end in one of "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    return found


def _listed(listing: Path) -> Dataset:
    """The cases of a JSON file, in MONAI's form or in nnU-Net's."""
    try:
        content = json.loads(listing.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{listing}: is not valid JSON: {error.msg} in line {error.lineno}, column "
            f"{error.colno}."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{listing}: cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise SourceError(f"{listing}: must hold an object, got a {type(content).__name__}.")
    base = _absolute(Path.cwd(), listing).parent
    if "file_ending" in content:
        return _of_nnunet(listing, base, content)
    parts = {
        key: value
        for key, value in content.items()
        if isinstance(value, list)
        and any(isinstance(item, dict) and "label" in item for item in value)
    }
    if not parts:
        raise SourceError(
            f'{listing}: lists no labels; expected "training": [{{"image": …, "label": …}}, …], or '
            f'nnU-Net\'s "file_ending" and "labels".'
        )
    items = [
        (part, _checked(item, f'{listing}: "{part}"[{number}]'))
        for part, value in parts.items()
        for number, item in enumerate(value)
    ]
    labels = [_absolute(base, item["label"]) for _, item in items]
    top = Path(os.path.commonpath([label.parent for label in labels]))
    cases = []
    for label, (part, item) in zip(labels, items, strict=True):
        image = item.get("image", [])
        images = tuple(
            _absolute(base, each) for each in ([image] if isinstance(image, str) else image)
        )
        cases.append(Case(_name(label, top), label, images, part, item))
    header = {key: value for key, value in content.items() if key not in {*parts, *COUNTS}}
    classes = declared_by_monai(content, str(listing))
    return Dataset(_ordered(cases), classes, listing, "datalist", base, header)


def _checked(item: Any, where: str) -> dict[str, Any]:
    """An item of a datalist, or an error if it does not name a label and images."""
    if not isinstance(item, dict) or "label" not in item:
        raise SourceError(
            f'{where} has no "label"; put images without labels into a part of their own.'
        )
    if not isinstance(item["label"], str):
        raise SourceError(f'{where}: "label" must name one file, got {item["label"]!r}.')
    image = item.get("image", "")
    if not all(isinstance(each, str) for each in (image if isinstance(image, list) else [image])):
        raise SourceError(f'{where}: "image" must name a file or a list of them, got {image!r}.')
    return item


def _of_nnunet(listing: Path, base: Path, content: dict[str, Any]) -> Dataset:
    """Cases in labelsTr and imagesTr, or those under "dataset", which may lie anywhere."""
    ending, channels = content["file_ending"], content.get("channel_names", {})
    if not isinstance(ending, str) or not isinstance(channels, dict):
        raise SourceError(
            f'{listing}: "file_ending" must be like ".nii.gz", and "channel_names" like '
            f'{{"0": "CT"}}, got {ending!r} and {channels!r}.'
        )
    classes = declared_by_nnunet(content, str(listing))
    if "dataset" in content:
        entries = _in_list(listing, content["dataset"])
    else:
        entries = _in_folders(base, ending, max(1, len(channels)))
    if not entries:
        raise SourceError(
            f"{listing}: no cases found; expected files that end in {ending} in "
            f"{base / 'labelsTr'} and {base / 'imagesTr'}."
        )
    cases = []
    for name, (label, images) in entries.items():
        entry: dict[str, Any] = (
            {"image": images[0] if len(images) == 1 else images} if images else {}
        )
        entry["label"] = label
        paths = tuple(_absolute(base, image) for image in images)
        cases.append(Case(name, _absolute(base, label), paths, "training", entry))
    layout = {"dataset", "file_ending", "overwrite_image_reader_writer", *COUNTS}
    header = {key: value for key, value in content.items() if key not in layout}
    return Dataset(_ordered(cases), classes, listing, "nnunet", base, header)


def _in_list(listing: Path, entries: Any) -> dict[str, tuple[str, list[str]]]:
    """The label and images of each case under "dataset", where nnU-Net replaces variables."""
    found = {}
    for name, case in entries.items() if isinstance(entries, dict) else ():
        where = f'{listing}: "dataset"["{name}"]'
        case = case if isinstance(case, dict) else {}
        item = _checked({"label": case.get("label"), "image": case.get("images", [])}, where)
        images = [os.path.expandvars(image) for image in item["image"]]
        found[name] = (os.path.expandvars(item["label"]), images)
    return found


def _in_folders(base: Path, ending: str, channels: int) -> dict[str, tuple[str, list[str]]]:
    """The label and images that there should be for each name that one of them bears."""
    names = set()
    for folder, channel in (("labelsTr", ""), ("imagesTr", r"_\d{4}")):
        form = re.compile(rf"(?!\.)(.+){channel}{re.escape(ending)}")
        files = (base / folder).iterdir() if (base / folder).is_dir() else ()
        names |= {found[1] for file in files if (found := form.fullmatch(file.name))}
    numbers = range(channels) if (base / "imagesTr").is_dir() else ()
    return {
        name: (
            f"labelsTr/{name}{ending}",
            [f"imagesTr/{name}_{number:04d}{ending}" for number in numbers],
        )
        for name in names
    }


def _absolute(base: Path, path: str | Path) -> Path:
    return Path(os.path.normpath(base / path))


def _name(label: Path, base: Path) -> str:
    return (label.parent.relative_to(base) / stem(label)).as_posix()


def _ordered(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Cases with unique names in natural order, in which case2 comes before case10.

    A list may name a label more than once, for example with another image; the names are then
    numbered. Different files of the same name are an error: their maps would be.
    """
    taken: dict[str, Path] = {}
    unique = []
    for case in cases:
        if taken.get(case.name, case.label) != case.label:
            raise SourceError(
                f"{taken[case.name]} and {case.label} would both be called {case.name}. Rename one."
            )
        names = (case.name, *(f"{case.name}~{again}" for again in range(2, len(cases) + 2)))
        name = next(name for name in names if name not in taken)
        taken[name] = case.label
        unique.append(replace(case, name=name))
    return tuple(sorted(unique, key=lambda case: natural(case.name)))


def natural(name: str) -> tuple[list[str | int], str]:
    """What to sort names by, so that case2 comes before case10."""
    parts = re.split(r"(\d+)", name)  # text and number take turns
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name
