"""`segloss preprocess --backend`, with a stand-in for CuPy; with CuPy itself where there is a GPU."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from segloss.data_scripts.backends import Backend, BackendError
from segloss.data_scripts.manifest import read_manifest
from segloss.transforms import TubedSkeleton
from tests.data_scripts.test_preprocess import MAPS, run, save, vessels
from tests.transforms.stand_in import StandIn, on_gpu


def made(out: Path, name: str) -> list[np.ndarray]:
    files = sorted((out / name).glob("*.nii.gz"))
    return [np.asarray(nib.Nifti1Image.from_filename(file).dataobj) for file in files]


def compare(one: Path, other: Path) -> None:
    """The same maps but for rounding, and for centrelines, which have the same topology."""
    for name in MAPS.split(","):
        for here, there in zip(made(one, name), made(other, name), strict=True):
            if name == "skeleton":
                assert here.sum() == pytest.approx(there.sum(), rel=0.1)
            else:
                assert_allclose(here, there, rtol=1e-5)


def test_maps_are_those_of_the_cpu(stand_in: StandIn, tmp_path: Path) -> None:
    labels = vessels(tmp_path / "labels", count=2)
    for backend in "cpu", "cupy":
        outcome = run(labels, "--out", tmp_path / backend, "--classes", 2, "--maps", MAPS,
                      "--jobs", 1, "--backend", backend)  # fmt: skip
        assert outcome.code == 0, outcome.output
    compare(tmp_path / "cpu", tmp_path / "cupy")
    label = np.asarray(nib.Nifti1Image.from_filename(labels / "case_0.nii.gz").dataobj)
    assert_array_equal(
        made(tmp_path / "cupy", "skeleton")[0], on_gpu(TubedSkeleton(), label[None])[0]
    )
    cpu, cupy = (
        read_manifest(tmp_path / backend)["case_0"].classes["1"] for backend in ("cpu", "cupy")
    )
    assert cpu["voxels"] == cupy["voxels"]
    assert cpu["centreline_length"] == pytest.approx(cupy["centreline_length"], rel=0.1)


def test_regions_of_nnunet(stand_in: StandIn, tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 3, (9, 10, 11)).astype(np.uint8)
    raw = tmp_path / "Dataset001"
    save(raw / "labelsTr" / "a.nii.gz", label)
    save(raw / "imagesTr" / "a_0000.nii.gz", label)
    (raw / "dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 1,'
        '"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}'
    )
    for backend in "cpu", "cupy":
        outcome = run(raw, "--out", tmp_path / backend, "--maps", MAPS, "--backend", backend)
        assert outcome.code == 0, outcome.output
    for name in "distance", "instances":
        for one, other in zip(
            made(tmp_path / "cpu", name), made(tmp_path / "cupy", name), strict=True
        ):
            assert_array_equal(one, other)


def test_another_backend_makes_the_maps_again(stand_in: StandIn, tmp_path: Path) -> None:
    labels, out = vessels(tmp_path / "labels", count=1), tmp_path / "maps"
    command = (labels, "--out", out, "--classes", 2, "--jobs", 1)
    assert "1 made" in run(*command).output
    assert "1 made" in run(*command, "--backend", "auto").output
    assert "1 up to date" in run(*command, "--backend", "cupy").output
    assert read_manifest(out)["case_0"].parameters["skeleton"]["backend"] == "cupy"


def test_without_cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    labels = vessels(tmp_path / "labels", count=1)
    command = (labels, "--out", tmp_path / "maps", "--classes", 2, "--jobs", 1)
    outcome = run(*command, "--backend", "cupy")
    assert outcome.code == 2
    assert "CuPy is not installed" in outcome.output
    assert "segloss-monai[cupy]" in outcome.output
    assert run(*command, "--backend", "auto").code == 0
    assert read_manifest(tmp_path / "maps")["case_0"].parameters["skeleton"]["backend"] == "cpu"


def test_without_a_gpu(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_driver() -> int:
        raise RuntimeError("no driver")

    monkeypatch.setattr(stand_in.cuda.runtime, "getDeviceCount", no_driver)
    outcome = run(vessels(tmp_path / "labels", count=1), "--out", tmp_path / "maps",
                  "--classes", 2, "--backend", "cupy")  # fmt: skip
    assert outcome.code == 2
    assert "CuPy finds no GPU (no driver)" in outcome.output
    assert Backend.auto.settled() is Backend.cpu


def test_without_a_compiler(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(_: int) -> None:
        raise RuntimeError("libnvrtc.so.12 is not there")

    monkeypatch.setattr(stand_in, "arange", no_compiler)
    with pytest.raises(BackendError, match=r"does not work \(libnvrtc.so.12 is not there\)"):
        Backend.cupy.settled()
    assert Backend.auto.settled() is Backend.cpu


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("cupy")
    labels = vessels(tmp_path / "labels", count=3)
    for backend, jobs in ("cpu", 1), ("cupy", 2):
        outcome = run(labels, "--out", tmp_path / backend, "--classes", 2, "--maps", MAPS,
                      "--jobs", jobs, "--backend", backend)  # fmt: skip
        assert outcome.code == 0, outcome.output
    compare(tmp_path / "cpu", tmp_path / "cupy")
