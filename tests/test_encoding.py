"""What the encodings make of targets, and what they refuse."""

import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
)
from tests.losses.checks import assert_as_defined
from tests.strategies import ENCODINGS, IGNORED, make_batch

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=str)


@each_encoding
def test_is_a_value(encoding: Any) -> None:
    assert eval(repr(encoding)) == encoding
    assert pickle.loads(pickle.dumps(encoding)) == encoding
    assert len({encoding, dataclasses.replace(encoding)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoding.ignore = 3


def test_options_go_by_name() -> None:
    for encoding in (Multiclass, Multilabel):
        with pytest.raises(TypeError):
            encoding(True)  # type: ignore[call-arg]


def test_only_a_softmax_has_a_background() -> None:
    with pytest.raises(TypeError):
        Multilabel(background=False)  # type: ignore[call-arg]


@pytest.mark.parametrize("ignore", [-1, 0, 2, 7, 255, 300, -100])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_the_ignore_label_may_be_any_integer(dtype: torch.dtype, ignore: int) -> None:
    """Even one that the target's type cannot hold, and so does not occur."""
    held = dtype.is_floating_point or torch.iinfo(dtype).min <= ignore <= torch.iinfo(dtype).max
    batch = make_batch(shape=(2, 3, 6, 5))
    labels = batch.target.clone()
    if held:
        labels[0, 2:4] = ignore
    assert_as_defined(DiceLoss(Multiclass(ignore=ignore)), batch.logits, labels.to(dtype), {})


@pytest.mark.parametrize("ignore", [258, -254])
def test_a_label_is_not_ignored_for_its_last_byte(ignore: int) -> None:
    batch = make_batch(shape=(2, 3, 6, 5))
    labels = batch.target.to(torch.uint8)
    expected = DiceLoss()(batch.logits, labels)
    assert_close(DiceLoss(Multiclass(ignore=ignore))(batch.logits, labels), expected)


def test_ignoring_the_background_is_not_leaving_it_out() -> None:
    batch = make_batch()
    without = DiceLoss(Multiclass(background=False))(batch.logits, batch.target)
    ignoring = DiceLoss(Multiclass(ignore=0))(batch.logits, batch.target)
    assert abs(without - ignoring) > 1e-3
    assert_as_defined(DiceLoss(Multiclass(ignore=0)), batch.logits, batch.target, {})


def test_ignored_entries_of_one_region_leave_the_others_alone() -> None:
    batch = make_batch(Multilabel())
    target = batch.target.clone()
    target[:, 1] = IGNORED
    for loss in (
        DiceLoss(Multilabel(ignore=IGNORED)),
        CrossEntropyLoss(Multilabel(ignore=IGNORED)),
    ):
        logits = batch.logits.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits, target), logits)
        assert not gradient[:, 1].any()
        assert gradient[:, 0].all() and gradient[:, 2].all()


def test_a_boolean_region_has_nothing_to_ignore() -> None:
    batch = make_batch(Multilabel())
    loss = DiceLoss(Multilabel(ignore=IGNORED))
    expected = loss(batch.logits, batch.target)
    assert_close(loss(batch.logits, batch.target.bool()), expected)


def test_one_region_and_two_classes_are_the_same_question() -> None:
    batch = make_batch(Multilabel(), shape=(2, 1, 6, 5))
    two = torch.cat([torch.zeros_like(batch.logits), batch.logits], 1)
    labels = batch.target[:, 0]
    assert_close(
        DiceLoss(Multilabel())(batch.logits, labels),
        DiceLoss(Multiclass(background=False))(two, labels),
    )
    assert_close(
        CrossEntropyLoss(Multilabel())(batch.logits, labels), CrossEntropyLoss()(two, labels)
    )


def test_a_softmax_does_not_care_for_a_shift_and_a_sigmoid_does() -> None:
    batch = make_batch()
    loss = DiceLoss() + CrossEntropyLoss()
    assert_close(loss(batch.logits + 3, batch.target), loss(batch.logits, batch.target))
    regions = make_batch(Multilabel())
    binary = DiceLoss(Multilabel())
    there = binary(regions.logits + 3, regions.target)
    assert abs(there - binary(regions.logits, regions.target)) > 1e-3


def test_a_distance_map_without_the_background_does_not_do_for_its_loss() -> None:
    batch = make_batch()
    with pytest.raises(ValueError, match=r"distance.*\(2, 2, 6, 5\).*\(2, 3, 6, 5\)"):
        BoundaryLoss(Multiclass())(batch.logits, batch.target, distance=batch.distance[:, 1:])


@pytest.mark.parametrize("first", ["wrong first", "wrong last"])
def test_a_wrong_label_is_found_wherever_it_is(first: str) -> None:
    logits = torch.zeros(1, 2, 100, 100, 100)
    labels = torch.zeros(1, 100, 100, 100, dtype=torch.uint8)
    labels.flatten()[0 if first == "wrong first" else -1] = 2
    with pytest.raises(ValueError, match="label 2"):
        DiceLoss()(logits, labels)


def test_labels_at_the_edge_of_their_type_are_found() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    for wrong in (2**31, 2**53 + 1, -(2**62)):
        labels = torch.zeros(1, 4, 4, dtype=torch.long)
        labels[0, 0, 0] = wrong
        with pytest.raises(ValueError, match=str(wrong)):
            DiceLoss()(logits, labels)
    for weird in (float("inf"), -float("inf"), 1e30):
        with pytest.raises(ValueError, match="target"):
            DiceLoss()(logits, torch.full((1, 4, 4), weird))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_what_pytorch_only_stores_is_refused_by_name(dtype: torch.dtype) -> None:
    logits, labels = torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long)
    with pytest.raises(TypeError, match=rf"target is {dtype}.*\.long\(\)"):
        DiceLoss()(logits, labels.to(dtype))
    with pytest.raises(TypeError, match=rf"skeleton map is {dtype}.*\.long\(\)"):
        SkeletonRecallLoss()(logits, labels, skeleton=labels.to(dtype))
