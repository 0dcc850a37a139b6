"""The teacher is the average it says it is, and nothing that is done to the student reaches it."""

import re
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from segloss.pseudo import EMATeacher


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


def train(student: nn.Module, seed: int) -> None:
    """Change the parameters and, through batch normalisation, the buffers."""
    rng = torch.Generator().manual_seed(seed)
    student.train()
    student(torch.randn(2, 1, 4, 4, generator=rng))
    with torch.no_grad():
        for x in student.parameters():
            x.add_(torch.randn(x.shape, generator=rng))


def alpha(update: int, decay: float, warm_up: bool) -> float:
    return min(1 - 1 / (update + 1), decay) if warm_up else decay


def averages(start: Tensor, seen: list[Tensor], decay: float, warm_up: bool) -> Tensor:
    average = start.double()
    for i, x in enumerate(seen):
        a = alpha(i, decay, warm_up)
        average = a * average + (1 - a) * x.double()
    return average


@pytest.mark.parametrize("warm_up", [True, False])
@pytest.mark.parametrize("buffers", ["copy", "average", "skip"])
def test_is_the_average_of_what_it_saw(warm_up: bool, buffers: Any) -> None:
    student = network()
    start = {k: x.clone() for k, x in student.state_dict().items()}
    teacher = EMATeacher(student, decay=0.7, warm_up=warm_up, buffers=buffers)
    seen: dict[str, list[Tensor]] = {k: [] for k in start}
    for i in range(6):
        train(student, seed=i)
        teacher.update(student)
        for k, x in student.state_dict().items():
            seen[k].append(x.clone())
    for k, x in teacher.module.state_dict().items():
        expected = averages(start[k], seen[k], 0.7, warm_up)
        if "running" in k or "tracked" in k:
            if buffers == "skip":
                expected = start[k].double()
            elif buffers == "copy" or "tracked" in k:
                expected = seen[k][-1].double()
        assert_close(x.double(), expected, rtol=1e-5, atol=1e-6)
    assert teacher.updates == 6


def test_the_first_update_copies_the_student() -> None:
    student = network()
    teacher = EMATeacher(student)
    train(student, seed=1)
    teacher.update(student)
    for x, y in zip(teacher.module.parameters(), student.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_student_that_stands_still_is_met_and_not_left_for_zero() -> None:
    """PyMIC's average is scaled in place and added to out of place: its teacher fades away."""
    student = network()
    teacher = EMATeacher(student, decay=0.5, warm_up=False)
    train(student, seed=1)
    addresses = [x.data_ptr() for x in teacher.parameters()]
    for _ in range(100):
        teacher.update(student)
    assert addresses == [x.data_ptr() for x in teacher.parameters()]
    for x, y in zip(teacher.module.parameters(), student.parameters(), strict=True):
        assert_close(x, y)

    published = [x.clone() for x in teacher.module.parameters()]
    for _ in range(100):
        for average, y in zip(published, student.parameters(), strict=True):
            average.mul_(0.5).add(y.detach(), alpha=0.5)
    assert max(x.abs().max() for x in published) < 1e-20


def test_has_no_gradient_and_shares_no_memory_with_the_student() -> None:
    student = network()
    teacher = EMATeacher(student)
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    before = teacher(x)
    assert not before.requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    train(student, seed=1)
    assert torch.equal(teacher(x), before)


def test_stays_in_evaluation_mode_inside_what_trains() -> None:
    student = network()
    student[1].train()
    both = nn.ModuleDict({"student": student, "teacher": EMATeacher(student)})
    both.train()
    assert student.training
    assert not any(module.training for module in both["teacher"].modules())
    tracked = {k: x.clone() for k, x in both["teacher"].state_dict().items()}
    both["teacher"](torch.randn(2, 1, 4, 4))
    assert all(torch.equal(x, tracked[k]) for k, x in both["teacher"].state_dict().items())


def in_both(network: Any) -> Any:
    compiled: Any = torch.compile(network)
    return nn.DataParallel(compiled)


WRAPPERS: list[Any] = [torch.compile, nn.DataParallel, in_both]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["torch.compile", "DataParallel", "both"])
def test_sees_through_wrappers(wrap: Any) -> None:
    student = network()
    teacher = EMATeacher(wrap(student))
    assert type(teacher.module) is nn.Sequential
    train(student, seed=1)
    teacher.update(wrap(student))
    for x, y in zip(teacher.module.parameters(), student.parameters(), strict=True):
        assert torch.equal(x, y)


def test_takes_and_gives_whatever_the_network_does() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, *, scale: float) -> list[Tensor]:
            return [x, scale * x]

    one, two = EMATeacher(Two())(torch.ones(1), scale=3.0)
    assert (one, two) == (1, 3)


def test_goes_on_after_loading_as_if_nothing_had_happened() -> None:
    students = [network(i) for i in range(6)]
    whole, first = EMATeacher(students[0]), EMATeacher(students[0])
    for student in students[1:]:
        whole.update(student)
    for student in students[1:3]:
        first.update(student)
    second = EMATeacher(students[5])
    second.load_state_dict(first.state_dict())
    for student in students[3:]:
        second.update(student)
    assert second.updates == 5
    for k, x in second.state_dict().items():
        assert torch.equal(x, whole.state_dict()[k])


@pytest.mark.parametrize(
    "other",
    [nn.Conv2d(1, 3, 3), nn.Conv2d(1, 2, 5), nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)],
    ids=str,
)
def test_another_network_is_an_error(other: nn.Module) -> None:
    teacher = EMATeacher(nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match=r"parameter (weight|bias) has shape .* student"):
        teacher.update(other)
    assert teacher.updates == 0


def test_half_precision_parameters_are_an_error() -> None:
    """0.999 + 0.001 is 0.999 in bfloat16: the teacher would never move."""
    with pytest.raises(ValueError, match=r"0\.weight is torch\.bfloat16.*autocast"):
        EMATeacher(network().bfloat16())


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan")])
def test_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(
        ValueError, match=rf"decay must (lie between 0 and 1|be a finite number), got {decay}"
    ):
        EMATeacher(network(), decay=decay)


def test_a_word_that_is_no_option() -> None:
    # Run-time type checks, where they are on, say it before the package can.
    with pytest.raises((ValueError, TypeError)) as caught:
        EMATeacher(network(), buffers=cast(Any, "ema"))
    assert re.search("buffers", str(caught.value))
