"""Where the maps of a data set are made: on the CPU, or with CuPy on a GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from importlib import import_module
from typing import Any

import numpy as np

from segloss.data_scripts.recipes import Label, Recipe
from segloss.transforms.arrays import Array
from segloss.transforms.channels import Channels

__all__ = ["Backend", "BackendError", "channels_made", "from_gpu", "to_gpu"]


class BackendError(ValueError):
    """There is no GPU to make maps on; the message says why and what to do."""


class Backend(str, Enum):
    """What makes the maps, as the command line has it."""

    cpu = "cpu"
    cupy = "cupy"
    auto = "auto"

    def settled(self) -> "Backend":
        """This, or what stands for ``auto`` on this machine: ``cupy`` if it can be used here.

        Raises:
            BackendError: If this is ``cupy`` and cannot be used here.
        """
        if self is Backend.cpu:
            return self
        trouble = _trouble()
        if trouble is None:
            return Backend.cupy
        if self is Backend.auto:
            return Backend.cpu
        raise BackendError(f"--backend cupy: {trouble}, or pass --backend cpu")


def _trouble() -> str | None:
    """Why CuPy cannot be used on this machine, if it cannot."""
    try:
        cupy = import_module("cupy")
    except ImportError:
        return "CuPy is not installed: pip install 'segloss-monai[cupy]'"
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no GPU ({error}): choose a machine with one and its driver"
    try:
        cupy.arange(1)
    except Exception as error:  # noqa: BLE001 - it compiles, and may lack anything that takes
        return f"CuPy does not work ({error}): pip install 'segloss-monai[cupy]' has what it needs"
    return None


def channels_made(recipe: Recipe, label: Label, backend: Backend) -> Iterator[Array]:
    """The channels of a map, one after the other, in NumPy wherever they were made."""
    if backend is Backend.cpu:
        return recipe.make(label)
    channels, lines = _OnGpu(label.channels), _OnGpu(label.centrelines)
    return map(from_gpu, recipe.make(replace(label, channels=channels, centrelines=lines)))


def to_gpu(array: np.ndarray) -> Array:
    """A copy on the GPU."""
    return import_module("cupy").asarray(array)  # type: ignore[no-any-return]


def from_gpu(array: Array) -> np.ndarray:
    """A copy in NumPy."""
    return import_module("cupy").asnumpy(array)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _OnGpu(Sequence[Array]):
    """Channels that are copied to the GPU when one is asked for, so that there is one at a time."""

    channels: Channels

    def __len__(self) -> int:
        return len(self.channels)

    def __getitem__(self, index: Any) -> Any:
        return to_gpu(self.channels[index])
