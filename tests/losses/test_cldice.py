"""Centreline Dice, and its soft skeleton, against the published recursion."""

import warnings
from typing import Any

import pytest
import torch
from monai.losses import SoftclDiceLoss
from torch import Tensor
from torch.testing import assert_close

from segloss import CenterlineDiceLoss, CrossEntropyLoss, DiceLoss, Multiclass, Multilabel
from segloss.engine import soft_skeleton as engine
from segloss.engine.soft_skeleton import (
    SoftSkeletonSums,
    outlasts,
    soft_skeleton,
    soft_skeleton_slope,
)
from segloss.transforms import TubedSkeleton
from tests.losses.checks import (
    assert_as_defined,
    assert_half_precision_keeps_its_digits,
    kept_for_backward,
    value_and_gradient,
)
from tests.reference.centrelines import pooled_skeleton
from tests.strategies import ENCODINGS, make_batch

SPACES = [(9, 11), (7, 8, 6), (1, 9), (2, 1, 7)]
each_space = pytest.mark.parametrize("space", SPACES, ids=str)
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=str)


def smooth_noise(space: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(space, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_space
@pytest.mark.parametrize("iterations", [0, 1, 3, 10])
@pytest.mark.parametrize("masked", [False, True])
def test_the_skeleton_is_the_published_recursion(
    space: tuple[int, ...], iterations: int, masked: bool
) -> None:
    x = smooth_noise(space).requires_grad_()
    there = smooth_noise(space, 1) < 0.8 if masked else None
    scale = smooth_noise(space, 2) * (1 if there is None else there)
    expected = pooled_skeleton(x, iterations, there)
    (slope,) = torch.autograd.grad((expected * scale).sum(), x)
    some = None if there is None else there[None]
    (found,) = soft_skeleton(x.detach()[None], iterations, some)
    seen = torch.ones(space, dtype=torch.bool) if there is None else there
    assert_close(found[seen], expected.detach()[seen])
    assert_close(soft_skeleton_slope(x.detach()[None], iterations, scale[None], some)[0], slope)


@pytest.mark.filterwarnings("ignore:class . of the target is wider than iterations")
@each_encoding
@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (2, 3, 4, 3, 5)], ids=["2d", "3d"])
def test_is_as_defined_with_few_iterations(
    encoding: Any, group: Any, shape: tuple[int, ...]
) -> None:
    batch = make_batch(encoding, shape=shape)
    for iterations, weighted in ((0, True), (2, False), (2, True)):
        loss = CenterlineDiceLoss(encoding, iterations=iterations, group=group, reduction="none")
        assert_as_defined(loss, batch.logits, batch.target, batch.maps(loss, weight=weighted))


@pytest.mark.parametrize("iterations", [3, 6])
def test_is_monais_with_its_smoothing_and_a_soft_target_skeleton(iterations: int) -> None:
    batch = make_batch(Multilabel(), shape=(2, 2, 9, 8, 7))
    target = batch.target.double()
    skeletons = [[pooled_skeleton(y, iterations) for y in sample] for sample in target]
    skeleton = torch.stack([torch.stack(row) for row in skeletons])
    loss = CenterlineDiceLoss(
        Multilabel(), iterations=iterations, smooth_nr=1, smooth_dr=1, group="batch"
    )
    peer = SoftclDiceLoss(iter_=iterations, sigmoid=True, smooth=1e-12)
    for i in range(2):
        for k in range(2):
            one = (slice(i, i + 1), slice(k, k + 1))
            found = value_and_gradient(loss, batch.logits[one], target[one], skeleton=skeleton[one])
            expected = value_and_gradient(peer, batch.logits[one], target[one])
            assert_close(found, expected)


def test_gradcheck() -> None:
    loss = CenterlineDiceLoss(Multiclass(ignore=255), iterations=2)
    batch = make_batch(loss.encoding, shape=(1, 3, 4, 5))
    maps = batch.maps(loss, weight=True)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, batch.target, **maps),
        batch.logits.requires_grad_(),
        eps=1e-7,
        fast_mode=True,
    )


def tube(radius: int) -> Tensor:
    """A vessel in a volume, ``(1, d, h, w)``."""
    axis = torch.arange(2 * radius + 7) - radius - 3
    disc = axis[:, None] ** 2 + axis[None] ** 2 <= radius**2
    label = disc[None].expand(24, -1, -1).long().clone()
    label[:3] = label[-3:] = 0
    return label[None]


def thinned(label: Tensor) -> Tensor:
    return torch.from_numpy(TubedSkeleton(radius=0)(label.numpy()))


