"""Sums by number, of instances and of bins, by kernels and by their definition."""

import pytest
import torch
from torch.testing import assert_close

from segloss import BlobLoss, CalibrationErrorLoss, LovaszLoss, backend
from segloss.engine.kernels import numbers as kernels
from segloss.engine.kernels.numbers import sums_by_number
from tests.engine.kernels.engines import DEVICE
from tests.strategies import make_batch


@pytest.mark.parametrize("count", [1, 2, 7, 256, 300])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_each_number_is_added_up_by_itself(
    count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if count > torch.iinfo(dtype).max + 1:
        pytest.skip(f"{dtype} has fewer numbers")
    monkeypatch.setattr(kernels, "_EACH", 100)  # so that there are several programs
    rng = torch.Generator().manual_seed(count)
    numbers = torch.randint(count, (2, 3, 333), generator=rng).to(dtype)
    values = torch.randn(2, 4, 3, 333, generator=rng)
    found = sums_by_number(numbers.to(DEVICE), values.to(DEVICE), count).cpu()
    here = numbers[:, None, :, :, None] == torch.arange(count, dtype=dtype)
    assert_close(found, (values.double()[..., None] * here).sum(3), rtol=1e-6, atol=1e-5)
    assert found.equal(sums_by_number(numbers.to(DEVICE), values.to(DEVICE), count).cpu())


def test_slices_are_read_as_they_are() -> None:
    rng = torch.Generator(DEVICE).manual_seed(0)
    numbers = torch.randint(5, (2, 9, 3), generator=rng, device=DEVICE).transpose(1, 2)
    values = torch.randn(2, 1, 9, 3, generator=rng, device=DEVICE).transpose(2, 3)
    one_number = numbers[:, :1].expand(-1, 3, -1)
    for given in (numbers, one_number):
        dense = sums_by_number(given.clone(memory_format=torch.contiguous_format), values, 5)
        assert sums_by_number(given, values, 5).equal(dense)


@pytest.mark.parametrize(
    "loss",
    [LovaszLoss(), CalibrationErrorLoss(), CalibrationErrorLoss(binning="soft")],
    ids=["lovasz", "hard bins", "soft bins"],
)
def test_bins_by_either_engine(loss: torch.nn.Module) -> None:
    made = make_batch(shape=(2, 3, 6, 7))
    results = []
    for engine in ("triton", "torch"):
        logits = made.logits.float().to(DEVICE).requires_grad_()
        with backend(engine):
            value = loss(logits, made.target.to(DEVICE))
        results.append((value.detach(), *torch.autograd.grad(value, logits)))
    assert_close(results[0], results[1])


@pytest.mark.parametrize("count", [3, 5000], ids=["few", "too many for a kernel"])
def test_instances_by_either_engine(count: int) -> None:
    made = make_batch(shape=(2, 3, 6, 7))
    numbers = made.target.clone()
    numbers[numbers > 0] += count - 3
    loss = BlobLoss()
    results = []
    for engine in ("triton", "torch"):
        logits = made.logits.float().to(DEVICE).requires_grad_()
        with backend(engine):
            value = loss(logits, made.target.to(DEVICE), instances=numbers.to(DEVICE))
        results.append((value.detach(), *torch.autograd.grad(value, logits)))
    assert_close(results[0], results[1])
