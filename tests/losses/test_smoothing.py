"""Label smoothing against PyTorch's, and where ours differs on purpose."""

from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.testing import assert_close

from segloss import CrossEntropyLoss, DiceLoss, LabelTree, Multiclass, Multilabel, Tree
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import ENCODINGS, make_batch

WEIGHT = [0.2, 1.0, 3.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("ignore", [None, -1])
def test_labels_cost_what_they_cost_in_pytorch(
    smoothing: float, weight: list[float] | None, ignore: int | None
) -> None:
    batch = make_batch(Multiclass(ignore=ignore), shape=(2, 3, 4, 3, 2))
    ours = CrossEntropyLoss(
        Multiclass(ignore=ignore), label_smoothing=smoothing, class_weight=weight
    )
    options: dict[str, Any] = {"label_smoothing": smoothing, "ignore_index": -1}
    if weight is not None:
        options["weight"] = torch.tensor(weight).double()
    expected = value_and_gradient(
        lambda x, y: cross_entropy(x, y, **options), batch.logits, batch.target
    )
    assert_close(value_and_gradient(ours, batch.logits, batch.target), expected)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_memberships_cost_what_they_cost_in_pytorch(smoothing: float) -> None:
    batch = make_batch(soft=True)
    ours = CrossEntropyLoss(label_smoothing=smoothing)
    expected = cross_entropy(batch.logits, batch.target, label_smoothing=smoothing)
    assert_close(ours(batch.logits, batch.target), expected)


def test_yes_and_no_are_two_classes() -> None:
    batch = make_batch(Multilabel())
    ours = CrossEntropyLoss(Multilabel(), label_smoothing=0.2)
    smooth = 0.8 * batch.target.double() + 0.1
    assert_close(
        ours(batch.logits, batch.target), binary_cross_entropy_with_logits(batch.logits, smooth)
    )


def test_the_mean_does_not_run_over_ignored_voxels() -> None:
    """Defect 14: the more is ignored, the smaller the loss."""
    logits, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long()
    labels[:, 2:] = 255
    loss = CrossEntropyLoss(Multiclass(ignore=255), label_smoothing=0.1)
    assert_close(loss(logits, labels).item(), torch.tensor(3.0).log().item())


def test_a_voxel_of_a_class_without_weight_counts_for_nothing() -> None:
    batch = make_batch()
    loss = CrossEntropyLoss(label_smoothing=0.3, class_weight=[0.0, 1.0, 2.0])
    _, gradient = value_and_gradient(loss, batch.logits, batch.target)
    assert not gradient.movedim(1, -1)[batch.target == 0].any()
    assert gradient.movedim(1, -1)[batch.target != 0].all()
    leaving_out = CrossEntropyLoss(
        Multiclass(background=False), label_smoothing=0.3, class_weight=[1.0, 2.0]
    )
    assert_close(leaving_out(batch.logits, batch.target), loss(batch.logits, batch.target))


def test_the_least_is_where_the_prediction_is_as_smooth_as_the_target() -> None:
    smooth = torch.tensor([0.8, 0.1, 0.1]).double().log().reshape(1, 3, 1, 1)
    loss = CrossEntropyLoss(label_smoothing=0.3)
    _, gradient = value_and_gradient(loss, smooth, torch.zeros(1, 1, 1).long())
    assert_close(gradient, torch.zeros_like(gradient))
    _, gradient = value_and_gradient(loss, 2 * smooth, torch.zeros(1, 1, 1).long())
    assert gradient.abs().max() > 0.05


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_with_each_encoding_and_in_company(encoding: Any) -> None:
    batch = make_batch(encoding, shape=(2, 4, 3, 4, 2))
    weight = [1.0, 2.0, 0.5, 3.0][encoding.first :]
    smooth = CrossEntropyLoss(encoding, label_smoothing=0.2, class_weight=weight)
    both = smooth + DiceLoss(encoding) + 0.5 * CrossEntropyLoss(encoding)
    for loss in (smooth, both):
        assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_first_and_second_derivatives(encoding: Any) -> None:
    loss = CrossEntropyLoss(encoding, label_smoothing=0.2)
    batch = make_batch(encoding, shape=(1, 3, 2, 3))
    inputs = (batch.logits.requires_grad_(), batch.target)
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_extreme_logits_stay_finite(encoding: Any, dtype: torch.dtype) -> None:
    batch = make_batch(encoding)
    logits = (1e4 * batch.logits.sign()).to(dtype)
    loss = CrossEntropyLoss(encoding, label_smoothing=0.1)
    value, gradient = value_and_gradient(loss, logits, batch.target)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_a_smoothing_out_of_range(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing must .*got {smoothing}"):
        CrossEntropyLoss(label_smoothing=smoothing)


def test_an_encoding_without_channels_to_smooth_over() -> None:
    tree = Tree(LabelTree({"liver": {"tumour": None}}))
    assert CrossEntropyLoss(tree).label_smoothing == 0
    with pytest.raises(TypeError, match=r"label_smoothing .*Multiclass and Multilabel, got Tree"):
        CrossEntropyLoss(tree, label_smoothing=0.1)
