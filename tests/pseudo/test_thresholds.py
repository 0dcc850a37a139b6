"""Each rule against its formula in double precision, step by step, and where published ones fail."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import Linear
from segloss.pseudo import (
    DynamicThreshold,
    EntropyPercentile,
    FixedThreshold,
    FlexMatchThreshold,
    FreeMatchThreshold,
    PseudoLabels,
    SoftMatchWeight,
    ThresholdRule,
)
from tests.pseudo.teachers import SHAPES, teacher_logits, two_classes, void_for

RULES: list[Any] = [
    lambda c: FixedThreshold(0.8),
    lambda c: DynamicThreshold(beta=10),
    lambda c: EntropyPercentile(60),
    lambda c: FlexMatchThreshold(c, momentum=0.9, threshold=0.8),
    lambda c: FreeMatchThreshold(c, momentum=0.9),
    lambda c: SoftMatchWeight(c, momentum=0.9),
]


@pytest.fixture(params=RULES, ids=lambda make: type(make(3)).__name__)
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def batches(shape: tuple[int, ...], steps: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Probabilities of a teacher that grows surer, and void voxels."""
    logits = [teacher_logits(shape, seed=i, scale=1.0 + i) for i in range(steps)]
    return [(x.softmax(1), void_for(x, seed=20 + i)) for i, x in enumerate(logits)]


def of_those_that_count(p: Tensor, void: Tensor) -> Tensor:
    """``(c, n)`` probabilities."""
    return p.movedim(1, 0)[:, ~void]


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_fixed_and_dynamic(shape: tuple[int, ...]) -> None:
    for p, void in batches(shape):
        confidence = of_those_that_count(p, void).amax(0)
        assert torch.equal(FixedThreshold(0.8)(p, void)[~void], confidence >= 0.8)
        mean = confidence.mean().item()
        tau = min(max(0.6 / (1 + math.exp(-10 * (mean - 0.5))), 0.3), 0.8)
        found = DynamicThreshold(beta=10)(p, void)
        assert torch.equal(found[~void], confidence > tau)


def test_a_confidence_at_the_threshold() -> None:
    """FixMatch keeps it, and CW-BASS does not."""
    p = two_classes([0.75])
    assert FixedThreshold(0.75)(p)
    assert not DynamicThreshold(low=0.75, high=0.75)(p)


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize("percent", [0.0, 37.5, 80.0, 100.0])
def test_entropy_percentile(shape: tuple[int, ...], percent: float) -> None:
    for p, void in batches(shape):
        counted = of_those_that_count(p, void)
        entropy = -(counted * counted.log()).sum(0)
        cut = np.percentile(entropy.numpy(), percent)
        expected = entropy < cut if percent < 100 else torch.ones_like(entropy).bool()
        assert torch.equal(EntropyPercentile(percent)(p, void)[~void], expected)


def test_entropy_percentile_follows_a_schedule_that_is_saved() -> None:
    rule = EntropyPercentile(Linear(80.0, 100.0, 4))
    p = teacher_logits((1, 3, 20, 20)).softmax(1)
    shares = []
    for _ in range(6):
        shares.append(rule(p).double().mean().item())
        rule.step()
    assert shares == pytest.approx([0.8, 0.85, 0.9, 0.95, 1.0, 1.0])
    other = EntropyPercentile(Linear(80.0, 100.0, 4))
    other.load_state_dict(rule.state_dict())
    assert other.epoch == 6


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize("floor", [0.0, 0.6])
def test_free_match(shape: tuple[int, ...], floor: float) -> None:
    c, m = shape[1], 0.9
    rule = FreeMatchThreshold(c, momentum=m, floor=floor).double()
    overall, share = 1 / c, torch.full((c,), 1 / c, dtype=torch.float64)
    for p, void in batches(shape):
        counted = of_those_that_count(p, void)
        confidence, label = counted.max(0)
        overall = m * overall + (1 - m) * confidence.mean().item()
        share = m * share + (1 - m) * counted.mean(1)
        thresholds = (overall * share / share.max()).clamp(min=floor)
        found = rule(p, void)
        assert_close(rule.thresholds, thresholds)
        assert torch.equal(found[~void], confidence >= thresholds[label])


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize("warm_up", [True, False])
def test_flex_match(shape: tuple[int, ...], warm_up: bool) -> None:
    c, m = shape[1], 0.9
    rule = FlexMatchThreshold(c, momentum=m, threshold=0.8, warm_up=warm_up).double()
    shares = [0.0] * c
    for p, void in batches(shape):
        confidence, label = of_those_that_count(p, void).max(0)
        for k in range(c):
            sure = ((confidence >= 0.8) & (label == k)).double().mean().item()
            shares[k] = m * shares[k] + (1 - m) * sure
        most = max(*shares, 1 - sum(shares)) if warm_up else max(shares)
        thresholds = torch.tensor([0.8 * (s / most) / (2 - s / most) for s in shares]).double()
        found = rule(p, void)
        assert_close(rule.thresholds, thresholds, rtol=1e-6, atol=1e-7)
        assert torch.equal(found[~void], confidence >= thresholds[label])


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_soft_match(shape: tuple[int, ...]) -> None:
    m, n = 0.5, 2.0
    rule = SoftMatchWeight(shape[1], momentum=m, width=n).double()
    mean, variance = 1 / shape[1], 1.0
    for p, void in batches(shape):
        confidence = of_those_that_count(p, void).amax(0)
        mean = m * mean + (1 - m) * confidence.mean().item()
        variance = m * variance + (1 - m) * confidence.var(unbiased=True).item()
        expected = torch.exp(-((confidence - mean).clamp(max=0) ** 2) / (2 * variance / n**2))
        assert_close(rule(p, void)[~void], expected)
    assert expected.min() < 0.9


