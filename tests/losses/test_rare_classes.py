"""Losses for rare classes: their formulas, limits, equals, and what they refuse."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from segloss import (
    AsymmetricLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    FocalTverskyLoss,
    LabelTree,
    LDAMLoss,
    LogitAdjustedCrossEntropyLoss,
    Multiclass,
    Multilabel,
    Poly1CrossEntropyLoss,
    Poly1FocalLoss,
    Tree,
    TverskyLoss,
    UnifiedFocalLoss,
    VectorScalingLoss,
)
from segloss.engine import sums as engine
from segloss.engine.voxel import Phi
from segloss.losses.asymmetric import ShiftedFocal
from segloss.losses.polynomial import Poly1
from tests.losses.checks import assert_as_defined, kept_for_backward, value_and_gradient
from tests.strategies import IGNORED, NARROW, WITH_PRIOR, made, make_batch
from tests.test_contract import DYNAMO, PUBLIC

PRIOR = [0.6, 0.3, 0.1]
each_loss = pytest.mark.parametrize("loss_class", WITH_PRIOR)
PHIS: list[Phi] = [Poly1(gamma, epsilon) for gamma in (0.0, 0.5, 2.0) for epsilon in (-1.0, 3.0)]
PHIS += [ShiftedFocal(gamma, shift) for gamma in (0.0, 0.5, 4.0) for shift in (0.001, 0.05, 0.5)]


def same(one: Any, other: Any, encoding: Any = Multiclass(), **batch: Any) -> None:  # noqa: B008
    asked = make_batch(encoding, **batch)
    found = value_and_gradient(one, asked.logits, asked.target)
    assert_close(found, value_and_gradient(other, asked.logits, asked.target))


# What every loss promises, of those that must be told how often each class occurs.


@each_loss
def test_comes_back_from_repr_pickle_and_copy(loss_class: Any) -> None:
    loss = made(loss_class, group="batch", class_weight=[1.0, 1.0, 2.0])
    batch = make_batch(loss.encoding)
    expected = loss(batch.logits, batch.target)
    twins = [eval(repr(loss), dict(PUBLIC)), pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)]
    for twin in twins:
        assert repr(twin) == repr(loss)
        assert_close(twin(batch.logits, batch.target), expected)


@each_loss
def test_reductions_agree(loss_class: Any) -> None:
    batch = make_batch(made(loss_class).encoding)
    results = {
        reduction: made(loss_class, group="sample", reduction=reduction)(batch.logits, batch.target)
        for reduction in ("none", "mean", "sum")
    }
    assert len(results["none"]) == 2
    assert_close(results["mean"], results["none"].mean())
    assert_close(results["sum"], results["none"].sum())


@DYNAMO
@pytest.mark.compiled
@each_loss
def test_compiles_to_the_same_values(loss_class: Any) -> None:
    loss = made(loss_class)
    batch = make_batch(loss.encoding)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = value_and_gradient(loss, batch.logits, batch.target)
    assert_close(value_and_gradient(compiled, batch.logits, batch.target), expected)


@pytest.mark.parametrize("phi", PHIS, ids=str)
def test_the_slope_is_the_derivative(phi: Phi) -> None:
    m = torch.logspace(-4, 2, 61, dtype=torch.float64)
    step = 1e-5 * m
    difference = (phi.value(m + step) - phi.value(m - step)) / (2 * step)
    assert_close(phi.slope(m), difference, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("phi", PHIS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_from_certainty_to_the_opposite(phi: Phi, dtype: torch.dtype) -> None:
    m = torch.tensor([0.0, 1e-38, 1e-20, 1e-7, 1.0, 100.0, 6e4], dtype=dtype)
    assert phi.value(m).isfinite().all()
    assert phi.slope(m).isfinite().all()
    assert phi.value(m)[0] == 0
    assert (phi.slope(m) >= 0).all()


# Poly-1


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_polynomials_without_a_further_coefficient_are_what_they_were(encoding: Any) -> None:
    same(Poly1CrossEntropyLoss(encoding, epsilon=0.0), CrossEntropyLoss(encoding), encoding)
    same(Poly1FocalLoss(encoding, epsilon=0.0, gamma=3.0), FocalLoss(encoding, gamma=3.0), encoding)
    same(Poly1FocalLoss(encoding, gamma=0.0), Poly1CrossEntropyLoss(encoding), encoding)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_coefficients_of_the_polynomial(gamma: float) -> None:
    wrong = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    powers = [(1 / j + 2.0 * (j == 1)) * wrong ** (gamma + j) for j in range(1, 200)]
    assert_close(Poly1(gamma, 2.0).value(-torch.log1p(-wrong)), torch.stack(powers).sum(0))


def test_a_voxel_pulls_by_one_plus_epsilon_p_times_as_much() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]]).double().reshape(1, 3, 1, 1)
    label = torch.ones(1, 1, 1).long()
    p = logits.softmax(1)[0, 1]
    _, plain = value_and_gradient(CrossEntropyLoss(), logits, label)
    for epsilon in (-1.0, 0.5, 4.0):
        _, found = value_and_gradient(Poly1CrossEntropyLoss(epsilon=epsilon), logits, label)
        assert_close(found, (1 + epsilon * p) * plain)


# Adjusted logits


@pytest.mark.parametrize("weight", [None, [0.2, 1.0, 3.0]])
def test_logit_adjustment_is_cross_entropy_of_shifted_logits(weight: list[float] | None) -> None:
    batch = make_batch(Multiclass(ignore=IGNORED))
    loss = LogitAdjustedCrossEntropyLoss(
        Multiclass(ignore=IGNORED), prior=PRIOR, tau=1.5, class_weight=weight
    )
    shift = 1.5 * torch.tensor(PRIOR).double().log().reshape(3, 1, 1)
    tensor = None if weight is None else torch.tensor(weight).double()

    def peer(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + shift, labels, tensor, ignore_index=IGNORED)

    expected = value_and_gradient(peer, batch.logits, batch.target)
    assert_close(value_and_gradient(loss, batch.logits, batch.target), expected)


def test_vector_scaling_is_cross_entropy_of_scaled_and_shifted_logits() -> None:
    prior = torch.tensor(PRIOR).double().reshape(3, 1, 1)

    def peer(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy((prior / 0.6) ** 0.2 * logits + 1.2 * prior.log(), labels)

    same(VectorScalingLoss(prior=PRIOR, tau=1.2, gamma=0.2), peer)


@pytest.mark.parametrize("soft", [False, True])
def test_ldam_is_cross_entropy_of_logits_less_a_margin(soft: bool) -> None:
    counts = torch.tensor([600, 300, 100]).double().reshape(3, 1, 1)
    margin = 0.7 * (100 / counts) ** 0.25

    def peer(logits: Tensor, target: Tensor) -> Tensor:
        true = target if soft else F.one_hot(target, 3).movedim(-1, 1)
        return F.cross_entropy(5 * (logits - margin * true), target)

    same(LDAMLoss(prior=[600, 300, 100], max_margin=0.7, scale=5.0), peer, soft=soft)


def test_a_margin_is_a_function_of_the_cross_entropy() -> None:
    """log(1 + e^m (e^ce - 1)) for a margin m: what holds of every margin loss."""
    batch = make_batch()
    each_voxel = F.cross_entropy(batch.logits, batch.target, reduction="none")
    margin = torch.tensor([0.25, 0.5, 1.0]).double()[batch.target]
    expected = torch.log1p(margin.exp() * torch.expm1(each_voxel)).mean()
    loss = LDAMLoss(prior=[256, 16, 1], max_margin=1.0, scale=1.0)
    assert_close(loss(batch.logits, batch.target), expected)


def test_adjusted_losses_without_an_adjustment_are_cross_entropy() -> None:
    for soft in (False, True):
        plain = CrossEntropyLoss()
        same(LogitAdjustedCrossEntropyLoss(prior=PRIOR, tau=0.0), plain, soft=soft)
        same(LogitAdjustedCrossEntropyLoss(prior=[2, 2, 2]), plain, soft=soft)
        same(VectorScalingLoss(prior=PRIOR, tau=0.0, gamma=0.0), plain, soft=soft)
        same(LDAMLoss(prior=PRIOR, max_margin=0.0, scale=1.0), plain, soft=soft)
    same(VectorScalingLoss(prior=PRIOR, gamma=0.0), LogitAdjustedCrossEntropyLoss(prior=PRIOR))


@each_loss
def test_a_prior_may_be_in_any_unit(loss_class: Any) -> None:
    same(loss_class(prior=PRIOR), loss_class(prior=[1000 * p for p in PRIOR]))


def test_a_yes_or_no_question_is_two_classes() -> None:
    batch = make_batch(Multilabel(), shape=(2, 1, 6, 5))
    binary = LogitAdjustedCrossEntropyLoss(Multilabel(), prior=[0.1], tau=0.8)
    two = LogitAdjustedCrossEntropyLoss(prior=[0.9, 0.1], tau=0.8)
    both = torch.cat([torch.zeros_like(batch.logits), batch.logits], 1)
    assert_close(binary(batch.logits, batch.target), two(both, batch.target))


def test_at_the_prior_equal_logits_are_best() -> None:
    """Where the image says nothing, an adjusted network prefers no class; a plain one does."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2]).reshape(1, 2, 5)
    logits = torch.zeros(1, 3, 2, 5).double()
    for loss, indifferent in [
        (LogitAdjustedCrossEntropyLoss(prior=PRIOR), True),
        (CrossEntropyLoss(), False),
    ]:
        _, gradient = value_and_gradient(loss, logits, labels)
        assert (gradient.sum((2, 3)).abs().max() < 1e-12) == indifferent


