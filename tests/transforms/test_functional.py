"""The array functions: what they promise, whatever the label."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from skimage.morphology import skeletonize

from segloss.transforms.arrays import LARGEST_ID
from segloss.transforms.functional import (
    boundary_band,
    boundary_weight,
    centreline,
    downsample,
    instance_regions,
    signed_distance,
    skeleton,
    tube,
    tubed_skeleton,
)
from tests.reference.maps import box_distance, published_distance, published_tube
from tests.transforms.strategies import anisotropic, label_maps, masks, real_vessels


@given(masks(ndim=2))
def test_skeletons_of_images_are_scikit_images(mask: np.ndarray) -> None:
    assert_array_equal(skeleton(mask), skeletonize(mask))


class TestTube:
    @given(label_maps)
    def test_is_the_published_one(self, labels: np.ndarray) -> None:
        assert_array_equal(tubed_skeleton(labels), published_tube(labels))

    def test_is_the_published_one_on_real_vessels(self, real_data: Path) -> None:
        for mask in real_vessels(real_data).values():
            labels = mask.astype(np.uint8)
            labels[:, :50] *= 2  # two classes meet
            assert_array_equal(tubed_skeleton(labels), published_tube(labels))

    @given(label_maps, st.integers(0, 3), st.booleans())
    def test_only_takes_away(self, labels: np.ndarray, radius: int, per_class: bool) -> None:
        tube = tubed_skeleton(labels, radius=radius, per_class=per_class)
        assert (tube.dtype, tube.shape) == (labels.dtype, labels.shape)
        assert (tube == labels)[tube != 0].all()

    @given(label_maps, st.integers(0, 3), st.booleans())
    def test_a_wider_one_holds_a_narrower_one(
        self, labels: np.ndarray, radius: int, per_class: bool
    ) -> None:
        narrow, wide = (
            tubed_skeleton(labels, radius=r, per_class=per_class) for r in (radius, radius + 1)
        )
        assert (wide != 0)[narrow != 0].all()

    @given(label_maps)
    def test_per_class_is_each_class_alone(self, labels: np.ndarray) -> None:
        alone = [published_tube((labels == c).astype(np.uint8)) * c for c in (1, 2, 3)]
        assert_array_equal(tubed_skeleton(labels, per_class=True), sum(alone))

    @given(label_maps, st.booleans())
    def test_the_ignored_shape_nothing(self, labels: np.ndarray, per_class: bool) -> None:
        tube = tubed_skeleton(labels, ignore=2, per_class=per_class)
        without = np.where(labels == 2, 0, labels)
        assert_array_equal(tube, tubed_skeleton(without, per_class=per_class))

    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.float32])
    def test_every_dtype_of_labels(self, dtype: type) -> None:
        labels = np.random.default_rng(0).random((9, 8, 7)) < 0.7
        for per_class in False, True:
            tube = tubed_skeleton(labels.astype(dtype), per_class=per_class)
            assert tube.dtype == dtype
            assert_array_equal(tube, published_tube(labels))

    @pytest.mark.parametrize("dtype", [">i2", ">u4", ">f4"])
    def test_labels_in_another_order_of_bytes(self, dtype: str) -> None:
        labels = np.random.default_rng(0).integers(0, 3, (9, 8, 7))
        other = labels.astype(dtype)
        for make in (
            tubed_skeleton,
            instance_regions,
            partial(instance_regions, regions="voronoi", dtype=">i4"),
            partial(boundary_band, width=1),
            partial(boundary_weight, kind="unet"),
        ):
            assert_array_equal(make(other), make(labels))

    def test_minus_one_can_be_the_label_to_ignore(self) -> None:
        labels = np.array([[1, 1, -1, 1, 1]])
        assert_array_equal(tubed_skeleton(labels, ignore=-1), [[1, 1, 0, 1, 1]])


class TestCentreline:
    @given(label_maps, st.booleans())
    def test_is_the_skeleton_labelled(self, labels: np.ndarray, per_class: bool) -> None:
        masks = [labels == c for c in (1, 2, 3)] if per_class else [labels > 0]
        on_line = np.any([skeletonize(mask) for mask in masks], axis=0)
        line = centreline(labels, per_class=per_class)
        assert line.dtype == labels.dtype
        assert_array_equal(line, np.where(on_line, labels, 0))
        assert_array_equal(line, tubed_skeleton(labels, radius=0, per_class=per_class))

    @given(label_maps, st.integers(0, 3), st.booleans(), st.sampled_from([None, 2]))
    def test_with_a_tube_around_it_is_the_tubed_skeleton(
        self, labels: np.ndarray, radius: int, per_class: bool, ignore: int | None
    ) -> None:
        line = centreline(labels, per_class=per_class, ignore=ignore)
        around = tube(line, labels, radius=radius, per_class=per_class, ignore=ignore)
        expected = tubed_skeleton(labels, radius=radius, per_class=per_class, ignore=ignore)
        assert_array_equal(around, expected)

    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
    def test_tube_of_every_dtype(self, dtype: type) -> None:
        labels = np.random.default_rng(0).random((9, 8, 7)) < 0.7
        around = tube(centreline(labels), labels.astype(dtype), radius=2)
        assert around.dtype == dtype
        assert_array_equal(around, published_tube(labels))


class TestDistance:
    @given(masks(), st.data())
    def test_is_the_distance_to_the_faces(self, mask: np.ndarray, data: st.DataObject) -> None:
        spacing = data.draw(anisotropic(mask.ndim))
        distance = signed_distance(mask, spacing=spacing)
        assert distance.dtype == np.float32
        if mask.any() and not mask.all():
            assert_allclose(distance, box_distance(mask, spacing), rtol=0, atol=1e-4)
        else:
            assert not distance.any()

    @pytest.mark.parametrize("spacing", [None, (5.0, 0.5, 0.5)])
    def test_on_real_vessels(self, real_data: Path, spacing: tuple[float, ...] | None) -> None:
        for mask in real_vessels(real_data).values():
            exact = box_distance(mask[:48, :48, :48], spacing or (1.0, 1.0, 1.0))
            distance = signed_distance(mask[:48, :48, :48], spacing=spacing)
            assert_allclose(distance, exact, rtol=0, atol=1e-4)

    @given(masks(), st.data())
    def test_is_the_published_one_if_asked(self, mask: np.ndarray, data: st.DataObject) -> None:
        spacing = data.draw(anisotropic(mask.ndim))
        distance = signed_distance(mask, spacing=spacing, convention="kervadec")
        assert distance.dtype == np.float32
        assert_allclose(distance, published_distance(mask, spacing), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(3, 4), (4, 2, 3)], ids=str)
    def test_is_the_published_one_even_without_a_boundary(self, shape: tuple[int, ...]) -> None:
        full, spacing = np.ones(shape, dtype=bool), (2.0, 0.5, 3.0)[: len(shape)]
        distance = signed_distance(full, spacing=spacing, convention="kervadec")
        assert_allclose(distance, published_distance(full, spacing), rtol=1e-5, atol=1e-5)

    def test_the_published_one_has_the_wrong_sign_for_small_voxels(self) -> None:
        mask = np.array([[0, 0, 1, 1, 1, 0]], dtype=bool)
        published = signed_distance(mask, spacing=0.5, convention="kervadec")
        assert (published[mask] > 0).any()
        assert (signed_distance(mask, spacing=0.5)[mask] < 0).all()

    @given(masks())
    def test_inside_out_it_changes_its_sign(self, mask: np.ndarray) -> None:
        assert_array_equal(signed_distance(~mask), -signed_distance(mask))

    @given(masks(), st.sampled_from([0.25, 2.0]))
    def test_scales_with_the_spacing(self, mask: np.ndarray, unit: float) -> None:
        assert_array_equal(signed_distance(mask, spacing=unit), unit * signed_distance(mask))

    @given(masks(), st.integers(0, 2**32))
    def test_unknown_voxels_are_neither_side(self, mask: np.ndarray, seed: int) -> None:
        unknown = np.random.default_rng(seed).random(mask.shape) < 0.3
        inside, outside = mask & ~unknown, ~mask & ~unknown
        distance = signed_distance(mask, unknown=unknown)
        assert not distance[unknown].any()
        if inside.any() and outside.any():
            ones = (1.0,) * mask.ndim
            assert_allclose(distance[outside], box_distance(inside, ones)[outside], atol=1e-4)
            assert_allclose(distance[inside], -box_distance(outside, ones)[inside], atol=1e-4)
        else:
            assert not distance.any()


class TestBand:
    @given(label_maps, st.sampled_from([0.5, 1.0, 1.6, 3.0]), st.data())
    def test_is_where_some_class_begins_near_by(
        self, labels: np.ndarray, width: float, data: st.DataObject
    ) -> None:
        spacing = data.draw(anisotropic(labels.ndim))
        near = np.zeros(labels.shape, dtype=bool)
        for c in np.unique(labels):
            if (labels != c).any():
                near |= abs(box_distance(labels == c, spacing)) <= width + 1e-6
        assert_array_equal(boundary_band(labels, width=width, spacing=spacing), near)

    @given(label_maps, st.sampled_from([0.5, 1.0, 1.6, 3.0]))
    def test_the_ignored_make_no_boundary(self, labels: np.ndarray, width: float) -> None:
        known = labels != 2
        near = np.zeros(labels.shape, dtype=bool)
        for c in (0, 1, 3):
            other = known & (labels != c)
            if other.any() and not other.all():
                near |= (labels == c) & (box_distance(other, (1.0,) * labels.ndim) <= width + 1e-6)
        assert_array_equal(boundary_band(labels, width=width, ignore=2), near)

    def test_half_a_voxel_is_the_voxels_that_touch(self) -> None:
        for size in (0.1, 0.3, 0.7, 3.3):  # none of which a float can hold exactly
            band = boundary_band(np.array([[0, 0, 1, 1]]), width=size / 2, spacing=size)
            assert_array_equal(band, [[False, True, True, False]])


class TestDownsample:
    @given(st.integers(1, 64), st.data())
    def test_is_torchs_nearest_exact(self, size: int, data: st.DataObject) -> None:
        new = data.draw(st.integers(1, size))
        line = np.arange(size, dtype=np.float64)
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(line)[None, None], size=new, mode="nearest-exact"
        )
        assert_array_equal(downsample(line, (new,)), expected[0, 0].numpy())

    @pytest.mark.parametrize("shape", [(4,), (5, 5), (4, 0), (4, 4, 4)])
    def test_asked_for_what_cannot_be(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected 2 numbers, from 1 to \(4, 5\)|shape is"):
            downsample(np.zeros((4, 5)), shape)


def test_ids_as_large_as_there_may_be() -> None:
    square = np.pad(np.ones((5, 5), dtype=np.int32), 2)
    found = tubed_skeleton(LARGEST_ID * square, per_class=True)
    assert_array_equal(found, LARGEST_ID * tubed_skeleton(square, per_class=True))


FLAT = np.zeros((4, 5), dtype=np.uint8)
MASK = FLAT.astype(bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: skeleton(FLAT), TypeError, "mask has dtype uint8, expected bool: compare"),
        (lambda: skeleton(MASK[0]), ValueError, r"mask has shape \(5,\): expected an image of two"),
        (lambda: skeleton(MASK[:0]), ValueError, "none of them empty"),
        (lambda: tubed_skeleton(FLAT[None, None]), ValueError, r"labels has shape \(1, 1, 4, 5\)"),
        (lambda: tubed_skeleton(FLAT, radius=-1), ValueError, "radius must be 0 or more, got -1"),
        (lambda: tubed_skeleton(FLAT, radius=True), TypeError, "radius must be an integer of 0 or"),
        (lambda: tubed_skeleton(FLAT + 0.5), TypeError, "got 0.5: resample labels with mode='near"),
        (lambda: tubed_skeleton(FLAT + np.nan), TypeError, "or floats that hold integers, got nan"),
        (lambda: tubed_skeleton(FLAT.astype(str)), TypeError, "expected integers, bool or floats"),
        (lambda: tubed_skeleton(FLAT - np.int8(1)), ValueError, "holds -1: class ids .* ignore=-1"),
        (
            lambda: tubed_skeleton(FLAT + np.int32(70_000), per_class=True),
            ValueError,
            "labels holds 70000: class by class, ids up to 65535",
        ),
        (
            lambda: boundary_band(FLAT + np.int64(2**32 + 1), width=1),
            ValueError,
            "labels holds 4294967297: ids up to 2147483647 are handled. .* number them from 1 on",
        ),
        (lambda: tube(FLAT[:2], FLAT, radius=1), ValueError, r"shape \(2, 5\), but labels have \(4,"),
        (lambda: tube(FLAT + 1, FLAT, radius=1), ValueError, "holds 1 where labels hold 0: pass"),
        (lambda: tube(FLAT, FLAT, radius=-1), ValueError, "radius must be 0 or more, got -1"),
        (lambda: signed_distance(MASK, spacing=0), ValueError, "spacing .* above 0, got 0.0"),
        (lambda: signed_distance(MASK, spacing=(1, -2)), ValueError, "spacing .* above 0, got -2"),
        (lambda: signed_distance(MASK, spacing=np.inf), ValueError, "must be a finite number"),
        (lambda: signed_distance(MASK, spacing=(1, 1, 1)), ValueError, "spacing has 3 entries, .*2"),
        (lambda: signed_distance(MASK, convention="x"), ValueError, r"one of \('face', 'kervadec"),
        (lambda: signed_distance(FLAT), TypeError, "mask has dtype uint8"),
        (lambda: signed_distance(~MASK, unknown=FLAT), TypeError, "unknown has dtype uint8"),
        (
            lambda: signed_distance(~MASK, unknown=MASK[:2]),
            ValueError,
            r"unknown has shape \(2, 5\), but mask has \(4, 5\)",
        ),
        (lambda: boundary_band(FLAT, width=0), ValueError, "width must be a finite number above 0"),
        (lambda: boundary_band(FLAT, width=np.nan), ValueError, "width .* got nan"),
    ],
)  # fmt: skip
def test_held_wrong_it_says_so(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    with pytest.raises(error, match=message):
        call()
