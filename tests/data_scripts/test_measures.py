"""Counts and lengths against figures drawn by hand and against the textbook's algorithms."""

import time
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import generate_binary_structure, label
from skimage.draw import circle_perimeter

from segloss.data_scripts.measures import centreline_length, component_count, thinnest_radius

Mask = npt.NDArray[np.bool_]

masks = hnp.arrays(bool, st.lists(st.integers(1, 5), min_size=2, max_size=3).map(tuple))
spacings = st.lists(st.floats(0.1, 5), min_size=3, max_size=3)


def shortest_links(mask: Mask, spacing: list[float]) -> float:
    """Kruskal's algorithm over all pairs of voxels, as a textbook has it."""
    voxels = np.argwhere(mask)
    parent = list(range(len(voxels)))

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    links = [
        (float(np.linalg.norm((voxels[a] - voxels[b]) * spacing)), a, b)
        for a, b in combinations(range(len(voxels)), 2)
        if abs(voxels[a] - voxels[b]).max() == 1
    ]
    total = 0.0
    for length, a, b in sorted(links):
        if root(a) != root(b):
            parent[root(a)] = root(b)
            total += length
    return total


@given(masks, spacings)
def test_length_is_that_of_kruskals_algorithm(mask: Mask, spacing: list[float]) -> None:
    sizes = spacing[: mask.ndim]
    assert centreline_length(mask, sizes) == pytest.approx(shortest_links(mask, sizes))


@given(masks)
def test_pieces_are_those_of_scipy(mask: Mask) -> None:
    assert component_count(mask) == label(mask, generate_binary_structure(mask.ndim, mask.ndim))[1]


@given(masks, spacings, st.permutations(range(3)))
def test_the_order_of_the_axes_does_not_matter(
    mask: Mask, spacing: list[float], order: list[int]
) -> None:
    axes = [axis for axis in order if axis < mask.ndim]
    turned = centreline_length(mask.transpose(axes), [spacing[axis] for axis in axes])
    assert turned == pytest.approx(centreline_length(mask, spacing[: mask.ndim]))


def test_a_straight_line() -> None:
    line = np.zeros((3, 10, 3), dtype=bool)
    line[1, :, 1] = True
    assert centreline_length(line, (5, 0.5, 5)) == pytest.approx(9 * 0.5)


def test_diagonals_count_with_their_true_length() -> None:
    line = np.zeros((4, 4, 4), dtype=bool)
    line[range(4), range(4), range(4)] = True
    assert centreline_length(line, (1, 2, 2)) == pytest.approx(3 * 3)


def test_a_corner_is_not_cut() -> None:
    corner = np.array([[1, 1, 1], [0, 0, 1], [0, 0, 1]], dtype=bool)
    assert centreline_length(corner) == pytest.approx(4)


def test_a_fork_is_not_counted_twice() -> None:
    fork = np.zeros((7, 9), dtype=bool)
    fork[3, :5] = True
    fork[[2, 1, 0], [5, 6, 7]] = fork[[4, 5, 6], [5, 6, 7]] = True
    assert centreline_length(fork) == pytest.approx(4 + 6 * np.sqrt(2))


def test_a_loop_lacks_one_step() -> None:
    square = np.ones((5, 7), dtype=bool)
    square[1:-1, 1:-1] = False
    assert centreline_length(square, 2.0) == pytest.approx(2 * (square.sum() - 1))


@pytest.mark.parametrize("radius", [20, 80])
def test_a_circle(radius: int) -> None:
    circle = np.zeros((200, 200), dtype=bool)
    circle[circle_perimeter(100, 100, radius)] = True
    assert 1 < centreline_length(circle) / (2 * np.pi * radius) < 1.08


def test_pieces_add_up() -> None:
    lines = np.zeros((9, 9), dtype=bool)
    lines[1, :4] = lines[5, 2:] = lines[8, 0] = True
    assert component_count(lines) == 3
    assert centreline_length(lines) == pytest.approx(3 + 6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1, 1, 9), (1, 9, 1), (9, 1, 1)])
def test_a_volume_that_is_a_single_line(shape: tuple[int, ...]) -> None:
    mask = np.ones(shape, dtype=bool)
    assert component_count(mask) == 1
    assert centreline_length(mask) == mask.size - 1
    broken = np.resize([True, False], shape)
    assert component_count(broken) == (mask.size + 1) // 2


@pytest.mark.parametrize("shape", [(4, 4), (3, 3, 3)])
def test_nothing_has_no_pieces_and_no_length(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, dtype=bool)
    assert component_count(nothing) == 0
    assert centreline_length(nothing) == 0
    assert thinnest_radius(nothing[nothing].astype(float)) is None


def test_the_thinnest_radius_passes_over_the_tips() -> None:
    radii = np.full(100, 3.0)
    radii[:4] = 0.5
    assert thinnest_radius(radii) == pytest.approx(3)
    radii[:30] = 1.0
    assert thinnest_radius(radii) == pytest.approx(1)


def test_a_hundred_thousand_voxels_are_measured_quickly() -> None:
    scattered = np.random.default_rng(0).random((256, 256, 256)) < 0.006
    start = time.process_time()
    assert centreline_length(scattered) > 1e4
    assert time.process_time() - start < 2  # about a tenth of that on an idle core


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="mask has dtype int64"):
        component_count(np.ones((2, 2), dtype=np.int64))
    with pytest.raises(TypeError, match="centreline has dtype uint8"):
        centreline_length(np.ones((2, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match="spacing has 3 entries"):
        centreline_length(np.ones((2, 2), dtype=bool), (1, 1, 1))
