"""The functions φ of a voxel's cross entropy m, and their closed-form slopes."""

import math

import pytest
import torch
from torch.testing import assert_close

from segloss.engine.voxel import CrossEntropy, Focal, Phi


@pytest.mark.parametrize("phi", [CrossEntropy(), Focal(0.5), Focal(1.0), Focal(2.0), Focal(3.5)])
def test_the_slope_is_the_derivative(phi: Phi) -> None:
    m = torch.logspace(-6, 2, 50, dtype=torch.float64)
    step = 1e-4 * m
    difference = (phi.value(m + step) - phi.value(m - step)) / (2 * step)
    assert_close(phi.slope(m), difference, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_by_hand(gamma: float) -> None:
    p = [0.1, 0.5, 0.9]
    m = torch.tensor([-math.log(x) for x in p], dtype=torch.float64)
    expected = [(1 - x) ** gamma * -math.log(x) for x in p]
    assert_close(Focal(gamma).value(m), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("phi", [CrossEntropy(), Focal(0.0), Focal(0.5), Focal(2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_from_certainty_to_the_opposite(phi: Phi, dtype: torch.dtype) -> None:
    m = torch.tensor([0.0, 1e-38, 1e-20, 1e-7, 1e4, 6e4], dtype=dtype)
    assert phi.value(m).isfinite().all()
    assert phi.slope(m).isfinite().all()
    assert phi.value(m)[0] == 0


@pytest.mark.parametrize("phi", [CrossEntropy(), Focal(0.5), Focal(2.0)])
def test_a_worse_voxel_costs_more(phi: Phi) -> None:
    m = torch.linspace(0, 20, 200, dtype=torch.float64)
    assert (phi.value(m).diff() > 0).all()
    assert (phi.slope(m) >= 0).all()
