"""Instance losses against the loop they replace: a mask, a Dice, one component after the other."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    BlobLoss,
    ConnectedComponentDiceLoss,
    CrossEntropyLoss,
    DiceLoss,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
)
from segloss.engine import block
from segloss.transforms import InstanceRegions
from tests.losses.checks import assert_as_defined, value_and_gradient
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


@given(
    loss_class=st.sampled_from(INSTANCE),
    encoding=st.sampled_from(ENCODINGS),
    seed=st.integers(0, 2**31),
    size=st.integers(1, 60),
    smooth=st.sampled_from([1e-5, 1.0]),
    data=st.data(),
)
@settings(max_examples=25)
def test_is_the_loop_in_blocks_of_any_size(
    loss_class: Any, encoding: Any, seed: int, size: int, smooth: float, data: st.DataObject
) -> None:
    loss = loss_class(encoding, smooth_nr=smooth, smooth_dr=smooth)
    c = data.draw(st.integers(2, 4))
    batch = make_batch(
        encoding, shape=(2, c, 5, 4), seed=seed, present=data.draw(st.integers(1, c))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "_CPU", size)
        maps = batch.maps(loss, weight=data.draw(st.booleans()))
        assert_as_defined(loss, batch.logits, batch.target, maps)


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


@each_loss
@pytest.mark.parametrize("encoding", [Multiclass(ignore=255), Multilabel()], ids=str)
def test_gradcheck(loss_class: Any, encoding: Any) -> None:
    loss = loss_class(encoding)
    batch = make_batch(encoding, shape=(2, 3, 4, 3))
    maps = batch.maps(loss, weight=True)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, batch.target, **maps), batch.logits.requires_grad_()
    )


@each_loss
def test_is_differentiable_once(loss_class: Any) -> None:
    loss = loss_class()
    batch = make_batch(loss.encoding)
    logits = batch.logits.requires_grad_()
    value = loss(logits, batch.target, **batch.maps(loss))
    with pytest.raises(RuntimeError):
        torch.autograd.grad(value, logits, create_graph=True)[0].sum().backward()


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
@pytest.mark.parametrize("encoding", [Multiclass(ignore=255), Multilabel(ignore=255)], ids=str)
def test_ignored_voxels_have_no_say(loss_class: Any, encoding: Any) -> None:
    loss = loss_class(encoding)
    batch = make_batch(encoding)
    maps = batch.maps(loss)
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, **maps)
    ignored = batch.target == 255
    ignored = (
        ignored if ignored.ndim == 5 or ignored.shape == batch.logits.shape else ignored[:, None]
    )
    moved = batch.logits + 3 * ignored
    assert_close(loss(moved, batch.target, **maps), value)
    assert not (gradient * ignored).any()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_huge_logits(loss_class: Any, dtype: torch.dtype) -> None:
    loss = loss_class()
    batch = make_batch(loss.encoding, shape=(1, 3, 40, 40, 40), dtype=torch.float32)
    maps = batch.maps(loss)
    half = batch.logits.to(dtype)
    value, gradient = value_and_gradient(loss, half, batch.target, **maps)
    expected, slope = value_and_gradient(loss, half.float(), batch.target, **maps)
    assert value.dtype == torch.float32
    assert_close(value, expected)
    assert_close(gradient.float(), slope, atol=1e-7, rtol=1e-2)
    value, gradient = value_and_gradient(loss, batch.logits.sign() * 1e4, batch.target, **maps)
    assert value.isfinite()
    assert gradient.isfinite().all()


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
    logits, kept = batch.logits.requires_grad_(), set()

    def keep(x: Tensor) -> Tensor:
        kept.add((x.data_ptr(), x.numel()))
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss(logits, batch.target, **batch.maps(loss))
    large = {pointer for pointer, size in kept if size >= 32 * 32}
    given_ = {x.data_ptr() for x in (logits, batch.target, *batch.maps(loss).values())}
    assert large <= given_


def test_shares_a_call_with_losses_of_other_maps() -> None:
    loss = ConnectedComponentDiceLoss() + CrossEntropyLoss() + SkeletonRecallLoss() + BlobLoss()
    batch = make_batch(Multiclass(background=False))
    maps = batch.maps(loss)
    assert maps.keys() == {"skeleton", "instances"}
    alone = [term(batch.logits, batch.target, **batch.maps(term)) for term in loss.losses.values()]
    assert_close(loss(batch.logits, batch.target, **maps), torch.stack(alone).sum())
