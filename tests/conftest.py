"""Annotations become checks here, and only here; compiled tests need the code unwrapped."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch

# Before Python 3.11 beartype cannot read `Unpack`, which is typing_extensions' there.
WRAPPED = os.environ.get("SEGLOSS_CHECK_TYPES", "1") == "1" and sys.version_info >= (3, 11)
if WRAPPED:
    int_is_float = "beartype.BeartypeConf(is_pep484_tower=True)"  # as type checkers have it
    jaxtyping.install_import_hook("segloss", f"beartype.beartype(conf={int_is_float})")

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker has one core, and so have its processes
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# Triton asks for this when it is imported: without a GPU, its interpreter runs the kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

hypothesis.settings.register_profile("segloss", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("segloss")

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images and labels that lie beside a developer's checkout; not part of the project."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real images in {DATA}, which are not part of the project")
    return DATA


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What is imported as ``cupy`` during a test, on machines without a GPU too."""
    from segloss.transforms.kernels import gpu
    from tests.transforms.stand_in import COMPILER, StandIn

    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    cupy = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for cached in gpu._module, gpu._kernel:
        cached.cache_clear()
    yield cupy
    for cached in gpu._module, gpu._kernel:
        cached.cache_clear()


def pytest_runtest_setup() -> None:
    """What a test draws at random does not depend on which tests ran before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wrapped = pytest.mark.skip(
        reason="checks hide the code from torch.compile: SEGLOSS_CHECK_TYPES=0"
    )
    slow = pytest.mark.skip(reason="slow; run with -m slow")
    no_gpu = pytest.mark.skip(reason="needs a GPU, and a PyTorch that can use it")
    for item in items:
        if WRAPPED and "compiled" in item.keywords:
            item.add_marker(wrapped)
        if "slow" in item.keywords and "slow" not in config.option.markexpr:
            item.add_marker(slow)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
