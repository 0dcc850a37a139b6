"""Noise-robust Dice, and Dice with a weight for each voxel of a pseudo label."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import DiceLoss, Multiclass, Multilabel, NoiseRobustDiceLoss, noise_robust_dice
from tests.losses.checks import value_and_gradient
from tests.strategies import IGNORED, make_batch

SHAPES = pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 3, 2)], ids=["2d", "3d"])


def literal(logits: Tensor, target: Tensor, gamma: float, squared: bool, weight: Tensor) -> Tensor:
    """Voxel by voxel, of a batch, class by class: no shared arithmetic, no shared reduction."""
    p, scores = logits.double().softmax(1), []
    for k in range(logits.shape[1]):
        top = bottom = torch.zeros((), dtype=torch.float64)
        y = (target == k).double() if target.shape != logits.shape else target[:, k]
        for p_v, y_v, w_v in zip(p[:, k].flatten(), y.flatten(), weight.flatten(), strict=True):
            top = top + w_v * (p_v - y_v).abs() ** gamma
            bottom = bottom + w_v * (p_v**2 + y_v**2 if squared else p_v + y_v)
        scores.append(top / (bottom + 1e-5))
    return torch.stack(scores).mean()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("squared", [False, True], ids=["linear", "squared"])
@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
@SHAPES
def test_as_published(shape: tuple[int, ...], gamma: float, squared: bool, soft: bool) -> None:
    batch = make_batch(shape=shape, soft=soft)
    loss = NoiseRobustDiceLoss(gamma=gamma, squared_denominator=squared, group="batch")
    found = value_and_gradient(loss, batch.logits, batch.target, weight=batch.weight)
    expected = value_and_gradient(
        lambda x, y: literal(x, y, gamma, squared, batch.weight), batch.logits, batch.target
    )
    assert_close(found, expected)


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_without_robustness_it_is_dice(encoding: Any) -> None:
    batch = make_batch(encoding)
    smooth: dict[str, Any] = {"smooth_nr": 0.5, "smooth_dr": 2.0}
    loss = NoiseRobustDiceLoss(encoding, gamma=1.0, **smooth)
    dice = DiceLoss(encoding, **smooth)
    assert_close(
        value_and_gradient(loss, batch.logits, batch.target),
        value_and_gradient(dice, batch.logits, batch.target),
    )


def test_with_squares_throughout_it_is_squared_dice() -> None:
    batch = make_batch(Multilabel(), soft=True)
    loss = NoiseRobustDiceLoss(
        Multilabel(), gamma=2.0, squared_denominator=True, smooth_nr=0, smooth_dr=0
    )
    p, y = batch.logits.sigmoid().flatten(2), batch.target.flatten(2)
    dice = 1 - 2 * (p * y).sum(2) / (p.square().sum(2) + y.square().sum(2))
    assert_close(loss(batch.logits, batch.target), dice.mean())


def test_squares_below_only_are_not_bounded_by_one() -> None:
    p, y = torch.full((1, 1, 2, 2), 0.1).double(), torch.zeros(1, 1, 2, 2)
    options: dict[str, Any] = {"gamma": 1.0, "smooth_nr": 0.0, "smooth_dr": 0.0}
    loss = NoiseRobustDiceLoss(Multilabel(), squared_denominator=True, **options)
    assert_close(loss(p.logit(), y).item(), 10.0)
    assert_close(NoiseRobustDiceLoss(Multilabel(), **options)(p.logit(), y).item(), 1.0)


@pytest.mark.parametrize("squared", [False, True], ids=["linear", "squared"])
def test_the_target_costs_least(squared: bool) -> None:
    """Others return one minus it, and train away from the target."""
    batch = make_batch()
    loss = NoiseRobustDiceLoss(squared_denominator=squared)
    right = 50 * torch.nn.functional.one_hot(batch.target, 3).movedim(-1, 1).double()
    assert loss(right, batch.target) < 1e-9 < loss(batch.logits, batch.target)
    assert loss(batch.logits, batch.target) < loss(-right, batch.target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_no_error_has_a_finite_slope(gamma: float, dtype: torch.dtype) -> None:
    encoding = Multiclass(ignore=IGNORED)
    batch = make_batch(encoding)
    labels = batch.target.masked_fill(batch.target == IGNORED, 0)
    right = 2e4 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) - 1e4
    for squared in (False, True):
        loss = NoiseRobustDiceLoss(encoding, gamma=gamma, squared_denominator=squared)
        for logits in (right, -right):
            value, gradient = value_and_gradient(loss, logits.to(dtype), batch.target)
            assert value.isfinite()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("squared", [False, True], ids=["linear", "squared"])
@pytest.mark.parametrize("gamma", [1.3, 1.5, 2.0])
def test_derivatives(gamma: float, squared: bool) -> None:
    batch = make_batch(shape=(1, 3, 2, 3), scale=1.0)
    loss = NoiseRobustDiceLoss(gamma=gamma, squared_denominator=squared)
    logits = batch.logits.requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits, batch.target), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (logits, batch.target), fast_mode=True)


@pytest.mark.parametrize("gamma", [0.9, 2.1, float("nan"), float("inf")])
def test_a_power_out_of_range(gamma: float) -> None:
    with pytest.raises(
        ValueError, match=f"(?s)gamma must (lie between 1 .* 2 .*|be a finite number, )got {gamma}"
    ):
        NoiseRobustDiceLoss(gamma=gamma)


def test_the_function_reads_the_sums_of_its_power() -> None:
    one = torch.ones(1, 1)
    sums = {"error^2.0": one, "pred_squared": 2 * one, "true_squared": one}
    assert_close(noise_robust_dice(sums, 2, True, 0.0, 0.0), one / 3)


def weighted_dice(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Dice over the batch with a weight for each voxel, written out."""
    p = logits.softmax(1)
    w = weight.flatten()
    scores = []
    for k in range(logits.shape[1]):
        p_k, y_k = p[:, k].flatten(), (target == k).double().flatten()
        top = 2 * (w * p_k * y_k).sum() + 1e-5
        scores.append(1 - top / ((w * p_k).sum() + (w * y_k).sum() + 1e-5))
    return torch.stack(scores).mean()


@SHAPES
def test_dice_with_a_weight_for_each_voxel(shape: tuple[int, ...]) -> None:
    batch = make_batch(shape=shape)
    loss = DiceLoss(group="batch")
    found = value_and_gradient(loss, batch.logits, batch.target, weight=batch.weight)
    expected = value_and_gradient(weighted_dice, batch.logits, batch.target, batch.weight)
    assert_close(found, expected)


@pytest.mark.parametrize("loss_class", [DiceLoss, NoiseRobustDiceLoss])
def test_only_relative_weights_matter(loss_class: Any) -> None:
    batch = make_batch()
    loss = loss_class(group="batch", smooth_nr=0.0, smooth_dr=0.0)
    expected = value_and_gradient(loss, batch.logits, batch.target, weight=batch.weight)
    for factor in (1e-3, 7.0):
        weight = factor * batch.weight
        assert_close(value_and_gradient(loss, batch.logits, batch.target, weight=weight), expected)
    no_weight = loss_class(group="batch")(
        batch.logits, batch.target, weight=torch.zeros_like(batch.weight)
    )
    assert no_weight == 0
