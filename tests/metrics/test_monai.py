"""Both metrics keep MONAI's habits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric
from torch import Tensor
from torch.testing import assert_close

from segloss.metrics import BettiErrorMetric, CenterlineDiceMetric

Make = Callable[..., CumulativeIterationMetric]


@pytest.fixture(params=[CenterlineDiceMetric, BettiErrorMetric], ids=lambda m: m.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    metric: Make = request.param
    return metric


def batch(seed: int, samples: int = 2) -> tuple[Tensor, Tensor]:
    """One-hot masks of three classes; prediction and truth agree in most voxels."""
    rng = torch.Generator().manual_seed(seed)
    true = torch.randint(3, (samples, 1, 12, 12, 12), generator=rng)
    wrong = torch.rand(true.shape, generator=rng) < 0.2
    pred = torch.where(wrong, torch.randint(3, true.shape, generator=rng), true)
    one_hot = [
        torch.zeros(samples, 3, 12, 12, 12).scatter_(1, labels, 1) for labels in (pred, true)
    ]
    return one_hot[0], one_hot[1]


def test_two_batches_count_as_one(make: Make) -> None:
    parts, whole = make(reduction="mean_batch"), make(reduction="mean_batch")
    (p1, t1), (p2, t2) = batch(1), batch(2, samples=3)
    parts(y_pred=p1, y=t1)
    parts(y_pred=p2, y=t2)
    scores = whole(y_pred=torch.cat([p1, p2]), y=torch.cat([t1, t2]))
    assert_close(parts.aggregate(), whole.aggregate())
    assert_close(parts.aggregate(), torch.as_tensor(scores).mean(0))
    assert parts.aggregate().shape == (2,)  # the background is left out
    parts.reset()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="call the metric on a batch first"):
        parts.aggregate()


def test_reduction_and_counts(make: Make) -> None:
    metric = make(include_background=True, reduction="none", get_not_nans=True)
    scores = torch.as_tensor(metric(*batch(1)))
    values, counts = metric.aggregate()
    assert scores.shape == (2, 3)
    assert_close(values, scores)
    assert_close(counts, torch.ones(2, 3))
    assert_close(metric.aggregate("mean")[0], scores.mean()[None])


def test_nan_does_not_count() -> None:
    metric = CenterlineDiceMetric(get_not_nans=True, reduction="mean_batch")
    pred, true = batch(1)
    pred[0, 1], true[0, 1] = 0, 0
    scores = torch.as_tensor(metric(pred, true))
    values, counts = metric.aggregate()
    assert scores[0, 0].isnan()
    assert counts.tolist() == [1, 2]
    assert_close(values[0], scores[1, 0])


@pytest.mark.parametrize(
    "kind", [torch.bool, torch.uint8, torch.bfloat16, torch.float64, "meta", "list"]
)
def test_any_kind_of_mask(make: Make, kind: Any) -> None:
    pred, true = batch(3)
    expected = torch.as_tensor(make()(pred, true))
    if kind == "meta":
        scores = make()(MetaTensor(pred), MetaTensor(true))
    elif kind == "list":
        scores = make()(list(pred), list(true))
    else:
        scores = make()(pred.to(kind), true.to(kind))
    assert_close(torch.as_tensor(scores), expected)


def test_a_single_channel_is_no_background(make: Make) -> None:
    pred, true = (masks[:, 1:2] for masks in batch(3))
    assert_close(make()(pred, true), make(include_background=True)(pred, true))


def test_what_is_wrong_is_named(make: Make) -> None:
    pred, true = batch(1)
    with pytest.raises(ValueError, match="'avg' is not a valid MetricReduction"):
        make(reduction="avg")
    with pytest.raises(ValueError, match=r"y_pred has shape .*1, 12, 12, 12.*AsDiscrete"):
        make()(pred, true.argmax(1, keepdim=True))
    with pytest.raises(
        ValueError, match=r"y_pred must hold only 0 and 1, got values from 0 to 0\.5"
    ):
        make()(pred / 2, true)
    with pytest.raises(ValueError, match="y_pred holds 2 samples and y 1"):
        make()(list(pred), list(true)[:1])
    with pytest.raises(ValueError, match="y, the true masks, is missing"):
        make()(pred)
