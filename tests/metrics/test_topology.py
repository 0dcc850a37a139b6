"""Betti numbers against figures that are known, and against homology computed from matrices."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segloss.metrics import BettiErrorMetric, betti_number
from segloss.metrics.base import Mask
from tests.metrics import figures

masks = st.lists(st.integers(1, 4), min_size=2, max_size=3).flatmap(
    lambda shape: arrays(np.bool_, tuple(shape))
)


def rank(matrix: np.ndarray) -> int:
    """Of a matrix of 0 and 1, over the field of two elements."""
    rows = [int("".join(map(str, row)), 2) if row.size else 0 for row in matrix.astype(int)]
    pivots: list[int] = []
    for row in rows:
        for pivot in pivots:
            row = min(row, row ^ pivot)
        if row:
            pivots.append(row)
    return len(pivots)


def homology(mask: Mask) -> tuple[int, int]:
    """Betti numbers 0 and 1 of the union of closed voxels, from its boundary matrices.

    A cell is a point with doubled coordinates: odd along the axes in which it extends.
    """
    cells = {
        tuple(2 * v + 1 + o for v, o in zip(voxel, offset, strict=True))
        for voxel in np.argwhere(mask).tolist()
        for offset in product((-1, 0, 1), repeat=mask.ndim)
    }
    by_dimension = [sorted(c for c in cells if sum(x % 2 for x in c) == d) for d in range(3)]

    def boundary(dimension: int) -> np.ndarray:
        faces = {cell: i for i, cell in enumerate(by_dimension[dimension - 1])}
        matrix = np.zeros((len(by_dimension[dimension]), len(faces)), dtype=bool)
        for i, cell in enumerate(by_dimension[dimension]):
            for axis in range(mask.ndim):
                if cell[axis] % 2:
                    for side in (-1, 1):
                        matrix[i, faces[(*cell[:axis], cell[axis] + side, *cell[axis + 1 :])]] = 1
        return matrix

    first, second = rank(boundary(1)), rank(boundary(2))
    points, edges = len(by_dimension[0]), len(by_dimension[1])
    return points - first, edges - first - second


@pytest.mark.parametrize("figure", figures.BETTI, ids=lambda f: f.__name__)
def test_known_figures(figure: Callable[[], Mask]) -> None:
    assert (betti_number(figure(), 0), betti_number(figure(), 1)) == figures.BETTI[figure]


@given(masks)
def test_agrees_with_homology(mask: Mask) -> None:
    assert (betti_number(mask, 0), betti_number(mask, 1)) == homology(mask)


@pytest.mark.parametrize("shape", [(1, 1, 9), (1, 9, 1), (9, 1, 1), (1, 1), (1, 9)])
def test_a_single_line_of_voxels_is_one_piece(shape: tuple[int, ...]) -> None:
    line = np.ones(shape, dtype=bool)
    assert (betti_number(line, 0), betti_number(line, 1)) == (1, 0)


def test_the_border_is_no_wall() -> None:
    bowl = np.ones((3, 5, 5), dtype=bool)
    bowl[:2, 1:4, 1:4] = False  # open at the top: no cavity
    assert (betti_number(bowl, 0), betti_number(bowl, 1)) == (1, 0)


@pytest.mark.parametrize("dimension", [0, 1])
def test_error_is_the_difference(dimension: int) -> None:
    true, pred = figures.frame(), np.zeros((7, 7, 7), dtype=bool)
    error = BettiErrorMetric(dimension=dimension)(
        y_pred=torch.from_numpy(pred)[None, None], y=torch.from_numpy(true)[None, None]
    )
    assert torch.equal(torch.as_tensor(error), torch.tensor([[(1.0, 5.0)[dimension]]]))


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match=r"dimension must be 0 \(pieces\) or 1 \(loops\), got 2"):
        BettiErrorMetric(dimension=2)
    with pytest.raises(ValueError, match="dimension must be"):
        betti_number(figures.disk(), 2)
    with pytest.raises(ValueError, match=r"two or three axes, got shape \(4,\)"):
        betti_number(np.ones(4, dtype=bool), 0)
