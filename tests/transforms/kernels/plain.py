"""A kernel as Python runs it: every line is seen by a debugger, and by the coverage report."""

import importlib.util
from types import ModuleType

import numba
import pytest

__all__ = ["plain"]


def plain(module: ModuleType) -> ModuleType:
    """A second copy of a module of kernels, without the compiler."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_plain", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", True)
        spec.loader.exec_module(copy)
    return copy
