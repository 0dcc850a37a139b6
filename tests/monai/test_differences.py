"""Where the losses differ from MONAI's: its defects, and options that cannot be as they are there."""

import warnings
from typing import Any
from unittest import mock

import pytest
import torch
from monai import losses as theirs
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from segloss.engine import sums
from segloss.monai import (
    BoundaryLoss,
    DeepSupervisionLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceFocalLoss,
    GeneralizedDiceLoss,
    GeneralizedWassersteinDiceLoss,
    HausdorffDTLoss,
    LogHausdorffDTLoss,
    MaskedDiceLoss,
    MCCLoss,
    SoftclDiceLoss,
    SoftDiceclDiceLoss,
    TverskyLoss,
)
from segloss.transforms import SignedDistance, TubedSkeleton
from tests.monai.cases import SHAPES, expanded, make_batch, value_and_gradient

SOFTMAX: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
VOLUME = (1, 2, 64, 64, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "loss",
    [
        DiceLoss(**SOFTMAX),
        DiceLoss(**SOFTMAX, squared_pred=True),
        TverskyLoss(**SOFTMAX),
        GeneralizedDiceLoss(**SOFTMAX),
        DiceCELoss(**SOFTMAX),
        DiceFocalLoss(**SOFTMAX),
        GeneralizedDiceFocalLoss(**SOFTMAX),
        FocalLoss(to_onehot_y=True),
        MaskedDiceLoss(**SOFTMAX),
        GeneralizedWassersteinDiceLoss([[0, 1], [1, 0]]),
        MCCLoss(**SOFTMAX),
        BoundaryLoss(**SOFTMAX),
        HausdorffDTLoss(**SOFTMAX),
        SoftclDiceLoss(**SOFTMAX, iter_=1),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_half_precision_does_not_overflow(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    """MONAI's Dice of so large a volume is 1 in half precision, without a gradient."""
    batch = make_batch(VOLUME)
    value, slope = value_and_gradient(loss, batch.logits.to(dtype), batch.labels)
    exact = loss(batch.logits.to(dtype).double(), batch.labels)
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    assert slope.dtype == dtype
    assert slope.isfinite().all()


@pytest.mark.parametrize("size", [20.0, 1e4])
@pytest.mark.parametrize(
    "loss",
    [
        FocalLoss(to_onehot_y=True, gamma=0.5),
        FocalLoss(to_onehot_y=True, gamma=0.5, use_softmax=True),
        DiceCELoss(**SOFTMAX, label_smoothing=0.1),
        DiceCELoss(sigmoid=True),
        MCCLoss(**SOFTMAX),
        MCCLoss(sigmoid=True, smooth_dr=0.0),
        LogHausdorffDTLoss(**SOFTMAX),
        SoftDiceclDiceLoss(**SOFTMAX),
    ],
    ids=str,
)
def test_saturated_logits_have_a_gradient_that_is_a_number(
    loss: torch.nn.Module, size: float
) -> None:
    batch = make_batch(SHAPES[0])
    value, slope = value_and_gradient(loss, size * batch.logits.sign(), batch.labels)
    assert value.isfinite()
    assert slope.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"use_softmax": True, "alpha": 0.3}, {"alpha": 0.3}])
def test_an_ignore_label_that_does_not_occur_changes_nothing(options: dict[str, Any]) -> None:
    """MONAI's mean is as many times larger as there are channels."""
    batch = make_batch(SHAPES[0])
    plain = FocalLoss(to_onehot_y=True, **options)
    ignoring = FocalLoss(to_onehot_y=True, ignore_index=255, **options)
    found = ignoring(batch.logits, batch.labels)
    assert_close(found, plain(batch.logits, batch.labels))
    other = theirs.FocalLoss(to_onehot_y=True, **options)
    assert_close(found, other(batch.logits, batch.labels))


@pytest.mark.parametrize("options", [{}, {"use_softmax": True}, {"alpha": 0.3}])
def test_the_mean_of_a_focal_loss_runs_over_the_voxels_that_count(options: dict[str, Any]) -> None:
    batch = make_batch(SHAPES[0])
    labels = batch.labels.clone()
    labels[:, :, :3] = 255
    found = FocalLoss(to_onehot_y=True, ignore_index=255, **options)(batch.logits, labels)
    cropped = FocalLoss(to_onehot_y=True, **options)
    assert_close(found, cropped(batch.logits[:, :, 3:], batch.labels[:, :, 3:]))


