"""What is particular to the further overlap losses; the general suites hold their formulas."""

import math
from typing import Any

import pytest
import torch
from monai import losses as monai
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    CompatibleTverskyLoss,
    CrossEntropyLoss,
    DiceLoss,
    DicePlusPlusLoss,
    DiceSemimetricLoss,
    ExponentialLogarithmicLoss,
    FocalTverskyLoss,
    JaccardLoss,
    JaccardMetricLoss,
    LabelTree,
    LogCoshDiceLoss,
    LovaszLoss,
    MCCLoss,
    Multiclass,
    Multilabel,
    RegionProportionLoss,
    SensitivitySpecificityLoss,
    SquaredDiceLoss,
    Tree,
    TverskyLoss,
)
from segloss.engine.voxel import VoxelSum
from tests.losses.checks import value_and_gradient
from tests.strategies import FURTHER_OVERLAP, make_batch

SOFT = [
    DiceSemimetricLoss,
    JaccardMetricLoss,
    CompatibleTverskyLoss,
    SquaredDiceLoss,
    DicePlusPlusLoss,
]
EXACT: dict[str, Any] = {"smooth_nr": 0.0, "smooth_dr": 0.0}


def binary(p: list[float]) -> Tensor:
    """Logits of a row of probabilities."""
    return torch.tensor(p, dtype=torch.float64).reshape(1, 1, 1, -1).logit()


def row(y: list[float]) -> Tensor:
    return torch.tensor(y, dtype=torch.float64).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (DiceSemimetricLoss, DiceLoss),
        (JaccardMetricLoss, JaccardLoss),
        (CompatibleTverskyLoss, TverskyLoss),
    ],
)
def test_the_metrics_are_the_plain_losses_of_hard_targets(
    loss: Any, plain: Any, encoding: Any
) -> None:
    batch = make_batch(encoding, shape=(2, 3, 5, 4, 3))
    found = value_and_gradient(loss(encoding), batch.logits, batch.target, weight=batch.weight)
    expected = value_and_gradient(plain(encoding), batch.logits, batch.target, weight=batch.weight)
    assert_close(found, expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("loss", SOFT)
def test_the_best_prediction_of_a_soft_target_is_the_target(loss: Any, share: float) -> None:
    """Of Dice it is a hard one: defect 12."""
    guesses = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    logits = guesses.logit().reshape(-1, 1, 1, 1).expand(-1, 1, 1, 2)
    target = torch.full_like(logits, share)
    cost = loss(Multilabel(), reduction="none")(logits, target)[:, 0]
    assert guesses[cost.argmin()].item() == pytest.approx(share)
    assert cost.min() < 1e-9
    dice = DiceLoss(Multilabel(), reduction="none")(logits, target)[:, 0]
    assert dice.argmin() == 48


@pytest.mark.parametrize("loss", SOFT)
def test_nothing_beats_a_soft_target(loss: Any) -> None:
    batch = make_batch(soft=True)
    best = loss()(batch.target.log(), batch.target)
    assert_close(best, torch.zeros_like(best), rtol=0, atol=1e-12)
    for seed in range(10):
        assert loss()(make_batch(seed=seed).logits, batch.target) > 1e-2


@pytest.mark.parametrize(
    ("loss", "option"),
    [(SquaredDiceLoss, {"squared_pred": True}), (DiceSemimetricLoss, {"soft_label": True})],
)
def test_as_in_monai(loss: Any, option: dict[str, Any]) -> None:
    for soft in (False, True):
        batch = make_batch(Multilabel(), soft=soft, shape=(2, 3, 4, 5, 3))
        peer = monai.DiceLoss(sigmoid=True, **option)
        found = value_and_gradient(loss(Multilabel()), batch.logits, batch.target)
        assert_close(found, value_and_gradient(peer, batch.logits, batch.target.double()))


def test_squared_dice_by_hand() -> None:
    found = SquaredDiceLoss(Multilabel(), **EXACT)(binary([0.5, 0.25]), row([1.0, 0.5]))
    assert_close(found.item(), 1 - 2 * (0.5 + 0.125) / (0.25 + 0.0625 + 1 + 0.25))


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.0])
def test_dice_plus_plus_is_the_published_one_of_hard_targets(gamma: float) -> None:
    p, y = [0.9, 0.4, 0.2, 0.7], [1.0, 1.0, 0.0, 0.0]
    hit = sum(a * b for a, b in zip(p, y, strict=True))
    miss = sum((b * (1 - a)) ** gamma for a, b in zip(p, y, strict=True))
    alarm = sum(((1 - b) * a) ** gamma for a, b in zip(p, y, strict=True))
    loss = DicePlusPlusLoss(Multilabel(), gamma=gamma, **EXACT)
    assert_close(loss(binary(p), row(y)).item(), 1 - 2 * hit / (2 * hit + miss + alarm))
    if gamma == 1:
        assert_close(loss(binary(p), row(y)), DiceLoss(Multilabel(), **EXACT)(binary(p), row(y)))


