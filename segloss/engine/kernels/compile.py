"""How a function over tiles of voxels becomes a kernel."""

import inspect
from collections.abc import Callable
from typing import Any

import triton

__all__ = ["INTERPRETED", "compiled"]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile for the GPU at its first call; with ``TRITON_INTERPRET=1``, run it in Python.

    What surrounds the function (the type checks of the tests) is taken off first: the compiler
    reads the source and wants what is written there.

    Args:
        function: Arithmetic on tiles, in the subset of Python that Triton compiles.

    Returns:
        What another kernel calls, and ``[grid]`` launches.
    """
    return triton.jit(inspect.unwrap(function))


@compiled
def _nothing() -> None:
    pass


INTERPRETED = not isinstance(_nothing, triton.JITFunction)
"""Whether Triton's interpreter runs the kernels, on the CPU."""
