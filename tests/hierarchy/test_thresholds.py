"""Ordered levels and learned thresholds: what fixed thresholds give, with a gradient for them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from segloss import (
    CrossEntropyLoss,
    DiceLoss,
    LabelTree,
    LevelThresholds,
    MultiLevelActivation,
    MultiLevelLoss,
    OrderedLevels,
    Tree,
)
from tests.hierarchy.test_activations import check_far_out
from tests.hierarchy.trees import BRATS, tree_batch
from tests.losses.checks import value_and_gradient
from tests.trees import CHAINS, Sketch

ORDERED = Tree(BRATS, OrderedLevels())


def depth(seed: int = 0, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 1, 4, 5, generator=rng, dtype=torch.float64)


@given(CHAINS, st.integers(0, 2**31))
def test_thresholds_in_their_first_place_are_the_fixed_ones(sketch: Sketch, seed: int) -> None:
    tree = sketch.tree()
    fixed = MultiLevelActivation(3.0)
    levels = len(OrderedLevels().channels(tree))
    z = LevelThresholds(levels, steepness=3.0)(depth(seed))
    for x, y in zip(OrderedLevels()(z, tree), fixed(depth(seed), tree), strict=True):
        assert_close(x, y, rtol=1e-5, atol=1e-5)  # the thresholds are in single precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(CHAINS, st.integers(0, 2**31), st.sampled_from([1.0, 30.0, 1e4]))
def test_nested_whatever_the_channels(dtype: Any, sketch: Sketch, seed: int, scale: float) -> None:
    check_far_out(OrderedLevels(), sketch.tree(), seed, scale, dtype)


def test_thresholds_increase_wherever_training_takes_them() -> None:
    thresholds = LevelThresholds(4)
    nn.init.constant_(thresholds.gaps, -50.0)
    assert (thresholds.thresholds.diff() >= 0.2 - 1e-6).all()


def test_the_gradient_of_the_thresholds() -> None:
    """That of the literal loss, by the thresholds too."""
    labels = torch.tensor([0, 1, 2, 3]).repeat(10).view(2, 4, 5)
    thresholds = LevelThresholds(3, steepness=2.0).double()
    CrossEntropyLoss(ORDERED)(thresholds(depth()), labels).backward()
    theta = thresholds.thresholds.detach().requires_grad_()
    p = [(2.0 * (depth()[:, 0] - t)).sigmoid() for t in theta]
    classes = torch.stack([1 - p[0], p[0] - p[1], p[1] - p[2], p[2]])
    (expected,) = torch.autograd.grad(-classes.gather(0, labels[None]).log().mean(), theta)
    assert thresholds.first.grad is not None and thresholds.gaps.grad is not None
    assert_close(thresholds.first.grad, expected.sum())
    later = expected.flip(0).cumsum(0).flip(0)[1:]
    assert_close(thresholds.gaps.grad, later * thresholds.gaps.detach().sigmoid())


def test_training_finds_the_threshold() -> None:
    """Depths of 0, 1, 2, 3 for the four classes: thresholds end between them."""
    x = torch.arange(4.0).repeat(1, 1, 8, 1)
    labels = torch.arange(4).repeat(1, 8, 1)
    thresholds = LevelThresholds(3, steepness=3.0)
    optimizer = torch.optim.Adam(thresholds.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        CrossEntropyLoss(ORDERED)(thresholds(x), labels).backward()
        optimizer.step()
    assert_close(thresholds.thresholds.detach(), torch.tensor([0.5, 1.5, 2.5]), rtol=0, atol=0.1)
    assert (ORDERED.decode(thresholds(x))[:, 0] == labels).all()


@pytest.mark.parametrize("kind", ["nll", "cumulative", "normalised", "squared"])
def test_the_losses_of_levels(kind: Any) -> None:
    batch = tree_batch(Tree(BRATS, MultiLevelActivation(10.0)), scale=0.3)
    z = LevelThresholds(3).double()(batch.logits).detach()
    found, slope = value_and_gradient(MultiLevelLoss(ORDERED, kind=kind), z, batch.target)
    fixed = MultiLevelLoss(Tree(BRATS, MultiLevelActivation(10.0)), kind=kind)
    expected, along = value_and_gradient(fixed, batch.logits, batch.target)
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert_close(slope.sum(1, keepdim=True) * 10, along, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", [MultiLevelActivation(2.0), OrderedLevels()], ids=str)
def test_decoding_counts_the_levels(activation: Any) -> None:
    """As thresholding each region does, which the likeliest leaf does not."""
    encoding = Tree(BRATS, activation)
    x = torch.linspace(-3, 3, 400, dtype=torch.float64).view(1, 1, 20, 20)
    z = x if len(encoding.channels) == 1 else LevelThresholds(3, steepness=2.0).double()(x).detach()
    p = encoding.probabilities(z)
    regions = [p[:, BRATS.index(name)] > 0.5 for name in ("whole", "core", "enhancing")]
    found = encoding.decode(z)
    assert found.dtype == torch.int64
    assert (found[:, 0] == torch.stack(regions).sum(0)).all()
    assert (found != p[:, list(BRATS.leaves)].argmax(1, keepdim=True)).any()


def test_labels_of_a_chain_in_another_order() -> None:
    """nnU-Net's trees may have the background last."""
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    tree = LabelTree.from_nnunet({"labels": labels})
    z = torch.tensor([[-1.0, -2, -3], [1, -1, -2], [2, 1, -1], [3, 2, 1]]).T.view(1, 3, 2, 2)
    assert Tree(tree, OrderedLevels()).decode(z).flatten().tolist() == [0, 1, 2, 3]


def test_with_dice_in_one_pass() -> None:
    loss = DiceLoss(ORDERED) + CrossEntropyLoss(ORDERED)
    thresholds = LevelThresholds(3)
    loss(thresholds(depth().bfloat16()), torch.ones(2, 4, 5, dtype=torch.long)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in thresholds.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 4, 4\), expected one channel"):
        LevelThresholds(3)(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="levels must be a whole number of at least 1"):
        LevelThresholds(0)
    with pytest.raises(ValueError, match="steepness must be"):
        LevelThresholds(3, steepness=float("inf"))
    with pytest.raises(ValueError, match="no chain"):
        OrderedLevels().channels(LabelTree({"a": None, "b": None}))
