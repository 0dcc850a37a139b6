"""Losses of topology: when and where they look, and that topolosses says the same of it.

What calls topolosses needs it (`pip install 'segloss-monai[topology]'`); elsewhere a stand-in takes
its place, a mean squared error, which shows what it is given.
"""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from segloss import (
    BettiMatchingLoss,
    CompoundLoss,
    DeepSupervisionLoss,
    DiceLoss,
    LabelTree,
    LeafSoftmax,
    Multiclass,
    Multilabel,
    TopographLoss,
    Tree,
)
from tests.losses.checks import value_and_gradient
from tests.reference.dense import dense
from tests.strategies import ENCODINGS, make_batch

Seen = list[tuple[Tensor, Tensor]]
FOREGROUND = Multiclass(background=False)
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
each_loss = pytest.mark.parametrize(
    "loss_class", [BettiMatchingLoss, TopographLoss], ids=lambda x: x.__name__
)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What a stand-in for topolosses has been called with."""
    calls: Seen = []

    class StandIn(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            assert options.items() >= {"include_background": False, "use_base_loss": False}.items()

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            calls.append((input.detach(), target))
            return (input[:, 1] - target[:, 1]).square().mean()

    peer = SimpleNamespace(BettiMatchingLoss=StandIn, TopographLoss=StandIn)
    monkeypatch.setitem(sys.modules, "topolosses", peer)
    monkeypatch.setitem(sys.modules, "topolosses.losses", peer)
    return calls


def squared_error(encoding: Any, input: Tensor, target: Tensor, **maps: Tensor) -> Tensor:
    """What the loss should be with the stand-in: the mean over samples and scored classes."""
    x = dense(encoding, input, target, maps)
    first = 1 if encoding == FOREGROUND or not getattr(encoding, "background", True) else 0
    error = ((x.pred - x.true) * (x.weight != 0)).square().mean(2)
    return error[:, first:].mean()


@each_encoding
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (2, 4, 5, 4, 3)], ids=["2d", "3d"])
@pytest.mark.parametrize("weighted", [False, True])
def test_looks_at_every_sample_and_class(
    seen: Seen, encoding: Any, shape: tuple[int, ...], weighted: bool
) -> None:
    batch = make_batch(encoding, shape=shape)
    loss = BettiMatchingLoss(encoding)
    maps = batch.maps(loss, weight=weighted)
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, **maps)
    expected, slope = value_and_gradient(
        lambda *x, **y: squared_error(encoding, *x, **y), batch.logits, batch.target, **maps
    )
    assert_close(value, expected)
    assert_close(gradient, slope)


def test_soft_targets_stay_soft(seen: Seen) -> None:
    batch = make_batch(soft=True)
    BettiMatchingLoss(Multiclass())(batch.logits, batch.target)
    assert_close(torch.stack([y[0, 1] for _, y in seen]).view_as(batch.target), batch.target)


def test_options_weigh_and_reduce(seen: Seen) -> None:
    batch = make_batch(shape=(2, 3, 6, 5))
    x = dense(Multiclass(), batch.logits, batch.target, {})
    error = (x.pred - x.true).square().mean(2)
    call: dict[str, Any] = {"input": batch.logits, "target": batch.target}
    assert_close(BettiMatchingLoss(Multiclass(), reduction="none")(**call), error)
    pooled = BettiMatchingLoss(Multiclass(), group="batch", reduction="none")(**call)
    assert_close(pooled, error.mean(0, keepdim=True))
    weighted = BettiMatchingLoss(Multiclass(), class_weight=[0, 1, 3], reduction="sum")(**call)
    assert_close(weighted, (error * error.new_tensor([0, 0.75, 2.25])).sum())


def test_an_ignored_sample_is_none(seen: Seen) -> None:
    encoding = Multiclass(ignore=255)
    batch = make_batch(encoding, shape=(2, 3, 6, 5))
    batch.target[1] = 255
    both = BettiMatchingLoss(encoding, group="batch")(batch.logits, batch.target)
    alone = BettiMatchingLoss(encoding, group="batch")(batch.logits[:1], batch.target[:1])
    assert_close(both, alone)
    scores = BettiMatchingLoss(encoding, reduction="none")(batch.logits, batch.target)
    assert not scores[1].any()


def test_the_rest_is_the_most_probable_other_class(seen: Seen) -> None:
    batch = make_batch(shape=(1, 4, 6, 5))
    TopographLoss(Multiclass())(batch.logits, batch.target)
    pred = batch.logits.softmax(1)[0]
    for k, (p, y) in enumerate(seen):
        others = torch.cat([pred[:k], pred[k + 1 :]])
        assert_close(p[0], torch.stack([others.amax(0), pred[k]]))
        assert torch.equal(p[0].argmax(0) == 1, pred.argmax(0) == k)
        assert torch.equal(y[0].argmax(0) == 1, batch.target[0] == k)


@pytest.mark.parametrize(
    "encoding",
    [Multilabel(), Tree(LabelTree({"organ": ["tumour"]}), LeafSoftmax())],
    ids=["regions", "tree"],
)
def test_the_rest_of_a_region_is_its_opposite(seen: Seen, encoding: Any) -> None:
    batch = make_batch(encoding if isinstance(encoding, Multilabel) else Multiclass())
    TopographLoss(encoding)(batch.logits, batch.target)
    assert seen
    for p, y in seen:
        assert_close(p.sum(1), torch.ones_like(p[:, 0]))
        assert_close(y.sum(1), torch.ones_like(y[:, 0]))


def test_ignored_voxels_are_background_for_both(seen: Seen) -> None:
    encoding = Multiclass(ignore=255)
    batch = make_batch(encoding)
    TopographLoss(encoding)(batch.logits, batch.target)
    ignored = batch.target == 255
    for i, (p, y) in enumerate(seen):
        for x in (p, y):
            assert (x[0, 1][ignored[i // 3]] == 0).all()
            assert (x[0, 0][ignored[i // 3]] == 1).all()


def test_weights_above_0_do_not_enter(seen: Seen) -> None:
    batch, loss = make_batch(), BettiMatchingLoss()
    weight = (batch.weight != 0).double()
    assert 0 < weight.mean() < 1
    call = batch.logits, batch.target
    assert torch.equal(loss(*call, weight=batch.weight), loss(*call, weight=weight))
    assert not torch.equal(loss(*call, weight=weight), loss(*call))


def test_evaluates_every_third_step_and_counts_it_three_times(seen: Seen) -> None:
    batch = make_batch()
    every, always = BettiMatchingLoss(every=3), BettiMatchingLoss()
    expected, slope = value_and_gradient(always, batch.logits, batch.target)
    results = [value_and_gradient(every, batch.logits, batch.target) for _ in range(6)]
    for step, (value, gradient) in enumerate(results):
        assert_close(value, 3 * expected if step % 3 == 0 else torch.zeros_like(expected))
        assert_close(gradient, 3 * slope if step % 3 == 0 else torch.zeros_like(slope))
    assert_close(torch.stack([gradient for _, gradient in results]).mean(0), slope)


def test_idle_steps_do_not_call_it_and_can_be_differentiated(seen: Seen) -> None:
    batch, loss = make_batch(), BettiMatchingLoss(every=2)
    logits = batch.logits.requires_grad_()
    loss(logits, batch.target)
    seen.clear()
    batch.logits.data[0, 0, 0, 0] = torch.inf  # not even through a product with 0
    loss(logits, batch.target).backward()
    assert not seen and logits.grad is not None and not logits.grad.any()
    with pytest.raises(ValueError, match="target holds label 7"):
        loss(logits, torch.full_like(batch.target, 7))


def test_a_topology_without_faults_can_be_differentiated(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topograph finds no region then, and its loss does not depend on the prediction."""
    peer = sys.modules["topolosses.losses"].TopographLoss
    monkeypatch.setattr(peer, "forward", lambda self, input, target: torch.tensor(0.0))
    batch = make_batch()
    value, gradient = value_and_gradient(TopographLoss(), batch.logits, batch.target)
    assert value == 0 and not gradient.any()


