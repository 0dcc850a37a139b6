"""The example by nnU-Net's own commands: plan, train, go on, predict, export, predict."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from tests.nnunet import running  # skips without nnU-Net

# isort: split
from segloss.nnunet import trainer_folder
from segloss.nnunet.config import read_recipe

pytestmark = pytest.mark.slow
assert running

TINY = """
import os
import torch
from segloss.nnunet.trainers import nnUNetTrainerSegLoss, nnUNetTrainerSkeletonRecallBoundary

class Short:
    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["SHORT_EPOCHS"])
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 4, 2

class nnUNetTrainerShort(Short, nnUNetTrainerSkeletonRecallBoundary): pass
class nnUNetTrainerShortSegLoss(Short, nnUNetTrainerSegLoss): pass
"""
CONFIG = """
fused: true
terms:
  recall: {loss: skeleton_recall, weight: {linear: [0.5, 1, 1]}}
"""
EXAMPLE = Path(__file__).parents[2] / "examples" / "nnunet"
Run = Callable[..., str]


def masks(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        for path in sorted(folder.glob("*.nii.gz"))
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nnunet")


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """Run a command of the environment that the tests run in."""
    own = place / "own trainers"
    own.mkdir()
    (own / "short_trainers_of_this_test.py").write_text(TINY)
    programs = Path(sys.executable).parent

    def run(*command: str, trainers: bool = True, **variables: str) -> str:
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "nnUNet_raw": str(place / "raw"),
            "nnUNet_preprocessed": str(place / "preprocessed"),
            "nnUNet_results": str(place / "results"),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            "OMP_NUM_THREADS": "2",
            **variables,
        }
        environment.pop("nnUNet_extTrainer", None)
        if trainers:
            environment["nnUNet_extTrainer"] = os.pathsep.join([str(own), str(trainer_folder())])
        outcome = subprocess.run(
            [str(programs / command[0]), *command[1:]],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
        assert outcome.returncode == 0, outcome.stdout[-5000:]
        return outcome.stdout

    return run


@pytest.fixture(scope="module")
def planned(place: Path, run: Run) -> Path:
    """The dataset, planned by nnU-Net; only the network is made smaller."""
    raw = place / "raw" / "Dataset950_Tubes"
    run("python", str(EXAMPLE / "make_dataset.py"), str(raw), "--size", "40")
    for name in ("preprocessed", "results"):
        (place / name).mkdir()
    run("nnUNetv2_plan_and_preprocess", "-d", "950", "-c", "3d_fullres", "-np", "1", "-npfp", "1")
    path = place / "preprocessed" / "Dataset950_Tubes" / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [4 * 2**i for i in range(network["n_stages"])]
    path.write_text(json.dumps(plans))
    return path.parent


def train(run: Run, trainer: str, *options: str, epochs: int, **variables: str) -> str:
    return run(
        *("nnUNetv2_train", "950", "3d_fullres", "0", "-tr", trainer, "-device", "cpu"),
        *options,
        SHORT_EPOCHS=str(epochs),
        **variables,
    )


def predict(run: Run, place: Path, out: str, trainer: str, **options: Any) -> dict[str, np.ndarray]:
    run(
        *("nnUNetv2_predict", "-i", str(place / "raw" / "Dataset950_Tubes" / "imagesTs")),
        *("-o", str(place / out), "-d", "950", "-c", "3d_fullres", "-f", "0", "-tr", trainer),
        *("-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta"),
        **options,
    )
    return masks(place / out)


def test_train_go_on_predict_export_and_predict_without_segloss(
    place: Path, planned: Path, run: Run
) -> None:
    first = train(run, "nnUNetTrainerShort", epochs=1)
    assert re.findall(r"train_boundary .* \(weight (.*)\)", first) == ["0"]
    assert "SkeletonRecallLoss" in first  # the loss is in the log

    second = train(run, "nnUNetTrainerShort", "--c", epochs=2)
    assert "Epoch 0" not in second and "Epoch 1" in second
    assert re.findall(r"train_boundary .* \(weight (.*)\)", second) == ["1"]
    assert re.findall(r"train_skeleton_recall (0\.\d+) \(weight 1\)", second)

    with_segloss = predict(run, place, "predicted", "nnUNetTrainerShort")
    assert len(with_segloss) == 2

    results = place / "results" / "Dataset950_Tubes"
    model = results / "nnUNetTrainerShort__nnUNetPlans__3d_fullres"
    before = {path: path.read_bytes() for path in model.rglob("*.pth")}
    said = run("segloss", "nnunet", "export", str(model), trainers=False)
    assert said.strip() == str(results / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    assert {path: path.read_bytes() for path in model.rglob("*.pth")} == before

    # Not even importable: the model is stock.
    without = place / "without"
    (without / "segloss").mkdir(parents=True)
    (without / "segloss" / "__init__.py").write_text("raise ImportError('not here')")
    stock = predict(run, place, "stock", "nnUNetTrainer", trainers=False, PYTHONPATH=str(without))
    assert stock.keys() == with_segloss.keys()
    for name, mask in stock.items():
        np.testing.assert_array_equal(mask, with_segloss[name])
    with pytest.raises(AssertionError, match="Could not find requested nnunet trainer"):
        predict(run, place, "nothing", "nnUNetTrainerShort", trainers=False)


def test_the_losses_of_the_example_are_understood() -> None:
    assert list(read_recipe(EXAMPLE / "losses.yaml").terms) == ["skeleton_recall", "boundary"]


def test_train_from_a_config(place: Path, planned: Path, run: Run) -> None:
    config = place / "losses.yaml"
    config.write_text(CONFIG)
    said = train(run, "nnUNetTrainerShortSegLoss", epochs=2, SEGLOSS_NNUNET_CONFIG=str(config))
    assert re.findall(r"train_recall .* \(weight (.*)\)", said) == ["0.5", "1"]
    assert len(re.findall(r"train_cross_entropy .* \(weight 1\)", said)) == 2
    folder = "nnUNetTrainerShortSegLoss__nnUNetPlans__3d_fullres/fold_0"
    assert (place / "results/Dataset950_Tubes" / folder / "segloss.yaml").read_text() == CONFIG
