"""The phantoms, and the command that writes them, run as a user would."""

import json
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import load_decathlon_datalist
from scipy.ndimage import binary_dilation
from typer.testing import CliRunner

from segloss.data_scripts.cli import app
from segloss.data_scripts.phantom import vessel_phantom
from segloss.metrics import betti_number

shapes = st.lists(st.integers(8, 40), min_size=2, max_size=3).map(tuple)


@given(shapes, st.integers(0, 2**31))
def test_the_same_seed_gives_the_same_phantom(shape: tuple[int, ...], seed: int) -> None:
    first, second = vessel_phantom(shape, seed=seed), vessel_phantom(shape, seed=seed)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.image.shape == first.label.shape == shape
    assert first.image.dtype == np.float32
    assert first.label.dtype == np.uint8
    assert np.isfinite(first.image).all()
    assert first.label.max() == 1


@given(shapes, st.integers(0, 999), st.sampled_from(["nested", "several"]))
def test_the_vessels_are_the_same_whatever_the_classes(
    shape: tuple[int, ...], seed: int, classes: str
) -> None:
    label = vessel_phantom(shape, seed=seed, classes=classes).label
    assert set(np.unique(label)) <= {0, 1, 2}
    np.testing.assert_array_equal(label > 0, vessel_phantom(shape, seed=seed).label)


@given(shapes, st.integers(0, 999))
def test_the_lumen_is_nowhere_broken(shape: tuple[int, ...], seed: int) -> None:
    label = vessel_phantom(shape, seed=seed, trees=1, classes="nested").label
    assert betti_number(label == 2, 0) == 1


def test_the_lumen_has_a_wall_where_there_is_room() -> None:
    label = vessel_phantom((64, 64, 64), seed=0, classes="nested", radius=6.0, thinnest=5.0).label
    assert (label == 2).sum() / (label > 0).sum() == pytest.approx(0.6**2, abs=0.05)
    assert not ((label == 2) & (binary_dilation(label == 0))).any()


def test_trees_are_arteries_and_veins_by_turns_and_the_first_lies_on_top() -> None:
    trees = [vessel_phantom((48, 48), seed=2, trees=n, classes="several").label for n in (1, 2, 3)]
    first, two, three = trees
    assert set(np.unique(two)) == {0, 1, 2}
    np.testing.assert_array_equal(two[first == 1], 1)
    np.testing.assert_array_equal(three[two > 0], two[two > 0])
    assert set(three[(three > 0) & (two == 0)]) == {1}


@pytest.mark.parametrize(("classes", "parts"), [("nested", (0.5, 1)), ("several", (1, 0.6))])
def test_classes_differ_in_brightness(classes: str, parts: tuple[float, float]) -> None:
    image, label = vessel_phantom(
        (64, 64, 64), seed=3, classes=classes, contrast=2.0, bias=0.0, blur=0.0, fading=0.0
    )
    for class_id, part in enumerate(parts, start=1):
        assert image[label == class_id].mean() == pytest.approx(2 * part, abs=0.05)


def test_another_seed_gives_another_phantom() -> None:
    first, second = (vessel_phantom((32, 32, 32), seed=seed) for seed in (0, 1))
    assert (first.label != second.label).any()


@given(shapes, st.integers(0, 999), st.floats(0.3, 4))
@settings(max_examples=60)
def test_a_tree_is_one_piece_whatever_the_spacing(
    shape: tuple[int, ...], seed: int, thickness: float
) -> None:
    spacing = (thickness,) + (1.0,) * (len(shape) - 1)
    label = vessel_phantom(shape, seed=seed, trees=1, spacing=spacing).label
    assert betti_number(label == 1, 0) == 1


@given(shapes, st.integers(0, 999))
def test_no_trees_no_vessels(shape: tuple[int, ...], seed: int) -> None:
    image, label = vessel_phantom(shape, seed=seed, trees=0, noise=0.0, bias=0.0)
    assert not label.any()
    np.testing.assert_allclose(image, 0, atol=1e-6)


