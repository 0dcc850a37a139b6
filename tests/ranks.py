"""Work for two processes that train together."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

PATIENCE = 300.0
"""Seconds after which ranks that wait for one another are an error."""


def on_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work`, a function of a module, returns on each of two ranks."""
    with pytest.MonkeyPatch.context() as patch:  # pytest imports tests without a search path
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        context = spawn(_on_a_rank, args=(work, str(folder)), nprocs=2, join=False)
    if not (context.join(PATIENCE) or context.join(PATIENCE)):  # each waits for one process
        for process in context.processes:
            process.kill()
        raise TimeoutError(f"two ranks did not end within {2 * PATIENCE:.0f} s")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _on_a_rank(rank: int, work: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        torch.save(work(rank), Path(folder) / f"{rank}.pt")
    finally:
        # A DistributedDataParallel that outlives its group ends the group's threads while it holds
        # Python's lock; a thread that needs the lock to end then waits for ever.
        gc.collect()
        dist.destroy_process_group()