def test_a_power_below_one_has_no_slope_to_give() -> None:
    with pytest.raises(ValueError, match=r"gamma must be at least 1.*got 0\.5"):
        DicePlusPlusLoss(gamma=0.5)


def test_log_cosh_bends_dice() -> None:
    batch = make_batch()
    plain, slope = value_and_gradient(DiceLoss(group="batch"), batch.logits, batch.target)
    each = DiceLoss(group="batch", reduction="none")(batch.logits, batch.target)
    found = LogCoshDiceLoss(group="batch", reduction="none")(batch.logits, batch.target)
    assert_close(found, each.cosh().log())
    one = binary([0.3, 0.6, 0.2]), row([0.0, 1.0, 1.0])
    plain, slope = value_and_gradient(DiceLoss(Multilabel()), *one)
    _, bent = value_and_gradient(LogCoshDiceLoss(Multilabel()), *one)
    assert_close(bent, plain.tanh() * slope)


def test_log_cosh_keeps_its_digits_near_the_target() -> None:
    logits, target = 12 * (2 * row([1, 0, 1, 0]) - 1), row([1, 0, 1, 0])
    dice = DiceLoss(Multilabel(), **EXACT)(logits, target).item()
    found = LogCoshDiceLoss(Multilabel(), **EXACT)(logits, target).item()
    assert 1e-6 < dice < 1e-5
    assert found == pytest.approx(dice**2 / 2, rel=1e-6)


def test_focal_tversky_of_exponent_one_is_tversky() -> None:
    batch = make_batch()
    found = value_and_gradient(FocalTverskyLoss(gamma=1.0), batch.logits, batch.target)
    assert_close(found, value_and_gradient(TverskyLoss(), batch.logits, batch.target))


