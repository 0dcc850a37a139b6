"""Weights near boundaries: the array function and the transform."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from numpy.testing import assert_allclose, assert_array_equal

from segloss.transforms import BoundaryWeight
from segloss.transforms.functional import boundary_weight, signed_distance
from tests.reference.maps import box_distance, components, weight_near_two
from tests.transforms.strategies import anisotropic, label_maps
from tests.transforms.test_instances import real_labels

LABEL = np.sort(np.random.default_rng(0).integers(0, 3, (1, 6, 7, 8)), axis=2)
SPACING = (2.0, 0.5, 3.0)

strengths = st.sampled_from([0.1, 1, 10, 1e4])
sigmas = st.sampled_from([0.2, 1, 5])


def nearest_other(labels: np.ndarray, known: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """From each known voxel to the nearest known one of another class."""
    distance = np.full(labels.shape, np.inf)
    for c in np.unique(labels[known]):
        other = known & (labels != c)
        if other.any():
            here = known & (labels == c)
            distance[here] = box_distance(other, spacing)[here]
    return distance


def near_boundaries(
    labels: np.ndarray, known: np.ndarray, spacing: tuple[float, ...], strength: float, sigma: float
) -> np.ndarray:
    """The formula, with the distance of each class to the known voxels of the others."""
    distance = nearest_other(labels, known, spacing)
    weight: np.ndarray = known * (1 + strength * np.exp(-(distance**2) / (2 * sigma**2)))
    return weight


def real_crops(data: Path) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """The middle of real labels; the plain way would take minutes with all of them."""
    return [
        (label[tuple(slice(max(0, n // 2 - 20), n // 2 + 20) for n in label.shape)], spacing)
        for label, spacing in real_labels(data).values()
    ]


class TestDistance:
    @given(label_maps, st.data(), strengths, sigmas)
    def test_is_the_formula(
        self, labels: np.ndarray, data: st.DataObject, strength: float, sigma: float
    ) -> None:
        spacing = data.draw(anisotropic(labels.ndim))
        weight = boundary_weight(labels, strength=strength, sigma=sigma, spacing=spacing)
        assert weight.dtype == np.float32
        known = np.ones(labels.shape, dtype=bool)
        expected = near_boundaries(labels, known, spacing, strength, sigma)
        assert_allclose(weight, expected, rtol=1e-5)

    @given(label_maps, st.data(), sigmas)
    def test_the_ignored_make_no_boundary(
        self, labels: np.ndarray, data: st.DataObject, sigma: float
    ) -> None:
        spacing = data.draw(anisotropic(labels.ndim))
        weight = boundary_weight(labels, sigma=sigma, spacing=spacing, ignore=2)
        expected = near_boundaries(labels, labels != 2, spacing, 10, sigma)
        assert_allclose(weight, expected, rtol=1e-5)

    def test_on_real_labels(self, real_data: Path) -> None:
        for labels, spacing in real_crops(real_data):
            weight = boundary_weight(labels, spacing=spacing, sigma=2)
            known = np.ones(labels.shape, dtype=bool)
            expected = near_boundaries(labels, known, spacing, 10, 2)
            assert_allclose(weight, expected, rtol=1e-5)


class TestUnet:
    @given(label_maps, st.data(), strengths, sigmas)
    def test_is_the_formula(
        self, labels: np.ndarray, data: st.DataObject, strength: float, sigma: float
    ) -> None:
        spacing = data.draw(anisotropic(labels.ndim))
        weight = boundary_weight(
            labels, kind="unet", strength=strength, sigma=sigma, spacing=spacing
        )
        assert weight.dtype == np.float32
        instances = components(labels, labels.ndim)
        expected = weight_near_two(instances, spacing, strength, sigma)
        assert_allclose(weight, expected, rtol=1e-5)

    @given(st.integers(0, 2**32), st.data(), sigmas)
    def test_with_instances_far_apart(self, seed: int, data: st.DataObject, sigma: float) -> None:
        """Few enough that what is left out for being far away is most of the image."""
        labels = (np.random.default_rng(seed).random((40, 30)) < 0.01).astype(np.uint8)
        spacing = data.draw(anisotropic(2))
        weight = boundary_weight(labels, kind="unet", sigma=sigma, spacing=spacing)
        expected = weight_near_two(components(labels, 2), spacing, 10, sigma)
        assert_allclose(weight, expected, rtol=1e-5)

    @given(label_maps)
    def test_the_ignored_belong_to_no_instance(self, labels: np.ndarray) -> None:
        weight = boundary_weight(labels, kind="unet", ignore=2)
        without = boundary_weight(np.where(labels == 2, 0, labels), kind="unet")
        assert_array_equal(weight, np.where(labels == 2, 0, without))

    def test_one_instance_has_no_gap(self) -> None:
        for label in np.zeros((4, 5)), np.ones((4, 5)), np.eye(5):
            assert (boundary_weight(label, kind="unet") == 1).all()

    def test_on_real_labels(self, real_data: Path) -> None:
        for labels, spacing in real_crops(real_data):
            weight = boundary_weight(labels, kind="unet", spacing=spacing)
            expected = weight_near_two(components(labels, 3), spacing, 10, 5)
            assert_allclose(weight, expected, rtol=1e-5)


class TestLinear:
    @given(label_maps, st.data(), strengths, st.booleans())
    def test_is_the_formula(
        self, labels: np.ndarray, data: st.DataObject, strength: float, ignoring: bool
    ) -> None:
        spacing, ignore = data.draw(anisotropic(labels.ndim)), 2 if ignoring else None
        weight = boundary_weight(
            labels, kind="linear", strength=strength, spacing=spacing, ignore=ignore
        )
        known = labels != ignore if ignoring else np.ones(labels.shape, dtype=bool)
        away = nearest_other(labels, known, spacing)
        measured = np.isfinite(away)
        farthest = away[measured].max() if measured.any() else 1
        expected = 1 + strength * np.where(measured, 1 - away / farthest, 0)
        assert weight.dtype == np.float32
        # 1 - d / D has the digits of 1.
        assert_allclose(weight, known * expected, rtol=1e-5, atol=1e-6 * strength)

    def test_is_the_penalty_of_its_paper(self) -> None:
        """1 + Φ, from 1 at the farthest voxel to nearly 2 at the boundary of a disc."""
        y, x = np.mgrid[:33, :33] - 16
        labels = (x**2 + y**2 <= 36).astype(np.uint8)
        weight = boundary_weight(labels, kind="linear", strength=1)
        assert weight.min() == 1
        assert weight[0, 0] == 1
        assert 1.9 < weight.max() < 2
        assert_array_equal(weight == weight.max(), abs(signed_distance(labels == 1)) == 0.5)


@pytest.mark.parametrize("kind", ["distance", "linear", "unet"])
def test_transform_is_that_of_the_label(kind: str) -> None:
    expected = boundary_weight(LABEL[0], kind=kind, strength=3, sigma=2, spacing=SPACING)
    assert_array_equal(BoundaryWeight(kind, 3, 2, SPACING)(LABEL), expected[None])
    image = MetaTensor(LABEL, affine=torch.diag(torch.tensor([*SPACING, 1.0])))
    assert_array_equal(BoundaryWeight(kind, 3, 2)(image), expected[None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "u-net"}, r"kind must be one of \('distance', 'linear', 'unet'\), got 'u-net'"),
        ({"strength": 0}, "strength must be a finite number above 0, got 0"),
        ({"sigma": -1}, "sigma must be a finite number above 0, got -1"),
        ({"spacing": 0}, "spacing must be a finite number above 0, got 0"),
    ],
)
def test_held_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boundary_weight(LABEL[0], **options)
    with pytest.raises(ValueError, match=message):
        BoundaryWeight(**options)
