"""The kernels' tests need Triton; its interpreter is slow enough without doing things twice."""

from importlib.util import find_spec
from typing import Any

import pytest

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]


@pytest.fixture(autouse=True)
def language_patched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a launch, rather than at every call of one function by another: twice as fast."""
    import triton
    from triton.runtime import interpreter

    patch: Any = getattr(interpreter, "_patch_lang", None)
    patched: set[str] = set()

    def patch_once(function: Any) -> Any:
        if triton.language.core.is_builtin(triton.language.load):  # a launch, nothing patched yet
            patched.clear()
        if function.__module__ in patched:
            return None
        patched.add(function.__module__)
        return patch(function)

    if patch is not None:
        monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
