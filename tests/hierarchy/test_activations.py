"""Activations of trees: against their definitions, nested whatever the logits, finite far out."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    ConditionalSigmoid,
    LabelTree,
    LeafSoftmax,
    MaxConstraint,
    MultiLevelActivation,
)
from tests.hierarchy.trees import BRATS, NESTED, WIDE
from tests.reference import trees as reference
from tests.trees import CHAINS, Sketch, sketches

CHAINED = MultiLevelActivation()
activations = pytest.mark.parametrize("activation", NESTED, ids=str)
seeds = st.integers(0, 2**31)
scales = st.sampled_from([1.0, 30.0, 1e4])


def some_logits(activation: Any, tree: LabelTree, seed: int, scale: float, dtype: Any) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    shape = (2, len(activation.channels(tree)), 3, 2)
    return (scale * torch.randn(shape, generator=rng)).to(dtype)


def defined(activation: Any, z: Tensor, tree: LabelTree) -> Tensor:
    if isinstance(activation, LeafSoftmax):
        return reference.leaf_softmax(z, tree.parents)
    if isinstance(activation, ConditionalSigmoid):
        return reference.conditional_sigmoid(z, tree.parents, tree.rest)
    if isinstance(activation, MaxConstraint):
        return reference.max_constraint(z, tree.parents, tree.rest, activation.mode)
    count = len(tree) // 2
    theta = activation.thresholds or [k - (count - 1) / 2 for k in range(count)]
    return reference.multi_level(z, tree.parents, tree.rest, activation.steepness, theta)


def check_definition(activation: Any, tree: LabelTree, seed: int) -> None:
    z = some_logits(activation, tree, seed, 2, torch.float64)
    log_p, log_rest = activation(z, tree)
    p = defined(activation, z, tree)
    assert_close(log_p.exp(), p, rtol=1e-10, atol=1e-12)
    assert_close(log_rest.exp(), 1 - p, rtol=1e-10, atol=1e-12)


def check_far_out(activation: Any, tree: LabelTree, seed: int, scale: float, dtype: Any) -> None:
    """Nested, adding up to 1, and finite in value and gradient."""
    z = some_logits(activation, tree, seed, scale, dtype).requires_grad_()
    log_p, log_rest = activation(z, tree)
    assert log_p.dtype == log_rest.dtype == torch.float32
    p = log_p.exp()
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            assert (p[:, node] <= p[:, parent] + 1e-6).all()
    assert_close(p + log_rest.exp(), torch.ones_like(p), rtol=0, atol=1e-6)
    assert log_p.isfinite().all() and log_rest.isfinite().all()
    assert (log_p <= 0).all() and (log_rest <= 0).all()
    for part in (log_p, log_rest, p):
        (gradient,) = torch.autograd.grad(part.sum(), z, retain_graph=True)
        assert gradient.isfinite().all()


@activations
@given(sketches(most=9), seeds)
def test_a_probability_is_as_defined(activation: Any, sketch: Sketch, seed: int) -> None:
    tree = sketch.tree()
    check_definition(activation, tree, seed)


@activations
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(sketches(most=9), seeds, scales)
def test_nesting_holds_whatever_the_logits(
    activation: Any, dtype: Any, sketch: Sketch, seed: int, scale: float
) -> None:
    tree = sketch.tree()
    check_far_out(activation, tree, seed, scale, dtype)


@given(CHAINS, seeds)
def test_levels_are_as_defined(sketch: Sketch, seed: int) -> None:
    tree = sketch.tree()
    check_definition(CHAINED, tree, seed)
    check_definition(MultiLevelActivation(4.0), tree, seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(CHAINS, seeds, scales)
def test_levels_are_nested_whatever_the_depth(
    dtype: Any, sketch: Sketch, seed: int, scale: float
) -> None:
    tree = sketch.tree()
    check_far_out(CHAINED, tree, seed, scale, dtype)


@given(CHAINS, seeds, scales)
def test_the_leaves_of_levels_add_up_to_one(sketch: Sketch, seed: int, scale: float) -> None:
    tree = sketch.tree()
    z = some_logits(CHAINED, tree, seed, scale, torch.float64)
    p = CHAINED(z, tree)[0].exp()[:, list(tree.leaves)]
    assert_close(p.sum(1), torch.ones_like(p[:, 0]), rtol=0, atol=1e-14)


@given(sketches(most=9), seeds, scales)
def test_the_leaves_of_a_softmax_add_up_to_their_parent(
    sketch: Sketch, seed: int, scale: float
) -> None:
    tree = sketch.tree()
    p = LeafSoftmax()(some_logits(LeafSoftmax(), tree, seed, scale, torch.float64), tree)[0].exp()
    for parent, below in enumerate(tree.children):
        if below:
            assert_close(p[:, list(below)].sum(1), p[:, parent], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("spread", [1.0, 2.0, 5.0, 10.0])
def test_a_level_in_between_has_a_ceiling(spread: float) -> None:
    """No depth makes it likelier than tanh(sΔ/4), which it reaches halfway between thresholds."""
    tree, activation = BRATS, MultiLevelActivation(steepness=spread)
    depths = torch.linspace(-3, 3, 6001, dtype=torch.float64).view(1, 1, 1, -1)
    p = activation(depths, tree)[0].exp()[0, :, 0]
    for name in ("rest of whole", "rest of core"):
        assert p[tree.index(name)].max().item() == pytest.approx(math.tanh(spread / 4), abs=1e-6)


def test_the_gradient_of_a_softmax_sum() -> None:
    """d(-log p_v)/dz_j = π_j - [j in v] π_j / p_v."""
    z = some_logits(LeafSoftmax(), WIDE, 0, 2, torch.float64).requires_grad_()
    log_p = LeafSoftmax()(z, WIDE)[0]
    pi = z.softmax(1)
    for node, inside in enumerate(WIDE.membership):
        (gradient,) = torch.autograd.grad(-log_p[:, node].sum(), z, retain_graph=True)
        belongs = torch.tensor(inside, dtype=torch.float64).view(1, -1, 1, 1)
        assert_close(gradient, pi - belongs * pi / log_p[:, node : node + 1].exp())


def test_order_of_siblings_does_not_matter() -> None:
    one = LabelTree({"a": ["b", "c", "d"], "e": None})
    other = LabelTree({"e": None, "a": ["d", "b", "c"]})
    for activation in NESTED:
        z = some_logits(activation, one, 0, 2, torch.float64)
        order = [activation.channels(one).index(name) for name in activation.channels(other)]
        found, expected = activation(z[:, order], other), activation(z, one)
        nodes = [one.index(name) for name in other.names]
        for x, y in zip(found, expected, strict=True):
            assert_close(x, y[:, nodes])


def test_two_classes_are_one_sigmoid() -> None:
    tree = LabelTree({"organ": None})
    z = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    two = torch.cat([torch.zeros_like(z), z], 1)
    expected = LeafSoftmax()(two, tree)
    for activation in (ConditionalSigmoid(), MaxConstraint(), MultiLevelActivation(1.0)):
        for x, y in zip(activation(z, tree), expected, strict=True):
            assert_close(x, y)


def test_a_wrong_number_of_channels_is_refused_with_names() -> None:
    with pytest.raises(ValueError, match=r"3 channels.*needs 4.*background, rest of whole"):
        LeafSoftmax()(torch.zeros(1, 3, 4, 4), BRATS)


def test_only_a_chain_has_levels() -> None:
    with pytest.raises(ValueError, match="no chain: below 'a' there are b, c"):
        MultiLevelActivation().channels(LabelTree({"a": ["b", "c"]}))
    with pytest.raises(ValueError, match="no chain: below the top there are a, b"):
        MultiLevelActivation().channels(LabelTree({"a": None, "b": None}))


def test_thresholds_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="thresholds must increase"):
        MultiLevelActivation(thresholds=(0.0, 0.0))
    with pytest.raises(ValueError, match=r"2 numbers, expected 3.*whole, core, enhancing"):
        MultiLevelActivation(thresholds=(0.0, 1.0)).channels(BRATS)
    with pytest.raises(ValueError, match="steepness must be"):
        MultiLevelActivation(steepness=0.0)


def test_a_tree_of_hundreds_of_nodes() -> None:
    """Nothing of size nodes × nodes for each voxel: its tensors would pass the limit below."""
    count = 200
    tree = LabelTree.from_parents(
        [f"n{i}" for i in range(count)], [i // 3 - 1 for i in range(count)]
    )
    z = some_logits(LeafSoftmax(), tree, 0, 5, torch.float32).requires_grad_()
    sizes: list[int] = []

    def noted(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda x: x):
        log_p, log_rest = LeafSoftmax()(z, tree)
    voxels = z.numel() // z.shape[1]
    assert sum(sizes) < 30 * len(tree) * voxels < len(tree) ** 2 * voxels
    assert_close(log_p.exp() + log_rest.exp(), torch.ones_like(log_p), rtol=0, atol=2e-6)
