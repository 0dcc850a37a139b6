"""The command, run as a user would: what it writes is what the transforms make."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from monai.transforms import Compose, LoadImaged, Transform
from typer.testing import CliRunner

from segloss.data_scripts.casework import Task
from segloss.data_scripts.classes import UNKNOWN
from segloss.data_scripts.cli import app
from segloss.data_scripts.datasets import Case
from segloss.data_scripts.manifest import Record, read_manifest
from segloss.data_scripts.phantom import vessel_phantom
from segloss.data_scripts.recipes import RECIPES
from segloss.transforms import (
    BoundaryBand,
    BoundaryWeight,
    InstanceRegions,
    SignedDistance,
    TubedSkeleton,
)
from tests.data_scripts.files import npz_as_nifti

MAPS = "skeleton,distance,instances,band,weight"


@dataclass
class Outcome:
    code: int
    output: str
    """On one line."""


def run(*arguments: object) -> Outcome:
    result = CliRunner().invoke(app, ["preprocess", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Outcome(result.exit_code, " ".join(result.output.split()))


def save(path: Path, label: np.ndarray, spacing: Sequence[float] = (1, 1, 1)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label, np.diag([*spacing, 1.0][-4:])), path)
    return path


def vessels(folder: Path, count: int = 3, size: int = 24) -> Path:
    """A few small labels of one class."""
    for seed in range(count):
        label = vessel_phantom((size,) * 3, seed=seed).label
        save(folder / f"case_{seed}.nii.gz", label, (1, 1, 2))
    return folder


def expected(count: int, ignore: int | None = None) -> dict[str, Transform]:
    """The transforms whose maps a label of class ids gets."""
    return {
        "skeleton": TubedSkeleton(ignore=ignore),
        "distance": SignedDistance(num_classes=count, ignore=ignore),
        "instances": InstanceRegions(ignore=ignore),
        "band": BoundaryBand(width=2, ignore=ignore),
        "weight": BoundaryWeight(ignore=ignore),
    }


def compare(
    out: Path, transforms: dict[str, Transform], encode: Callable[[Any], Any] = lambda label: label
) -> int:
    """Load everything as a training script does, and compare; how many cases there were."""
    listed = json.loads((out / "datalist.json").read_text())
    keys = ["label", *(f"{name}_label" for name in transforms)]
    load = Compose([LoadImaged(keys, ensure_channel_first=True)])
    count = 0
    for part in ("training", "validation", "test"):
        if part not in listed:
            continue
        for case in load_decathlon_datalist(out / "datalist.json", data_list_key=part):
            sample = load(case)
            label = encode(sample["label"])
            for name, transform in transforms.items():
                found, wanted = sample[f"{name}_label"], transform(label)
                # half a step of the stored distances; everything else is exact
                bound = found.new_tensor(1 / 128 + 1e-5 if name == "distance" else 0)
                assert found.shape == wanted.shape
                assert abs(found - wanted.float()).max() <= bound, (case["label"], name)
                np.testing.assert_allclose(found.affine, sample["label"].affine, atol=1e-5)
            count += 1
    return count


def test_maps_are_those_of_the_transforms(tmp_path: Path) -> None:
    labels, out = vessels(tmp_path / "labels"), tmp_path / "maps"
    outcome = run(labels, "--out", out, "--classes", 2, "--maps", MAPS, "--jobs", 1)
    assert outcome.code == 0
    assert "3 cases: 3 made, 0 up to date, 0 failed" in outcome.output
    assert compare(out, expected(2)) == 3
    assert not list(out.rglob(".unfinished*"))


def test_two_jobs_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    labels = vessels(tmp_path / "labels", count=4)
    for jobs in (1, 2):
        assert run(labels, "--out", tmp_path / str(jobs), "--classes", 2, "--jobs", jobs).code == 0
    assert files(tmp_path / "1") == files(tmp_path / "2")


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.nii.gz")}


REAL = {
    "hippocampus_msd": ("labels/hippocampus_00*.nii.gz", 3),
    "topcow_roi": ("*.nii.gz", 16),
    "spinal_cord_sct": ("*seg*.nii.gz", 12),
    "hrf_third": ("labels/0[12]_*.png", 4),
}


@pytest.mark.parametrize("name", REAL)
def test_real_labels(real_data: Path, tmp_path: Path, name: str) -> None:
    pattern, count = REAL[name]
    out = tmp_path / "maps"
    outcome = run(real_data / name / pattern, "--out", out, "--classes", count, "--jobs", 2)
    assert outcome.code == 0, outcome.output
    maps = expected(count)
    cases = compare(out, {map_: maps[map_] for map_ in ("skeleton", "distance")})
    assert cases == len(list((real_data / name).glob(pattern))) > 2


@pytest.mark.parametrize(
    ("name", "pattern", "count"),
    [("tubular_3d_masks", "brainvessels_P[12].npz", 2), ("kits19_labels", "case_000[16]?.npz", 3)],
)
def test_real_arrays(real_data: Path, tmp_path: Path, name: str, pattern: str, count: int) -> None:
    found = sorted((real_data / name).glob(pattern))
    (tmp_path / "labels").mkdir()
    for path in found:
        npz_as_nifti(path, tmp_path / "labels")
    out = tmp_path / "maps"
    outcome = run(tmp_path / "labels", "--out", out, "--classes", count, "--jobs", 2)
    assert outcome.code == 0, outcome.output
    maps = expected(count)
    cases = compare(out, {map_: maps[map_] for map_ in ("skeleton", "distance")})
    assert cases == len(found) == 2


@pytest.mark.parametrize("groups", [{"a": [1, 2]}, {"a": [1, 2], "b": [2], "c": [1]}])
def test_regions_and_ignore_label_of_nnunet(tmp_path: Path, groups: dict[str, list[int]]) -> None:
    raw = tmp_path / "Dataset001_Nested"
    rng = np.random.default_rng(0)
    for number in range(2):
        label = np.kron(rng.integers(0, 4, (5, 5, 5)), np.ones((4, 4, 4))).astype(np.uint8)
        save(raw / "labelsTr" / f"case_{number}.nii.gz", label)
        save(raw / "imagesTr" / f"case_{number}_0000.nii.gz", label.astype(np.float32))
    listing = {
        "channel_names": {"0": "MR"}, "labels": {"background": 0, **groups, "ignore": 3},
        "regions_class_order": [1, 2, 1][:len(groups)], "numTraining": 2, "file_ending": ".nii.gz",
    }  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(listing))
    out = tmp_path / "maps"
    outcome = run(raw, "--out", out, "--maps", MAPS, "--jobs", 1)
    assert outcome.code == 0, outcome.output

    def regions(label: Any) -> Any:
        found = label.new_zeros((len(groups), *label.shape[1:]))
        for channel, values in enumerate(groups.values()):
            for value in values:
                found[channel][label[0] == value] = 1
        found[:, label[0] == 3] = 3
        return found

    one = len(groups) == 1
    maps = expected(2, ignore=3) | {"distance": SignedDistance(2 if one else None, ignore=3)}
    assert compare(out, maps, regions) == 2
    classes = read_manifest(out)["case_0"].classes
    assert [entry["name"] for entry in classes.values()] == list(groups)
    assert all(entry["voxels"] > 0 for entry in classes.values())


def test_an_image_that_is_added_later_is_looked_at(tmp_path: Path) -> None:
    label = vessel_phantom((16, 16, 16), seed=0).label
    save(tmp_path / "labels" / "a.nii.gz", label)
    save(tmp_path / "images" / "a.nii.gz", label, (1, 1, 3))
    options = ("--out", tmp_path / "maps", "--classes", 2, "--jobs", 1)
    assert run(tmp_path / "labels", *options).code == 0
    outcome = run(tmp_path / "labels", "--images", tmp_path / "images", *options)
    assert (outcome.code, "the voxel sizes differ" in outcome.output) == (1, True)


def test_a_long_name_is_one(tmp_path: Path) -> None:
    name = "a" * 245
    save(tmp_path / "labels" / f"{name}.nii.gz", vessel_phantom((16, 16, 16), seed=0).label)
    run(tmp_path / "labels", "--out", tmp_path / "maps", "--classes", 2, "--jobs", 1)
    assert files(tmp_path / "maps").keys() == {
        f"{kind}/{name}.nii.gz" for kind in ("skeleton", "distance")
    }


def test_a_new_name_of_a_class_reaches_the_manifest(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", vessel_phantom((16, 16, 16), seed=0).label)
    for name in ("vessel", "artery"):
        listing = {"labels": {"0": "background", "1": name}, "training": [{"label": "a.nii.gz"}]}
        (tmp_path / "list.json").write_text(json.dumps(listing))
        run(tmp_path / "list.json", "--out", tmp_path / "maps", "--jobs", 1)
        assert read_manifest(tmp_path / "maps")["a"].classes["1"]["name"] == name


def test_statistics_are_those_of_the_label(tmp_path: Path) -> None:
    label = np.zeros((40, 20, 20), np.uint8)
    label[5:35, 8:13, 8:13] = 1
    label[2:4, 2:4, 2:4] = 2
    label[30:32, 2:4, 2:4] = 2
    save(tmp_path / "labels" / "a.nii.gz", label, (0.5, 1, 1))
    run(tmp_path / "labels", "--out", tmp_path / "maps", "--classes", 4, "--jobs", 1)
    record = read_manifest(tmp_path / "maps")["a"]
    assert record.shape == [40, 20, 20]
    assert (record.spacing, record.unit) == ([0.5, 1, 1], "mm")
    assert [record.classes[key]["voxels"] for key in "123"] == [750, 16, 0]
    assert [record.classes[key]["components"] for key in "123"] == [1, 2, 0]
    assert 11 < record.classes["1"]["centreline_length"] <= 15
    assert 0.25 <= record.classes["1"]["thinnest_radius"] <= 2.5
    assert record.classes["3"]["thinnest_radius"] is None


@pytest.mark.parametrize("maps", ["skeleton", "distance", "band"])
def test_statistics_do_not_depend_on_the_maps(tmp_path: Path, maps: str) -> None:
    labels = vessels(tmp_path / "labels", count=1)
    for name in (MAPS, maps):
        run(labels, "--out", tmp_path / name, "--classes", 2, "--maps", name, "--jobs", 1)
    one, other = (read_manifest(tmp_path / name)["case_0"].classes for name in (MAPS, maps))
    assert one == other


class TestAgain:
    """What a second run does."""

    @pytest.fixture
    def labels(self, tmp_path: Path) -> Path:
        return vessels(tmp_path / "labels")

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        return tmp_path / "maps"

    def again(self, labels: Path, out: Path, *arguments: object) -> tuple[str, set[str]]:
        """Run twice; the second run's summary, and which files it has written."""
        assert run(labels, "--out", out, "--classes", 2, "--jobs", 1).code == 0
        return self.once_more(labels, out, *arguments)

    def once_more(self, labels: Path, out: Path, *arguments: object) -> tuple[str, set[str]]:
        before = {path: path.stat().st_ino for path in out.rglob("*.nii.gz")}
        outcome = run(labels, "--out", out, "--classes", 2, "--jobs", 1, *arguments)
        assert outcome.code == 0
        after = {path: path.stat().st_ino for path in out.rglob("*.nii.gz")}
        written = {path for path in after if before.get(path) != after[path]}
        return outcome.output, {str(path.relative_to(out)) for path in written}

    def test_does_nothing(self, labels: Path, out: Path) -> None:
        summary, written = self.again(labels, out)
        assert "0 made, 3 up to date, 0 failed" in summary
        assert not written
        assert len((out / "manifest.jsonl").read_text().splitlines()) == 3

    def test_makes_what_changed(self, labels: Path, out: Path) -> None:
        run(labels, "--out", out, "--classes", 2, "--jobs", 1)
        save(labels / "case_1.nii.gz", vessel_phantom((24, 24, 24), seed=77).label)
        summary, written = self.once_more(labels, out)
        assert "1 made, 2 up to date" in summary
        assert written == {"skeleton/case_1.nii.gz", "distance/case_1.nii.gz"}
        assert compare(out, {"skeleton": TubedSkeleton()}) == 3

    def test_makes_what_is_gone_or_cut(self, labels: Path, out: Path) -> None:
        run(labels, "--out", out, "--classes", 2, "--jobs", 1)
        (out / "skeleton" / "case_0.nii.gz").unlink()
        cut = out / "distance" / "case_2.nii.gz"
        cut.write_bytes(cut.read_bytes()[:-9])
        _, written = self.once_more(labels, out)
        assert written | {"distance/case_2.nii.gz"} == {
            "skeleton/case_0.nii.gz", "distance/case_2.nii.gz"
        }  # fmt: skip
        assert compare(out, {"skeleton": TubedSkeleton(), "distance": SignedDistance(2)}) == 3

    def test_makes_all_with_force(self, labels: Path, out: Path) -> None:
        summary, written = self.again(labels, out, "--force")
        assert "3 made, 0 up to date" in summary
        assert len(written) == 6

    def test_adds_a_map(self, labels: Path, out: Path) -> None:
        _, written = self.again(labels, out, "--maps", "band")
        assert written == {f"band/case_{n}.nii.gz" for n in range(3)}
        entry = json.loads((out / "datalist.json").read_text())["training"][0]
        assert {"skeleton_label", "distance_label", "band_label"} < set(entry)

    def test_makes_again_what_has_other_options(
        self, labels: Path, out: Path, tmp_path: Path
    ) -> None:
        config = tmp_path / "maps.yaml"
        config.write_text("maps: {skeleton: {radius: 1}, distance: }")
        _, written = self.again(labels, out, "--config", config)
        assert written == {f"skeleton/case_{n}.nii.gz" for n in range(3)}
        assert compare(out, {"skeleton": TubedSkeleton(radius=1)}) == 3

    def test_leaves_no_map_of_an_earlier_label(self, labels: Path, out: Path) -> None:
        run(labels, "--out", out, "--classes", 2, "--jobs", 1, "--maps", MAPS)
        save(labels / "case_1.nii.gz", vessel_phantom((24, 24, 24), seed=77).label)
        self.once_more(labels, out, "--maps", "skeleton")
        assert not (out / "distance" / "case_1.nii.gz").exists()
        assert (out / "distance" / "case_0.nii.gz").exists()