def test_contrast_and_noise_are_what_was_asked_for() -> None:
    image, label = vessel_phantom(
        (64, 64, 64), seed=3, contrast=2.0, noise=0.5, bias=0.0, blur=0.0, fading=0.0
    )
    assert image[label == 1].mean() == pytest.approx(2, abs=0.05)
    assert image[label == 0].mean() == pytest.approx(0, abs=0.01)
    assert image[label == 0].std() == pytest.approx(0.5, abs=0.01)


def test_vessels_are_thin_and_sparse() -> None:
    fractions = [vessel_phantom((64, 64, 64), seed=seed).label.mean() for seed in range(10)]
    assert 0.002 < np.median(fractions) < 0.05


def test_quick_to_make() -> None:
    start = time.process_time()
    vessel_phantom((96, 96, 96), seed=0)
    assert time.process_time() - start < 3  # about half a second on an idle core


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (64,)}, "shape must be two or three numbers, each 8 or more"),
        ({"shape": (4, 64)}, "shape must be two or three numbers, each 8 or more"),
        ({"spacing": (1.0, 1.0)}, "spacing must be 3 positive numbers"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing must be 3 positive numbers"),
        ({"seed": -1}, "seed and trees must be 0 or more"),
        ({"thinnest": 5.0}, "thinnest must lie between 0 and radius=3.0, got 5.0"),
        ({"classes": "two"}, "classes must be one of one, nested, several, got 'two'"),
        ({"fading": 2.0}, "fading must lie between 0 and 1, got 2.0"),
        ({"noise": -1.0}, "noise, bias and blur must be 0 or more"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vessel_phantom(**{"shape": (16, 16, 16), "seed": 0, **options})  # type: ignore[arg-type]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["phantom", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_writes_pairs_and_a_datalist(tmp_path: Path) -> None:
    code, output = run(
        tmp_path, "--count", 3, "--held-out", 1, "--shape", "8x16x24", "--spacing", "3x1x0.5",
        "--seed", 7,
    )  # fmt: skip
    assert code == 0
    assert "3 of 3 written" in output
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    assert [len(datalist[part]) for part in ("training", "validation")] == [2, 1]
    first = load_decathlon_datalist(tmp_path / "datalist.json", data_list_key="training")[0]
    image, label = (nib.Nifti1Image.from_filename(first[key]) for key in ("image", "label"))
    expected = vessel_phantom((8, 16, 24), seed=7, spacing=(3.0, 1.0, 0.5))
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected.image)
    np.testing.assert_array_equal(np.asarray(label.dataobj), expected.label)
    np.testing.assert_allclose(image.header.get_zooms(), (3, 1, 0.5))
    assert not list(tmp_path.rglob(".unfinished*"))


@pytest.mark.parametrize(
    ("classes", "names"),
    [("nested", ["background", "wall", "lumen"]), ("several", ["background", "artery", "vein"])],
)
def test_the_datalist_names_the_classes(tmp_path: Path, classes: str, names: list[str]) -> None:
    assert run(tmp_path, "--count", 1, "--shape", "16x16x16", "--classes", classes)[0] == 0
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    assert datalist["labels"] == {str(number): name for number, name in enumerate(names)}
    label = nib.Nifti1Image.from_filename(tmp_path / datalist["training"][0]["label"])
    expected = vessel_phantom((16, 16, 16), seed=0, classes=classes).label
    np.testing.assert_array_equal(np.asarray(label.dataobj), expected)


def test_writes_what_nnunet_reads(tmp_path: Path) -> None:
    out = tmp_path / "nnUNet_raw" / "Dataset501_Vessels"
    options = ("--count", 3, "--held-out", 1, "--shape", "16x16x16", "--layout", "nnunet")
    assert run(out, *options, "--classes", "nested")[0] == 0
    assert json.loads((out / "dataset.json").read_text()) == {
        "name": "vessel phantoms",
        "channel_names": {"0": "brightness"},
        "labels": {"background": 0, "vessel": [1, 2], "lumen": 2},
        "regions_class_order": [1, 2],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.gz"))
    assert written == [
        "imagesTr/phantom_0000_0000.nii.gz",
        "imagesTr/phantom_0001_0000.nii.gz",
        "imagesTs/phantom_0002_0000.nii.gz",
        "labelsTr/phantom_0000.nii.gz",
        "labelsTr/phantom_0001.nii.gz",
        "labelsTs/phantom_0002.nii.gz",
    ]
    label = nib.Nifti1Image.from_filename(out / "labelsTs" / "phantom_0002.nii.gz")
    expected = vessel_phantom((16, 16, 16), seed=2, classes="nested").label
    np.testing.assert_array_equal(np.asarray(label.dataobj), expected)


def test_nnunet_finds_the_data_set_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    verify = pytest.importorskip(
        "nnunetv2.experiment_planning.verify_dataset_integrity", reason="needs nnU-Net"
    ).verify_dataset_integrity
    for number, shape in enumerate(("16x16x16", "24x24"), start=501):
        for classes in ("nested", "several"):
            out = tmp_path / f"Dataset{number}_{classes}"
            options = ("--count", 2, "--shape", shape, "--layout", "nnunet")
            assert run(out, *options, "--classes", classes)[0] == 0
            verify(str(out), num_processes=1)


def test_nnunet_gets_no_image_without_a_label(tmp_path: Path) -> None:
    out = tmp_path / "Dataset501_Vessels"
    (out / "labelsTr" / "phantom_0001.nii.gz").mkdir(parents=True)
    code, output = run(out, "--count", 2, "--shape", "8x8", "--layout", "nnunet")
    assert code == 1
    assert "phantom_0001.nii.gz:" in output
    assert [path.name for path in (out / "imagesTr").iterdir()] == ["phantom_0000_0000.nii.gz"]
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 1


def test_nnunet_would_take_cases_of_before_for_new_ones(tmp_path: Path) -> None:
    out = tmp_path / "Dataset501_Vessels"
    options = ("--shape", "8x8", "--layout", "nnunet")
    assert run(out, "--count", 3, *options)[0] == 0
    assert run(out, "--count", 3, *options)[0] == 0
    code, output = run(out, "--count", 2, *options)
    assert code == 2
    assert "imagesTr/phantom_0002_0000.nii.gz for one" in output


def test_vessels_wider_than_the_volume_take_no_more_memory() -> None:
    tracemalloc.start()
    vessel_phantom((24, 24, 24), seed=0, spacing=(0.15, 0.15, 0.15))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_writes_flat_images(tmp_path: Path) -> None:
    assert run(tmp_path, "--count", 1, "--shape", "16x24")[0] == 0
    image = nib.Nifti1Image.from_filename(tmp_path / "images" / "phantom_0000.nii.gz")
    assert image.shape == (16, 24)


def test_a_case_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "labels" / "phantom_0001.nii.gz").mkdir(parents=True)
    code, output = run(tmp_path, "--count", 3, "--shape", "8x8")
    assert code == 1
    assert "phantom_0001.nii.gz:" in output
    assert "2 of 3 written" in output
    listed = json.loads((tmp_path / "datalist.json").read_text())["training"]
    assert [Path(case["image"]).name[8:12] for case in listed] == ["0000", "0002"]


def test_a_folder_that_cannot_be_made_costs_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, output = run(tmp_path / "file" / "out", "--count", 1, "--shape", "8x8")
    assert (code, "cannot be written: Not a directory" in output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "96"], "two or three ints joined by x, each 8 or more, got '96'"),
        (["--shape", "8.5x9"], "got '8.5x9'"),
        (["--shape", "16x16", "--spacing", "1x1x1"], "expected 2 numbers, as many as the shape"),
        (["--spacing", "1x0x1"], "got '1x0x1'"),
        (["--count", "2", "--held-out", "3"], "3 is more than --count 2"),
        (["--count", "0"], "--count"),
        (["--classes", "two"], "'two' is not one of 'one', 'nested', 'several'"),
        (["--layout", "nnunet"], "DatasetNNN_Name, such as Dataset501_Vessels, got 'out'"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, output = run(tmp_path / "out", *arguments)
    assert code == 2
    assert message in output
    assert not (tmp_path / "out").exists()


def test_help_shows_examples() -> None:
    assert "Examples: segloss phantom vessels" in run("--help")[1]
