"""The semi-supervised example: every method, the same after an interruption, and what it refuses."""

import csv
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "semi_supervised.py"
pytestmark = pytest.mark.filterwarnings("default")  # other people's warnings are no error here


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("semi_supervised", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PATCH = (16, 16, 16)  # type: ignore[attr-defined]
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small volumes, each with two bright blocks side by side."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(8):
        label = np.zeros((18, 20, 14), np.uint8)
        i, j, k = rng.integers(2, 6, 3)
        label[i : i + 8, j : j + 6, k : k + 6] = 1
        label[i : i + 8, j + 6 : j + 12, k : k + 6] = 2
        image = (label + 0.3 * rng.standard_normal(label.shape)).astype(np.float32)
        for part, volume in (("images", image), ("labels", label)):
            affine = np.diag([1.0, 1.0, 2.0, 1.0])
            nibabel.save(
                nibabel.Nifti1Image(volume, affine), folder / part / f"case_{number}.nii.gz"
            )
    return folder


def log(out: Path, method: str) -> list[dict[str, str]]:
    with (out / f"{method}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_method_runs_and_is_compared(
    example: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main(data=data, out=tmp_path, device="cpu", quick=True)
    printed = capsys.readouterr().out
    assert "1 labelled, 6 unlabelled, 1 held out" in printed
    kept = {}
    for method in example.WEIGHTS:
        assert method in printed
        rows = log(tmp_path, method)
        assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
        assert {"Dice 1", "Dice 2", "HD95 1", "HD95 2"} < rows[0].keys()
        assert all(0 <= float(row["Dice 1"]) <= 1 for row in rows)
        kept[method] = float(rows[-1]["kept"])
    assert kept["supervised"] == 0
    assert kept["mean_teacher"] == kept["cps"] == kept["cwbass_dynamic"] == 1
    assert kept["cwbass_fixed"] < 1
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height
    dice = {tuple(row["Dice 2"] for row in log(tmp_path, method)) for method in example.WEIGHTS}
    assert len(dice) == len(example.WEIGHTS)  # what is not labelled makes a difference


def test_an_interruption_changes_nothing(
    example: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "data": data,
        "methods": "cwbass_dynamic,cps",
        "epochs": 3,
        "device": "cpu",
    }
    example.main(out=tmp_path / "whole", **options)

    evaluate, epochs_left = example.evaluate, iter([True] * 4)  # one of the second method's three

    def interrupted(*arguments: Any) -> Any:
        if not next(epochs_left, False):
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(example, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        example.main(out=tmp_path / "broken", **options)
    monkeypatch.undo()
    assert len(log(tmp_path / "broken", "cps")) == 1
    example.main(out=tmp_path / "broken", resume=True, **options)
    for method in ("cwbass_dynamic", "cps"):
        assert log(tmp_path / "broken", method) == log(tmp_path / "whole", method)
        one, other = (torch.load(tmp_path / x / f"{method}.pt") for x in ("broken", "whole"))
        assert one["learner"].keys() == other["learner"].keys()
        for name, x in one["learner"].items():
            same = torch.equal(x, other["learner"][name]) if torch.is_tensor(x) else True
            assert same, name
        assert torch.equal(one["random"], other["random"])


def test_labels_of_unlabelled_cases_are_never_read(example: ModuleType, data: Path) -> None:
    labelled, unlabelled, held_out = example.find_cases(data, None)
    assert [list(case) for case in unlabelled] == [["image"]] * 6
    images = [case["image"] for case in (*labelled, *unlabelled, *held_out)]
    assert len(set(images)) == 8
    assert example.find_cases(data, None) == (labelled, unlabelled, held_out)


def test_both_views_lie_on_the_same_voxels(example: ModuleType, data: Path) -> None:
    labelled, *_ = example.find_cases(data, None)
    crops = example.views(example.cached(labelled))
    crops.transform.set_random_state(3)
    case = crops[0]
    assert case["image"].shape == case["strong"].shape == case["label"].shape == (1, 16, 16, 16)
    assert not torch.equal(case["image"], case["strong"])
    inside = case["label"] > 0
    for view in (case["image"], case["strong"]):
        assert view[inside].mean() > view[~inside].mean() + 0.5


def test_epochs_differ_but_not_between_runs(example: ModuleType, data: Path) -> None:
    def images(epoch: int) -> torch.Tensor:
        parts = [example.views(example.cached(x)) for x in example.find_cases(data, None)[:2]]
        return torch.cat([x["unlabelled"]["strong"] for x in example.batches(*parts, epoch, 0)])

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))


def test_what_is_wrong_is_named(example: ModuleType, data: Path, tmp_path: Path) -> None:
    expected = r"has 0 labels and lacks 0 .* expected\s+four or more volumes images/NAME.nii.gz"
    with pytest.raises(example.typer.BadParameter, match=expected):
        example.main(data=tmp_path / "nowhere", out=tmp_path)
    with pytest.raises(example.typer.BadParameter, match="noise is none of supervised, mean_teach"):
        example.main(data=data, methods="cps,noise", out=tmp_path)
