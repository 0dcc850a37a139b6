# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Time and memory of target maps, against the published code and other libraries.

    python -m benchmarks.target_maps [FOLDER] [--size 128] [--repeats 9]

Run from the checkout. Without a folder the label is a phantom of branching vessels; with one, each
``*.npz`` with an array called ``label`` or ``vessels`` and each ``*.nii.gz`` in it is cut to its
middle and binarised. All candidates run in this process, on one core, in turn; printed are medians,
their ratio to the first candidate of each map, and the most memory that NumPy held during a call (a
kernel holds a byte for each voxel of the box around the vessels besides).
"""

import argparse
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import edt
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import DistanceTransformEDT
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as label_of_scipy
from skimage.measure import label as label_of_scikit_image
from skimage.morphology import skeletonize

from segloss.data_scripts.phantom import vessel_phantom
from segloss.transforms import SignedDistance, TubedSkeleton
from segloss.transforms.functional import (
    boundary_band,
    boundary_weight,
    instance_regions,
    signed_distance,
    skeleton,
    tubed_skeleton,
)
from tests.reference.maps import published_tube

Candidate = Callable[[], object]


def volumes(folder: Path | None, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and labels of 0 and 1, at most `size` voxels along each axis."""
    if folder is None:
        yield "phantom", vessel_phantom((size,) * 3, seed=0, trees=6).label
        return
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*.nii.gz")]):
        if path.suffix == ".npz":
            arrays = np.load(path)
            found = [arrays[name] for name in ("label", "vessels") if name in arrays]
        else:
            found = [np.asarray(nib.Nifti1Image.from_filename(path).dataobj)]
        for label in found[:1]:
            middle = tuple(slice((n - size) // 2 if n > size else 0, None) for n in label.shape)
            cut = label[middle][(slice(size),) * label.ndim]
            if cut.ndim == 3 and cut.any():
                yield path.name.split(".")[0], np.ascontiguousarray(cut > 0).astype(np.uint8)


def nearest_by_scipy(instances: np.ndarray) -> np.ndarray:
    """The number of the nearest instance, by the place of the nearest voxel."""
    where = distance_transform_edt(instances == 0, return_distances=False, return_indices=True)
    nearest: np.ndarray = instances[tuple(where)]
    return nearest


def unet_by_scipy(instances: np.ndarray) -> np.ndarray:
    """The U-Net's weight as it is usually written: the distances to all instances, sorted."""
    each = range(1, instances.max() + 1)
    distances = np.sort([distance_transform_edt(instances != n) for n in each], axis=0)
    weight: np.ndarray = 1 + 10 * np.exp(-(distances[:2].sum(axis=0) ** 2) / 50)
    return weight


def candidates(label: np.ndarray) -> dict[str, dict[str, Candidate]]:
    """Ways to compute each map; the first is what the others are compared with."""
    mask = label > 0
    loaded = MetaTensor(torch.from_numpy(label[None].astype(np.float32)))  # as MONAI's readers do
    tube, distance = TubedSkeleton(), SignedDistance(num_classes=2)
    monai = DistanceTransformEDT()
    np.testing.assert_array_equal(tube(loaded)[0], published_tube(label))
    return {
        "tubed skeleton": {
            "published": lambda: published_tube(label),
            "segloss, function": lambda: tubed_skeleton(label),
            "segloss, MONAI transform": lambda: tube(loaded),
        },
        "thinning alone": {
            "scikit-image": lambda: skeletonize(mask),
            "segloss, function": lambda: skeleton(mask),
        },
        "signed distance": {
            "scipy, twice": lambda: distance_transform_edt(~mask) - distance_transform_edt(mask),
            "MONAI DistanceTransformEDT, twice": lambda: monai(~mask[None]) - monai(mask[None]),
            "edt.edt, twice": lambda: edt.edt(~mask, parallel=1) - edt.edt(mask, parallel=1),
            "edt.sdf": lambda: edt.sdf(mask, parallel=1),
            "segloss, function": lambda: signed_distance(mask),
            "segloss, MONAI transform": lambda: distance(loaded),
        },
        "boundary band": {
            "scipy, twice": lambda: (
                distance_transform_edt(~mask) + distance_transform_edt(mask) <= 2.5
            ),
            "segloss, function": lambda: boundary_band(label, width=2),
        },
        "instances": {
            "scikit-image": lambda: label_of_scikit_image(mask),
            "scipy": lambda: label_of_scipy(mask, np.ones((3,) * mask.ndim)),
            "segloss, function": lambda: instance_regions(label),
        },
        "nearest instance": {
            "scikit-image and scipy": lambda: nearest_by_scipy(label_of_scikit_image(mask)),
            "segloss, function": lambda: instance_regions(label, regions="voronoi"),
        },
        "distance weight": {
            "scipy, twice": lambda: (
                1
                + 10
                * np.exp(
                    -((distance_transform_edt(~mask) + distance_transform_edt(mask) - 0.5) ** 2)
                    / 50
                )
            ),
            "segloss, function": lambda: boundary_weight(label),
        },
        "U-Net weight": {
            "scikit-image and scipy": lambda: unet_by_scipy(label_of_scikit_image(mask)),
            "segloss, function": lambda: boundary_weight(label, kind="unet"),
        },
    }


def peak_memory(call: Candidate) -> int:
    """The most bytes that NumPy holds at once during a call, its result included."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(call: Candidate) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="labels; a phantom without it")
    parser.add_argument("--size", type=int, default=128, help="voxels along an axis, at most")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    torch.set_num_threads(1)

    for name, label in volumes(options.folder, options.size):
        maps = candidates(label)
        every = [call for calls in maps.values() for call in calls.values()]
        for call in every:
            call()  # compiles, and fills caches
        seconds: dict[Candidate, list[float]] = {call: [] for call in every}
        for _ in track(range(options.repeats), name, transient=True):
            for call in every:
                seconds[call].append(measure(call))

        share = 100 * label.mean()
        table = Table(
            title=f"{name} {label.shape}, {share:.1f} % of it vessel", title_justify="left"
        )
        for heading in ("map", "by", "median ms", "× faster", "bytes per voxel"):
            table.add_column(heading, justify="left" if heading in {"map", "by"} else "right")
        for title, calls in maps.items():
            reference = statistics.median(seconds[next(iter(calls.values()))])
            for by, call in calls.items():
                median = statistics.median(seconds[call])
                table.add_row(
                    title if by == next(iter(calls)) else "",
                    by,
                    f"{1e3 * median:.1f}",
                    f"{reference / median:.1f}",
                    f"{peak_memory(call) / label.size:.1f}",
                    end_section=by == list(calls)[-1],
                )
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
