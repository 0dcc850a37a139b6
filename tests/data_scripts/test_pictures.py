"""What is drawn where: the planes of a case, and the figure made of them."""

import io
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from segloss.data_scripts.pictures import color, draw
from segloss.data_scripts.sheets import Scene, class_bits, sheets, turned
from segloss.data_scripts.volumes import Grid
from segloss.transforms.functional import signed_distance

Array = npt.NDArray[Any]

shapes = st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple)
labels = shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 3)))


def scene(
    label: Array,
    *,
    classes: Mapping[str, tuple[int, ...]] | None = None,
    spacing: tuple[float, ...] | None = None,
    skeleton: Array | None = None,
    **rest: Any,
) -> Scene:
    affine = np.eye(4)
    affine[range(label.ndim), range(label.ndim)] = spacing or 1
    names = {str(number): (number,) for number in range(1, int(label.max()) + 1)}
    rest = {"name": "case", "distance_unit": "mm", **rest}
    return Scene(
        grid=Grid(label.shape, affine, spacing),
        labels=label,
        classes=names if classes is None else classes,
        skeleton=np.zeros_like(label) if skeleton is None else skeleton,
        distance=signed_distance(label > 0),
        **rest,
    )


def rendered(figure: Figure) -> Array:
    """The pixels of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def ball() -> npt.NDArray[np.uint8]:
    squares = sum((axis - 8) ** 2 for axis in np.ogrid[:16, :18, :20])
    return np.where(squares < 36, 1, 0).astype(np.uint8)


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((-1, 1))] * 3))
def test_volumes_are_turned_as_radiologists_look_at_them(
    order: list[int], signs: tuple[int, ...]
) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    affine = np.eye(4)
    affine[:3, :3] = np.diag((1.0, 2.0, 3.0))[order] * np.array(signs)[:, None]
    sizes = tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    turn, turned_sizes = turned(Grid((2, 3, 4), affine, sizes))
    upright = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    np.testing.assert_array_equal(turn(array), np.asarray(upright.dataobj)[::-1, ::-1, ::-1])
    assert turned_sizes == upright.header.get_zooms()


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0)])
def test_what_does_not_lie_in_a_patient_is_not_turned(spacing: tuple[float, ...] | None) -> None:
    array = np.arange(6).reshape(2, 3)
    turn, sizes = turned(Grid((2, 3), np.diag([-1.0, -1.0, 1.0, 1.0]), spacing))
    np.testing.assert_array_equal(turn(array), array)
    assert sizes == (1, 1)


@given(labels, st.integers(1, 100))
def test_the_bits_are_the_classes(label: Array, count: int) -> None:
    classes = {str(number): (number % 4, 3) for number in range(count)}
    bits = class_bits(label, classes)
    for number, values in enumerate(classes.values()):
        if number < 63 or count <= 64:
            np.testing.assert_array_equal((bits >> number) & 1, np.isin(label, values))
    shared = [
        value for number, values in enumerate(classes.values()) if number >= 63 for value in values
    ]
    if shared:
        np.testing.assert_array_equal(bits >> np.uint64(63), np.isin(label, shared))


def test_slices_and_projections_are_those_of_the_volume() -> None:
    label = ball()
    label[2, 3, 4] = 2
    skeleton = np.zeros_like(label)
    skeleton[8, 8, 5:12] = 1
    image = np.random.default_rng(0).random(label.shape).astype(np.float32)
    there = scene(label, spacing=(1.0, 2.0, 3.0), skeleton=skeleton, image=image)
    slices, projections = sheets(there, class_bits(label, there.classes))
    # x runs to the right, y to the front, z up: shown the other way round
    np.testing.assert_array_equal(slices[0].grey, image[8, ::-1, ::-1].T)
    np.testing.assert_array_equal(slices[1].classes & 1, label[::-1, 8, ::-1].T == 1)
    np.testing.assert_array_equal(slices[2].skeleton, skeleton[::-1, ::-1, 8].T)
    np.testing.assert_array_equal(projections[0].grey, image.max(0)[::-1, ::-1].T)
    np.testing.assert_array_equal(projections[1].classes >> 1, (label == 2).any(1)[::-1, ::-1].T)
    np.testing.assert_array_equal(projections[2].skeleton, skeleton.max(2)[::-1, ::-1].T)
    assert [sheet.size for sheet in slices] == [(36, 60), (16, 60), (16, 36)]
    assert ["".join(sheet.ends) for sheet in slices] == ["APSI", "RLSI", "RLAP"]


def test_a_hollow_label_is_cut_where_there_is_some() -> None:
    label = np.zeros((9, 9, 9), dtype=np.uint8)
    label[0] = label[8, :4] = 1
    slices, _ = sheets(scene(label), class_bits(label, {"1": (1,)}))
    assert slices[0].classes.all()


@given(labels)
@settings(max_examples=15)
def test_anything_can_be_drawn(label: Array) -> None:
    rendered(draw(scene(label)))


def test_contours_that_are_not_there_are_left_out() -> None:
    label = np.ones((20, 20), dtype=np.uint8)
    label[0, 0] = 0  # outside, nothing is as far from the boundary as the inside is deep
    rendered(draw(scene(label)))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_image_without_contrast_can_be_drawn(value: float) -> None:
    image = np.full((16, 18, 20), value, np.float32)
    rendered(draw(scene(ball(), image=image)))


def test_names_are_not_taken_for_formulas() -> None:
    named = scene(ball(), classes={"$x": (1,)}, name="a_$b$_{c", warnings=["$\\broken"])
    figure = draw(named)
    rendered(figure)
    assert [text.get_text() for text in figure.texts][:1] == ["a_$b$_{c"]
    assert figure.legends[0].get_texts()[0].get_text() == f"$x: {ball().sum():,} voxels"


def test_a_picture_says_what_it_shows() -> None:
    figure = draw(scene(ball(), spacing=(0.5, 1.0, 7.5), warnings=["thin slices"]))
    name, facts, warning, legend = (text.get_text() for text in figure.texts)
    assert (name, facts) == ("case", "16 × 18 × 20 voxels of 0.5 × 1 × 7.5 mm")
    assert warning == "thin slices"
    assert "Contours: 1, 2 and 3 mm from the nearest boundary, solid inside" in legend


def test_many_classes_get_a_short_legend() -> None:
    label = np.arange(81, dtype=np.uint8).reshape(9, 9)
    entries = [text.get_text() for text in draw(scene(label)).legends[0].get_texts()]
    assert entries[:2] == ["1: 1 voxels", "2: 1 voxels"]
    assert entries[15:] == ["and 65 more classes"]


def test_voxels_have_their_true_proportions() -> None:
    figure = draw(scene(ball(), spacing=(0.5, 1.0, 7.5)))
    rendered(figure)
    for axes, (width, height) in zip(figure.axes, [(18, 150), (8, 150), (8, 18)] * 2, strict=True):
        shown = axes.get_window_extent()
        assert shown.width / shown.height == pytest.approx(width / height, rel=0.01)


def test_outlines_run_along_the_sides_of_pixels() -> None:
    label = np.zeros((5, 4), dtype=np.uint8)
    label[3:, 0] = 1  # two pixels in a corner: a row of two, since the first axis is the width
    axes = draw(scene(label)).axes[0]
    (line,) = axes.lines
    strokes = np.asarray(line.get_xydata()).reshape(-1, 3, 2)
    assert np.isnan(strokes[:, 2]).all()
    found = {tuple(map(tuple, stroke[:2].tolist())) for stroke in strokes}
    assert found == {
        ((2.5, -0.5), (3.5, -0.5)), ((3.5, -0.5), (4.5, -0.5)),  # above
        ((2.5, 0.5), (3.5, 0.5)), ((3.5, 0.5), (4.5, 0.5)),  # below
        ((2.5, -0.5), (2.5, 0.5)), ((4.5, -0.5), (4.5, 0.5)),  # left, right
    }  # fmt: skip
    assert axes.get_xlim() == (-0.5, 4.5)


def test_the_skeleton_is_filled_in_the_colour_of_its_class() -> None:
    label = np.zeros((5, 4), dtype=np.uint8)
    label[1:4, 1:3] = 2
    skeleton = np.zeros_like(label)
    skeleton[2, 1] = 2
    _, filled = draw(scene(label, skeleton=skeleton)).axes[1].images
    shown = np.asarray(filled.get_array())
    np.testing.assert_allclose(shown[1, 2, :3], to_rgb(color(2)))
    assert (shown[..., 3] > 0).sum() == 1


def test_colours_differ() -> None:
    assert len({color(number) for number in range(1, 22)}) == 21
