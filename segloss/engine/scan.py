"""Running sums in one order, on a GPU too."""

from torch import Tensor
from torch.nn.functional import pad

__all__ = ["running_sum"]


def running_sum(x: Tensor) -> Tensor:
    """The sums of the first 1, 2, … numbers along the last axis, ``(…, n)``.

    By adding to each number the one before it, to each of these sums the one two before it, and so
    on. torch.cumsum adds up on a GPU in an order that differs from run to run, and raises where
    torch.use_deterministic_algorithms says that none must.

    Example:
        >>> import torch
        >>> running_sum(torch.tensor([1.0, 2.0, 3.0]))
        tensor([1., 3., 6.])
    """
    step = 1
    while step < x.shape[-1]:
        x = x + pad(x[..., :-step], (step, 0))
        step *= 2
    return x