def test_what_wants_no_gradient_is_no_step(seen: Seen) -> None:
    batch, loss = make_batch(), BettiMatchingLoss(every=2)
    once = BettiMatchingLoss()(batch.logits, batch.target)
    with torch.no_grad():
        for _ in range(3):
            assert_close(loss(batch.logits, batch.target), once)
    value, _ = value_and_gradient(loss, batch.logits, batch.target)
    assert_close(value, 2 * once)


def positions(loss: Any, seen: Seen, target: Tensor, steps: int) -> Iterator[Tensor]:
    """Where the loss looks in each sample: its logits are their own positions."""
    b, *space = target.shape
    n = torch.Size(space).numel()
    ramp = torch.linspace(-3, 3, n, dtype=torch.float64).view(1, 1, *space).expand(b, 1, *space)
    logits = torch.cat([-ramp, ramp], 1).requires_grad_()
    for _ in range(steps):
        seen.clear()
        loss(logits, target)
        for p, _ in seen:
            index = (torch.logit(p[0, 1]) / 2 + 3) * (n - 1) / 6
            yield index.round().long()


def test_crops_are_boxes_around_the_foreground(seen: Seen) -> None:
    target = torch.zeros(2, 12, 20, dtype=torch.long)
    target[0, 0, 0] = target[1, 5, 18] = 1  # in a corner, and near an edge
    loss = BettiMatchingLoss(crop=(4, 7))
    looked_at = [divmod(int(box[0, 0]), 20) for box in positions(loss, seen, target, 2)]
    assert looked_at == [(0, 0), (3, 13)] * 2
    for box in positions(loss, seen, target, 1):
        grid = torch.arange(4)[:, None] * 20 + torch.arange(7)
        assert torch.equal(box, box[0, 0] + grid)


