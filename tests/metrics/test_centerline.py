"""Centreline Dice against its definition, and where it leaves overlap behind."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.morphology import skeletonize

from segloss.metrics import CenterlineDiceMetric
from segloss.metrics.base import Mask

pairs = st.lists(st.integers(1, 8), min_size=2, max_size=3).flatmap(
    lambda shape: st.tuples(*[arrays(np.bool_, tuple(shape))] * 2)
)


def cl_dice(pred: Mask, true: Mask) -> float:
    return float(
        torch.as_tensor(
            CenterlineDiceMetric()(
                y_pred=torch.from_numpy(pred)[None, None], y=torch.from_numpy(true)[None, None]
            )
        )
    )


def oracle(pred: Mask, true: Mask) -> float:
    """The definition, voxel by voxel, with scikit-image's skeletons."""
    if not pred.any() and not true.any():
        return math.nan
    shares = []
    for mask, other in ((pred, true), (true, pred)):
        line = np.argwhere(skeletonize(mask)).tolist() or np.argwhere(mask).tolist()
        hits = [other[tuple(voxel)] for voxel in line]
        shares.append(sum(hits) / len(hits) if hits else 0.0)
    precision, sensitivity = shares
    return 2 * precision * sensitivity / (precision + sensitivity) if any(shares) else 0.0


@given(pairs)
def test_agrees_with_the_definition(pair: tuple[Mask, Mask]) -> None:
    assert cl_dice(*pair) == pytest.approx(oracle(*pair), nan_ok=True)


@given(pairs)
def test_symmetric_and_between_zero_and_one(pair: tuple[Mask, Mask]) -> None:
    pred, true = pair
    score = cl_dice(pred, true)
    assert math.isnan(score) or 0 <= score <= 1
    assert score == pytest.approx(cl_dice(true, pred), nan_ok=True)


@pytest.mark.parametrize("shape", [(12, 40), (12, 12, 40)])
def test_a_perfect_centreline_scores_one_however_thick_the_vessel(shape: tuple[int, ...]) -> None:
    thin, thick = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    thin[(slice(5, 8),) * (len(shape) - 1)] = True
    thick[(slice(4, 9),) * (len(shape) - 1)] = True
    assert cl_dice(thin, thick) == 1


@pytest.mark.parametrize(("full", "expected"), [(0, math.nan), (1, 0.0)])
def test_empty_masks(full: int, expected: float) -> None:
    empty, other = np.zeros((6, 6, 6), dtype=bool), np.full((6, 6, 6), bool(full))
    for pair in ((empty, other), (other, empty)):
        assert cl_dice(*pair) == pytest.approx(expected, nan_ok=True)


def test_a_speck_that_thinning_wears_away_still_counts() -> None:
    speck = np.zeros((6, 6, 6), dtype=bool)
    speck[2:4, 2:4, 2:4] = True
    assert not skeletonize(speck).any()
    assert cl_dice(speck, speck) == 1
