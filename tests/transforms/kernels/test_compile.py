"""Kernels where the disk, the threads or the processes are not as one would like."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import segloss.compiled as compile_
from segloss.transforms.functional import signed_distance, skeleton, tubed_skeleton

CUBE = np.random.default_rng(0).random((12, 13, 14)) < 0.7


def test_no_folder_may_be_written_to(tmp_path: Path) -> None:
    """As in a container whose file system is read-only: compiled anew, but working."""
    (tmp_path / "file").touch()  # no folder can be made inside a file, not even by root
    blocked = {
        "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }
    code = (
        "import numpy as np; from segloss.transforms.functional import signed_distance;"
        "print(float(signed_distance(np.eye(3, dtype=bool))[0, 2]))"
    )
    shown = subprocess.check_output([sys.executable, "-c", code], env={**os.environ, **blocked})
    assert float(shown) == np.float32(np.sqrt(0.5))


def test_without_a_cache_the_kernel_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(*, nogil: bool, cache: bool = False) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(nogil=nogil)

    monkeypatch.setattr(compile_, "njit", njit)
    assert compile_.compiled(lambda x: x + 1)(1) == 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method: str) -> None:
    expected = tubed_skeleton(CUBE)  # compiled here before the workers are forked
    with get_context(method).Pool(2) as pool:
        for tube in pool.map(tubed_skeleton, [CUBE] * 4):
            np.testing.assert_array_equal(tube, expected)


def test_threads() -> None:
    expected = skeleton(CUBE), signed_distance(CUBE)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(f, CUBE) for _ in range(8) for f in (skeleton, signed_distance)]
        for i, result in enumerate(results):
            np.testing.assert_array_equal(result.result(), expected[i % 2])