# What all rules promise.


def test_void_voxels_do_not_matter(make: Any) -> None:
    """Neither to the statistics nor to the choice."""
    p, void = batches((2, 3, 6, 5))[0]
    sure = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[None, :, None, None]
    rule, other = make(3), make(3)
    found = rule(p, void)
    assert torch.equal(found, other(torch.where(void[:, None], sure, p), void))
    for name, x in rule.state_dict().items():
        assert not isinstance(x, Tensor) or torch.equal(x, other.state_dict()[name])
    assert not found[void].any()
    assert found.any()


def test_statistics_change_in_training_only_and_are_saved(make: Any) -> None:
    seen = batches((2, 3, 6, 5), steps=6)
    whole, first = make(3), make(3)
    for p, void in seen[:3]:
        whole(p, void)
        first(p, void)
    second = make(3)
    second.load_state_dict(first.state_dict())
    first.eval()(*seen[5])  # does nothing to its state
    for name, x in second.state_dict().items():
        assert not isinstance(x, Tensor) or torch.equal(x, first.state_dict()[name])
    for p, void in seen[3:]:
        assert torch.equal(second(p, void), whole(p, void))


def test_all_void_changes_nothing(make: Any) -> None:
    p, _ = batches((2, 3, 6, 5))[0]
    rule = make(3)
    before = {k: x.clone() for k, x in rule.named_buffers()}
    assert not rule(p, torch.ones(2, 6, 5, dtype=torch.bool)).any()
    for name, x in rule.named_buffers():
        assert torch.equal(x, before[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_saturated_teacher(make: Any, classes: int, dtype: torch.dtype) -> None:
    """Logits of ±10000 everywhere, or anywhere: no NaN, and no statistic is one."""
    logits = torch.full((1, classes, 2, 4), -1e4).to(dtype)
    logits[:, 0] = 1e4
    rule = make(classes)
    for _ in range(3):
        chosen = rule(logits.float().softmax(1).to(dtype))
        assert chosen.dtype == torch.bool or chosen.isfinite().all()
    assert all(x.isfinite().all() for x in rule.buffers())
    if not isinstance(rule, EntropyPercentile):
        assert (chosen > 0).all()


def test_has_no_gradient(make: Any) -> None:
    p = teacher_logits().softmax(1).requires_grad_()
    assert not make(3)(p).requires_grad


def test_says_its_options(make: Any) -> None:
    rule = make(3)
    twin = eval(repr(rule), {type(rule).__name__: type(rule)})
    assert repr(twin) == repr(rule)


# Where published rules fail, and what ours then do.


def test_the_published_dynamic_threshold_hardly_moves() -> None:
    """From 0.300 to 0.337, whatever the mean: two classes, of which one has 0.5, are all kept."""
    published = DynamicThreshold()
    means = torch.linspace(0, 1, 101)
    tau = torch.stack([published.at(mean) for mean in means])
    assert (tau.min().item(), tau.max().item()) == pytest.approx((0.3, 0.3373), abs=5e-5)
    steep = DynamicThreshold(beta=10)
    found = [steep.at(torch.tensor(mean)).item() for mean in (0.5, 0.7, 0.9)]
    assert found == pytest.approx([0.3, 0.528, 0.589], abs=5e-4)
    logits = teacher_logits((2, 2, 9, 9))
    with pytest.warns(UserWarning, match="0.337, and with 2 classes no confidence is below 0.500"):
        assert PseudoLabels.of(logits, published).kept == 1
    assert PseudoLabels.of(logits, published).kept == 1  # and it does not warn again


def test_a_rare_class_is_not_filtered_unless_there_is_a_floor() -> None:
    p = torch.tensor([0.95, 0.03, 0.02])[None, :, None, None].expand(1, 3, 4, 4)
    rule = FreeMatchThreshold(3, momentum=0.0)
    rule(p)
    rule.overall.fill_(0.9)
    assert rule.thresholds.tolist() == pytest.approx([0.9, 0.0284, 0.0189], abs=5e-5)
    unsure = torch.tensor([0.3, 0.3, 0.4])[None, :, None, None]
    assert rule.eval()(unsure)
    rule.floor = 0.5
    assert not rule(unsure)
    flex = FlexMatchThreshold(2, momentum=0.0)
    flex.counted.copy_(torch.tensor([0.98, 0.02 * 0.98]))
    assert flex.thresholds[1].item() == pytest.approx(0.0096, abs=5e-5)


def test_a_saturated_teacher_does_not_make_u2pl_nan() -> None:
    """Of entropies that are 0, none is below their percentile: nothing is kept, and 1/0 is NaN."""
    rule = EntropyPercentile(80.0)
    assert not rule(two_classes([1.0] * 9 + [0.5])).any()
    assert rule(two_classes([1.0] * 7 + [0.5] * 3)).sum() == 7


def test_soft_match_does_not_divide_by_no_variance() -> None:
    rule = SoftMatchWeight(2, momentum=0.0)
    assert rule(two_classes([0.75, 0.75])).tolist() == [[[1, 1]]]
    assert rule.variance == 0
    assert rule.eval()(two_classes([0.5, 0.75, 1.0])).tolist() == [[[0, 1, 1]]]


@pytest.mark.parametrize(("threshold", "part"), [(0.0, "every"), (1.0, "no")])
def test_warns_once_of_a_threshold_that_does_nothing(threshold: float, part: str) -> None:
    rule = FixedThreshold(threshold)
    p = two_classes([0.6, 0.7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(99):
            rule(p)
        for _ in range(200):
            rule.eval()(p)
    rule.train()
    with pytest.warns(UserWarning, match=rf"threshold={threshold}\) kept {part} voxel in 100"):
        rule(p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            rule(p)


def test_does_not_warn_of_a_threshold_that_does_something() -> None:
    rule = FixedThreshold(0.9)
    for i in range(300):  # one voxel in every hundred batches
        rule(two_classes([0.6, 0.95 if i % 100 == 50 else 0.7]))


@pytest.mark.parametrize(
    ("make_wrong", "message"),
    [
        (lambda: FixedThreshold(95), "threshold must lie between 0 and 1, got 95"),
        (lambda: DynamicThreshold(low=0.9), "low must not be above high, got low=0.9 and high=0.8"),
        (lambda: DynamicThreshold(beta=-1), "beta must be .* at least 0, got -1"),
        (lambda: EntropyPercentile(101), "percent must lie between 0 and 100, got 101 at epoch 0"),
        (lambda: FreeMatchThreshold(1), "classes must be 2 or more, got 1"),
        (lambda: FreeMatchThreshold(2, momentum=2), "momentum must lie between 0 and 1, got 2"),
        (lambda: FlexMatchThreshold(2, floor=-1), "floor must lie between 0 and 1, got -1"),
        (lambda: SoftMatchWeight(2, width=-1), "width must be .* at least 0, got -1"),
    ],
)
def test_options_that_are_none(make_wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_wrong()


def test_another_number_of_classes() -> None:
    with pytest.raises(ValueError, match=r"probability has 2 classes.*made for 3: FreeMatch"):
        FreeMatchThreshold(3)(two_classes([0.5]))


def test_void_of_another_shape(make: Any) -> None:
    with pytest.raises(ValueError, match=r"void has shape \(2, 5, 6\), expected \(2, 6, 5\)"):
        make(3)(teacher_logits().softmax(1), torch.zeros(2, 5, 6, dtype=torch.bool))


def test_a_rule_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ThresholdRule()  # type: ignore[abstract]
