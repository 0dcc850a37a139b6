"""Whatever goes wrong costs one case, or a second run; never a map, and never a wrong one.

The command runs in processes of its own here, as users start it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segloss.data_scripts.manifest import opened, read_manifest
from segloss.data_scripts.phantom import vessel_phantom
from tests.data_scripts.files import MALFORMED, write_nifti

SEGLOSS = [sys.executable, "-c", "from segloss.data_scripts.cli import app; app()"]
CASES = 12


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels that take a moment each."""
    folder = tmp_path_factory.mktemp("labels")
    for seed in range(CASES):
        label = vessel_phantom((56, 56, 56), seed=seed).label
        write_nifti(folder / f"case_{seed:02d}.nii.gz", label)
    return folder


@pytest.fixture(scope="module")
def wanted(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("wanted")
    assert finish(labels, out, jobs=1).returncode == 0
    return files(out)


def command(labels: Path | str, out: Path, *, jobs: int | None = 2, **options: str) -> list[str]:
    choices = {"classes": "2", **({} if jobs is None else {"jobs": str(jobs)}), **options}
    flags = [word for name, value in choices.items() for word in (f"--{name}", value)]
    return [*SEGLOSS, "preprocess", str(labels), "--out", str(out), *flags]


def finish(
    labels: Path | str, out: Path, *, jobs: int | None = 2, **options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(labels, out, jobs=jobs, **options),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a moment of a run; it must come before the run's end."""
    for _ in range(30_000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    raise AssertionError("the moment did not come")


def done(out: Path) -> int:
    manifest = out / "manifest.jsonl"
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.glob("*/[!.]*.nii.gz")}


def whole(out: Path) -> None:
    """Every file that bears its final name can be read to its end."""
    for path in out.glob("*/[!.]*.nii.gz"):
        image = nib.Nifti1Image.from_filename(path)
        assert np.asarray(image.dataobj).shape == (56, 56, 56)


@pytest.mark.parametrize(
    ("jobs", "moment"),
    [
        (1, "between files"),
        pytest.param(2, "within a file", marks=pytest.mark.slow),
        pytest.param(2, "with cases done", marks=pytest.mark.slow),
    ],
)
def test_killed_and_run_again(
    labels: Path, wanted: dict[str, bytes], tmp_path: Path, jobs: int, moment: str
) -> None:
    out = tmp_path / "maps"
    moments: dict[str, Callable[[], bool]] = {
        "between files": lambda: any(out.glob("skeleton/case*")),
        "within a file": lambda: any(out.glob("*/.unfinished*")),
        "with cases done": lambda: done(out) >= 3,
    }
    with running(*command(labels, out, jobs=jobs)) as process:
        until(moments[moment], process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = done(out)
    assert before < CASES
    whole(out)
    again = finish(labels, out, jobs=jobs)
    assert again.returncode == 0, again.stderr
    assert f"{CASES - before} made, {before} up to date, 0 failed" in " ".join(again.stderr.split())
    assert files(out) == wanted
    assert not list(out.rglob(".unfinished*"))
    assert len(json.loads((out / "datalist.json").read_text())["training"]) == CASES


def workers(parent: int) -> list[int]:
    """The processes that work for one (Linux)."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
                ancestor = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
            if ancestor == parent and b"LokyProcess" in words:
                found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_worker_that_is_killed(labels: Path, wanted: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "maps"
    with running(*command(labels, out)) as process:
        until(lambda: done(out) >= 2, process)
        victim = workers(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    assert f"{CASES} made, 0 up to date, 0 failed" in " ".join(output.split())
    assert files(out) == wanted
    assert not list(out.rglob(".unfinished*"))


@pytest.mark.slow
def test_a_full_disk(labels: Path, wanted: dict[str, bytes], tmp_path: Path) -> None:
    """On a file system with room for some of the maps only."""
    out = tmp_path / "small"
    out.mkdir()
    room = sum(map(len, wanted.values())) // 2
    script = (
        f"mount -t tmpfs -o size={room} tmpfs {out} && ( {' '.join(map(_quoted, command(labels, out)))}"
        f"; code=$?; cp -r {out} {tmp_path / 'copy'}; exit $code )"
    )
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("needs a mount namespace of its own to make a small disk in")
    full = subprocess.run(
        [*namespace, script], check=False, capture_output=True, text=True, timeout=300
    )
    assert full.returncode == 1, full.stderr
    assert "The disk is full" in full.stderr
    assert "make room, and run the same command again" in " ".join(full.stderr.split())
    copy = tmp_path / "copy"
    whole(copy)
    before = done(copy)
    assert 0 < before < CASES
    again = finish(labels, copy)
    assert again.returncode == 0
    assert f"{before} up to date" in " ".join(again.stderr.split())
    assert files(copy) == wanted
    assert not list(copy.rglob(".unfinished*"))  # of the worker that was still busy


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def test_two_runs_at_once(labels: Path, tmp_path: Path) -> None:
    with opened(tmp_path):
        second = finish(labels, tmp_path, jobs=1)
    assert second.returncode == 2
    assert "another run is writing to" in " ".join(second.stderr.split())
    assert not files(tmp_path)


def test_malformed_labels_cost_a_line_each(tmp_path: Path) -> None:
    folder, out = tmp_path / "labels", tmp_path / "maps"
    folder.mkdir()
    for malformed in MALFORMED:
        own = folder / malformed.name.replace(".", "-")
        own.mkdir()
        malformed.write(own / malformed.name)
    good = vessel_phantom((24, 24, 24), seed=0).label
    for name in ("first", "zlast"):
        write_nifti(folder / f"{name}.nii.gz", good)
    listed = [{"label": f"{bad.name.replace('.', '-')}/{bad.name}"} for bad in MALFORMED]
    listing = [{"label": "first.nii.gz"}, *listed, {"label": "zlast.nii.gz"}]
    (folder / "list.json").write_text(json.dumps({"training": listing}))
    run = finish(folder / "list.json", out)
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert not [line for line in lines if "MetaImage: " in line]  # SimpleITK's own, amid ours
    for malformed in MALFORMED:
        (line,) = [line for line in lines if line.startswith(f"{malformed.name}:")]
        assert re.search(malformed.words, line)
    assert f"2 made, 0 up to date, {len(MALFORMED)} failed" in " ".join(run.stderr.split())
    assert len(MALFORMED) >= 20
    records = read_manifest(out)
    assert sum(record.error is None for record in records.values()) == 2
    assert len(json.loads((out / "datalist.json").read_text())["training"]) == 2


def test_images_that_lie_elsewhere(tmp_path: Path) -> None:
    label = vessel_phantom((16, 16, 16), seed=0).label
    write_nifti(tmp_path / "label.nii.gz", label)
    write_nifti(tmp_path / "good.nii.gz", label)
    write_nifti(tmp_path / "shape.nii.gz", label[:-1])
    shift = np.eye(4)
    shift[0, 3] = 0.5
    write_nifti(tmp_path / "shifted.nii.gz", label, shift)
    names = ("good", "shape", "shifted")
    entries = [{"image": f"{name}.nii.gz", "label": "label.nii.gz"} for name in names]
    for name, entry in zip(names, entries, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps({"training": [entry]}))
        run = finish(tmp_path / f"{name}.json", tmp_path / name, jobs=1)
        line = " ".join(run.stderr.split())
        assert run.returncode == (name != "good"), line
        image = tmp_path / f"{name}.nii.gz"
        assert name == "good" or f"label.nii.gz: does not lie where {image} does:" in line


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A Dask scheduler and two workers, a process each; its address and the workers."""
    pytest.importorskip("distributed", reason="needs Dask: pip install 'segloss-monai[dask]'")
    where = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli."]
    start = [
        [*dask[:-1], "distributed.cli.dask_scheduler", "--scheduler-file", str(where), "--port", "0",
         "--no-dashboard"],
        *[[*dask[:-1], "distributed.cli.dask_worker", "--scheduler-file", str(where), "--nthreads",
           "1", "--no-dashboard", "--no-nanny", "--local-directory", str(tmp_path / f"worker{n}")]
          for n in range(2)],
    ]  # fmt: skip
    processes = [
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        for words in start
    ]
    try:
        until(lambda: where.exists() and where.stat().st_size > 0, processes[0])
        yield json.loads(where.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_on_a_cluster(
    labels: Path,
    wanted: dict[str, bytes],
    tmp_path: Path,
    cluster: tuple[str, list[subprocess.Popen[str]]],
) -> None:
    address, _ = cluster
    run = finish(labels, tmp_path / "maps", jobs=None, scheduler=address)
    assert run.returncode == 0, run.stderr
    assert files(tmp_path / "maps") == wanted


@pytest.mark.slow
def test_on_a_cluster_that_loses_a_worker(
    labels: Path,
    wanted: dict[str, bytes],
    tmp_path: Path,
    cluster: tuple[str, list[subprocess.Popen[str]]],
) -> None:
    address, (one, _) = cluster
    out = tmp_path / "maps"
    with running(*command(labels, out, jobs=None, scheduler=address)) as process:
        until(lambda: done(out) >= 2, process)
        one.kill()
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    assert files(out) == wanted
