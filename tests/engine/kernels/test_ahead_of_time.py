"""The kernels are not only what an interpreter takes: they become machine code, without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from triton.backends import backends

from tests.engine.kernels import ahead_of_time
from tests.test_packaging import ROOT


@pytest.mark.slow
@pytest.mark.skipif("nvidia" not in backends, reason="needs a Triton that compiles for CUDA")
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_kind_of_row_becomes_machine_code(capability: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    lines = subprocess.check_output(
        [sys.executable, "-m", "tests.engine.kernels.ahead_of_time", capability],
        cwd=ROOT,
        env=environment,
        text=True,
    ).splitlines()
    kernels, sizes, shared = zip(*map(str.split, lines), strict=True)
    of_rows = ("sum_rows", "write_gradient") * len(ahead_of_time.batches())
    back = ("_pull", "_undo_dilation", "_undo_erosion")
    of_skeletons = 2 * ("_erode", "_take_piece", "_erode", *back, *back)
    assert kernels == (*of_rows, *["_sum_by_number"] * 2, *of_skeletons)
    assert all(int(size) > 1000 for size in sizes)
    # All channels of a voxel are in one thread: the gradient needs nothing of another.
    assert shared[1] == shared[3] == "0"
