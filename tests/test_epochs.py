"""The examples show a network something new in every epoch.

MONAI's `DataLoader` seeds its transforms and resets torch's generator when it is made, so that one
made anew for each epoch goes through the same patches in the same order for ever.
"""

import importlib.util
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import RandSpatialCropd
from monai.utils import set_determinism
from typer.testing import CliRunner

from segloss import CompoundLoss, CrossEntropyLoss
from segloss.data_scripts.cli import app

EXAMPLES = Path(__file__).parents[1] / "examples"
EPOCHS = 3  # an epoch could differ from the first and still repeat the second
pytestmark = pytest.mark.filterwarnings("default")  # other people's warnings are no error here


def quickstart(module: ModuleType, folder: Path) -> None:
    data = module.load(module.phantoms(3, 24, first_seed=0), 16)
    module.train(CompoundLoss([CrossEntropyLoss()]), [], data, EPOCHS, torch.device("cpu"))


def train_vessels(module: ModuleType, folder: Path) -> None:
    options: dict[str, Any] = {"samples": 1, "device": "cpu", "out": folder / "run"}
    module.main(data=phantom(folder), loss="ce", epochs=EPOCHS, **options)


def train_from_maps(module: ModuleType, folder: Path) -> None:
    maps = folder / "maps"
    made = CliRunner().invoke(app, ["preprocess", str(phantom(folder)), "--out", str(maps)])
    assert made.exit_code == 0, made.output
    module.main(maps / "datalist.json", epochs=EPOCHS, size=16)


def endless(module: ModuleType, folder: Path) -> None:
    image = torch.arange(24.0**2).reshape(1, 24, 24)
    crop = RandSpatialCropd("image", (16, 16), random_size=False)
    set_determinism(0)
    list(islice(module.endless(Dataset([{"image": image}] * 4, crop)), EPOCHS))


def phantom(folder: Path) -> Path:
    options = ["--count", "4", "--held-out", "1", "--shape", "28x28x28"]
    assert CliRunner().invoke(app, ["phantom", str(folder), *options]).exit_code == 0
    return folder / "datalist.json"


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("quickstart", quickstart),
        ("train_vessels", train_vessels),
        ("train_from_maps", train_from_maps),
        ("nested_classes", endless),
        ("partial_labels", endless),
    ],
)
def test_no_epoch_repeats_another(
    name: str,
    run: Callable[[ModuleType, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    epochs: list[tuple[float, ...]] = []

    class Recording(DataLoader):
        def __iter__(self) -> Any:
            batches = list(super().__iter__())
            epochs.append(tuple(batch["image"].double().sum().item() for batch in batches))
            return iter(batches)

    monkeypatch.setattr(module, "DataLoader", Recording)
    run(module, tmp_path)
    assert len(epochs) == EPOCHS
    assert len(set(epochs)) == EPOCHS
