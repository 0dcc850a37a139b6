"""Thinning agrees with scikit-image in every voxel."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.ndimage import gaussian_filter
from skimage.morphology import skeletonize

from segloss.transforms.functional import skeleton
from segloss.transforms.kernels import thinning
from tests.transforms.kernels.plain import plain
from tests.transforms.strategies import masks, real_vessels


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Smooth noise, cut at its middle: sheets, tubes, holes, at every border of the volume."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(gaussian_filter(noise, 1.5) > 0)


@settings(max_examples=200)
@given(masks(ndim=3))
def test_random_volumes(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(skeleton(mask), skeletonize(mask))


@pytest.mark.parametrize("seed", range(4))
def test_smooth_shapes_that_touch_the_border(seed: int) -> None:
    mask = blob((28, 25, 31), seed)
    np.testing.assert_array_equal(skeleton(mask), skeletonize(mask))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 9, 7), (9, 1, 7), (9, 7, 1), (2, 2, 2), (1, 1, 9), (20, 21, 22)]
)
def test_volumes_full_and_empty(shape: tuple[int, ...]) -> None:
    full = np.ones(shape, dtype=bool)
    np.testing.assert_array_equal(skeleton(full), skeletonize(full))
    assert not skeleton(~full).any()


def test_a_plane_within_a_volume_is_not_a_volume_of_one_plane() -> None:
    """Scikit-image peels the borders of the latter from the sides only."""
    plane = np.random.default_rng(0).random((1, 12, 9)) < 0.8
    within = np.pad(plane, ((2, 2), (0, 0), (0, 0)))
    for mask in plane, within:
        np.testing.assert_array_equal(skeleton(mask), skeletonize(mask))


def test_real_vessels(real_data: Path) -> None:
    for mask in real_vessels(real_data).values():
        np.testing.assert_array_equal(skeleton(mask), skeletonize(mask))


def test_the_order_of_memory_does_not_matter() -> None:
    mask = blob((20, 22, 18), seed=5)
    for other in np.asfortranarray(mask), np.repeat(mask, 2, axis=2)[..., ::2]:
        np.testing.assert_array_equal(skeleton(other), skeleton(mask))
    np.testing.assert_array_equal(skeleton(mask.T.copy()), skeletonize(mask.T.copy()))


@pytest.mark.parametrize("flat", [False, True])
def test_compiled_as_written(flat: bool) -> None:
    written = plain(thinning)
    volume = np.pad(blob((6, 7, 8), seed=1), 1)
    results = []
    # Between arrays of 8 bits, numba widens where NumPy does not; the plain code gets wide ones.
    for module, dtype in (thinning, np.uint8), (written, np.int64):
        voxels = volume.ravel().astype(dtype)
        module.thin(voxels, 10, 90, flat, np.flatnonzero(voxels).astype(np.int32))
        results.append(voxels)
    np.testing.assert_array_equal(results[0], results[1])


def test_a_neighbourhood_is_one_piece_or_not() -> None:
    def bits(*positions: tuple[int, int, int]) -> int:
        return sum(1 << 9 * z + 3 * y + x for z, y, x in positions)

    assert thinning.connected(0)
    assert thinning.connected(bits((0, 0, 0)))
    assert thinning.connected(bits((0, 0, 0), (1, 0, 1), (2, 1, 2)))
    assert not thinning.connected(bits((1, 0, 2), (1, 1, 0)))  # neighbours in memory, not in space
    assert not thinning.connected(bits((0, 1, 1), (2, 1, 1)))  # only through the centre
