"""Penalties on logits: by hand, as their papers combine them, and where they keep quiet."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from segloss import (
    CrossEntropyLoss,
    LabelTree,
    LogSumExpLoss,
    MarginSmoothingLoss,
    Multiclass,
    Multilabel,
    NeighbourAwareCalibrationLoss,
    Tree,
)
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import ENCODINGS, make_batch


def test_margin_smoothing_as_published() -> None:
    batch = make_batch(scale=12.0)
    loss = CrossEntropyLoss() + 0.1 * MarginSmoothingLoss()
    excess = batch.logits.max(1, keepdim=True).values - batch.logits - 10
    expected = cross_entropy(batch.logits, batch.target) + 0.1 * excess.clamp(min=0).mean()
    assert_close(loss(batch.logits, batch.target), expected)


def test_logits_within_the_margin_cost_nothing() -> None:
    batch = make_batch(scale=1.0)
    value, gradient = value_and_gradient(MarginSmoothingLoss(), batch.logits, batch.target)
    assert value == 0
    assert not gradient.any()


def test_a_sigmoid_has_two_logits() -> None:
    logits = torch.tensor([14.0, -14.0, 3.0]).double().reshape(3, 1, 1, 1)
    options: dict[str, Any] = {"group": "sample", "reduction": "none"}
    both = torch.cat([logits / 2, -logits / 2], 1)
    for loss_class in (MarginSmoothingLoss, LogSumExpLoss):
        found = loss_class(Multilabel(), **options)(logits, torch.ones_like(logits))
        assert_close(found, loss_class(**options)(both, torch.ones(3, 1, 1)))
    excess = MarginSmoothingLoss(Multilabel(), **options)(logits, torch.ones_like(logits))
    assert_close(excess, torch.tensor([2.0, 2.0, 0.0]).double())


def test_a_tie_for_the_largest_logit_is_pulled_evenly() -> None:
    logits = torch.tensor([5.0, 5.0, 0.0]).double().reshape(1, 3, 1, 1)
    loss = MarginSmoothingLoss(margin=1.0)
    _, gradient = value_and_gradient(loss, logits, torch.zeros(1, 1, 1))
    assert_close(gradient.flatten(), torch.tensor([1 / 6, 1 / 6, -1 / 3]).double())


def test_log_sum_exp_draws_to_probabilities_without_a_factor() -> None:
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).reshape(1, 3, 1, 1)
    value, gradient = value_and_gradient(LogSumExpLoss(), p.log(), torch.zeros(1, 1, 1))
    assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-20)
    assert gradient.abs().max() < 1e-12
    value, gradient = value_and_gradient(LogSumExpLoss(), p.log() + 3, torch.zeros(1, 1, 1))
    assert_close(value.item(), 9.0)
    assert_close(gradient, 6 * p)


@pytest.mark.parametrize("loss_class", [MarginSmoothingLoss, LogSumExpLoss])
def test_the_label_does_not_matter(loss_class: Any) -> None:
    batch = make_batch(scale=8.0)
    loss = loss_class()
    other = (batch.target + 1) % 3
    assert_close(loss(batch.logits, other), loss(batch.logits, batch.target))


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("margin", [0.0, 1.0, 10.0])
def test_margins_are_as_defined(margin: float, encoding: Any) -> None:
    batch = make_batch(encoding, scale=8.0)
    loss = MarginSmoothingLoss(encoding, margin=margin, group="sample", reduction="none")
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})
    value, _ = value_and_gradient(loss, batch.logits, batch.target)
    assert (value > 0).all()


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_derivatives_beyond_the_margin(encoding: Any) -> None:
    loss = MarginSmoothingLoss(encoding, margin=1.0)
    batch = make_batch(encoding, shape=(1, 3, 2, 3), scale=4.0)
    inputs = (batch.logits.requires_grad_(), batch.target)
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("margin", [-1.0, float("inf")])
def test_a_margin_out_of_range(margin: float) -> None:
    with pytest.raises(ValueError, match=f"margin must .*got {margin}"):
        MarginSmoothingLoss(margin=margin)


@pytest.mark.parametrize("space", [(7, 6), (5, 6, 4)], ids=["2d", "3d"])
def test_neighbours_away_from_the_border_are_those_of_monai(space: tuple[int, ...]) -> None:
    from monai.losses import NACLLoss

    batch = make_batch(shape=(2, 3, *space), dtype=torch.float32)
    peer = NACLLoss(classes=3, dim=len(space))
    ours = CrossEntropyLoss() + 0.1 * NeighbourAwareCalibrationLoss(group="batch")
    _, expected = value_and_gradient(peer, batch.logits, batch.target)
    _, found = value_and_gradient(ours, batch.logits, batch.target)
    inside = [slice(None)] * 2 + [slice(1, -1)] * len(space)
    assert_close(found[tuple(inside)], expected[tuple(inside)])


def test_a_voxel_at_the_border_has_fewer_neighbours() -> None:
    """Where the image is all of a class, so are a voxel's neighbours, those at its border too."""
    from monai.losses import NACLLoss

    labels = torch.ones(1, 4, 5).long()
    logits = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    assert NeighbourAwareCalibrationLoss()(logits, labels) == 0
    peer = NACLLoss(classes=2, dim=2).get_constr_target(labels)
    assert_close(peer[0, 1, 0, 0].item(), 4 / 9)


def test_what_does_not_count_is_no_neighbour() -> None:
    labels = torch.tensor([[[0, 255, 1, 1]]])
    expected = torch.tensor([[1.0, 0.5, 0, 0], [0, 0.5, 1, 1]]).double()[None, :, None]
    loss = NeighbourAwareCalibrationLoss(Multiclass(ignore=255), reduction="none")
    assert not loss(expected, labels).any()
    changed = expected.clone()
    changed[..., 1] = 100
    assert not loss(changed, labels).any()
    known = labels.masked_fill(labels == 255, 0)
    weight = (labels != 255).double()
    loss = NeighbourAwareCalibrationLoss(reduction="none")
    assert not loss(changed, known, weight=weight).any()
    assert loss(expected, known)[0, 0] > 0.1


def test_a_weight_says_how_much_and_not_how_near() -> None:
    batch = make_batch(shape=(1, 3, 4, 5))
    loss = NeighbourAwareCalibrationLoss()
    value = loss(batch.logits, batch.target, weight=torch.full((1, 4, 5), 7.0))
    assert_close(value, loss(batch.logits, batch.target))


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("space", [(5, 4), (1, 6), (3, 4, 2)], ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_neighbours_are_as_defined(encoding: Any, space: tuple[int, ...], soft: bool) -> None:
    batch = make_batch(encoding, shape=(2, 3, *space), soft=soft and encoding.ignore is None)
    weight = [1.0, 2.0, 0.5][encoding.first :]
    for group in ("sample", "batch"):
        loss = NeighbourAwareCalibrationLoss(encoding, group=group, class_weight=weight)
        assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})


@pytest.mark.parametrize("loss_class", [MarginSmoothingLoss, NeighbourAwareCalibrationLoss])
def test_an_encoding_that_does_not_list_the_outcomes(loss_class: Any) -> None:
    with pytest.raises(TypeError, match=f"{loss_class.__name__} .*Multiclass or Multilabel"):
        loss_class(Tree(LabelTree({"liver": {"tumour": None}})))
