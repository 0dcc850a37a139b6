# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Time and memory of one loss step, forward and backward, against other libraries.

    python benchmarks/loss_step.py [--shape 2 4 96 96 96] [--repeats 15] [--only boundary]

All candidates run in this process, in turn, on the same logits; the medians and their ratio to
MONAI's DiceCELoss are printed. Memory is the peak of what is allocated during the step, gradient
included, as a multiple of the logits. Peers that are not installed are left out, and named.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from monai.losses import BoundaryLoss as MonaiBoundaryLoss
from monai.losses import DiceCELoss
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.profiler import ProfilerActivity, profile

from segloss import BoundaryLoss, CrossEntropyLoss, DiceLoss, Multiclass, SkeletonRecallLoss

Candidate = Callable[[Tensor], Tensor]


def dense(logits: Tensor, labels: Tensor, skeleton: Tensor, distance: Tensor) -> Tensor:
    """Dice + CE + skeleton recall + boundary as one would write them in PyTorch."""
    space, c = tuple(range(2, logits.ndim)), logits.shape[1]
    pred = logits.softmax(1)
    true = one_hot(labels[:, 0], c).movedim(-1, 1).to(pred.dtype)
    tube = one_hot(skeleton[:, 0], c).movedim(-1, 1).to(pred.dtype)[:, 1:]
    dice = (2 * (pred * true).sum(space) + 1e-5) / (pred.sum(space) + true.sum(space) + 1e-5)
    recall = ((pred[:, 1:] * tube).sum(space) + 1e-5) / (tube.sum(space) + 1e-5)
    boundary = (pred[:, 1:] * distance).mean()
    entropy = cross_entropy(logits, labels[:, 0])
    return (1 - dice).mean() + entropy + (1 - recall).mean() + boundary


def candidates(shape: tuple[int, ...], device: str) -> tuple[Tensor, dict[str, Candidate]]:
    """Logits, and every loss as a function of them."""
    rng = torch.Generator(device).manual_seed(0)
    logits = torch.randn(shape, generator=rng, device=device)
    b, c, *space = shape
    labels = torch.randint(c, (b, 1, *space), generator=rng, device=device)
    on_skeleton = torch.rand(labels.shape, generator=rng, device=device) < 0.05
    skeleton = labels * on_skeleton
    distance = torch.randn(b, c - 1, *space, generator=rng, device=device)

    monai = DiceCELoss(softmax=True, to_onehot_y=True)
    monai_boundary = MonaiBoundaryLoss(softmax=True, to_onehot_y=True, include_background=False)
    two = DiceLoss() + CrossEntropyLoss()
    three = two + SkeletonRecallLoss()
    four = three + BoundaryLoss(Multiclass(background=False))
    losses: dict[str, Candidate] = {
        "torch cross entropy": lambda z: cross_entropy(z, labels[:, 0]),
        "MONAI DiceCELoss": lambda z: monai(z, labels),
        "MONAI DiceCELoss, float labels": lambda z: monai(z, labels.float()),
        "dense torch, 4 terms": lambda z: dense(z, labels, skeleton, distance),
        "segloss Dice + CE": lambda z: two(z, labels),
        "segloss Dice + CE + skeleton": lambda z: three(z, labels, skeleton=skeleton),
        "segloss Dice + CE + skeleton + boundary": lambda z: four(
            z, labels, skeleton=skeleton, distance=distance
        ),
    }
    if device == "cpu" and logits.numel() < 1e8:
        losses["MONAI BoundaryLoss"] = lambda z: monai_boundary(z, labels)
    return logits, losses | optional_peers(labels)


def optional_peers(labels: Tensor) -> dict[str, Candidate]:
    """Losses of libraries that may or may not be installed."""
    peers: dict[str, Candidate] = {}
    try:
        from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
        from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    except ImportError:
        print("nnU-Net is not installed: left out")
    else:
        options = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
        nnunet = DC_and_CE_loss(options, {}, dice_class=MemoryEfficientSoftDiceLoss)
        peers["nnU-Net DC_and_CE_loss"] = lambda z: nnunet(z, labels)
    return peers


def step(loss: Candidate, logits: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    z = logits.detach().requires_grad_()
    _wait(logits)
    start = time.perf_counter()
    loss(z).backward()
    _wait(logits)
    return time.perf_counter() - start


def peak_memory(loss: Candidate, logits: Tensor) -> int:
    """The most bytes that one step holds beyond what was there before it."""
    if logits.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, logits)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(loss, logits)
    held = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def _wait(logits: Tensor) -> None:
    if logits.is_cuda:
        torch.cuda.synchronize()


def compare(
    candidates: Callable[[tuple[int, ...], str], tuple[Tensor, dict[str, Candidate]]],
    *,
    reference: str,
    shape: list[int],
    doc: str,
) -> None:
    """Measure candidates as the command line says, and print how they compare with one of them."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs="+", default=shape)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", help=f"parts of names; {reference} runs anyway")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")

    logits, losses = candidates(tuple(options.shape), options.device)
    if options.only:
        named = {name for name in losses for part in options.only if part in name}
        losses = {k: f for k, f in losses.items() if k in {reference, *named}}
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in track(range(options.repeats + 2), "steps"):
        for name, loss in losses.items():
            if len(seconds[name]) < 4 or seconds[name][-1] < 1:  # of a slow one a few will do
                seconds[name].append(step(loss, logits))

    usual = statistics.median(seconds[reference][2:])
    size = logits.numel() * logits.element_size()
    table = Table(
        title=f"logits {tuple(logits.shape)} on {options.device}, torch {torch.__version__}"
    )
    for heading in ("loss", "median ms", "fastest ms", f"× {reference}", "memory / logits"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    for name, loss in losses.items():
        times = seconds[name][2:]
        median, memory = statistics.median(times), peak_memory(loss, logits) / size
        table.add_row(
            name,
            f"{1e3 * median:.1f}",
            f"{1e3 * min(times):.1f}",
            f"{median / usual:.2f}",
            f"{memory:.2f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    compare(
        candidates,
        reference="MONAI DiceCELoss",
        shape=[2, 4, 96, 96, 96],
        doc=__doc__,
    )
