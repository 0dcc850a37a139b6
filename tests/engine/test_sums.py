"""Every sum, and what flows back through it, against its definition."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss.engine import block
from segloss.engine.sums import Request, dense_sums, map_of, one_pass
from segloss.engine.voxel import CrossEntropy, Focal, VoxelSum
from tests.reference.dense import dense, region_sum
from tests.strategies import ENCODINGS, Batch, make_batch

NAMES = (
    "count",
    "overlap",
    "pred",
    "true",
    "pred_squared",
    "true_squared",
    "pred_squared_true",
    "error^1",
    "error^1.5",
    "error^2",
    "pred*skeleton",
    "skeleton",
    "pred*distance",
    "distance",
    "distance^1.5",
    "pred*distance^2",
    "pred_squared*distance",
    "error^1*distance^2",
    "error^2*distance",
    "error^2*skeleton",
)
WHOLE = [e for e in ENCODINGS if e.all_channels == e]


def maps_of(batch: Batch, request: Request) -> dict[str, Tensor]:
    every = {"skeleton": batch.skeleton, "distance": batch.distance}
    return {k: m for k, m in every.items() if k in request.maps} | {"weight": batch.weight}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("encoding", WHOLE, ids=str)
def test_a_sum_and_its_gradient(encoding: Any, soft: bool, name: str) -> None:
    request = Request((name,))
    batch = make_batch(encoding, soft=soft and encoding.ignore is None)
    maps = maps_of(batch, request)
    logits = batch.logits.requires_grad_()
    sums, _ = one_pass(encoding.encode(logits, batch.target, maps), request)
    regions = torch.stack(tuple(sums.values()))
    expected = region_sum(dense(encoding, logits, batch.target, maps), name)
    assert_close(regions, expected[None], rtol=1e-10, atol=1e-10)
    if expected.requires_grad:
        pull = torch.randn(expected.shape, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(regions[0], logits, pull)
        (slope,) = torch.autograd.grad(expected, logits, pull)
        assert_close(gradient, slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("encoding", WHOLE, ids=str)
def test_all_sums_at_once_in_blocks_are_the_dense_ones(
    encoding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_CPU", 30)
    voxels = (VoxelSum(CrossEntropy()), VoxelSum(Focal(2.0), (1.0, 0.0, 2.0)))
    request = Request(NAMES, voxels)
    batch = make_batch(encoding)
    logits = batch.logits.requires_grad_()
    encoded = encoding.encode(logits, batch.target, maps_of(batch, request))
    results = [
        (torch.stack(tuple(sums.values())), of_voxels)
        for sums, of_voxels in (one_pass(encoded, request), dense_sums(encoded, request))
    ]
    pulls = [torch.randn(x.shape, dtype=torch.float64) for x in results[0]]
    gradients = [torch.autograd.grad(sums, logits, pulls) for sums in results]
    assert_close(*results)
    assert_close(*gradients)


def test_a_sum_over_a_volume_in_half_precision_is_exact() -> None:
    n = 96
    logits = torch.zeros(1, 2, n, n, n, dtype=torch.float16)
    labels = torch.ones(1, n, n, n, dtype=torch.uint8)
    encoding = WHOLE[0]
    request = Request(("count", "pred", "overlap"))
    regions, _ = one_pass(encoding.encode(logits, labels, {}), request)
    assert regions["count"].tolist() == [[n**3, n**3]]
    assert regions["pred"].tolist() == [[n**3 / 2, n**3 / 2]]
    assert regions["overlap"].tolist() == [[0, n**3 / 2]]


def test_requests_add_up_without_repeating() -> None:
    a = Request(("pred", "true"), (VoxelSum(CrossEntropy()),))
    b = Request(("true", "skeleton"), (VoxelSum(CrossEntropy()), VoxelSum(Focal(2.0))))
    assert (a | b).regions == ("pred", "true", "skeleton")
    assert (a | b).voxels == (VoxelSum(CrossEntropy()), VoxelSum(Focal(2.0)))
    assert (a | b).maps == {"skeleton"}
    assert map_of("error^2") is None


def test_a_power_below_one_has_no_finite_slope() -> None:
    batch = make_batch()
    encoded = WHOLE[0].encode(batch.logits, batch.target, {})
    with pytest.raises(ValueError, match=r"error\^0\.5.*1 or more"):
        one_pass(encoded, Request(("error^0.5",)))


def test_the_forward_pass_leaves_its_inputs_alone() -> None:
    encoding = ENCODINGS[2]
    batch = make_batch(encoding)
    request = Request(NAMES)
    maps = maps_of(batch, request)
    given = [batch.logits, batch.target, *maps.values()]
    before = [x.clone() for x in given]
    logits = batch.logits.clone().requires_grad_()
    regions, _ = one_pass(encoding.encode(logits, batch.target, maps), request)
    torch.stack(tuple(regions.values())).sum().backward()
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


@pytest.mark.parametrize(
    ("names", "constant"),
    [
        (("true", "count", "true_squared"), True),
        (("count", "skeleton", "distance^2"), True),
        (("count", "pred"), False),
        (("pred*skeleton", "skeleton"), False),
        (("error^1.5",), False),
        (("errors/4",), False),
    ],
)
def test_sums_that_no_logit_changes_have_no_gradient(
    names: tuple[str, ...], constant: bool
) -> None:
    batch = make_batch(WHOLE[0])
    request = Request(names)
    maps = {name: getattr(batch, name) for name in request.maps}
    encoded = WHOLE[0].encode(batch.logits.requires_grad_(), batch.target, maps)
    regions, _ = one_pass(encoded, request)
    assert {x.requires_grad for x in regions.values()} == {not constant}
