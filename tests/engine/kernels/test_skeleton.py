"""The kernels of soft skeletons against PyTorch's operations, to the last bit."""

import pytest
import torch
from torch.testing import assert_close

from segloss import backend
from segloss.engine.kernels import skeleton as kernels
from segloss.engine.soft_skeleton import soft_skeleton, soft_skeleton_slope
from tests.engine.kernels.engines import DEVICE
from tests.engine.test_skeleton_waves import some_maps


@pytest.mark.parametrize(
    ("space", "iterations", "levels", "masked", "dtype"),
    [
        ((7, 9), 2, 1 << 20, False, torch.float32),
        ((4, 5, 6), 1, 1 << 20, True, torch.float64),
        ((3, 6, 5), 1, 1, True, torch.float32),  # many ties
        ((6, 5, 3), 0, 2, False, torch.float32),
    ],
)
def test_are_those_of_pytorch(
    space: tuple[int, ...],
    iterations: int,
    levels: int,
    masked: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "_VOXELS", 64)  # so that there are several programs
    x, scale, there = some_maps(space, levels, 0)
    x, scale, there = x[:1].to(DEVICE, dtype), scale[:1].to(DEVICE, dtype), there[:1].to(DEVICE)
    seen = there if masked else None
    scale = scale * there if masked else scale
    found = []
    for engine in ("triton", "torch"):
        with backend(engine):
            skeleton = soft_skeleton(x, iterations, seen)
            found.append((skeleton, soft_skeleton_slope(x, iterations, scale, seen)))
    assert torch.equal(found[0][0], found[1][0])
    assert_close(found[0][1], found[1][1], rtol=1e-6, atol=1e-6)


def test_the_scale_is_left_as_it_is() -> None:
    x, scale, _ = some_maps((4, 5), 4, 0)
    x, scale = x[:1].to(DEVICE), scale[:1].to(DEVICE)
    before = scale.clone()
    with backend("triton"):
        soft_skeleton_slope(x, 0, scale)
    assert torch.equal(scale, before)
