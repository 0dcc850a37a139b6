# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Learn from few labelled volumes and many without labels, in five ways, and compare them.

    python examples/semi_supervised.py --data hippocampus --epochs 30

``--data`` is a folder with ``images/NAME.nii.gz`` and ``labels/NAME.nii.gz``, small volumes such as
those of the hippocampus in the Medical Segmentation Decathlon. A fifth of the cases is held out; of
the others a tenth keeps its labels, and those of the rest are never read. The split is the same in
every run and for every method:

- ``supervised``: the labelled cases alone;
- ``mean_teacher``: the student is to agree with its moving average, voxel by voxel;
- ``cwbass_dynamic``, ``cwbass_fixed``: pseudo-labels weighted by confidence, CW-BASS, above a
  threshold that follows the teacher, or above 0.95;
- ``cps``: two networks label for each other.

Teacher and student see the same crop, turned and scaled alike; the student's has noise, blur and
other intensities besides. What is measured is the moving average, for every method; of ``cps`` the
first network's. Weights of the unlabelled terms are not tuned.

Leaves ``METHOD.csv`` and ``METHOD.pt`` in ``--out`` after every epoch, and ``curves.png``. After an
interruption, repeat the command with ``--resume``: training goes on as if nothing had happened.
"""

import csv
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
from monai.data import CacheDataset, DataLoader, Dataset
from monai.metrics import DiceMetric, HausdorffDistanceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    CopyItemsd,
    DivisiblePadd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandSpatialCropd,
    SpatialPadd,
)
from monai.utils import set_determinism
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from segloss import CrossEntropyLoss, DiceLoss, Multiclass
from segloss.pseudo import (
    ConsistencyLoss,
    CrossPseudoSupervisionLoss,
    CWBASSLoss,
    DynamicThreshold,
    EMATeacher,
    FixedThreshold,
    PairedBatches,
    PseudoLabels,
    SigmoidRamp,
)

Case = dict[str, str]
Row = dict[str, float]
PATCH = (32, 32, 32)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WEIGHTS = {  # of the unlabelled term, once it is ramped up
    "supervised": 0.0,
    "mean_teacher": 10.0,
    "cwbass_dynamic": 1.0,
    "cwbass_fixed": 1.0,
    "cps": 1.5,
}


class Learner(nn.Module):
    """The networks of a method and their moving averages. Its state_dict is all its memory."""

    def __init__(self, method: str, classes: int) -> None:
        super().__init__()
        self.method = method
        self.students = nn.ModuleList(
            UNet(3, 1, classes, (16, 32, 64, 128), (2, 2, 2), num_res_units=1)
            for _ in range(2 if method == "cps" else 1)
        )
        self.teachers = nn.ModuleList(EMATeacher(x, decay=0.99) for x in self.students)
        dynamic = method == "cwbass_dynamic"
        self.threshold = DynamicThreshold() if dynamic else FixedThreshold(0.95)
        foreground = Multiclass(background=False)
        self.from_labels = DiceLoss(foreground, group="batch") + CrossEntropyLoss()
        self.consistency = ConsistencyLoss()
        self.cross_supervision = CrossPseudoSupervisionLoss()
        self.cwbass = CWBASSLoss()

    def losses(self, labelled: Any, unlabelled: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of the labelled half, of the other, and the share of the latter that is used."""
        known = len(labelled["strong"])
        image = labelled["strong"]
        if self.method != "supervised":
            image = torch.cat((image, unlabelled["strong"]))
        logits = [student(image) for student in self.students]
        supervised = torch.stack([self.from_labels(x[:known], labelled["label"]) for x in logits])
        return supervised.sum(), *self.unlabelled([x[known:] for x in logits], unlabelled["image"])

    def unlabelled(self, logits: list[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """What the students said of the strong view, against what is known of the weak one."""
        nothing, everything = logits[0].new_zeros(()), logits[0].new_ones(())
        if self.method == "supervised":
            return nothing, nothing
        if self.method == "cps":
            return self.cross_supervision(*logits), everything
        (student,), teacher = logits, self.teachers[0]
        if self.method == "mean_teacher":
            return self.consistency(student, teacher(image)), everything
        pseudo = PseudoLabels.of(teacher(image), self.threshold)
        return self.cwbass(student, pseudo), pseudo.kept


def find_cases(data: Path, limit: int | None) -> tuple[list[Case], list[Case], list[Case]]:
    """Labelled, unlabelled and held-out cases."""
    labels = sorted((data / "labels").glob("*.nii.gz"))[:limit]
    cases = [{"image": str(data / "images" / x.name), "label": str(x)} for x in labels]
    missing = [case["image"] for case in cases if not Path(case["image"]).exists()]
    if len(cases) < 4 or missing:
        raise typer.BadParameter(
            f"{data} has {len(cases)} labels and lacks {len(missing)} of their images; expected "
            "four or more volumes images/NAME.nii.gz, each with its labels/NAME.nii.gz"
        )
    order = np.random.default_rng(0).permutation(len(cases))
    held_out = max(1, len(cases) // 5)
    labelled = held_out + max(1, round((len(cases) - held_out) / 10))
    shuffled = [cases[i] for i in order]
    unlabelled = [{"image": case["image"]} for case in shuffled[labelled:]]
    return shuffled[held_out:labelled], unlabelled, shuffled[:held_out]


def cached(cases: list[Case], *, whole: bool = False) -> CacheDataset:
    """Volumes, padded to hold a patch, or to a size that the network can halve."""
    keys = list(cases[0])
    pad = DivisiblePadd(keys, 8) if whole else SpatialPadd(keys, PATCH)
    read = [LoadImaged(keys), EnsureChannelFirstd(keys), NormalizeIntensityd("image"), pad]
    return CacheDataset(cases, Compose(read), progress=False)


def views(volumes: CacheDataset) -> Dataset:
    """Crops, weakly augmented as ``image`` and strongly as ``strong``, voxel on voxel."""
    keys = [key for key in ("image", "label") if key in volumes[0]]
    modes = {"mode": ["bilinear", "nearest"][: len(keys)], "padding_mode": "border"}
    augmentation = [
        RandSpatialCropd(keys, PATCH, random_size=False),
        RandAffined(keys, prob=0.8, rotate_range=[0.2] * 3, scale_range=[0.1] * 3, **modes),
        CopyItemsd("image", names="strong"),
        RandAdjustContrastd("strong", prob=0.5, gamma=(0.7, 1.5)),
        RandGaussianSmoothd("strong", (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.3),
        RandGaussianNoised("strong", prob=0.8, std=0.3),
    ]
    return Dataset(volumes, Compose(augmentation))


def batches(labelled: Dataset, unlabelled: Dataset, epoch: int, seed: int) -> PairedBatches:
    """An epoch's batches depend on nothing but its number: that makes it easy to go on."""
    loaders = []
    for number, part in enumerate((labelled, unlabelled), start=2 * (epoch + 10_000 * seed)):
        source = torch.Generator().manual_seed(number)  # of the order, and of the augmentation
        loaders.append(DataLoader(part, batch_size=2, shuffle=True, generator=source))
    return PairedBatches(*loaders)


def on(device: str, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {key: x.as_tensor().to(device) for key, x in batch.items() if isinstance(x, Tensor)}


def train_epoch(
    learner: Learner, optimizer: torch.optim.Optimizer, pairs: Any, weight: float, device: str
) -> Row:
    """The means of both losses, and of the share of unlabelled voxels that was learned from."""
    history = []
    learner.train()
    for pair in pairs:
        halves = on(device, pair["labelled"]), on(device, pair["unlabelled"])
        supervised, unlabelled, kept = learner.losses(*halves)
        optimizer.zero_grad()
        (supervised + weight * unlabelled).backward()
        optimizer.step()
        for teacher, student in zip(learner.teachers, learner.students, strict=True):
            teacher.update(student)
        history.append(torch.stack([supervised, unlabelled, kept]).detach())
    means = torch.stack(history).mean(0).tolist()
    return dict(zip(("supervised", "unlabelled", "kept"), means, strict=True))


@torch.no_grad()
def evaluate(learner: Learner, volumes: CacheDataset, classes: int, device: str) -> Row:
    """Dice and 95 % Hausdorff distance in mm of each class, means over whole volumes."""
    dice = DiceMetric(include_background=False, reduction="mean_batch")
    distance = HausdorffDistanceMetric(percentile=95, reduction="mean_batch")
    for case in volumes:
        found = learner.teachers[0](case["image"].as_tensor()[None].to(device)).argmax(1, True)
        masks = [one_hot(x, classes) for x in (found.cpu(), case["label"].as_tensor()[None])]
        dice(*masks)
        distance(*masks, spacing=case["image"].pixdim.tolist())
    scores = {"Dice": dice.aggregate().tolist(), "HD95": distance.aggregate().tolist()}
    return {f"{name} {k}": x for name, row in scores.items() for k, x in enumerate(row, start=1)}


def save(out: Path, method: str, saved: dict[str, Any]) -> None:
    """Write the log and the checkpoint; an interruption finds the old one or the new one."""
    torch.save(saved, out / f"{method}.part")
    (out / f"{method}.part").replace(out / f"{method}.pt")
    with (out / f"{method}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, saved["history"][0])
        writer.writeheader()
        writer.writerows(saved["history"])


def draw(histories: dict[str, list[Row]], path: Path) -> None:
    """Mean Dice of the held-out cases and the share of voxels that was used, epoch by epoch."""
    figure, (scores, used) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for method, history in histories.items():
        epochs = [row["epoch"] + 1 for row in history]
        dice = [np.mean([x for key, x in row.items() if key.startswith("Dice")]) for row in history]
        scores.plot(epochs, dice, marker="o", markersize=3, label=method)
        used.plot(epochs, [row["kept"] for row in history], marker="o", markersize=3)
    scores.set(xlabel="epoch", ylabel="mean Dice, held out")
    used.set(xlabel="epoch", ylabel="share of unlabelled voxels used", ylim=(-0.05, 1.05))
    scores.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(
    data: Annotated[Path, typer.Option(help="A folder with images/ and labels/, see above.")],
    methods: Annotated[str, typer.Option(help="Of those above, with commas.")] = ",".join(WEIGHTS),
    epochs: Annotated[int, typer.Option(min=1, help="How often to see every image.")] = 30,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = DEVICE,
    out: Annotated[Path, typer.Option(file_okay=False, help="For logs.")] = Path("semi_supervised"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and crops.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="24 cases, 4 epochs: a trial.")] = False,
) -> None:
    """Train with each method, then compare what they make of the held-out cases."""
    names = methods.split(",")
    if unknown := set(names) - WEIGHTS.keys():
        raise typer.BadParameter(f"{', '.join(unknown)} is none of {', '.join(WEIGHTS)}")
    epochs = 4 if quick else epochs
    labelled, unlabelled, held_out = find_cases(data, 24 if quick else None)
    print(f"{len(labelled)} labelled, {len(unlabelled)} unlabelled, {len(held_out)} held out")
    test = cached(held_out, whole=True)
    crops = views(cached(labelled)), views(cached(unlabelled))
    classes = 1 + int(max(case["label"].max() for part in (crops[0].data, test) for case in part))
    out.mkdir(parents=True, exist_ok=True)
    histories: dict[str, list[Row]] = {}
    for method in names:
        set_determinism(seed)
        learner = Learner(method, classes).to(device)
        optimizer = torch.optim.AdamW(learner.students.parameters())
        ramp = SigmoidRamp(0.0, WEIGHTS[method], max(1, epochs // 3))
        history = histories[method] = []
        if resume and (out / f"{method}.pt").exists():
            saved = torch.load(out / f"{method}.pt", map_location=device)
            learner.load_state_dict(saved["learner"])
            optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["random"].cpu())
            history.extend(saved["history"])
        for epoch in range(len(history), epochs):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - epoch / epochs) ** 0.9
            what = f"{method}, epoch {epoch + 1} of {epochs}"
            pairs = track(batches(*crops, epoch, seed), what, transient=True)
            means = train_epoch(learner, optimizer, pairs, ramp(epoch), device)
            scores = evaluate(learner, test, classes, device)
            history.append({"epoch": epoch, "weight": ramp(epoch), **means, **scores})
            parts = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict()}
            save(out, method, {**parts, "history": history, "random": torch.get_rng_state()})
    draw(histories, out / "curves.png")
    measured = [key for key in histories[names[0]][-1] if key[:4] in ("Dice", "HD95", "kept")]
    table = Table("method", *measured, title=f"After {epochs} epochs, {len(held_out)} held out")
    for method, history in histories.items():
        table.add_row(method, *(f"{history[-1][key]:.3f}" for key in measured))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