def test_leaving_the_background_out_of_a_focal_loss_leaves_it_in_the_softmax() -> None:
    """MONAI's softmax does not see channel 0, which is never learned."""
    batch = make_batch(SHAPES[0])
    loss = FocalLoss(to_onehot_y=True, use_softmax=True, include_background=False, gamma=2)
    value, slope = value_and_gradient(loss, batch.logits, batch.labels)
    log_p = batch.logits.double().log_softmax(1)
    by_entry = -((1 - log_p.exp()) ** 2) * log_p * batch.memberships
    assert_close(value.double(), by_entry[:, 1:].mean(), rtol=1e-6, atol=0)
    assert slope[:, 0].any()


def test_alpha_without_a_background_is_no_secret() -> None:
    with pytest.warns(UserWarning, match="alpha has no effect"):
        FocalLoss(use_softmax=True, include_background=False, alpha=0.3)
    with warnings.catch_warnings(record=True) as caught:
        FocalLoss(use_softmax=True, include_background=False, alpha=[0.3, 0.4])
    assert not caught


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 3.0])])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sigmoids_have_a_binary_cross_entropy(weight: Tensor | None, reduction: str) -> None:
    """MONAI adds the cross entropy of a softmax to the Dice of sigmoids."""
    batch = make_batch(SHAPES[0])
    regions = (make_batch(SHAPES[0], seed=5).logits > 0).float()
    options: dict[str, Any] = {"sigmoid": True, "reduction": reduction, "weight": weight}
    positive = None if weight is None else weight.view(-1, 1, 1)
    expected = DiceLoss(**options)(batch.logits, regions) + F.binary_cross_entropy_with_logits(
        batch.logits, regions, pos_weight=positive, reduction=reduction
    )
    assert_close(DiceCELoss(**options)(batch.logits, regions), expected)
    of_labels = DiceCELoss(to_onehot_y=True, **options)(batch.logits, batch.labels)
    assert_close(of_labels, DiceCELoss(**options)(batch.logits, batch.memberships))


def test_a_batch_of_classes_without_weight_is_a_number() -> None:
    """PyTorch's weighted mean of it is none."""
    batch = make_batch(SHAPES[0])
    loss = DiceCELoss(**SOFTMAX, weight=torch.tensor([0.0, 1.0, 1.0]), lambda_dice=0.0)
    value, slope = value_and_gradient(loss, batch.logits, torch.zeros_like(batch.labels))
    assert value == 0
    assert not slope.any()


def test_voxels_outside_a_mask_are_not_background() -> None:
    """MONAI multiplies the labels by the mask, which makes them so."""
    batch = make_batch(SHAPES[0])
    mask = torch.ones_like(batch.labels)
    mask[:, :, :3] = 0
    masked = MaskedDiceLoss(**SOFTMAX)(batch.logits, batch.labels, mask)
    cropped = DiceLoss(**SOFTMAX)(batch.logits[:, :, 3:], batch.labels[:, :, 3:])
    assert_close(masked, cropped)
    without = MaskedDiceLoss(**SOFTMAX)(batch.logits, batch.labels)
    assert_close(without, DiceLoss(**SOFTMAX)(batch.logits, batch.labels))


def test_a_weight_for_all_classes_does_not_stick() -> None:
    """MONAI's turns into one for each class of the first batch."""
    loss = DiceLoss(**SOFTMAX, weight=2.0)
    for channels in 3, 4:
        batch = make_batch((2, channels, 7, 6))
        plain = DiceLoss(**SOFTMAX)(batch.logits, batch.labels)
        assert_close(loss(batch.logits, batch.labels), 2 * plain)


def test_the_focal_loss_of_soft_labels_is_the_mean_over_their_answers() -> None:
    """MONAI raises a mixture of both answers to the power."""
    batch = make_batch(SHAPES[0])
    soft = make_batch(SHAPES[0], seed=1).logits.sigmoid()
    p = batch.logits.double().sigmoid()
    expected = -(soft * (1 - p) ** 2 * p.log() + (1 - soft) * p**2 * (1 - p).log()).mean()
    assert_close(FocalLoss()(batch.logits, soft).double(), expected, rtol=1e-5, atol=0)


def blocks(*space: int) -> Tensor:
    """Labels ``(1, 1, *space)`` of two blocks, class 1 and class 2."""
    label = torch.zeros(1, 1, *space)
    for value, extent in (1, slice(1, 6)), (2, slice(7, 9)):
        block: Any = (0, 0, *(extent for _ in space))
        label[block] = value
    return label


