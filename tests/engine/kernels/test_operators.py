"""What PyTorch is told of the kernels: gradients, compilation, layouts; and what is left to it."""

from dataclasses import replace
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
    backend,
)
from segloss.activation import Affine, Softmax
from segloss.encoding import Encoded
from segloss.engine.backend import Backend
from segloss.engine.kernels import operators, rows
from segloss.engine.kernels.batch import Batch
from segloss.engine.sums import Request
from segloss.engine.voxel import CrossEntropy, Focal, VoxelSum
from segloss.losses.relative import Normalized
from tests.engine.kernels.engines import DEVICE, Given, sums_and_gradient
from tests.engine.kernels.test_rows import batch_for
from tests.losses.checks import value_and_gradient
from tests.strategies import IGNORED, LOSSES, make_batch
from tests.test_contract import DYNAMO

REQUEST = Request(
    ("pred", "overlap", "pred*skeleton"), (VoxelSum(CrossEntropy(), (1.0, 0.5, 2.0)),)
)


ENGINES: tuple[Backend, ...] = ("triton", "torch")


def same_by_both(loss: Any, input: Tensor, *args: Tensor, **maps: Tensor) -> None:
    found = []
    for engine in ENGINES:
        with backend(engine):
            found.append(value_and_gradient(loss, input, *args, **maps))
    assert_close(*found)


@pytest.mark.parametrize("loss_class", LOSSES, ids=lambda x: x.__name__)
def test_every_loss_is_the_same(loss_class: Any) -> None:
    many = "iterations" in signature(loss_class).parameters  # more than an interpreter should
    options = {"iterations": 0} if many else {}
    loss = loss_class(Multiclass(background=False, ignore=IGNORED), **options)
    made = make_batch(loss.encoding)
    same_by_both(loss, made.logits, made.target, **made.maps(loss, weight=True))


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_derivatives_of_both_orders(encoding: Any) -> None:
    asked = batch_for(encoding, shape=(1, 2, 2, 2))

    def loss(logits: Tensor) -> Tensor:
        terms = DiceLoss(encoding) + FocalLoss(encoding, class_weight=[1.0, 2.0])
        terms = terms + SkeletonRecallLoss(encoding)
        value: Tensor = terms(logits, asked.target, skeleton=asked.maps["skeleton"])
        return value

    logits, found = asked.logits.requires_grad_(), []
    for engine in ENGINES:
        with backend(engine):
            (first,) = torch.autograd.grad(loss(logits), logits, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), logits)
            (alone,) = torch.autograd.grad(loss(logits), logits)
        found.append((alone, first.detach(), second))
    assert_close(*found)


def test_the_operator_is_what_pytorch_expects_of_one() -> None:
    asked = batch_for(Multiclass(), shape=(1, 3, 2, 2))
    logits, target = asked.logits.flatten(2).requires_grad_(), asked.target.flatten(1)
    skeleton = asked.maps["skeleton"].flatten(1)
    arguments: Any = (logits, target, None, [], [skeleton], "pred; pred*0; wrong 0", True, None)
    torch.library.opcheck(operators.row_sums, arguments)


@DYNAMO
@pytest.mark.compiled
def test_compiles_as_a_whole() -> None:
    loss = DiceLoss() + CrossEntropyLoss(class_weight=[1.0, 2.0, 0.0]) + SkeletonRecallLoss()
    loss = loss + 0.1 * BoundaryLoss()
    network = torch.nn.Conv2d(3, 3, 1, dtype=torch.float64).to(DEVICE)
    made = make_batch()
    maps = {name: x.to(DEVICE) for name, x in made.maps(loss, weight=True).items()}

    def step(images: Tensor) -> Tensor:
        value: Tensor = loss(network(images), made.target.to(DEVICE), **maps)
        return value

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    found = []
    for engine, run in zip(ENGINES, (compiled, step), strict=True):
        with backend(engine):
            found.append(value_and_gradient(run, made.logits.to(DEVICE)))
    assert_close(*found)


