"""The functions φ on tiles against those of the PyTorch engine, over all that m can be."""

from typing import Any

import pytest
import torch
import triton.language as tl
from torch.testing import assert_close

from segloss.engine.kernels import phi as kernels
from segloss.engine.kernels.batch import named_numbers
from segloss.engine.kernels.compile import compiled
from segloss.engine.voxel import Phi
from segloss.losses.asymmetric import ShiftedFocal
from tests.engine.kernels.engines import DEVICE
from tests.engine.kernels.test_rows import PHIS


@compiled
def evaluate(
    m: Any,
    value: Any,
    slope: Any,
    N: tl.constexpr,
    NAME: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
) -> None:
    place = tl.arange(0, N)
    given = tl.load(m + place)
    tl.store(value + place, kernels.value(given, NAME, A, B))
    tl.store(slope + place, kernels.slope(given, NAME, A, B))


@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_digits_are_kept_from_certainty_to_the_opposite(phi: Phi, dtype: Any) -> None:
    m = torch.cat([torch.zeros(1), torch.logspace(-12, 4, 63)]).to(DEVICE, dtype)
    value, slope = torch.empty_like(m), torch.empty_like(m)
    name, a, b = (*named_numbers(phi.name), 0.0, 0.0)[:3]
    evaluate[1,](m, value, slope, N=64, NAME=name, A=a, B=b)
    digits = 1e-5 if dtype == torch.float32 else 1e-12
    # Near its shift an error is a small difference; nothing else may lose digits near 0.
    slack = digits / 100 if isinstance(phi, ShiftedFocal) else torch.finfo(dtype).tiny
    assert_close(value.double(), phi.value(m.double()), rtol=digits, atol=slack)
    assert_close(slope.double(), phi.slope(m.double()), rtol=digits, atol=slack)
