"""nnU-Net's trainers, run by hand a step at a time."""

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.nnunet.datasets import MODES


def initialised(kind: Any, mode: str = "labels", configuration: str = "3d_fullres") -> Any:
    """A trainer as ``nnUNetv2_train`` makes it."""
    made = built(kind, mode, configuration)
    with seeded():
        made.initialize()
    return made


def built(kind: Any, mode: str = "labels", configuration: str = "3d_fullres") -> Any:
    home = Path(os.environ["nnUNet_preprocessed"])  # noqa: SIM112
    folder = home / f"Dataset90{MODES.index(mode)}_{mode}"
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    return kind(
        plans={**plans, "continue_training": False},
        configuration=configuration,
        fold=0,
        dataset_json=json.loads((folder / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    yield


def batches(trainer: Any, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training and a validation batch, the same for every trainer with the same transforms."""
    train, validation = trainer.get_dataloaders()
    with seeded(seed):
        return next(train), next(validation)


def as_list(x: Any) -> list[Any]:
    return x if isinstance(x, list) else [x]
