"""One function over many cases: in this process, in several, or on a cluster."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

__all__ = ["SchedulerError", "WorkerDied", "results"]

T = TypeVar("T")
R = TypeVar("R")


class SchedulerError(ValueError):
    """The cluster cannot be used; the message says why and what to do."""


class WorkerDied(RuntimeError):
    """The process that worked on a task ended before the task did."""

    def __init__(self) -> None:
        super().__init__(
            "the process that worked on it was killed, perhaps for want of memory: try fewer --jobs"
        )


def results(
    work: Callable[[T], R], tasks: Sequence[T], *, jobs: int = 1, scheduler: str | None = None
) -> Generator[tuple[T, R | WorkerDied]]:
    """What `work` makes of each task, as it comes.

    Args:
        work: A function at the top of a module. What it raises ends everything.
        tasks: Its arguments.
        jobs: Processes on this machine; 1 is this process itself. When one dies, the tasks that may
            have killed it are tried once more, one at a time, so that the others are not lost.
        scheduler: Address of a Dask scheduler, whose workers are used instead.

    Yields:
        Each task, and what became of it, in the order of completion.

    Raises:
        SchedulerError: If no scheduler with workers answers at the address, or Dask is missing.
    """
    if scheduler is not None:
        yield from _on_cluster(work, tasks, scheduler)
    elif jobs == 1:
        for task in tasks:
            yield task, work(task)
    else:
        yield from _in_processes(work, tasks, jobs)


def _in_processes(
    work: Callable[[T], R], tasks: Sequence[T], jobs: int
) -> Generator[tuple[T, R | WorkerDied]]:
    left = dict(enumerate(tasks))
    while left:
        begun: list[int] = []
        calls = _calls(work, dict(left), begun)
        parallel = Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
        try:
            for number, result in parallel(calls):
                yield left.pop(number), result
        except TerminatedWorkerError:
            suspects = [number for number in begun if number in left]
        else:
            return
        for number in suspects:
            task = left.pop(number)
            if len(suspects) == 1:
                yield task, WorkerDied()
            else:
                yield from _in_processes(work, [task], jobs)


def _calls(work: Callable[[T], R], tasks: dict[int, T], begun: list[int]) -> Iterator[Any]:
    """The calls to make, which joblib draws a few ahead; `begun` is told which it has drawn."""
    for number, task in tasks.items():
        begun.append(number)
        yield delayed(_numbered)(work, number, task)


def _numbered(work: Callable[[T], R], number: int, task: T) -> tuple[int, R]:
    return number, work(task)


def _on_cluster(
    work: Callable[[T], R], tasks: Sequence[T], address: str
) -> Generator[tuple[T, R | WorkerDied]]:
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise SchedulerError(
            "a cluster needs Dask: pip install 'segloss-monai[dask]', here and on its workers"
        ) from error
    try:
        client = Client(address, timeout=20)
    except (OSError, ValueError) as error:
        raise SchedulerError(
            f"no Dask scheduler answers at {address!r} ({error}): expected an address such as "
            f"tcp://host:8786, as `dask scheduler` prints it"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=60)
        except TimeoutError as error:
            raise SchedulerError(
                f"the Dask scheduler at {address} has had no workers for a minute: start some with "
                f"`dask worker {address}`"
            ) from error
        task_of = {client.submit(work, task, pure=False): task for task in tasks}
        for future in as_completed(task_of):
            died = isinstance(future.exception(), KilledWorker)
            yield task_of[future], WorkerDied() if died else future.result()
