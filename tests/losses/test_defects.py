"""Defects that other libraries had or have; each test fails on the defect."""

import itertools
from typing import Any

import pytest
import torch
from monai import losses as monai
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from segloss import (
    BlobLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    MCCLoss,
    Multiclass,
    Multilabel,
    SquaredDiceLoss,
    TverskyLoss,
)
from tests.losses.checks import value_and_gradient
from tests.strategies import IGNORED, make_batch

OVERLAP: tuple[Any, ...] = (DiceLoss, JaccardLoss, TverskyLoss, GeneralizedDiceLoss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss_class", [*OVERLAP, SquaredDiceLoss, MCCLoss])
def test_half_precision_sums_of_a_volume_do_not_overflow(
    loss_class: Any, dtype: torch.dtype
) -> None:
    batch = make_batch(shape=(1, 2, 64, 64, 64), dtype=dtype)
    value, gradient = value_and_gradient(loss_class(), batch.logits, batch.target)
    exact = loss_class()(batch.logits.double(), batch.target)
    assert_close(value.double(), exact, rtol=1e-5, atol=0)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_half_precision_sums_under_autocast_do_not_overflow() -> None:
    logits = torch.zeros(1, 2, 64, 64, 64)
    logits[:, 1] = 8
    labels = torch.ones(1, 64, 64, 64, dtype=torch.uint8)
    loss = DiceLoss(Multiclass(background=False))
    expected = value_and_gradient(loss, logits, labels)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            found = value_and_gradient(loss, logits, labels)
        assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_dice_and_cross_entropy_is_a_number(dtype: torch.dtype) -> None:
    batch = make_batch(shape=(1, 2, 64, 64, 64), dtype=dtype, scale=10.0)
    loss = DiceLoss() + CrossEntropyLoss()
    value, gradient = value_and_gradient(loss, batch.logits, batch.target)
    exact = loss(batch.logits.double(), batch.target)
    assert_close(value.double(), exact, rtol=1e-5, atol=0)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_focal_loss_with_a_small_gamma_survives_saturation(
    dtype: torch.dtype, gamma: float, encoding: Any
) -> None:
    batch = make_batch(encoding, dtype=dtype)
    loss = FocalLoss(encoding, gamma=gamma)
    for scale in (100.0, 3e4):
        logits = (batch.logits.sign() * scale).to(dtype)
        value, gradient = value_and_gradient(loss, logits, batch.target)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("loss_class", [FocalLoss, CrossEntropyLoss])
def test_naming_an_ignore_label_that_does_not_occur_changes_nothing(loss_class: Any) -> None:
    batch = make_batch(shape=(2, 5, 4, 4))
    assert_close(
        loss_class(Multiclass(ignore=IGNORED))(batch.logits, batch.target),
        loss_class()(batch.logits, batch.target),
    )


@pytest.mark.parametrize("loss_class", [*OVERLAP, CrossEntropyLoss, FocalLoss])
def test_leaving_out_the_background_leaves_it_in_the_softmax(loss_class: Any) -> None:
    batch = make_batch(shape=(2, 3, 6, 5))
    _, gradient = value_and_gradient(
        loss_class(Multiclass(background=False)), batch.logits, batch.target
    )
    assert gradient[:, 0].any()
    shifted = batch.logits + torch.tensor([5.0, 0, 0]).reshape(1, 3, 1, 1)
    loss = loss_class(Multiclass(background=False))
    assert loss(shifted, batch.target) > loss(batch.logits, batch.target)


def test_regions_get_a_binary_cross_entropy() -> None:
    batch = make_batch(Multilabel())
    value = CrossEntropyLoss(Multilabel())(batch.logits, batch.target)
    binary = F.binary_cross_entropy_with_logits(batch.logits, batch.target.double())
    assert_close(value, binary)
    softmax = F.cross_entropy(batch.logits, batch.target.double())
    assert abs(value - softmax) > 0.1


@pytest.mark.parametrize("loss_class", [*OVERLAP, CrossEntropyLoss, FocalLoss])
def test_a_mask_does_not_turn_predictions_into_a_half(loss_class: Any) -> None:
    label = torch.zeros(1, 1, 8, 8)
    label[..., :2, :2] = 1
    perfect = 40 * (2 * label - 1)
    weight = torch.zeros(1, 8, 8)
    weight[:, :4, :4] = 1
    loss = loss_class(Multilabel())
    assert loss(perfect, label, weight=weight) < 1e-6


def test_other_blobs_do_not_become_a_half() -> None:
    label = torch.zeros(1, 1, 6, 9, dtype=torch.long)
    label[..., 1:4, 1:3] = 1
    label[..., 2:4, 5:8] = 2
    perfect = 40 * (2 * (label > 0).double() - 1)
    assert BlobLoss(Multilabel())(perfect, (label > 0).double(), instances=label) < 1e-6


def test_a_dice_of_classes_is_no_mean_probability() -> None:
    """With the sums of all classes in one ratio it is: Σ p + Σ y is twice the number of voxels."""
    batch = make_batch(shape=(1, 3, 9, 9))
    batch.target[:, :8] = 0
    mean = batch.logits.softmax(1).gather(1, batch.target[:, None]).mean()
    assert abs(DiceLoss()(batch.logits, batch.target) - (1 - mean)) > 0.05


def test_a_focal_loss_of_classes_is_of_their_softmax() -> None:
    """A sum over a sigmoid for each class would mind the shift."""
    batch = make_batch()
    shift = torch.linspace(-3, 3, 60).double().reshape(2, 1, 6, 5)
    loss = FocalLoss()
    assert_close(loss(batch.logits + shift, batch.target), loss(batch.logits, batch.target))


def test_an_absent_class_does_not_take_over_the_generalised_dice() -> None:
    batch = make_batch(shape=(1, 4, 8, 8), present=3)
    options: Any = itertools.product(
        ("square", "simple", "uniform"), ("smooth", "skip", "penalise")
    )
    for weighting, empty in options:
        loss = GeneralizedDiceLoss(weighting=weighting, empty=empty)
        _, gradient = value_and_gradient(loss, batch.logits, batch.target)
        assert gradient[:, :3].abs().max() > 1e-4


@pytest.mark.parametrize("empty", ["smooth", "skip", "penalise"])
def test_a_generalised_dice_of_background_only_is_a_number(empty: Any) -> None:
    batch = make_batch(Multiclass(background=False), present=1)
    loss = GeneralizedDiceLoss(Multiclass(background=False), empty=empty)
    value, gradient = value_and_gradient(loss, batch.logits, batch.target)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
def test_a_generalised_dice_without_any_class_costs_what_dice_does(weighting: Any) -> None:
    batch = make_batch(Multiclass(background=False), present=1)
    exact: dict[str, Any] = {"smooth_nr": 0.0, "smooth_dr": 1.0}
    loss = GeneralizedDiceLoss(Multiclass(background=False), weighting=weighting, **exact)
    assert_close(loss(batch.logits, batch.target).item(), 1.0)


def best_probability(loss: Any, membership: float) -> float:
    """Which probability of a lone soft voxel costs least."""
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    target = torch.full((999, 1, 1, 1), membership, dtype=torch.float64)
    scores = loss(p.logit().reshape(-1, 1, 1, 1), target)
    return float(p[scores.flatten().argmin()])


@pytest.mark.parametrize("membership", [0.3, 0.5, 0.8])
def test_linear_dice_makes_soft_labels_hard_and_cross_entropy_does_not(membership: float) -> None:
    """Known and documented: not a defect of the code but of the formula."""
    assert best_probability(DiceLoss(Multilabel(), reduction="none"), membership) == 0.999
    entropy = CrossEntropyLoss(Multilabel(), group="sample", reduction="none")
    assert best_probability(entropy, membership) == pytest.approx(membership, abs=2e-3)


def test_the_two_letters_of_tversky_act_at_a_fixed_sum() -> None:
    batch = make_batch()
    values = [
        TverskyLoss(alpha=a, beta=1 - a)(batch.logits - batch.logits[:, :1], batch.target)
        for a in (0.1, 0.5, 0.9)
    ]
    assert abs(values[0] - values[1]) > 1e-3
    assert abs(values[2] - values[1]) > 1e-3


def test_more_false_positives_cost_more_with_more_alpha() -> None:
    logits = torch.full((1, 1, 4, 4), 2.0)
    label = torch.zeros(1, 1, 4, 4)
    label[..., 0] = 1
    less, more = (TverskyLoss(Multilabel(), alpha=a, beta=1 - a) for a in (0.3, 0.7))
    assert more(logits, label) > less(logits, label)


def test_the_mean_does_not_run_over_ignored_voxels() -> None:
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long()
    labels[:, 2:] = IGNORED
    for loss in (CrossEntropyLoss(Multiclass(ignore=IGNORED)), FocalLoss(gamma=0.0)):
        if not isinstance(loss, FocalLoss):
            assert_close(loss(logits, labels).item(), torch.tensor(2.0).log().item())
    regions = labels[:, None].expand(1, 2, 4, 4)
    loss = CrossEntropyLoss(Multilabel(ignore=IGNORED))
    assert_close(loss(logits, regions).item(), torch.tensor(2.0).log().item())


@pytest.mark.parametrize("gamma", [None, 0.0, 2.0])
def test_a_zero_head_gets_half_a_slope(gamma: float | None) -> None:
    loss = CrossEntropyLoss(Multilabel()) if gamma is None else FocalLoss(Multilabel(), gamma=gamma)
    logits = torch.zeros(1, 1, 2, 2)
    label = torch.tensor([[[[0, 1], [1, 0]]]])
    _, gradient = value_and_gradient(loss, logits, label)
    # Of (1 - p)^2 (-log p) at p = 1/2: 1/8 - log(1/2)/4; of -log p: 1/2.
    slope = 0.125 + torch.tensor(2.0).log().item() / 4 if gamma == 2.0 else 0.5
    assert_close(gradient, slope / 4 * torch.tensor([[[[1.0, -1], [-1, 1]]]]))


def test_a_scalar_class_weight_does_not_stick() -> None:
    """A module is as it was made, whatever it has seen."""
    loss = DiceLoss()
    before = repr(loss)
    for c in (3, 5):
        batch = make_batch(shape=(1, c, 4, 4))
        loss(batch.logits, batch.target)
    assert repr(loss) == before


class TestPeersStillHaveThem:
    """If one of these fails, a peer has been repaired: adapt what the documentation says of it."""

    def test_half_precision(self) -> None:
        logits = torch.zeros(1, 2, 64, 64, 64, dtype=torch.float16, requires_grad=True)
        labels = torch.zeros(1, 1, 64, 64, 64)
        value: Tensor = monai.DiceLoss(softmax=True, to_onehot_y=True)(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == 1 and not gradient.any()

    def test_softmax_after_the_background_is_gone(self) -> None:
        batch = make_batch()
        logits = batch.logits.requires_grad_()
        peer = monai.FocalLoss(use_softmax=True, to_onehot_y=True, include_background=False)
        (gradient,) = torch.autograd.grad(peer(logits, batch.target[:, None]), logits)
        assert not gradient[:, 0].any()
