"""Blocks cover a batch once, and give the same each time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segloss import CrossEntropyLoss, DiceLoss, Multilabel
from segloss.engine import block
from segloss.engine.block import places
from tests.losses.checks import value_and_gradient

LOSS = DiceLoss() + CrossEntropyLoss()


def big_batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 300, 400, generator=rng), torch.randint(3, (2, 300, 400))


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 500), st.integers(1, 300))
def test_every_voxel_is_in_one_block(b: int, c: int, n: int, size: int) -> None:
    seen = torch.zeros(b, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "_CPU", size)
        encoded = Multilabel().encode(torch.empty(b, c, n, 1), torch.empty(b, c, n, 1), {})
        for samples, voxels in places(encoded):
            seen[samples, voxels] += 1
            assert seen[samples, voxels].numel() <= max(1, size // c)
    assert (seen == 1).all()


def test_twice_the_same_is_the_same() -> None:
    logits, labels = big_batch()
    first, second = (value_and_gradient(LOSS, logits, labels) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_an_error_in_the_last_block_is_an_error() -> None:
    logits, labels = big_batch()
    labels[1, -1, -1] = 7
    with pytest.raises(ValueError, match="target holds label 7"):
        LOSS(logits, labels)


def test_a_target_changed_before_backward_is_an_error() -> None:
    logits, labels = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 4, 4).long()
    loss = LOSS(logits, labels)
    labels.fill_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
