"""The T-loss: a density, and a parameter."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import DiceLoss, Multiclass, Multilabel, TLoss
from tests.losses.checks import value_and_gradient
from tests.strategies import ENCODINGS, IGNORED, make_batch


def literal(p: list[float], y: list[float], w: list[float], nu: float) -> float:
    """The formula, for one class of one sample."""
    d, error = sum(w), sum(w_v * (p_v - y_v) ** 2 for p_v, y_v, w_v in zip(p, y, w, strict=True))
    density = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(math.pi * nu)
    density -= (nu + d) / 2 * math.log(1 + error / nu)
    return -density / d


@pytest.mark.parametrize("nu", [0.3, 2.0, 50.0])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 3, 2)], ids=["2d", "3d"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_as_published(encoding: Any, shape: tuple[int, ...], nu: float) -> None:
    batch = make_batch(encoding, shape=shape)
    loss = TLoss(encoding, initial_nu=nu, reduction="none")
    found = loss(batch.logits, batch.target, weight=batch.weight)
    exclusive = isinstance(encoding, Multiclass)
    p = batch.logits.softmax(1) if exclusive else batch.logits.sigmoid()
    rows = []
    for i in range(2):
        row = []
        for k in range(encoding.first, 3):
            y = batch.target[i] if exclusive else batch.target[i, k]
            w = batch.weight[i] * (y != encoding.ignore if encoding.ignore is not None else 1)
            y = (y == (k if exclusive else 1)).double()
            row.append(
                literal(p[i, k].flatten().tolist(), y.flatten().tolist(), w.flatten().tolist(), nu)
            )
        rows.append(row)
    assert_close(found, torch.tensor(rows, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_without_weights_it_is_the_density_of_independent_student_errors_of_one_voxel() -> None:
    """Of one voxel, D = 1: PyTorch's own density of the t-distribution."""
    logits = torch.tensor([[0.3, -1.0]]).double().reshape(1, 2, 1, 1)
    loss = TLoss(Multilabel(), initial_nu=3.0, reduction="none")
    target = torch.tensor([[1.0, 0.0]]).double().reshape(1, 2, 1, 1)
    error = (logits.sigmoid() - target).flatten()
    student = torch.distributions.StudentT(torch.tensor(3.0).double())
    assert_close(loss(logits, target)[0], -student.log_prob(error), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel(ignore=IGNORED)], ids=str)
def test_derivatives(encoding: Any) -> None:
    batch = make_batch(encoding, shape=(2, 3, 2, 3), scale=1.0)
    loss = TLoss(encoding).double()

    def of_both(logits: Tensor, log_nu: Tensor) -> Any:
        maps = {"weight": batch.weight}
        return torch.func.functional_call(loss, {"log_nu": log_nu}, (logits, batch.target), maps)

    both = batch.logits.requires_grad_(), torch.tensor(0.7).double().requires_grad_()
    assert torch.autograd.gradcheck(of_both, both)
    assert torch.autograd.gradgradcheck(of_both, both, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_volumes_do_not_cancel(dtype: torch.dtype) -> None:
    batch = make_batch(shape=(1, 2, 64, 64, 64), dtype=dtype)
    results = []
    for logits in (batch.logits, batch.logits.double()):
        loss = TLoss(initial_nu=1e4)
        logits = logits.detach().requires_grad_()
        value = loss(logits, batch.target)
        value.backward()
        assert loss.log_nu.grad is not None
        results.append((value.detach().double(), loss.log_nu.grad.double()))
    assert_close(*results, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    batch = make_batch(shape=(2, 3, 4, 5))
    for logits in (1e4 * batch.logits.sign(), torch.full_like(batch.logits, -1e4)):
        value, gradient = value_and_gradient(TLoss(), logits.to(dtype), batch.target)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_the_target_costs_least() -> None:
    batch = make_batch()
    right = 50 * torch.nn.functional.one_hot(batch.target, 3).movedim(-1, 1).double()
    loss = TLoss()
    best = loss(right, batch.target)
    for scale in (0.0, 0.1, 1.0, 3.0):
        assert loss(scale * batch.logits, batch.target) > best
    assert loss(-right, batch.target) > loss(0 * right, batch.target)


def test_a_sample_with_many_errors_is_let_go_of() -> None:
    """Its pull per error falls, the earlier the smaller ν."""
    labels = torch.zeros(1, 10, 10).long()
    pulls = []
    for wrong in (1, 50):
        logits = torch.zeros(1, 2, 10, 10)
        logits[:, 0] = 5.0
        logits[:, 0].flatten()[:wrong] = -1.0
        loss = TLoss(initial_nu=1.0, reduction="sum")
        pulls.append(value_and_gradient(loss, logits, labels)[1][0, 0, 0, 0].abs())
    assert pulls[1] < pulls[0] / 5


def test_nothing_but_ignored_voxels_cost_nothing() -> None:
    encoding = Multiclass(ignore=IGNORED)
    loss = TLoss(encoding, reduction="none")
    batch = make_batch(encoding)
    target = batch.target.clone()
    target[0] = IGNORED
    logits = batch.logits.requires_grad_()
    value = loss(logits, target)
    value.sum().backward()
    assert not value[0].any()
    assert logits.grad is not None
    assert loss.log_nu.grad is not None
    assert not logits.grad[0].any()
    assert logits.grad[1].any()
    assert loss.log_nu.grad.isfinite()
    crop = batch.logits.detach()[..., :3].clone()
    target = batch.target.clone()
    target[..., 3:] = IGNORED
    assert_close(loss(batch.logits, target), loss(crop, target[..., :3]))


def test_the_parameter_is_learned_in_a_compound() -> None:
    batch = make_batch(dtype=torch.float32)
    compound = DiceLoss() + 0.5 * TLoss(initial_nu=5.0)
    ((name, nu),) = compound.named_parameters()
    assert name.endswith("log_nu")
    assert_close(nu.item(), math.log(5.0))
    optimiser = torch.optim.Adam(compound.parameters(), lr=0.05)
    values = []
    for _ in range(20):
        optimiser.zero_grad()
        value = compound(batch.logits, batch.target)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert nu.item() != math.log(5.0)
    assert values == sorted(values, reverse=True)
    again = DiceLoss() + 0.5 * TLoss()
    again.load_state_dict(compound.state_dict())
    assert_close(again(batch.logits, batch.target), compound(batch.logits, batch.target))


@pytest.mark.parametrize("nu", [0.0, -1.0, float("nan"), float("inf")])
def test_degrees_of_freedom_out_of_range(nu: float) -> None:
    with pytest.raises(ValueError, match=f"initial_nu must .*got {nu}"):
        TLoss(initial_nu=nu)
