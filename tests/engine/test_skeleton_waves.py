"""The compiled loops of soft skeletons against PyTorch's operations, and the published recursion."""

import itertools
import math
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss import CenterlineDiceLoss, Multiclass, backend
from segloss.engine import skeleton_waves
from segloss.engine.soft_skeleton import soft_skeleton, soft_skeleton_slope
from tests.losses.checks import value_and_gradient
from tests.reference.centrelines import pooled_skeleton
from tests.strategies import make_batch

SPACES = [(1, 1), (1, 9), (9, 11), (40, 3), (1, 1, 1), (2, 1, 7), (7, 8, 6), (31, 4, 5)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def some_maps(space: tuple[int, ...], levels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two maps, a scale, and which voxels are there; few levels make many ties."""
    generator = torch.Generator().manual_seed(seed)
    x, there = torch.rand(2, 2, *space, generator=generator)
    scale = torch.randn(2, *space, generator=generator)
    return (x * levels).round() / levels, scale, there < 0.8


@given(
    space=st.sampled_from(SPACES),
    iterations=st.sampled_from([0, 1, 2, 5]),
    levels=st.sampled_from([1, 4, 1 << 20]),
    masked=st.sampled_from(["no", "together", "each"]),
    parts=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_are_those_of_pytorch_to_the_last_bit(
    space: tuple[int, ...], iterations: int, levels: int, masked: str, parts: int, seed: int
) -> None:
    """The slope to the last but one: what comes from several neighbours is added in another order."""
    x, scale, seen = some_maps(space, levels, seed)
    there = {"no": None, "together": seen[:1], "each": seen}[masked]
    scale = scale if there is None else scale * there
    assert skeleton_waves.supports(x)
    with threads(parts):
        found = soft_skeleton(x, iterations, there)
        slope = soft_skeleton_slope(x, iterations, scale, there)
    with backend("torch"):
        assert torch.equal(found, soft_skeleton(x, iterations, there))
        expected = soft_skeleton_slope(x, iterations, scale, there)
    assert_close(slope, expected, rtol=1e-6, atol=1e-6 * float(scale.abs().max()))


@pytest.mark.parametrize("space", [(20, 14), (15, 10, 9)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_are_the_published_recursion(space: tuple[int, ...], masked: bool) -> None:
    x, scale, seen = some_maps(space, 1 << 20, 0)
    there = seen if masked else torch.ones_like(seen)
    scale = scale * there
    for one, by, known in zip(x, scale, there, strict=True):
        exact = one.double().requires_grad_()
        expected = pooled_skeleton(exact, 3, known)
        (slope,) = torch.autograd.grad((expected * by).sum(), exact)
        some = known[None] if masked else None
        (found,) = soft_skeleton(one[None], 3, some)
        assert_close(found.double(), expected.detach() * known, rtol=1e-6, atol=1e-7)
        (found,) = soft_skeleton_slope(one[None], 3, by[None], some)
        assert_close(found.double(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("maps", "planes", "count"), [(1, 96, 4), (3, 96, 4), (4, 96, 1), (1, 20, 1)]
)
def test_parts_are_all_planes_and_what_they_depend_on(maps: int, planes: int, count: int) -> None:
    with threads(4):
        parts = skeleton_waves._parts(torch.empty(maps, planes, 2, 2), 12)
    assert len(parts) == maps * count
    for m in range(maps):
        of_map = [part for part in parts if part.map == m]
        ends = [part.own.stop for part in of_map]
        assert [part.own.start for part in of_map] == [0, *ends[:-1]]
        assert ends[-1] == planes
        for part in of_map:
            assert part.seen.start == max(0, part.own.start - 12) == part.own.start - part.margin
            assert part.seen.stop == min(planes, part.own.stop + 12)


def test_a_loss_is_the_same_by_any_number_of_threads() -> None:
    loss = CenterlineDiceLoss(Multiclass(background=False, ignore=255), iterations=1)
    batch = make_batch(loss.encoding, shape=(2, 3, 30, 9, 8), dtype=torch.float32)
    maps, found = batch.maps(loss, weight=True), []
    for count in (1, 2, 3):
        with threads(count):
            twice = [value_and_gradient(loss, batch.logits, batch.target, **maps) for _ in "12"]
        assert all(torch.equal(x, y) for x, y in zip(*twice, strict=True))
        found.append(twice[0])
    exact = value_and_gradient(loss, batch.logits.double(), batch.target, **maps)
    for value, gradient in found:
        assert_close(value.double(), exact[0])
        assert_close(gradient.double(), exact[1], rtol=1e-4, atol=1e-9)


def _of_a_large_map() -> float:
    with threads(2):
        return float(soft_skeleton(torch.eye(30).expand(2, 30, 30), 1).sum())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    assert _of_a_large_map() == 60
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_of_a_large_map).get(timeout=60) == 60


def test_what_is_no_number_shows() -> None:
    """A broken network must not look as if it learned."""
    for at in itertools.product((0, 4, 8), (0, 5), (0, 3)):
        x = some_maps((9, 6, 4), 4, 0)[0]
        x[(0, *at)] = math.nan
        assert soft_skeleton(x, 2)[(0, *at)].isnan()
        assert soft_skeleton(x, 2)[1].isfinite().all()


def test_what_the_loops_do_not_know() -> None:
    x = torch.zeros(1, 3, 3)
    assert skeleton_waves.supports(x)
    assert not skeleton_waves.supports(x.double())
    assert not skeleton_waves.supports(x.half())
    for other in ("torch", "triton"):
        with backend(other):
            assert not skeleton_waves.supports(x)
