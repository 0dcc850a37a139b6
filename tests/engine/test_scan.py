"""Running sums, against those of PyTorch."""

import pytest
import torch
from torch.testing import assert_close

from segloss.engine.scan import running_sum


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 257])
def test_running_sum(n: int) -> None:
    x = torch.randn(2, 3, n, dtype=torch.float64, requires_grad=True)
    assert_close(running_sum(x), x.cumsum(-1))
    if 0 < n < 9:
        assert torch.autograd.gradcheck(running_sum, x)
