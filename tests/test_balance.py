"""Weights that adapt: learned with the network, or after the terms' gradients."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CompoundLoss,
    CompSumLoss,
    CrossEntropyLoss,
    DeepSupervisionLoss,
    DiceLoss,
    GradientNormBalance,
    Linear,
    Loss,
    SkeletonRecallLoss,
    TLoss,
    UncertaintyWeighting,
)
from segloss.losses import base
from tests.losses.checks import value_and_gradient
from tests.strategies import make_batch

BALANCES: tuple[Any, ...] = (UncertaintyWeighting, GradientNormBalance)
each_balance = pytest.mark.parametrize("balance", BALANCES, ids=lambda x: x.__name__)


def compound() -> CompoundLoss:
    return 2 * DiceLoss() + CrossEntropyLoss() + 0.5 * SkeletonRecallLoss()


def numbers(x: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(x.values())).double()


class TestUncertaintyWeighting:
    def test_is_its_formula_in_value_and_all_gradients(self) -> None:
        loss, batch = UncertaintyWeighting(compound()).double(), make_batch()
        maps = batch.maps(loss.loss)
        with torch.no_grad():
            loss.log_variance.copy_(torch.tensor([0.3, -1.0, 2.0]))
        logits = batch.logits.requires_grad_()
        value = loss(logits, batch.target, **maps)
        found = torch.autograd.grad(value, [logits, loss.log_variance])

        s = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
        terms: list[Any] = [DiceLoss(), CrossEntropyLoss()]
        each = [term(logits, batch.target) for term in terms]
        each.append(SkeletonRecallLoss()(logits, batch.target, **maps))
        expected = sum(
            w * (L / (2 * s[i].exp()) + s[i] / 2)
            for i, (w, L) in enumerate(zip([2.0, 1.0, 0.5], each, strict=True))
        )
        assert_close(value, expected)
        assert_close(found, torch.autograd.grad(expected, [logits, s]))
        assert_close(numbers(loss.weights), torch.tensor([2, 1, 0.5]).double() / s.exp() / 2)
        assert_close(numbers(loss.terms), torch.stack(each))

    def test_gradcheck(self) -> None:
        loss, batch = UncertaintyWeighting(compound()).double(), make_batch(shape=(1, 3, 3, 2))
        maps = batch.maps(loss.loss)
        s = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)

        def of(logits: Tensor, s: Tensor) -> Tensor:
            value: Tensor = torch.func.functional_call(
                loss, {"log_variance": s}, (logits, batch.target), maps
            )
            return value

        assert torch.autograd.gradcheck(of, (batch.logits.requires_grad_(), s))

    def test_settles_at_the_levels_of_the_terms(self) -> None:
        loss, batch = UncertaintyWeighting(compound()), make_batch(dtype=torch.float32)
        maps = batch.maps(loss.loss)
        optimiser = torch.optim.SGD(loss.parameters(), lr=1)
        for _ in range(60):
            optimiser.zero_grad()
            loss(batch.logits, batch.target, **maps).backward()
            optimiser.step()
        levels = torch.stack(list(loss.terms.values()))
        assert_close(loss.log_variance.detach().exp(), levels, rtol=1e-4, atol=0)

    def test_a_factor_within_a_term_is_of_no_consequence(self) -> None:
        """At the optimum of s, the gradient is that of half the sum of the logarithms."""
        loss, batch = UncertaintyWeighting(DiceLoss() + CrossEntropyLoss()).double(), make_batch()
        terms: tuple[Any, ...] = (DiceLoss(), CrossEntropyLoss())
        with torch.no_grad():
            levels = [term(batch.logits, batch.target).log() for term in terms]
            loss.log_variance.copy_(torch.stack(levels))
        _, found = value_and_gradient(loss, batch.logits, batch.target)
        _, expected = value_and_gradient(
            lambda x, y: sum(1000 * term(x, y).log() for term in terms) / 2000,
            batch.logits,
            batch.target,
        )
        assert_close(found, expected)

    @pytest.mark.parametrize("term", [BoundaryLoss(), TLoss()], ids=lambda x: type(x).__name__)
    def test_a_term_that_can_be_negative_is_refused(self, term: Loss) -> None:
        with pytest.raises(ValueError, match=f"'shift' is a {type(term).__name__}.*negative"):
            UncertaintyWeighting(CompoundLoss({"dice": DiceLoss(), "shift": term}))

    def test_learns_with_the_network_and_without_decay(self) -> None:
        network, loss = nn.Conv2d(3, 3, 1), UncertaintyWeighting(DiceLoss() + CrossEntropyLoss())
        optimiser = torch.optim.AdamW(
            [  # type: ignore[arg-type] # mypy takes the dictionaries for objects
                {"params": network.parameters()},
                {"params": loss.parameters(), "weight_decay": 0},
            ]
        )
        batch = make_batch(dtype=torch.float32)
        loss(network(batch.logits), batch.target).backward()
        optimiser.step()
        assert loss.log_variance.detach().abs().min() > 0
        assert list(loss.state_dict()) == ["log_variance", "loss._extra_state"]


def slopes(loss: CompoundLoss, logits: Tensor, target: Tensor, maps: Any) -> Tensor:
    """The norm of each term's own gradient, measured from outside."""
    alone: list[Any] = list(loss.losses.values())
    each = []
    for term in alone:
        own = {k: m for k, m in maps.items() if k in term.request.maps}
        each.append(value_and_gradient(term, logits, target, **own)[1].norm())
    return torch.stack(each).double()


