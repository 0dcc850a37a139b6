# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Train one small network twice, without and with skeleton recall, and compare what they find.

The data are phantoms of branching vessels that fade in places; everything is made here. Takes two
to three minutes on two CPU cores: ``python examples/quickstart.py``.

Skeleton recall asks for the whole centreline, so the network dares more: it bridges gaps, and it
takes more specks of noise for vessels. Specks smaller than any vessel are removed from both
results before they are measured and drawn.
"""

from pathlib import Path
from typing import Annotated, Any

import cc3d
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

from segloss import CompoundLoss, CrossEntropyLoss, DiceLoss, Multiclass, SkeletonRecallLoss
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
    """Volumes in which thin vessels are hardly brighter than the noise, and come and go."""
    seeds = range(first_seed, first_seed + count)
    return [
        vessel_phantom((size,) * 3, seed=s, trees=6, fading=0.9, noise=0.2)._asdict() for s in seeds
    ]


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
    network = UNet(3, 1, 2, channels=(16, 32, 64), strides=(2, 2)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loader = DataLoader(data, batch_size=1, shuffle=True)  # built anew it would repeat the epoch
    for _ in track(range(epochs), " + ".join(loss.losses)):
        for batch in loader:
            logits = network(batch["image"].to(device))
            targets = {name: batch[f"{name}_label"].to(device) for name in maps}
            optimizer.zero_grad()
            loss(logits, batch["label"].to(device), **targets).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def segment(network: UNet, data: CacheDataset, device: torch.device) -> list[torch.Tensor]:
    """The predicted labels of whole volumes, each (1, D, H, W), without specks."""
    found = [network(case["image"][None].to(device)).argmax(1)[0].cpu() for case in data]
    cleaned = [cc3d.dust(mask.numpy(), threshold=30, connectivity=26) for mask in found]
    return [torch.from_numpy(mask)[None] for mask in cleaned]


def measure(predicted: list[torch.Tensor], data: CacheDataset) -> list[float]:
    """The mean of every metric over the volumes."""
    values = []
    for metric in METRICS.values():
        metric.reset()
        for labels, case in zip(predicted, data, strict=True):
            metric(y_pred=one_hot(labels[None], 2), y=one_hot(case["label"][None], 2))
        values.append(metric.aggregate().item())
    return values


def draw(case: dict[str, Any], predicted: dict[str, torch.Tensor], path: Path) -> None:
    """Maximum projections: white where a network is right, red what it misses, blue what it adds."""
    panels = {
        "Image": case["image"],
        "Label": case["label"],
        "Tubed skeleton": case["skeleton_label"],
    }
    flat = {name: np.asarray(volume[0]).max(0) for name, volume in (panels | predicted).items()}
    for name in predicted:
        true, found = flat["Label"], flat[name]
        flat[name] = np.stack([true, true * found, found], -1).astype(float)
    _, axes = plt.subplots(1, len(flat), figsize=(3.2 * len(flat), 3.6), layout="constrained")
    for axis, (title, picture) in zip(axes, flat.items(), strict=True):
        axis.imshow(picture, cmap="gray")
        axis.set_title(title)
        axis.axis("off")
    plt.savefig(path, dpi=80)


def main(
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("quickstart.png"),
    quick: Annotated[bool, typer.Option(help="Seconds instead of minutes, to try it.")] = False,
) -> None:
    """Train twice, print a table, draw a picture."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, patch, epochs = (32, 16, 2) if quick else (96, 48, 30)
    training = load(phantoms(4 if quick else 16, size, first_seed=0), patch)
    held_out = load(phantoms(2 if quick else 8, size, first_seed=1000))

    vessel = Multiclass(background=False)  # the overlap of the background is never in doubt
    overlap = DiceLoss(vessel, group="batch") + CrossEntropyLoss()
    recipes = {
        "Dice + CE": (overlap, []),
        "Dice + CE + skeleton recall": (overlap + SkeletonRecallLoss(), ["skeleton"]),
    }
    table = Table("Loss", *METRICS, title=f"Means over {len(held_out)} held-out volumes")
    examples = {}
    for name, (loss, maps) in recipes.items():
        predicted = segment(train(loss, maps, training, epochs, device), held_out, device)
        table.add_row(name, *(f"{value:.3f}" for value in measure(predicted, held_out)))
        examples[name] = predicted[0]
    draw(held_out[0], examples, out)
    Console().print(table, f"Picture: {out}")


if __name__ == "__main__":
    typer.run(main)
