# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""One network from data sets that label different things, made from one by hiding classes.

    python examples/partial_labels.py --data hippocampus --classes "[anterior, posterior]"
    python examples/partial_labels.py --data axon_myelin --classes "[myelin, axon]"

``--data`` is a folder with ``images`` and ``labels``, files of the same name in both, 2D or 3D;
``--classes`` are the names of labels 1, 2 and so on. The training images are dealt out to as many data
sets, in each of which one class is labelled and the others have gone into the background. Three
networks learn: one that takes this background for true, one that is told what each data set labels,
and one that has all labels. The Dice of each class is measured on every fifth image, with all labels.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from monai.data import CacheDataset, DataLoader, Dataset
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    CopyItemsd,
    Lambda,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandSpatialCropSamplesd,
)
from monai.utils import set_determinism
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segloss import (
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    LabelSets,
    LabelSpace,
    LabelTree,
    Multiclass,
)

BOTH = ["image", "label"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def find_cases(data: Path) -> list[dict[str, str]]:
    """Images that have a label of the same name."""
    images = sorted((data / "images").glob("[!.]*"))
    labels = [data / "labels" / image.name for image in images]
    return [
        {"image": str(image), "label": str(label)}
        for image, label in zip(images, labels, strict=True)
        if label.is_file()
    ]


def hide(case: dict[str, Any]) -> dict[str, Any]:
    """Leave only the class that the case's data set labels."""
    shown = case["dataset"] + 1
    return {**case, "partial": torch.where(case["partial"] == shown, case["partial"], 0)}


def patch_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As large as fits the images, in steps of 8: up to 32 voxels, or 96 pixels."""
    return tuple(min(length // 8 * 8, 32 if len(shape) == 3 else 96) for length in shape)


def endless(patches: Dataset) -> Iterator[dict[str, Any]]:
    """Two patches of each of four images at a time, for as long as one asks."""
    loader = DataLoader(patches, batch_size=min(4, len(patches)), shuffle=True)
    while True:  # one loader: built anew it would repeat order and patches
        yield from loader


def train(
    name: str,
    loss: CompoundLoss,
    target: str,
    classes: list[str],
    patches: Dataset,
    size: tuple[int, ...],
    steps: int,
) -> UNet:
    """A network that has learnt from one kind of target."""
    set_determinism(0)  # the same patches for all
    strides = [[2 if length >> level > 8 else 1 for length in size] for level in range(3)]
    widths = (8, 16, 32, 64)
    network = UNet(len(size), 1, 1 + len(classes), widths, strides, num_res_units=1).to(DEVICE)
    optimizer = torch.optim.AdamW(network.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    partial = any(isinstance(term.encoding, LabelSets) for term in loss.losses.values())
    for batch in track(islice(endless(patches), steps), name, total=steps):
        maps = {"dataset": batch["dataset"].to(DEVICE)} if partial else {}
        value = loss(network(batch["image"].to(DEVICE)), batch[target].to(DEVICE), **maps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate.step()
    return network.eval()


def main(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="A folder, see above.")],
    classes: Annotated[str, typer.Option(help="As YAML.")] = "[anterior, posterior]",
    steps: Annotated[int, typer.Option(min=2, help="Batches to train on.")] = 300,
) -> None:
    """Train, measure on what was held out."""
    names: list[str] = yaml.safe_load(classes)
    cases = find_cases(data)
    if len(cases) < 5:
        raise typer.BadParameter(f"{data} holds {len(cases)} labelled images, needs 5 or more")
    dealt = [case for index, case in enumerate(cases) if index % 5]
    for index, case in enumerate(dealt):
        case["dataset"] = index % len(names)
    read = [LoadImaged(BOTH, ensure_channel_first=True), NormalizeIntensityd("image")]
    hiding = [CopyItemsd("label", names="partial"), Lambda(hide)]
    training = CacheDataset(dealt, Compose([*read, *hiding]), progress=False)
    held_out = CacheDataset(cases[::5], Compose(read), progress=False)
    size = patch_size(tuple(np.min([c["image"].shape[1:] for c in training], axis=0).tolist()))
    keys = [*BOTH, "partial"]
    crop_and_flip = [
        RandSpatialCropSamplesd(keys, size, 2, random_size=False),
        *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(len(size))),
    ]
    patches = Dataset(training, Compose(crop_and_flip))

    space = LabelSpace(
        LabelTree(dict.fromkeys(names)),
        {f"only {name}": {0: "others", label: name} for label, name in enumerate(names, start=1)},
    )
    sets, flat = LabelSets(space), Multiclass()
    scored = DiceLoss(sets, group="batch") + CrossEntropyLoss(sets)
    plain = DiceLoss(flat, group="batch") + CrossEntropyLoss(flat)
    table = Table("Dice of", *names)
    for name, loss, target in [
        ("background taken for true", plain, "partial"),
        ("LabelSets", scored, "partial"),
        ("all labels", plain, "label"),
    ]:
        network = train(name, loss, target, names, patches, size, steps)
        dice = DiceMetric(include_background=False)
        for case in track(held_out, "Measuring"):
            with torch.no_grad():
                image = case["image"][None].to(DEVICE)
                logits = sliding_window_inference(image, size, 8, network, mode="gaussian")
            found = torch.as_tensor(logits).argmax(1, keepdim=True).cpu()
            masks = [one_hot(labels, 1 + len(names)) for labels in (found, case["label"][None])]
            dice(*masks)
        scores = dice.aggregate("mean_batch").tolist()
        table.add_row(name, *(f"{score:.3f}" for score in scores))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
