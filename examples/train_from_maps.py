# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Train a 3D network with the maps that ``segloss preprocess`` has put on disk.

    segloss phantom vessels --count 12 --held-out 4
    segloss preprocess vessels/datalist.json --out maps
    python examples/train_from_maps.py maps/datalist.json --epochs 20

The datalist names an image, a label and its maps for each case; classes are taken from its
``labels``, or given with ``--classes``. Crops and flips move a map with its image and leave it
true: a distance stays what it was in the whole volume. To rotate or zoom, make the maps after that,
with the transforms of ``segloss.transforms``.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from monai.data import CacheDataset, DataLoader, Dataset, load_decathlon_datalist
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandSpatialCropSamplesd,
    SpatialPadd,
)
from monai.utils import set_determinism
from rich.progress import track

from segloss import (
    BoundaryLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    Linear,
    Multiclass,
    SkeletonRecallLoss,
)

FOREGROUND = Multiclass(background=False)
MAPS = {"skeleton": "skeleton_label", "distance": "distance_label"}  # argument of the loss: key


def cases(datalist: Path) -> tuple[list[Any], list[Any]]:
    """What to train on and what to hold out: the list's own parts, or every fifth case."""
    listed = json.loads(datalist.read_text())
    training, *held_out = [
        load_decathlon_datalist(datalist, data_list_key=part)
        for part in ("training", "validation")
        if part in listed
    ]
    lacking = [key for key in ("image", *MAPS.values()) if key not in training[0]]
    if lacking:
        raise typer.BadParameter(
            f"{datalist} has no {', '.join(lacking)}: make maps of a datalist with images, with "
            f"`segloss preprocess ... --maps skeleton,distance`"
        )
    return (training, held_out[0]) if held_out else (
        [case for number, case in enumerate(training) if number % 5],
        training[::5],
    )  # fmt: skip


@torch.no_grad()
def dice(network: UNet, volumes: Dataset, classes: int, patch: tuple[int, ...]) -> list[float]:
    """Of each class but background, over whole volumes."""
    network.eval()
    metric = DiceMetric(include_background=False, reduction="mean_batch")
    for case in volumes:
        logits = sliding_window_inference(case["image"][None], patch, 4, network)
        masks = one_hot(logits.argmax(1, keepdim=True), classes)
        metric(y_pred=masks, y=one_hot(case["label"][None], classes))
    return metric.aggregate().tolist()  # type: ignore[no-any-return]


def main(
    datalist: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    classes: Annotated[
        int | None, typer.Option(min=2, help="With background; else as many as the list names.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    size: Annotated[int, typer.Option(min=16, help="Edge of a patch, in steps of 8.")] = 48,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train with Dice, cross entropy, skeleton recall and a boundary loss; print Dice."""
    training, held_out = cases(datalist)
    classes = classes or len(json.loads(datalist.read_text()).get("labels", {}))
    if classes < 2:
        raise typer.BadParameter(f"{datalist} does not name its classes: pass --classes")
    keys, patch = ["image", "label", *MAPS.values()], (size // 8 * 8,) * 3
    read = Compose(
        [
            LoadImaged(keys, ensure_channel_first=True),
            NormalizeIntensityd("image"),
            SpatialPadd(keys, patch),
        ]
    )
    augment = Compose(
        [
            RandSpatialCropSamplesd(keys, patch, num_samples=4, random_size=False),
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
        ]
    )
    set_determinism(seed)
    patches = Dataset(CacheDataset(training, read, progress=False), augment)
    network = UNet(3, 1, classes, (16, 32, 64, 128), (2, 2, 2), num_res_units=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    loss = CompoundLoss(
        {
            "dice": DiceLoss(FOREGROUND, group="batch"),
            "ce": CrossEntropyLoss(),
            "skeleton": (0.5, SkeletonRecallLoss(FOREGROUND, group="batch")),
            "boundary": (Linear(0.0, 0.05, steps=epochs), BoundaryLoss(FOREGROUND)),
        }
    )
    loader = DataLoader(patches, batch_size=1, shuffle=True)  # one image, four patches
    for epoch in track(range(epochs), "Training"):
        network.train()
        for batch in loader:
            maps = {name: batch[key] for name, key in MAPS.items()}
            value = loss(network(batch["image"]), batch["label"], **maps)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        loss.step()
        terms = "  ".join(f"{name} {term:.3f}" for name, term in loss.terms.items())
        print(f"epoch {epoch + 1}: {terms}")
    scores = dice(network, CacheDataset(held_out, read, progress=False), classes, patch)
    print("Dice of each class, held out:", "  ".join(f"{score:.3f}" for score in scores))


if __name__ == "__main__":
    typer.run(main)
