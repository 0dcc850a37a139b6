"""How loops over voxels become machine code."""

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

__all__ = ["compiled"]


def compiled(
    function: Callable[..., Any] | None = None, *, fastmath: frozenset[str] = frozenset()
) -> Any:
    """Compile a kernel at its first call, for every later process too where the disk allows it.

    A kernel runs on one core and holds no lock: threads share the work, and a forked worker
    inherits no pool of threads. What surrounds the function (the type checks of the tests) is taken
    off first; the compiler wants the loops and nothing else.

    Args:
        function: Loops over NumPy arrays, in the subset of Python that numba compiles.
        fastmath: What LLVM may do to arithmetic, as in ``{"contract"}``: multiply and add at once.

    Returns:
        The compiled function; its ``py_func`` is what was written.
    """
    if function is None:
        return lambda loops: compiled(loops, fastmath=fastmath)
    loops = inspect.unwrap(function)
    options: dict[str, Any] = {"nogil": True}
    if fastmath:
        options["fastmath"] = set(fastmath)
    try:
        kernel = njit(cache=True, **options)(loops)
    except RuntimeError:  # numba found no folder it may write to: each process compiles anew
        return njit(**options)(loops)
    # Of all that a kernel is made of, numba looks for changes in the kernel's own file only.
    index = getattr(getattr(kernel, "_cache", None), "_cache_file", None)  # none: nothing is cached
    if index is not None:
        index._source_stamp = _stamp(Path(loops.__code__.co_filename).parent)
    return kernel


@cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """When the files were changed, and how long they are, of which kernels call each other's."""
    files = [(path.name, path.stat()) for path in sorted(folder.glob("*.py"))]
    return tuple((name, found.st_mtime_ns, found.st_size) for name, found in files)