@pytest.mark.parametrize("loss_class", [HausdorffDTLoss, LogHausdorffDTLoss])
def test_distances_of_integer_memberships_are_not_cut_off(loss_class: Any) -> None:
    """MONAI keeps them in the type of the target."""
    batch = make_batch(SHAPES[1])
    found = loss_class(softmax=True)(batch.logits, batch.memberships.long())
    assert_close(found, loss_class(softmax=True)(batch.logits, batch.memberships))
    cut_off = getattr(theirs, loss_class.__name__)(softmax=True)
    assert cut_off(batch.logits, batch.memberships.long()) < 0.99 * found


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("space", [(11, 12), (9, 10, 11)])
def test_distances_may_be_brought_along(space: tuple[int, ...], background: bool) -> None:
    """MONAI measures them at every call, in voxels whatever their size."""
    label = blocks(*space)
    logits = make_batch((1, 3, *space)).logits
    options: dict[str, Any] = {"softmax": True, "include_background": background}
    published = SignedDistance(num_classes=3, convention="kervadec", background=background)
    distance = published(label[0])[None]
    loss = BoundaryLoss(**options)
    assert_close(loss(logits, label, distance=distance), loss(logits, label))
    spacing = tuple(range(1, 1 + len(space)))
    distance = SignedDistance(num_classes=3, spacing=spacing, background=True)(label[0])[None]
    scored = slice(0 if background else 1, None)
    expected = (logits.softmax(1) * distance)[:, scored].mean()
    assert_close(loss(logits, label, distance=distance), expected)

    known = torch.as_tensor(published(label[0])).abs()[None]
    hausdorff = HausdorffDTLoss(alpha=3.0, **options)
    apart = hausdorff(logits, label, distance=0 * known)
    error = (logits.softmax(1) - expanded(label[:, 0].long()[:, None], 3)) ** 2
    expected = apart + (error[:, scored] * known**3).mean()
    assert_close(hausdorff(logits, label, distance=known), expected)


def test_distances_of_another_image_are_refused() -> None:
    label, logits = blocks(11, 12), make_batch((1, 3, 11, 12)).logits
    for loss in BoundaryLoss(softmax=True), HausdorffDTLoss(softmax=True):
        with pytest.raises(ValueError, match=r"distance map has shape \(1, 2, 12, 11\), expected"):
            loss(logits, label, distance=torch.zeros(1, 2, 12, 11))
    with pytest.raises(ValueError, match="scores the background"):
        BoundaryLoss(softmax=True)(logits, label, distance=torch.zeros(1, 2, 11, 12))


def test_a_hard_skeleton_may_be_brought_along() -> None:
    """MONAI's soft one is found anew at every call, and misses what is wide."""
    label = blocks(11, 12)
    logits = make_batch((1, 3, 11, 12)).logits
    labels = torch.as_tensor(TubedSkeleton(radius=0)(label[0]))[None]
    skeleton = expanded(labels.long(), 3)
    loss = SoftclDiceLoss(softmax=True, include_background=False, smooth=1e-9)
    p, y = logits.softmax(1)[:, 1:], expanded(label.long(), 3)[:, 1:]
    thin = theirs.cldice.soft_skel(p, 3)
    precision = (1 + (thin * y).sum()) / (1 + thin.sum())
    recall = (1 + (skeleton[:, 1:] * p).sum()) / (1 + skeleton[:, 1:].sum())
    expected = 1 - 2 * precision * recall / (precision + recall)
    for given in labels, skeleton, skeleton[:, 1:].bool():
        assert_close(loss(logits, label, skeleton=given), expected)
    single = SoftDiceclDiceLoss(sigmoid=True, alpha=1.0)
    found = single(logits[:, 1:2], (label == 1).float(), skeleton=skeleton[:, 1:2])
    assert found != single(logits[:, 1:2], (label == 1).float())


def test_a_tube_too_wide_for_the_soft_skeleton_is_no_secret() -> None:
    """MONAI's loss of a wide tube that was missed is about 0, without a gradient."""
    label = torch.zeros(1, 1, 32, 32)
    label[..., 8:24, 8:24] = 1
    logits = torch.where(label == 1, -9.0, 9.0)
    logits = torch.cat((logits, -logits), 1)
    silent = theirs.SoftclDiceLoss(softmax=True, to_onehot_y=True, include_background=False)
    assert silent(logits, label) < 0.01
    with pytest.warns(UserWarning, match="class 1 of the target is wider than iterations=3"):
        SoftclDiceLoss(softmax=True, include_background=False)(logits, label)
    with warnings.catch_warnings():  # a background is wide, and no tube
        warnings.simplefilter("error")
        SoftclDiceLoss(softmax=True)(logits, label[:, :, :1].expand_as(label).contiguous())


