"""``segloss inspect``, run as a user would."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segloss.data_scripts.cli import app
from segloss.data_scripts.inspection import Subject, scene
from segloss.data_scripts.manifest import read_manifest
from segloss.transforms.functional import signed_distance, tubed_skeleton


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def vessels(folder: Path, *options: object) -> Path:
    shape = () if "--shape" in options else ("--shape", "24x20x16")
    assert run("phantom", folder, "--count", 2, *shape, *options)[0] == 0
    return folder


def maps(folder: Path, source: Path, *options: object) -> Path:
    assert run("preprocess", source, "--out", folder, "--jobs", 1, *options)[0] == 0
    return folder


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(2**24) or ()) > 100
        return image.size


def test_draws_labels_and_their_image(tmp_path: Path) -> None:
    data = vessels(tmp_path / "data")
    out = tmp_path / "new" / "pictures"
    labels = sorted((data / "labels").iterdir())
    assert run("inspect", *labels, "--out", out, "--jobs", 1)[0] == 0
    assert [path.name for path in sorted(out.iterdir())] == ["phantom_0000.png", "phantom_0001.png"]
    before = (out / "phantom_0000.png").read_bytes()
    image = data / "images" / "phantom_0000.nii.gz"
    code, output = run("inspect", labels[0], "--image", image, "--out", out)
    assert (code, "1 of 1 drawn" in output) == (0, True)
    assert (out / "phantom_0000.png").read_bytes() != before
    assert min(size(out / "phantom_0000.png")) > 500


def test_draws_into_pictures_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vessels(tmp_path / "data", "--shape", "24x32")
    monkeypatch.chdir(tmp_path)
    assert run("inspect", "data/labels/phantom_0000.nii.gz")[0] == 0
    width, height = size(tmp_path / "pictures" / "phantom_0000.png")
    assert width > 1.5 * height > 500


def test_what_is_computed_is_what_the_functions_say(tmp_path: Path) -> None:
    label = vessels(tmp_path, "--classes", "several") / "labels" / "phantom_0000.nii.gz"
    array = np.asarray(nib.Nifti1Image.from_filename(label).dataobj)
    found = scene(Subject("case", label, None, tmp_path / "case.png", radius=1))
    assert found.classes == {"1": (1,), "2": (2,)}
    np.testing.assert_array_equal(found.labels, array)
    np.testing.assert_array_equal(found.skeleton, tubed_skeleton(array, radius=1))
    signed = np.min([signed_distance(array == number) for number in (1, 2)], axis=0)
    np.testing.assert_allclose(found.distance, signed, atol=1e-5)


@pytest.mark.parametrize("shape", ["24x20x16", "24x32"])
@pytest.mark.parametrize("layout", ["monai", "nnunet"])
def test_what_is_stored_is_what_would_be_computed(tmp_path: Path, shape: str, layout: str) -> None:
    data = vessels(
        tmp_path / "Dataset501_Vessels", "--shape", shape, "--classes", "nested", "--layout", layout
    )
    source = data / "datalist.json" if layout == "monai" else data
    stored = maps(tmp_path / "stored", source, "--maps", "skeleton,distance")
    for record in read_manifest(stored).values():
        subject = Subject(
            record.case, Path(record.label), Path(record.images[0]), tmp_path / "case.png",
            record=record, folder=stored,
        )  # fmt: skip
        found = scene(subject)
        expected = scene(replace(subject, record=replace(record, outputs={})))
        names = {
            "monai": {"wall": (1,), "lumen": (2,)},
            "nnunet": {"vessel": (1, 2), "lumen": (2,)},
        }
        assert found.classes == expected.classes == names[layout]
        np.testing.assert_array_equal(found.skeleton, expected.skeleton)
        assert set(np.unique(found.skeleton)) == {0, 1, 2}
        np.testing.assert_allclose(found.distance, expected.distance, atol=1 / 64)
        assert found.image is not None
        assert found.distance_unit == "mm"


def test_a_class_that_is_not_there_has_no_boundary(tmp_path: Path) -> None:
    stored = maps(tmp_path / "maps", vessels(tmp_path / "data") / "labels", "--classes", 4)
    record = read_manifest(stored)["phantom_0000"]
    subject = Subject("x", Path(record.label), None, tmp_path, record=record, folder=stored)
    computed = scene(replace(subject, record=None))
    np.testing.assert_allclose(scene(subject).distance, computed.distance, atol=1 / 64)


def test_draws_what_preprocess_has_made(tmp_path: Path) -> None:
    stored = maps(tmp_path / "maps", vessels(tmp_path / "data") / "datalist.json")
    code, output = run("inspect", "--from", stored, "--out", tmp_path / "all")
    assert (code, "2 of 2 drawn" in output) == (0, True)
    assert size(tmp_path / "all" / "phantom_0001.png") == size(
        tmp_path / "all" / "phantom_0000.png"
    )
    assert run("inspect", "--from", stored, "phantom_0001", "--out", tmp_path / "one")[0] == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["phantom_0001.png"]


def test_cases_in_subfolders_stay_there(tmp_path: Path) -> None:
    data = vessels(tmp_path / "data")
    for site in ("a", "b"):
        (tmp_path / "sites" / site).mkdir(parents=True)
        copied = tmp_path / "sites" / site / "case.nii.gz"
        copied.write_bytes((data / "labels" / "phantom_0000.nii.gz").read_bytes())
    stored = maps(tmp_path / "maps", tmp_path / "sites", "--maps", "skeleton")
    assert run("inspect", "--from", stored, "--out", tmp_path / "out", "--jobs", 1)[0] == 0
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("case.png")) == ["a", "b"]


def test_a_bad_case_costs_one_picture(tmp_path: Path) -> None:
    data = vessels(tmp_path / "data")
    (data / "labels" / "broken.nii.gz").write_bytes(b"not a volume")
    labels = sorted((data / "labels").iterdir())
    code, output = run("inspect", *labels, "--out", tmp_path / "out", "--jobs", 1)
    assert code == 1
    assert "broken.nii.gz:" in output
    assert "2 of 3 drawn" in output
    assert len(list((tmp_path / "out").iterdir())) == 2
    (data / "datalist.json").unlink()
    code, _ = run("preprocess", data / "labels", "--out", tmp_path / "maps", "--classes", 2)
    assert code == 1
    code, output = run("inspect", "--from", tmp_path / "maps", "--out", tmp_path / "stored")
    assert (code, "broken.nii.gz:" in output, "2 of 3 drawn" in output) == (1, True, True)


def test_an_image_that_lies_elsewhere_is_an_error(tmp_path: Path) -> None:
    data = vessels(tmp_path / "data")
    other = vessels(tmp_path / "other", "--shape", "24x20x20")
    label = data / "labels" / "phantom_0000.nii.gz"
    image = other / "images" / "phantom_0000.nii.gz"
    code, output = run("inspect", label, "--image", image, "--out", tmp_path / "out")
    assert code == 1
    assert f"phantom_0000.nii.gz: does not lie where {image} does: the shapes" in output


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    data = vessels(tmp_path / "data")
    (tmp_path / "out" / "phantom_0000.png").mkdir(parents=True)
    labels = sorted((data / "labels").iterdir())
    code, output = run("inspect", *labels, "--out", tmp_path / "out", "--jobs", 1)
    assert (code, "1 of 2 drawn" in output) == (1, True)
    assert not list((tmp_path / "out").glob(".unfinished*"))


def test_maps_that_no_longer_fit_are_noticed(tmp_path: Path) -> None:
    data = vessels(tmp_path / "data")
    stored = maps(tmp_path / "maps", data / "datalist.json")
    (stored / "skeleton" / "phantom_0001.nii.gz").unlink()
    flipped = data / "labels" / "phantom_0000.nii.gz"
    image = nib.Nifti1Image.from_filename(flipped)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), flipped)
    record = read_manifest(stored)["phantom_0000"]
    found = scene(Subject("case", flipped, None, tmp_path / "x.png", record=record, folder=stored))
    assert found.warnings == ["the label has changed since its maps were made"]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), flipped)
    code, output = run("inspect", "--from", stored, "--out", tmp_path / "out", "--jobs", 1)
    assert (code, "0 of 2 drawn" in output) == (1, True)
    assert "phantom_0001.nii.gz: does not exist in" in output
    assert "the shapes differ" in output


def test_maps_of_another_shape_are_an_error(tmp_path: Path) -> None:
    data = vessels(tmp_path / "data")
    stored = maps(tmp_path / "maps", data / "labels", "--maps", "skeleton")
    vessels(tmp_path / "data", "--shape", "24x20x17")
    code, output = run("inspect", "--from", stored, "phantom_0001", "--out", tmp_path, "--jobs", 1)
    assert code == 1
    assert "phantom_0001.nii.gz: has shape (24, 20, 16), but the label has (24, 20, 17)" in output


def test_normalised_distances_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "maps.yaml").write_text("maps: {distance: {normalize: true}}")
    options = ("--classes", 2, "--config", tmp_path / "maps.yaml")
    stored = maps(tmp_path / "maps", vessels(tmp_path / "data") / "labels", *options)
    record = read_manifest(stored)["phantom_0000"]
    subject = Subject("x", Path(record.label), None, tmp_path, record=record, folder=stored)
    found = scene(subject)
    assert found.distance_unit == "of the largest distance"
    assert found.distance.min() >= -1


def test_an_empty_label_is_drawn_with_a_warning(tmp_path: Path) -> None:
    label = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 9, 10), np.uint8), np.eye(4)), label)
    found = scene(Subject("empty", label, None, tmp_path / "empty.png"))
    assert found.warnings == ["the label is empty: no voxel is above 0"]
    assert run("inspect", label, "--out", tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected label files, or --from"),
        (["a.nii", "b.nii", "--image", "c.nii"], "one image goes with one label, got 2"),
        (["x/a.nii", "y/a.nii"], "2 labels are named a"),
        (["--from", "maps", "--image", "c.nii"], "are those it was made with"),
        (["--from", "maps", "--radius", "1"], "are those it was made with"),
        (["--from", "maps", "case2"], "has no case case2; did you mean case1?"),
        (["--from", "nowhere"], "manifest.jsonl cannot be read"),
        (["a.nii", "--radius", "-1"], "--radius"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps").mkdir()
    record = {"case": "case1", "label": "case1.nii", "images": [], "part": "training"}
    record |= {"digest": "", "version": "", "finished": "", "seconds": 0}  # type: ignore[dict-item]
    (tmp_path / "maps" / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    code, output = run("inspect", *arguments)
    assert code == 2
    assert message in " ".join(output.replace("│", " ").split())
    assert not (tmp_path / "pictures").exists()


def test_real_labels(tmp_path: Path, real_data: Path) -> None:
    cord, topcow = real_data / "spinal_cord_sct", real_data / "topcow_roi"
    options = ("--image", cord / "t2s.nii.gz", "--out", tmp_path)
    assert run("inspect", cord / "t2s_gmseg_manual.nii.gz", *options)[0] == 0
    assert run("inspect", topcow / "topcow_mr_roi_003.nii.gz", "--out", tmp_path)[0] == 0
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_help_shows_examples() -> None:
    assert "Examples: segloss inspect labels/case7.nii.gz" in run("inspect", "--help")[1]
