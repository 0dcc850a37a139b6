"""Workers however they are started, several ranks, and a compiled network."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nnunet.running import batches, clone, initialised
from tests.ranks import on_two_ranks

# isort: split
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as home

from segloss.nnunet import trainer_folder
from segloss.nnunet.targets import unpacked
from segloss.nnunet.trainers import (
    nnUNetTrainerSkeletonRecall,
    nnUNetTrainerSkeletonRecallBoundary,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("folders")

# As nnUNetv2_train does it: the trainer is looked up by name, and workers make the batches.
WORKERS = """
import multiprocessing, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    sys.path.append(sys.argv[2])
    from tests.nnunet.running import initialised
    sys.path.pop()
    trainer = initialised(find("nnUNetTrainerSkeletonRecallBoundary"), "regions_ignore")
    loaders = trainer.get_dataloaders()
    batch = next(loaders[0])
    print("worked", [tuple(target.shape) for target in batch["target"]])
    for loader in loaders:
        loader._finish()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_started_by(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "main.py"
    script.write_text(WORKERS)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainer_folder()))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    outcome = subprocess.run(
        [sys.executable, str(script), method, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "worked [(2, 7, 32, 32, 32), (2, 7, 16, 16, 16), (2, 3," in outcome.stdout, outcome


class OnProcessors(nnUNetTrainerSkeletonRecall):
    """nnU-Net takes for granted that ranks have GPUs."""

    def initialize(self) -> None:
        self.device = torch.device("cpu")
        self.grad_scaler = None
        super().initialize()


def on_a_rank(rank: int) -> dict[str, Any]:
    parallel = home.DDP
    home.DDP = lambda network, device_ids: parallel(network)
    trainer = initialised(OnProcessors, "ignore", "2d")
    batch = batches(trainer, seed=rank)[0]
    outcome = trainer.train_step(clone(batch))
    return {
        "batch": batch,
        "loss": float(outcome["loss"]),
        "recall": trainer.loss.terms["skeleton_recall"],
        "group": trainer.dice_group,
        "weights": [p.detach() for p in trainer.network.parameters()],
    }


def test_two_ranks_train_as_one_with_both_batches(folders: Path) -> None:
    found: list[dict[str, Any]] = on_two_ranks(on_a_rank, folders)
    assert [each["group"] for each in found] == ["ranks", "ranks"]
    for one, other in zip(found[0]["weights"], found[1]["weights"], strict=True):
        assert torch.equal(one, other)

    alone = initialised(nnUNetTrainerSkeletonRecall, "ignore", "2d")
    assert alone.dice_group == "batch"
    # With several ranks nnU-Net gives the last scale a tiny weight, and its target has maps.
    scales = zip(*(each["batch"]["target"] for each in found), strict=True)
    targets = [torch.cat(list(pair)) for pair in scales]
    assert len({target.shape[1] for target in targets}) == 1
    maps = alone._maps_for(alone.loss)
    outputs = alone.network(torch.cat([each["batch"]["data"] for each in found]))
    target, own = unpacked(targets[0], alone.target_labels, maps)
    term = alone.loss.compound.losses["skeleton_recall"]
    joint: Tensor = term(outputs[0], target, skeleton=own["skeleton"])
    for each in found:
        assert float(each["recall"]) == pytest.approx(float(joint), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_a_compiled_network(fused: bool) -> None:
    """nnU-Net compiles the network and its own Dice on GPUs only; made to do so here."""

    class Compiled(nnUNetTrainerSkeletonRecallBoundary):
        def _do_i_compile(self) -> bool:
            return True

    Compiled.fused = fused
    plain = initialised(nnUNetTrainerSkeletonRecallBoundary)
    compiled = initialised(Compiled)
    batch = batches(plain)[0]
    expected = plain.train_step(clone(batch))["loss"]
    assert compiled.train_step(clone(batch))["loss"] == pytest.approx(expected, rel=1e-3)
    assert os.environ["nnUNet_compile"] == "f"
