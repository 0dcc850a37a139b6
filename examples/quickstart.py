# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai[examples]"]
# ///
"""Train one small network twice, without and with skeleton recall, and compare what they find.

The data are phantoms of branching vessels, thin and noisy; everything is made here. Takes about
three minutes on two CPU cores: ``python examples/quickstart.py``.
"""

from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
from monai.data import CacheDataset, DataLoader
from monai.metrics import CumulativeIterationMetric, DiceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
    RandFlipd,
)
from monai.utils import set_determinism
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segloss import CompoundLoss, CrossEntropyLoss, DiceLoss, SkeletonRecallLoss
from segloss.data_scripts.phantom import vessel_phantom
from segloss.metrics import BettiErrorMetric, CenterlineDiceMetric
from segloss.transforms import TubedSkeletond

BOTH = ["image", "label"]
METRICS: dict[str, CumulativeIterationMetric] = {
    "Dice": DiceMetric(include_background=False),
    "Centreline Dice": CenterlineDiceMetric(),
    "Betti-0 error": BettiErrorMetric(dimension=0),
}


def phantoms(count: int, size: int, first_seed: int) -> list[dict[str, np.ndarray]]:
    """Volumes in which the thin vessels are hardly brighter than the noise."""
    seeds = range(first_seed, first_seed + count)
    return [vessel_phantom((size,) * 3, seed=s, trees=4, noise=0.6)._asdict() for s in seeds]


def load(cases: list[dict[str, np.ndarray]], patch: int | None = None) -> CacheDataset:
    """Prepare whole volumes or, for training, random patches. The skeleton comes last."""
    whole = [
        EnsureChannelFirstd(BOTH, channel_dim="no_channel"),
        NormalizeIntensityd("image"),
    ]
    random: list[Any] = []
    if patch:
        random = [RandCropByPosNegLabeld(BOTH, "label", (patch,) * 3, num_samples=2)]
        random += [RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in range(3)]
    return CacheDataset(cases, Compose([*whole, *random, TubedSkeletond("label")]), progress=False)


def train(
    loss: CompoundLoss, maps: list[str], data: CacheDataset, epochs: int, device: torch.device
) -> UNet:
    """Train from a seed: every call starts from the same weights and sees the same patches."""
    set_determinism(0)
    network = UNet(3, 1, 2, channels=(16, 32, 64), strides=(2, 2), num_res_units=1).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in track(range(epochs), " + ".join(loss.losses)):
        for batch in DataLoader(data, batch_size=1, shuffle=True):
            logits = network(batch["image"].to(device))
            targets = {name: batch[f"{name}_label"].to(device) for name in maps}
            optimizer.zero_grad()
            loss(logits, batch["label"].to(device), **targets).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def segment(network: UNet, data: CacheDataset, device: torch.device) -> list[torch.Tensor]:
    """The predicted labels of whole volumes, each (1, 1, D, H, W)."""
    return [network(case["image"][None].to(device)).argmax(1, keepdim=True).cpu() for case in data]


def measure(predicted: list[torch.Tensor], data: CacheDataset) -> list[float]:
    """The mean of every metric over the volumes."""
    values = []
    for metric in METRICS.values():
        metric.reset()
        for labels, case in zip(predicted, data, strict=True):
            metric(y_pred=one_hot(labels, 2), y=one_hot(case["label"][None], 2))
        values.append(metric.aggregate().item())
    return values


def draw(panels: dict[str, Any], path: Path) -> None:
    """Maximum projections, side by side."""
    _, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 3.3))
    for axis, (title, volume) in zip(axes, panels.items(), strict=True):
        axis.imshow(np.asarray(volume).squeeze().max(0), cmap="gray")
        axis.set_title(title)
        axis.axis("off")
    plt.tight_layout()
    plt.savefig(path, dpi=80)


def main(
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("quickstart.png"),
    quick: Annotated[bool, typer.Option(help="Seconds instead of minutes, to try it.")] = False,
) -> None:
    """Train twice, print a table, draw a picture."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, patch, epochs = (32, 16, 2) if quick else (96, 48, 20)
    training = load(phantoms(4 if quick else 16, size, first_seed=0), patch)
    held_out = load(phantoms(2 if quick else 8, size, first_seed=1000))

    overlap = DiceLoss() + CrossEntropyLoss()
    recipes = {
        "Dice + CE": (overlap, []),
        "Dice + CE + skeleton recall": (overlap + SkeletonRecallLoss(), ["skeleton"]),
    }
    table = Table("Loss", *METRICS, title=f"Means over {len(held_out)} held-out volumes")
    case = held_out[0]
    panels = {"Image": case["image"], "Label": case["label"]}
    panels["Tubed skeleton"] = case["skeleton_label"]
    for name, (loss, maps) in recipes.items():
        predicted = segment(train(loss, maps, training, epochs, device), held_out, device)
        table.add_row(name, *(f"{value:.3f}" for value in measure(predicted, held_out)))
        panels[name] = predicted[0]
    draw(panels, out)
    Console().print(table, f"Picture: {out}")


if __name__ == "__main__":
    typer.run(main)
