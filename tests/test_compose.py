"""Sums of losses: one pass, the same numbers, weights that move; and several resolutions."""

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CompoundLoss,
    Constant,
    Cosine,
    CrossEntropyLoss,
    DeepSupervisionLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    Linear,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
    Step,
    TverskyLoss,
    rebalanced,
)
from segloss.compose import term_name
from segloss.engine import sums as engine
from tests.losses.checks import assert_as_defined, kept_for_backward, value_and_gradient
from tests.strategies import IGNORED, LOSSES, Batch, make_batch


def four() -> CompoundLoss:
    return DiceLoss() + CrossEntropyLoss() + 0.5 * SkeletonRecallLoss() + 0.1 * BoundaryLoss()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that reach the engine."""
    seen: list[Any] = []
    real = engine.one_pass

    def counted(encoded: Any, request: Any) -> Any:
        seen.append(request)
        return real(encoded, request)

    monkeypatch.setattr(engine, "one_pass", counted)
    return seen


def test_a_sum_of_losses_is_the_sum_of_their_values_and_gradients() -> None:
    loss = four()
    batch = make_batch()
    weights = [1.0, 1.0, 0.5, 0.1]
    terms = [DiceLoss(), CrossEntropyLoss(), SkeletonRecallLoss(), BoundaryLoss()]
    parts = [
        value_and_gradient(term, batch.logits, batch.target, **batch.maps(term)) for term in terms
    ]
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, **batch.maps(loss))
    assert_close(value, sum(w * v for w, (v, _) in zip(weights, parts, strict=True)))
    assert_close(gradient, sum(w * g for w, (_, g) in zip(weights, parts, strict=True)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_that_read_the_channels_differently(dtype: torch.dtype, weighted: bool) -> None:
    whole, part = Multiclass(ignore=IGNORED), Multiclass(background=False, ignore=IGNORED)
    loss = CompoundLoss(
        {
            "dice": DiceLoss(part, group="batch", class_weight=[1.0, 3.0]),
            "tversky": (0.3, TverskyLoss(whole, empty="penalise")),
            "jaccard": (2.0, JaccardLoss(part, group="sample")),
            "cross entropy": CrossEntropyLoss(whole, class_weight=[0.2, 1.0, 2.0]),
            "foreground": (0.5, CrossEntropyLoss(part, group="sample")),
            "focal": (1.5, FocalLoss(part)),
            "skeleton": (0.7, SkeletonRecallLoss(part)),
            "boundary": (0.01, BoundaryLoss(part)),
        }
    )
    batch = make_batch(whole, dtype=dtype)
    assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=weighted))


def test_every_loss_adds_up_with_its_neighbours_and_with_all() -> None:
    batch, foreground = make_batch(), Multiclass(background=False)
    for one, other in itertools.pairwise([*LOSSES, LOSSES[0]]):
        pair = one() + 0.5 * other(foreground)
        assert_as_defined(pair, batch.logits, batch.target, batch.maps(pair))
    every = CompoundLoss([x(foreground) if i % 2 else x() for i, x in enumerate(LOSSES)])
    assert_as_defined(every, batch.logits, batch.target, batch.maps(every))


def test_sigmoid_terms_add_up() -> None:
    encoding = Multilabel(ignore=IGNORED)
    loss = DiceLoss(encoding) + CrossEntropyLoss(encoding) + 0.5 * SkeletonRecallLoss(encoding)
    batch = make_batch(encoding)
    assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=True))


def test_a_compound_makes_one_pass(passes: list[Any]) -> None:
    loss = four() + JaccardLoss(Multiclass(background=False), group="batch")
    batch = make_batch()
    loss(batch.logits, batch.target, **batch.maps(loss))
    assert len(passes) == 1
    names = passes[0].regions
    assert len(names) == len(set(names))


def test_terms_that_ignore_differently_make_a_pass_each(passes: list[Any]) -> None:
    loss = DiceLoss(Multiclass(ignore=IGNORED)) + CrossEntropyLoss(Multiclass(ignore=2))
    batch = make_batch(shape=(2, 3, 4, 5), present=2)
    value = loss(batch.logits, batch.target)
    assert len(passes) == 2
    assert_close(value, (DiceLoss() + CrossEntropyLoss())(batch.logits, batch.target))


def test_only_the_logits_are_kept_for_the_backward_pass() -> None:
    loss = four()
    batch = make_batch(shape=(2, 4, 20, 20, 20), dtype=torch.float32)
    logits, maps = batch.logits.requires_grad_(), batch.maps(loss, weight=True)
    assert kept_for_backward(loss, logits, batch.target, **maps) < logits.nbytes / 100


def test_nothing_large_hangs_on_the_graph_behind_the_hooks() -> None:
    """What a Function keeps on its context, the hooks of saved tensors do not see."""
    loss = four()
    batch = make_batch(shape=(1, 4, 24, 24, 24), dtype=torch.float32)
    logits, maps = batch.logits.requires_grad_(), batch.maps(loss, weight=True)
    value = loss(logits, batch.target, **maps)
    inputs = {x.untyped_storage().data_ptr() for x in (logits, batch.target, *maps.values())}
    large: list[Tensor] = []
    seen: set[int] = set()
    todo: list[Any] = [value.grad_fn]
    while todo:
        x = todo.pop()
        if x is None or id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            storage = x.untyped_storage()
            if storage.nbytes() > 10_000 and storage.data_ptr() not in inputs:
                large.append(x)
        elif isinstance(x, dict):
            todo += list(x.values())
        elif isinstance(x, (list, tuple)):
            todo += list(x)
        elif hasattr(x, "next_functions"):
            todo += [f for f, _ in x.next_functions] + list(getattr(x, "__dict__", {}).values())
        elif type(x).__module__.startswith("segloss"):
            slots = getattr(type(x), "__slots__", ())
            todo += [getattr(x, s, None) for s in slots] + list(getattr(x, "__dict__", {}).values())
    assert not large


def test_terms_are_there_to_be_logged() -> None:
    loss = four()
    assert loss.terms == {}
    batch = make_batch()
    value = loss(batch.logits.requires_grad_(), batch.target, **batch.maps(loss))
    assert list(loss.terms) == ["dice", "cross_entropy", "skeleton_recall", "boundary"]
    assert not any(term.requires_grad for term in loss.terms.values())
    assert_close(loss.terms["dice"], DiceLoss()(batch.logits.detach(), batch.target))
    weighted = sum(loss.weights[name] * term for name, term in loss.terms.items())
    assert_close(value.detach(), weighted)


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("DiceLoss", "dice"),
        ("SkeletonRecallLoss", "skeleton_recall"),
        ("HierarchicalDiceCELoss", "hierarchical_dice_ce"),
        ("NullBCELoss", "null_bce"),
        ("TopKCrossEntropyLoss", "top_k_cross_entropy"),
        ("Poly1FocalLoss", "poly1_focal"),
        ("BoundaryDoULoss", "boundary_dou"),
        ("TLoss", "t"),
    ],
)
def test_a_term_is_named_by_its_class(class_name: str, name: str) -> None:
    assert term_name(class_name) == name


def test_names() -> None:
    named = CompoundLoss({"a": DiceLoss(), "b": (0.5, CrossEntropyLoss())})
    assert named.weights == {"a": 1.0, "b": 0.5}
    twice = DiceLoss() + DiceLoss(Multiclass(background=False)) + DiceLoss()
    assert list(twice.losses) == ["dice", "dice_2", "dice_3"]
    both = named + twice
    assert list(both.losses) == ["a", "b", "dice", "dice_2", "dice_3"]


def test_arithmetic() -> None:
    batch = make_batch()
    dice, entropy = DiceLoss(), CrossEntropyLoss()
    d, e = dice(batch.logits, batch.target), entropy(batch.logits, batch.target)
    for loss, expected in [
        (2 * dice, 2 * d),
        (dice * 2, 2 * d),
        (dice + entropy, d + e),
        (0.5 * (dice + 3 * entropy), 0.5 * d + 1.5 * e),
        (dice + (entropy + dice), 2 * d + e),
        ((dice + entropy) + (dice + entropy), 2 * d + 2 * e),
        (0 * dice + entropy, e),
    ]:
        assert_close(loss(batch.logits, batch.target), expected)


def test_a_sum_leaves_its_parts_as_they_were() -> None:
    part = DiceLoss() + CrossEntropyLoss()
    whole = 3 * part + FocalLoss()
    assert part.weights == {"dice": 1.0, "cross_entropy": 1.0}
    assert whole.weights == {"dice": 3.0, "cross_entropy": 3.0, "focal": 1.0}
    whole.step()
    assert part.epoch == 0


def test_what_does_not_add_up() -> None:
    with pytest.raises(TypeError):
        DiceLoss() + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        DiceLoss() * "2"  # type: ignore[operator]
    with pytest.raises((TypeError, ValueError)):
        DiceLoss() + torch.nn.CrossEntropyLoss()  # type: ignore[operator]
    nothing: list[Any] = [{}, []]
    for empty in nothing:
        with pytest.raises(ValueError, match=r"empty"):
            CompoundLoss(empty)


def test_compounds_of_different_epochs_do_not_add_up() -> None:
    older = DiceLoss() * Linear(0.0, 1.0, 2)
    older.step()
    with pytest.raises(ValueError, match="epochs 1 and 0"):
        older + CompoundLoss([CrossEntropyLoss()])


def test_a_compound_holds_losses_and_their_weights() -> None:
    wrong: list[Any] = [[torch.nn.L1Loss()], {"a": ("2", DiceLoss())}, {"a": (None, DiceLoss())}]
    for losses in wrong:
        # Run-time type checks, where they are on, say it before the package can.
        with pytest.raises(TypeError, match=r"loss|weight"):
            CompoundLoss(losses)


def test_scores_of_different_shapes_do_not_add_up() -> None:
    loss = DiceLoss(reduction="none") + CrossEntropyLoss(reduction="none")
    batch = make_batch()
    with pytest.raises(ValueError, match=r"shape.*\(2, 3\).*\(1,\)"):
        loss(batch.logits, batch.target)


def test_a_compound_wants_each_map_of_each_term_and_no_other() -> None:
    loss, batch = four(), make_batch()
    for name in ("skeleton", "distance"):
        maps = batch.maps(loss)
        del maps[name]
        with pytest.raises(ValueError, match=f"{name} map is missing"):
            loss(batch.logits, batch.target, **maps)
    with pytest.raises(ValueError, match="'skeleton'"):
        (DiceLoss() + CrossEntropyLoss())(batch.logits, batch.target, skeleton=batch.skeleton)


# Weights that move


def test_schedules_by_hand() -> None:
    assert [Constant(0.3)(e) for e in (0, 7)] == [0.3, 0.3]
    assert [Linear(1.0, 0.0, 4)(e) for e in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert [Step(8.0, 0.5, 2)(e) for e in range(6)] == [8, 8, 4, 4, 2, 2]
    cosine = [1 + (3 - 1) * (1 - math.cos(math.pi * min(e, 4) / 4)) / 2 for e in range(6)]
    assert [Cosine(1.0, 3.0, 4)(e) for e in range(6)] == pytest.approx(cosine)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_schedule_of_no_steps(steps: int) -> None:
    for make in (lambda: Linear(0.0, 1.0, steps), lambda: Cosine(0.0, 1.0, steps)):
        with pytest.raises(ValueError, match=f"steps.*{steps}"):
            make()
    with pytest.raises(ValueError, match=f"every.*{steps}"):
        Step(1.0, 0.5, steps)


def test_a_scheduled_weight_advances_by_epochs_and_not_by_calls() -> None:
    loss = DiceLoss() + CrossEntropyLoss() * Linear(0.0, 1.0, 2)
    batch = make_batch()
    d, e = (x(batch.logits, batch.target) for x in (DiceLoss(), CrossEntropyLoss()))
    for weight in (0.0, 0.5, 1.0, 1.0):
        for _ in range(2):
            assert_close(loss(batch.logits, batch.target), d + weight * e)
        loss.step()


def test_schedules_multiply() -> None:
    loss = 2 * (DiceLoss() * Linear(0.0, 1.0, 2)) * Step(1.0, 0.5, 1)
    assert loss.weights == {"dice": 0.0}
    loss.step()
    assert loss.weights == {"dice": 0.5}


def test_rebalancing_takes_from_one_and_gives_to_the_other() -> None:
    loss = rebalanced(DiceLoss() + CrossEntropyLoss(), BoundaryLoss(), rate=0.3, floor=0.2)
    for alpha in (1.0, 0.7, 0.4, 0.2, 0.2):
        expected = {"dice": alpha, "cross_entropy": alpha, "boundary": 1 - alpha}
        assert loss.weights == pytest.approx(expected)
        loss.step()
    default = rebalanced(DiceLoss(), BoundaryLoss())
    default.epoch = 1000
    assert default.weights == pytest.approx({"dice": 0.01, "boundary": 0.99})


@pytest.mark.parametrize(
    "options", [{"rate": 0.0}, {"rate": -1.0}, {"floor": -0.1}, {"floor": 1.5}]
)
def test_rebalancing_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"rate.*floor"):
        rebalanced(DiceLoss(), BoundaryLoss(), **options)


def test_training_resumes_at_the_same_weights() -> None:
    def make() -> CompoundLoss:
        return DiceLoss() + CrossEntropyLoss() * Cosine(0.0, 1.0, 10)

    loss, resumed = make(), make()
    for _ in range(3):
        loss.step()
    resumed.load_state_dict(loss.state_dict())
    assert resumed.weights == loss.weights != make().weights
    wrapped, again = DeepSupervisionLoss(loss), DeepSupervisionLoss(make())
    again.load_state_dict(wrapped.state_dict())
    assert isinstance(again.loss, CompoundLoss)
    assert again.loss.weights == loss.weights


def test_survives_a_checkpoint(tmp_path: Any) -> None:
    loss = four()
    loss.step()
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    other = four()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.epoch == 1


def test_pickles_and_copies() -> None:
    loss = DiceLoss() * Linear(0.0, 1.0, 4) + 2 * CrossEntropyLoss() * Step(1.0, 0.1, 2)
    loss.step()
    batch = make_batch()
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert twin.weights == loss.weights
        assert_close(twin(batch.logits, batch.target), loss(batch.logits, batch.target))


# Several resolutions


def scales(n: int = 3) -> list[Batch]:
    return [make_batch(shape=(2, 3, 16 >> i, 12 >> i), seed=i) for i in range(n)]


def lists(batches: list[Batch], loss: Any) -> dict[str, list[Tensor]]:
    maps = [batch.maps(loss, weight=True) for batch in batches]
    return {name: [m[name] for m in maps] for name in maps[0]}


def test_deep_supervision_is_a_weighted_mean_over_scales() -> None:
    loss, batches = four(), scales()
    each = torch.stack([loss(b.logits, b.target, **b.maps(loss, weight=True)) for b in batches])
    logits, labels = [b.logits for b in batches], [b.target for b in batches]
    for given, weights in [
        (None, [4 / 7, 2 / 7, 1 / 7]),
        ([1.0, 1.0, 1.0], [1 / 3] * 3),
        ([6.0, 3.0, 1.0], [0.6, 0.3, 0.1]),
        ([1.0, 1.0, 0.0], [0.5, 0.5, 0.0]),
    ]:
        deep = DeepSupervisionLoss(loss, weights=given)
        value = deep(logits, labels, **lists(batches, loss))
        assert_close(value, (each * torch.tensor(weights).double()).sum())


def test_every_scale_learns() -> None:
    loss, batches = four(), scales()
    logits = [b.logits.requires_grad_() for b in batches]
    DeepSupervisionLoss(loss)(
        logits, [b.target for b in batches], **lists(batches, loss)
    ).backward()
    for i, batch in enumerate(batches):
        x = batch.logits.detach().requires_grad_()
        loss(x, batch.target, **batch.maps(loss, weight=True)).backward()
        assert x.grad is not None
        assert_close(logits[i].grad, x.grad * 0.5**i / 1.75)


def test_terms_of_deep_supervision_are_those_of_the_full_resolution() -> None:
    loss, batches = DiceLoss() + CrossEntropyLoss(), scales()
    deep = DeepSupervisionLoss(loss)
    deep([b.logits for b in batches], [b.target for b in batches])
    assert_close(deep.terms["dice"], DiceLoss()(batches[0].logits, batches[0].target))


@pytest.mark.parametrize("short", ["target", "skeleton", "distance", "weight"])
@pytest.mark.parametrize("by", [-1, 1])
def test_lists_of_unequal_length(short: str, by: int) -> None:
    loss, batches = four(), scales()
    arguments = {
        "input": [b.logits for b in batches],
        "target": [b.target for b in batches],
        **lists(batches, loss),
    }
    values = arguments[short]
    arguments[short] = values[:by] if by < 0 else [*values, values[0]]
    with pytest.raises(ValueError, match=rf"{short}.* {3 + by} .*3"):
        DeepSupervisionLoss(loss)(**arguments)


def test_weights_for_another_number_of_scales() -> None:
    batches = scales()
    with pytest.raises(ValueError, match=r"weights.* 2 .* 3 "):
        DeepSupervisionLoss(DiceLoss(), weights=[1.0, 0.5])(
            [b.logits for b in batches], [b.target for b in batches]
        )


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -0.5], [1.0, float("nan")], []])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        DeepSupervisionLoss(DiceLoss(), weights=weights)


def test_one_tensor_is_no_list_of_scales() -> None:
    batch = make_batch()
    with pytest.raises(TypeError, match="input"):
        DeepSupervisionLoss(DiceLoss())(batch.logits, batch.target)


def test_no_scale_at_all() -> None:
    with pytest.raises(ValueError, match="input"):
        DeepSupervisionLoss(DiceLoss())([], [])


def test_epochs_pass_through_deep_supervision() -> None:
    loss = DiceLoss() * Linear(0.0, 1.0, 2)
    deep = DeepSupervisionLoss(loss)
    deep.step()
    assert loss.epoch == 1
    DeepSupervisionLoss(DiceLoss()).step()
