"""Distances to a mask against SciPy's, and against the closed boxes of the load-time maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import distance_transform_edt

from segloss.engine import distance
from segloss.engine.distance import squared_boundary_distance, squared_distance
from segloss.transforms.functional import signed_distance
from tests.reference.maps import box_distance

SPACES = [(7, 9), (1, 6), (6, 1), (5, 6, 7), (1, 4, 5), (4, 1, 5), (4, 5, 1)]
each_space = pytest.mark.parametrize("space", SPACES, ids=str)


def masks(space: Sequence[int], seed: int = 0, share: float = 0.15) -> np.ndarray:
    """A few volumes with something in them, and something beside it."""
    several: np.ndarray = np.random.default_rng(seed).random((2, 3, *space)) < share
    flat = several.reshape(6, -1)
    flat[:, 0], flat[:, -1] = True, False
    return several


def scipys(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """To the nearest centre of a voxel of the mask, squared, volume by volume."""
    flat = mask.reshape(-1, *mask.shape[-len(spacing) :])
    found = [distance_transform_edt(~one, sampling=spacing) ** 2 for one in flat]
    return np.stack(found).reshape(mask.shape)


@each_space
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_in_voxels_it_is_exactly_scipys(space: tuple[int, ...], share: float) -> None:
    mask = masks(space, share=share)
    found = squared_distance(torch.from_numpy(mask), (1.0,) * len(space))
    assert found.dtype == torch.float32
    assert_array_equal(found.numpy(), scipys(mask, (1.0,) * len(space)).round())


@given(st.data())
def test_with_any_spacing(data: st.DataObject) -> None:
    space = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    spacing = tuple(data.draw(st.sampled_from([0.3, 1.0, 2.5, 7.0])) for _ in space)
    mask = masks(space, data.draw(st.integers(0, 2**31)), data.draw(st.floats(0, 1)))
    if mask[0, 0].size < 2:
        return
    found = squared_distance(torch.from_numpy(mask), spacing)
    assert_allclose(found.numpy(), scipys(mask, spacing), rtol=1e-6)


@pytest.mark.parametrize("space", [(40, 300), (33, 40, 37), (130, 3, 400)], ids=str)
def test_across_blocks(space: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random(space) < 0.001
    spacing = (1.5, 0.5, 2.0)[: len(space)]
    expected = scipys(mask, spacing)
    for size in (1, 1000, 1 << 20):
        monkeypatch.setattr(distance, "_CPU", size if size > 1 or len(space) == 2 else 100)
        found = squared_distance(torch.from_numpy(mask), spacing)
        assert_allclose(found.numpy(), expected, rtol=1e-6)


@each_space
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.5, 3.0)], ids=str)
def test_to_the_faces_it_is_the_map_of_load_time(
    space: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    spacing = spacing[: len(space)]
    mask = masks(space)
    found = squared_boundary_distance(torch.from_numpy(mask), spacing).sqrt().numpy()
    for one, away in zip(mask.reshape(-1, *space), found.reshape(-1, *space), strict=True):
        assert_allclose(away, abs(box_distance(one, spacing)), rtol=1e-6)
        assert_allclose(away, abs(signed_distance(one, spacing=spacing)), rtol=1e-6)


def test_to_the_centres_it_is_one_more_voxel_than_to_the_faces() -> None:
    mask = torch.tensor([[[0, 0, 0, 1, 1, 0]]]).bool()
    spacing = (1.0, 0.5)
    assert squared_boundary_distance(mask, spacing).sqrt().tolist() == [
        [[1.25, 0.75, 0.25, 0.25, 0.25, 0.25]]
    ]
    assert squared_boundary_distance(mask, spacing, "centre").sqrt().tolist() == [
        [[1.5, 1.0, 0.5, 0.5, 0.5, 0.5]]
    ]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("convention", ["face", "centre"])
def test_without_a_boundary(full: bool, convention: Any) -> None:
    mask = torch.full((2, 4, 5), full)
    mask[1, 2, 2] = not full
    away = squared_boundary_distance(mask, (1.0, 1.0), convention)
    assert not away[0].any()
    assert away[1].all()
    nothing = squared_distance(torch.zeros(3, 4, dtype=torch.bool), (1.0, 1.0), convention)
    assert nothing.isinf().all()


def test_leaves_the_mask_alone_whatever_its_strides() -> None:
    mask = torch.from_numpy(masks((5, 6, 7)))
    before, turned = mask.clone(), mask.transpose(-1, -3)
    spacing = (1.0, 2.0, 3.0)
    found = squared_distance(turned, spacing[::-1]).transpose(-1, -3)
    torch.testing.assert_close(found, squared_distance(mask, spacing))
    assert torch.equal(mask, before)