class TestGradientNormBalance:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_the_gradients_have_the_ratio_of_the_weights(self, dtype: torch.dtype) -> None:
        loss, batch = GradientNormBalance(compound()), make_batch(dtype=dtype)
        maps = batch.maps(loss.loss)
        loss(batch.logits.requires_grad_(), batch.target, **maps)
        norms = slopes(loss.loss, batch.logits.double(), batch.target, maps)
        pull = numbers(loss.weights) * norms
        assert_close(pull / pull[1], torch.tensor([2, 1, 0.5]).double(), rtol=1e-5, atol=0)
        assert_close(numbers(loss.weights).sum().item(), 3.5)

    def test_is_the_weighted_sum_of_its_terms(self) -> None:
        loss, batch = GradientNormBalance(compound()), make_batch()
        maps = batch.maps(loss.loss)
        found = value_and_gradient(loss, batch.logits, batch.target, **maps)
        weights = numbers(loss.weights).tolist()
        dice, cross_entropy, recall = loss.loss.losses.values()
        fixed = CompoundLoss(
            [(w, x) for w, x in zip(weights, (dice, cross_entropy, recall), strict=True)]  # type: ignore[misc]
        )
        expected = value_and_gradient(fixed, batch.logits, batch.target, **maps)
        assert_close(found, expected, rtol=1e-6, atol=1e-7)
        assert loss.terms == fixed.terms

    def test_half_precision_gradients_do_not_underflow(self) -> None:
        batch = make_batch(shape=(1, 2, 64, 64, 64), dtype=torch.float16)
        loss = GradientNormBalance(DiceLoss() + CrossEntropyLoss())
        loss(batch.logits.requires_grad_(), batch.target)
        norms = slopes(loss.loss, batch.logits.detach().float(), batch.target, {})
        pull = numbers(loss.weights) * norms
        assert_close(pull[0], pull[1], rtol=1e-3, atol=0)

    def test_norms_are_running_means(self) -> None:
        loss = GradientNormBalance(compound(), every=2, momentum=0.75)
        norms = []
        for seed in range(5):  # measured at the first, third and fifth
            batch = make_batch(seed=seed, scale=1.0 + seed)
            maps = batch.maps(loss.loss)
            loss(batch.logits.requires_grad_(), batch.target, **maps)
            norms.append(slopes(loss.loss, batch.logits.detach(), batch.target, maps))
        shares = torch.tensor([0.75**2, 0.75, 1]).double()
        mean = (torch.stack(norms[::2]) * shares[:, None]).sum(0) / shares.sum()
        raw = torch.tensor([2, 1, 0.5]).double() / mean
        assert_close(numbers(loss.weights), 3.5 * raw / raw.sum(), rtol=1e-5, atol=0)

    def test_costs_a_pass_only_when_it_measures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        passes, one_pass = [], base._one_pass
        monkeypatch.setattr(base, "_one_pass", lambda *a: passes.append(1) or one_pass(*a))  # type: ignore[func-returns-value]
        loss, batch = GradientNormBalance(DiceLoss() + CrossEntropyLoss(), every=3), make_batch()
        for _ in range(6):
            loss(batch.logits.requires_grad_(), batch.target)
        assert len(passes) == 6 + 2

    def test_a_term_that_is_absent_keeps_its_norm(self) -> None:
        loss, batch = GradientNormBalance(DiceLoss() + SkeletonRecallLoss(), every=1), make_batch()
        nothing = torch.zeros_like(batch.skeleton)
        logits = batch.logits.requires_grad_()
        loss(logits, batch.target, skeleton=nothing)
        assert numbers(loss.weights).tolist() == [1, 1]  # not measured: as the others
        loss(logits, batch.target, skeleton=batch.skeleton)
        before = numbers(loss.weights)
        assert abs(before[0] - before[1]) > 0.01
        loss(logits, batch.target, skeleton=nothing)
        assert_close(numbers(loss.weights), before)

    def test_a_batch_of_no_numbers_does_not_stay(self) -> None:
        loss, batch = GradientNormBalance(DiceLoss() + CrossEntropyLoss(), every=1), make_batch()
        loss(batch.logits.requires_grad_(), batch.target)
        before = numbers(loss.weights)
        loss((batch.logits.detach() * math.nan).requires_grad_(), batch.target)
        assert_close(numbers(loss.weights), before)

    def test_a_norm_beyond_single_precision_does_not_stay(self) -> None:
        loss = GradientNormBalance(DiceLoss() + CompSumLoss(tau=0.0), every=1)
        batch = make_batch(dtype=torch.float32)
        loss(batch.logits.requires_grad_(), batch.target)
        before = loss.norms[:, 1]
        wrong = 60 * (1 - 2 * functional.one_hot(batch.target, 3).movedim(-1, 1).float())
        loss(wrong.requires_grad_(), batch.target)
        assert loss.norms[:, 1].equal(before)

    def test_does_not_measure_where_nothing_is_trained(self) -> None:
        batch, loss = make_batch(), GradientNormBalance(DiceLoss() + CrossEntropyLoss())
        loss(batch.logits, batch.target)
        with torch.no_grad():
            loss(batch.logits.requires_grad_(), batch.target)
        loss.eval()(batch.logits, batch.target)
        assert not loss.norms.any()
        loss.train()(batch.logits, batch.target)
        assert loss.norms.all()

    def test_weights_may_be_schedules_and_0(self) -> None:
        loss = GradientNormBalance(DiceLoss() + Linear(0.0, 1.0, 1) * CrossEntropyLoss())
        batch = make_batch()
        logits = batch.logits.requires_grad_()
        loss(logits, batch.target)
        assert numbers(loss.weights).tolist() == [1, 0]
        loss.step()
        assert (numbers(loss.weights) > 0).all()
        off = GradientNormBalance(0 * DiceLoss() + 0 * CrossEntropyLoss())
        assert off(logits, batch.target) == 0

    def test_goes_on_from_its_state(self) -> None:
        loss, batch = GradientNormBalance(compound()), make_batch()
        loss(batch.logits.requires_grad_(), batch.target, **batch.maps(loss.loss))
        fresh = GradientNormBalance(compound())
        fresh.load_state_dict(loss.state_dict())
        assert fresh.weights == loss.weights
        assert copy.deepcopy(loss).weights == loss.weights

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"every": 0}, "every must be a whole number of at least 1, got 0"),
            ({"momentum": 1.5}, "momentum"),
        ],
    )
    def test_options_that_make_no_sense(self, options: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            GradientNormBalance(compound(), **options)


@each_balance
def test_takes_compounds_of_single_values(balance: Any) -> None:
    with pytest.raises(TypeError, match="CompoundLoss"):
        balance(DiceLoss())
    with pytest.raises(ValueError, match="'dice' has reduction='none'"):
        balance(CompoundLoss([DiceLoss(reduction="none")]))


@each_balance
def test_terms_and_schedules_reach_through(balance: Any) -> None:
    loss = balance(DiceLoss() + Linear(0.0, 1.0, 4) * CrossEntropyLoss())
    supervised = DeepSupervisionLoss(loss)
    fine, coarse = make_batch(shape=(2, 3, 8, 8)), make_batch(shape=(2, 3, 4, 4))
    logits = [fine.logits.requires_grad_(), coarse.logits.requires_grad_()]
    value = supervised(logits, [fine.target, coarse.target])
    value.backward()
    expected = DiceLoss()(fine.logits, fine.target).detach()
    assert_close(supervised.terms["dice"], expected)
    assert supervised.terms == loss.terms
    supervised.step()
    assert loss.loss.epoch == 1
    assert loss.loss.weights["cross_entropy"] == 0.25


@each_balance
def test_says_what_it_holds(balance: Any) -> None:
    assert "SkeletonRecallLoss" in repr(balance(compound()))


@each_balance
@pytest.mark.compiled
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
def test_compiles_to_the_same_values(balance: Any) -> None:
    loss, batch = balance(compound()), make_batch()
    maps = batch.maps(loss.loss)
    expected = value_and_gradient(loss, batch.logits, batch.target, **maps)
    compiled = torch.compile(copy.deepcopy(loss), backend="aot_eager")
    for _ in range(3):
        assert_close(value_and_gradient(compiled, batch.logits, batch.target, **maps), expected)
