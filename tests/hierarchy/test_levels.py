"""Losses of one depth channel, against their formulas."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    CrossEntropyLoss,
    LabelTree,
    LeafSoftmax,
    MultiLevelActivation,
    MultiLevelLoss,
    Tree,
)
from tests.hierarchy.test_encoding import check
from tests.hierarchy.trees import BRATS, tree_batch
from tests.losses.checks import value_and_gradient

THETA = (-1.5, 0.0, 1.0)
ENCODING = Tree(BRATS, MultiLevelActivation(3.0, THETA), ignore=255)
KINDS = ("nll", "cumulative", "normalised", "squared")


def literal(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """For every voxel; the cumulative one is a mean over the levels."""
    p = [(3.0 * (x - theta)).sigmoid() for theta in THETA]
    a = sum(p, torch.zeros_like(x))
    if kind == "squared":
        return (a - y) ** 2 / 9
    if kind == "normalised":
        share = y / 3
        entropy = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
        return -(share * (a / 3).log() + (1 - share) * (1 - a / 3).log()) - entropy
    if kind == "cumulative":
        right = [(y > k).double() for k in range(3)]
        each = [-t * q.log() - (1 - t) * (1 - q).log() for q, t in zip(p, right, strict=True)]
        return torch.stack(each).mean(0)
    classes = torch.stack([1 - p[0], p[0] - p[1], p[1] - p[2], p[2]])
    return -classes.gather(0, y[None].long())[0].log()


@pytest.mark.parametrize("kind", KINDS)
def test_is_as_defined(kind: Any) -> None:
    batch = tree_batch(ENCODING, scale=1.0)
    x = batch.logits.requires_grad_()
    counts = torch.where(batch.target == 255, 0.0, batch.weight)
    y = batch.target.masked_fill(batch.target == 255, 0).double()
    expected = (counts * literal(kind, x[:, 0], y)).sum() / counts.sum()
    check(MultiLevelLoss(ENCODING, kind=kind)(x, batch.target, weight=batch.weight), expected, x)


def test_nll_is_the_cross_entropy() -> None:
    batch = tree_batch(ENCODING)
    losses = MultiLevelLoss(ENCODING), CrossEntropyLoss(ENCODING)
    assert_close(*(value_and_gradient(loss, batch.logits, batch.target) for loss in losses))


@pytest.mark.parametrize("kind", ["normalised", "squared"])
@pytest.mark.parametrize("label", [0, 3])
def test_no_loss_at_the_ends(kind: Any, label: int) -> None:
    depth = torch.full((1, 1, 2, 2), 40.0 if label else -40.0)
    value = MultiLevelLoss(ENCODING, kind=kind)(depth, torch.full((1, 2, 2), label))
    assert abs(value.item()) < 1e-6


def test_the_floor_of_a_level_in_between() -> None:
    """-log tanh(sΔ/4), halfway between its thresholds."""
    depth = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    value = MultiLevelLoss(ENCODING)(depth, torch.full((1, 2, 2), 2))
    assert value.item() == pytest.approx(-math.log(math.tanh(3.0 / 4)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_finite_far_out(kind: Any, dtype: torch.dtype) -> None:
    batch = tree_batch(ENCODING, scale=1e4, dtype=dtype)
    value, gradient = value_and_gradient(
        MultiLevelLoss(ENCODING, kind=kind), batch.logits, batch.target
    )
    assert value.isfinite() and gradient.isfinite().all()


def test_class_weights_of_levels() -> None:
    """Of a rest there is no level to count."""
    batch = tree_batch(ENCODING)
    alpha = [9.0, 0.0, 9.0, 1.0, 9.0, 0.0]  # background, whole, its rest, core, its rest, enhancing
    loss = MultiLevelLoss(ENCODING, kind="cumulative", class_weight=alpha)
    right = (batch.target >= 2).double()
    z = 3.0 * (batch.logits[:, 0] - THETA[1])
    each = torch.nn.functional.binary_cross_entropy_with_logits(z, right, reduction="none")
    assert_close(loss(batch.logits, batch.target), each[batch.target != 255].mean())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match="MultiLevelActivation"):
        MultiLevelLoss(Tree(BRATS, LeafSoftmax()))
    with pytest.raises(ValueError, match="label of 'core' is no leaf"):
        MultiLevelLoss(Tree(BRATS, MultiLevelActivation(), labels=["background", "core"]))
    with pytest.raises((ValueError, TypeError), match="kind"):
        MultiLevelLoss(ENCODING, kind="mse")  # type: ignore[arg-type]


def test_one_level_is_a_sigmoid() -> None:
    encoding = Tree(LabelTree({"organ": None}), MultiLevelActivation(1.0))
    batch = tree_batch(encoding)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        batch.logits[:, 0], batch.target.double()
    )
    for kind in ("nll", "cumulative", "normalised"):
        found = MultiLevelLoss(encoding, kind=kind)(batch.logits, batch.target)
        assert_close(found, expected)
