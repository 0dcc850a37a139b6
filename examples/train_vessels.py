# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Train a network to find vessels in images of yours, 2D or 3D, with the losses you name.

    python examples/train_vessels.py --data stacks --loss dice_ce_skeleton --epochs 100

``--data`` is one of three:

- a folder of ``*.npz`` stacks, each with ``image``, ``label`` and ``spacing``, as made from the
  two-photon stacks of Teikari et al. (2016); stacks without an image are left out;
- a folder of fundus photographs ``*.jpg`` with vessel masks ``*_1stHO.png``, as CHASE_DB1 is
  published; the first 20 train, the others are held out;
- a MONAI datalist, a JSON file with parts ``training`` and ``validation`` (``segloss phantom``
  makes one). Any label above 0 is vessel.

Leaves ``log.csv`` and ``checkpoint.pt`` in ``--out``. After an interruption, repeat the command
with ``--resume``: training goes on as if nothing had happened.
"""

import csv
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, load_decathlon_datalist
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Lambda,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandSpatialCropSamplesd,
    Transform,
)
from monai.utils import set_determinism
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segloss import (
    BoundaryLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    Linear,
    Multiclass,
    SkeletonRecallLoss,
    TverskyLoss,
)
from segloss.metrics import BettiErrorMetric, CenterlineDiceMetric
from segloss.transforms import SignedDistanced, TubedSkeletond

Case = dict[str, Any]
VESSEL = Multiclass(background=False)  # overlap of the vessels; the background's is never in doubt
TERMS = {
    "dice": DiceLoss(VESSEL, group="batch"),
    "tversky": TverskyLoss(VESSEL, group="batch"),
    "ce": CrossEntropyLoss(),
    "skeleton": SkeletonRecallLoss(VESSEL, group="batch"),
    "boundary": (Linear(0.0, 1.0, steps=50), BoundaryLoss(VESSEL)),  # overlap first, then shape
}
MAPS = {  # the name by which a loss takes its map, and what makes "<name>_label"
    "skeleton": ("skeleton", TubedSkeletond("label")),
    "boundary": ("distance", SignedDistanced("label", num_classes=2, normalize=True)),
}
BOTH = ["image", "label"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METRICS = {
    "Dice": DiceMetric(include_background=False),
    "Centreline Dice": CenterlineDiceMetric(),
    "Betti-0 error": BettiErrorMetric(dimension=0),
    "Betti-1 error": BettiErrorMetric(dimension=1),
}


def read_stack(path: Path) -> Case:
    """A stack and its voxel size, which the distance map needs."""
    with np.load(path) as file:
        affine = torch.diag(torch.tensor([*file["spacing"], 1.0]))
        return {key: MetaTensor(torch.from_numpy(file[key])[None], affine) for key in BOTH}


def find_cases(data: Path) -> tuple[list[Any], list[Any], Transform]:
    """What to train on, what to hold out, and how to read it."""
    read_images = Compose([LoadImaged(BOTH), EnsureChannelFirstd(BOTH)])
    if data.is_file():
        parts = [load_decathlon_datalist(data, data_list_key=k) for k in ("training", "validation")]
        return parts[0], parts[1], read_images
    if masks := sorted(data.glob("*_1stHO.png")):
        cases = [{"image": str(m).replace("_1stHO.png", ".jpg"), "label": str(m)} for m in masks]
        return cases[:20], cases[20:], read_images
    groups: dict[str, list[Path]] = {}
    for path in sorted(data.glob("*.npz")):
        if "image" in np.load(path):  # two stacks of one field of view must not be split
            groups.setdefault(path.stem.partition("BBB")[0], []).append(path)
    training = [path for i, group in enumerate(groups.values()) if i % 3 for path in group]
    held_out = [path for group in list(groups.values())[::3] for path in group]
    return training, held_out, Lambda(read_stack)


def patch_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As large as fits the images, in steps of 8: up to 64 voxels, or 192 pixels."""
    return tuple(min(length // 8 * 8, 64 if len(shape) == 3 else 192) for length in shape)


def make_network(channels: int, patch: tuple[int, ...]) -> UNet:
    """A U-Net that halves an axis only while there is something to halve: stacks are flat."""
    strides = [[2 if length >> level > 8 else 1 for length in patch] for level in range(3)]
    return UNet(len(patch), channels, 2, (16, 32, 64, 128), strides, num_res_units=1)


def load(patches: Dataset, epoch: int, seed: int) -> DataLoader:
    """One image, several patches at a time; order and patches depend on the epoch's number only."""
    source = torch.Generator().manual_seed(epoch + 10_000 * seed)
    return DataLoader(patches, batch_size=1, shuffle=True, generator=source)


def train_epoch(
    network: UNet,
    loss: CompoundLoss,
    maps: list[str],
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    device: str,
) -> dict[str, float]:
    """See every image once. Gives the mean of the loss and of each of its terms."""
    history = []
    for batch in loader:
        logits = network(batch["image"].to(device))
        targets = {name: batch[f"{name}_label"].to(device) for name in maps}
        value = loss(logits, batch["label"].to(device), **targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        history.append(torch.stack([value.detach(), *loss.terms.values()]))
    means = torch.stack(history).mean(0).tolist()
    return dict(zip(["loss", *loss.terms], means, strict=True))


@torch.no_grad()
def evaluate(
    network: UNet, volumes: CacheDataset, patch: tuple[int, ...], device: str
) -> dict[str, float]:
    """The mean of every metric over whole volumes, segmented patch by patch."""
    network.eval()
    for metric in METRICS.values():
        metric.reset()
    for case in track(volumes, "Measuring"):
        image = case["image"][None].to(device)
        logits = sliding_window_inference(image, patch, 8, network, overlap=0.25, mode="gaussian")
        masks = one_hot(logits.argmax(1, keepdim=True).cpu(), 2)
        for metric in METRICS.values():
            metric(y_pred=masks, y=one_hot(case["label"][None], 2))
    return {name: metric.aggregate().item() for name, metric in METRICS.items()}


def main(
    data: Annotated[Path, typer.Option(exists=True, help="A folder or a datalist, see above.")],
    loss: Annotated[
        str, typer.Option(help=f"Any of {', '.join(TERMS)}, joined by _.")
    ] = "dice_ce_skeleton",
    epochs: Annotated[int, typer.Option(min=1, help="How often to see every image.")] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Patches from an image at a time.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = DEVICE,
    out: Annotated[Path, typer.Option(file_okay=False, help="For the log.")] = Path("run"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights and patches.")] = 0,
) -> None:
    """Train, then measure on what was held out."""
    names = loss.split("_")
    if unknown := set(names) - TERMS.keys():
        raise typer.BadParameter(f"{', '.join(unknown)} is none of {', '.join(TERMS)}")
    training, held_out, read = find_cases(data)
    if not training or not held_out:
        raise typer.BadParameter(
            f"{data} holds {len(training)} images to train on and {len(held_out)} to hold out"
        )
    whole = Compose(
        [
            read,
            AsDiscreted("label", threshold=0.5),
            NormalizeIntensityd("image", channel_wise=True),
        ]
    )
    volumes = CacheDataset(training, whole, progress=False)
    channels, *shape = np.min([case["image"].shape for case in volumes], axis=0).tolist()
    if min(shape) < 8:
        raise typer.BadParameter(f"the smallest image has shape {tuple(shape)}, needs 8 or more")
    patch = patch_size(tuple(shape))
    maps = dict(MAPS[name] for name in names if name in MAPS)
    crop_and_flip = [
        RandSpatialCropSamplesd(BOTH, patch, samples, random_size=False),
        *(RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in range(len(patch))),
    ]
    patches = Dataset(volumes, Compose([*crop_and_flip, *maps.values()]))

    set_determinism(seed)
    network = make_network(channels, patch).to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    compound = CompoundLoss({name: TERMS[name] for name in names})
    state = {"network": network, "optimizer": optimizer, "loss": compound}
    history: list[dict[str, float]] = []
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        saved = torch.load(out / "checkpoint.pt", map_location=device)
        for key, part in state.items():
            part.load_state_dict(saved[key])
        history = saved["history"]

    for epoch in track(range(len(history), epochs), f"Training with {loss}"):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - epoch / epochs) ** 0.9
        network.train()
        loader = load(patches, epoch, seed)
        means = train_epoch(network, compound, list(maps), optimizer, loader, device)
        compound.step()
        history.append({"epoch": epoch, **means})
        saved = {key: part.state_dict() for key, part in state.items()}
        torch.save({**saved, "history": history}, out / "checkpoint.part")
        (out / "checkpoint.part").replace(out / "checkpoint.pt")
        with (out / "log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, history[0])
            writer.writeheader()
            writer.writerows(history)

    test = CacheDataset(held_out, whole, progress=False)
    means = evaluate(network, test, patch, device)
    table = Table(*means, title=f"{loss}: means over {len(held_out)} held-out images")
    table.add_row(*(f"{value:.3f}" for value in means.values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
