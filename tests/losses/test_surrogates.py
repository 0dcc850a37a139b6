"""Squentropy and sparsemax: by hand, against their definitions, and in company."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from segloss import (
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    LabelTree,
    Multiclass,
    Multilabel,
    NormalizedCrossEntropyLoss,
    SparsemaxLoss,
    SquentropyLoss,
    Tree,
)
from segloss.losses.surrogates import sparsemax
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import make_batch

BOTH = pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)


def random(*shape: int, scale: float = 2.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return scale * torch.randn(*shape, generator=rng, dtype=torch.float64)


def test_squentropy_by_hand() -> None:
    logits = torch.tensor([2.0, -1.0, 3.0]).double().reshape(1, 3, 1, 1)
    label = torch.zeros(1, 1, 1).long()
    expected = CrossEntropyLoss()(logits, label) + (1 + 9) / 2
    assert_close(SquentropyLoss()(logits, label), expected)
    yes = SquentropyLoss(Multilabel())(logits[:, 2:], torch.ones(1, 1, 1, 1))
    assert_close(yes.item(), torch.tensor(-3.0).exp().log1p().item() + 1.5**2)


def test_squentropy_is_least_where_only_the_true_logit_is_large() -> None:
    logits = torch.tensor([40.0, 0.0, 0.0]).double().reshape(1, 3, 1, 1)
    value, gradient = value_and_gradient(SquentropyLoss(), logits, torch.zeros(1, 1, 1).long())
    assert value < 1e-15
    assert gradient.abs().max() < 1e-15


def test_squentropy_sees_by_how_much_all_logits_are_off() -> None:
    batch = make_batch()
    loss = SquentropyLoss()
    shifted = loss(batch.logits + 1, batch.target)
    assert (shifted - loss(batch.logits, batch.target)).abs() > 0.1


@pytest.mark.parametrize("outcomes", [2, 3, 7, 40])
def test_sparsemax_is_the_nearest_distribution(outcomes: int) -> None:
    logits = random(50, outcomes, scale=1.0)
    found = sparsemax(logits - logits.amax(1, keepdim=True))
    assert_close(found.sum(1), torch.ones(50).double())
    assert (found >= 0).all()
    assert (found == 0).any()
    assert (found > 0).sum() > 50
    others = random(2000, 1, outcomes, scale=3.0).softmax(2)
    distance = (found - logits).square().sum(1)
    assert (distance <= (others - logits).square().sum(2) + 1e-12).all()


def test_sparsemax_splits_ties_evenly() -> None:
    assert sparsemax(torch.zeros(1, 4)).tolist() == [[0.25] * 4]
    assert sparsemax(torch.tensor([[0.0, 0.0, -9.0]])).tolist() == [[0.5, 0.5, 0.0]]


def test_the_gradient_of_sparsemax_is_prediction_minus_target() -> None:
    logits, labels = random(40, 5, 1, 1), torch.arange(40).reshape(40, 1, 1) % 5
    _, gradient = value_and_gradient(SparsemaxLoss(reduction="sum"), logits, labels)
    flat = logits.flatten(1)
    pred = sparsemax(flat - flat.amax(1, keepdim=True))
    one_hot = torch.nn.functional.one_hot(labels.flatten(), 5)
    assert_close(gradient.flatten(1), (pred - one_hot) / 40)


@BOTH
def test_with_two_outcomes_sparsemax_is_the_modified_huber_loss(encoding: Any) -> None:
    t = torch.tensor([-5.0, -1.0, -0.5, 0.0, 0.3, 0.99, 1.0, 4.0]).double()
    expected = torch.where(t <= -1, -t, (1 - t) ** 2 / 4).where(t < 1, 0)
    if isinstance(encoding, Multiclass):
        logits = torch.stack([t + 7, torch.full_like(t, 7.0)], 1)[..., None, None]
        target = torch.zeros(8, 1, 1)
    else:
        logits, target = t.reshape(8, 1, 1, 1), torch.ones(8, 1, 1, 1)
    loss = SparsemaxLoss(encoding, group="sample", reduction="none")
    assert_close(loss(logits, target), expected)
    if isinstance(encoding, Multilabel):
        assert_close(loss(-logits, 1 - target), expected)


def test_a_voxel_that_wins_by_a_margin_of_1_neither_costs_nor_pulls() -> None:
    logits = torch.tensor([0.0, -1.0, -2.0]).reshape(1, 3, 1, 1)
    value, gradient = value_and_gradient(SparsemaxLoss(), logits, torch.zeros(1, 1, 1).long())
    assert value == 0
    assert not gradient.any()


@BOTH
def test_share_a_pass_with_other_losses(encoding: Any) -> None:
    batch = make_batch(encoding)
    terms = [
        SparsemaxLoss(encoding),
        DiceLoss(encoding),
        SquentropyLoss(encoding, class_weight=[1.0, 2.0, 3.0]),
        CrossEntropyLoss(encoding),
    ]
    alone = sum(x(batch.logits, batch.target, weight=batch.weight) for x in terms)
    assert_close(CompoundLoss(terms)(batch.logits, batch.target, weight=batch.weight), alone)
    # The last has no closed form: then none is used.
    for joint in (terms, [*terms, NormalizedCrossEntropyLoss(encoding)]):
        assert_as_defined(CompoundLoss(joint), batch.logits, batch.target, {"weight": batch.weight})


@pytest.mark.parametrize("loss_class", [SquentropyLoss, SparsemaxLoss])
def test_an_encoding_that_does_not_list_the_outcomes(loss_class: Any) -> None:
    with pytest.raises(TypeError, match=f"{loss_class.__name__} .*Multiclass or Multilabel"):
        loss_class(Tree(LabelTree({"liver": {"tumour": None}})))
