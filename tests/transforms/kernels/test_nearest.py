"""Nearest labels, against every voxel and every label."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segloss.transforms.kernels import nearest
from segloss.transforms.kernels.nearest import nearest_two, spread_labels
from tests.transforms.kernels.plain import plain
from tests.transforms.strategies import anisotropic, label_maps

LABELS = np.random.default_rng(0).integers(1, 6, (4, 5, 18), dtype=np.int32)
LABELS *= np.random.default_rng(1).random(LABELS.shape) < 0.1


def to_each_label(
    labels: np.ndarray, spacing: tuple[float, ...], half: float
) -> dict[int, np.ndarray]:
    """Squared distances: every voxel against every voxel, which begins `half` from its centre."""
    where = np.argwhere(np.ones(labels.shape))
    gap = np.maximum(abs(where[:, None] - where[None]) - half, 0) * spacing
    squares = (gap**2).sum(-1)
    return {
        int(c): squares[:, labels.ravel() == c].min(axis=1).reshape(labels.shape)
        for c in np.unique(labels[labels > 0])
    }


@given(label_maps, st.data())
def test_spread_by_definition(labels: np.ndarray, data: st.DataObject) -> None:
    spacing = data.draw(anisotropic(labels.ndim))
    spread = labels.astype(np.int32)
    spread_labels(spread, spacing)
    each = to_each_label(labels, spacing, half=0)
    if not each:
        assert not spread.any()
        return
    least = np.min(list(each.values()), axis=0)
    for c, squares in each.items():
        np.testing.assert_allclose(squares[spread == c], least[spread == c], rtol=1e-6)
    assert np.isin(spread, list(each)).all()


@given(label_maps, st.data(), st.sampled_from([0.0, 0.6, 2.0, 100.0]))
def test_two_by_definition(labels: np.ndarray, data: st.DataObject, reach: float) -> None:
    spacing = data.draw(anisotropic(labels.ndim))
    found = nearest_two(labels.astype(np.int32), spacing, reach)
    each = [np.full(labels.shape, np.inf)] * 2
    expected = np.sort([*to_each_label(labels, spacing, half=0.5).values(), *each], axis=0)[:2]
    for squares, exact in zip(found, expected, strict=True):
        assert squares.dtype == np.float32
        within = exact <= reach**2 * (1 - 1e-6)
        np.testing.assert_allclose(squares[within], exact[within], rtol=1e-6)
        assert np.isposinf(squares[exact > reach**2 * (1 + 1e-6)]).all()


def test_compiled_as_written() -> None:
    spacing = (2.0, 0.5, 1.0)
    written = plain(nearest)
    one, other = LABELS.copy(), LABELS.copy()
    spread_labels(one, spacing)
    written.spread_labels(other, spacing)
    np.testing.assert_array_equal(one, other)
    two = nearest_two(LABELS.copy(), spacing, 4.0)
    np.testing.assert_array_equal(two, written.nearest_two(LABELS.copy(), spacing, 4.0))