def test_what_is_rare_has_to_win_by_more() -> None:
    logits = torch.tensor([0.1, -0.1]).double().reshape(1, 2, 1, 1)
    for loss_class in WITH_PRIOR:
        loss = loss_class(prior=[0.99, 0.01])
        frequent = loss(logits, torch.zeros(1, 1, 1).long())
        assert loss(logits.flip(1), torch.ones(1, 1, 1).long()) > frequent


@each_loss
def test_a_compound_reads_the_logits_as_each_term_does(
    loss_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    real = engine.one_pass

    def counted(encoded: Any, request: Any) -> Any:
        passes.append(request)
        return real(encoded, request)

    monkeypatch.setattr(engine, "one_pass", counted)
    adjusted, foreground = Multiclass(), Multiclass(background=False)
    loss = DiceLoss() + loss_class(adjusted, prior=PRIOR) + CrossEntropyLoss()
    loss = loss + 0.5 * loss_class(foreground, prior=PRIOR)
    batch = make_batch()
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})
    assert len(passes) == 2  # of plain and of adjusted logits, whose channels are read alike


@each_loss
def test_adjusting_keeps_no_volume(loss_class: Any) -> None:
    logits = torch.zeros(1, 3, 24, 24, 24, requires_grad=True)
    labels = torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    assert kept_for_backward(loss_class(prior=PRIOR), logits, labels) < 1000


