"""Where cases come from, what their labels mean, and the lists that are written of them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import load_decathlon_datalist

from segloss.data_scripts.datasets import Classes, Dataset, SourceError, open_dataset
from segloss.data_scripts.volumes import BadVolume, read_label
from tests.data_scripts.files import ball

UNKNOWN = Classes({}, None, None, None, None)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def save(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def names(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


# ---------------------------------------------------------------- folders and globs


def test_a_folder_at_any_depth_in_natural_order(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "case10.nii.gz", "case2.nii", "siteA/case1.nrrd", "siteA/deep/x.png", "siteB/case1.NII.GZ",
        ".hidden.nii.gz", ".cache/case3.nii.gz", "siteA/notes.txt", "photo.jpg",
    )  # fmt: skip
    dataset = open_dataset(str(tmp_path))
    assert names(dataset) == ["case2", "case10", "siteA/case1", "siteA/deep/x", "siteB/case1"]
    assert dataset.kind == "folder"
    assert dataset.classes == UNKNOWN
    assert dataset.header == {}
    case = dataset.cases[2]
    assert case.label == tmp_path / "siteA/case1.nrrd"
    assert (case.images, case.part) == ((), "training")


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "labels/a.nii.gz", "elsewhere/b.txt")
    monkeypatch.chdir(tmp_path / "elsewhere")
    dataset = open_dataset("../labels")
    assert dataset.cases[0].label == tmp_path / "labels/a.nii.gz"
    assert dataset.entry(dataset.cases[0], Path("out")) == {"label": "../../labels/a.nii.gz"}


def test_a_glob_is_named_from_where_it_begins_to_vary(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/seg.nii.gz", "sub-2/seg.nii.gz", "sub-2/t1.nii.gz", "sub-2/seg.json")
    assert names(open_dataset(f"{tmp_path}/*/seg.*")) == ["sub-1/seg", "sub-2/seg"]
    assert names(open_dataset(f"{tmp_path}/sub-2/*.nii.gz")) == ["seg", "t1"]
    assert names(open_dataset(f"{tmp_path}/**/t1*")) == ["sub-2/t1"]


def test_one_label(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].nii.gz", "b.nii.gz")
    assert names(open_dataset(str(tmp_path / "a[1].nii.gz"))) == ["a[1]"]


def test_images_bear_the_names_of_their_labels(tmp_path: Path) -> None:
    touch(tmp_path, "labels/s/a.png", "labels/b.nii.gz", "scans/s/a.jpg", "scans/b.nii.gz")
    dataset = open_dataset(f"{tmp_path}/labels", images=tmp_path / "scans")
    assert [case.images for case in dataset.cases] == [
        (tmp_path / "scans/b.nii.gz",), (tmp_path / "scans/s/a.jpg",)
    ]  # fmt: skip
    assert dataset.entry(dataset.cases[1], tmp_path / "out") == {
        "image": "../scans/s/a.jpg", "label": "../labels/s/a.png"
    }  # fmt: skip


def test_an_image_that_is_missing_fails_its_own_case_later(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a.nii.gz", "labels/b.nii.gz", "scans/b.nii.gz")
    first, _ = open_dataset(f"{tmp_path}/labels", images=tmp_path / "scans").cases
    assert first.images == (tmp_path / "scans/a.nii.gz",)


def test_images_that_cannot_be_told_apart_or_are_none(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a.nii.gz", "scans/a.nii", "scans/a.nii.gz", "empty/.hidden.nii.gz")
    with pytest.raises(SourceError, match=r"are both images of a\. Move one"):
        open_dataset(f"{tmp_path}/labels", images=tmp_path / "scans")
    with pytest.raises(SourceError, match="no images found"):
        open_dataset(f"{tmp_path}/labels", images=tmp_path / "empty")
    with pytest.raises(SourceError, match="nowhere cannot be read: No such file"):
        open_dataset(f"{tmp_path}/labels", images=tmp_path / "nowhere")
    with pytest.raises(SourceError, match="is a list, which names its images itself"):
        open_dataset(datalist(tmp_path), images=tmp_path / "scans")


def test_linked_folders_count_once(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a.nii.gz", "labels/v2/b.nii.gz", "elsewhere/c.nii.gz")
    (tmp_path / "labels/siteC").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "labels/latest").symlink_to("v2")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path)
    found = [case.name for case in open_dataset(f"{tmp_path}/labels").cases]
    assert found == ["a", "siteC/c", "v2/b"]


def test_the_folder_that_maps_are_written_to_holds_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "maps/skeleton/a.nii.gz")
    for source in (f"{tmp_path}", f"{tmp_path}/**/*.nii.gz"):
        assert names(open_dataset(source, besides=tmp_path / "maps")) == ["a"]


def test_two_labels_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.nii", "x/a.nii.gz")
    with pytest.raises(SourceError, match=r"would both be called x/a\. Rename one") as caught:
        open_dataset(str(tmp_path))
    assert str(tmp_path / "x/a.nii.gz") in str(caught.value)
    assert str(tmp_path / "x/a.nii ") in str(caught.value)


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no labels found, but nothing; expected .*\.nii\.gz"):
        open_dataset(str(tmp_path))
    touch(tmp_path, "a.npz", "b.npz", "README")
    with pytest.raises(SourceError, match=r"but 2 with \.npz, 1 with no suffix"):
        open_dataset(str(tmp_path))
    with pytest.raises(SourceError, match="no labels found"):
        open_dataset(f"{tmp_path}/*.nii.gz")
    with pytest.raises(SourceError, match="gone does not exist; expected a folder"):
        open_dataset(str(tmp_path / "gone"))
    with pytest.raises(SourceError, match=r"gone\.json does not exist"):
        open_dataset(str(tmp_path / "gone.json"))


# ---------------------------------------------------------------- datalists


def datalist(folder: Path, **changes: Any) -> str:
    content = {
        "name": "vessels",
        "labels": {"0": "background", "1": "artery", "2": "vein"},
        "numTraining": 2,
        "training": [
            {"image": "images/b10.nii.gz", "label": "./labels/b10.nii.gz", "fold": 0},
            {"image": ["images/b2_0.nii.gz", "/data/b2_1.nii.gz"], "label": "labels/b2.nii.gz"},
        ],
        "validation": [
            {"image": "images/c.nii.gz", "label": "labels/c.nii.gz", "mask": "fov/c.png"}
        ],
        "test": ["images/t.nii.gz"],
        "unlabeled": [{"image": "images/u.nii.gz", "note": "u"}],
        "tags": ["retina"],
    } | changes
    return save(
        folder / "list.json", {key: value for key, value in content.items() if value is not None}
    )


def test_a_datalist(tmp_path: Path) -> None:
    dataset = open_dataset(datalist(tmp_path))
    assert names(dataset) == ["b2", "b10", "c"]
    assert [case.part for case in dataset.cases] == ["training", "training", "validation"]
    first, second, _ = dataset.cases
    assert first.label == tmp_path / "labels/b2.nii.gz"
    assert first.images == (tmp_path / "images/b2_0.nii.gz", Path("/data/b2_1.nii.gz"))
    assert second.entry["fold"] == 0
    assert dataset.kind == "datalist"
    assert dataset.classes == Classes(
        {"background": (0,), "artery": (1,), "vein": (2,)}, 3, None, None, frozenset({0, 1, 2})
    )


@pytest.mark.parametrize("out", ["maps", "deep/er/maps", "."])
def test_monai_finds_the_same_files_through_a_list_in_another_folder(
    tmp_path: Path, out: str
) -> None:
    touch(tmp_path / "source", "fov/c.png", "u", "retina.txt")
    source = datalist(tmp_path / "source")
    dataset = open_dataset(source)
    folder = tmp_path / out
    parts: dict[str, list[Any]] = {}
    for case in dataset.cases:
        parts.setdefault(case.part, []).append(dataset.entry(case, folder))
    heading = dataset.heading(folder)
    assert "numTraining" not in heading
    assert heading["labels"] == {"0": "background", "1": "artery", "2": "vein"}
    assert heading["tags"] == ["retina"]
    moved = save(folder / "datalist.json", {**heading, **parts})
    for part in ("training", "validation", "test", "unlabeled"):
        before, after = (
            load_decathlon_datalist(listing, data_list_key=part) for listing in (source, moved)
        )
        assert sorted(before, key=str) == sorted(after, key=str)


def test_labels_that_only_their_folder_tells_apart(tmp_path: Path) -> None:
    items = [{"label": f"{site}/case1/seg.nii.gz"} for site in ("A", "B")]
    dataset = open_dataset(datalist(tmp_path, training=items, validation=None))
    assert names(dataset) == ["A/case1/seg", "B/case1/seg"]


def test_a_label_that_is_listed_twice(tmp_path: Path) -> None:
    items = [{"image": f"{kind}.nii.gz", "label": "a.nii.gz"} for kind in ("t1", "t2")]
    dataset = open_dataset(datalist(tmp_path, training=items, validation=None))
    assert names(dataset) == ["a", "a~2"]
    assert dataset.cases[0].label == dataset.cases[1].label
    items[1]["label"] = "a.nii"
    with pytest.raises(SourceError, match="would both be called a"):
        open_dataset(datalist(tmp_path, training=items, validation=None))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"training": [\n  {"label": }', r"not valid JSON: Expecting value in line 2, column 13"),
        ("", "not valid JSON: Expecting value in line 1, column 1"),
        ("[]", "must hold an object, got a list"),
        ('{"training": []}', 'lists no labels; expected "training"'),
        ('{"training": [{"image": "a"}]}', "lists no labels"),
        ('{"training": [{"label": "a"}, {"image": "b"}]}', r'"training"\[1\] has no "label"'),
        ('{"training": [{"label": "a"}, "b"]}', r'"training"\[1\] has no "label"'),
        ('{"training": [{"label": ["a"]}]}', r'"label" must name one file, got \[.a.\]'),
        ('{"training": [{"label": "a", "image": 3}]}', r'"image" must name a file or a list'),
        ('{"training": [{"label": "a"}], "labels": 3}', r'"labels" must be like .*, got 3'),
        ('{"training": [{"label": "a"}], "labels": {"x": "y"}}', '"labels" must be like'),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(SourceError, match=words) as caught:
        open_dataset(str(tmp_path / "list.json"))
    assert str(caught.value).startswith(str(tmp_path / "list.json"))


def test_a_list_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(SourceError, match="cannot be read"):
        open_dataset(str(tmp_path / "list.json"))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, UNKNOWN),
        ({}, UNKNOWN),
        (["bg", "a"], Classes({"bg": (0,), "a": (1,)}, 2, None, None, frozenset({0, 1}))),
        (
            {"background": 0, "a": 1},
            Classes({"background": (0,), "a": (1,)}, 2, None, None, frozenset({0, 1})),
        ),
        (
            {"1": "a", "4": "b"},
            Classes({"a": (1,), "b": (4,)}, 5, None, None, frozenset({0, 1, 4})),
        ),
        ({"1": "a", "2": "a"}, Classes({"a": (1, 2)}, 3, None, None, frozenset({0, 1, 2}))),
    ],
)
def test_what_a_datalist_says_about_labels(tmp_path: Path, labels: Any, expected: Classes) -> None:
    assert open_dataset(datalist(tmp_path, labels=labels)).classes == expected


# ---------------------------------------------------------------- nnU-Net


def nnunet(folder: Path, **changes: Any) -> str:
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "edema": 1, "core": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    } | changes
    save(
        folder / "dataset.json", {key: value for key, value in content.items() if value is not None}
    )
    return str(folder)


def test_an_nnunet_folder(tmp_path: Path) -> None:
    for case in ("BRATS_2", "BRATS_10"):
        touch(tmp_path, f"labelsTr/{case}.nii.gz")
        touch(tmp_path, *(f"imagesTr/{case}_000{channel}.nii.gz" for channel in (0, 1)))
    touch(tmp_path, "imagesTs/BRATS_99_0000.nii.gz", "labelsTr/.hidden.nii.gz", "labelsTr/a.json")
    dataset = open_dataset(nnunet(tmp_path))
    assert dataset.kind == "nnunet"
    assert names(dataset) == ["BRATS_2", "BRATS_10"]
    assert dataset.cases[0].label == tmp_path / "labelsTr/BRATS_2.nii.gz"
    assert dataset.cases[0].images == tuple(
        tmp_path / f"imagesTr/BRATS_2_000{channel}.nii.gz" for channel in (0, 1)
    )
    assert dataset.entry(dataset.cases[0], tmp_path / "maps") == {
        "image": ["../imagesTr/BRATS_2_0000.nii.gz", "../imagesTr/BRATS_2_0001.nii.gz"],
        "label": "../labelsTr/BRATS_2.nii.gz",
    }
    assert dataset.classes == Classes(
        {"background": (0,), "edema": (1,), "core": (2,)}, 3, None, None, frozenset({0, 1, 2})
    )
    assert dataset.heading(tmp_path) == {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "edema": 1, "core": 2},
    }
    assert open_dataset(str(tmp_path / "dataset.json")).cases == dataset.cases


def test_what_an_nnunet_folder_lacks_stays_a_case(tmp_path: Path) -> None:
    touch(tmp_path, "labelsTr/a.nii.gz", "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz")
    dataset = open_dataset(nnunet(tmp_path))
    assert names(dataset) == ["a", "b"]
    assert not dataset.cases[0].images[1].exists()
    assert not dataset.cases[1].label.exists()


def test_nnunet_labels_without_images(tmp_path: Path) -> None:
    touch(tmp_path, "labelsTr/a.nii.gz")
    (case,) = open_dataset(nnunet(tmp_path)).cases
    assert case.images == ()
    assert case.entry == {"label": "labelsTr/a.nii.gz"}


def test_nnunet_cases_that_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", str(tmp_path / "site"))
    cases = {"a": {"label": "$SITE/a.nii.gz", "images": ["../x/a_0000.nii.gz"]}}
    dataset = open_dataset(nnunet(tmp_path / "raw", dataset=cases))
    (case,) = dataset.cases
    assert (case.name, case.label) == ("a", tmp_path / "site/a.nii.gz")
    assert case.images == (tmp_path / "x/a_0000.nii.gz",)
    assert dataset.entry(case, tmp_path)["image"] == "x/a_0000.nii.gz"


def test_nnunet_regions(tmp_path: Path) -> None:
    touch(tmp_path, "labelsTr/a.nii.gz")
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3, "ignore": 4}
    dataset = open_dataset(nnunet(tmp_path, labels=labels, regions_class_order=[1, 2, 3]))
    assert dataset.classes == Classes(
        {"background": (0,), "whole": (1, 2, 3), "core": (2, 3), "active": (3,)},
        None,
        ((1, 2, 3), (2, 3), (3,)),
        4,
        frozenset({0, 1, 2, 3, 4}),
    )
    parts = {"training": [dataset.entry(case, tmp_path) for case in dataset.cases]}
    again = open_dataset(save(tmp_path / "datalist.json", {**dataset.heading(tmp_path), **parts}))
    assert again.kind == "datalist"
    assert again.classes == dataset.classes
    assert again.cases == dataset.cases


def test_lists_of_one_label_are_no_regions(tmp_path: Path) -> None:
    touch(tmp_path, "labelsTr/a.nii.gz")
    labels = {"background": 0, "a": [1], "ignore": 2}
    classes = open_dataset(nnunet(tmp_path, labels=labels)).classes
    assert (classes.regions, classes.count, classes.ignore) == (None, 2, 2)
    assert classes.values == frozenset({0, 1, 2})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, '"labels" must be like .*, got None'),
        ({"labels": {"vessel": 1}}, '"labels" must be like'),
        ({"labels": {"background": 1}}, '"labels" must be like'),
        ({"labels": {"background": 0, "a": "1"}}, "gives '1' for \"a\"; expected a label"),
        ({"labels": {"background": 0, "a": []}}, r'gives \[\] for "a"'),
        ({"labels": {"background": 0, "a": 1, "ignore": [2]}}, "expected one label"),
        (
            {"labels": {"background": 0, "a": 1, "ignore": 255}},
            "one above the largest label, 2, got",
        ),
        ({"labels": {"background": 0, "a": [1, 2]}}, '1 regions, so "regions_class_order" must'),
        ({"file_ending": 3}, '"file_ending" must be like'),
        ({"dataset": {"a": {"images": []}}}, '"label" must name one file, got None'),
        ({"dataset": {"a": 3}}, '"label" must name one file, got None'),
        ({"dataset": {}}, "no cases found"),
    ],
)
def test_what_nnunet_would_refuse(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    touch(tmp_path, "labelsTr/a.nii.gz")
    with pytest.raises(SourceError, match=words):
        open_dataset(nnunet(tmp_path, **changes))


def test_an_nnunet_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no cases found; expected files that end in \.nii\.gz"):
        open_dataset(nnunet(tmp_path))


# ---------------------------------------------------------------- what the user says


def test_what_the_source_does_not_say_is_taken_from_the_user(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    classes = open_dataset(str(tmp_path), classes=3, ignore=255).classes
    assert classes == Classes({}, 3, None, 255, frozenset({0, 1, 2, 255}))
    assert open_dataset(str(tmp_path), ignore=255).classes == Classes({}, None, None, 255, None)


def test_a_declared_label_may_turn_out_to_be_the_ignore_label(tmp_path: Path) -> None:
    source = datalist(tmp_path, labels={"0": "bg", "1": "a", "9": "unknown"})
    assert open_dataset(source, ignore=9).classes == Classes(
        {"bg": (0,), "a": (1,)}, 2, None, 9, frozenset({0, 1, 9})
    )
    assert open_dataset(source, classes=2, ignore=9).classes.count == 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"classes": 4}, "declares 3 classes, background included, not 4"),
        ({"classes": 1}, "2 classes or more"),
        ({"ignore": 0}, "must be 1 or more, got 0"),
        ({"ignore": -1}, "must be 1 or more, got -1"),
    ],
)
def test_what_contradicts_a_datalist(tmp_path: Path, said: dict[str, Any], words: str) -> None:
    source = datalist(tmp_path)
    assert open_dataset(source, classes=3).classes == open_dataset(source).classes
    with pytest.raises(SourceError, match=words):
        open_dataset(source, **said)


def test_what_contradicts_regions_or_another_ignore_label(tmp_path: Path) -> None:
    touch(tmp_path, "labelsTr/a.nii.gz")
    labels: dict[str, Any] = {"background": 0, "a": [1, 2], "b": 2}
    regions = nnunet(tmp_path, labels=labels, regions_class_order=[1, 2])
    with pytest.raises(SourceError, match=r"has 2 regions, so a number of classes \(3\)"):
        open_dataset(regions, classes=3)
    with pytest.raises(SourceError, match='add "ignore": 3'):
        open_dataset(regions, ignore=3)
    both = nnunet(tmp_path, labels={**labels, "ignore": 3}, regions_class_order=[1, 2])
    assert open_dataset(both, ignore=3).classes.ignore == 3
    with pytest.raises(SourceError, match="says that 3 is the ignore label, not 4"):
        open_dataset(both, ignore=4)


def test_an_ignore_label_among_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(SourceError, match="the ignore label 2 is one of the 3 classes 0 to 2"):
        open_dataset(str(tmp_path), classes=3, ignore=2)


# ---------------------------------------------------------------- labels and their classes


labels_of_five = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 4))  # fmt: skip


@given(labels_of_five)
def test_regions_become_channels(labels: npt.NDArray[np.uint8]) -> None:
    regions = ((1, 2, 3), (3,), (2, 3))
    for ignore in (None, 4, 300):
        held = np.where(labels == 4, ignore or 4, labels).astype(np.uint16)
        classes = Classes({}, None, regions, ignore, None)
        channels = classes.channels(held)
        assert len(channels) == 3
        for channel, region in zip(channels, regions, strict=True):
            expected = np.isin(held, region).astype(int)
            if ignore is not None:
                expected[held == ignore] = ignore
            np.testing.assert_array_equal(channel, expected)
            assert channel.dtype == (np.uint16 if ignore == 300 else np.uint8)
        np.testing.assert_array_equal(channels[-1], channels[2])
        assert len(channels[1:]) == 2
        with pytest.raises(IndexError):
            channels[3]


def test_class_ids_are_one_channel() -> None:
    labels = ball()
    (channel,) = UNKNOWN.channels(labels)
    assert channel is labels


@given(labels_of_five, st.frozensets(st.integers(0, 4), min_size=1), st.sampled_from([np.uint8, np.uint16, np.uint32]))  # fmt: skip
def test_undeclared_labels_are_counted(
    labels: npt.NDArray[np.uint8], values: frozenset[int], dtype: npt.DTypeLike
) -> None:
    classes = Classes({}, None, None, None, values)
    wrong = {value: int((labels == value).sum()) for value in range(5) if value not in values}
    wrong = {value: count for value, count in wrong.items() if count}
    if not wrong:
        classes.check(labels.astype(dtype), "a.nii.gz")
        return
    with pytest.raises(BadVolume) as caught:
        classes.check(labels.astype(dtype), "a.nii.gz")
    line = str(caught.value)
    assert line.startswith("a.nii.gz: holds labels that are not declared: ")
    found = {int(value): int(count) for value, count in re.findall(r"(\d+) \((\d+) voxel", line)}
    assert found == wrong


def test_undeclared_labels_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segloss.data_scripts.classes.BLOCK", 7)
    labels = np.zeros((5, 4), np.uint32)
    labels[0, 0], labels[1:3, 2] = 70000, 3
    words = (
        "a.png: holds labels that are not declared: 3 (2 voxels), 70000 (1 voxel); expected 0, 1, 255. "
        "Correct the label, or declare what it holds."
    )
    with pytest.raises(BadVolume, match=re.escape(words)):
        Classes({}, 2, None, 255, frozenset({0, 1, 255})).check(labels, "a.png")
    many = np.arange(60, dtype=np.uint8).reshape(6, 10)
    with pytest.raises(
        BadVolume, match=r"20 \(1 voxel\), 21 \(1 voxel\) and 38 more; expected 0, 1"
    ):
        Classes({}, 2, None, None, frozenset({0, 1})).check(many, "a.png")
    UNKNOWN.check(many, "a.png")


# ---------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("source", "count", "first"),
    [
        ("hippocampus_msd/labels", 260, "hippocampus_001"),
        ("topcow_roi", 6, "topcow_ct_roi_003"),
        ("spinal_cord_sct/*_seg*.nii.gz", 5, "t1w_seg-manual"),
        ("hrf_third/labels", 45, "01_dr"),
    ],
)
def test_real_folders(real_data: Path, source: str, count: int, first: str) -> None:
    dataset = open_dataset(str(real_data / source))
    assert len(dataset.cases) == count
    assert names(dataset)[0] == first
    assert read_label(dataset.cases[0].label).array.any()
