"""Triton's kernels against the definitions, and against the PyTorch engine, whatever is asked."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss import Multiclass, Multilabel
from segloss.activation import Affine
from segloss.engine.kernels import batch, operators
from segloss.engine.sums import Request
from segloss.engine.voxel import CrossEntropy, Focal, Phi, VoxelSum
from segloss.losses.asymmetric import ShiftedFocal
from segloss.losses.polynomial import Poly1
from segloss.losses.robust import CompSum, Symmetric
from tests.engine.kernels.engines import Given, pull_at, sums_and_gradient
from tests.reference.dense import dense
from tests.strategies import IGNORED, make_batch

WHOLE = (Multiclass(), Multiclass(ignore=IGNORED), Multilabel(), Multilabel(ignore=IGNORED))
NAMES = (
    "count",
    "pred",
    "true",
    "overlap",
    "pred_squared",
    "true_squared",
    "pred_squared_true",
    "pred_squared_rest",
    "alarm",
    "miss",
    "rejected",
    "error^1",
    "error^1.5",
    "error^2",
    "error^3",
    "pred*skeleton",
    "skeleton",
    "pred*distance",
    "distance",
    "distance^2",
    "error^1.5*distance^0.5",
    "pred_squared*distance",
)
PHIS: tuple[Phi, ...] = (
    CrossEntropy(),
    Focal(0.0),
    Focal(0.5),
    Focal(1.0),
    Focal(2.0),
    Poly1(0.0, 2.0),
    Poly1(2.0, -0.5),
    ShiftedFocal(2.0, 0.05),
    CompSum(0.5),
    CompSum(1.0),
    CompSum(1.7),
    CompSum(1.7, 0.7),
    CompSum(2.0),
    Symmetric(0.1, 2.0),
)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small batches have several tiles to a program, and several programs."""
    monkeypatch.setattr(batch, "_LANES", 8)
    monkeypatch.setattr(operators, "_PROGRAMS", 4)


def batch_for(encoding: Any, **options: Any) -> Given:
    """A batch with every map, where the kernels run."""
    made = make_batch(encoding, **options)
    maps = {"skeleton": made.skeleton, "distance": made.distance, "weight": made.weight}
    return Given(encoding, made.logits, made.target, maps).moved()


def literal(given: Given, name: str) -> Tensor:
    """The sum of that name by its definition, ``(b, c)``."""
    x = dense(given.encoding, given.logits, given.target, given.maps)
    p, y, w = x.pred, x.true, x.weight
    factor, _, read = name.rpartition("*")
    values, _, power = read.partition("^")
    s = x.maps.get(values, torch.ones_like(p))
    if values not in x.maps:
        factor = name
    elif power:
        s = s.abs() ** float(power)
    one = torch.ones_like(p)
    factors = {
        "": one,
        "count": one,
        "pred": p,
        "true": y,
        "overlap": p * y,
        "pred_squared": p**2,
        "true_squared": y**2,
        "pred_squared_true": p**2 * y,
        "pred_squared_rest": p**2 * (1 - y),
        "alarm": p * (1 - y),
        "miss": (1 - p) * y,
        "rejected": (1 - p) * (1 - y),
    }
    if factor.startswith("error^"):
        factors[factor] = (p - y).abs() ** float(factor.removeprefix("error^"))
    return (w * s * factors[factor]).sum(2)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("encoding", WHOLE, ids=str)
def test_every_sum_and_its_gradient(encoding: Any, soft: bool) -> None:
    asked = batch_for(encoding, soft=soft, shape=(2, 3, 7, 5))
    logits = asked.logits.detach().requires_grad_()
    found = sums_and_gradient("triton", asked, Request(NAMES))
    expected = torch.cat([literal(asked._replace(logits=logits), name) for name in NAMES], 1)
    (gradient,) = torch.autograd.grad(expected, logits, pull_at(expected))
    assert_close(found[0], expected.detach(), rtol=1e-12, atol=1e-12)
    assert_close(found[1], gradient, rtol=1e-11, atol=1e-11)


@dataclass
class Case:
    """Any request to any batch."""

    given: dict[str, Any]
    target: torch.dtype
    layout: str
    per_entry: bool
    affine: bool
    regions: list[str]
    terms: list[tuple[Any, ...]]

    @property
    def request(self) -> Request:
        return Request(tuple(self.regions), tuple(VoxelSum(*term) for term in self.terms))

    def make(self) -> Given:
        """The batch, in float64."""
        made = make_batch(**self.given)
        encoding, logits, target = self.given["encoding"], made.logits, made.target
        b, c, *space = logits.shape
        if not target.is_floating_point():
            target = target.to(self.target)
        if self.layout == "channels last":
            logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
        elif self.layout == "sliced":
            logits = logits.repeat(2, 2, *[1] * len(space))[1::2, 1::2][:b, :c]
        weight = made.weight
        if self.per_entry and isinstance(encoding, Multilabel):
            weight = weight[:, None] * torch.linspace(0, 2, c).view(c, *[1] * len(space))
        maps = {"skeleton": made.skeleton, "distance": made.distance, "weight": weight}
        return Given(Adjusted(encoding) if self.affine else encoding, logits, target, maps)


