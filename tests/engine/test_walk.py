"""Blocks cover a batch once, and several threads find what one finds."""

import multiprocessing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from segloss import CrossEntropyLoss, DiceLoss
from segloss.engine import walk
from segloss.engine.walk import each_block, places
from tests.losses.checks import value_and_gradient

LOSS = DiceLoss() + CrossEntropyLoss()


def big_batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 300, 400, generator=rng), torch.randint(3, (2, 300, 400))


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 500), st.integers(1, 300))
def test_every_voxel_is_in_one_block(b: int, c: int, n: int, size: int) -> None:
    seen = torch.zeros(b, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_CPU", size)
        for samples, voxels in places(torch.empty(b, c, n)):
            seen[samples, voxels] += 1
            assert seen[samples, voxels].numel() <= max(1, size // c)
    assert (seen == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_and_without_a_graph(threads: int) -> None:
    logits = torch.ones(1, 1, 10 * walk._CPU, requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        where = places(logits)
        found = each_block(lambda place: (place, (logits[:, :, place[1]] * 2).sum()), logits)
        assert [place for place, _ in found] == where
        assert len(where) >= 10
        if threads > 1:
            assert not any(value.requires_grad for _, value in found)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_nothing_but_rounding() -> None:
    logits, labels = big_batch()
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(value_and_gradient(LOSS, logits, labels))
    torch.set_num_threads(before)
    assert_close(found[0], found[1])


def test_twice_the_same_is_the_same() -> None:
    logits, labels = big_batch()
    first, second = (value_and_gradient(LOSS, logits, labels) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    logits, labels = big_batch()
    labels[1, -1, -1] = 7
    with pytest.raises(ValueError, match="target holds label 7"):
        LOSS(logits, labels)


def _in_a_child(queue: "multiprocessing.Queue[float]") -> None:
    logits, labels = big_batch()
    queue.put(LOSS(logits, labels).item())


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_gets_threads_of_its_own() -> None:
    logits, labels = big_batch()
    torch.manual_seed(0)
    LOSS(logits, labels)  # the threads of this process are there now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,))
    child.start()
    assert 0 < queue.get(timeout=60) < 10
    child.join(60)
    assert child.exitcode == 0
