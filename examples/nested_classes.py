# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Classes inside classes: independent sigmoids against activations that cannot break the nesting.

    python examples/nested_classes.py --data axon_myelin --tree "{fibre: [axon]}"
    python examples/nested_classes.py --data hippocampus --tree "{hippocampus: [anterior, posterior]}"

``--data`` is a folder with ``images`` and ``labels``, files of the same name in both, 2D or 3D. The
labels are those of the leaves of ``--tree``, in order: background 0, the rest of the fibre (which is
myelin) 1, axon 2. Three networks learn from the same patches, and are measured on every fifth image:
the Dice of each node, and the part of the voxels where nesting is broken, of the probabilities and of
what is above one half. ``--out`` is a picture of the slice where the sigmoids break it most, in red.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
import yaml
from monai.data import CacheDataset, DataLoader, Dataset
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    CopyItemsd,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandSpatialCropSamplesd,
)
from monai.utils import set_determinism
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from segloss import (
    ConditionalSigmoid,
    CrossEntropyLoss,
    DiceLoss,
    LabelTree,
    LeafSoftmax,
    Multilabel,
    Tree,
)
from segloss.metrics import NestingViolation
from segloss.transforms import LabelsToRegionsd

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Method:
    """A way of reading a network's channels."""

    encoding: Multilabel | Tree
    target: str
    channels: int
    probabilities: Callable[[Tensor], Tensor]
    """Of the nodes that are no rest, of which each has a region."""


def methods(tree: LabelTree) -> dict[str, Method]:
    """The three that are compared."""
    regions = [node for node in range(len(tree)) if node not in tree.rest]
    found = {"independent sigmoids": Method(Multilabel(), "regions", len(regions), torch.sigmoid)}
    for activation in LeafSoftmax(), ConditionalSigmoid():
        nested = Tree(tree, activation)
        found[type(activation).__name__] = Method(
            nested,
            "label",
            len(nested.channels),
            lambda logits, nested=nested: nested.probabilities(logits)[:, regions],
        )
    return found


def find_cases(data: Path) -> list[dict[str, str]]:
    """Images that have a label of the same name."""
    images = sorted((data / "images").glob("[!.]*"))
    labels = [data / "labels" / image.name for image in images]
    return [
        {"image": str(image), "label": str(label)}
        for image, label in zip(images, labels, strict=True)
        if label.is_file()
    ]