@dataclass(frozen=True)
class Adjusted:
    """An encoding of logits adjusted channel by channel."""

    encoding: Any

    def encode(self, logits: Tensor, target: Tensor, maps: dict[str, Tensor]) -> Any:
        encoded = self.encoding.encode(logits, target, maps)
        columns = torch.linspace(0.5, 1.5, 3 * logits.shape[1]).view(3, -1, 1).to(encoded.classes)
        return replace(encoded, affine=Affine(*columns))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    encoding: Any = draw(st.sampled_from(WHOLE))
    softmax = isinstance(encoding, Multiclass)
    c = draw(st.sampled_from([2, 3, 4, 5, 8, 14] if softmax else [1, 2, 3, 7]))
    space = draw(st.lists(st.integers(1, 5), min_size=2, max_size=3))
    weights = st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=c, max_size=c).map(tuple)
    phis = st.sampled_from(PHIS)
    of = st.just("label") if softmax else st.sampled_from(["label", "step", "node"])
    terms = st.tuples(phis, st.none() | weights, of, st.none() | phis)
    regions = draw(st.lists(st.sampled_from(NAMES), max_size=6, unique=True))
    voxels = draw(st.lists(terms, min_size=not regions, max_size=2, unique=True))
    return Case(
        {
            "encoding": encoding,
            "shape": (draw(st.integers(1, 3)), c, *space),
            "seed": draw(st.integers(0, 2**31)),
            "scale": draw(st.sampled_from([0.1, 1.0, 4.0])),
            "present": draw(st.integers(1, c)),
            "soft": draw(st.booleans()),
        },
        draw(
            st.sampled_from([torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32])
        ),
        draw(st.sampled_from(["contiguous", "channels last", "sliced"])),
        draw(st.booleans()),
        draw(st.booleans()),
        regions,
        voxels,
    )


@given(cases())
def test_any_request_is_what_pytorch_makes_of_it(case: Case) -> None:
    asked = case.make().moved()
    found = sums_and_gradient("triton", asked, case.request)
    expected = sums_and_gradient("torch", asked, case.request)
    assert found[1].stride() == expected[1].stride()
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, rtol=1e-9, atol=1e-10)


# A rounding of the gradient; Triton's interpreter cuts off instead, for bfloat16.
LAST_DIGIT = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}


@pytest.mark.parametrize("dtype", LAST_DIGIT, ids=str)
@pytest.mark.parametrize("encoding", WHOLE, ids=str)
def test_single_and_half_precision_are_computed_in_single(
    encoding: Any, dtype: torch.dtype
) -> None:
    asked = batch_for(encoding, dtype=dtype, shape=(1, 5, 3, 3, 2))
    request = Request(NAMES[::3], tuple(VoxelSum(phi) for phi in PHIS[::3]))
    found = sums_and_gradient("triton", asked, request)
    expected = sums_and_gradient("torch", asked.double(), request)
    assert found[1].dtype == dtype
    assert_close(found[0], expected[0], rtol=2e-6, atol=2e-5)
    largest = expected[1].abs().max().item()
    slack = 4e-7 * largest  # what many terms of different signs cost
    assert_close(found[1].double(), expected[1], rtol=LAST_DIGIT[dtype], atol=slack)


@pytest.mark.parametrize("c", [1, 2, 3, 4, 5, 7, 8, 9, 14, 15, 16, 17, 31, 32, 33, 117, 256])
@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_any_number_of_channels(encoding: Any, c: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if c == 1 and isinstance(encoding, Multiclass):
        pytest.skip("a softmax over one channel is refused")
    monkeypatch.setattr(batch, "_LANES", 128)
    asked = batch_for(encoding, shape=(1, c, 7, 3))
    request = Request(("pred", "overlap", "pred*distance"), (VoxelSum(CrossEntropy()),))
    found = sums_and_gradient("triton", asked, request)
    for x, y in zip(found, sums_and_gradient("torch", asked, request), strict=True):
        assert_close(x, y, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("encoding", WHOLE, ids=str)
def test_finite_at_any_logits(encoding: Any, dtype: torch.dtype) -> None:
    asked = batch_for(encoding, dtype=dtype)
    saturated = asked._replace(logits=(1e4 * asked.logits.sign()).to(dtype))
    phis = [phi for phi in PHIS if phi != CompSum(0.5)]  # whose slope is beyond half precision
    request = Request(NAMES[5::4], tuple(VoxelSum(phi) for phi in phis[::2]))
    found = sums_and_gradient("triton", saturated, request)
    assert all(x.isfinite().all() for x in found)
