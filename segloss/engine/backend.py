"""Which engine computes the sums: Triton on CUDA tensors, compiled loops on the CPU, or PyTorch."""

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

import torch

from segloss.arguments import one_of

if TYPE_CHECKING:
    from segloss.encoding import Encoded
    from segloss.engine.sums import Request

__all__ = ["Backend", "backend", "chosen", "takes", "triton_runs"]

Backend = Literal["auto", "triton", "torch"]

Kernels = Literal["operators", "numbers", "skeleton"]
"""The modules of `segloss.engine.kernels` that launch some; each can tell whether they are right."""

_COMPUTED = {
    "operators": "the losses",
    "numbers": "sums of instances and of bins",
    "skeleton": "soft skeletons",
}

_log = logging.getLogger("segloss")
_chosen: Backend = "auto"


class backend:
    """Choose the engine that computes the losses, from now on or for a ``with`` block.

    With ``"auto"``, from the start, Triton's kernels compute what CUDA tensors ask for, if Triton is
    installed and gives PyTorch's numbers for a first small batch there (the logger ``segloss`` says
    once whether it does), loops compiled by numba what tensors in single precision on the CPU do,
    and PyTorch everything else. The numbers are the same but for rounding. The choice holds for all
    threads, and for what torch.compile makes of a loss after it.

    Args:
        name: ``"auto"``; ``"triton"``, to hear why if it does not work, which on the CPU takes
            Triton's interpreter, for tests, with ``TRITON_INTERPRET=1`` in the environment; or
            ``"torch"``. Whatever kernels and loops know nothing of goes to PyTorch even so.

    Raises:
        ImportError: Triton is not installed.

    Example:
        >>> import torch
        >>> from segloss import DiceLoss
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> with backend("torch"):
        ...     DiceLoss()(logits, labels)
        tensor(0.6667)
    """

    def __init__(self, name: Backend) -> None:
        global _chosen
        if one_of("name", name, get_args(Backend)) == "triton" and not _installed():
            raise ImportError("Triton is not installed: pip install triton, or use backend('auto')")
        self.before, _chosen = _chosen, name

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        global _chosen
        _chosen = self.before


def chosen() -> Backend:
    """What was chosen last."""
    return _chosen


def takes(encoded: "Encoded", request: "Request") -> bool:
    """Whether Triton's kernels are to compute a request."""
    if not triton_runs(encoded.logits.device):
        return False
    from segloss.engine.kernels import rows

    return rows.supports(encoded, request)


def triton_runs(device: torch.device, kernels: Kernels = "operators") -> bool:
    """Whether Triton's kernels are to compute what they can of tensors there."""
    if _chosen == "torch":
        return False
    if _chosen == "auto" and not (device.type == "cuda" and _works(device, kernels)):
        return False
    from segloss.engine.kernels.compile import INTERPRETED

    if device.type != "cuda" and not (device.type == "cpu" and INTERPRETED):
        raise RuntimeError(
            f"backend('triton') was asked for, but the input is on {device}: move it to a CUDA "
            "device, use backend('auto'), or, for tests on the CPU, set TRITON_INTERPRET=1 in the "
            "environment before the program starts"
        )
    return True


def _installed() -> bool:
    return find_spec("triton") is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _works(device: torch.device, kernels: Kernels) -> bool:
    return _tried(device, kernels)


@cache
def _tried(device: torch.device, kernels: Kernels) -> bool:
    """Whether the kernels can be had, which takes a compiler, a driver, a GPU, and are right."""
    what = f"{_COMPUTED[kernels]} on {device}"
    if not _installed():
        _log.info("Triton is not installed: PyTorch computes %s", what)
        return False
    try:
        right = import_module(f"segloss.engine.kernels.{kernels}").agrees(device)
    except Exception as error:  # noqa: BLE001 - Triton, the C compiler, the driver: who knows
        _log.warning("Triton fails, so PyTorch computes %s: %s", what, error)
        return False
    if not right:
        _log.warning(
            "Triton's numbers are not PyTorch's, which computes %s: please report this, with the "
            "versions of the two and the name of the GPU",
            what,
        )
        return False
    _log.info("Triton's kernels compute %s", what)
    return True
