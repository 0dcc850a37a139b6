"""Consistency of student and teacher, plain and where the teacher is certain."""

import copy
import math
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.testing import assert_close

from segloss import Linear, Multiclass, Multilabel
from segloss.pseudo import (
    ConsistencyLoss,
    EMATeacher,
    SigmoidRamp,
    UncertaintyAwareConsistencyLoss,
    monte_carlo_entropy,
)

SPACES = [(6, 5), (4, 5, 3)]
ENCODINGS = [Multiclass(), Multilabel()]


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=rng, dtype=torch.float64)).to(dtype)


def void_of(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(9)) < 0.3


def activated(encoding: Any, x: Tensor) -> Tensor:
    return x.softmax(1) if isinstance(encoding, Multiclass) else x.sigmoid()


def slope(loss: Any, student: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    student = student.detach().requires_grad_()
    value = loss(student, *args, **options)
    return value.detach(), torch.autograd.grad(value, student)[0]


def published(
    student: Tensor, teacher: Tensor, samples: Tensor, ramp: float, most: float, factor: float
) -> Tensor:
    """UA-MT as the authors' training script has it; theirs is most = ln 2 and factor = 2."""
    mean = samples.softmax(2).mean(0)
    uncertainty = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
    mask = (uncertainty < (0.75 + 0.25 * ramp) * most).double()
    distance = (student.softmax(1) - teacher.softmax(1)) ** 2
    return (mask * distance).sum() / (factor * mask.sum() + 1e-16)


def entropy_of(samples: Tensor) -> Tensor:
    mean = samples.softmax(2).mean(0)
    return -(mean * mean.log()).sum(1)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("masked", [False, True])
def test_is_the_mean_squared_difference(
    encoding: Any, space: tuple[int, ...], masked: bool
) -> None:
    student, teacher = logits(2, 3, *space), logits(2, 3, *space, seed=1)
    void = void_of(2, *space) if masked else None

    def oracle(x: Tensor) -> Tensor:
        squared = (activated(encoding, x) - activated(encoding, teacher)) ** 2
        return squared.mean() if void is None else squared.movedim(1, -1)[~void].mean()

    value, gradient = slope(ConsistencyLoss(encoding), student, teacher, void=void)
    expected, pull = slope(oracle, student)
    assert_close(value, expected)
    assert_close(gradient, pull)


def test_channels_that_are_not_scored_are_left_out() -> None:
    student, teacher = logits(2, 3, 4, 4), logits(2, 3, 4, 4, seed=1)
    value = ConsistencyLoss(Multiclass(background=False, ignore=255))(student, teacher)
    assert_close(value, (student.softmax(1) - teacher.softmax(1))[:, 1:].square().mean())


def test_each_sample_may_have_a_mean_of_its_own() -> None:
    student, teacher, void = logits(2, 3, 4, 4), logits(2, 3, 4, 4, seed=1), void_of(2, 4, 4)
    both = ConsistencyLoss(group="sample")(student, teacher, void=void)
    each = [ConsistencyLoss()(student[i:][:1], teacher[i:][:1], void=void[i:][:1]) for i in (0, 1)]
    assert_close(both, torch.stack(each).mean())
    assert not torch.isclose(both, ConsistencyLoss()(student, teacher, void=void))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gradients_by_finite_differences(encoding: Any) -> None:
    student, teacher = logits(1, 3, 3, 2).requires_grad_(), logits(1, 3, 3, 2, seed=1)
    assert torch.autograd.gradcheck(lambda x: ConsistencyLoss(encoding)(x, teacher), student)
    entropy = logits(1, 3, 3, 2).abs() / 6
    entropy = entropy[:, 0] if isinstance(encoding, Multiclass) else entropy
    loss = UncertaintyAwareConsistencyLoss(encoding)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, entropy), student)
    assert 0 < loss.kept < 1


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(1, 2, 4, 4).requires_grad_(), logits(1, 2, 4, 4).requires_grad_()
    ConsistencyLoss()(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_low_precision_and_huge_logits(dtype: torch.dtype, size: float) -> None:
    student, teacher = (size * logits(2, 3, 4, 4, seed=i).sign().to(dtype) for i in (0, 1))
    entropy = torch.zeros(2, 4, 4)
    for loss, more in ((ConsistencyLoss(), ()), (UncertaintyAwareConsistencyLoss(), (entropy,))):
        value, gradient = slope(loss, student, teacher, *more)
        exact, _ = slope(loss, student.double(), teacher.double(), *more)
        assert value.dtype == torch.float32 and gradient.dtype == dtype
        assert_close(value.double(), exact, rtol=1e-5, atol=1e-7)
        assert gradient.isfinite().all()


def test_nothing_left_to_learn_is_zero() -> None:
    student, teacher = logits(1, 2, 4, 4), logits(1, 2, 4, 4, seed=1)
    everything = torch.ones(1, 4, 4, dtype=torch.bool)
    uncertain = torch.full((1, 4, 4), math.log(2))
    loss = UncertaintyAwareConsistencyLoss(certainty=1.0)
    for value, gradient in (
        slope(ConsistencyLoss(), student, teacher, void=everything),
        slope(loss, student, teacher, uncertain),
        slope(loss, student, teacher, 0 * uncertain, void=everything),
    ):
        assert value == 0
        assert not gradient.any()
    assert loss.kept == 0
    # The same softmax, by other operations: on some processors the last digit differs.
    value, gradient = slope(ConsistencyLoss(), student, student)
    assert value < 1e-30
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("iteration", [0, 30, 60, 100])
def test_uncertainty_of_two_classes_as_published(space: tuple[int, ...], iteration: int) -> None:
    student, teacher = logits(2, 2, *space), logits(2, 2, *space, seed=1)
    samples = logits(8, 2, 2, *space, seed=2)
    loss = UncertaintyAwareConsistencyLoss(certainty=SigmoidRamp(0.75, 1.0, 60))
    for _ in range(iteration):
        loss.step()
    ramp = math.exp(-5 * (1 - min(iteration, 60) / 60) ** 2)
    value = loss(student, teacher, entropy_of(samples))
    assert_close(value, published(student, teacher, samples, ramp, math.log(2), 2.0))
    certain = entropy_of(samples) < (0.75 + 0.25 * ramp) * math.log(2)
    assert_close(loss.kept, certain.float().mean())


def test_more_classes_count_as_more() -> None:
    """The published ln 2 and 2 turn voxels away that are certain for four classes."""
    student, teacher = logits(2, 4, 6, 6), logits(2, 4, 6, 6, seed=1)
    samples = logits(8, 2, 4, 6, 6, seed=2)
    entropy = entropy_of(samples)
    loss = UncertaintyAwareConsistencyLoss(certainty=0.75)
    value = loss(student, teacher, entropy)
    assert_close(value, published(student, teacher, samples, 0.0, math.log(4), 4.0))
    assert (entropy < 0.75 * math.log(4)).sum() > 5 * (entropy < 0.75 * math.log(2)).sum()
    everywhere = loss(student, teacher, torch.zeros_like(entropy))
    assert_close(everywhere, ConsistencyLoss()(student, teacher))
    theirs = published(student, teacher, 100 * samples[:1], 0.0, math.log(2), 2.0)
    ours = loss(student, teacher, entropy_of(100 * samples[:1]).nan_to_num())
    assert_close(theirs, 2 * ours, rtol=1e-3, atol=0)


def test_channels_of_sigmoids_are_certain_one_by_one() -> None:
    student, teacher = logits(1, 2, 1, 2), logits(1, 2, 1, 2, seed=1)
    entropy = torch.tensor([[[[0.0, 0.69]], [[0.69, 0.0]]]])
    value = UncertaintyAwareConsistencyLoss(Multilabel(), certainty=0.75)(student, teacher, entropy)
    squared = (student.sigmoid() - teacher.sigmoid()) ** 2
    assert_close(value, (squared[0, 0, 0, 0] + squared[0, 1, 0, 1]) / 2)
    void = torch.tensor([[[False, True]]])
    loss = UncertaintyAwareConsistencyLoss(Multilabel(), certainty=0.75)
    assert_close(loss(student, teacher, entropy, void=void), squared[0, 0, 0, 0])
    assert loss.kept == 0.5


def test_iterations_are_saved() -> None:
    loss = UncertaintyAwareConsistencyLoss(certainty=Linear(0.5, 1.0, 10))
    for _ in range(5):
        loss.step()
    fresh = UncertaintyAwareConsistencyLoss(certainty=Linear(0.5, 1.0, 10))
    fresh.load_state_dict(loss.state_dict())
    student, teacher = logits(1, 2, 4, 4), logits(1, 2, 4, 4, seed=1)
    entropy = torch.linspace(0, math.log(2), 16).reshape(1, 4, 4)
    assert fresh(student, teacher, entropy) == loss(student, teacher, entropy)
    assert fresh.iteration == 5
    assert_close(fresh.kept, (entropy < 0.75 * math.log(2)).float().mean())


def test_entropy_of_perturbed_passes() -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(
                nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.Dropout2d(), nn.Conv2d(8, 3, 1)
            )
            self.images: list[Tensor] = []
            self.logits: list[Tensor] = []

        def forward(self, image: Tensor) -> Tensor:
            assert self.network[2].training and not self.network[1].training
            self.images.append(image)
            self.logits.append(self.network(image))
            return self.logits[-1]

    torch.manual_seed(0)
    teacher = EMATeacher(Recorder())
    before = copy.deepcopy(teacher.state_dict())
    image = torch.randn(2, 1, 16, 16)
    entropy = monte_carlo_entropy(teacher, image, passes=5, noise=0.1)
    seen: Any = teacher.module
    assert_close(entropy, entropy_of(torch.stack(seen.logits)), rtol=1e-4, atol=1e-6)
    shifts = torch.stack(seen.images) - image
    assert len(shifts) == 5
    assert shifts.abs().max() <= 0.2 + 1e-6
    assert 0.08 < shifts.std() < 0.1
    assert not torch.equal(seen.logits[0], seen.logits[1])
    assert not entropy.requires_grad
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    by_channel = monte_carlo_entropy(teacher, image, Multilabel(), passes=1)
    p = seen.logits[-1].sigmoid()
    assert_close(by_channel, -(p * p.log() + (1 - p) * (1 - p).log()), rtol=1e-4, atol=1e-6)


def test_a_pass_that_fails_leaves_the_teacher_as_it_was() -> None:
    teacher = EMATeacher(nn.Sequential(nn.Dropout2d(), nn.Conv2d(1, 2, 1)))
    with pytest.raises(RuntimeError):
        monte_carlo_entropy(teacher, torch.zeros(1, 5, 4, 4))
    assert not any(module.training for module in teacher.modules())


def test_nothing_is_kept_but_logits_and_what_the_teacher_said() -> None:
    student, teacher = logits(2, 3, 8, 8).requires_grad_(), logits(2, 3, 8, 8, seed=1)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        assert ConsistencyLoss()(student, teacher).requires_grad
    volume = 8 * student.numel()
    assert kept.pop(student.data_ptr()) == volume
    assert volume <= sum(kept.values()) < 1.1 * volume


def test_metadata_is_left_behind() -> None:
    x = MetaTensor(torch.zeros(1, 2, 4, 4))
    assert type(ConsistencyLoss()(x, x)) is Tensor


def test_what_is_wrong_is_named() -> None:
    x = logits(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"teacher_logits has shape \(1, 3, 4, 4\)"):
        ConsistencyLoss()(x, logits(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"void has shape \(1, 4\)"):
        ConsistencyLoss()(x, x, void=torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"void has dtype torch\.float32, expected bool"):
        ConsistencyLoss()(x, x, void=torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"entropy has shape \(1, 2, 4, 4\), expected \(1, 4, 4\)"):
        UncertaintyAwareConsistencyLoss()(x, x, torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="passes must be a whole number of at least 1, got 0"):
        monte_carlo_entropy(nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 4, 4), passes=0)
    with pytest.raises(ValueError, match=r"noise must be a number of at least 0, got -0\.1"):
        monte_carlo_entropy(nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 4, 4), noise=-0.1)
