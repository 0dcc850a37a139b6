"""The calibration error: by hand, against MONAI's metric, and between bins."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from segloss import CalibrationErrorLoss, CrossEntropyLoss, DiceLoss, Multiclass, Multilabel
from segloss.engine import block
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import ENCODINGS, make_batch

BINNINGS = pytest.mark.parametrize("binning", ["hard", "soft"])


def logits_of(p: list[float]) -> torch.Tensor:
    return torch.tensor(p, dtype=torch.float64).logit().reshape(1, 1, 1, -1)


def test_by_hand() -> None:
    target = torch.tensor([0, 0, 0, 1, 1, 1]).reshape(1, 1, 1, 6)
    logits = logits_of([0.1, 0.2, 0.3, 0.4, 0.9, 0.7])
    # Two bins: 0.25 on average, where a quarter is right; and 0.8, where all are.
    value, gradient = value_and_gradient(CalibrationErrorLoss(Multilabel(), bins=2), logits, target)
    assert_close(value.item(), (0 + 0.2) / 2)
    p = logits.sigmoid()
    assert_close((gradient / (p * (1 - p))).flatten()[4:], -torch.ones(2).double() / 4)


def test_between_two_centres_by_hand() -> None:
    """Of two bins with their centres at 0.25 and 0.75."""
    target = torch.tensor([0, 1]).reshape(1, 1, 1, 2)
    logits = logits_of([0.35, 0.9])
    low, high = 0.35, (0.2 * 0.35 - 1 * 0.1) / 1.2
    loss = CalibrationErrorLoss(Multilabel(), bins=2, binning="soft")
    assert_close(loss(logits, target).item(), (low + abs(high)) / 2)


@pytest.mark.parametrize("bins", [1, 5, 20])
def test_is_the_metric_of_monai(bins: int) -> None:
    """MONAI counts a probability on the edge of two bins to the lower; here there is none."""
    peer = pytest.importorskip("monai.metrics.calibration", reason="since MONAI 1.6")
    batch = make_batch(shape=(2, 3, 8, 9))
    true = torch.nn.functional.one_hot(batch.target, 3).movedim(-1, 1).double()
    said, came, count = peer.calibration_binning(batch.logits.softmax(1), true, num_bins=bins)
    gap = (said - came).abs()
    expected = (gap.nan_to_num(0).sum(2) / (count > 0).sum(2)).double()
    loss = CalibrationErrorLoss(bins=bins, reduction="none")
    assert_close(loss(batch.logits, batch.target), expected, rtol=1e-5, atol=1e-6)


@BINNINGS
@pytest.mark.parametrize("bins", [1, 2, 20])
@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_is_as_defined(
    encoding: Any, group: Any, bins: int, binning: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_CPU", 60)
    batch = make_batch(encoding, shape=(2, 3, 3, 4, 2), scale=3.0)
    loss = CalibrationErrorLoss(encoding, bins=bins, binning=binning, group=group, reduction="none")
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})


@BINNINGS
@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_first_and_second_derivatives(encoding: Any, binning: Any) -> None:
    loss = CalibrationErrorLoss(encoding, bins=4, binning=binning, reduction="none")
    batch = make_batch(encoding, shape=(2, 3, 3, 4), scale=1.0)
    inputs = (batch.logits.requires_grad_(), batch.target)
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


def test_soft_bins_do_not_jump() -> None:
    """A voxel that crosses an edge changes the hard loss at once, the soft one by little."""
    target = torch.tensor([0, 1, 1, 1]).reshape(1, 1, 1, 4)
    jumps = {}
    for binning in ("hard", "soft"):
        loss = CalibrationErrorLoss(Multilabel(), bins=4, binning=binning)
        before, after = (
            loss(logits_of([p, 0.4, 0.6, 0.9]), target).item() for p in (0.4999, 0.5001)
        )
        jumps[binning] = abs(after - before)
    assert jumps["hard"] > 0.05
    assert jumps["soft"] < 1e-3


@BINNINGS
def test_a_calibrated_prediction_costs_little_and_an_overconfident_one_more(binning: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    p = torch.rand(1, 1, 100, 100, generator=rng, dtype=torch.float64)
    target = (torch.rand(p.shape, generator=rng, dtype=torch.float64) < p).long()
    loss = CalibrationErrorLoss(Multilabel(), binning=binning)
    calibrated, overconfident = loss(p.logit(), target), loss(4 * p.logit(), target)
    assert calibrated < 0.03
    assert overconfident > 0.1


def test_every_bin_counts_alike() -> None:
    """The certain voxels are many, and right; the three uncertain ones are a bin of their own."""
    logits = logits_of([0.999] * 97 + [0.62, 0.62, 0.62])
    target = torch.ones_like(logits).long()
    target[..., -3:] = 0
    loss = CalibrationErrorLoss(Multilabel(), bins=10)
    assert_close(loss(logits, target).item(), (0.001 + 0.62) / 2)


@BINNINGS
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_volume_in_half_precision(binning: Any, dtype: torch.dtype) -> None:
    logits = torch.full((1, 1, 60, 60, 60), -2.0, dtype=dtype)
    target = torch.zeros(logits.shape, dtype=torch.uint8)
    loss = CalibrationErrorLoss(Multilabel(), binning=binning)
    expected = torch.tensor(-2.0).double().sigmoid()
    assert_close(loss(logits, target).double(), expected, rtol=1e-5, atol=0)


@BINNINGS
def test_shares_a_pass_with_others(binning: Any) -> None:
    encoding = Multiclass(background=False)
    batch = make_batch(encoding)
    loss = DiceLoss() + CrossEntropyLoss() + CalibrationErrorLoss(encoding, binning=binning)
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})


@pytest.mark.parametrize("bins", [0, -4])
def test_no_bins(bins: int) -> None:
    with pytest.raises(ValueError, match=f"bins must be a whole number of at least 1, got {bins}"):
        CalibrationErrorLoss(bins=bins)


def test_a_word_that_is_no_binning() -> None:
    with pytest.raises((ValueError, TypeError), match="binning"):
        CalibrationErrorLoss(binning="smooth")  # type: ignore[arg-type]
