"""Every loss, with every option, says what its formula says: in value and in gradient."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CenterlineDiceLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LDAMLoss,
    LovaszLoss,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
)
from segloss.engine import block
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import ENCODINGS, EVERY_LOSS, IGNORED, Case, cases, made, make_batch


def named(x: Any) -> str:
    return getattr(x, "__name__", str(x))


def coarse(loss_class: Any) -> dict[str, Any]:
    """Few bins: few edges, across which rounding may move an error; many errors in the last bin.

    In it are the saturated voxels, of whose gradients single precision has few digits, as it has of
    those of logits times 30. And few erosions: each is one more volume in the graph of the
    definition.
    """
    few: dict[Any, dict[str, float]] = {
        LovaszLoss: {"bins": 16},
        LDAMLoss: {"scale": 2.0},
        CenterlineDiceLoss: {"iterations": 1},
    }
    return few.get(loss_class, {})


# Which of two neighbours is the least, where they are nearly equal, is a matter of rounding.
ROBUST_TO_ROUNDING = [x for x in EVERY_LOSS if x is not CenterlineDiceLoss]


@pytest.mark.filterwarnings("ignore:class . of the target is wider than iterations")
@given(cases())
@settings(max_examples=120)
def test_in_double_precision(case: Case) -> None:
    loss, batch, maps = case.make()
    assert_as_defined(loss, batch.logits, batch.target, maps)


@given(cases(ROBUST_TO_ROUNDING, dtype=torch.float32))
@settings(max_examples=60)
def test_in_single_precision(case: Case) -> None:
    loss, batch, maps = case.make()
    # Without a skeleton all classes may be penalised: their probabilities add up to 1, whose
    # gradient is 0, and nothing but rounding is left to compare.
    assume("skeleton" not in maps or maps["skeleton"].any())
    assert_as_defined(loss, batch.logits, batch.target, maps)


@pytest.mark.parametrize("shape", [(3, 3, 7, 6), (2, 3, 5, 4, 3)], ids=["2d", "3d"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_with_each_encoding(loss_class: Any, encoding: Any, shape: tuple[int, ...]) -> None:
    loss = made(loss_class, encoding, group="sample", reduction="none", **coarse(loss_class))
    batch = make_batch(encoding, shape=shape, dtype=torch.float32)
    for weighted in (False, True):
        assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=weighted))


@pytest.mark.parametrize("channels", [2, 3, 17, 40])
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_with_few_and_many_classes(loss_class: Any, channels: int) -> None:
    loss = made(loss_class, channels=channels, **coarse(loss_class))
    shape = (2, channels, 6, 7, 5)
    batch = make_batch(loss.encoding, shape=shape, dtype=torch.float32, present=channels - 1)
    assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=True))


@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_with_a_weight_for_each_class(loss_class: Any) -> None:
    loss = made(loss_class, class_weight=[0.5, 1.0, 3.0][made(loss_class).encoding.first :])
    batch = make_batch(loss.encoding)
    assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=True))


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_with_soft_targets(loss_class: Any, encoding: Any) -> None:
    loss = made(loss_class, encoding)
    batch = make_batch(encoding, soft=True, dtype=torch.float32)
    assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=True))


@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_labels_may_come_in_any_guise(loss_class: Any) -> None:
    loss = made(loss_class, Multiclass(), **coarse(loss_class))
    batch = make_batch(shape=(2, 3, 4, 5))
    maps, labels = batch.maps(loss), batch.target
    expected = value_and_gradient(loss, batch.logits, labels, **maps)
    guises = [
        labels[:, None],
        labels.to(torch.uint8),
        labels.to(torch.int16)[:, None],
        labels.to(torch.int32),
        labels.float(),
        labels.double()[:, None],
        torch.nn.functional.one_hot(labels, 3).movedim(-1, 1),
        torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float(),
        torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).bool(),
    ]
    for guise in guises:
        assert_close(value_and_gradient(loss, batch.logits, guise, **maps), expected)


@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_two_classes_may_be_boolean(loss_class: Any) -> None:
    loss = made(loss_class, channels=2)
    batch = make_batch(loss.encoding, shape=(2, 2, 4, 5))
    maps = batch.maps(loss)
    assert_close(
        loss(batch.logits, batch.target.bool(), **maps), loss(batch.logits, batch.target, **maps)
    )


@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_a_binary_target_needs_no_channel(loss_class: Any) -> None:
    loss = made(loss_class, Multilabel(), channels=1)
    batch = make_batch(Multilabel(), shape=(3, 1, 4, 5))
    maps = batch.maps(loss)
    flat = {name: m[:, 0] for name, m in maps.items()}
    assert_close(
        loss(batch.logits, batch.target[:, 0], **flat), loss(batch.logits, batch.target, **maps)
    )


def test_a_skeleton_may_come_in_any_guise() -> None:
    loss = SkeletonRecallLoss()
    batch = make_batch()
    skeleton = batch.skeleton
    channels = torch.nn.functional.one_hot(skeleton, 3).movedim(-1, 1)
    expected = loss(batch.logits, batch.target, skeleton=skeleton)
    guises = [
        skeleton[:, None],
        skeleton.to(torch.int16),
        skeleton.to(torch.uint8)[:, None],
        skeleton.float(),
        channels,
        channels[:, 1:],
        channels.bool(),
        channels.double(),
    ]
    for guise in guises:
        assert_close(loss(batch.logits, batch.target, skeleton=guise), expected)


def test_a_distance_map_may_have_the_background_too() -> None:
    loss = BoundaryLoss()
    batch = make_batch(shape=(2, 3, 4, 5))
    distance = batch.distance
    assert distance.shape[1] == 3
    assert_close(
        loss(batch.logits, batch.target, distance=distance),
        loss(batch.logits, batch.target, distance=distance[:, 1:]),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_distance_map_may_have_another_type(dtype: torch.dtype) -> None:
    loss = BoundaryLoss()
    batch = make_batch(loss.encoding, dtype=torch.float32)
    distance = batch.distance.to(dtype)
    assert_as_defined(loss, batch.logits, batch.target, {"distance": distance})


@pytest.mark.parametrize("encoding", [Multilabel(), Multilabel(ignore=IGNORED)], ids=str)
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_each_region_may_have_a_weight_of_its_own(loss_class: Any, encoding: Any) -> None:
    loss = made(loss_class, encoding)
    batch = make_batch(encoding)
    weight = torch.rand(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps = batch.maps(loss) | {"weight": weight}
    assert_as_defined(loss, batch.logits, batch.target, maps)


@pytest.mark.parametrize("weight_type", [torch.bool, torch.uint8, torch.float16, torch.float64])
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_a_weight_may_have_any_type_and_a_channel(
    loss_class: Any, weight_type: torch.dtype
) -> None:
    loss = made(loss_class)
    batch = make_batch(loss.encoding, dtype=torch.float32)
    maps = batch.maps(loss) | {"weight": batch.weight[:, None].to(weight_type)}
    assert_as_defined(loss, batch.logits, batch.target, maps)


@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_memory_layout_does_not_matter(loss_class: Any) -> None:
    loss = made(loss_class)
    batch = make_batch(loss.encoding, shape=(2, 3, 6, 5, 4))
    maps, target = batch.maps(loss, weight=True), batch.target
    expected = value_and_gradient(loss, batch.logits, target, **maps)
    wide = torch.zeros(2, 3, 6, 5, 8, dtype=torch.float64)
    wide[..., ::2] = batch.logits
    layouts = [
        batch.logits.contiguous(memory_format=torch.channels_last_3d),
        batch.logits.transpose(2, 4).contiguous().transpose(2, 4),
        batch.logits.transpose(0, 1).contiguous().transpose(0, 1),
        wide[..., ::2],
    ]
    for logits in layouts:
        assert_close(value_and_gradient(loss, logits, target, **maps), expected)
    strided = {k: m.transpose(-1, -2).contiguous().transpose(-1, -2) for k, m in maps.items()}
    turned = target.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(value_and_gradient(loss, batch.logits, turned, **strided), expected)


@pytest.mark.parametrize("encoding", [ENCODINGS[3], ENCODINGS[5]], ids=str)
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_the_size_of_a_block_does_not_matter(
    loss_class: Any, encoding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = made(loss_class, encoding, group="sample", reduction="none", **coarse(loss_class))
    batch = make_batch(encoding, shape=(3, 3, 4, 5))
    for voxels in (7, 19, 20, 21, 45):
        monkeypatch.setattr(block, "_CPU", 3 * voxels)
        assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=True))


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_at_the_edges_of_a_block(beyond: int) -> None:
    loss = JaccardLoss() + SkeletonRecallLoss() + FocalLoss()
    voxels = block._CPU // 2 + beyond
    batch = make_batch(shape=(1, 2, 1, voxels), dtype=torch.float32)
    assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=True))


@pytest.mark.parametrize("loss_class", ROBUST_TO_ROUNDING, ids=named)
def test_many_small_samples(loss_class: Any) -> None:
    loss = made(loss_class, group="sample", reduction="none")
    batch = make_batch(loss.encoding, shape=(64, 3, 2, 2), dtype=torch.float32)
    assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
@pytest.mark.parametrize("loss_class", ROBUST_TO_ROUNDING, ids=named)
def test_half_precision_costs_only_the_rounding_of_the_logits(
    loss_class: Any, encoding: Any, dtype: torch.dtype
) -> None:
    loss = made(loss_class, encoding, reduction="sum", **coarse(loss_class))
    batch = make_batch(encoding, shape=(2, 3, 8, 9, 7), dtype=dtype)
    maps = batch.maps(loss)
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, **maps)
    exact, slope = value_and_gradient(loss, batch.logits.double(), batch.target, **maps)
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-7)
    assert gradient.dtype == dtype
    unit = torch.finfo(dtype).eps
    assert_close(gradient.double(), slope, rtol=unit, atol=1.2e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_half_precision_with_more_voxels_than_it_can_count(
    loss_class: Any, dtype: torch.dtype
) -> None:
    loss = made(loss_class, channels=2)
    batch = make_batch(loss.encoding, shape=(1, 2, 41, 41, 41), dtype=dtype)
    maps = batch.maps(loss)
    exact = loss(batch.logits.double(), batch.target, **maps)
    assert_close(loss(batch.logits, batch.target, **maps).double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoding", [ENCODINGS[0], ENCODINGS[3], ENCODINGS[5]], ids=str)
@pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=named)
def test_first_and_second_derivatives(loss_class: Any, encoding: Any) -> None:
    loss = made(loss_class, encoding, group="sample", reduction="none", **coarse(loss_class))
    batch = make_batch(encoding, shape=(2, 3, 2, 3), scale=1.0)
    maps = batch.maps(loss, weight=True)

    def of_logits(logits: Tensor) -> Tensor:
        score: Tensor = loss(logits, batch.target, **maps)
        return score

    logits = batch.logits.requires_grad_()
    assert torch.autograd.gradcheck(of_logits, (logits,), fast_mode=True)
    if "differentiated once" in " ".join(loss_class.__doc__.split()):
        (gradient,) = torch.autograd.grad(of_logits(logits).sum(), logits, create_graph=True)
        with pytest.raises(RuntimeError):
            gradient.sum().backward()
    else:
        assert torch.autograd.gradgradcheck(of_logits, (logits,), fast_mode=True)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0, 5.0])
@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_derivatives_of_the_focal_loss(encoding: Any, gamma: float) -> None:
    loss = FocalLoss(encoding, gamma=gamma)
    batch = make_batch(encoding, shape=(1, 3, 2, 3), scale=1.0)
    logits = batch.logits.requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits, batch.target), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (logits, batch.target), fast_mode=True)


def test_a_focal_loss_without_focus_is_cross_entropy() -> None:
    for encoding in (Multiclass(), Multilabel()):
        batch = make_batch(encoding)
        assert_close(
            FocalLoss(encoding, gamma=0.0)(batch.logits, batch.target),
            CrossEntropyLoss(encoding)(batch.logits, batch.target),
        )


def test_a_second_derivative_goes_through_a_penalty_on_the_gradient() -> None:
    batch = make_batch()
    logits = batch.logits.requires_grad_()
    (gradient,) = torch.autograd.grad(DiceLoss()(logits, batch.target), logits, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert curvature.abs().max() > 0
