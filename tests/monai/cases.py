"""Batches for losses with MONAI's arguments, and the comparison of two of them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.testing import assert_close

SHAPES = [(2, 3, 7, 6), (2, 4, 5, 4, 3)]


class Batch(NamedTuple):
    logits: Tensor
    labels: Tensor
    memberships: Tensor


def make_batch(shape: tuple[int, ...], *, absent: int | None = None, seed: int = 0) -> Batch:
    """Logits, labels ``(b, 1, *space)``, and the same labels one-hot; a class may be absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator)
    labels = torch.randint(0, max(2, shape[1]), (shape[0], 1, *shape[2:]), generator=generator)
    if absent is not None:
        labels[labels == absent] = 0
    return Batch(logits, labels, expanded(labels, shape[1]))


def expanded(labels: Tensor, channels: int) -> Tensor:
    """One-hot memberships; those of a single channel are the labels themselves."""
    if channels == 1:
        return labels.float()
    return one_hot(labels[:, 0], channels).movedim(-1, 1).float()


def value_and_gradient(loss: nn.Module, input: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of its numbers with different weights."""
    input = input.clone().requires_grad_()
    value = loss(input, *rest)
    scale = torch.linspace(1, 2, max(1, value.numel())).view(value.shape)
    (slope,) = torch.autograd.grad((value * scale).sum(), input)
    return value.detach(), slope


def assert_alike(ours: nn.Module, theirs: nn.Module, input: Tensor, *rest: Any) -> None:
    """Same shape, value and gradient."""
    value, slope = value_and_gradient(ours, input, *rest)
    expected_value, expected_slope = value_and_gradient(theirs, input, *rest)
    assert_close(value, expected_value, rtol=1e-5, atol=1e-6)
    assert_close(slope, expected_slope, rtol=1e-4, atol=1e-6)
    assert slope.any()
