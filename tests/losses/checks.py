"""What the tests of several losses ask; how near is near, said once."""

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from tests.reference.losses import reference
from tests.strategies import Batch

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


def kept_for_backward(loss: Any, input: Tensor, target: Tensor, **maps: Tensor) -> int:
    """The bytes that a loss keeps for its backward pass, beside the tensors that it is given."""
    given = {x.untyped_storage().data_ptr() for x in (input, target, *maps.values())}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        value = loss(input, target, **maps)
    assert value.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in given)


def assert_half_precision_keeps_its_digits(loss: Any, batch: Batch) -> None:
    """Half precision costs the rounding of the logits, and of their gradient; and is finite."""
    maps = batch.maps(loss)
    for dtype in (torch.float16, torch.bfloat16):
        half = batch.logits.to(dtype)
        value, gradient = value_and_gradient(loss, half, batch.target, **maps)
        expected, slope = value_and_gradient(loss, half.float(), batch.target, **maps)
        assert value.dtype == torch.float32
        assert_close(value, expected)
        assert_close(gradient.float(), slope, atol=1e-6, rtol=1e-2)
        extreme = (1e4 * batch.logits.sign()).to(dtype)
        value, gradient = value_and_gradient(loss, extreme, batch.target, **maps)
        assert value.isfinite()
        assert gradient.isfinite().all()


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
