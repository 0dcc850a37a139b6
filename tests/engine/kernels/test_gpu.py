"""On a GPU: against the CPU, in a graph, without waiting, and in no more memory than promised."""

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
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
    backend,
)
from segloss.engine.kernels import rows
from tests.losses.checks import value_and_gradient
from tests.strategies import IGNORED, make_batch
from tests.test_contract import DYNAMO

pytestmark = pytest.mark.gpu

SHAPE = (2, 4, 40, 41, 42)


def four_terms(encoding: Any) -> Any:
    return (
        DiceLoss(encoding)
        + FocalLoss(encoding, class_weight=[1.0, 2.0, 3.0, 0.5][encoding.first :])
        + SkeletonRecallLoss(encoding)
        + 0.1 * BoundaryLoss(encoding)
    )


def on_gpu(encoding: Any, loss: Any, **options: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    made = make_batch(encoding, shape=SHAPE, **options)
    maps = {name: x.cuda() for name, x in made.maps(loss, weight=True).items()}
    return made.logits.cuda(), made.target.cuda(), maps


@pytest.fixture(autouse=True)
def by_triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Everything here is Triton's, or fails."""
    computed, launched = rows.sums, []

    def noted(*arguments: Any) -> Any:
        launched.append(True)
        return computed(*arguments)

    monkeypatch.setattr(rows, "sums", noted)
    with backend("auto"):
        yield
    assert launched


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "encoding",
    [Multiclass(background=False, ignore=IGNORED), Multilabel(ignore=IGNORED)],
    ids=str,
)
def test_the_gpu_says_what_the_cpu_says(encoding: Any, dtype: torch.dtype) -> None:
    loss = four_terms(encoding)
    logits, target, maps = on_gpu(encoding, loss, dtype=dtype)
    value, gradient = value_and_gradient(loss, logits, target, **maps)
    cpu = {name: x.cpu().double() if x.is_floating_point() else x.cpu() for name, x in maps.items()}
    expected, slope = value_and_gradient(loss, logits.cpu().double(), target.cpu(), **cpu)
    digits = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    assert_close(value.cpu().double(), expected, rtol=digits, atol=0)
    largest = slope.abs().max().item()
    assert_close(gradient.cpu().double(), slope, rtol=digits, atol=digits * largest)


def test_twice_the_same_is_the_same_bit_for_bit() -> None:
    loss = four_terms(Multiclass())
    logits, target, maps = on_gpu(Multiclass(), loss, dtype=torch.float32)
    first, second = (value_and_gradient(loss, logits, target, **maps) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_a_step_never_waits_for_the_gpu_and_runs_in_a_graph() -> None:
    loss = DiceLoss() + CrossEntropyLoss(Multiclass(background=False)) + SkeletonRecallLoss()
    logits, target, maps = on_gpu(Multiclass(), loss, dtype=torch.float32)
    expected = value_and_gradient(loss, logits, target, **maps)
    logits.requires_grad_()

    def step() -> Tensor:
        logits.grad = None
        value: Tensor = loss(logits, target, **maps)
        value.backward()
        return value

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    logits.grad = None
    with torch.cuda.graph(graph):
        value = step()
    graph.replay()
    assert_close((value.detach(), logits.grad), expected)


@pytest.mark.compiled
@DYNAMO
def test_a_compiled_network_and_loss_is_the_same() -> None:
    loss = four_terms(Multiclass())
    logits, target, maps = on_gpu(Multiclass(), loss, dtype=torch.float32)
    network = torch.nn.Conv3d(4, 4, 1).cuda()

    def step(images: Tensor) -> Tensor:
        value: Tensor = loss(network(images), target, **maps)
        return value

    expected = value_and_gradient(step, logits)
    found = value_and_gradient(torch.compile(step, fullgraph=True), logits)
    assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    loss = four_terms(Multiclass())
    logits, target, maps = on_gpu(Multiclass(), loss, dtype=torch.float32)
    expected = value_and_gradient(loss, logits, target, **maps)
    with torch.autocast("cuda", dtype=dtype):
        found = value_and_gradient(loss, logits, target, **maps)
    assert_close(found, expected)


def test_a_step_takes_little_more_memory_than_the_gradient() -> None:
    loss = DiceLoss() + CrossEntropyLoss()
    logits = torch.randn(2, 4, 96, 96, 96, device="cuda", requires_grad=True)
    target = torch.randint(4, (2, 96, 96, 96), device="cuda")
    loss(logits, target).backward()
    logits.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(logits, target).backward()
    size = logits.numel() * logits.element_size()
    assert torch.cuda.max_memory_allocated() - before < 1.1 * size
