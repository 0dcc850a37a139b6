# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai[nnunet]"]
# ///
"""Memory and time of nnU-Net's loss, of the terms beside it, and of both in one pass.

    python -m benchmarks.nnunet_loss [--shape 2 3 128 128 128] [--repeats 5]

Run from the checkout, in an environment with nnU-Net. One step is forward and backward at one scale.
Memory is the peak of what is allocated during the step, gradient included, as a multiple of the
logits.
"""

import argparse
import statistics
from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from benchmarks.loss_step import Candidate, peak_memory, step
from segloss import BoundaryLoss, SkeletonRecallLoss
from segloss.nnunet.labels import Labels
from segloss.nnunet.loss import TermsLoss


def nnunet(labels: Labels) -> nn.Module:
    """Its loss as its trainer builds it."""
    options = {"batch_dice": False, "smooth": 1e-5, "do_bg": labels.regions, "ddp": False}
    loss: nn.Module
    if labels.regions:
        loss = DC_and_BCE_loss({}, options, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        loss = DC_and_CE_loss(options, {}, dice_class=MemoryEfficientSoftDiceLoss)
    return loss


def candidates(shape: tuple[int, ...], regions: bool) -> tuple[Tensor, dict[str, Candidate]]:
    """Logits, and every loss as a function of them."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=rng)
    b, c, *space = shape
    labels = Labels(c if regions else c - 1, regions)
    target = torch.randint(2 if regions else c, (b, labels.channels, *space), generator=rng)
    target = target.to(labels.dtype)
    thin = torch.rand(target.shape, generator=rng) < 0.05
    maps = {
        "skeleton": target & thin if regions else target * thin,
        "distance": torch.randn(b, labels.classes, *space, generator=rng).half(),
    }
    encoding = labels.encoding(background=False)
    terms: Any = {"recall": (1.0, SkeletonRecallLoss(encoding))}
    both: Any = {**terms, "boundary": (1.0, BoundaryLoss(encoding))}
    base = nnunet(labels)

    def ours(added: Any, fuse: bool) -> Candidate:
        loss = TermsLoss(nnunet(labels), added, labels, fuse=fuse)
        loss.maps = [{name: maps[name] for name in loss.needs}]
        return lambda z: loss(z, target)

    return logits, {
        "nnU-Net": lambda z: base(z, target),
        "fused": ours({}, fuse=True),
        "nnU-Net, skeleton recall": ours(terms, fuse=False),
        "fused, skeleton recall": ours(terms, fuse=True),
        "nnU-Net, skeleton recall, boundary": ours(both, fuse=False),
        "fused, skeleton recall, boundary": ours(both, fuse=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[2, 3, 128, 128, 128])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for regions in (False, True):
        logits, losses = candidates(tuple(options.shape), regions)
        seconds: dict[str, list[float]] = {name: [] for name in losses}
        for _ in track(range(options.repeats), transient=True):
            for name, loss in losses.items():
                seconds[name].append(step(loss, logits))
        size = logits.numel() * logits.element_size()
        reference = losses["nnU-Net"](logits)
        table = Table(
            title=f"{'regions' if regions else 'labels'}, logits {tuple(logits.shape)}",
            title_justify="left",
        )
        for heading in ("loss", "median ms", "peak / logits", "value"):
            table.add_column(heading, justify="left" if heading == "loss" else "right")
        for name, loss in losses.items():
            table.add_row(
                name,
                f"{1e3 * statistics.median(seconds[name]):.0f}",
                f"{peak_memory(loss, logits) / size:.1f}",
                f"{float(loss(logits)):.6f}",
            )
        Console(width=100).print(table)
        torch.testing.assert_close(losses["fused"](logits), reference, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main()