@pytest.mark.parametrize("centre", ["foreground", "anywhere"])
def test_crops_without_foreground_are_anywhere(seen: Seen, centre: Any) -> None:
    loss = BettiMatchingLoss(crop=3, centre=centre)
    target = torch.zeros(2, 5, 6, dtype=torch.long)
    corners = {int(box[0, 0]) for box in positions(loss, seen, target, 60)}
    assert corners == {6 * row + column for row in range(3) for column in range(4)}


def test_what_weighs_nothing_is_no_foreground(seen: Seen) -> None:
    target = torch.ones(1, 20, 20, dtype=torch.long)
    weight = torch.zeros(1, 20, 20)
    weight[0, 15, 15] = 1
    BettiMatchingLoss(crop=5)(torch.zeros(1, 2, 20, 20), target, weight=weight)
    ((_, y),) = seen
    assert y[0, 1, 2, 2] == 1 and y[0, 1].sum() == 1


def test_short_axes_are_taken_whole(seen: Seen) -> None:
    batch = make_batch(shape=(2, 3, 9, 4))
    BettiMatchingLoss(crop=6)(batch.logits, batch.target)
    assert {tuple(p.shape) for p, _ in seen} == {(1, 2, 6, 4)}
    assert len({float(p.sum()) for p, _ in seen}) == 4


def test_crops_depend_on_the_seed_and_the_step(seen: Seen) -> None:
    target = torch.ones(2, 30, 30, dtype=torch.long)

    def corners(loss: Any, steps: int = 4) -> list[int]:
        torch.rand(1)
        return [int(box[0, 0]) for box in positions(loss, seen, target, steps)]

    drawn = corners(BettiMatchingLoss(crop=4))
    assert len(set(drawn)) > 4
    assert drawn == corners(BettiMatchingLoss(crop=4))
    assert drawn != corners(BettiMatchingLoss(crop=4, seed=1))

    first, second = (BettiMatchingLoss(crop=4) * 0.5 + DiceLoss() for _ in range(2))
    assert drawn[:4] == corners(first, 2)
    second.load_state_dict(first.state_dict())
    assert drawn[4:] == corners(second, 2)


