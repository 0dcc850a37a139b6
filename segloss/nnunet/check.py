"""What is wrong with an environment, so that nnU-Net does not find the trainers."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segloss.nnunet import TRAINERS, trainer_folder

__all__ = ["problems"]

VARIABLE = "nnUNet_extTrainer"
FILE = "segloss_nnunet_trainers.py"
EXPORT = f"export {VARIABLE}=$(segloss nnunet path)"
INSTALL = "pip install 'segloss-monai[nnunet]'"

# Run by the Python that nnU-Net's commands run on, which need not be this one. What it finds goes
# to the last line; nnU-Net prints others.
_PROBE = """
import json, os, sys
from importlib import metadata
from pathlib import Path
sys.path[:] = [entry for entry in sys.path if entry]  # nnU-Net's commands do not look here
found = {"copies": {}, "trainers": {}, "errors": {}}
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
found["nnunet"], found["namesake"] = version("nnunetv2"), version("segloss")
for name in ("nnunetv2", "segloss"):
    places = [Path(entry, name, "__init__.py").resolve() for entry in sys.path]
    try:
        places.insert(0, Path(__import__(name).__file__).resolve())
    except Exception as error:
        found["errors"][name] = f"{type(error).__name__}: {error}"
    found["copies"][name] = list(dict.fromkeys(str(p.parent) for p in places if p.is_file()))
if not found["errors"]:
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
    except Exception as error:
        find = None
    for name in sys.argv[1:] if find else ():
        try:
            found["trainers"][name] = find(name).__module__
        except Exception as error:
            found["errors"][name] = f"{type(error).__name__}: {error}"
print()
print(json.dumps(found))
"""


def problems() -> Iterator[str]:
    """Whatever keeps nnU-Net from training with segloss here, one line each, with the remedy.

    What is asked is the Python that ``nnUNetv2_train`` runs on.
    """
    python = _python_of_nnunet()
    if python is None:
        yield f"nnUNetv2_train is not on PATH: activate the environment of nnU-Net, or {INSTALL}"
        python = sys.executable
    try:
        found = _probed(python)
    except RuntimeError as error:
        yield str(error)
        return
    yield from _wrong_installation(found, python)
    folders = [entry for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry.strip()]
    in_place = list(_wrong_folders(folders))
    yield from in_place
    if not in_place and not found["errors"].keys() & {"nnunetv2", "segloss"}:
        yield from _wrong_trainers(found)
    yield from _wrong_config()


def _python_of_nnunet() -> str | None:
    """The interpreter that nnU-Net's command names.

    It does so in its first line, ``#!/env/bin/python``, or, where that path is long or has spaces,
    in its second: ``'''exec' "/my env/bin/python" "$0" "$@"`` beneath ``#!/bin/sh``.
    """
    command = shutil.which("nnUNetv2_train")
    if command is None:
        return None
    with Path(command).open("rb") as script:
        lines = [script.readline().decode(errors="replace") for _ in range(2)]
    if lines[0].startswith("#!"):
        for word in shlex.split(lines[0][2:]) + shlex.split(lines[1], comments=True):
            if Path(word).name.startswith("python") and shutil.which(word):
                return word
    return sys.executable


def _probed(python: str) -> dict[str, Any]:
    outcome = subprocess.run(
        [python, "-c", _PROBE, *TRAINERS], capture_output=True, text=True, check=False
    )
    try:
        found: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise RuntimeError(
            f"nnU-Net's Python, {python}, does not run: {' '.join(outcome.stderr.split())}"
        ) from error
    return found


def _wrong_installation(found: dict[str, Any], python: str) -> Iterator[str]:
    if found["nnunet"] is None and "nnunetv2" in found["errors"]:
        yield f"{python} has no nnU-Net: {INSTALL}"
    elif "nnunetv2" in found["errors"]:
        yield f"nnU-Net cannot be imported ({found['errors']['nnunetv2']}): {INSTALL}"
    elif found["nnunet"] and _number(found["nnunet"]) < (2, 8):
        yield (
            f"nnU-Net {found['nnunet']} does not know {VARIABLE}, which came with 2.8: "
            "pip install --upgrade nnunetv2"
        )
    if found["namesake"] is not None:
        yield (
            "the distribution 'segloss' is another project and takes the name: "
            f"{python} -m pip uninstall segloss, then reinstall segloss-monai"
        )
    if "segloss" in found["errors"]:
        yield (
            f"nnU-Net runs on {python}, which cannot import segloss "
            f"({found['errors']['segloss']}): {python} -m {INSTALL}"
        )
    for name, copies in found["copies"].items():
        if len(copies) > 1:
            yield (
                f"{name} is there {len(copies)} times, and the first is used: {', '.join(copies)}: "
                "remove the others"
            )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _wrong_folders(folders: list[str]) -> Iterator[str]:
    if not folders:
        yield f"{VARIABLE} is not set: {EXPORT}"
        return
    for folder in folders:
        if not Path(folder).is_dir():
            yield f"{VARIABLE} names {folder}, which is no folder and is passed over: {EXPORT}"
    ours = [Path(folder) for folder in folders if (Path(folder) / FILE).is_file()]
    if not ours:
        yield f"no folder in {VARIABLE} holds {FILE}: {EXPORT}"
    elif ours[0].resolve() != trainer_folder().resolve():
        yield f"{ours[0]} is of another copy of segloss than this command: {EXPORT}"
    for place in ours:
        for other in sorted(place.glob("*.py")):
            if other.name != FILE:
                yield f"{other} is imported by nnU-Net too, as {other.stem}: move it elsewhere"


def _wrong_trainers(found: dict[str, Any]) -> Iterator[str]:
    for name in TRAINERS:
        if name in found["errors"]:
            yield f"looking for {name}, nnU-Net fails: {' '.join(found['errors'][name].split())}"
        elif name in found["trainers"] and found["trainers"][name] != "segloss.nnunet.trainers":
            yield (
                f"nnU-Net finds {name} in {found['trainers'][name]} first, not in segloss: remove "
                f"or rename that one, or put segloss's folder first in {VARIABLE}"
            )


def _wrong_config() -> Iterator[str]:
    from segloss.nnunet.config import CONFIG, config_path, read_recipe

    if os.environ.get(CONFIG):
        try:
            read_recipe(config_path())
        except ValueError as error:
            yield f"{CONFIG} names a file that will not do: {error}"