def certain(found: Tensor) -> Tensor:
    found = torch.where(found > 0, 8.0, -8.0)
    return torch.stack([-found, found], 1)


def test_a_thin_vessel_costs_as_much_as_a_thick_one() -> None:
    loss = CenterlineDiceLoss(iterations=4)
    thick = tube(4)
    label = thick.clone()
    label[0, 3:-3, 1, 1] = 1
    skeleton = thinned(label)
    assert loss(certain(label), label, skeleton=skeleton) < 0.01
    value, gradient = value_and_gradient(loss, certain(thick), label, skeleton=skeleton)
    assert value > 0.3
    assert DiceLoss(Multiclass(background=False))(certain(thick), label) < 0.05
    missed = (skeleton > thick)[0]
    assert missed.any()
    assert (gradient[0, 1][missed] < 0).all()


def test_too_few_iterations_are_noticed() -> None:
    label = tube(6)
    logits, skeleton = certain(label), thinned(label)
    with pytest.warns(UserWarning, match=r"class 1 .* wider than iterations=3"):
        CenterlineDiceLoss(iterations=3)(logits, label, skeleton=skeleton)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CenterlineDiceLoss(iterations=6)(logits, label, skeleton=skeleton)
        everything = torch.ones_like(label)
        CenterlineDiceLoss(iterations=1)(logits, everything, skeleton=skeleton)


def test_a_wide_tube_is_thinned_with_enough_iterations_only() -> None:
    """The defect behind the warning: no centreline, so nothing that could be wrong."""
    label = tube(6)
    probability = label.double()
    assert outlasts(label[0] > 0, 4)
    assert not outlasts(label[0] > 0, 7)
    middle = slice(8, -8)
    assert soft_skeleton(probability, 3)[0, middle].sum() == 0
    assert soft_skeleton(probability, 6)[0, middle].sum() > 0


def test_half_precision_and_huge_logits() -> None:
    loss = CenterlineDiceLoss(iterations=2)
    shape = (1, 3, 16, 16, 16)
    batch = make_batch(loss.encoding, shape=shape, dtype=torch.float32)
    assert_half_precision_keeps_its_digits(loss, batch)


def test_a_class_without_a_skeleton() -> None:
    logits = torch.randn(1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, 6, 5, dtype=torch.long)
    loss = CenterlineDiceLoss(empty="penalise")
    assert_close(loss(logits, label, skeleton=label), logits.softmax(1)[:, 1].mean())
    assert CenterlineDiceLoss(empty="skip")(logits, label, skeleton=label) == 0


def test_keeps_the_logits_only() -> None:
    loss = CenterlineDiceLoss() + CrossEntropyLoss(Multiclass(background=False))
    batch = make_batch(Multiclass(background=False), shape=(2, 3, 32, 32), dtype=torch.float32)
    logits, maps = batch.logits.requires_grad_(), batch.maps(loss)
    assert kept_for_backward(loss, logits, batch.target, **maps) < logits.nbytes / 20


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel(ignore=255)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "iterations"), [((2, 2, 30, 6), 1), ((1, 3, 29, 4, 5), 1)])
def test_slabs_are_the_whole(
    encoding: Any,
    weighted: bool,
    shape: tuple[int, ...],
    iterations: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loss = CenterlineDiceLoss(encoding, iterations=iterations)
    batch = make_batch(encoding, shape=shape)
    batch.logits = batch.logits.round()  # many ties
    maps = batch.maps(loss, weight=weighted)
    encoded = encoding.encode(batch.logits, batch.target, {})
    measure = SoftSkeletonSums(iterations, shape[2:], 0, shape[1])
    assert len(measure.places(encoded)) > 2 * shape[0]
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, **maps)
    monkeypatch.setattr(engine, "_MARGINS", 1000)
    assert len(measure.places(encoded)) == shape[0]
    expected, slope = value_and_gradient(loss, batch.logits, batch.target, **maps)
    assert_close(value, expected, rtol=1e-12, atol=0)
    assert_close(gradient, slope, rtol=1e-10, atol=1e-15)


def test_iterations_below_zero() -> None:
    with pytest.raises(ValueError, match="iterations must be a whole number of at least 0, got -1"):
        CenterlineDiceLoss(iterations=-1)


def test_a_missing_skeleton_is_asked_for_without_its_tube() -> None:
    batch = make_batch(Multiclass(background=False))
    loss = DiceLoss() + CenterlineDiceLoss()
    with pytest.raises(ValueError, match=r"skeleton map is missing.*radius=0\)"):
        loss(batch.logits, batch.target)
