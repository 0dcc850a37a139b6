# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai[nnunet]"]
# ///
"""What the target maps cost nnU-Net's own data loader, in milliseconds per batch of one worker.

    python -m benchmarks.nnunet_loader [--size 128] [--batch 2] [--batches 12]

Run from the checkout, in an environment with nnU-Net. The data are phantoms of arteries and veins,
larger than the patch as nnU-Net's cases are. Every trainer's loader draws the same batches (same
cases, crops and augmentation, by the same seeds) in this process and on one thread, as a worker of
nnU-Net does; they take turns, batch by batch, and what is compared is the sum over the batches of
the time that the processor spends, which is that of the clock on a quiet machine.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segloss.data_scripts.phantom import vessel_phantom
from tests.nnunet import datasets


def write_cases(folder: Path, size: int, batch: int) -> None:
    """Replace the tiny cases and plans of the tests by those of the benchmark."""
    datasets.CASES = 5
    cube = [[1, 1, 1]] + [[2, 2, 2]] * 5
    scale = size * 5 // 4

    def tubes(seed: int) -> np.ndarray:
        return vessel_phantom((scale,) * 3, seed=seed, classes="several", trees=12, radius=5).label

    def plans(name: str) -> dict[str, Any]:
        own = datasets.configuration([size] * 3, cube, batch_size=batch, spacing=[1.0] * 3)
        return {**made(name), "configurations": {"3d_fullres": own}}

    made = datasets.plans
    datasets.tubes, datasets.plans = tubes, plans  # type: ignore[assignment]
    datasets.write_preprocessed(folder, "Dataset900_labels", "labels")


def loader(kind: Any) -> Any:
    from tests.nnunet.running import built

    trainer = built(kind)
    trainer.batch_size = trainer.configuration_manager.batch_size
    return trainer.get_dataloaders()[0]


def seconds(loader: Any, seed: int) -> tuple[float, dict[str, Any]]:
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    start = time.process_time()
    batch = next(loader)
    return time.process_time() - start, batch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="voxels along an axis of a patch")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--batches", type=int, default=12)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "nnUNet_raw": folder,
            "nnUNet_preprocessed": folder,
            "nnUNet_results": f"{folder}/results",
            "nnUNet_n_proc_DA": "0",
            "nnUNet_compile": "f",
        }
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from segloss.nnunet import trainers

    class PerClass(trainers.nnUNetTrainerSkeletonRecall):
        skeleton_per_class = True

    class Unclipped(trainers.nnUNetTrainerBoundary):
        def target_maps(self) -> Any:
            return {"distance": trainers.DistanceMap()}

    write_cases(folder, options.size, options.batch)
    kinds = {
        "plain": nnUNetTrainer,
        "skeleton": trainers.nnUNetTrainerSkeletonRecall,
        "skeleton of each class": PerClass,
        "distance": trainers.nnUNetTrainerBoundary,
        "distance, unclipped": Unclipped,
        "skeleton and distance": trainers.nnUNetTrainerSkeletonRecallBoundary,
    }
    loaders = {name: loader(kind) for name, kind in kinds.items()}
    for each in loaders.values():
        seconds(each, 0)  # compiles
    times: dict[str, list[float]] = {name: [] for name in loaders}
    foreground, sizes = [], {}
    for seed in track(range(options.batches), transient=True):
        for name, each in loaders.items():
            spent, batch = seconds(each, seed)
            times[name].append(spent)
            sizes[name] = sum(t.numel() * t.element_size() for t in batch["target"])
            if name == "plain":
                foreground.append(float((batch["target"][0] > 0).float().mean()))

    share = 100 * statistics.mean(foreground)
    table = Table(
        title=f"{options.batch} patches of {options.size}³, {share:.1f} % foreground",
        title_justify="left",
    )
    for heading in ("maps", "mean ms", "median ms", "added to plain", "target MB"):
        table.add_column(heading, justify="left" if heading == "maps" else "right")
    plain = sum(times["plain"])
    for name, spent in times.items():
        table.add_row(
            name,
            f"{1e3 * statistics.mean(spent):.0f}",
            f"{1e3 * statistics.median(spent):.0f}",
            f"{100 * (sum(spent) / plain - 1):+.0f} %",
            f"{sizes[name] / 1e6:.0f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
