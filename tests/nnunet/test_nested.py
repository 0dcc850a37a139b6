"""Nested log odds, and a network that ends in them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from segloss import ConditionalSigmoid, LabelTree
from segloss.nnunet.nested import (
    NestedNetwork,
    NestedRegionsMixin,
    nested_odds,
    parents_of_regions,
)

BRATS: dict[str, Any] = {
    "labels": {
        "background": 0,
        "enhancing": 3,
        "whole": [1, 2, 3],
        "core": [2, 3],
        "eye": 4,
        "ignore": 5,
    },
    "regions_class_order": [3, 1, 2, 4],
}
PARENTS = (2, -1, 1, -1)


@st.composite
def forests(draw: st.DrawFn) -> tuple[int, ...]:
    """Parents in any order, as regions may come."""
    count = draw(st.integers(1, 6))
    parents = [draw(st.integers(-1, v - 1)) for v in range(count)]
    order = draw(st.permutations(range(count)))
    place = {v: i for i, v in enumerate(order)}
    return tuple(-1 if parents[v] < 0 else place[parents[v]] for v in order)


def some_logits(parents: tuple[int, ...], seed: int, scale: float, dtype: Any) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, len(parents), 3, 4, generator=rng)).to(dtype)


@given(forests(), st.integers(0, 2**31))
def test_the_product_down_the_path(parents: tuple[int, ...], seed: int) -> None:
    z = some_logits(parents, seed, 3, torch.float64)
    for region, parent in enumerate(parents):
        path = [region]
        while parent >= 0:
            path.append(parent)
            parent = parents[parent]
        expected = z[:, path].sigmoid().prod(1)
        assert_close(nested_odds(z, parents)[:, region].sigmoid(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(forests(), st.integers(0, 2**31), st.sampled_from([1.0, 30.0, 1e4]))
def test_nested_and_finite_whatever_the_logits(
    dtype: Any, parents: tuple[int, ...], seed: int, scale: float
) -> None:
    z = some_logits(parents, seed, scale, dtype).clamp(-6e4, 6e4).requires_grad_()
    odds = nested_odds(z, parents)
    assert odds.dtype == torch.float32 and odds.isfinite().all()
    for region, parent in enumerate(parents):
        assert parent < 0 or (odds[:, region] <= odds[:, parent]).all()
    loss = nn.functional.binary_cross_entropy_with_logits(odds, torch.ones_like(odds))
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all()


@given(forests(), st.integers(0, 2**31))
def test_the_gradient(parents: tuple[int, ...], seed: int) -> None:
    z = some_logits(parents, seed, 2, torch.float64)[:1, :, :1, :2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: nested_odds(x, parents), z)


def test_is_the_conditional_sigmoid_of_the_tree() -> None:
    tree = LabelTree.from_nnunet(BRATS)
    z = some_logits(PARENTS, 0, 3, torch.float64)
    names = ["enhancing", "whole", "core", "eye"]
    heads = ConditionalSigmoid().channels(tree)
    p = ConditionalSigmoid()(z[:, [names.index(name) for name in heads]], tree)[0].exp()
    nested = nested_odds(z, PARENTS).sigmoid()
    for region, name in enumerate(names):
        assert_close(nested[:, region], p[:, tree.index(name)])


def test_the_regions_of_a_dataset() -> None:
    assert parents_of_regions(BRATS) == PARENTS
    with pytest.raises(ValueError, match="need a dataset with regions"):
        parents_of_regions({"labels": {"background": 0, "a": 1}})
    overlapping = {"background": 0, "a": [1, 2], "b": [2, 3]}
    with pytest.raises(ValueError, match=r"'a' and 'b' share the labels \[2\]"):
        parents_of_regions({"labels": overlapping, "regions_class_order": [1, 2]})


def network(parents: tuple[int, ...] | None) -> NestedNetwork:
    nested = NestedNetwork(nn.Conv2d(1, 4, 1))
    nested.parents = parents
    return nested


def test_the_parents_travel_with_the_weights() -> None:
    told, fresh = network(PARENTS), network(None)
    x = torch.randn(1, 1, 4, 4)
    with pytest.raises(RuntimeError, match="which region lies in which"):
        fresh(x)
    fresh.load_state_dict(told.state_dict())
    assert fresh.parents == PARENTS
    assert torch.equal(fresh(x), told(x))
    with pytest.raises(RuntimeError, match=r"network\.weight"):
        nn.Conv2d(1, 4, 1).load_state_dict(told.state_dict())


def test_every_scale_is_nested() -> None:
    class Scales(nn.Module):
        decoder = "its own"

        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, x[..., ::2, ::2]]

    nested = NestedNetwork(Scales())
    nested.parents = PARENTS
    x = torch.randn(2, 4, 4, 4)
    for found, scale in zip(nested(x), (x, x[..., ::2, ::2]), strict=True):
        assert_close(found, nested_odds(scale, PARENTS))
    assert nested.decoder == "its own"


def test_the_mixin_stands_in_front() -> None:
    class Trainer:
        def initialize(self) -> None: ...

    class Right(NestedRegionsMixin, Trainer): ...

    with pytest.raises(TypeError, match="Wrong names the trainer before the mixin"):

        class Wrong(Trainer, NestedRegionsMixin): ...