def patch_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As large as fits the images, in steps of 8: up to 32 voxels, or 96 pixels."""
    return tuple(min(length // 8 * 8, 32 if len(shape) == 3 else 96) for length in shape)


def endless(patches: Dataset) -> Iterator[dict[str, Any]]:
    """Two patches of each of four images at a time, for as long as one asks."""
    loader = DataLoader(patches, batch_size=min(4, len(patches)), shuffle=True)
    while True:  # one loader: built anew it would repeat order and patches
        yield from loader


def train(name: str, method: Method, patches: Dataset, size: tuple[int, ...], steps: int) -> UNet:
    """A network that has learnt to be read that way."""
    set_determinism(0)  # the same patches for all
    strides = [[2 if length >> level > 8 else 1 for length in size] for level in range(3)]
    widths = (8, 16, 32, 64)
    network = UNet(len(size), 1, method.channels, widths, strides, num_res_units=1).to(DEVICE)
    optimizer = torch.optim.AdamW(network.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    loss = DiceLoss(method.encoding, group="batch") + CrossEntropyLoss(method.encoding)
    for batch in track(islice(endless(patches), steps), name, total=steps):
        value = loss(network(batch["image"].to(DEVICE)), batch[method.target].to(DEVICE))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate.step()
    return network.eval()


def draw(
    tree: LabelTree, image: Tensor, truth: Tensor, found: dict[str, Tensor], out: Path
) -> None:
    """The middle of the slice where the first prediction breaks the nesting most."""
    names = [name for v, name in enumerate(tree.names) if v not in tree.rest]
    broken = [violations(tree, names, regions) for regions in (truth, *found.values())]
    cut = (..., int(broken[1].sum((0, 1)).argmax())) if image.ndim == 3 else (...,)
    middle = tuple(slice(max(0, n // 2 - 120), n // 2 + 120) for n in image.shape[:2])
    colours = plt.colormaps["viridis"](np.linspace(0.3, 1, len(names)))
    figure, axes = plt.subplots(1, 2 + len(found), figsize=(3.4 * (2 + len(found)), 3.8))
    axes[0].set_title("image")
    for axis in axes:
        axis.imshow(image[cut][middle].T.numpy(), cmap="gray")
        axis.axis("off")
    shown = zip(["truth", *found], [truth, *found.values()], broken, axes[1:], strict=True)
    for title, regions, wrong, axis in shown:
        layers = np.zeros((*image[cut][middle].shape, 4))
        for region, (red, green, blue, _) in zip(regions > 0.5, colours, strict=True):
            layers[region[cut][middle].numpy()] = red, green, blue, 0.5
        layers[wrong[cut][middle].numpy()] = 1, 0, 0, 1
        axis.imshow(layers.transpose(1, 0, 2))
        axis.set_title(title)
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)


def violations(tree: LabelTree, names: list[str], regions: Tensor) -> Tensor:
    """Where a node is above one half and one that it lies in is not."""
    masks = dict(zip(names, regions > 0.5, strict=True))
    broken = torch.zeros_like(regions[0], dtype=torch.bool)
    for name in names:
        for above in tree.ancestors(tree.index(name))[1:]:
            broken |= masks[name] & ~masks[tree.names[above]]
    return broken


def main(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="A folder, see above.")],
    tree: Annotated[str, typer.Option(help="The classes, as YAML.")] = "{fibre: [axon]}",
    steps: Annotated[int, typer.Option(min=2, help="Batches to train on.")] = 300,
    out: Annotated[Path, typer.Option(dir_okay=False, help="For the picture.")] = Path(
        "nested.png"
    ),
) -> None:
    """Train, measure on what was held out, draw."""
    classes = LabelTree(yaml.safe_load(tree))
    cases = find_cases(data)
    if len(cases) < 5:
        raise typer.BadParameter(f"{data} holds {len(cases)} labelled images, needs 5 or more")
    both = ["image", "label"]
    whole = Compose(
        [
            LoadImaged(both, ensure_channel_first=True),
            NormalizeIntensityd("image"),
            CopyItemsd("label", names="regions"),
            LabelsToRegionsd("regions", classes),
        ]
    )
    everything = [*both, "regions"]
    training = CacheDataset([c for i, c in enumerate(cases) if i % 5], whole, progress=False)
    held_out = CacheDataset(cases[::5], whole, progress=False)
    smallest = np.min([case["image"].shape[1:] for case in training], axis=0).tolist()
    size = patch_size(tuple(smallest))
    crop_and_flip = [
        RandSpatialCropSamplesd(everything, size, 2, random_size=False),
        *(RandFlipd(everything, prob=0.5, spatial_axis=axis) for axis in range(len(size))),
    ]
    patches = Dataset(training, Compose(crop_and_flip))

    print(classes)
    names = [name for node, name in enumerate(classes.names) if node not in classes.rest]
    table = Table("Dice of", *names, "broken p", "masks")
    worst: dict[str, Tensor] = {}
    for name, method in methods(classes).items():
        network = train(name, method, patches, size, steps)
        dice, soft, hard = DiceMetric(), NestingViolation(classes), NestingViolation(classes)
        for index, case in enumerate(track(held_out, "Measuring")):
            with torch.no_grad():
                image = case["image"][None].to(DEVICE)
                logits = sliding_window_inference(image, size, 8, network, mode="gaussian")
                regions = method.probabilities(torch.as_tensor(logits)).cpu()
            dice(regions > 0.5, case["regions"][None])
            soft(regions)
            hard(regions > 0.5)
            if index == 0:
                worst[name] = regions[0].as_subclass(Tensor)
        scores = dice.aggregate("mean_batch").tolist()
        rates = [f"{100 * float(metric.aggregate()):.4f} %" for metric in (soft, hard)]
        table.add_row(name, *(f"{score:.3f}" for score in scores), *rates)
    Console().print(table)
    case = {key: x.as_subclass(Tensor) for key, x in held_out[0].items() if key in everything}
    draw(classes, case["image"][0], case["regions"], worst, out)


if __name__ == "__main__":
    typer.run(main)
