"""Every task comes back once, in one process, in several, and on a cluster; even if some die."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segloss.data_scripts.scheduling import SchedulerError, WorkerDied, results

Task = tuple[int, str, Path]


def worker() -> Callable[[Task], int]:
    """A function without a module, which any process understands."""

    def square(task: Task) -> int:
        number, fate, folder = task
        time.sleep(0.01)
        if fate == "always" or (fate == "once" and not (folder / "died").exists()):
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "raise":
            raise OSError(28, "No space left on device")
        return number * number

    return square


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_comes_back(tmp_path: Path, jobs: int) -> None:
    tasks = [(number, "", tmp_path) for number in range(20)]
    found = {task[0]: result for task, result in results(worker(), tasks, jobs=jobs)}
    assert found == {number: number * number for number in range(20)}


@pytest.mark.parametrize("fate", ["once", "always"])
def test_a_worker_that_dies_costs_its_own_task_at_most(tmp_path: Path, fate: str) -> None:
    tasks = [(number, fate if number == 3 else "", tmp_path) for number in range(12)]
    found = {task[0]: result for task, result in results(worker(), tasks, jobs=2)}
    died = found.pop(3)
    assert found == {number: number * number for number in range(12) if number != 3}
    if fate == "once":
        assert died == 9
    else:
        assert isinstance(died, WorkerDied)
        assert "try fewer --jobs" in str(died)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_raised_ends_everything(tmp_path: Path, jobs: int) -> None:
    tasks = [(number, "raise" if number == 1 else "", tmp_path) for number in range(4)]
    with pytest.raises(OSError, match="No space left") as error:
        list(results(worker(), tasks, jobs=jobs))
    assert error.value.errno == 28


def test_no_scheduler_there() -> None:
    with pytest.raises(SchedulerError, match="no Dask scheduler answers at 'nowhere'"):
        list(results(worker(), [], scheduler="nowhere"))
