"""What CuPy looks like from here, on a CPU: for machines without a GPU.

Arrays of the stand-in are NumPy's with a wall around them. Like CuPy's they obey NumPy's functions,
refuse to become arrays of NumPy or to meet any, refuse numbers that their dtype cannot hold, know no
``where=``, and yield arrays even for a single element. Kernels are the same source, compiled for the
CPU; arguments have to be of the types that the source says.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

__all__ = ["COMPILER", "DeviceArray", "StandIn", "from_gpu", "on_gpu", "to_gpu"]

COMPILER = shutil.which("g++") or shutil.which("c++")
_HAS = {  # of what NumPy asks CuPy for when it is given an array of CuPy
    "clip", "concatenate", "copyto", "empty_like", "full_like", "meshgrid", "moveaxis", "ones_like",
    "stack", "unique", "where", "zeros_like",
}  # fmt: skip


ON_A_CPU = """
#include <sched.h>
#define KERNEL extern "C" void
#define DEVICE static inline
#if defined BACKWARDS
#define EACH(i, count) for (long long i = (count) - 1; i >= 0; --i)
#elif defined TOGETHER
#define EACH(i, count) \
    _Pragma("omp parallel for num_threads(4) schedule(static, 1)") \
    for (long long i = 0; i < (count); ++i)
#else
#define EACH(i, count) for (long long i = 0; i < (count); ++i)
#endif
static inline int atomicMin(int *address, int value) {
#ifdef TOGETHER
    sched_yield(); // so that others are faster now and then
#endif
    int old = __atomic_load_n(address, __ATOMIC_SEQ_CST);
    while (value < old && !__atomic_compare_exchange_n(
        address, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    return old;
}
"""
ORDERS = {
    "forwards": [],
    "backwards": ["-DBACKWARDS"],
    "together": ["-DTOGETHER", "-fopenmp"],
}


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, host: Any) -> None:
        self.host = np.asarray(host)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        assert method == "__call__"
        assert set(kwargs) <= {"out"}, f"CuPy's {ufunc.__name__} has no {set(kwargs) - {'out'}}"
        for dtype in [x.dtype for x in inputs if isinstance(x, DeviceArray)]:
            for number in [x for x in inputs if type(x) is int and dtype.kind in "iu"]:
                dtype.type(number)  # OverflowError
        return wrapped(ufunc(*map(bare, inputs), **{k: bare(v) for k, v in kwargs.items()}))

    def __array_function__(self, func: Any, _: Any, args: Any, kwargs: Any) -> Any:
        assert func.__name__ in _HAS, f"is there a cupy.{func.__name__}?"
        return wrapped(func(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()}))

    def __getitem__(self, key: Any) -> "DeviceArray":
        return DeviceArray(self.host[bare(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[bare(key)] = bare(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.host, name)
        if not callable(found) or name in {"dtype", "item", "tolist"}:
            return found
        return lambda *args, **kwargs: wrapped(
            found(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()})
        )

    def __len__(self) -> int:
        return len(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __str__(self) -> str:
        return str(self.host)

    def get(self) -> np.ndarray:
        return self.host

    def __dlpack__(self, **kwargs: Any) -> Any:
        kwargs.pop("stream", None)
        return self.host.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.host.__dlpack_device__()


def to_gpu(host: Any) -> Any:
    """An array on the stand-in's GPU, that passes for any."""
    return DeviceArray(host)


def from_gpu(array: Any) -> np.ndarray:
    assert isinstance(array, DeviceArray)
    return array.host


def on_gpu(function: Callable[..., Any], *args: Any, **kwargs: Any) -> np.ndarray:
    """What a function makes of arrays on the GPU."""

    def moved(value: Any) -> Any:
        return to_gpu(value) if isinstance(value, np.ndarray) else value

    moved_kwargs = {name: moved(value) for name, value in kwargs.items()}
    return from_gpu(function(*map(moved, args), **moved_kwargs))


def bare(value: Any) -> Any:
    """What is within the wall; what should never have met it raises."""
    if isinstance(value, DeviceArray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("an array of NumPy among those of CuPy")
    if isinstance(value, tuple | list):
        return type(value)(bare(each) for each in value)
    return value


def wrapped(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(wrapped(each) for each in value)
    return DeviceArray(value) if isinstance(value, np.ndarray | np.generic) else value


class StandIn(ModuleType):
    """The module ``cupy``; `order` is that of the threads, one of `ORDERS`."""

    ndarray = DeviceArray

    def __init__(self, order: str = "forwards") -> None:
        super().__init__("cupy")
        self.__spec__ = ModuleSpec("cupy", None)
        self.order = order
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        function = getattr(np, name)
        return lambda *args, **kwargs: wrapped(
            function(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()})
        )

    def asarray(self, host: np.ndarray) -> DeviceArray:
        return DeviceArray(host.copy())

    def asnumpy(self, array: DeviceArray) -> np.ndarray:
        return array.host.copy()

    def from_dlpack(self, tensor: torch.Tensor) -> DeviceArray:
        return DeviceArray(np.from_dlpack(tensor))

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> Any:
        assert options == ("--std=c++14",)
        return Kernels(code, self.order)


@cache
def library(code: str, order: str) -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp())
    source, binary = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(ON_A_CPU + code)
    strict = ["-std=c++14", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([str(COMPILER), *strict, *ORDERS[order], source, "-o", binary], check=True)
    return ctypes.CDLL(str(binary))


TYPES: dict[str, tuple[Any, Any]] = {
    "Voxel": (np.uint8, None),
    "int": (np.int32, None),
    "long long": (np.int64, ctypes.c_longlong),
    "float": (np.float32, ctypes.c_float),
}


class Kernels:
    def __init__(self, code: str, order: str) -> None:
        self.library = library(code, order)
        found = re.findall(r"^KERNEL (\w+)\((.*?)\) \{", code, re.MULTILINE | re.DOTALL)
        self.parameters = {name: parameters.split(",") for name, parameters in found}

    def get_function(self, name: str) -> Callable[..., None]:
        run = getattr(self.library, name)
        run.restype = None

        def launch(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
            assert grid[0] >= 1 and block[0] <= 1024
            values = []
            for parameter, value in zip(self.parameters[name], args, strict=True):
                kind, star, _ = re.fullmatch(  # type: ignore[union-attr]
                    r"\s*(?:const )?(.+?) (\**)(\w+)", parameter
                ).groups()
                dtype, scalar = TYPES[kind]
                assert value.dtype == dtype, f"{name}: {parameter} is {value.dtype}"
                if star:
                    assert value.host.flags.c_contiguous and value.host.flags.writeable
                    values.append(ctypes.c_void_p(value.host.ctypes.data))
                else:
                    assert isinstance(value, np.generic)
                    values.append(scalar(value))
            run(*values)

        return launch
