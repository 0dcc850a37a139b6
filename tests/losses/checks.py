"""How near is near, said once."""

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from tests.reference.losses import reference

RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-10}


def value_and_gradient(
    loss: Any, input: Tensor, *args: Tensor, **maps: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss and its gradient in the logits; unreduced scores pull unequally."""
    logits = input.detach().requires_grad_()
    value = loss(logits, *args, **maps)
    pull = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    (gradient,) = torch.autograd.grad((value * pull).sum(), logits)
    return value.detach(), gradient


def assert_as_defined(
    loss: Any, input: Tensor, target: Tensor, maps: dict[str, Tensor], *, relative: float = 0
) -> None:
    """Value and gradient equal the reference's, the gradient relative to its largest entry."""
    relative = relative or RELATIVE[input.dtype]
    value, gradient = value_and_gradient(loss, input, target, **maps)
    assert value.dtype == gradient.dtype == input.dtype
    assert gradient.shape == input.shape
    expected, slope = value_and_gradient(
        lambda *a, **k: reference(loss, *a, **k), input.double(), target, **maps
    )
    assert_close(value.double(), expected, rtol=relative, atol=relative / 10)
    largest = slope.abs().max().item()
    assert_close(gradient.double(), slope, rtol=relative, atol=relative * largest + 1e-15)
