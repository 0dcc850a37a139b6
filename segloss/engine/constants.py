"""Numbers that go along with tensors, such as class weights."""

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["constant"]


def constant(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """A vector of the numbers, with the dtype and on the device of a tensor; not to be changed.

    It is copied to a device once: a copy makes the host wait for a GPU, and cannot be captured in a
    CUDA graph.

    Example:
        >>> constant((1.0, 3.0), torch.zeros(2, 2))
        tensor([1., 3.])
    """
    if torch.compiler.is_compiling():
        return like.new_tensor(numbers)
    return _kept(numbers, like.dtype, like.device)


@lru_cache(maxsize=256)
def _kept(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept may be needed for training, too
        return torch.tensor(numbers, dtype=dtype, device=device)
