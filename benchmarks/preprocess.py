# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""``segloss preprocess`` beside the loop that people write: cases per second, and memory.

    python -m benchmarks.preprocess FOLDER [--repeats 3] [--largest 60]

Run from the checkout. FOLDER holds ``*.npz`` with an array called ``label`` or ``vessels`` and a
``spacing``; those with at most --largest million voxels are written as NIfTI files of 0 and 1 first.
The plain loop reads each with nibabel, thins it with scikit-image, widens the centreline twice with
SciPy's dilation, measures the distance on both sides with SciPy, and writes both maps with nibabel as
``.nii.gz``: skeleton uint8, distance int16 in steps of 1/64 mm, just as the command does. It takes no
statistics, no locks and no care.

The command and the loop run in one process, in turn, on one core. For two jobs the command runs by
itself, on copies of the cases so that there are enough to share, with one job and with two, in turn.
Memory is the most that a process of its own takes for a case beyond what it took before.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.ndimage import binary_dilation, distance_transform_edt
from skimage.morphology import skeletonize

from segloss.data_scripts.casework import Task, work
from segloss.data_scripts.datasets import Dataset, open_dataset
from segloss.data_scripts.recipes import Config

RECIPES = Config.of({}).recipes("skeleton,distance")


def plain(label: Path, out: Path) -> None:
    """Skeleton and distance of one label, as one writes it in a quarter of an hour."""
    image = nib.Nifti1Image.from_filename(label)
    mask = np.asarray(image.dataobj) > 0
    near = skeletonize(mask) > 0
    for _ in range(2):
        near = binary_dilation(near)
    spacing = tuple(map(float, image.header.get_zooms()))
    distance = distance_transform_edt(~mask, sampling=spacing)
    distance -= distance_transform_edt(mask, sampling=spacing)
    for name, array, step in (("skeleton", near & mask, 1), ("distance", distance, 1 / 64)):
        dtype = np.uint8 if step == 1 else np.int16
        stored = nib.Nifti1Image(np.rint(array / step).astype(dtype), image.affine)
        stored.header.set_slope_inter(step, 0)
        nib.save(stored, out / f"{name}_{label.name}")


def ours(dataset: Dataset, out: Path) -> list[float]:
    """Seconds for each case, one after the other."""
    seconds = []
    for case in dataset.cases:
        start = time.perf_counter()
        record = work(Task(case, dataset.classes, RECIPES, out))
        seconds.append(time.perf_counter() - start)
        assert record.error is None, record.error
    return seconds


def command(labels: Path, jobs: int) -> float:
    """Seconds that the command takes, start included."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from segloss.data_scripts.cli import app; app()", "preprocess",
             labels, "--out", out, "--classes", "2", "--jobs", str(jobs)],
            check=True, capture_output=True,
        )  # fmt: skip
        return time.perf_counter() - start


def memory(labels: Path, name: str) -> float:
    """Most memory a case takes, in multiples of its label as float32; in a fresh process."""
    code = "import sys; from benchmarks.preprocess import measured; measured(*sys.argv[1:])"
    found = subprocess.run(
        [sys.executable, "-c", code, labels, name], check=True, capture_output=True, text=True
    )
    return float(found.stdout)


def measured(labels: str, name: str) -> None:
    """Print what `memory` asks for. A small case first loads the libraries and the kernels."""
    dataset = open_dataset(labels, classes=2)
    case = next(case for case in dataset.cases if case.name == name)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.nii.gz"
        array = np.zeros((16, 16, 16), np.uint8)
        array[4:12, 4:12, 4:12] = 1
        nib.save(nib.Nifti1Image(array, np.eye(4)), small)
        ours(open_dataset(folder, classes=2), Path(folder) / "out")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
        before = _peak()
        record = work(Task(case, dataset.classes, RECIPES, Path(folder) / "out"))
    print((_peak() - before) / (4 * float(np.prod(record.shape))))


def _peak() -> int:
    """The most memory this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def convert(source: Path, labels: Path, largest: float) -> None:
    for path in sorted(source.glob("*.npz")):
        arrays = np.load(path)
        found = [arrays[name] for name in ("label", "vessels") if name in arrays]
        if found and found[0].size <= largest * 1e6:
            affine = np.diag([*arrays["spacing"], 1.0])
            mask = (found[0] > 0).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask, affine), labels / f"{path.stem}.nii.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--largest", type=float, default=60, help="million voxels")
    parser.add_argument("--copies", type=int, default=7, help="of each case, for two jobs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        labels, copies, out = (Path(folder) / name for name in ("labels", "copies", "out"))
        for each in (labels, copies, out):
            each.mkdir()
        convert(arguments.folder, labels, arguments.largest)
        dataset = open_dataset(str(labels), classes=2)
        ours(dataset, out / "warm-up")
        table = Table(
            "case", "Mvoxel", "plain, s", "segloss, s", "times faster", "memory, × float32"
        )
        times: dict[str, list[tuple[float, float]]] = {case.name: [] for case in dataset.cases}
        for _ in track(range(arguments.repeats), "In turn", console=Console(stderr=True)):
            for case in dataset.cases:
                start = time.perf_counter()
                plain(case.label, out)
                loop = time.perf_counter() - start
                start = time.perf_counter()
                record = work(Task(case, dataset.classes, RECIPES, out / "ours"))
                times[case.name].append((loop, time.perf_counter() - start))
                assert record.error is None, record.error
        for case in dataset.cases:
            loop, mine = (
                statistics.median(column) for column in zip(*times[case.name], strict=True)
            )
            ratio = statistics.median(one / other for one, other in times[case.name])
            voxels = np.prod(nib.Nifti1Image.from_filename(case.label).shape) / 1e6
            table.add_row(
                case.name, f"{voxels:.1f}", f"{loop:.2f}", f"{mine:.2f}", f"{ratio:.1f}",
                f"{memory(labels, case.name):.1f}",
            )  # fmt: skip
        Console().print(table)
        total = statistics.median(
            sum(one for one, _ in turn) / sum(other for _, other in turn)
            for turn in zip(*times.values(), strict=True)
        )
        print(f"all cases: {total:.1f} times faster than the plain loop")
        for case in dataset.cases:
            for number in range(arguments.copies):
                shutil.copy(case.label, copies / f"{number}_{case.label.name}")
        pairs = [(command(copies, 1), command(copies, 2)) for _ in range(arguments.repeats)]
        one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
        count = arguments.copies * len(dataset.cases)
        ratio = statistics.median(first / second for first, second in pairs)
        print(f"{count} cases: {count / one:.2f} a second with one job, {count / two:.2f} with two")
        print(f"two jobs: {ratio:.2f} times faster, starting included")


if __name__ == "__main__":
    main()
