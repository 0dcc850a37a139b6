"""nnU-Net's trainers, run by hand a step at a time."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.nnunet.datasets import MODES

pytest.importorskip(
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    reason="needs nnU-Net: pip install 'segloss-monai[nnunet]'",
    exc_type=ImportError,
)


def initialised(kind: Any, mode: str = "labels", configuration: str = "3d_fullres") -> Any:
    """A trainer as ``nnUNetv2_train`` makes it."""
    made = built(kind, mode, configuration)
    seed_everything()
    made.initialize()
    return made


def built(kind: Any, mode: str = "labels", configuration: str = "3d_fullres") -> Any:
    home = Path(os.environ["nnUNet_preprocessed"])
    folder = home / f"Dataset90{MODES.index(mode)}_{mode}"
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    return kind(
        plans={**plans, "continue_training": False},
        configuration=configuration,
        fold=0,
        dataset_json=json.loads((folder / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )


def seed_everything(seed: int = 0) -> None:
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)


def batches(trainer: Any, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training and a validation batch, the same for every trainer with the same transforms."""
    train, validation = trainer.get_dataloaders()
    seed_everything(seed)
    return next(train), next(validation)


def clone(batch: dict[str, Any]) -> dict[str, Any]:
    """Of a batch, because nnU-Net's steps change it."""
    targets = batch["target"]
    copies = [t.clone() for t in targets] if isinstance(targets, list) else targets.clone()
    return {**batch, "data": batch["data"].clone(), "target": copies}


def as_list(x: Any) -> list[Any]:
    return x if isinstance(x, list) else [x]