def test_maps_may_lie_among_the_labels(tmp_path: Path) -> None:
    labels = vessels(tmp_path)
    for summary in ("3 made, 0 up to date", "0 made, 3 up to date"):
        outcome = run(labels, "--out", labels / "maps", "--classes", 2, "--jobs", 1)
        assert (outcome.code, summary in outcome.output) == (0, True), outcome.output


def test_images_of_a_folder_of_labels(tmp_path: Path) -> None:
    labels, images = vessels(tmp_path / "labels"), vessels(tmp_path / "images", count=2)
    outcome = run(labels, "--images", images, "--out", tmp_path / "maps", "--classes", 2)
    assert outcome.code == 1
    assert "case_2.nii.gz: does not exist in" in outcome.output
    listed = json.loads((tmp_path / "maps/datalist.json").read_text())["training"]
    assert [case["image"] for case in listed] == [
        f"../images/case_{number}.nii.gz" for number in range(2)
    ]


def test_an_empty_label_is_a_warning(tmp_path: Path) -> None:
    labels, out = vessels(tmp_path / "labels"), tmp_path / "maps"
    save(labels / "case_1.nii.gz", np.zeros((24, 24, 24), np.uint8))
    outcome = run(labels, "--out", out, "--classes", 2, "--jobs", 1, "--maps", MAPS)
    assert outcome.code == 0
    assert "case_1: the label is empty: no voxel is above 0" in outcome.output
    assert compare(out, expected(2)) == 3
    stopped = run(labels, "--out", tmp_path / "strict", "--classes", 2, "--jobs", 1, "--strict")
    assert stopped.code == 1
    assert "Stopped, because of --strict" in stopped.output
    assert list(read_manifest(tmp_path / "strict")) == ["case_0", "case_1"]


