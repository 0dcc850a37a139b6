"""Distances, against their definition written out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segloss.transforms.kernels import distance
from segloss.transforms.kernels.distance import squared_distance
from tests.transforms.kernels.plain import plain
from tests.transforms.strategies import anisotropic, label_maps


def by_definition(labels: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Every voxel against every voxel of another label."""
    where = np.argwhere(np.ones(labels.shape))
    gap = np.maximum(abs(where[:, None] - where[None]) - 0.5, 0) * spacing
    squares = (gap**2).sum(-1)
    squares[labels.ravel()[:, None] == labels.ravel()[None]] = np.inf
    return np.asarray(squares.min(axis=1).reshape(labels.shape))


@given(label_maps, st.data())
def test_definition_with_several_labels(labels: np.ndarray, data: st.DataObject) -> None:
    spacing = data.draw(anisotropic(labels.ndim))
    squares = squared_distance(labels, spacing)
    assert squares.dtype == np.float32
    np.testing.assert_allclose(squares, by_definition(labels, spacing), rtol=1e-6)


def test_compiled_as_written() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (4, 5, 18)) * (np.arange(18) < 12)
    spacing = (2.0, 0.5, 1.0)
    written = plain(distance).squared_distance(labels, spacing)
    np.testing.assert_array_equal(squared_distance(labels, spacing), written)


def test_one_label_has_no_boundary() -> None:
    assert np.isposinf(squared_distance(np.ones((3, 4, 5), dtype=np.int32), (1.0, 1.0, 1.0))).all()


def test_far_away_is_as_exact_as_float32_can_say() -> None:
    labels = np.zeros((2, 2000), dtype=np.uint8)
    labels[0, 0] = 1
    squares = squared_distance(labels, (1000.0, 0.01))
    x = np.arange(1, 2000)
    np.testing.assert_allclose(squares[0, 1:], (0.01 * (x - 0.5)) ** 2, rtol=1e-6)
    np.testing.assert_allclose(squares[1, 1:], 500.0**2 + (0.01 * (x - 0.5)) ** 2, rtol=1e-6)
