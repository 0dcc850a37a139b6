# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai[topology]", "exacta"]
# ///
"""Time and memory of a step of every loss there is, relative to torch's cross entropy.

    python benchmarks/catalogue.py [--space 96 96 96] [--seconds 2] [--only dice] [--out FILE]

Beside each loss stand those of MONAI, exacta and topolosses that compute the same, with their own
defaults. All run in this process, in turn, on the same four-class logits of one sample, forward and
backward; maps are made before the clock starts. A candidate that has taken its seconds is left out
of further rounds. Given are the median time as a multiple of torch's cross entropy, and the peak of
what torch allocates as a multiple of the logits. ``--out`` is a file with a table, which is replaced.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loss_step import Candidate, peak_memory, step
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from segloss import (
    LabelHeads,
    LabelSets,
    LabelSpace,
    LabelTree,
    LeafSoftmax,
    MaxConstraint,
    Multilabel,
    MultiLevelActivation,
    Tree,
)
from segloss.catalogue import CATALOGUE, Entry
from segloss.data_scripts.phantom import vessel_phantom
from segloss.transforms import InstanceRegions, SignedDistance, TubedSkeleton

CLASSES = 4
CROP = 48  # voxels: the part that losses of topology are given
ROUNDS = 25
ITERATIONS = 10  # erosions of clDice
NESTED = LabelTree({"organ": {"lesion": {"core": None}}})
ONE_OF_THREE = LabelSpace(
    LabelTree({"liver": None, "spleen": None, "kidney": None}),
    {"livers": {0: "others", 1: "liver"}},
)
ENCODINGS: dict[str, tuple[Any, int]] = {  # of losses that need one; how many channels it reads
    "MultiLevelLoss": (Tree(NESTED, MultiLevelActivation()), 1),
    "TreeMinLoss": (Tree(NESTED, MaxConstraint()), 3),
    "MaxConstraintLoss": (Tree(NESTED, MaxConstraint("max")), 3),
    "ExclusionLoss": (LabelSets(ONE_OF_THREE), 4),
    "NullBCELoss": (LabelHeads(ONE_OF_THREE), 3),
}
AS_PAIR = {"include_background": False, "use_base_loss": False, "alpha": 1.0, "softmax": True}
FAR = 1 - np.eye(CLASSES, dtype=np.float32)
PEERS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "MONAI": {
        "DiceLoss": ("DiceLoss", {}),
        "SquaredDiceLoss": ("DiceLoss", {"squared_pred": True}),
        "JaccardLoss": ("DiceLoss", {"jaccard": True}),
        "TverskyLoss": ("TverskyLoss", {}),
        "GeneralizedDiceLoss": ("GeneralizedDiceLoss", {}),
        "MCCLoss": ("MCCLoss", {}),
        "FocalLoss": ("FocalLoss", {"use_softmax": True}),
        "CenterlineDiceLoss": (
            "SoftclDiceLoss",
            {"iter_": ITERATIONS, "include_background": False},
        ),
        "BoundaryLoss": ("BoundaryLoss", {"include_background": False}),
        "HausdorffDTLoss": ("HausdorffDTLoss", {"include_background": False}),
        "GeneralizedWassersteinDiceLoss": ("GeneralizedWassersteinDiceLoss", {"dist_matrix": FAR}),
    },
    "exacta": {
        "DiceLoss": ("DiceLoss", {}),
        "SquaredDiceLoss": ("DiceLoss", {"squared_pred": True}),
        "TverskyLoss": ("TverskyLoss", {}),
        "FocalTverskyLoss": ("FocalTverskyLoss", {}),
        "GeneralizedDiceLoss": ("GeneralizedDiceLoss", {}),
        "LovaszLoss": ("LovaszSoftmaxLoss", {}),
        "FocalLoss": ("FocalLoss", {}),
        "TopKCrossEntropyLoss": ("TopKCELoss", {}),
        "CenterlineDiceLoss": ("SoftClDiceLoss", {"iterations": ITERATIONS}),
        "BoundaryLoss": ("BoundaryLoss", {}),
        "HausdorffDTLoss": ("HausdorffDTLoss", {}),
        "GeneralizedWassersteinDiceLoss": ("GeneralizedWassersteinDiceLoss", {"dist_matrix": FAR}),
    },
    "topolosses": {
        "DiceLoss": ("DiceLoss", {"softmax": True}),
        "BettiMatchingLoss": ("BettiMatchingLoss", AS_PAIR),
        "TopographLoss": ("TopographLoss", AS_PAIR),
    },
}


class Batch:
    """Logits, labels and maps of one sample with branching vessels of three classes."""

    def __init__(self, space: tuple[int, ...], device: str) -> None:
        label = np.zeros((1, *space), np.int64)
        for k in range(1, CLASSES):
            label[0][vessel_phantom(space, seed=k).label > 0] = k
        maps = {
            "skeleton": TubedSkeleton()(label),
            "distance": SignedDistance(num_classes=CLASSES)(label),
            "instances": InstanceRegions()(label),
        }
        self.maps = {k: torch.as_tensor(np.array(x))[None].to(device) for k, x in maps.items()}
        self.label = torch.from_numpy(label).to(device)
        rng = torch.Generator(device).manual_seed(0)
        self.logits = torch.randn(1, CLASSES, *space, generator=rng, device=device)

    def one_hot(self) -> Tensor:
        """The label as memberships."""
        return one_hot(self.label, CLASSES).movedim(-1, 1).float()


def part(loss: str, x: Tensor) -> Tensor:
    """What a loss of topology is given of logits, labels or memberships."""
    if loss not in ("BettiMatchingLoss", "TopographLoss"):
        return x
    crop = slice(CROP)
    return x[..., crop, crop, 0] if loss == "TopographLoss" else x[..., crop, crop, crop]


def ours(entry: Entry, batch: Batch) -> Candidate:
    """A loss of the catalogue, with its defaults, as a function of logits."""
    name, label = entry.loss_name, part(entry.loss_name, batch.label)
    encoding, channels = ENCODINGS.get(name, (Tree(NESTED, LeafSoftmax()), CLASSES))
    if name in ("ExclusionLoss", "NullBCELoss"):
        label = label.clamp(max=1)
    if isinstance(entry.encoding, Multilabel):
        label = batch.one_hot()
    given: dict[str, Any] = {"prior": [1 / CLASSES] * CLASSES, "encoding": encoding}
    options = {k: given[k] for k in entry.needs}
    if name == "CenterlineDiceLoss":
        options["iterations"] = ITERATIONS
    if "encoding" not in options:
        channels = CLASSES
    loss = entry.loss(**options).to(batch.label.device)
    maps = {k: batch.maps[k] for k in entry.maps}
    return lambda z: loss(part(name, z)[:, :channels], label, **maps)


def peer(library: str, loss: str, batch: Batch) -> Candidate:
    """The same loss of another library."""
    name, options = PEERS[library][loss]
    module = import_module({"MONAI": "monai.losses"}.get(library, f"{library}.losses"))
    make: Callable[..., Any] = getattr(module, name)
    if library == "topolosses":
        theirs, target = make(**options), part(loss, batch.one_hot())
    elif library == "exacta":
        theirs, target = make(**options), batch.label
        if loss in ("BoundaryLoss", "HausdorffDTLoss"):
            theirs = partial(theirs, spacing=(1.0, 1.0, 1.0))
    else:
        activation = {} if "use_softmax" in options else {"softmax": True}
        if loss != "GeneralizedWassersteinDiceLoss":
            options = {"to_onehot_y": True, **activation, **options}
        theirs, target = make(**options), batch.label[:, None]
    return lambda z: theirs(part(loss, z), target)


def candidates(batch: Batch, only: str) -> dict[tuple[str, str], Candidate]:
    """Every loss of every library that is installed."""
    found: dict[tuple[str, str], Candidate] = {}
    installed = [library for library in PEERS if is_installed(library)]
    for entry in CATALOGUE.values():
        if only not in entry.name:
            continue
        if entry.family != "topology" or "topolosses" in installed:
            found[entry.loss_name, "segloss"] = ours(entry, batch)
        for library in installed:
            if entry.loss_name in PEERS[library]:
                found[entry.loss_name, library] = peer(library, entry.loss_name, batch)
    return found


def is_installed(library: str) -> bool:
    try:
        import_module(f"{library.lower()}.losses")
    except ImportError:
        print(f"{library} is not installed: left out")
        return False
    return True


def measure(losses: dict[Any, Candidate], logits: Tensor, seconds: float) -> dict[Any, list[float]]:
    """Times of steps, in turn, one of each candidate or more, until it has had its seconds."""
    times: dict[Any, list[float]] = {key: [] for key in losses}
    for loss in track(losses.values(), "Warming up", transient=True):
        step(loss, logits)
    for turn in range(ROUNDS):
        left = {k: f for k, f in losses.items() if turn < 1 or sum(times[k]) < seconds}
        for key, loss in track(left.items(), f"Round {turn + 1}", transient=True):
            times[key].append(step(loss, logits))
    return times


def table(losses: dict[Any, Candidate], logits: Tensor, times: dict[Any, list[float]]) -> str:
    """A row for each loss, a column for each library."""
    reference, size = statistics.median(times[None]), logits.numel() * logits.element_size()
    libraries = ["segloss", *PEERS]
    lines = [f"| loss | {' | '.join(libraries)} |", "|---" * (1 + len(libraries)) + "|"]
    for loss in dict.fromkeys(key[0] for key in losses if key):
        cells = [f"`{loss}`"]
        for library in libraries:
            key = (loss, library)
            if key not in losses:
                cells.append("")
                continue
            memory = peak_memory(losses[key], logits) / size
            cells.append(f"{statistics.median(times[key]) / reference:.3g} ({memory:.3g})")
        lines.append(f"| {' | '.join(cells)} |")
    memory = peak_memory(losses[None], logits) / size
    head = (
        f"Logits {tuple(logits.shape)}, {size / 1e6:.0f} MB, on {logits.device.type}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}. torch's cross entropy: "
        f"{1e3 * reference:.0f} ms (1), memory {memory:.3g}."
    )
    return "\n".join([head, "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", type=int, nargs=3, default=[96, 96, 96])
    parser.add_argument("--seconds", type=float, default=2, help="for each candidate")
    parser.add_argument("--only", default="", help="a part of the names to measure")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")

    batch = Batch(tuple(options.space), options.device)
    losses: dict[Any, Candidate] = {None: lambda z: cross_entropy(z, batch.label)}
    losses |= candidates(batch, options.only)
    times = measure(losses, batch.logits, options.seconds)
    text = table(losses, batch.logits, times)
    print(text)
    if options.out:
        before, _, _ = options.out.read_text().partition("Logits (")
        options.out.write_text(f"{before}{text}\n")


if __name__ == "__main__":
    main()