def test_an_absent_class_has_a_correlation_that_is_a_number() -> None:
    """MONAI's is none without smoothing."""
    logits, label = make_batch(SHAPES[0]).logits, torch.zeros(2, 1, 7, 6)
    value, slope = value_and_gradient(MCCLoss(softmax=True, smooth_dr=0.0), logits, label)
    assert value == 1
    assert slope.isfinite().all()
    assert theirs.MCCLoss(softmax=True, to_onehot_y=True, smooth_dr=0.0)(logits, label).isnan()


@pytest.mark.parametrize("loss", [DiceLoss(), TverskyLoss(other_act=torch.tanh), MaskedDiceLoss()])
def test_logits_are_no_probabilities(loss: torch.nn.Module) -> None:
    batch = make_batch(SHAPES[0])
    with pytest.raises(ValueError, match=r"outside 0 to 1.*say softmax=True or sigmoid=True"):
        loss(batch.logits, batch.memberships)


def test_a_softmax_over_one_channel_is_refused() -> None:
    batch = make_batch((2, 1, 7, 6))
    with pytest.raises(ValueError, match=r"input has 1 channel, .* sigmoid=True"):
        DiceLoss(softmax=True)(batch.logits, batch.labels)


def test_an_activation_keeps_the_shape() -> None:
    batch = make_batch(SHAPES[0])
    with pytest.raises(ValueError, match="other_act returned shape"):
        DiceLoss(other_act=lambda x: x[:, 1:].sigmoid())(batch.logits, batch.memberships)


def test_labels_out_of_range_are_refused() -> None:
    batch = make_batch(SHAPES[0])
    for loss in DiceLoss(**SOFTMAX), DiceCELoss(sigmoid=True), FocalLoss(to_onehot_y=True):
        with pytest.raises(ValueError, match="target holds label 4"):
            loss(batch.logits, batch.labels + 2)


@pytest.mark.parametrize("loss_class", [DiceCELoss, DiceFocalLoss, GeneralizedDiceFocalLoss])
def test_a_compound_of_probabilities_and_logits_is_refused(loss_class: Any) -> None:
    with pytest.raises(ValueError, match="the input of this loss is logits"):
        loss_class()


@pytest.mark.parametrize("loss_class", [FocalLoss, DiceFocalLoss, GeneralizedDiceFocalLoss])
def test_a_loss_of_every_voxel_is_refused(loss_class: Any) -> None:
    options = {} if loss_class is FocalLoss else {"softmax": True}
    with pytest.raises(ValueError, match='"mean" or "sum", got "none"'):
        loss_class(reduction="none", **options)


@pytest.mark.parametrize(
    ("loss_class", "options", "message"),
    [
        (DiceLoss, {"sigmoid": True, "softmax": True}, "exclude each other"),
        (DiceLoss, {"reduction": "max"}, "reduction must be one of"),
        (DiceLoss, {"weight": [-1.0]}, "weight must be a number of at least 0"),
        (DiceLoss, {"smooth_nr": -1.0}, "smooth_nr must be a number of at least 0, got -1.0"),
        (DiceCELoss, {"softmax": True, "reduction": "none"}, "reduction must be one of"),
        (DiceCELoss, {"softmax": True, "lambda_ce": -1.0}, "lambda_ce must be"),
        (DiceCELoss, {"sigmoid": True, "label_smoothing": 0.1}, "label_smoothing must be"),
        (FocalLoss, {"alpha": 2.0}, "alpha must be from 0 to 1"),
        (FocalLoss, {"gamma": -1.0}, "gamma must be"),
        (GeneralizedDiceLoss, {"w_type": "cube"}, "w_type must be one of"),
        (GeneralizedWassersteinDiceLoss, {"dist_matrix": [[0, 1]]}, "expected \\(c, c\\)"),
        (
            GeneralizedWassersteinDiceLoss,
            {"dist_matrix": [[0, 0], [0, 0]]},
            "dist_matrix must hold",
        ),
        (
            GeneralizedWassersteinDiceLoss,
            {"dist_matrix": [[0, -1], [1, 0]]},
            "dist_matrix must hol",
        ),
        (DeepSupervisionLoss, {"loss": DiceLoss(), "weight_mode": "half"}, "weight_mode must be"),
        (HausdorffDTLoss, {"alpha": -1.0}, "alpha must be"),
        (SoftclDiceLoss, {"iter_": -1}, "iter_ must be an integer from 0"),
        (SoftclDiceLoss, {"smooth": 0.0}, "smooth must be above 0"),
        (SoftDiceclDiceLoss, {"alpha": 1.1}, "alpha must be from 0 to 1"),
        (SoftDiceclDiceLoss, {"reduction": "none"}, "one for each sample"),
    ],
)
def test_bad_options_are_refused_when_they_are_given(
    loss_class: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loss_class(**options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (DiceLoss(softmax=True, weight=[1.0, 2.0]), "weight has 2 numbers, expected 3"),
        (FocalLoss(alpha=[0.1, 0.2]), "alpha or weight has 2 numbers, expected 3"),
        (FocalLoss(use_softmax=True, alpha=[0.1] * 4), "alpha has 4 numbers, expected 3"),
    ],
)
def test_the_number_of_weights_is_that_of_the_classes(loss: torch.nn.Module, message: str) -> None:
    batch = make_batch(SHAPES[0])
    with pytest.raises(ValueError, match=message):
        loss(batch.logits, batch.memberships)


