"""CuPy where there is none, and only there where a test asks for it."""

import sys
from collections.abc import Iterator

import pytest

from segloss.transforms.kernels import gpu
from tests.transforms.stand_in import COMPILER, StandIn


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The module that is imported as ``cupy`` during a test."""
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    cupy = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for cached in gpu._module, gpu._kernel:
        cached.cache_clear()
    yield cupy
    for cached in gpu._module, gpu._kernel:
        cached.cache_clear()
