"""The examples run: as a user would start them, and on every layout of data they promise to read."""

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segloss.data_scripts.cli import app
from segloss.data_scripts.phantom import vessel_phantom

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.filterwarnings("default")  # other people's warnings are no error here


def quickstart(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart(tmp_path: Path) -> None:
    output = quickstart("--quick", "--out", str(tmp_path / "picture.png"))
    assert "Dice + CE + skeleton recall" in output
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > picture.height


@pytest.mark.slow
def test_quickstart_at_full_length(tmp_path: Path) -> None:
    rows = quickstart("--out", str(tmp_path / "picture.png")).splitlines()
    scores = [float(row.split("│")[2]) for row in rows if row.startswith("│")]
    assert len(scores) == 2
    assert min(scores) > 0.5  # both networks have learnt what a vessel is


@pytest.fixture(scope="module")
def vessels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_vessels", EXAMPLES / "train_vessels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stacks(folder: Path) -> Path:
    names = ["a", "b_BBB_early", "b_BBB_late", "c"]
    for seed, name in enumerate(names):
        image, label = vessel_phantom((9, 24, 32), seed=seed, spacing=(4.0, 1.0, 1.0))
        np.savez(folder / f"{name}.npz", image=image, label=label, spacing=[4.0, 1.0, 1.0])
    np.savez(folder / "d_labelonly.npz", label=label, spacing=[4.0, 1.0, 1.0])
    return folder


def fundus(folder: Path) -> Path:
    for seed in range(22):
        image, label = vessel_phantom((24, 32), seed=seed)
        grey = np.clip(image * 100 + 50, 0, 255).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, -1)).save(folder / f"Image_{seed:02d}.jpg")
        Image.fromarray(label * 255).convert("1").save(folder / f"Image_{seed:02d}_1stHO.png")
    return folder


def datalist(folder: Path) -> Path:
    options = ["--count", "3", "--held-out", "1", "--shape", "16x24x16"]
    assert CliRunner().invoke(app, ["phantom", str(folder), *options]).exit_code == 0
    return folder / "datalist.json"


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("layout", [stacks, fundus, datalist])
def test_train_vessels_and_go_on(
    vessels: ModuleType, tmp_path: Path, layout: Callable[[Path], Path]
) -> None:
    (tmp_path / "data").mkdir()
    data, out = layout(tmp_path / "data"), tmp_path / "run"
    options: dict[str, Any] = {"data": data, "samples": 1, "device": "cpu", "out": out}
    vessels.main(loss="dice_ce_skeleton_boundary", epochs=1, **options)
    first = log(out)
    assert list(first[0]) == ["epoch", "loss", "dice", "ce", "skeleton", "boundary"]
    vessels.main(loss="dice_ce_skeleton_boundary", epochs=2, resume=True, **options)
    assert log(out)[:1] == first
    assert [row["epoch"] for row in log(out)] == ["0", "1"]


def test_an_interruption_changes_nothing(
    vessels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    options: dict[str, Any] = {
        "data": datalist(tmp_path / "data"),
        "loss": "dice_ce_boundary",
        "epochs": 3,
        "samples": 1,
        "device": "cpu",
    }
    vessels.main(out=tmp_path / "whole", **options)

    train_epoch, epochs_left = vessels.train_epoch, iter([True, True])

    def interrupted(*arguments: Any) -> Any:
        if not next(epochs_left, False):
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(vessels, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vessels.main(out=tmp_path / "broken", **options)
    monkeypatch.undo()
    assert len(log(tmp_path / "broken")) == 2
    vessels.main(out=tmp_path / "broken", resume=True, **options)
    assert log(tmp_path / "broken") == log(tmp_path / "whole")


def test_stacks_of_one_field_of_view_stay_together(vessels: ModuleType, tmp_path: Path) -> None:
    training, held_out, _ = vessels.find_cases(stacks(tmp_path))
    assert [path.stem for path in training] == ["b_BBB_early", "b_BBB_late", "c"]
    assert [path.stem for path in held_out] == ["a"]


def test_what_is_wrong_is_named(vessels: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(vessels.typer.BadParameter, match="topology is none of dice, tversky, ce"):
        vessels.main(data=tmp_path, loss="dice_topology", out=tmp_path)
    with pytest.raises(vessels.typer.BadParameter, match="0 images to train on and 0 to hold out"):
        vessels.main(data=tmp_path, out=tmp_path)
    stacks(tmp_path)
    np.savez(
        tmp_path / "b.npz", image=np.ones((4, 9, 9)), label=np.ones((4, 9, 9)), spacing=[1.0] * 3
    )
    with pytest.raises(vessels.typer.BadParameter, match=r"\(4, 9, 9\), needs 8 or more"):
        vessels.main(data=tmp_path, out=tmp_path)


def test_examples_name_what_they_need() -> None:
    for path in EXAMPLES.glob("*.py"):
        header = path.read_text().split("# ///")[1]
        assert 'requires-python = ">=3.10"' in header
        assert json.dumps("segloss-monai") in header


def test_the_guide_from_labels_to_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (EXAMPLES.parent / "docs" / "preprocess.md").read_text()
    commands = page.split("```sh\n")[1].split("```")[0].splitlines()
    assert len(commands) == 5
    segloss = [sys.executable, "-c", "from segloss.data_scripts.cli import app; app()"]
    small = {"phantom": ["--shape", "24x24x24"], "python": ["--epochs", "1", "--size", "16"]}
    for line in commands:
        first, *rest = line.replace("--count 15", "--count 5").split()
        words = segloss if first == "segloss" else [sys.executable]
        rest = [str(EXAMPLES / Path(word).name) if "examples/" in word else word for word in rest]
        rest += small.get(first, []) + small.get(rest[0], [])
        done = subprocess.run(
            [*words, *rest], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "Dice of each class, held out:" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"vessels", "maps", "pictures"}
    assert (tmp_path / "maps" / "report.html").exists()
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], namespace)  # noqa: S102
    assert namespace["sample"]["distance_label"].shape == (1, 24, 24, 24)
