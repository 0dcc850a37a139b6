"""The example of a MONAI bundle runs, and is what MONAI takes for one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from segloss.data_scripts.cli import app

pytest.importorskip("ignite")
pytest.importorskip("fire")
from monai.bundle import ConfigWorkflow, verify_net_in_out

BUNDLE = Path(__file__).parents[2] / "examples" / "bundle"
TRAIN, METADATA = BUNDLE / "configs" / "train.yaml", BUNDLE / "configs" / "metadata.json"
pytestmark = pytest.mark.filterwarnings("default")  # other people's warnings are no error here


def test_it_is_a_bundle() -> None:
    """MONAI's specification, "metadata.json File"."""
    metadata = json.loads(METADATA.read_text())
    mandatory = {"version", "monai_version", "pytorch_version", "numpy_version", "task"}
    mandatory |= {"description", "authors", "copyright", "network_data_format", "schema"}
    assert mandatory <= metadata.keys()
    assert metadata["version"] in metadata["changelog"]
    described = {"type", "format", "modality", "num_channels", "spatial_shape", "dtype"}
    described |= {"value_range", "is_patch_data", "channel_def"}
    for tensors in metadata["network_data_format"].values():
        for tensor in tensors.values():
            assert described <= tensor.keys()
            assert len(tensor["channel_def"]) == tensor["num_channels"]
    verify_net_in_out("network_def", meta_file=str(METADATA), config_file=str(TRAIN), device="cpu")


def phantoms(folder: Path) -> Path:
    options = ["--count", "3", "--held-out", "1", "--shape", "32x32x32"]
    assert CliRunner().invoke(app, ["phantom", str(folder / "vessels"), *options]).exit_code == 0
    return folder / "vessels"


def test_it_trains_and_its_weights_follow_the_epochs(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "dataset_dir": str(phantoms(tmp_path)),
        "bundle_root": str(tmp_path),
        "epochs": 2,
        "val_interval": 2,
        "patch": [32, 32, 32],
        "workers": 0,
        "device": "$torch.device('cpu')",
        "network_def#channels": [4, 8, 16, 32],
    }
    workflow = ConfigWorkflow(
        str(TRAIN), meta_file=str(METADATA), logging_file=False, workflow_type="train", **small
    )
    workflow.initialize()
    assert not workflow.check_properties()
    loss = workflow.parser.get_parsed_content("loss")
    assert loss.loss.weights["skeleton_recall"] == 0
    workflow.run()
    workflow.finalize()
    assert loss.loss.epoch == 2
    assert loss.loss.weights["skeleton_recall"] == 1
    assert set(loss.terms) == {"dice", "cross_entropy", "skeleton_recall"}
    metrics = workflow.parser.get_parsed_content("validate#evaluator").state.metrics
    assert set(metrics) == {"dice", "centerline_dice"}
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    network = workflow.parser.get_parsed_content("network")
    assert weights.keys() == network.state_dict().keys()


@pytest.mark.slow
def test_the_commands_of_its_page(tmp_path: Path) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    page = (BUNDLE / "docs" / "README.md").read_text()
    _, _, phantom, train = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[0].splitlines()
    segloss = [sys.executable, "-c", "from segloss.data_scripts.cli import app; app()"]
    small = ["--epochs", "5", "--patch", "[32,32,32]", "--workers", "0"]
    for command in (
        [*segloss, *phantom.split()[1:], "--shape", "32x32x32"],
        [sys.executable, *train.split()[1:], *small],
    ):
        done = subprocess.run(
            command,
            cwd=tmp_path / "bundle",
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "centerline_dice" in done.stderr + done.stdout
    assert (tmp_path / "bundle" / "models" / "model.pt").exists()