def test_weights_of_a_single_scored_class_have_no_effect_but_the_right_number() -> None:
    logits, _, memberships = make_batch((2, 2, 7, 6))
    one: dict[str, Any] = {"softmax": True, "include_background": False}
    assert_close(
        DiceLoss(**one, weight=[3.0])(logits, memberships), DiceLoss(**one)(logits, memberships)
    )
    with pytest.raises(ValueError, match="weight has 2 numbers, expected 1"):
        DiceLoss(**one, weight=[3.0, 1.0])(logits, memberships)


@pytest.mark.parametrize("shape", [(2, 7, 6), (2, 3, 7, 6), (3, 1, 7, 6), (2, 1, 7, 5)])
def test_a_mask_has_one_channel(shape: tuple[int, ...]) -> None:
    batch = make_batch(SHAPES[0])
    with pytest.raises(
        ValueError, match=r"mask has shape .* expected \(2, 1, 7, 6\) or \(1, 1, 7, "
    ):
        MaskedDiceLoss(**SOFTMAX)(batch.logits, batch.labels, torch.ones(shape))


def test_deep_supervision_does_not_replace_weights_that_are_too_few() -> None:
    """MONAI falls back to the mode, silently."""
    loss = DeepSupervisionLoss(DiceLoss(**SOFTMAX), weights=[1.0])
    batch = make_batch((2, 3, 8, 8))
    with pytest.raises(ValueError, match="weights has 1 numbers, but input 2 scales"):
        loss([batch.logits, batch.logits[:, :, ::2, ::2]], batch.labels)
    with pytest.raises(ValueError, match="input is an empty list"):
        loss([], batch.labels)


def test_a_compound_takes_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = mock.Mock(wraps=sums.one_pass)
    monkeypatch.setattr(sums, "one_pass", engine)
    batch = make_batch(SHAPES[0])
    DiceCELoss(**SOFTMAX, label_smoothing=0.1)(batch.logits, batch.labels)
    assert engine.call_count == 1


def test_centreline_dice_and_dice_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = mock.Mock(wraps=sums.one_pass)
    monkeypatch.setattr(sums, "one_pass", engine)
    batch = make_batch(SHAPES[0])
    SoftDiceclDiceLoss(**SOFTMAX)(batch.logits, batch.labels)
    assert engine.call_count == 1


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "given"])
@pytest.mark.parametrize("labels", [True, False])
def test_gradients_are_those_of_differences(name: str, labels: bool) -> None:
    batch = make_batch((1, 3, 3, 2))
    loss = DiceLoss(softmax=name == "softmax", sigmoid=name == "sigmoid", soft_label=True)
    input = batch.logits.double() if name != "given" else batch.logits.double().sigmoid()
    target = batch.labels if labels else batch.memberships
    assert torch.autograd.gradcheck(lambda x: loss(x, target), input.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: loss(x, target), input)


def test_labels_are_the_memberships_they_stand_for() -> None:
    batch = make_batch(SHAPES[1])
    assert_close(batch.memberships, expanded(batch.labels, 4))
    loss = TverskyLoss(sigmoid=True)
    found, expected = loss(batch.logits, batch.labels), loss(batch.logits, batch.memberships)
    assert_close(found, expected)
