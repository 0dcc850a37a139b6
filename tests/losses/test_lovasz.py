"""The binned Lovász loss against sorting."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import CompoundLoss, DiceLoss, JaccardLoss, LovaszLoss, Multiclass, Multilabel
from segloss.engine import block
from tests.losses.checks import value_and_gradient
from tests.reference.dense import dense
from tests.reference.overlap import exact_lovasz
from tests.strategies import ENCODINGS, Batch, make_batch


def sorted_form(encoding: Any, batch: Batch, maps: dict[str, Tensor]) -> Tensor:
    """The published loss, ``(b, k)``: the errors in order, one by one."""
    x = dense(encoding, batch.logits, batch.target, maps)
    first = 1 - getattr(encoding, "background", True)
    error = (x.pred - x.true).abs()
    rows = [
        [
            exact_lovasz(error[i, k], x.true[i, k], x.weight[i, k], 1e-5, 1e-5)
            for k in range(first, error.shape[1])
        ]
        for i in range(len(error))
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (2, 3, 2, 3, 2)], ids=["2d", "3d"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_with_a_bin_for_each_error_it_is_the_sorted_form(
    encoding: Any, shape: tuple[int, ...]
) -> None:
    batch = make_batch(encoding, shape=shape)
    loss = LovaszLoss(encoding, bins=1 << 16, reduction="none")
    found = value_and_gradient(loss, batch.logits, batch.target, weight=batch.weight)
    expected = value_and_gradient(
        lambda logits, *_, **maps: sorted_form(
            encoding, Batch(logits, batch.target, *3 * [batch.weight]), maps
        ),
        batch.logits,
        batch.target,
        weight=batch.weight,
    )
    assert_close(found, expected)


@pytest.mark.parametrize("bins", [1, 2, 7, 64, 256])
@pytest.mark.parametrize("soft", [False, True])
def test_a_score_is_off_by_less_than_the_width_of_a_bin(bins: int, soft: bool) -> None:
    for seed, scale, present in [(0, 0.1, 3), (1, 2.0, 2), (2, 8.0, 3), (3, 2.0, 1)]:
        batch = make_batch(seed=seed, scale=scale, present=present, soft=soft)
        loss = LovaszLoss(bins=bins, reduction="none")
        off = loss(batch.logits, batch.target) - sorted_form(Multiclass(), batch, {})
        assert off.abs().max() <= 1 / bins


@pytest.mark.parametrize(("share", "bound"), [(0.5, 2e-5), (0.05, 2e-5), (0.001, 4e-4)])
def test_in_volumes_it_is_off_by_far_less(share: float, bound: float) -> None:
    """The figures of the documentation."""
    rng = torch.Generator().manual_seed(0)
    shape = (1, 1, 40, 40, 40)
    target = (torch.rand(shape, generator=rng) < share).double()
    noise = 2 * torch.randn(shape, generator=rng, dtype=torch.float64)
    batch = Batch(noise + 2 * target - 1, target, *3 * [target])
    expected = sorted_form(Multilabel(), batch, {})
    found = [
        LovaszLoss(Multilabel(), bins=bins, reduction="none")(batch.logits, target)
        for bins in (256, 1024)
    ]
    assert (found[0] - expected).abs().max() < bound
    assert (found[1] - expected).abs().max() < bound / 10


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_of_hard_predictions_it_is_jaccard(encoding: Any) -> None:
    batch = make_batch(encoding)
    logits = 1e4 * batch.logits
    smoothings: list[dict[str, Any]] = [{}, {"smooth_nr": 0.5, "smooth_dr": 2.0}]
    for smooth in smoothings:
        lovasz, jaccard = LovaszLoss(encoding, **smooth), JaccardLoss(encoding, **smooth)
        maps = {"weight": batch.weight}
        assert_close(lovasz(logits, batch.target, **maps), jaccard(logits, batch.target, **maps))


def test_by_hand() -> None:
    p = torch.tensor([0.9, 0.3, 0.4, 0.1], dtype=torch.float64).reshape(1, 1, 1, 4)
    target = torch.tensor([1, 1, 0, 0]).reshape(1, 1, 1, 4)
    # In order: 0.7 missed, of a union of 2 one is left; 0.4 found too much, 1 / 3; 0.1 missed; 0.1
    expected = 0.7 * 1 / 2 + 0.4 * (1 / 2 - 1 / 3) + 0.1 * 1 / 3
    loss = LovaszLoss(Multilabel(), smooth_nr=0.0, smooth_dr=0.0)
    assert_close(loss(p.logit(), target).item(), expected)


def test_the_indicator_is_the_class_and_not_its_number() -> None:
    """Defect 13: with the labels themselves for indicators class 2 would count double."""
    batch = make_batch(present=3)
    each = LovaszLoss(reduction="none")(batch.logits, batch.target)
    for k in range(3):
        alone = LovaszLoss(Multilabel(), reduction="none")
        logits = batch.logits.softmax(1)[:, k : k + 1].logit()
        assert_close(alone(logits, batch.target[:, None] == k)[:, 0], each[:, k])


def test_absent_classes_are_left_out_or_not() -> None:
    batch = make_batch(present=2)
    each = LovaszLoss(reduction="none")(batch.logits, batch.target)
    assert_close(each[:, 2], batch.logits.softmax(1)[:, 2].amax((1, 2)), rtol=0, atol=1 / 256)
    present = LovaszLoss(empty="skip")(batch.logits, batch.target)
    assert_close(present, each[:, :2].mean())


def test_a_voxel_may_count_as_many() -> None:
    batch = make_batch(shape=(1, 3, 4, 6))
    weight = torch.randint(3, (1, 4, 6), generator=torch.Generator().manual_seed(0))
    times = weight.flatten()
    logits = batch.logits.flatten(2).repeat_interleave(times, 2)[:, :, None]
    target = batch.target.flatten(1).repeat_interleave(times, 1)[:, None]
    loss = LovaszLoss(reduction="none")
    assert_close(loss(batch.logits, batch.target, weight=weight), loss(logits, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_sum_of_a_bin_keeps_its_digits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_CPU", 1 << 24)
    logits = torch.full((1, 1, 200, 200, 100), -3.0, dtype=dtype)
    target = torch.zeros(logits.shape, dtype=torch.uint8)
    target[:, :, :2] = 1
    expected = torch.tensor(3.0).double().sigmoid()  # all of the class is missed: no more to lose
    assert_close(LovaszLoss(Multilabel())(logits, target).double(), expected, rtol=1e-5, atol=0)


def test_shares_a_pass_with_others() -> None:
    batch = make_batch(Multiclass(background=False))
    encoding = Multiclass(background=False)
    terms = [LovaszLoss(encoding), DiceLoss(), LovaszLoss(bins=16)]
    both = CompoundLoss(terms)
    expected = sum(term(batch.logits, batch.target) for term in terms)
    assert_close(both(batch.logits, batch.target), expected)


@pytest.mark.parametrize("encoding", [ENCODINGS[0], ENCODINGS[3], ENCODINGS[5]], ids=str)
def test_derivatives_of_many_and_few_bins(encoding: Any) -> None:
    for bins in (1, 3, 256):
        loss = LovaszLoss(encoding, bins=bins, group="batch")
        batch = make_batch(encoding, shape=(2, 3, 2, 3), scale=1.0)
        inputs = (batch.logits.requires_grad_(), batch.target)
        assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("bins", [0, -4])
def test_no_bins(bins: int) -> None:
    with pytest.raises(ValueError, match=f"bins must be a whole number of at least 1, got {bins}"):
        LovaszLoss(bins=bins)
