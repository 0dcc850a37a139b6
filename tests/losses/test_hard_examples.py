"""The hardest voxels: nnU-Net's, by hand, on the brink, and those that must not be chosen."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from segloss import (
    CrossEntropyLoss,
    DiceLoss,
    LabelTree,
    Multiclass,
    Multilabel,
    TopKCrossEntropyLoss,
    Tree,
)
from segloss.engine import block
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import ENCODINGS, IGNORED, make_batch


def published(logits: torch.Tensor, labels: torch.Tensor, k: float) -> torch.Tensor:
    """nnU-Net's: the mean of the largest k percent of the batch, rounded down."""
    each = cross_entropy(logits, labels, reduction="none").flatten()
    return each.topk(int(each.numel() * k / 100)).values.mean()


@pytest.mark.parametrize("k", [1, 10, 25, 100])
@pytest.mark.parametrize("shape", [(2, 3, 10, 20), (2, 4, 5, 10, 8)], ids=["2d", "3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_loss_of_nnunet(shape: tuple[int, ...], k: int, dtype: torch.dtype) -> None:
    batch = make_batch(shape=shape, dtype=dtype)
    expected = value_and_gradient(lambda x, y: published(x, y, k), batch.logits, batch.target)
    found = value_and_gradient(TopKCrossEntropyLoss(k=k), batch.logits, batch.target)
    assert_close(found, expected)
    assert (found[1].abs().sum(1) > 0).sum() == batch.target.numel() * k / 100


def with_costs(costs: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a target of one row of voxels that cost so much."""
    yes = (-torch.tensor(costs, dtype=torch.float64)).exp().logit()
    return yes.reshape(1, 1, 1, -1), torch.ones(1, 1, 1, len(costs))


@pytest.mark.parametrize(
    ("k", "expected"),
    [(20, 5.0), (40, 4.5), (30, (5 + 4 / 2) / 1.5), (1, 5.0), (70, (5 + 4 + 3 + 2 / 2) / 3.5)],
)
def test_of_a_voxel_on_the_brink_a_part_is_chosen(k: float, expected: float) -> None:
    logits, target = with_costs([3.0, 5.0, 1.0, 4.0, 2.0])
    assert_close(TopKCrossEntropyLoss(Multilabel(), k=k)(logits, target).item(), expected)


def test_of_voxels_that_cost_the_same_the_same_part_is_chosen() -> None:
    logits, target = with_costs([1.0, 3.0, 1.0, 1.0, 0.5])
    _, gradient = value_and_gradient(TopKCrossEntropyLoss(Multilabel(), k=40), logits, target)
    pull = gradient.flatten() / (1 - (-torch.tensor([1.0, 3.0, 1.0, 1.0, 0.5])).exp().double())
    assert_close(pull, -torch.tensor([1 / 3, 1, 1 / 3, 1 / 3, 0]).double() / 2)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_all_of_it_is_cross_entropy(encoding: Any) -> None:
    batch = make_batch(encoding)
    weight = [1.0, 2.0, 0.5][encoding.first :]
    losses = [
        TopKCrossEntropyLoss(encoding, k=100, class_weight=weight),
        CrossEntropyLoss(encoding, class_weight=weight),
    ]
    found, expected = (
        value_and_gradient(x, batch.logits, batch.target, weight=batch.weight) for x in losses
    )
    assert_close(found, expected)


@pytest.mark.parametrize("k", [0.5, 33.3])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_as_sorting_says(
    encoding: Any, group: Any, soft: bool, k: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_CPU", 100)
    batch = make_batch(encoding, soft=soft and encoding.ignore is None, shape=(2, 3, 3, 4, 2))
    weight = [1.0, 2.0, 0.5][encoding.first :]
    loss = TopKCrossEntropyLoss(encoding, k=k, group=group, class_weight=weight, reduction="none")
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})


def test_a_voxel_may_count_as_many() -> None:
    batch = make_batch(shape=(1, 3, 4, 6))
    weight = torch.randint(3, (1, 4, 6), generator=torch.Generator().manual_seed(0))
    times = weight.flatten()
    logits = batch.logits.flatten(2).repeat_interleave(times, 2)[:, :, None]
    target = batch.target.flatten(1).repeat_interleave(times, 1)[:, None]
    for k in (5, 10, 50):
        loss = TopKCrossEntropyLoss(k=k)
        assert_close(loss(batch.logits, batch.target, weight=weight), loss(logits, target))


def test_what_does_not_count_is_never_chosen() -> None:
    """However wrong it is; and the k percent are of what counts."""
    encoding = Multiclass(ignore=IGNORED)
    batch = make_batch(shape=(2, 3, 10, 10))
    target, logits, weight = batch.target.clone(), batch.logits.clone(), torch.ones(2, 10, 10)
    target[:, :3] = IGNORED
    logits[:, :, :5] = 1e4 * logits[:, :, :5].sign()
    weight[:, 3:5] = 0
    _, gradient = value_and_gradient(TopKCrossEntropyLoss(encoding), logits, target, weight=weight)
    assert not gradient[:, :, :5].any()
    assert (gradient.abs().sum(1) > 0).sum() == 10


def test_a_group_chooses_for_itself() -> None:
    batch = make_batch(shape=(2, 3, 10, 10))
    logits = batch.logits * torch.tensor([1.0, 50.0]).reshape(2, 1, 1, 1)
    chosen = {}
    for group in ("sample", "batch"):
        loss = TopKCrossEntropyLoss(group=group)
        _, gradient = value_and_gradient(loss, logits, batch.target)
        chosen[group] = (gradient.abs().sum(1) > 0).sum((1, 2)).tolist()
    assert chosen["sample"] == [10, 10]
    assert chosen["batch"][1] > 15 and sum(chosen["batch"]) == 20


def test_labels_of_a_tree_are_voxels_too() -> None:
    tree = Tree(LabelTree({"liver": {"tumour": None}}))
    batch = make_batch(shape=(2, 3, 10, 10))
    each = CrossEntropyLoss(tree, group="sample", reduction="none")
    pixels = batch.logits.movedim(1, -1).reshape(-1, 3, 1, 1), batch.target.reshape(-1, 1, 1)
    expected = each(*pixels).topk(20).values.mean()
    assert_close(TopKCrossEntropyLoss(tree)(batch.logits, batch.target), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_perfect_and_a_hopeless_prediction(dtype: torch.dtype) -> None:
    target = torch.zeros(1, 4, 5).long()
    logits = torch.stack([torch.ones(1, 4, 5), -torch.ones(1, 4, 5)], 1)
    loss = TopKCrossEntropyLoss()
    assert loss((2e4 * logits).to(dtype), target) == 0
    value, gradient = value_and_gradient(loss, (-2e4 * logits).to(dtype), target)
    assert value.isfinite() and value > 3e4
    assert gradient.isfinite().all() and gradient.all()


def test_shares_a_compound_with_others() -> None:
    batch = make_batch()
    loss = DiceLoss() + TopKCrossEntropyLoss() + CrossEntropyLoss()
    alone = [x(batch.logits, batch.target) for x in loss.losses.values()]
    assert_close(loss(batch.logits, batch.target), torch.stack(alone).sum())
    assert_as_defined(loss, batch.logits, batch.target, {"weight": batch.weight})


@pytest.mark.parametrize("k", [0, -1, 100.5, float("nan")])
def test_a_percentage_out_of_range(k: float) -> None:
    with pytest.raises(ValueError, match=f"k must be a (percentage|finite number).*got {k}"):
        TopKCrossEntropyLoss(k=k)
