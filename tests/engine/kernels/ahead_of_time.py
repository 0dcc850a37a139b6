"""Compile what the operators launch down to machine code, for a GPU that is not there.

    python -m tests.engine.kernels.ahead_of_time 90

A program of its own, since Triton's interpreter, once chosen, cannot be left. Everything is as with
a GPU (types, strides, constants, tuples of maps), but that the launch itself is left out.
"""

import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from segloss.engine.kernels import operators, skeleton
from segloss.engine.kernels.batch import Batch
from segloss.engine.kernels.numbers import sums_by_number


class Absent:
    """The driver of a GPU that is not there, of compute capability 9.0 for 90."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _: int) -> int:
        return 0


def volume(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """``(b, c, n)`` or ``(b, n)``."""
    return torch.zeros(shape, dtype=dtype)


def batches() -> list[Batch]:
    """Every kind of row, type and layout at least once."""
    n = 4096
    labels, tube = volume(2, n, dtype=torch.int64), volume(2, n, dtype=torch.uint8)
    last = volume(2, 1001, 3).transpose(1, 2)
    return [
        Batch(
            *(volume(2, 4, n), labels, None, [], [tube, volume(2, 3, n)]),
            "pred; true; overlap; yes cross entropy; count; pred*0; 0; wrong; wrong 0; pred*1",
            *(True, 255),
        ),
        Batch(
            *(volume(2, 14, n, dtype=torch.bfloat16), labels, volume(2, 1, n), [], []),
            "pred_squared; true_squared; pred_squared_true; yes focal 2.0; yes poly-1 0.5 -1.0",
            *(True, None),
        ),
        Batch(
            *(volume(2, 4, n), volume(2, 4, n), None, [volume(4, 1)] * 3, []),
            "pred_squared_rest; alarm; miss; yes shifted focal 2.0 0.05; yes comp-sum 0.5 inf",
            *(True, None),
        ),
        Batch(
            *(last, volume(2, 3, 1001, dtype=torch.bool), volume(2, 3, 1001), [], [last]),
            "rejected; error^1; error^1.5*0^2; yes symmetric 0.1 1.0; no comp-sum 1.7 0.7",
            *(False, 255),
        ),
        Batch(
            *(volume(1, 256, n, dtype=torch.float16), labels[:1], None, [], []),
            *("pred; overlap", True, None),
        ),
        Batch(
            *(volume(2, 5, n), labels, None, [], []),
            *("; ".join(f"label {i}" for i in range(5)) + "; true; yes cross entropy", True, None),
        ),
        Batch(
            *(volume(1, 1, n).double(), volume(1, 1, n), None, [], []),
            *("pred; no cross entropy", False, None),
        ),
    ]


def main(capability: int) -> None:
    built: list[Any] = []

    def compile_only(kernel: Any, grid: Any) -> Any:
        return lambda *given, **constants: built.append(
            kernel.run(*given, grid=grid, warmup=True, **constants)
        )

    triton.JITFunction.__getitem__ = compile_only
    driver.set_active(Absent(capability))
    for batch in batches():
        rows = operators.row_sums(*batch)
        operators._row_gradient(rows, *batch)
    sums_by_number(volume(2, 3, 4096, dtype=torch.uint8), volume(2, 3, 3, 4096), 256)
    # What is 1 is no variable in a kernel.
    sums_by_number(volume(1, 1, 7, dtype=torch.uint8), volume(1, 1, 1, 7), 2)
    for x in volume(5, 6, 7), volume(8, 16, dtype=torch.float64):
        skeleton.slope(x, x > 0, 1, x)
    for kernel in built:
        print(kernel.name, len(kernel.asm["cubin"]), kernel.metadata.shared)


if __name__ == "__main__":
    main(int(sys.argv[1]))