def test_the_default_exponent_is_the_papers_four_thirds() -> None:
    batch = make_batch(shape=(1, 3, 6, 5))
    each = TverskyLoss(reduction="none")(batch.logits, batch.target)
    found = FocalTverskyLoss(reduction="none")(batch.logits, batch.target)
    assert_close(found, each ** (1 / (4 / 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.3, 0.75, 2.0])
@pytest.mark.parametrize("loss", [FocalTverskyLoss, ExponentialLogarithmicLoss])
def test_powers_have_a_slope_where_nothing_is_wrong(
    loss: Any, gamma: float, dtype: torch.dtype
) -> None:
    batch = make_batch(dtype=dtype)
    right = torch.nn.functional.one_hot(batch.target, 3).movedim(-1, 1).to(dtype)
    for scale in (3.0, 8.0, 20.0, 1e4):
        for logits in (scale * right, -scale * right):
            for smooth in ({}, EXACT):
                made = loss(gamma=gamma, **smooth)
                value, gradient = value_and_gradient(made, logits, batch.target)
                assert value.isfinite()
                assert gradient.isfinite().all()


@pytest.mark.parametrize("p", [1 - 1e-3, 1 - 1e-4, 1 - 1e-5, 1 - 1e-7])
@pytest.mark.parametrize("gamma", [0.3, 0.75, 2.0])
def test_a_power_meets_its_line(gamma: float, p: float) -> None:
    x = 1 - 2 * p / (1 + p)
    found = FocalTverskyLoss(Multilabel(), alpha=0.5, beta=0.5, gamma=gamma, **EXACT)
    expected = x**gamma if x > 1e-4 else x * 1e-4 ** (gamma - 1)
    assert found(binary([p]), row([1])).item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_the_slope_of_a_power_is_its_derivative_on_both_sides_of_where_it_bends(
    gamma: float,
) -> None:
    (term,) = ExponentialLogarithmicLoss(gamma=gamma).request.voxels
    assert isinstance(term, VoxelSum)
    m = torch.tensor([1e-9, 1e-6, 5e-5, 2e-4, 0.1, 3.0, 40.0], dtype=torch.float64)
    step = 1e-5 * m
    difference = (term.phi.value(m + step) - term.phi.value(m - step)) / (2 * step)
    assert_close(term.phi.slope(m), difference, rtol=1e-6, atol=0)


def test_exponential_logarithmic_by_hand() -> None:
    p, y = [0.9, 0.4, 0.2], [1.0, 1.0, 0.0]
    dice = 2 * 1.3 / (1.5 + 2)
    surprise = [-math.log(0.9), -math.log(0.4), -math.log(0.8)]
    for gamma in (0.3, 1.0, 2.0):
        loss = ExponentialLogarithmicLoss(
            Multilabel(), gamma=gamma, dice_weight=0.7, cross_entropy_weight=0.4, **EXACT
        )
        expected = 0.7 * (-math.log(dice)) ** gamma + 0.4 * sum(m**gamma for m in surprise) / 3
        assert loss(binary(p), row(y)).item() == pytest.approx(expected)


def test_the_terms_of_exponential_logarithmic() -> None:
    batch = make_batch(Multiclass(background=False), present=2)
    encoding, weight = Multiclass(background=False), [1.0, 3.0]
    cross = ExponentialLogarithmicLoss(
        encoding, gamma=1, dice_weight=0, class_weight=weight, empty="skip"
    )
    plain = CrossEntropyLoss(encoding, group="sample", class_weight=weight)
    assert_close(cross(batch.logits, batch.target), 0.2 * plain(batch.logits, batch.target))
    dice = ExponentialLogarithmicLoss(encoding, gamma=1, cross_entropy_weight=0, empty="skip")
    each = DiceLoss(encoding, reduction="none")(batch.logits, batch.target)[:, 0]
    assert_close(dice(batch.logits, batch.target), 0.8 * -(1 - each).log().mean())


def test_a_dice_of_nothing_still_pulls() -> None:
    """Clamped, as others do, its gradient would end where it is needed most."""
    logits, target = binary([1e-6, 1e-6, 0.9]), row([1, 1, 0])
    loss = ExponentialLogarithmicLoss(Multilabel(), cross_entropy_weight=0.0, **EXACT)
    value, gradient = value_and_gradient(loss, logits, target)
    assert value < 0.8 * (1 - math.log(1e-4)) ** 0.3
    assert (gradient.flatten()[:2] < 0).all()


def test_the_correlation_is_that_of_the_voxels() -> None:
    p, y = torch.rand(40, dtype=torch.float64), (torch.rand(40) < 0.3).double()
    hard = (p > 0.5).double()
    correlation = torch.corrcoef(torch.stack([hard, y]))[0, 1]
    shape = (1, 1, 5, 8)
    loss = MCCLoss(Multilabel(), **EXACT)
    found = loss(200 * (hard.reshape(shape) - 0.5), y.reshape(shape))
    assert_close(found, 1 - correlation)


def test_the_correlation_does_not_mind_which_is_the_class() -> None:
    batch = make_batch(Multilabel())
    turned = MCCLoss(Multilabel())(-batch.logits, 1 - batch.target)
    assert_close(turned, MCCLoss(Multilabel())(batch.logits, batch.target))
    opposite = MCCLoss(Multilabel(), **EXACT)(100 * (1 - 2 * batch.target.double()), batch.target)
    assert_close(opposite, torch.tensor(2.0).double())


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("smooth", [{}, EXACT], ids=["smooth", "exact"])
def test_the_correlation_with_a_constant(value: float, smooth: dict[str, Any]) -> None:
    """Others score an absent class 1 whatever the prediction, without a gradient."""
    target = torch.full((1, 1, 4, 4), value)
    right = 1e4 * (2 * target - 1)
    for logits in (right, -right, torch.zeros_like(right)):
        score, gradient = value_and_gradient(MCCLoss(Multilabel(), **smooth), logits, target)
        assert score.isfinite()
        assert gradient.isfinite().all()
        if logits is right and not smooth:
            assert_close(score, torch.zeros_like(score), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rest_of_nothing_is_nothing_for_any_weights(dtype: torch.dtype) -> None:
    """Had as a difference of sums it would be their rounding, large beside the smoothing."""
    batch = make_batch(shape=(1, 2, 32, 32, 8), present=1, dtype=dtype)
    loss = SensitivitySpecificityLoss(reduction="none")
    found = loss(batch.logits, batch.target, weight=batch.weight).double()
    p, w = batch.logits.double().softmax(1)[0], batch.weight.double()[0]
    missed = (w * (1 - p[0]) ** 2).sum() / w.sum()
    alarmed = (w * p[1] ** 2).sum() / w.sum()
    assert_close(found, torch.stack([0.05 * missed, 0.95 * alarmed])[None], rtol=1e-5, atol=1e-7)


def test_sensitivity_and_specificity_by_hand() -> None:
    """Which is which: defect 15."""
    p, y = [0.8, 0.5, 0.1, 0.3, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]
    missed, alarmed = (0.2**2 + 0.5**2) / 2, (0.1**2 + 0.3**2) / 3
    for share in (0.0, 0.05, 0.6, 1.0):
        loss = SensitivitySpecificityLoss(Multilabel(), sensitivity=share, **EXACT)
        expected = share * missed + (1 - share) * alarmed
        assert loss(binary(p), row(y)).item() == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_a_share_of_sensitivity_is_no_more_than_all(wrong: float) -> None:
    with pytest.raises(
        ValueError, match=f"sensitivity must (lie between 0 and 1|be a finite number), got {wrong}"
    ):
        SensitivitySpecificityLoss(sensitivity=wrong)


def test_a_proportion_says_how_much_and_not_where() -> None:
    batch = make_batch()
    sizes = batch.logits.softmax(1).mean((2, 3))
    shares = torch.nn.functional.one_hot(batch.target, 3).double().mean((1, 2))
    loss = RegionProportionLoss(reduction="none")
    assert_close(loss(batch.logits, batch.target), (sizes - shares).abs())
    assert_close(loss(batch.logits, batch.target.flip(1)), loss(batch.logits, batch.target))


@pytest.mark.parametrize(
    "loss",
    [x for x in (*FURTHER_OVERLAP, RegionProportionLoss) if x is not ExponentialLogarithmicLoss],
)
def test_the_nodes_of_a_tree_are_scored_like_regions(loss: Any) -> None:
    """All but the cross entropy, which a tree has of its leaves."""
    tree = LabelTree({"a": ["b", "c"], "d": ["e", "f"]}, background=None)
    batch = make_batch(shape=(2, 4, 5, 6))
    member = torch.tensor(tree.membership).double()
    p = torch.einsum("vl,blhw->bvhw", member, batch.logits.softmax(1))
    regions = member[:, batch.target].movedim(0, 1)
    options: dict[str, Any] = {"bins": 16} if loss is LovaszLoss else {}
    weight = {"weight": batch.weight}
    found = loss(Tree(tree), reduction="none", **options)(batch.logits, batch.target, **weight)
    expected = loss(Multilabel(), reduction="none", **options)(p.logit(), regions, **weight)
    assert_close(found, expected)
