"""Numbers that go along with tensors, such as class weights."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["constant", "kept"]

P = ParamSpec("P")
T = TypeVar("T")


def kept(make: Callable[P, T]) -> Callable[P, T]:
    """Keep what a function makes of hashable arguments, such as tensors that are not to be changed.

    They are copied to a device once: a copy makes the host wait for a GPU, and cannot be captured in
    a CUDA graph. torch.compile, which sees through no such store, calls the function itself.
    """

    @lru_cache(maxsize=256)
    def once(*args: P.args, **options: P.kwargs) -> T:
        with torch.inference_mode(False):  # what is kept may be needed for training, too
            return make(*args, **options)

    @wraps(make)
    def made(*args: P.args, **options: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return make(*args, **options)
        return once(*args, **options)  # type: ignore[arg-type]

    return made


def constant(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """A vector of the numbers, with the dtype and on the device of a tensor; not to be changed.

    Example:
        >>> constant((1.0, 3.0), torch.zeros(2, 2))
        tensor([1., 3.])
    """
    return _vector(numbers, like.dtype, like.device)


@kept
def _vector(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)
