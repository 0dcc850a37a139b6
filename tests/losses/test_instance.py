"""Instance losses against the loop they replace: a mask, a Dice, one component after the other."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    BlobLoss,
    ConnectedComponentDiceLoss,
    CrossEntropyLoss,
    DiceLoss,
    Multiclass,
    SkeletonRecallLoss,
)
from segloss.transforms import InstanceRegions
from tests.losses.checks import assert_as_defined, kept_for_backward, value_and_gradient
from tests.strategies import ENCODINGS, INSTANCE, make_batch

each_loss = pytest.mark.parametrize("loss_class", INSTANCE, ids=lambda x: x.__name__)
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=str)


@each_loss
@each_encoding
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (2, 4, 5, 4, 3)], ids=["2d", "3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_is_the_loop(
    loss_class: Any, encoding: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    for group in ("sample", "batch"):
        loss = loss_class(encoding, group=group, reduction="none")
        batch = make_batch(encoding, shape=shape, dtype=dtype)
        for weighted in (False, True):
            assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=weighted))


@each_loss
@pytest.mark.parametrize("channels", [2, 3])
def test_each_class_may_have_numbers_of_its_own(loss_class: Any, channels: int) -> None:
    loss = loss_class(reduction="none")
    batch = make_batch(loss.encoding, shape=(2, 3, 6, 5))
    rng = torch.Generator().manual_seed(1)
    numbers = torch.randint(5, (2, channels, 6, 5), generator=rng)
    assert_as_defined(loss, batch.logits, batch.target, {"instances": numbers})


@each_loss
def test_numbers_may_come_in_any_guise(loss_class: Any) -> None:
    loss = loss_class()
    batch = make_batch(loss.encoding)
    numbers = batch.maps(loss)["instances"]
    expected = loss(batch.logits, batch.target, instances=numbers)
    for guise in numbers[:, None], numbers.byte(), numbers.short(), numbers.int(), numbers.float():
        assert_close(loss(batch.logits, batch.target, instances=guise), expected)


def spheres(regions: str) -> tuple[Tensor, Tensor]:
    """A large and a small lesion, and whose voxels are whose."""
    label = np.zeros((1, 16, 16), np.uint8)
    label[0, 1:9, 1:9] = 1
    label[0, 13:15, 13:15] = 1
    return torch.from_numpy(label).long(), torch.from_numpy(InstanceRegions(regions)(label))


def certain(found: Tensor) -> Tensor:
    found = torch.where(found > 0, 20.0, -20.0)
    return torch.stack([-found, found], 1)


@pytest.mark.parametrize(
    ("loss_class", "regions"), [(BlobLoss, "components"), (ConnectedComponentDiceLoss, "voronoi")]
)
def test_a_small_lesion_counts_as_much_as_a_large_one(loss_class: Any, regions: str) -> None:
    label, instances = spheres(regions)
    assert instances.unique().tolist() == [*([0] if regions == "components" else []), 1, 2]
    loss = loss_class()
    without_small, without_large = (label * (torch.arange(16) < 10), label * (torch.arange(16) > 9))
    for missed in without_small, without_large:
        value = loss(certain(missed), label, instances=instances)
        assert_close(value, torch.tensor(0.5), atol=1e-4, rtol=0)
    assert loss(certain(label), label, instances=instances) < 1e-5
    assert DiceLoss()(certain(without_small), label) < 0.1


def test_a_false_positive_is_charged_to_one_component_or_to_all() -> None:
    label, voronoi = spheres("voronoi")
    _, components = spheres("components")
    found = label.clone()
    found[0, 14, 8:10] = 1  # nearer to the small one
    one = ConnectedComponentDiceLoss(reduction="none")(certain(found), label, instances=voronoi)
    small, large = 1 - 2 * 4 / (4 + 6), 1 - 2 * 64 / (64 + 66)
    assert_close(one, torch.tensor([[small / 2]]), atol=1e-4, rtol=0)
    every = BlobLoss(reduction="none")(certain(found), label, instances=components)
    assert_close(every, torch.tensor([[(small + large) / 2]]), atol=1e-4, rtol=0)


@each_loss
def test_a_sample_without_instances(loss_class: Any) -> None:
    label = torch.zeros(1, 4, 5, dtype=torch.long)
    logits = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    for empty in ("smooth", "skip"):
        value, gradient = value_and_gradient(
            loss_class(empty=empty), logits, label, instances=label
        )
        assert value == 0
        assert not gradient.any()
    penalty = loss_class(empty="penalise")(logits, label, instances=label)
    assert_close(penalty, logits.softmax(1)[:, 1].mean())


@each_loss
def test_a_number_below_zero_or_between(loss_class: Any) -> None:
    loss = loss_class()
    batch = make_batch(loss.encoding)
    numbers = batch.maps(loss)["instances"].clone()
    numbers[0, 0, 0] = -2
    with pytest.raises(ValueError, match=r"instances map holds label -2.*numbered from 1"):
        loss(batch.logits, batch.target, instances=numbers)
    with pytest.raises(ValueError, match=r"instances map.*nearest"):
        loss(batch.logits, batch.target, instances=numbers.abs() + 0.5)


@each_loss
def test_keeps_the_logits_only(loss_class: Any) -> None:
    loss = loss_class()
    batch = make_batch(loss.encoding, shape=(2, 3, 32, 32), dtype=torch.float32)
    kept = kept_for_backward(loss, batch.logits.requires_grad_(), batch.target, **batch.maps(loss))
    assert kept < batch.logits.nbytes / 20


def test_shares_a_call_with_losses_of_other_maps() -> None:
    loss = ConnectedComponentDiceLoss() + CrossEntropyLoss() + SkeletonRecallLoss() + BlobLoss()
    batch = make_batch(Multiclass(background=False))
    maps = batch.maps(loss)
    assert maps.keys() == {"skeleton", "instances"}
    alone = [term(batch.logits, batch.target, **batch.maps(term)) for term in loss.losses.values()]
    assert_close(loss(batch.logits, batch.target, **maps), torch.stack(alone).sum())


def test_has_no_second_derivative_and_says_so() -> None:
    loss = DiceLoss() + BlobLoss()
    batch = make_batch(loss.losses["blob"].encoding)
    logits = batch.logits.requires_grad_()
    value = loss(logits, batch.target, **batch.maps(loss))
    (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(gradient.square().sum(), logits)
