"""Softened labels: neighbour by neighbour, the authors' kernel, and what is unknown."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import correlate

from segloss import CrossEntropyLoss, DiceLoss, DiceSemimetricLoss, Multiclass, Multilabel
from segloss.transforms import SoftenLabels, SoftenLabelsd
from segloss.transforms.functional import soften
from tests.transforms.strategies import masks

sigmas = st.sampled_from([0.01, 0.3, 1, 5])


def by_neighbours(mask: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """A voxel and each of its neighbours, one after the other."""
    mask, soft = mask.astype(float), np.zeros(mask.shape)
    for voxel in np.ndindex(mask.shape):
        total = weight = 0.0
        for step in product((-1, 0, 1), repeat=mask.ndim):
            other = tuple(np.clip(np.add(voxel, step), 0, np.subtract(mask.shape, 1)))
            if any(step) and known[other]:
                share = math.exp(-np.dot(step, step) / (2 * sigma**2))
                total, weight = total + share * mask[other], weight + share
        around = total / weight if weight else mask[voxel]
        soft[voxel] = known[voxel] * (mask[voxel] + around) / 2
    return soft


@given(masks(largest=5), sigmas, st.integers(0, 2**32))
def test_every_neighbour_has_its_say(mask: np.ndarray, sigma: float, seed: int) -> None:
    unknown = np.random.default_rng(seed).random(mask.shape) < 0.3
    everywhere = np.ones_like(mask)
    assert_allclose(soften(mask, sigma=sigma), by_neighbours(mask, everywhere, sigma), atol=1e-7)
    found = soften(mask, sigma=sigma, unknown=unknown)
    assert_allclose(found, by_neighbours(mask, ~unknown, sigma), atol=1e-7)
    assert found.dtype == np.float32


@pytest.mark.parametrize("ndim", [2, 3])
def test_is_the_kernel_of_the_authors(ndim: int) -> None:
    """Their normalised Gaussian, with the sum of the others put in its centre, made to add up to 1."""
    grid = np.stack(np.meshgrid(*[np.arange(-1, 2)] * ndim, indexing="ij"))
    gauss = np.exp(-(grid**2).sum(0) / 2)
    gauss /= gauss.sum()
    centre = (1,) * ndim
    gauss[centre] = 1 - gauss[centre]
    mask = np.random.default_rng(0).random((6, 7, 5)[:ndim]) < 0.5
    expected = correlate(mask.astype(float), gauss / gauss.sum(), mode="nearest")
    assert_allclose(soften(mask), expected, atol=1e-7)


@given(masks(), sigmas)
def test_the_voxel_itself_has_the_last_word(mask: np.ndarray, sigma: float) -> None:
    soft = soften(mask, sigma=sigma)
    assert (soft[mask] >= 0.5).all()
    assert (soft[~mask] <= 0.5).all()
    assert ((soft >= 0) & (soft <= 1)).all()


@pytest.mark.parametrize("ignore", [None, 255])
def test_classes_add_up(ignore: int | None) -> None:
    label = np.random.default_rng(0).integers(0, 4, (1, 6, 7, 5))
    if ignore is not None:
        label[:, 2:4] = ignore
    soft = SoftenLabels(num_classes=4, ignore=ignore)(label)
    assert soft.shape == (4, 6, 7, 5)
    known = label[0] != 255
    assert_allclose(soft.sum(0)[known], 1, atol=1e-6)
    assert (soft[:, ~known] == 255).all()
    assert_array_equal(soft.argmax(0)[known], label[0][known])


def test_away_from_boundaries_nothing_changes() -> None:
    label = np.zeros((1, 12, 12), dtype=np.uint8)
    label[:, 3:9, 3:9] = 1
    soft = SoftenLabels(num_classes=2)(label)
    assert (soft[1, 4:8, 4:8] == 1).all()
    assert (soft[1, :2] == 0).all() and (soft[0, :2] == 1).all()
    assert 0 < soft[1, 2, 5] < 0.5 < soft[1, 3, 5] < 1


@pytest.mark.parametrize("loss_class", [CrossEntropyLoss, DiceSemimetricLoss])
def test_a_loss_is_least_at_the_softened_label(loss_class: type) -> None:
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    label[:, 3:6, 2:7] = 1
    label[:, 7] = 255
    sample = SoftenLabelsd("label", num_classes=2, ignore=255)({"label": label})
    target = sample["soft_label"][None]
    logits = target.clamp(1e-6, 1).log().requires_grad_()
    loss = loss_class(Multiclass(ignore=255))
    best = loss(logits, target)
    (gradient,) = torch.autograd.grad(best, logits)
    assert not gradient[..., 7, :].any()
    if loss_class is CrossEntropyLoss:  # the other has an edge there
        assert gradient.abs().max() < 1e-4
    assert loss(3 * logits, target) > best
    assert loss(torch.zeros_like(logits), target) > best


def test_unknown_voxels_count_for_no_loss() -> None:
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    label[:, 3:6, 2:7] = 1
    label[:, 6:] = 255
    target = SoftenLabels(num_classes=2, ignore=255)(label)[None]
    logits = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for loss_class in (CrossEntropyLoss, DiceLoss):
        loss = loss_class(Multiclass(ignore=255))
        cropped = loss(logits[:, :, :6], target[:, :, :6])
        torch.testing.assert_close(loss(logits, target), cropped)
    regions = torch.cat([label, label], 0)
    soft = SoftenLabels(ignore=255)(regions)[None]
    loss = CrossEntropyLoss(Multilabel(ignore=255))
    torch.testing.assert_close(loss(logits, soft), loss(logits[:, :, :6], soft[:, :, :6]))


@pytest.mark.parametrize("sigma", [0, -1, float("nan")])
def test_a_sigma_out_of_range(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be a finite number above 0"):
        SoftenLabels(num_classes=2, sigma=sigma)
    with pytest.raises(ValueError, match="sigma must be a finite number above 0"):
        soften(np.ones((2, 2), dtype=bool), sigma=sigma)


def test_classes_that_are_not_counted() -> None:
    label = np.array([[[0, 3]]])
    with pytest.raises(ValueError, match="num_classes is needed"):
        SoftenLabels()(label)
    with pytest.raises(ValueError, match="holds class 3, but num_classes is 3"):
        SoftenLabels(num_classes=3)(label)
    with pytest.raises(ValueError, match="num_classes must be 2 or more, got 1"):
        SoftenLabels(num_classes=1)


def test_masks_that_are_none() -> None:
    with pytest.raises(TypeError, match="mask has dtype int64, expected bool"):
        soften(np.ones((2, 2), dtype=np.int64))
    with pytest.raises(ValueError, match=r"unknown has shape \(2, 3\), but mask has \(2, 2\)"):
        soften(np.ones((2, 2), dtype=bool), unknown=np.ones((2, 3), dtype=bool))