def test_distances_beyond_the_steps_are_stored_as_floats(tmp_path: Path) -> None:
    label = np.zeros((8, 8, 40), np.uint8)
    label[..., 0] = 1
    save(tmp_path / "labels" / "a.nii.gz", label, (1, 1, 20))
    out = tmp_path / "maps"
    outcome = run(tmp_path / "labels", "--out", out, "--classes", 2, "--jobs", 1)
    assert outcome.code == 0
    assert "a: distance: beyond 512 mm, so stored as float32" in outcome.output
    assert compare(out, {"distance": SignedDistance(2)}) == 1
    assert nib.Nifti1Image.from_filename(out / "distance/a.nii.gz").get_data_dtype() == np.float32


def test_small_voxels_get_small_steps(tmp_path: Path) -> None:
    labels = vessels(tmp_path / "labels", count=1)
    image = nib.Nifti1Image.from_filename(labels / "case_0.nii.gz")
    save(labels / "case_0.nii.gz", np.asarray(image.dataobj), (0.001, 0.001, 0.002))
    out = tmp_path / "maps"
    assert run(labels, "--out", out, "--classes", 2, "--jobs", 1).code == 0
    stored = nib.Nifti1Image.from_filename(out / "distance/case_0.nii.gz")
    wanted = SignedDistance(2, spacing=(0.001, 0.001, 0.002))(np.asarray(image.dataobj)[None])
    assert abs(np.asarray(stored.dataobj) - wanted[0]).max() <= 0.001 / 32 * 1.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "2", "--maps", "skelton"], "'skelton' is unknown; did you mean 'skeleton'?"),
        (["--maps", "distance"], "holds the labels 0, 1, which makes --classes 2"),
        (["--classes", "1"], "--classes"),
        (["--classes", "2", "--max-memory", "lots"], "a size such as 16G or 800M, got 'lots'"),
        (["--classes", "2", "--scheduler", "x", "--jobs", "2"], "leave them out"),
        (["--classes", "2", "--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], message: str) -> None:
    labels = vessels(tmp_path / "labels", count=1)
    outcome = run(labels, "--out", tmp_path / "maps", *arguments)
    assert outcome.code == 2, outcome.output
    assert message in outcome.output
    assert not (tmp_path / "maps").exists()


def test_nothing_there(tmp_path: Path) -> None:
    outcome = run(tmp_path / "nowhere", "--out", tmp_path / "maps")
    assert outcome.code == 2
    assert "does not exist; expected a folder of labels" in outcome.output


def test_memory_limits_the_jobs(tmp_path: Path) -> None:
    labels = vessels(tmp_path / "labels", count=2)
    outcome = run(
        labels, "--out", tmp_path / "maps", "--classes", 2, "--jobs", 2, "--max-memory", "310M"
    )
    assert outcome.code == 0
    assert "1 at a time rather than 2: case_1 may take 0.3 GiB, and there are 0.3" in outcome.output


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_of_a_map_is_recorded(name: str) -> None:
    recipe: Any = RECIPES[name]()
    case = Case("a", Path("a.nii.gz"), (), "training", {})
    parameters = Task(case, UNKNOWN, {name: recipe}, Path()).parameters[name]
    assert asdict(recipe).items() <= parameters.items()


def test_help_shows_examples() -> None:
    assert "segloss preprocess labels --images images --out maps" in run("--help").output


def test_records_say_what_was_done(tmp_path: Path) -> None:
    labels, out = vessels(tmp_path / "labels", count=1), tmp_path / "maps"
    run(labels, "--out", out, "--classes", 2, "--jobs", 1)
    (record,) = read_manifest(out).values()
    assert isinstance(record, Record)
    assert record.label == str(labels / "case_0.nii.gz")
    assert record.parameters["skeleton"]["radius"] == 2
    assert record.outputs["skeleton"]["bytes"] == (out / "skeleton/case_0.nii.gz").stat().st_size
    assert record.seconds > 0
    assert record.finished.endswith("+00:00")
