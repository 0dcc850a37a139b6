"""Losses on a device other than the CPU: the same numbers, and nothing that waits for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs a PyTorch that takes devices written in Python",
)
def test_every_loss_is_the_same_and_never_waits() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.engine.accelerator"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not run.stdout
