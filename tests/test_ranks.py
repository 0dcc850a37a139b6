"""Two processes with half the batch each train as one with all of it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from segloss import (
    CrossEntropyLoss,
    DiceLoss,
    GradientNormBalance,
    Multiclass,
    SkeletonRecallLoss,
    TopKCrossEntropyLoss,
)
from tests.ranks import on_two_ranks
from tests.strategies import IGNORED, Batch, make_batch

ENCODING = Multiclass(ignore=IGNORED)


def losses(group: Any) -> dict[str, Any]:
    dice = DiceLoss(ENCODING, group=group)
    cross_entropy = CrossEntropyLoss(ENCODING, group=group)
    return {
        "dice": dice,
        "cross_entropy": cross_entropy,
        "hardest": TopKCrossEntropyLoss(ENCODING, k=33, group=group),
        "skip": DiceLoss(ENCODING, group=group, empty="skip"),
        "compound": dice
        + cross_entropy
        + 0.5 * SkeletonRecallLoss(Multiclass(background=False, ignore=IGNORED), group=group),
        "balanced": GradientNormBalance(dice + 3 * cross_entropy),
    }


def joint_batch() -> Batch:
    """Four samples, the last of which is mostly ignored: ranks of unequal weight."""
    batch = make_batch(ENCODING, shape=(4, 3, 6, 5), present=3)
    batch.target[3, 1:] = IGNORED
    batch.target[:2][batch.target[:2] == 2] = 1  # a class that only the second rank has
    return batch


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 3, 3, padding=1).double()


def maps_of(loss: Any, batch: Batch) -> dict[str, Tensor]:
    return batch.maps(loss.loss if isinstance(loss, GradientNormBalance) else loss)


def gradients(model: torch.nn.Module, loss: Any, batch: Batch, part: slice) -> Tensor:
    """Every parameter's gradient, end to end, after the value."""
    model.zero_grad()
    maps = {name: m[part] for name, m in maps_of(loss, batch).items()}
    value = loss(model(batch.logits[part]), batch.target[part], **maps)
    value.backward()
    flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([value.detach().reshape(1), *flat])


def on_a_rank(rank: int) -> dict[str, Tensor]:
    model = DistributedDataParallel(network())
    part = slice(2 * rank, 2 * rank + 2)
    return {
        name: gradients(model, loss, joint_batch(), part) for name, loss in losses("ranks").items()
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    return on_two_ranks(on_a_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", list(losses("batch")))
def test_two_ranks_are_one_batch(ranks: list[dict[str, Tensor]], name: str) -> None:
    alone = gradients(network(), losses("batch")[name], joint_batch(), slice(None))
    for found in ranks:
        ratio = found[name] / alone
        assert torch.allclose(ratio, torch.ones_like(ratio), rtol=0, atol=1e-6), ratio


def test_a_batch_of_each_rank_would_be_another_loss(ranks: list[dict[str, Tensor]]) -> None:
    """The test above can fail: averaging what each rank finds on its own differs."""
    loss = losses("batch")["dice"]
    parts = [gradients(network(), loss, joint_batch(), slice(i, i + 2)) for i in (0, 2)]
    apart = (parts[0] + parts[1]) / 2
    assert (ranks[0]["dice"] / apart - 1).abs().max() > 0.01


def test_without_a_process_group_the_ranks_are_the_batch() -> None:
    batch = joint_batch()
    for one, other in zip(losses("ranks").values(), losses("batch").values(), strict=True):
        maps = maps_of(one, batch)
        assert one(batch.logits, batch.target, **maps) == other(batch.logits, batch.target, **maps)
