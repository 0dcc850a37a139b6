# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai", "triton"]
# ///
"""Time, memory and bandwidth of one loss step on a GPU, forward and backward, beside other libraries.

    python benchmarks/gpu.py [--repeats 50] [--out benchmarks/results]

For each shape and dtype all candidates run in this process, in turn, on the same logits, after two
steps that compile. Given are medians: of the time between CUDA events, with the GPU kept busy before
until the CPU has said all that a step is to do, as it is while a network trains; and of the time that
the CPU takes to say it, which is longer than the GPU was kept busy if a loss waits for the GPU. The
floor is the time in which the GPU copies what a Dice and cross entropy step cannot help moving: logits
and labels twice, the gradient once. Memory is the peak of a step beyond what was there before, as a
multiple of the logits; the gradient is 1. Peers that are not installed are left out, and named. The
tables are written, each when it is complete, to a file named after the GPU, with the versions and the
date.
"""

import argparse
import datetime
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from loss_step import Candidate, optional_peers
from monai.losses import DiceCELoss
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cross_entropy

import segloss
from segloss import BoundaryLoss, CrossEntropyLoss, DiceLoss, Multiclass, SkeletonRecallLoss

SHAPES = [(2, 4, 128, 128, 128), (2, 14, 128, 128, 128)]
PRECISIONS = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "autocast to bfloat16": (torch.float32, torch.bfloat16),
}
OURS = "segloss Dice + CE"
BUSY = 40_000_000  # cycles, about 20 ms: more than a CPU takes to say what a step is to do


def candidates(shape: tuple[int, ...]) -> dict[str, Candidate]:
    """Every loss as a function of the logits."""
    rng = torch.Generator("cuda").manual_seed(0)
    b, c, *space = shape
    labels = torch.randint(c, (b, 1, *space), generator=rng, device="cuda")
    skeleton = labels * (torch.rand(labels.shape, generator=rng, device="cuda") < 0.05)
    distance = torch.randn(b, c - 1, *space, generator=rng, device="cuda")

    monai = DiceCELoss(softmax=True, to_onehot_y=True)
    two = DiceLoss() + CrossEntropyLoss()
    four = two + SkeletonRecallLoss() + BoundaryLoss(Multiclass(background=False))

    def by_pytorch(z: Tensor) -> Tensor:
        with segloss.backend("torch"):
            value: Tensor = two(z, labels)
        return value

    return {
        "torch cross entropy": lambda z: cross_entropy(z, labels[:, 0]),
        "MONAI DiceCELoss": lambda z: monai(z, labels),
        "MONAI DiceCELoss, compiled": torch.compile(lambda z: monai(z, labels), dynamic=False),
        **peers(labels),
        OURS: lambda z: two(z, labels),
        "segloss Dice + CE, compiled": torch.compile(lambda z: two(z, labels), dynamic=False),
        "segloss Dice + CE, PyTorch's operations": by_pytorch,
        "segloss Dice + CE + skeleton + boundary": lambda z: four(
            z, labels, skeleton=skeleton, distance=distance
        ),
    }


def peers(labels: Tensor) -> dict[str, Candidate]:
    """Dice with cross entropy of libraries that may or may not be installed."""
    found = optional_peers(labels)
    try:
        from exacta.losses import DiceCELoss as ExactaDiceCELoss
    except ImportError:
        print("exacta is not installed: left out")
    else:
        exacta = ExactaDiceCELoss()
        found["exacta DiceCELoss"] = lambda z: exacta(z, labels[:, 0])
    return found


def milliseconds(action: Callable[[], object]) -> tuple[float, float]:
    """How long the GPU works on it, and how long the CPU takes to say so."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(BUSY)
    start.record()
    before = time.perf_counter()
    action()
    said = time.perf_counter() - before
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)), 1000 * said


def step(loss: Candidate, logits: Tensor, autocast: torch.dtype | None) -> Callable[[], None]:
    """One forward and backward pass."""
    z = logits.detach().requires_grad_()

    def run() -> None:
        with torch.autocast("cuda", dtype=autocast, enabled=autocast is not None):
            value = loss(z)
        value.backward()
        z.grad = None

    return run


def bandwidth() -> float:
    """Bytes in a millisecond that a copy reads and writes."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    times = [milliseconds(lambda: target.copy_(source))[0] for _ in range(20)]
    return 2 * source.numel() * source.element_size() / statistics.median(times[5:])


def peak_memory(run: Callable[[], None]) -> int:
    """The most bytes that a step holds beyond what was there before it, the gradient included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def table(shape: tuple[int, ...], precision: str, repeats: int, speed: float) -> list[str]:
    """The rows of a page, for logits of a shape and dtype."""
    torch.compiler.reset()  # or what was compiled for another shape counts towards a limit
    dtype, autocast = PRECISIONS[precision]
    logits = torch.randn(shape, device="cuda").to(dtype)
    size, voxels = logits.numel() * logits.element_size(), logits.numel() // shape[1]
    floor = (3 * size + 2 * voxels * 8) / speed
    steps = {name: step(f, logits, autocast) for name, f in candidates(shape).items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in track(range(repeats + 2), f"{shape}, {precision}"):
        for name, run in steps.items():
            times[name].append(milliseconds(run))
    medians = {
        name: [*map(statistics.median, zip(*x[2:], strict=True))] for name, x in times.items()
    }
    lines = [
        f"## Logits {shape}, {precision}",
        "",
        f"{size / 1e6:.0f} MB; the floor is {floor:.3f} ms.",
        "",
        "| loss | GPU ms | × floor | segloss is faster by | CPU ms | memory / logits |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in steps.items():
        (taken, said), memory = medians[name], peak_memory(run) / size
        lines.append(
            f"| {name} | {taken:.3f} | {taken / floor:.2f} | {taken / medians[OURS][0]:.2f} "
            f"| {said:.2f} | {memory:.2f} |"
        )
    return [*lines, ""]


def versions() -> str:
    """Of what was compared."""
    found = []
    for package in ("torch", "triton", "monai", "nnunetv2", "exacta", "segloss-monai"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")

    name, speed = torch.cuda.get_device_name(), bandwidth()
    lines = [
        f"# A loss step on {name}",
        "",
        f"`python benchmarks/gpu.py --repeats {options.repeats}`, {datetime.date.today()}.",
        f"{versions()}. A copy moves {speed / 1e6:.0f} GB/s.",
        "",
    ]
    options.out.mkdir(exist_ok=True, parents=True)
    page = options.out / f"{name.replace(' ', '-')}.md"
    for shape in SHAPES:
        for precision in PRECISIONS:
            lines += table(shape, precision, options.repeats, speed)
            page.write_text("\n".join(lines))
    print(page)


if __name__ == "__main__":
    main()