def test_is_a_term_like_any_other(seen: Seen) -> None:
    batch = make_batch(FOREGROUND)
    compound = DiceLoss(FOREGROUND) + 0.1 * BettiMatchingLoss(every=2)
    assert isinstance(compound, CompoundLoss)
    value, _ = value_and_gradient(compound, batch.logits, batch.target)
    dice, topology = compound.terms.values()
    assert_close(topology, 2 * BettiMatchingLoss()(batch.logits, batch.target))
    assert_close(value, dice + 0.1 * topology)
    value, gradient = value_and_gradient(compound, batch.logits, batch.target)
    assert compound.terms["betti_matching"] == 0
    expected, slope = value_and_gradient(DiceLoss(FOREGROUND), batch.logits, batch.target)
    assert_close(value, expected)
    assert_close(gradient, slope)
    DeepSupervisionLoss(compound)([batch.logits] * 2, [batch.target] * 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_is_finite_where_logits_are_extreme(seen: Seen, dtype: torch.dtype) -> None:
    batch = make_batch(scale=1e4, dtype=dtype)
    value, gradient = value_and_gradient(TopographLoss(), batch.logits, batch.target)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert value.isfinite() and gradient.isfinite().all()
    assert seen[0][0].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be 1 step or more, got 0"),
        ({"crop": 0}, "crop must be 1 voxel or more along every axis, got 0"),
        ({"crop": (4, -1)}, "crop must be 1 voxel or more"),
        ({"least_lifetime": -1}, "least_lifetime must be a number of at least 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BettiMatchingLoss(**options)


def test_what_does_not_fit_is_named(seen: Seen) -> None:
    batch = make_batch(shape=(2, 3, 5, 4, 3))
    with pytest.raises(ValueError, match="3 image axes, but TopographLoss takes two"):
        TopographLoss()(batch.logits, batch.target)
    with pytest.raises(ValueError, match=r"crop=\(4, 4\) has 2 axes, but the input 3"):
        BettiMatchingLoss(crop=(4, 4))(batch.logits, batch.target)


@each_loss
def test_a_missing_package_is_named(loss_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "topolosses.losses", None)
    batch, loss = make_batch(), loss_class()
    with pytest.raises(ImportError, match=rf"{loss_class.__name__} needs topolosses.*\[topology\]"):
        loss(batch.logits, batch.target)


# Against topolosses itself.


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def topolosses(loss_class: Any, **options: Any) -> Any:
    peers = pytest.importorskip("topolosses.losses", reason="needs segloss-monai[topology]")
    return getattr(peers, loss_class.__name__)(use_base_loss=False, alpha=1.0, **options)


@each_loss
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("shape", [(2, 2, 16, 14), (2, 4, 16, 14), (2, 3, 8, 7, 6)], ids=str)
def test_is_what_topolosses_says_of_classes(
    loss_class: Any, background: bool, shape: tuple[int, ...]
) -> None:
    if len(shape) == 5 and loss_class is TopographLoss:
        pytest.skip("is for pictures only")
    peer = topolosses(loss_class, softmax=True, include_background=background)
    batch = make_batch(shape=shape, dtype=torch.float32)
    value, gradient = value_and_gradient(
        loss_class(Multiclass(background=background)), batch.logits, batch.target
    )
    expected, slope = value_and_gradient(peer, batch.logits, one_hot(batch.target, shape[1]))
    assert value > 1
    assert_close(value, expected)
    assert_close(gradient, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_is_what_topolosses_says_of_regions(channels: int) -> None:
    peer = topolosses(BettiMatchingLoss, sigmoid=True, include_background=True)
    batch = make_batch(Multilabel(), shape=(2, channels, 12, 11), dtype=torch.float32)
    target = batch.target.float()
    value, gradient = value_and_gradient(BettiMatchingLoss(Multilabel()), batch.logits, target)
    expected, slope = value_and_gradient(peer, batch.logits, target)
    assert_close(value, expected)
    assert_close(gradient, slope, rtol=1e-4, atol=1e-6)


def test_topograph_of_a_single_channel_is_that_of_two_classes() -> None:
    """Its package takes the argmax of the one channel: a loss of 0 whatever the prediction."""
    peer = topolosses(TopographLoss, sigmoid=True, include_background=True)
    batch = make_batch(Multilabel(), shape=(2, 1, 12, 11), dtype=torch.float32)
    assert peer(batch.logits, batch.target.float()) == 0
    value, gradient = value_and_gradient(TopographLoss(Multilabel()), batch.logits, batch.target)
    pair = torch.cat([-batch.logits, batch.logits], 1) / 2
    expected, slope = value_and_gradient(TopographLoss(FOREGROUND), pair, batch.target[:, 0])
    assert value > 1
    assert_close(value, expected)
    assert_close(gradient, (slope[:, 1:] - slope[:, :1]) / 2)


@each_loss
def test_options_reach_topolosses(loss_class: Any) -> None:
    batch = make_batch(shape=(1, 2, 16, 14), dtype=torch.float32)
    options, theirs = (
        ({"filtration": "bothlevels", "least_lifetime": 0.3},
         {"filtration_type": "bothlevels", "barcode_length_threshold": 0.3})
        if loss_class is BettiMatchingLoss
        else ({"connectivity": 4, "aggregation": "max"},
              {"eight_connectivity": False, "aggregation": "max"})
    )  # fmt: skip
    peer = topolosses(loss_class, softmax=True, **theirs)
    value = loss_class(**options)(batch.logits, batch.target)
    assert_close(value, peer(batch.logits, one_hot(batch.target, 2)))
    assert abs(value - loss_class()(batch.logits, batch.target)) > 0.1


@each_loss
def test_a_perfect_prediction_costs_nothing_and_a_gap_costs(loss_class: Any) -> None:
    topolosses(loss_class)
    label = torch.zeros(1, 9, 12, dtype=torch.long)
    label[:, 4] = 1
    perfect = 200 * (one_hot(label, 2) - 0.5)
    value, gradient = value_and_gradient(loss_class(), perfect, label)
    assert value == 0 and not gradient.any()
    broken = perfect / 40
    broken[:, :, 4, 6] *= -0.5
    value, gradient = value_and_gradient(loss_class(), broken, label)
    assert value > 0.5
    assert gradient[0, 1, 4, 6] < 0  # a larger logit there would mend it


def test_the_same_twice() -> None:
    topolosses(BettiMatchingLoss)
    batch = make_batch(shape=(2, 3, 20, 18), dtype=torch.float32)
    a, b = (
        value_and_gradient(BettiMatchingLoss(crop=12), batch.logits, batch.target) for _ in range(2)
    )
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
