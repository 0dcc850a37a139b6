"""Teacher, thresholds and loss together: interrupted training, and training on two ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from segloss import CrossEntropyLoss, Linear, Step
from segloss.pseudo import (
    CWBASSLoss,
    DynamicThreshold,
    EMATeacher,
    EntropyPercentile,
    FixedThreshold,
    FlexMatchThreshold,
    FreeMatchThreshold,
    PseudoLabels,
    SoftMatchWeight,
)
from tests.pseudo.teachers import teacher_logits, void_for
from tests.ranks import on_two_ranks

CLASSES = 3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, CLASSES, 1)
    )


class Training:
    """A student that learns from a few labels and from its teacher."""

    def __init__(self, rule: Any, seed: int = 0, parallel: bool = False) -> None:
        student = network(seed)
        self.student = DistributedDataParallel(student) if parallel else student
        self.teacher = EMATeacher(self.student, decay=0.9)
        self.rule = rule
        self.loss = CWBASSLoss(decay=Step(1.0, 0.9, 1))
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.1, momentum=0.9)

    def epoch(self, number: int, rank: int = 0) -> None:
        rng = torch.Generator().manual_seed(10 * number + rank)
        weight = Linear(0.0, 1.0, 3)(number)
        for _ in range(3):
            image = torch.randn(2, 1, 6, 6, generator=rng)
            labelled, unlabelled = image[:1], image[1:]
            pseudo = PseudoLabels.of(self.teacher(unlabelled), self.rule)
            logits = self.student(image)
            loss = CrossEntropyLoss()(logits[:1], (labelled[:, 0] > 0).long())
            loss = loss + weight * self.loss(logits[1:], pseudo)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.teacher.update(self.student)
        self.loss.step()

    @property
    def parts(self) -> dict[str, Any]:
        return {k: x for k, x in vars(self).items() if hasattr(x, "state_dict")}

    def state(self) -> dict[str, Any]:
        return {k: x.state_dict() for k, x in self.parts.items()}

    def load(self, state: dict[str, Any]) -> None:
        for k, x in self.parts.items():
            x.load_state_dict(state[k])


RULES: list[Any] = [
    lambda: FixedThreshold(0.5),
    lambda: DynamicThreshold(beta=10),
    lambda: EntropyPercentile(60.0),
    lambda: FlexMatchThreshold(CLASSES, momentum=0.9, threshold=0.5),
    lambda: FreeMatchThreshold(CLASSES, momentum=0.9),
    lambda: SoftMatchWeight(CLASSES, momentum=0.9),
]


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """The entries of nested state dicts."""
    if not isinstance(state, dict):
        return {name: state}
    return {k: x for key in state for k, x in flat(state[key], f"{name}.{key}").items()}


@pytest.mark.parametrize("rule", RULES, ids=lambda make: type(make()).__name__)
def test_interrupted_training_goes_on_bit_by_bit(rule: Any, tmp_path: Any) -> None:
    whole = Training(rule())
    for number in range(4):
        whole.epoch(number)
    first = Training(rule())
    for number in range(2):
        first.epoch(number)
    torch.save(first.state(), tmp_path / "checkpoint.pt")
    second = Training(rule(), seed=1)
    second.load(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    for number in range(2, 4):
        second.epoch(number)
    expected, found = flat(whole.state()), flat(second.state())
    assert expected.keys() == found.keys()
    for name, x in expected.items():
        assert torch.equal(x, found[name]) if isinstance(x, Tensor) else x == found[name], name
    assert found[".teacher.updates"] == 12
    assert whole.loss.statistics["kept"] > 0


# Two ranks.


def halves(rank: int | None) -> list[tuple[Tensor, Tensor]]:
    """Probabilities and void voxels of a few batches: of a rank, or of both."""
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    logits = [teacher_logits((4, CLASSES, 5, 6), seed=i, scale=1.0 + i) for i in range(3)]
    return [(x.softmax(1)[part], void_for(x, seed=i)[part]) for i, x in enumerate(logits)]


WITH_STATISTICS = [rule for rule in RULES if hasattr(rule(), "group")]


def statistics(rank: int | None) -> list[Tensor]:
    """What each rule with statistics makes of them."""
    found = []
    for make in WITH_STATISTICS:
        rule = make().double()
        found.append(torch.stack([rule(p, void).double() for p, void in halves(rank)], 1))
        found += [x.clone() for x in rule.buffers()]
    return found


def loss_and_gradient(rank: int | None) -> Tensor:
    """Of the loss of all ranks' voxels, as an optimizer gets to see it."""
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    teacher = teacher_logits((4, CLASSES, 5, 6))
    pseudo = PseudoLabels.of(teacher[part], FixedThreshold(0.9))
    torch.manual_seed(0)
    student: nn.Module = nn.Conv2d(CLASSES, CLASSES, 1).double()
    if rank is not None:
        student = DistributedDataParallel(student)
    loss = CWBASSLoss(group="ranks")(student(teacher[part]), pseudo)
    loss.backward()
    grads = [x.grad.flatten() for x in student.parameters() if x.grad is not None]
    return torch.cat([loss.detach()[None], *grads])


def on_a_rank(rank: int) -> dict[str, Any]:
    training = Training(FreeMatchThreshold(CLASSES, momentum=0.9), seed=rank, parallel=True)
    for number in range(2):
        training.epoch(number, rank)
    state = {k: flat(training.state()[k]) for k in ("teacher", "rule", "student")}
    return {**state, "statistics": statistics(rank), "loss": loss_and_gradient(rank)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks(on_a_rank, tmp_path_factory.mktemp("ranks"))


def test_ranks_agree_on_the_teacher_and_the_thresholds(ranks: list[dict[str, Any]]) -> None:
    one, other = ranks
    for part in ("teacher", "rule"):
        for name, x in one[part].items():
            assert torch.equal(x, other[part][name]), name
    differing = [k for k, x in one["student"].items() if not torch.equal(x, other["student"][k])]
    assert differing  # the running statistics of the students: the test above can fail
    for name, x in one["student"].items():
        if "running" in name:
            assert torch.equal(x, one["teacher"][name])


def test_ranks_have_the_statistics_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    together = statistics(None)
    for one, other, both in zip(*(rank["statistics"] for rank in ranks), together, strict=True):
        found = torch.cat((one, other)) if one.ndim == 4 else one
        assert_close(found, both)


def test_ranks_have_the_gradient_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert_close(rank["loss"], loss_and_gradient(None))
