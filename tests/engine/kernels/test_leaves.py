"""Trees whose labels are leaves: the sums of every node from one small matrix of the kernels."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from segloss import (
    ConditionalSigmoid,
    CrossEntropyLoss,
    DiceLoss,
    HierarchicalDiceCELoss,
    LabelTree,
    Tree,
    TverskyLoss,
    backend,
)
from segloss.engine.kernels import rows
from segloss.engine.sums import Request
from segloss.engine.voxel import CrossEntropy, Focal, VoxelSum
from tests.engine.kernels.engines import DEVICE, Given, sums_and_gradient

NESTED = LabelTree({"liver": {"tumour": {"core": None}}, "spleen": None})

NODES = len(NESTED)


def batch_for(encoding: Any, *, weighted: bool = False) -> Given:
    """Two samples of three axes, some voxels ignored if the encoding knows how."""
    rng = torch.Generator().manual_seed(3)
    c = len(encoding.channels)
    logits = torch.randn(2, c, 5, 4, 7, generator=rng)
    target = torch.randint(c, (2, 5, 4, 7), generator=rng)
    if encoding.ignore is not None:
        target[torch.rand(target.shape, generator=rng) < 0.2] = encoding.ignore
    weight = torch.rand(2, 1, 5, 4, 7, generator=rng)
    return Given(encoding, logits, target, {"weight": weight} if weighted else {}).moved()


REQUEST = Request(
    ("pred", "overlap", "true", "count", "true_squared"),
    (
        VoxelSum(CrossEntropy()),
        VoxelSum(Focal(2.0), class_weight=tuple(float(i) for i in range(NODES))),
        VoxelSum(CrossEntropy(), of="step"),
    ),
)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 255])
def test_every_sum_of_every_node(ignore: int | None, weighted: bool) -> None:
    given = batch_for(Tree(NESTED, ignore=ignore), weighted=weighted)
    assert rows.supports(given.encoding.encode(given.logits, given.target, given.maps), REQUEST)
    found = sums_and_gradient("triton", given, REQUEST)
    expected = sums_and_gradient("torch", given.double(), REQUEST)
    assert found[0].shape == (2, 5 * NODES + 6)
    assert_close(found[0], expected[0], rtol=2e-6, atol=2e-5)
    assert_close(found[1].double(), expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        DiceLoss(Tree(NESTED)),
        DiceLoss(Tree(NESTED)) + CrossEntropyLoss(Tree(NESTED)),
        HierarchicalDiceCELoss(Tree(NESTED)),
        TverskyLoss(Tree(NESTED)),
    ],
    ids=["dice", "with cross entropy", "hierarchical", "tversky"],
)
def test_losses_and_their_second_derivatives(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    computed = rows.sums

    def noted(*arguments: Any) -> Any:
        asked.append("triton")
        return computed(*arguments)

    monkeypatch.setattr(rows, "sums", noted)
    given = batch_for(Tree(NESTED))
    results = []
    for engine in ("triton", "torch"):
        logits = given.logits.double().requires_grad_()
        with backend(engine):
            value = loss(logits, given.target)
        (slope,) = torch.autograd.grad(value, logits, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), logits)
        results.append((value.detach(), slope.detach(), second))
    assert_close(results[0], results[1])
    assert asked


def test_a_label_that_is_no_leaf_is_named() -> None:
    given = batch_for(Tree(NESTED))
    given.target[0, 1, 2, 3] = 9
    if DEVICE == "cuda":
        pytest.skip("on a GPU the program stops")
    with (
        backend("triton"),
        pytest.raises(ValueError, match="label 9, but the encoding names 5 labels"),
    ):
        DiceLoss(given.encoding)(given.logits, given.target)


@pytest.mark.parametrize(
    "encoding",
    [
        Tree(NESTED, labels=("background", "liver", "core", "spleen")),
        Tree(NESTED, activation=ConditionalSigmoid()),
        Tree(LabelTree({f"organ {i}": None for i in range(17)})),
    ],
    ids=["labels of inner nodes", "no softmax", "many leaves"],
)
def test_other_trees_are_left_to_pytorch(encoding: Tree) -> None:
    logits, target = torch.zeros(1, len(encoding.channels), 2, 2), torch.zeros(1, 2, 2).long()
    assert not rows.supports(encoding.encode(logits, target, {}), Request(("pred",)))
