"""Two processes whose samples label different things train as one with all of them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from segloss import (
    CrossEntropyLoss,
    DiceLoss,
    ExclusionLoss,
    LabelHeads,
    LabelSets,
    LabelSpace,
    LabelTree,
    NullBCELoss,
)
from tests.ranks import on_two_ranks


def losses(group: Any) -> dict[str, Any]:
    """Losses of four channels: with the softmax the background is one of them."""
    tree = LabelTree({"liver": None, "spleen": None, "kidney": None})
    heads = LabelTree({"bone": None, "liver": None, "spleen": None, "kidney": None})
    livers, others = {0: "others", 1: "liver"}, {0: "others", 1: "spleen", 2: "kidney"}
    sets = LabelSets(LabelSpace(tree, {"livers": livers, "others": others}))
    null = LabelHeads(LabelSpace(heads, {"livers": livers, "others": others}))
    return {
        "sets": CrossEntropyLoss(sets, group=group) + DiceLoss(sets, group=group),
        "exclusion": ExclusionLoss(sets, group=group),
        "exclusion dice": ExclusionLoss(sets, mode="dice", group=group),
        "null": NullBCELoss(null, group=group) + DiceLoss(null, group=group),
        "null sum": NullBCELoss(null, classes="sum", group=group),
    }


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Three samples of one data set and one of the other: ranks that label unequal numbers."""
    rng = torch.Generator().manual_seed(0)
    dataset = torch.tensor([0, 0, 0, 1])
    image = torch.randn(4, 3, 6, 5, generator=rng, dtype=torch.float64)
    target = torch.randint(2, (4, 6, 5), generator=rng)
    target[3] = torch.randint(3, (6, 5), generator=rng)
    return image, target, dataset


def gradients(model: torch.nn.Module, loss: Any, part: slice) -> Tensor:
    """Every parameter's gradient, end to end, after the value."""
    model.zero_grad()
    image, target, dataset = (x[part] for x in batch())
    value = loss(model(image), target, dataset=dataset)
    value.backward()
    flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([value.detach().reshape(1), *flat])


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 4, 3, padding=1).double()


def on_a_rank(rank: int) -> dict[str, Tensor]:
    model = DistributedDataParallel(network())
    part = slice(2 * rank, 2 * rank + 2)
    return {name: gradients(model, loss, part) for name, loss in losses("ranks").items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    return on_two_ranks(on_a_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", list(losses("batch")))
def test_two_ranks_are_one_batch(ranks: list[dict[str, Tensor]], name: str) -> None:
    expected = gradients(network(), losses("batch")[name], slice(0, 4))
    for found in ranks:
        assert_close(found[name], expected)
