# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai[cupy]"]
# ///
"""Time of target maps on a GPU, against the CPU and against CuPy's own functions.

    python -m benchmarks.gpu_maps [--size 128] [--repeats 20] [--device 0]

Run from the checkout, on a machine with a GPU. The label is a phantom of branching vessels, already
where it is worked on. Printed are medians over the repeats, after one call that compiles, with the
GPU waited for before and after each; and for each map how many times as fast as the first candidate,
the CPU, the others are. What is to be reached: thinning 20 times, distances 50 times as fast as the
CPU, and skeleton and distances of two samples within 10 ms, all at 128³.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import cupy
import numpy as np
import torch
from cupyx.scipy.ndimage import distance_transform_edt
from cupyx.scipy.ndimage import label as components
from rich.console import Console
from rich.table import Table

from segloss.data_scripts.phantom import vessel_phantom
from segloss.transforms import SignedDistance, TargetMaps, TubedSkeleton
from segloss.transforms.functional import (
    boundary_weight,
    instance_regions,
    signed_distance,
    skeleton,
    tubed_skeleton,
)

Candidate = Callable[[], object]


def seconds(candidate: Candidate, repeats: int) -> float:
    """The median time of a call."""
    candidate()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        candidate()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def candidates(label: np.ndarray) -> dict[str, dict[str, Candidate]]:
    """What is compared for each map; the CPU first."""
    mask, on_gpu = label > 0, cupy.asarray(label)
    mask_on_gpu = on_gpu > 0
    batch = torch.as_tensor(np.stack([label, label[::-1]]))[:, None]
    batch_on_gpu = batch.cuda()
    both = TargetMaps({"skeleton": TubedSkeleton(), "distance": SignedDistance(num_classes=2)})
    return {
        "thinning": {"CPU": lambda: skeleton(mask), "GPU": lambda: skeleton(mask_on_gpu)},
        "tubed skeleton": {
            "CPU": lambda: tubed_skeleton(label),
            "GPU": lambda: tubed_skeleton(on_gpu),
        },
        "signed distance": {
            "CPU": lambda: signed_distance(mask),
            "GPU": lambda: signed_distance(mask_on_gpu),
            "cupyx, both sides, to centres": lambda: (
                distance_transform_edt(mask_on_gpu),
                distance_transform_edt(~mask_on_gpu),
            ),
        },
        "components": {
            "CPU": lambda: instance_regions(label),
            "GPU": lambda: instance_regions(on_gpu),
            "cupyx": lambda: components(mask_on_gpu, cupy.ones((3, 3, 3))),
        },
        "nearest instance": {
            "CPU": lambda: instance_regions(label, regions="voronoi"),
            "GPU": lambda: instance_regions(on_gpu, regions="voronoi"),
        },
        "U-Net's weight": {
            "CPU": lambda: boundary_weight(label, kind="unet"),
            "GPU": lambda: boundary_weight(on_gpu, kind="unet"),
        },
        "skeleton and distance of two samples": {
            "CPU": lambda: both(batch),
            "GPU": lambda: both(batch_on_gpu),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", type=int, default=0)
    arguments = parser.parse_args()
    torch.cuda.set_device(arguments.device)
    label = vessel_phantom((arguments.size,) * 3, seed=0, trees=6).label
    name = torch.cuda.get_device_name()
    table = Table("map", "made by", "ms", "times as fast", title=f"{label.shape} on {name}")
    for kind, each in candidates(label).items():
        times = {who: seconds(call, arguments.repeats) for who, call in each.items()}
        for who, taken in times.items():
            table.add_row(kind, who, f"{1000 * taken:.2f}", f"{times['CPU'] / taken:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