def test_gives_the_same_twice() -> None:
    asked = batch_for(Multiclass(), dtype=torch.float32)
    first, second = (sums_and_gradient("triton", asked, REQUEST) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("layout", ["channels last", "channels sliced", "samples sliced"])
def test_strided_logits_are_read_where_they_are(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = batch_for(Multiclass(), shape=(2, 3, 2, 3, 2))
    whole = asked.logits.repeat(2, 2, 1, 1, 1)
    logits = {
        "channels last": asked.logits.contiguous(memory_format=torch.channels_last_3d),
        "channels sliced": whole[:2, ::2],
        "samples sliced": whole[1:3, :3],
    }[layout]
    read = []

    def noted(*arguments: Any) -> Any:
        read.append(arguments[0].data_ptr())
        return Batch(*arguments)

    monkeypatch.setattr(operators, "Batch", noted)
    found = sums_and_gradient("triton", asked._replace(logits=logits), REQUEST)
    assert set(read) == {logits.data_ptr()}
    contiguous = asked._replace(logits=logits.contiguous())
    for x, y in zip(found, sums_and_gradient("torch", contiguous, REQUEST), strict=True):
        assert_close(x, y)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float64])
def test_labels_of_any_type(dtype: torch.dtype) -> None:
    made = make_batch(shape=(2, 2, 3, 3))
    maps = {"skeleton": made.skeleton.to(dtype)}
    asked = Given(Multiclass(), made.logits, made.target.to(dtype), maps).moved()
    for x, y in zip(
        sums_and_gradient("triton", asked, Request(("pred*skeleton", "overlap"))),
        sums_and_gradient("torch", asked, Request(("pred*skeleton", "overlap"))),
        strict=True,
    ):
        assert_close(x, y)


@pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU it ends the process, some time later")
@pytest.mark.parametrize("wrong", [3, -1, 0.5, torch.nan])
@pytest.mark.parametrize("name", ["target", "skeleton"])
def test_a_wrong_label_is_the_same_error(name: str, wrong: float) -> None:
    made = make_batch(dtype=torch.float32)
    labels = {"target": made.target.float(), "skeleton": made.skeleton.float()}
    labels[name][1, 2, 3] = wrong
    loss: Any = DiceLoss() if name == "target" else DiceLoss() + SkeletonRecallLoss()
    maps = {} if name == "target" else {"skeleton": labels["skeleton"]}
    messages = []
    for engine in ENGINES:
        with backend(engine), pytest.raises(ValueError, match=name) as caught:
            loss(made.logits, labels["target"], **maps)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_target_changed_before_backward_is_an_error() -> None:
    asked = batch_for(Multiclass())
    with backend("triton"):
        loss = DiceLoss()(asked.logits.requires_grad_(), asked.target)
        asked.target.fill_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


# What is left to PyTorch.


def encoded_for(encoding: Any = Multiclass(), **options: Any) -> Encoded:  # noqa: B008
    asked = batch_for(encoding, **options)
    maps = {"skeleton": asked.maps["skeleton"]}
    encoded: Encoded = encoding.encode(asked.logits, asked.target, maps)
    return encoded


class Unheard(Focal):
    """A φ of which the kernels know nothing."""

    name = "unheard of"


UNSUPPORTED = {
    "a histogram": Request(("errors/16",)),
    "a new sum": Request(("pred_cubed",)),
    "a map that is not there": Request(("pred*distance",)),
    "no sums": Request(),
    "a new phi": Request(voxels=(VoxelSum(Unheard(1.0)),)),
    "a relative phi": Request(voxels=(VoxelSum(Normalized()),)),
    "nodes of a softmax": Request(voxels=(VoxelSum(CrossEntropy(), of="node"),)),
}


@pytest.mark.parametrize("request_for", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_a_request_that_is_left_to_pytorch(request_for: Request) -> None:
    assert rows.supports(encoded_for(), REQUEST)
    assert not rows.supports(encoded_for(), request_for)


def test_a_batch_that_is_left_to_pytorch() -> None:
    encoded = encoded_for()
    assert rows.supports(encoded, REQUEST)
    members = torch.ones(1, 3, dtype=torch.float64)
    assert not rows.supports(replace(encoded, activation=Softmax(members)), REQUEST)
    assert not rows.supports(replace(encoded, target=encoded.target.to(torch.uint16)), REQUEST)
    assert not rows.supports(encoded_for(shape=(1, 257, 2, 2)), Request(("pred",)))


def test_what_is_new_in_a_batch_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As affine logits would be if the kernels knew nothing of them; without, all is as before."""
    plain = encoded_for()
    column = torch.ones(3, 1, dtype=torch.float64)
    affine = replace(plain, affine=Affine(column, column))
    assert rows.supports(affine, REQUEST)
    monkeypatch.setitem(rows._FURTHER_IN, Encoded, (("affine", None),))
    assert rows.supports(plain, REQUEST)
    assert not rows.supports(affine, REQUEST)


def test_what_is_left_to_pytorch_is_computed_by_it() -> None:
    made = make_batch()
    same_by_both(LovaszLoss(bins=16) + DiceLoss(), made.logits, made.target)
