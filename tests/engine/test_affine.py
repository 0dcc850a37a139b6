"""Logits scaled, shifted, short of a margin: sums and gradients as if they had come so."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import Multiclass, Multilabel
from segloss.encoding import Encoded
from segloss.engine import block
from segloss.engine.block import Block, Place, places
from segloss.engine.probability import Measure, measured
from segloss.engine.sums import Request, dense_sums, one_pass
from segloss.engine.voxel import CrossEntropy, Focal, VoxelSum
from segloss.losses.adjusted import Adjusted
from segloss.losses.relative import Normalized
from tests.strategies import IGNORED, make_batch

NUMBERS: dict[str, Any] = {
    "slope": (0.5, 2.0, 1.0),
    "shift": (-1.0, 0.5, 0.0),
    "margin": (0.2, 0.4, 0.8),
}
CLOSED = Request(("pred", "overlap"), (VoxelSum(CrossEntropy()), VoxelSum(Focal(2.0))))
OPEN = CLOSED | Request(voxels=(VoxelSum(Normalized()),))
each_encoding = pytest.mark.parametrize(
    "encoding", [Multiclass(), Multiclass(ignore=IGNORED), Multilabel()], ids=str
)


def adjusted_by_hand(logits: Tensor, target: Tensor) -> Tensor:
    true = target
    if target.ndim < logits.ndim:
        true = (target[:, None] == torch.arange(3).reshape(1, 3, 1, 1)).double()
        true[:, 0] += (target == IGNORED).double()  # which has no say; it is read as class 0
    slope, shift, margin = (torch.tensor(x).double().reshape(3, 1, 1) for x in NUMBERS.values())
    return slope * logits + shift - margin * true


@pytest.mark.parametrize("request_", [CLOSED, OPEN], ids=["closed form", "autograd"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dense", [False, True], ids=["blocks", "dense"])
@each_encoding
def test_sums_of_adjusted_logits(
    encoding: Any, soft: bool, dense: bool, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_CPU", 30)
    batch = make_batch(encoding, soft=soft and encoding.ignore is None)
    logits, maps = batch.logits.requires_grad_(), {"weight": batch.weight}
    run = dense_sums if dense else one_pass
    found = run(Adjusted(encoding=encoding, **NUMBERS).encode(logits, batch.target, maps), request_)
    by_hand = adjusted_by_hand(logits, batch.target)
    expected = one_pass(encoding.encode(by_hand, batch.target, maps), request_)
    assert_close(found, expected)
    pulls = [torch.randn_like(x) for x in expected[0].values()] + [torch.randn_like(expected[1])]
    gradients = [
        torch.autograd.grad([*regions.values(), voxels], logits, pulls)
        for regions, voxels in (found, expected)
    ]
    assert_close(*gradients)


class _SquaredSums(Measure):
    """Σ p² of each channel."""

    shape = (3,)

    def places(self, encoded: Encoded) -> list[Place]:
        return places(encoded)

    def sums(self, block: Block, encoded: Encoded, place: Place) -> Tensor:
        return block.pred.square().sum(2)

    def slope(self, block: Block, encoded: Encoded, place: Place, scale: Tensor) -> Tensor:
        return 2 * block.pred * scale[:, :, None]


@each_encoding
def test_measures_of_adjusted_logits(encoding: Any) -> None:
    batch = make_batch(encoding)
    logits = batch.logits.requires_grad_()
    encoded = Adjusted(encoding=encoding, **NUMBERS).encode(logits, batch.target, {})
    by_hand = encoding.encode(adjusted_by_hand(logits, batch.target), batch.target, {})
    found, expected = (measured(x, _SquaredSums()) for x in (encoded, by_hand))
    pull = torch.randn_like(expected)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(x, logits, pull) for x in (found, expected)))


def test_equal_readings_are_one() -> None:
    one, other = (Adjusted(encoding=Multiclass(background=b), **NUMBERS) for b in (True, False))
    assert one.all_channels == other.all_channels
    assert (one.first, other.first) == (0, 1)
