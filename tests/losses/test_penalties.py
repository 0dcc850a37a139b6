"""Penalties on logits: by hand, as their papers combine them, and where they keep quiet."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from segloss import CrossEntropyLoss, LogSumExpLoss, MarginSmoothingLoss, Multiclass, Multilabel
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import ENCODINGS, make_batch


def test_margin_smoothing_as_published() -> None:
    batch = make_batch(scale=12.0)
    loss = CrossEntropyLoss() + 0.1 * MarginSmoothingLoss()
    excess = batch.logits.max(1, keepdim=True).values - batch.logits - 10
    expected = cross_entropy(batch.logits, batch.target) + 0.1 * excess.clamp(min=0).mean()
    assert_close(loss(batch.logits, batch.target), expected)


def test_logits_within_the_margin_cost_nothing() -> None:
    batch = make_batch(scale=1.0)
    value, gradient = value_and_gradient(MarginSmoothingLoss(), batch.logits, batch.target)
    assert value == 0
    assert not gradient.any()


def test_a_sigmoid_has_two_logits() -> None:
    logits = torch.tensor([14.0, -14.0, 3.0]).double().reshape(3, 1, 1, 1)
    options: dict[str, Any] = {"group": "sample", "reduction": "none"}
    both = torch.cat([logits / 2, -logits / 2], 1)
    for loss_class in (MarginSmoothingLoss, LogSumExpLoss):
        found = loss_class(Multilabel(), **options)(logits, torch.ones_like(logits))
        assert_close(found, loss_class(**options)(both, torch.ones(3, 1, 1)))
    excess = MarginSmoothingLoss(Multilabel(), **options)(logits, torch.ones_like(logits))
    assert_close(excess, torch.tensor([2.0, 2.0, 0.0]).double())


def test_a_tie_for_the_largest_logit_is_pulled_evenly() -> None:
    logits = torch.tensor([5.0, 5.0, 0.0]).double().reshape(1, 3, 1, 1)
    loss = MarginSmoothingLoss(margin=1.0)
    _, gradient = value_and_gradient(loss, logits, torch.zeros(1, 1, 1))
    assert_close(gradient.flatten(), torch.tensor([1 / 6, 1 / 6, -1 / 3]).double())


def test_log_sum_exp_draws_to_probabilities_without_a_factor() -> None:
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).reshape(1, 3, 1, 1)
    value, gradient = value_and_gradient(LogSumExpLoss(), p.log(), torch.zeros(1, 1, 1))
    assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-20)
    assert gradient.abs().max() < 1e-12
    value, gradient = value_and_gradient(LogSumExpLoss(), p.log() + 3, torch.zeros(1, 1, 1))
    assert_close(value.item(), 9.0)
    assert_close(gradient, 6 * p)


@pytest.mark.parametrize("loss_class", [MarginSmoothingLoss, LogSumExpLoss])
def test_the_label_does_not_matter(loss_class: Any) -> None:
    batch = make_batch(scale=8.0)
    loss = loss_class()
    other = (batch.target + 1) % 3
    assert_close(loss(batch.logits, other), loss(batch.logits, batch.target))


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("margin", [0.0, 1.0, 10.0])
def test_margins_are_as_defined(margin: float, encoding: Any) -> None:
    batch = make_batch(encoding, scale=8.0)
    loss = MarginSmoothingLoss(encoding, margin=margin, group="sample", reduction="none")
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})
    value, _ = value_and_gradient(loss, batch.logits, batch.target)
    assert (value > 0).all()


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_derivatives_beyond_the_margin(encoding: Any) -> None:
    loss = MarginSmoothingLoss(encoding, margin=1.0)
    batch = make_batch(encoding, shape=(1, 3, 2, 3), scale=4.0)
    inputs = (batch.logits.requires_grad_(), batch.target)
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("margin", [-1.0, float("inf")])
def test_a_margin_out_of_range(margin: float) -> None:
    with pytest.raises(ValueError, match=f"margin must .*got {margin}"):
        MarginSmoothingLoss(margin=margin)
