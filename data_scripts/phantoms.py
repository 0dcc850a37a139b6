"""``segloss phantom``: data sets of branching vessels to try things on."""

import json
import math
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track

from segloss.data_scripts.phantom import BRIGHTNESS, vessel_phantom
from segloss.data_scripts.writing import appearing, writable

__all__ = ["Classes", "Layout", "phantom"]

N = TypeVar("N", int, float)

REGIONS = {"nested": {"vessel": [1, 2], "lumen": 2}}
"""What nnU-Net learns instead of the classes where they are nested."""


class Classes(str, Enum):
    """What the labels tell apart; see `vessel_phantom`."""

    one = "one"
    nested = "nested"
    several = "several"


class Layout(str, Enum):
    """Who reads the data set."""

    monai = "monai"
    nnunet = "nnunet"


class Case(NamedTuple):
    """Where a phantom lies in the data set, relative to it."""

    image: str
    label: str
    held_out: bool


def phantom(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", file_okay=False, help="Made if it is not there.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many to make.")] = 8,
    shape: Annotated[str, typer.Option(metavar="ZxYxX", help="Voxels, 2D or 3D.")] = "96x96x96",
    spacing: Annotated[
        str | None,
        typer.Option(metavar="ZxYxX", help="Voxel size in mm; 1 along each axis if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first; the next has the next.")] = 0,
    held_out: Annotated[
        int, typer.Option(min=0, help="How many go into the validation (nnU-Net: test) part.")
    ] = 0,
    classes: Annotated[
        Classes,
        typer.Option(help="vessel; wall and lumen; or artery and vein, a class for each tree."),
    ] = Classes.one,
    layout: Annotated[
        Layout, typer.Option(help="MONAI datalist, or nnU-Net raw data set.")
    ] = Layout.monai,
    noise: Annotated[float, typer.Option(min=0, help="Standard deviation.")] = 0.3,
    contrast: Annotated[float, typer.Option(help="Of wide vessels; thin ones have less.")] = 1.0,
) -> None:
    """Make phantoms of branching vessels: images and labels, in NIfTI, and a list of them.

    For MONAI, writes OUT/images/*.nii.gz, OUT/labels/*.nii.gz and OUT/datalist.json. For nnU-Net,
    OUT is called DatasetNNN_Name and gets imagesTr, labelsTr, imagesTs, labelsTs (of the cases held
    out) and dataset.json; wall and lumen become the regions vessel and lumen. The vessels are the
    same whatever the classes. The same options always give the same files. A case that cannot be
    written is reported, left out of the list, and makes the exit status 1.

    \b
    Examples:
      segloss phantom vessels
      segloss phantom vessels --count 20 --held-out 4
      segloss phantom stacks --shape 24x128x128 --spacing 4x1x1
      segloss phantom fundus --shape 512x512 --noise 0.5 --seed 100 --classes several
      segloss phantom nnUNet_raw/Dataset501_Vessels --layout nnunet --classes nested
    """  # noqa: D301  # typer wants the control character, not the letters
    voxels = _numbers(shape, "--shape", int, least=8)
    sizes = _numbers(spacing, "--spacing", float, least=1e-6) if spacing else (1.0,) * len(voxels)
    if len(sizes) != len(voxels):
        raise typer.BadParameter(
            f"expected {len(voxels)} numbers, as many as the shape has, got {spacing!r}",
            param_hint="--spacing",
        )
    if held_out > count:
        raise typer.BadParameter(
            f"{held_out} is more than --count {count}", param_hint="--held-out"
        )
    cases = [
        _case(layout, f"phantom_{seed + number:04d}", number >= count - held_out)
        for number in range(count)
    ]
    if layout is Layout.nnunet:
        _check_nnunet(out, cases)
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    written = []
    for number, case in enumerate(track(cases, "Growing vessels", console=console), start=seed):
        made = vessel_phantom(
            voxels,
            seed=number,
            spacing=sizes,
            classes=classes.value,
            noise=noise,
            contrast=contrast,
        )
        try:
            _save(made.label, sizes, out / case.label)
            _save(made.image, sizes, out / case.image)
        except OSError as error:
            line = f"{Path(case.label).name}: {error}"
            console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
        else:
            written.append(case)
    name, content = _listing(layout, classes, written)
    with writable(out / name), appearing(out / name) as (unfinished,):
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
    console.print(f"{len(written)} of {count} written to {out}", highlight=False)
    if len(written) < count:
        raise typer.Exit(1)


def _case(layout: Layout, name: str, held_out: bool) -> Case:
    if layout is Layout.monai:
        return Case(f"images/{name}.nii.gz", f"labels/{name}.nii.gz", held_out)
    part = "Ts" if held_out else "Tr"
    return Case(f"images{part}/{name}_0000.nii.gz", f"labels{part}/{name}.nii.gz", held_out)


def _listing(layout: Layout, classes: Classes, cases: Sequence[Case]) -> tuple[str, dict[str, Any]]:
    """The name of the file that says what there is, and its content."""
    names = ["background", *BRIGHTNESS[classes.value]]
    training = [case for case in cases if not case.held_out]
    if layout is Layout.monai:
        parts = {"training": training, "validation": [case for case in cases if case.held_out]}
        return "datalist.json", {
            "name": "vessel phantoms",
            "labels": {str(class_id): name for class_id, name in enumerate(names)},
            **{
                part: [{"image": case.image, "label": case.label} for case in those]
                for part, those in parts.items()
            },
        }
    content: dict[str, Any] = {
        "name": "vessel phantoms",
        "channel_names": {"0": "brightness"},
        "labels": {name: class_id for class_id, name in enumerate(names)},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
    }
    if classes.value in REGIONS:
        content["labels"] = {"background": 0, **REGIONS[classes.value]}
        content["regions_class_order"] = [1, 2]
    return "dataset.json", content


def _check_nnunet(out: Path, cases: Sequence[Case]) -> None:
    """What nnU-Net would stumble over later."""
    if not re.fullmatch(r"Dataset\d{3}_.+", out.name):
        raise typer.BadParameter(
            f"nnU-Net wants a folder named DatasetNNN_Name, such as Dataset501_Vessels, "
            f"got {out.name!r}",
            param_hint="OUT",
        )
    there = {path.relative_to(out).as_posix() for path in out.glob("images*/*")}
    others = sorted(there.difference(case.image for case in cases))
    if others:
        raise typer.BadParameter(
            f"{out} holds other cases, {others[0]} for one, and nnU-Net takes all it finds: choose "
            f"a new folder, or delete them",
            param_hint="OUT",
        )


def _numbers(text: str, option: str, kind: type[N], least: N) -> tuple[N, ...]:
    """Read ``96x96x96`` or ``0.5x0.5``."""
    try:
        numbers = tuple(kind(part) for part in text.split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) not in (2, 3) or not all(least <= n < math.inf for n in numbers):
        raise typer.BadParameter(
            f"expected two or three {kind.__name__}s joined by x, each {least:g} or more, got {text!r}",
            param_hint=option,
        )
    return numbers


def _save(array: npt.NDArray[np.generic], spacing: tuple[float, ...], path: Path) -> None:
    """Write a NIfTI file."""
    sizes = (*spacing, 1.0)[:3]  # an affine has three axes even for an image of two
    with appearing(path) as (unfinished,):
        nib.save(nib.Nifti1Image(array, np.diag([*sizes, 1.0])), unfinished)
