"""How a pass walks over a batch: block by block, on the CPU several blocks at a time.

A block is small, so PyTorch's own threads would meet at a barrier after every few hundred
microseconds; let another process (a worker that loads data, say) take one core for a while, and all
wait for it, thousands of times a step. Threads that work on a block each do not wait for each other.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Place", "each_block", "places"]

Place = tuple[slice, slice]
"""Some samples, and some voxels of each."""

# Numbers in all blocks of logits that are worked on at a time. On the CPU a block should fit the
# cache of a core: larger ones cost memory, smaller ones the overhead of many small operations. A
# GPU wants large ones.
_CPU, _GPU = 3 << 17, 1 << 24
_MOST_THREADS = 4  # more would wait for the interpreter's lock

T = TypeVar("T")


def places(logits: Tensor) -> list[Place]:
    """Cut a batch ``(b, c, n)`` into blocks: whole samples, or nearly equal parts of one."""
    b, c, n = logits.shape
    size = max(1, (_GPU if logits.is_cuda else _CPU // _threads(logits)) // c)
    samples = max(1, size // n)
    voxels = -(-n // -(-n // size))
    return [
        (slice(i, i + samples), slice(j, j + voxels))
        for i in range(0, b, samples)
        for j in range(0, n, voxels)
    ]


def each_block(work: Callable[[Place], T], logits: Tensor) -> list[T]:
    """The results of the work on every block, in their order; without a graph for autograd."""
    where = places(logits)
    threads = min(_threads(logits), len(where))
    if threads == 1:
        return [work(place) for place in where]

    def without_graph(place: Place) -> T:
        with torch.no_grad():  # a thread has a grad mode of its own
            return work(place)

    return list(_pool(_threads(logits)).map(without_graph, where))


def _threads(logits: Tensor) -> int:
    return min(torch.get_num_threads(), _MOST_THREADS) if logits.device.type == "cpu" else 1


_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}
_LOCK = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads whose operations stay on one core each."""
    key = (os.getpid(), threads)  # a forked process has the dictionary, but not the threads
    with _LOCK:
        if key not in _POOLS:
            _POOLS.clear()
            pool = ThreadPoolExecutor(threads, "segloss", torch.set_num_threads, (1,))
            everyone = threading.Barrier(threads + 1)
            for _ in range(threads):
                pool.submit(everyone.wait)
            everyone.wait()
            # Besides the thread that called it, set_num_threads concerns threads yet to come.
            torch.set_num_threads(torch.get_num_threads())
            _POOLS[key] = pool
        return _POOLS[key]
