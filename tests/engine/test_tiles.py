"""The compiled loops against the same sums by PyTorch's operations, block by block."""

import math
import multiprocessing
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss import CrossEntropyLoss, DiceLoss, LabelTree, Multiclass, SkeletonRecallLoss, Tree
from segloss.activation import Affine
from segloss.engine import tiles
from segloss.engine.block import Block
from segloss.engine.sums import Request, dense_sums, one_pass
from segloss.engine.voxel import CrossEntropy, Focal, VoxelSum
from tests.losses.checks import value_and_gradient
from tests.strategies import ENCODINGS, IGNORED, make_batch

NAMES = (*tiles.SUMS[:11], "skeleton", "pred*skeleton", "distance", "pred*distance")


def encoded_batch(encoding: Any, *, weighted: bool = True, **options: Any) -> Any:
    """A batch in single precision as the engine reads it."""
    batch = make_batch(encoding, dtype=torch.float32, **options)
    maps = {"skeleton": batch.skeleton, "distance": batch.distance}
    maps |= {"weight": batch.weight} if weighted else {}
    return encoding.encode(batch.logits.requires_grad_(), batch.target, maps)


def both(encoded: Any, request: Request, scale: Tensor) -> list[tuple[Tensor, Tensor]]:
    """All sums, and the derivative by the logits of them all, each scaled: of tiles and of PyTorch."""
    found = []
    for engine in (one_pass, dense_sums):
        regions, voxels = engine(encoded, request)
        flat = [x.flatten() for x in (*regions.values(), voxels)]
        packed = torch.cat([*flat, 0 * encoded.logits.flatten()[:1]]).double()
        (gradient,) = torch.autograd.grad((packed * scale[: len(packed)]).sum(), encoded.logits)
        found.append((packed.detach(), gradient))
    return found


