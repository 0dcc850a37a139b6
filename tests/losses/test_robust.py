"""Losses for labels with errors: their limits, what they let go of, and what they refuse."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    CompSumLoss,
    CrossEntropyLoss,
    DiceLoss,
    GeneralizedCrossEntropyLoss,
    LabelTree,
    LDRKLLoss,
    Multiclass,
    Multilabel,
    NormalizedCrossEntropyLoss,
    ReverseCrossEntropyLoss,
    SymmetricCrossEntropyLoss,
    Tree,
    active_passive,
)
from segloss.engine.voxel import Phi
from segloss.losses.robust import CompSum, Symmetric
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import IGNORED, ROBUST, make_batch

BOTH = pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
PHIS: list[Phi] = [CompSum(tau) for tau in (0.0, 0.5, 1.0, 1.7, 2.0, 3.0)]
PHIS += [CompSum(1.7, 0.7), Symmetric(0.0, 4.0), Symmetric(0.1, 9.0)]
VARIANTS: list[tuple[Any, dict[str, Any]]] = [
    (GeneralizedCrossEntropyLoss, {"q": 0.0}),
    (GeneralizedCrossEntropyLoss, {"q": 0.3}),
    (GeneralizedCrossEntropyLoss, {"q": 1.0}),
    (GeneralizedCrossEntropyLoss, {"truncate": 0.5}),
    (CompSumLoss, {"tau": 0.0}),
    (CompSumLoss, {"tau": 0.9}),
    (CompSumLoss, {"tau": 3.0}),
    (ReverseCrossEntropyLoss, {"log_zero": -4.0}),
    (SymmetricCrossEntropyLoss, {"alpha": 6.0, "beta": 0.1}),
    (NormalizedCrossEntropyLoss, {}),
    (LDRKLLoss, {"temperature": 0.5, "margin": 1.0}),
    (LDRKLLoss, {"temperature": 1.0, "margin": 8.0}),
    (LDRKLLoss, {"temperature": 0.01, "margin": 0.0}),
    (LDRKLLoss, {"temperature": 1e4, "margin": 0.0}),
]
ADAPTED = (LDRKLLoss, {"temperature": 2.0, "margin": 1.0, "adaptation": 2.0})


def same(one: Any, other: Any, encoding: Any) -> None:
    batch = make_batch(encoding)
    found = value_and_gradient(one, batch.logits, batch.target)
    assert_close(found, value_and_gradient(other, batch.logits, batch.target))


def by_label(loss_class: Any, logits: Tensor, **options: Any) -> Tensor:
    """The loss of each voxel of ``(n, c)`` logits if its label is each class, ``(n, c)``."""
    n, c = logits.shape
    loss = loss_class(group="sample", reduction="none", **options)
    labels = torch.arange(c).expand(n, c)
    repeated = logits[:, None].expand(n, c, c).reshape(n * c, c, 1, 1)
    value: Tensor = loss(repeated, labels.reshape(n * c, 1, 1))
    return value.reshape(n, c)


def random(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("phi", PHIS, ids=lambda phi: phi.name)
def test_the_slope_is_the_derivative(phi: Phi) -> None:
    m = torch.logspace(-6, 1.2, 50, dtype=torch.float64)
    step = 1e-5 * m
    difference = (phi.value(m + step) - phi.value(m - step)) / (2 * step)
    assert_close(phi.slope(m), difference, rtol=1e-6, atol=1e-9)
    assert phi.value(torch.zeros(1)) == 0


@BOTH
def test_between_cross_entropy_and_absolute_error(encoding: Any) -> None:
    cross_entropy = CrossEntropyLoss(encoding)
    same(GeneralizedCrossEntropyLoss(encoding, q=0.0), cross_entropy, encoding)
    same(GeneralizedCrossEntropyLoss(encoding, q=1e-9), cross_entropy, encoding)
    same(CompSumLoss(encoding, tau=1.0), cross_entropy, encoding)
    same(CompSumLoss(encoding, tau=1 - 1e-9), cross_entropy, encoding)
    for q in (0.3, 0.7, 1.0):
        generalised = GeneralizedCrossEntropyLoss(encoding, q=q)
        same(CompSumLoss(encoding, tau=1 + q), generalised, encoding)


def test_absolute_error_and_exponentials_by_hand() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).double().log().expand(4, 3)
    p = torch.tensor([0.1, 0.2, 0.7]).double().expand(4, 3)
    assert_close(by_label(GeneralizedCrossEntropyLoss, logits, q=1.0), 1 - p)
    assert_close(by_label(CompSumLoss, logits, tau=2.0), 1 - p)
    assert_close(by_label(CompSumLoss, logits, tau=0.0), 1 / p - 1)
    assert_close(by_label(GeneralizedCrossEntropyLoss, logits, q=0.5), 2 * (1 - p.sqrt()))


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_a_voxel_pulls_by_a_power_of_its_probability(q: float) -> None:
    logits = random(20, 4, 1, 1).requires_grad_()
    labels = torch.arange(20).reshape(20, 1, 1) % 4
    losses = [CrossEntropyLoss(), GeneralizedCrossEntropyLoss(q=q)]
    plain, robust = (value_and_gradient(x, logits, labels)[1] for x in losses)
    p = logits.detach().softmax(1).gather(1, labels[:, None])
    assert_close(robust, p**q * plain)


def test_a_truncated_loss_lets_go_at_the_threshold() -> None:
    p = torch.tensor([0.1, 0.39, 0.41, 0.9]).double()
    logits = torch.stack([p.log(), (1 - p).log()]).reshape(1, 2, 1, 4)
    labels = torch.zeros(1, 1, 4).long()
    plain = GeneralizedCrossEntropyLoss(q=0.5)
    cut = GeneralizedCrossEntropyLoss(q=0.5, truncate=0.4)
    value, gradient = value_and_gradient(cut, logits, labels)
    assert_close(value, (2 * (1 - p.clamp(min=0.4).sqrt())).mean())
    assert not gradient[..., :2].any()
    assert_close(gradient[..., 2:], value_and_gradient(plain, logits, labels)[1][..., 2:])


def test_a_truncated_loss_cannot_start_from_nothing() -> None:
    """As its documentation warns: of 4 equal probabilities none is above 0.5."""
    loss = GeneralizedCrossEntropyLoss(truncate=0.5)
    _, gradient = value_and_gradient(loss, torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2).long())
    assert not gradient.any()


def test_reverse_cross_entropy_is_absolute_error_times_a_constant() -> None:
    logits = random(30, 5)
    value = by_label(ReverseCrossEntropyLoss, logits)
    assert_close(value, math.log(1e4) * (1 - logits.softmax(1)))
    # In the convention that counts all classes, the absolute error is twice as large.
    p, one_hot = logits.softmax(1)[:, None], torch.eye(5).double()
    assert_close(value, 4.605170185988091 * (p - one_hot).abs().sum(2))


@BOTH
def test_symmetric_is_both(encoding: Any) -> None:
    symmetric = SymmetricCrossEntropyLoss(encoding, alpha=0.3, beta=0.7, log_zero=-4.0)
    both = 0.3 * CrossEntropyLoss(encoding) + 0.7 * ReverseCrossEntropyLoss(encoding, log_zero=-4.0)
    same(symmetric, both, encoding)


@pytest.mark.parametrize("channels", [2, 3, 10])
def test_a_robust_loss_costs_the_same_over_all_labels(channels: int) -> None:
    """The condition under which uniform label noise leaves the optimum in place."""
    logits = random(30, channels)
    every = torch.ones(30).double()
    assert_close(by_label(NormalizedCrossEntropyLoss, logits).sum(1), every)
    reverse = by_label(ReverseCrossEntropyLoss, logits, log_zero=-4.0).sum(1)
    assert_close(reverse, 4.0 * (channels - 1) * every)
    absolute = by_label(GeneralizedCrossEntropyLoss, logits, q=1.0).sum(1)
    assert_close(absolute, (channels - 1) * every)
    assert by_label(CrossEntropyLoss, logits).sum(1).std() > 1


@BOTH
def test_active_and_passive_add_up(encoding: Any) -> None:
    batch = make_batch(encoding)
    loss = active_passive(encoding, alpha=10.0, beta=0.1, group="sample", reduction="none")
    parts = [
        x(encoding, group="sample", reduction="none")(batch.logits, batch.target)
        for x in (NormalizedCrossEntropyLoss, ReverseCrossEntropyLoss)
    ]
    assert_close(loss(batch.logits, batch.target), 10 * parts[0] + 0.1 * parts[1])
    assert len(loss.losses) == 2


@BOTH
def test_distributionally_robust_without_a_margin_is_cross_entropy(encoding: Any) -> None:
    same(LDRKLLoss(encoding, temperature=1.0, margin=0.0), CrossEntropyLoss(encoding), encoding)


def test_limits_of_the_temperature() -> None:
    logits = random(30, 4)
    margin = 0.004 * (1 - torch.eye(4)).double()
    margins = logits[:, None] - logits[:, :, None] + margin  # f_k - f_y + c [k ≠ y]
    cold = by_label(LDRKLLoss, logits, temperature=1e-3, margin=4e-3)
    assert_close(cold, margins.amax(2), rtol=0, atol=2e-3)
    hot = by_label(LDRKLLoss, logits, temperature=1e6, margin=4e-3) - 1e6 * math.log(4)
    assert_close(hot, margins.mean(2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_no_mixture_of_margins_is_worse(temperature: float) -> None:
    logits, c = random(8, 4), 0.7
    margins = logits[:, None] - logits[:, :, None] + c * (1 - torch.eye(4)).double()
    worst = by_label(LDRKLLoss, logits, temperature=temperature, margin=c)
    q = random(1000, 1, 1, 4, seed=1).softmax(3)
    mixed = (q * margins - temperature * q * q.log()).sum(3)
    assert (mixed <= worst + 1e-9).all()
    best = (margins / temperature).softmax(2)
    assert_close((best * margins - temperature * best * best.log()).sum(2), worst)


def test_the_pull_of_a_voxel_is_bounded() -> None:
    logits, labels = 100 * random(40, 3, 1, 1), torch.zeros(40, 1, 1).long()
    loss = LDRKLLoss(temperature=0.5, margin=1.0, group="sample", reduction="sum")
    logits = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert gradient.abs().max() <= 1
    assert gradient.abs().max() > 0.99


def test_a_surer_voxel_has_a_lower_temperature() -> None:
    labels = torch.zeros(3, 1, 1).long()
    even, sure, wrong = torch.zeros(3), torch.tensor([900.0, 0, 0]), torch.tensor([0, 900.0, 0])
    logits = torch.stack([even, sure, wrong]).double()[..., None, None].requires_grad_()
    options: dict[str, Any] = {"margin": 0.0, "group": "sample", "reduction": "none"}
    adapted = LDRKLLoss(temperature=4.0, adaptation=2.0, **options)
    value, gradient = value_and_gradient(adapted, logits, labels)
    for i, temperature in enumerate([4.0, 2.0, 2.0]):
        fixed = LDRKLLoss(temperature=temperature, **options)
        other, pull = value_and_gradient(fixed, logits, labels)
        assert_close(value[i], other[i])
        assert_close(gradient[i], pull[i])


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 3, 4, 2)], ids=["2d", "3d"])
@BOTH
@pytest.mark.parametrize(("loss_class", "options"), [*VARIANTS, ADAPTED])
def test_variants_are_as_defined(
    loss_class: Any, options: dict[str, Any], encoding: Any, shape: tuple[int, ...], soft: bool
) -> None:
    if options.get("temperature") == 1e4:
        options = options | {"temperature": 100.0}
    loss = loss_class(encoding, group="sample", reduction="none", **options)
    batch = make_batch(encoding, shape=shape, soft=soft)
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight}, relative=1e-9)


@BOTH
@pytest.mark.parametrize(("loss_class", "options"), VARIANTS)
def test_first_and_second_derivatives(
    loss_class: Any, options: dict[str, Any], encoding: Any
) -> None:
    loss = loss_class(encoding, **options)
    batch = make_batch(encoding, shape=(1, 3, 2, 3), scale=0.7)
    logits = batch.logits.requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits, batch.target), fast_mode=True)
    if options.get("temperature") != 0.01:  # as good as a corner
        assert torch.autograd.gradgradcheck(loss, (logits, batch.target), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("encoding", [Multiclass(ignore=IGNORED), Multilabel()], ids=str)
@pytest.mark.parametrize(("loss_class", "options"), [*VARIANTS, ADAPTED])
def test_extreme_logits_stay_finite(
    loss_class: Any, options: dict[str, Any], encoding: Any, dtype: torch.dtype
) -> None:
    loss = loss_class(encoding, **options)
    batch = make_batch(encoding, shape=(2, 3, 5, 4, 3))
    for scale in (0.0, 1.0, 100.0, 1e4):
        for logits in (scale * batch.logits.sign(), scale * torch.ones_like(batch.logits)):
            value, gradient = value_and_gradient(loss, logits.to(dtype), batch.target)
            assert value.isfinite()
            assert value >= 0
            assert gradient.isfinite().all()


def test_an_exponential_goes_straight_on_where_it_is_too_steep() -> None:
    m = torch.tensor([60.0, 100.0, 2e4])
    phi = CompSum(0.0)
    assert_close(phi.value(m), math.exp(60) * torch.tensor([1.0, 41.0, 2e4 - 59]))
    assert_close(phi.slope(m), torch.full((3,), math.exp(60)))


@pytest.mark.parametrize("loss_class", ROBUST, ids=lambda x: x.__name__)
def test_shares_a_pass_with_other_losses(loss_class: Any) -> None:
    batch = make_batch()
    alone = [x(batch.logits, batch.target) for x in (loss_class(), DiceLoss(), CrossEntropyLoss())]
    together = loss_class() + DiceLoss() + 0.5 * CrossEntropyLoss()
    value, gradient = value_and_gradient(together, batch.logits, batch.target)
    assert_close(value, alone[0] + alone[1] + 0.5 * alone[2])
    assert gradient.any()
    assert_as_defined(together, batch.logits, batch.target, {})


@pytest.mark.parametrize(
    ("loss_class", "options", "words"),
    [
        (GeneralizedCrossEntropyLoss, {"q": -0.1}, "q must .*got -0.1"),
        (GeneralizedCrossEntropyLoss, {"q": 1.5}, "q must .*got 1.5"),
        (GeneralizedCrossEntropyLoss, {"q": math.nan}, "q must .*got nan"),
        (GeneralizedCrossEntropyLoss, {"truncate": 0.0}, "truncate must .*got 0.0"),
        (GeneralizedCrossEntropyLoss, {"truncate": 1.0}, "truncate must .*got 1.0"),
        (CompSumLoss, {"tau": -1.0}, "tau must .*got -1.0"),
        (ReverseCrossEntropyLoss, {"log_zero": 0.0}, "log_zero .*below 0, got 0.0"),
        (SymmetricCrossEntropyLoss, {"log_zero": -math.inf}, "log_zero .*finite.* got -inf"),
        (LDRKLLoss, {"temperature": 0.0}, "temperature must .*got 0.0"),
        (LDRKLLoss, {"margin": -1.0}, "margin must .*got -1.0"),
        (LDRKLLoss, {"temperature": 1.0, "margin": 9.0}, "margin must be at most 8 .*got 9.0"),
        (LDRKLLoss, {"adaptation": 1.0}, "adaptation must .*above 1.*got 1.0"),
        (LDRKLLoss, {"temperature": 1.0, "margin": 5.0, "adaptation": 2.0}, "most 8 .* 4 here"),
    ],
)
def test_an_option_out_of_range(loss_class: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        loss_class(**options)


@pytest.mark.parametrize("loss_class", [NormalizedCrossEntropyLoss, LDRKLLoss])
def test_an_encoding_that_does_not_list_the_outcomes(loss_class: Any) -> None:
    with pytest.raises(TypeError, match=f"{loss_class.__name__} .*Multiclass or Multilabel"):
        loss_class(Tree(LabelTree({"liver": {"tumour": None}})))
