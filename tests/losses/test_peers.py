"""Other libraries say the same where they are right; each difference is a stated factor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai import losses as monai
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
    TverskyLoss,
)
from tests.reference import published
from tests.strategies import IGNORED, Batch, make_batch

SHAPES = [(2, 4, 9, 8), (2, 3, 6, 5, 7)]
HALVED: dict[str, Any] = {
    "smooth_nr": 2e-5,
    "smooth_dr": 2e-5,
}  # MONAI doubles the rest of its Jaccard's fraction
AS_IN_MONAI = [
    (DiceLoss, monai.DiceLoss, {}),
    (DiceLoss, monai.DiceLoss, {"group": "batch"}),
    (JaccardLoss, lambda **o: monai.DiceLoss(jaccard=True, **HALVED, **o), {}),
    (TverskyLoss, lambda **o: monai.TverskyLoss(alpha=0.3, beta=0.7, **o), {}),
    (GeneralizedDiceLoss, monai.GeneralizedDiceLoss, {}),
    (
        lambda *a, **o: GeneralizedDiceLoss(*a, weighting="simple", **o),
        lambda **o: monai.GeneralizedDiceLoss(w_type="simple", **o),
        {"group": "batch"},
    ),
]


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(value, logits)
    return slope


def assert_same(
    ours: Any,
    theirs: Callable[..., Tensor],
    batch: Batch,
    factor: float = 1,
    relative: float = 1e-6,
) -> None:
    """Value and gradient; `theirs` is `factor` times ours."""
    logits = batch.logits.requires_grad_()
    labels = batch.target
    binary = labels.shape == logits.shape
    value = ours(logits, labels)
    expected = theirs(logits, labels.double() if binary else labels[:, None])
    assert_close(factor * value, expected.double(), rtol=relative, atol=1e-9)
    slope = gradient(expected, logits)
    largest = slope.abs().max().item()
    assert_close(factor * gradient(value, logits), slope, rtol=relative, atol=relative * largest)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(("ours", "theirs", "options"), AS_IN_MONAI)
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_monai_softmax(shape: Any, ours: Any, theirs: Any, options: Any, background: bool) -> None:
    pooled = options.get("group") == "batch"
    peer = theirs(softmax=True, to_onehot_y=True, include_background=background, batch=pooled)
    batch = make_batch(shape=shape)
    assert_same(ours(Multiclass(background=background), **options), peer, batch)


@pytest.mark.parametrize(("ours", "theirs", "options"), AS_IN_MONAI)
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_monai_sigmoid(shape: Any, ours: Any, theirs: Any, options: Any) -> None:
    peer = theirs(sigmoid=True, batch=options.get("group") == "batch")
    assert_same(ours(Multilabel(), **options), peer, make_batch(Multilabel(), shape=shape))


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_monai_dice_and_cross_entropy(shape: tuple[int, ...]) -> None:
    peer = monai.DiceCELoss(softmax=True, to_onehot_y=True)
    assert_same(DiceLoss() + CrossEntropyLoss(), peer, make_batch(shape=shape))


def test_monai_dice_and_binary_cross_entropy_of_one_channel() -> None:
    peer = monai.DiceCELoss(sigmoid=True)
    batch = make_batch(Multilabel(), shape=(2, 1, 6, 5))
    assert_same(DiceLoss(Multilabel()) + CrossEntropyLoss(Multilabel()), peer, batch)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_monai_focal_with_softmax_is_ours_over_the_number_of_channels(
    shape: tuple[int, ...], gamma: float
) -> None:
    peer = monai.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma)
    assert_same(
        FocalLoss(gamma=gamma), peer, make_batch(shape=shape), factor=1 / shape[1], relative=1e-5
    )


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_monai_focal_with_sigmoid(gamma: float) -> None:
    peer = monai.FocalLoss(gamma=gamma)  # which computes in single precision
    assert_same(FocalLoss(Multilabel(), gamma=gamma), peer, make_batch(Multilabel()), relative=1e-5)


@pytest.mark.parametrize("weight", [None, [0.2, 1.0, 3.0]])
def test_torch_cross_entropy(weight: list[float] | None) -> None:
    batch = make_batch(Multiclass(ignore=IGNORED))
    tensor = None if weight is None else torch.tensor(weight).double()

    def peer(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels[:, 0], weight=tensor, ignore_index=IGNORED)

    loss = CrossEntropyLoss(Multiclass(ignore=IGNORED), class_weight=weight)
    assert_same(loss, peer, batch)


def test_torch_cross_entropy_of_probabilities() -> None:
    batch = make_batch(soft=True)
    assert_same(CrossEntropyLoss(), F.cross_entropy, batch)


def test_torch_binary_cross_entropy() -> None:
    for soft in (False, True):
        batch = make_batch(Multilabel(), soft=soft)
        assert_same(CrossEntropyLoss(Multilabel()), F.binary_cross_entropy_with_logits, batch)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_nnunet_by_its_formula_is_ours_minus_one(shape: tuple[int, ...], batch_dice: bool) -> None:
    batch = make_batch(shape=shape)
    logits = batch.logits.requires_grad_()
    group: Any = "batch" if batch_dice else "sample"
    ours = (DiceLoss(Multiclass(background=False), group=group) + CrossEntropyLoss())(
        logits, batch.target
    )
    theirs = published.dice_and_cross_entropy(logits, batch.target, batch_dice=batch_dice)
    assert_close(ours - 1, theirs, rtol=1e-9, atol=1e-12)
    assert_close(gradient(ours, logits), gradient(theirs, logits), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_nnunet_itself(batch_dice: bool) -> None:
    compound = pytest.importorskip("nnunetv2.training.loss.compound_losses")
    dice = pytest.importorskip("nnunetv2.training.loss.dice")
    options = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    peer = compound.DC_and_CE_loss(
        options, {}, weight_ce=1, weight_dice=1, dice_class=dice.MemoryEfficientSoftDiceLoss
    )
    batch = make_batch()
    logits = batch.logits.requires_grad_()
    group: Any = "batch" if batch_dice else "sample"
    ours = (DiceLoss(Multiclass(background=False), group=group) + CrossEntropyLoss())(
        logits, batch.target
    )
    theirs = peer(logits, batch.target[:, None])
    assert_close(ours - 1, theirs, rtol=1e-6, atol=1e-9)
    assert_close(gradient(ours, logits), gradient(theirs, logits), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_published_skeleton_recall_is_ours_minus_one(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    batch = make_batch(shape=shape, dtype=dtype)
    logits = batch.logits.requires_grad_()
    loss = SkeletonRecallLoss(group="batch", smooth_nr=1.0, smooth_dr=1.0)
    ours = loss(logits, batch.target, skeleton=batch.skeleton)
    theirs = published.skeleton_recall(logits, batch.skeleton)
    assert_close(ours.double() - 1, theirs, rtol=1e-6, atol=1e-7)
    # An absent class has recall 1 in both.
    alone = torch.where(batch.skeleton == 1, 1, 0)
    ours, theirs = (
        loss(logits, batch.target, skeleton=alone),
        published.skeleton_recall(logits, alone),
    )
    assert_close(ours.double() - 1, theirs, rtol=1e-6, atol=1e-7)


def test_the_published_boundary_loss_of_a_batch_is_ours() -> None:
    loss = BoundaryLoss(group="batch")
    batch = make_batch(loss.encoding)
    ours = loss(batch.logits, batch.target, distance=batch.distance)
    assert_close(ours, published.boundary(batch.logits, batch.distance))


def test_the_published_focal_loss_is_ours() -> None:
    batch = make_batch()
    assert_close(
        FocalLoss(gamma=2.0)(batch.logits, batch.target),
        published.focal(batch.logits, batch.target, 2.0),
    )