@given(
    encoding=st.sampled_from(ENCODINGS),
    names=st.sets(st.sampled_from(NAMES), min_size=1),
    classes=st.integers(2, 7),
    space=st.sampled_from([(1, 1), (3, 5), (19, 31), (9, 10, 13)]),
    scale=st.sampled_from([0.1, 2.0, 8.0]),
    soft=st.booleans(),
    weighted=st.booleans(),
    entropies=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_are_the_sums_of_blocks(
    encoding: Any,
    names: set[str],
    classes: int,
    space: tuple[int, ...],
    scale: float,
    soft: bool,
    weighted: bool,
    entropies: int,
    seed: int,
) -> None:
    options: dict[str, Any] = {"shape": (2, classes, *space), "scale": scale, "seed": seed}
    soft = soft and encoding.ignore is None
    encoded = encoded_batch(encoding, weighted=weighted, soft=soft, **options)
    weights = (None, (0.0, *(0.5 + i for i in range(classes - 1))))
    terms = tuple(VoxelSum(CrossEntropy(), weights[i]) for i in range(entropies))
    request = Request(tuple(sorted(names)), terms)
    used = {name: x for name, x in encoded.maps.items() if name in request.maps}
    encoded.maps.clear()
    encoded.maps.update(used)
    assert tiles.supports(encoded, request)
    factors = torch.randn(4096, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (sums, gradient), (expected, slope) = both(encoded, request, factors)
    size = math.prod(space) * (1 + scale)
    assert_close(sums, expected, rtol=3e-6, atol=1e-6 * size)
    assert_close(gradient, slope, rtol=1e-4, atol=1e-5)


@given(
    leaves=st.integers(3, 7),
    present=st.integers(1, 7),
    space=st.sampled_from([(1, 1), (19, 31), (9, 10, 13)]),
    ignore=st.sampled_from([None, 1, IGNORED]),
    weighted=st.booleans(),
    of=st.sampled_from(["label", "step"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_nodes_of_a_tree_are_made_of_labels(
    leaves: int,
    present: int,
    space: tuple[int, ...],
    ignore: int | None,
    weighted: bool,
    of: Any,
    seed: int,
) -> None:
    inner = {f"leaf {i}": None for i in range(leaves - 1)}
    tree = LabelTree({"all": inner, "other": None}, rest=None, background=None)
    encoding = Tree(tree, ignore=ignore)
    options: dict[str, Any] = {"shape": (2, leaves, *space), "present": min(present, leaves)}
    batch = make_batch(dtype=torch.float32, seed=seed, **options)
    maps = {"weight": batch.weight} if weighted else {}
    encoded = encoding.encode(batch.logits.requires_grad_(), batch.target, maps)
    alpha = None if of == "step" else tuple(0.5 * i for i in range(len(tree)))
    request = Request(("pred", "overlap", "true", "count"), (VoxelSum(CrossEntropy(), alpha, of),))
    assert tiles.supports(encoded, Request(("tally", "confusion"), request.voxels))
    factors = torch.randn(4096, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (sums, gradient), (expected, slope) = both(encoded, request, factors)
    assert_close(sums, expected, rtol=3e-6, atol=3e-6 * math.prod(space))
    assert_close(gradient, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("margin", [None, (0.0, 2.0, 0.3, 5.0)])
def test_logits_are_adjusted(encoding: Any, margin: tuple[float, ...] | None) -> None:
    columns = [(1.0, 0.5, 2.0, 3.0), (0.0, -1.0, 2.0, 0.1), *([margin] if margin else [])]
    affine = Affine(*(torch.tensor(column)[:, None] for column in columns))
    encoded = replace(encoded_batch(encoding, shape=(2, 4, 9, 9, 9)), affine=affine)
    request = Request(("pred", "overlap", "pred*distance"), (VoxelSum(CrossEntropy()),))
    encoded.maps.pop("skeleton")
    assert tiles.supports(encoded, request)
    (sums, gradient), (expected, slope) = both(encoded, request, torch.linspace(-1, 2, 99).double())
    assert_close(sums, expected, rtol=3e-6, atol=1e-3)
    assert_close(gradient, slope, rtol=1e-4, atol=1e-5)


def test_what_the_loops_know_of_trees() -> None:
    tree = LabelTree({"liver": {"tumour": None}})
    batch = make_batch(shape=(2, 3, 6, 5), dtype=torch.float32)

    def known(encoding: Any, *names: str, terms: tuple[VoxelSum, ...] = ()) -> bool:
        encoded = encoding.encode(batch.logits, batch.target, {})
        return tiles.supports(encoded, Request(names, terms))

    alpha = (1.0, 1.0, 2.0, 3.0)
    assert known(Tree(tree), "tally", "confusion")
    assert not known(Tree(tree), "tally", "pred_squared")
    assert not known(Multiclass(), "confusion")
    assert not known(Tree(tree), terms=(VoxelSum(CrossEntropy(), alpha, "step"),))
    assert not known(Tree(tree), terms=(VoxelSum(CrossEntropy(), of="node"),))
    assert not known(Tree(tree, labels=["background", "liver", "tumour"]), "confusion")
    assert not known(Tree(tree, labels=["tumour", "background", "rest of liver"]), "confusion")


def test_many_classes_and_several_threads() -> None:
    loss = DiceLoss() + CrossEntropyLoss() + SkeletonRecallLoss()
    batch = make_batch(shape=(2, 40, 24, 30, 30), dtype=torch.float32)
    maps = batch.maps(loss)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(value_and_gradient(loss, batch.logits, batch.target, **maps))
    torch.set_num_threads(before)
    exact = value_and_gradient(loss, batch.logits.double(), batch.target, **maps)
    for value, gradient in found:
        assert_close(value.double(), exact[0])
        assert_close(gradient.double(), exact[1], rtol=1e-4, atol=1e-9)


def _shared_work() -> list[int]:
    done: list[int] = []
    tiles._share(lambda i, begin, end: done.append(end - begin), [(0, 3), (3, 5), (5, 9)])
    return sorted(done)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    assert _shared_work() == [2, 3, 4]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_shared_work).get(timeout=60) == [2, 3, 4]


@pytest.mark.parametrize("encoding", [ENCODINGS[0], ENCODINGS[4]], ids=str)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_what_is_no_number_shows(encoding: Any, wrong: float, channel: int) -> None:
    """A broken network must not look as if it learned."""
    batch = make_batch(encoding, shape=(1, 3, 5, 6), dtype=torch.float32)
    batch.logits[0, channel, 2, 3] = wrong
    for loss in (DiceLoss(encoding), CrossEntropyLoss(encoding)):
        value, gradient = value_and_gradient(loss, batch.logits, batch.target)
        exact = value_and_gradient(loss, batch.logits.double(), batch.target)
        assert value.isfinite() == exact[0].isfinite()
        assert torch.equal(gradient.isfinite(), exact[1].isfinite())


@pytest.mark.parametrize("encoding", [ENCODINGS[0], ENCODINGS[4]], ids=str)
def test_tails_are_exact(encoding: Any) -> None:
    """The last digit that single precision has, from certain to as wrong as can be."""
    z = torch.linspace(-110, 110, 2201).reshape(1, 1, 1, -1)
    logits = torch.cat([z, -z / 3], 1)
    target = (
        torch.zeros(1, 1, 2201).long()
        if isinstance(encoding, Multiclass)
        else z.repeat(1, 2, 1, 1) > 0
    )
    request = Request((), (VoxelSum(CrossEntropy()),))
    for at in range(0, 2201, 50):
        part = slice(at, at + 1)
        totals = []
        for x in (logits, logits.double()):
            encoded = encoding.encode(x[..., part], target[..., part], {})
            totals.append(float(one_pass(encoded, request)[1][0, 0, 0]))
        # A softmax that is nearly certain loses what 1 + e^-x does: PyTorch's does, too.
        lost = 1.2e-7 if isinstance(encoding, Multiclass) else 1e-37
        assert totals[0] == pytest.approx(totals[1], rel=5e-7, abs=lost)


def test_what_the_loops_do_not_know() -> None:
    encoding = Multiclass()
    batch = make_batch(encoding, shape=(2, 3, 6, 5), dtype=torch.float32)

    def known(logits: Tensor, regions: tuple[str, ...] = ("pred",), *terms: VoxelSum) -> bool:
        return tiles.supports(encoding.encode(logits, batch.target, {}), Request(regions, terms))

    assert known(batch.logits)
    assert not known(batch.logits.double())
    assert not known(batch.logits.half())
    assert not known(batch.logits.to(memory_format=torch.channels_last))
    assert not known(batch.logits, ("error^1.5",))
    assert not known(batch.logits, ("errors/16",))
    assert not known(batch.logits, (), VoxelSum(Focal(2.0)))


@pytest.mark.parametrize("named", ["target", "skeleton map"])
def test_labels_out_of_range_are_found(named: str) -> None:
    loss = DiceLoss() + SkeletonRecallLoss()
    batch = make_batch(shape=(2, 3, 6, 5), dtype=torch.float32)
    given = {"target": batch.target.clone(), "skeleton": batch.skeleton.clone()}
    given[named.split()[0]][1, 2, 3] = 2**32 + 1  # whose last bytes are in range
    with pytest.raises(ValueError, match=f"{named} holds label {2**32 + 1}, but the input has 3"):
        loss(batch.logits, **given)


def test_blocks_are_blocks_of_the_same_voxels() -> None:
    """Of the second half of the voxels of the second sample."""
    encoding = ENCODINGS[3]
    encoded = encoded_batch(encoding, shape=(3, 4, 8, 8))
    place = (slice(1, 3), slice(32, 64))
    request = Request(("overlap", "pred*skeleton"), (VoxelSum(CrossEntropy()),))
    found = tiles.tiled_sums(encoded, request, place)
    block = Block(encoded, place)
    assert_close(found[:, :4], (block.weighted(block.pred) * block.true).sum(2).double())
