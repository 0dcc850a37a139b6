"""Losses on a device other than the CPU: the same numbers, and nothing that waits for it."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import backend_registration

from segloss import Multiclass
from tests.losses.checks import value_and_gradient
from tests.strategies import IGNORED, LOSSES, make_batch

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


@pytest.mark.gpu
@pytest.mark.parametrize("loss_class", LOSSES, ids=lambda x: x.__name__)
def test_on_a_gpu_too(loss_class: Any) -> None:
    loss: Any = loss_class(Multiclass(background=False, ignore=IGNORED), class_weight=[1.0, 2.0])
    batch = make_batch(loss.encoding, dtype=torch.float32)
    maps = batch.maps(loss, weight=True)
    if "instances" in maps:  # how many there are is not asked of a map of bytes
        maps["instances"] = maps["instances"].byte()
    on_gpu, logits, target = copy.deepcopy(loss).cuda(), batch.logits.cuda(), batch.target.cuda()
    there = {name: x.cuda() for name, x in maps.items()}

    def step() -> tuple[Tensor, Tensor]:
        return value_and_gradient(on_gpu, logits, target, **there)

    found = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = value_and_gradient(loss, batch.logits, batch.target, **maps)
    assert_close([x.cpu() for x in found], list(expected), rtol=1e-4, atol=1e-6)
