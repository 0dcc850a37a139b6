"""Models for people without this package: nnU-Net's checkpoints under a stock trainer's name.

nnU-Net looks the trainer up by the name in the checkpoint, and needs it only for the network, which
is nnU-Net's own unless its regions are nested.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

__all__ = ["STOCK", "export_model"]

STOCK = "nnUNetTrainer"


def export_model(folder: Path, target: Path | None = None, trainer: str = STOCK) -> Path:
    """Copy a trained model so that an nnU-Net without segloss predicts with it.

    Everything is copied as it is, except that each checkpoint gets the trainer's new name. The copy
    appears under its name when it is complete; the model itself is not touched.

    Args:
        folder: A model's folder in ``nnUNet_results``, ``TRAINER__PLANS__CONFIGURATION``, with
            folders ``fold_*`` in it.
        target: Where the copy goes. None: beside it, under the trainer's new name.
        trainer: The new name, a trainer with the same network.

    Returns:
        The new folder.

    Raises:
        ValueError: If there is no checkpoint, one is none of nnU-Net's or has a network of ours, or
            the folder's name does not tell the trainer and there is no target.
        FileExistsError: If the target is there already.
    """
    folder = folder.resolve()
    checkpoints = {str(path) for path in folder.glob("fold_*/*.pth")}
    if not checkpoints:
        raise ValueError(
            f"{folder} holds no fold_*/*.pth: expected a model's folder in "
            "nnUNet_results, such as Dataset001_X/nnUNetTrainerSkeletonRecall__nnUNetPlans__2d"
        )
    if target is None:
        _, *rest = folder.name.split("__")
        if len(rest) != 2:
            raise ValueError(
                f"{folder.name} is not TRAINER__PLANS__CONFIGURATION: say where the copy shall go"
            )
        target = folder.with_name("__".join([trainer, *rest]))
    if target.exists():
        raise FileExistsError(f"{target} is there already: say where the copy shall go")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")

    def copy(source: str, goal: str) -> None:
        if source in checkpoints:
            _write_renamed(source, goal, trainer)
        else:
            shutil.copy2(source, goal)

    try:
        shutil.copytree(folder, partial, copy_function=copy)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_renamed(source: str, goal: str, trainer: str) -> None:
    # As nnU-Net itself reads them: they hold NumPy numbers, which weights_only refuses.
    checkpoint: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=False)
    if not isinstance(checkpoint, dict) or "trainer_name" not in checkpoint:
        raise ValueError(f"{source} names no trainer: is it a checkpoint of nnU-Net 2?")
    if "_extra_state" in checkpoint["network_weights"]:
        raise ValueError(
            f"{source}: the network of {checkpoint['trainer_name']} ends in nested regions, which no "
            "nnU-Net without segloss has: predict where segloss is installed"
        )
    torch.save({**checkpoint, "trainer_name": trainer}, goal)
