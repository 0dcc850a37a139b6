"""Cross pseudo supervision: two networks, each the other's teacher."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from segloss import Multiclass, Multilabel
from segloss.pseudo import CrossPseudoSupervisionLoss

SPACES = [(6, 5), (4, 5, 3)]


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    one, other = 2 * torch.randn(2, *shape, generator=rng, dtype=torch.float64).to(dtype)
    return one.requires_grad_(), other.requires_grad_()


@pytest.mark.parametrize("space", SPACES)
def test_is_the_cross_entropy_both_ways(space: tuple[int, ...]) -> None:
    first, second = pair(2, 3, *space)
    value = CrossPseudoSupervisionLoss()(first, second)
    expected = cross_entropy(first, second.detach().argmax(1)) + cross_entropy(
        second, first.detach().argmax(1)
    )
    assert_close(value, expected)
    for mine, theirs in zip(
        torch.autograd.grad(value, (first, second)),
        torch.autograd.grad(expected, (first, second)),
        strict=True,
    ):
        assert_close(mine, theirs)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_only_what_counts_and_is_sure(space: tuple[int, ...], threshold: float) -> None:
    first, second = pair(2, 3, *space)
    void = torch.rand(2, *space, generator=torch.Generator().manual_seed(1)) < 0.3
    value = CrossPseudoSupervisionLoss(threshold=threshold)(first, second, void=void)
    expected = torch.zeros((), dtype=torch.float64)
    for student, teacher in ((first, second), (second, first)):
        confidence, label = teacher.detach().softmax(1).max(1)
        kept = (confidence >= threshold) & ~void
        assert kept.any() and not kept.all()
        expected = expected + cross_entropy(student.movedim(1, -1)[kept], label[kept])
    assert_close(value, expected)


def test_gradients_by_finite_differences() -> None:
    loss = CrossPseudoSupervisionLoss(threshold=0.5)
    assert torch.autograd.gradcheck(loss, pair(1, 3, 3, 2))


def test_a_network_moves_towards_the_other_not_the_other_to_it() -> None:
    first, second = pair(1, 2, 4, 4)
    with torch.no_grad():
        second.copy_(torch.tensor([0.0, 50.0], dtype=torch.float64)[None, :, None, None])
        first.copy_(torch.tensor([1.0, 0.0], dtype=torch.float64)[None, :, None, None])
    loss = CrossPseudoSupervisionLoss(threshold=0.9)  # the first is not sure of anything
    loss(first, second).backward()
    assert first.grad is not None and second.grad is not None
    assert (first.grad[:, 1] < 0).all()
    assert not second.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_and_huge_logits(dtype: torch.dtype) -> None:
    for size in (1.0, 1e4):
        first, second = (
            (size * x.detach().sign()).to(dtype).requires_grad_() for x in pair(2, 3, 4, 4)
        )
        value = CrossPseudoSupervisionLoss(threshold=0.4)(first, second)
        exact = CrossPseudoSupervisionLoss(threshold=0.4)(first.double(), second.double())
        assert value.dtype == torch.float32
        assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
        for gradient in torch.autograd.grad(value, (first, second)):
            assert gradient.isfinite().all()


def test_nothing_kept_is_zero() -> None:
    first, second = pair(1, 3, 4, 4)
    for value in (
        CrossPseudoSupervisionLoss(threshold=1.0)(first, second),
        CrossPseudoSupervisionLoss()(first, second, void=torch.ones(1, 4, 4, dtype=torch.bool)),
    ):
        assert value == 0
        for gradient in torch.autograd.grad(value, (first, second)):
            assert not gradient.any()


def test_what_is_wrong_is_named() -> None:
    first, second = pair(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"second has shape \(1, 2, 4, 4\)"):
        CrossPseudoSupervisionLoss()(first, second[:, :2])
    with pytest.raises(ValueError, match=r"threshold must lie between 0 and 1, got 95"):
        CrossPseudoSupervisionLoss(threshold=95)
    with pytest.raises(ValueError, match=r"encoding must be Multiclass\(\)"):
        CrossPseudoSupervisionLoss(Multiclass(ignore=255))
    with pytest.raises(Exception, match="Multilabel"):
        CrossPseudoSupervisionLoss(Multilabel())  # type: ignore[arg-type]