# Asymmetric


def test_the_asymmetric_loss_by_its_formula() -> None:
    def peer(logits: Tensor, target: Tensor) -> Tensor:
        p, y = logits.sigmoid(), target.double()
        low = (p - 0.05).clamp(min=0)
        yes = (1 - p) * p.log()
        no = low**4 * (1 - low).log()
        return -(y * yes + (1 - y) * no).mean()

    same(AsymmetricLoss(), peer, Multilabel())


def test_an_asymmetric_loss_that_treats_yes_and_no_alike_is_known() -> None:
    plain = AsymmetricLoss(gamma_yes=0.0, gamma_no=0.0, shift=0.0)
    same(plain, CrossEntropyLoss(Multilabel()), Multilabel())
    bent = AsymmetricLoss(gamma_yes=2.0, gamma_no=2.0, shift=0.0)
    same(bent, FocalLoss(Multilabel(), gamma=2.0), Multilabel())


def test_a_shift_lets_go_of_easy_and_of_suspect_noes_only() -> None:
    p = torch.tensor([0.01, 0.049, 0.051, 0.5, 0.9, 1 - 1e-9], dtype=torch.float64)
    logits = p.logit().reshape(1, 1, 1, 6)
    _, no = value_and_gradient(AsymmetricLoss(), logits, torch.zeros_like(logits))
    no = no.flatten()
    assert not no[:2].any()
    assert (no[2:] > 0).all()
    assert no[5] < 1e-8
    assert no[4] > 1e-2
    _, yes = value_and_gradient(AsymmetricLoss(), logits, torch.ones_like(logits))
    assert (yes < 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_asymmetric_loss_is_a_number_in_half_precision(dtype: torch.dtype) -> None:
    logits = torch.tensor([-3e4, -20, -1, 0, 1, 20, 3e4]).to(dtype).reshape(1, 1, 1, 7)
    published = -(logits.sigmoid().clamp(min=1e-8).log() * torch.ones_like(logits)).mean()
    assert not published.isfinite() or dtype == torch.bfloat16  # in half precision 1e-8 is 0
    for target in (torch.zeros_like(logits), torch.ones_like(logits)):
        for shift in (0.0, 0.05):
            value, gradient = value_and_gradient(AsymmetricLoss(shift=shift), logits, target)
            exact = AsymmetricLoss(shift=shift)(logits.double(), target)
            assert_close(value.double(), exact, rtol=1e-5, atol=1e-7)
            assert gradient.isfinite().all()


# Unified focal


def published_unified(
    logits: Tensor, labels: Tensor, delta: float, gamma: float, weight: float, asymmetric: bool
) -> Tensor:
    """The two-class formulas, of probabilities and one-hot labels."""
    p = logits.softmax(1)
    y = torch.stack([1 - labels, labels], 1).double()
    surprise = -(y * p.log())
    background = (1 - delta) * (1 - p[:, 0]) ** gamma * surprise[:, 0]
    foreground = delta * surprise[:, 1]
    if not asymmetric:
        foreground = foreground * (1 - p[:, 1]) ** gamma
    hit = (p * y).sum((2, 3))
    missed, false = ((1 - p) * y).sum((2, 3)), (p * (1 - y)).sum((2, 3))
    index = (hit + 1e-5) / (hit + delta * missed + (1 - delta) * false + 1e-5)
    first = 1 - index[:, 0]
    if not asymmetric:
        first = first ** (1 - gamma)
    region = (first + (1 - index[:, 1]) ** (1 - gamma)) / 2
    return weight * region.mean() + (1 - weight) * (background + foreground).mean()


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_unified_focal_loss_of_two_classes_is_the_published_one(
    weight: float, asymmetric: bool
) -> None:
    def peer(logits: Tensor, labels: Tensor) -> Tensor:
        return published_unified(logits, labels, 0.6, 0.5, weight, asymmetric)

    same(UnifiedFocalLoss(region_weight=weight, asymmetric=asymmetric), peer, shape=(2, 2, 6, 5))


def test_a_unified_focal_loss_of_several_classes_is_a_sum_of_known_losses() -> None:
    options: dict[str, Any] = {"delta": 0.7, "gamma": 0.4, "asymmetric": False}
    tversky: dict[str, Any] = {"alpha": 0.3, "beta": 0.7}
    same(UnifiedFocalLoss(region_weight=1.0, **options), FocalTverskyLoss(gamma=0.6, **tversky))
    plain = UnifiedFocalLoss(region_weight=1.0, delta=0.7, gamma=0.0)
    same(plain, TverskyLoss(**tversky))
    halves = UnifiedFocalLoss(region_weight=0.0, delta=0.5, gamma=0.0)
    same(halves, lambda *args: 0.5 * CrossEntropyLoss()(*args))
    foreground = Multiclass(background=False)
    same(
        UnifiedFocalLoss(foreground, region_weight=0.0, delta=1.0),
        CrossEntropyLoss(foreground, group="sample"),
        foreground,
    )


@pytest.mark.parametrize("asymmetric", [True, False])
def test_a_unified_focal_loss_pulls_at_logits_outside_zero_and_one(asymmetric: bool) -> None:
    logits = torch.tensor([-4.0, -0.5, 0.4, 1.5, 6.0]).double()
    logits = torch.stack([-logits, logits]).reshape(1, 2, 1, 5)
    for label in (0, 1):
        labels = torch.full((1, 1, 5), label)
        _, gradient = value_and_gradient(UnifiedFocalLoss(asymmetric=asymmetric), logits, labels)
        assert (gradient.abs() > 1e-9).all()


def test_a_perfect_unified_focal_loss_has_a_finite_gradient() -> None:
    labels = torch.tensor([0, 0, 1, 2]).reshape(1, 2, 2)
    logits = 50 * (2 * F.one_hot(labels, 3).movedim(-1, 1).double() - 1)
    for dtype in (torch.float64, torch.float16):
        loss = UnifiedFocalLoss(gamma=0.9, smooth_nr=0.0, smooth_dr=0.0)
        value, gradient = value_and_gradient(loss, logits.to(dtype), labels)
        assert value < 1e-6
        assert gradient.isfinite().all()


# What they refuse


@pytest.mark.parametrize(
    ("loss_class", "options", "words"),
    [
        (Poly1CrossEntropyLoss, {"epsilon": -1.5}, "epsilon must .* at least -1.*-1.5"),
        (Poly1FocalLoss, {"epsilon": math.nan}, "epsilon must .*nan"),
        (Poly1FocalLoss, {"gamma": -1.0}, "gamma must .*-1.0"),
        (AsymmetricLoss, {"shift": 1.0}, "shift must .* between 0.001.* and 1: .*1.0"),
        (AsymmetricLoss, {"shift": 1e-9}, "shift must .*1e-09"),
        (AsymmetricLoss, {"shift": -0.1}, "shift must .*-0.1"),
        (AsymmetricLoss, {"shift": math.nan}, "shift must .*nan"),
        (AsymmetricLoss, {"gamma_no": -1.0}, "gamma_no must .*-1.0"),
        (AsymmetricLoss, {"gamma_yes": math.inf}, "gamma_yes must .*inf"),
        (UnifiedFocalLoss, {"gamma": 1.0}, "gamma must .*without 1.*1.0"),
        (UnifiedFocalLoss, {"delta": 1.5}, "delta must .*1.5"),
        (UnifiedFocalLoss, {"region_weight": -0.1}, "region_weight must .*-0.1"),
        (LDAMLoss, {"prior": PRIOR, "scale": 0.0}, "scale must .* above 0.*0.0"),
        (LDAMLoss, {"prior": PRIOR, "max_margin": -1.0}, "max_margin must .*-1.0"),
        (VectorScalingLoss, {"prior": PRIOR, "gamma": -1.0}, "gamma must .*-1.0"),
        (VectorScalingLoss, {"prior": [1.0, 0.0]}, "prior must .* above 0.*0.0 for class 1"),
        (LogitAdjustedCrossEntropyLoss, {"prior": []}, "prior is empty"),
        (LogitAdjustedCrossEntropyLoss, {"prior": [1.0, math.nan]}, "prior must .*nan"),
        (
            LogitAdjustedCrossEntropyLoss,
            {"encoding": Multilabel(), "prior": [0.5, 2.0]},
            "prior must .* below 1 .*2.0",
        ),
    ],
)
def test_an_option_out_of_range(loss_class: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        loss_class(**options)


@each_loss
def test_a_prior_for_other_channels(loss_class: Any) -> None:
    batch = make_batch(shape=(2, 4, 5, 6))
    with pytest.raises(ValueError, match=r"prior has 3 numbers, expected 4: one for each channel"):
        loss_class(Multiclass(background=False), prior=PRIOR)(batch.logits, batch.target)


@pytest.mark.parametrize("loss_class", NARROW)
def test_an_encoding_that_does_not_fit(loss_class: Any) -> None:
    known = " or ".join(kind.__name__ for kind in loss_class.takes)
    tree = Tree(LabelTree({"liver": {"tumour": None}}))
    others = [e for e in (Multiclass(), Multilabel()) if not isinstance(e, loss_class.takes)]
    for encoding in [tree, *others]:
        with pytest.raises(TypeError, match=f"{loss_class.__name__} takes the encoding {known}, "):
            loss_class(encoding, **({"prior": PRIOR} if loss_class in WITH_PRIOR else {}))
