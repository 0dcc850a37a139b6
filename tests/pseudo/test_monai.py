"""MONAI's own trainer runs CW-BASS, stops, and goes on."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.testing import assert_close

from segloss import CrossEntropyLoss, DiceLoss, Linear, SkeletonRecallLoss, Step
from segloss.monai import WithMaps
from segloss.pseudo import (
    CWBASSLoss,
    EMATeacher,
    EMATeacherHandler,
    FixedThreshold,
    FreeMatchThreshold,
    PairedBatches,
    PseudoLabels,
    SemiSupervisedLoss,
    SemiSupervisedPrepareBatch,
    SemiSupervisedTarget,
)

pytest.importorskip("ignite")
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ignite.*")


def loaders(space: tuple[int, ...]) -> PairedBatches:
    rng = torch.Generator().manual_seed(0)
    known = [
        {
            "image": torch.randn(1, *space, generator=rng),
            "label": torch.randint(3, (1, *space), generator=rng),
        }
        for _ in range(2)
    ]
    unknown = []
    for _ in range(6):
        image = torch.randn(1, *space, generator=rng)
        unknown.append({"image": image, "strong": image + 0.1, "void": image > 2})
    return PairedBatches(
        DataLoader(Dataset(known), batch_size=1), DataLoader(Dataset(unknown), batch_size=2)
    )


class Run:
    """A trainer with all that belongs to it."""

    def __init__(self, space: tuple[int, ...] = (8, 8), epochs: int = 1, **options: Any) -> None:
        torch.manual_seed(0)
        self.network = UNet(len(space), 1, 3, (4, 8), (2,), norm="batch")
        self.teacher = EMATeacher(self.network, decay=0.9)
        self.threshold = FreeMatchThreshold(3)
        self.loss = SemiSupervisedLoss(
            DiceLoss() + Step(1.0, 0.5, 1) * CrossEntropyLoss(),
            CWBASSLoss(decay=Step(1.0, 0.9, 1)),
            weight=Linear(0.5, 1.0, 2),
        )
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.saved = {
            "network": self.network,
            "teacher": self.teacher,
            "threshold": self.threshold,
            "loss": self.loss,
            "optimizer": self.optimizer,
        }
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=loaders(space),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=self.loss,
            prepare_batch=SemiSupervisedPrepareBatch(
                self.teacher, self.threshold, strong="strong", void="void"
            ),
            train_handlers=[EMATeacherHandler(self.teacher, self.loss)],
            decollate=False,
            **options,
        )


@pytest.mark.parametrize("space", [(8, 8), (8, 8, 8)])
def test_a_trainer_runs_it_as_a_loop_would(space: tuple[int, ...]) -> None:
    run, twin = Run(space), Run(space)
    before = copy.deepcopy(run.teacher)
    run.trainer.run()
    assert run.teacher.updates == 3
    moved = zip(run.teacher.parameters(), before.parameters(), strict=True)
    assert not all(torch.equal(x, y) for x, y in moved)
    for batch in loaders(space):
        twin.network.train()
        known, unknown = batch["labelled"], batch["unlabelled"]
        void = unknown["void"][:, 0].as_subclass(Tensor)
        pseudo = PseudoLabels.of(twin.teacher(unknown["image"]), twin.threshold, void=void)
        logits = twin.network(torch.cat((known["image"], unknown["strong"])))
        supervised = twin.loss.supervised(logits[:1], known["label"])
        value = supervised + 0.5 * twin.loss.unsupervised(logits[1:], pseudo)
        twin.optimizer.zero_grad()
        value.backward()
        twin.optimizer.step()
        twin.teacher.update(twin.network)
    for name in ("network", "teacher", "threshold"):
        other = twin.saved[name].state_dict()  # type: ignore[attr-defined]
        for key, x in run.saved[name].state_dict().items():  # type: ignore[attr-defined]
            assert_close(x, other[key], msg=f"{name} {key}")
    assert set(run.loss.terms) == {"supervised", "unsupervised"}
    assert run.loss.epoch == 1


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = Run(epochs=4)
    whole.trainer.run()
    first = Run(epochs=2)
    CheckpointSaver(
        str(tmp_path), first.saved | {"trainer": first.trainer}, save_final=True
    ).attach(first.trainer)
    first.trainer.run()
    second = Run(epochs=4)
    (path,) = tmp_path.glob("*.pt")
    CheckpointLoader(str(path), second.saved | {"trainer": second.trainer}).attach(second.trainer)
    second.trainer.run()
    assert second.teacher.updates == whole.teacher.updates == 12
    for name in ("network", "teacher", "threshold", "loss"):
        mine, other = (run.saved[name].state_dict() for run in (second, whole))  # type: ignore[attr-defined]
        for key, x in other.items():
            assert torch.equal(mine[key], x) if isinstance(x, Tensor) else mine[key] == x, key
    assert second.loss.weight(second.loss.epoch) == 1.0  # type: ignore[operator]


def test_accumulated_gradients_update_the_teacher_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(epochs=2, accumulation_steps=2)
    steps, step = [], run.optimizer.step

    def counted(*arguments: Any) -> Any:
        steps.append(1)
        return step(*arguments)

    monkeypatch.setattr(run.optimizer, "step", counted)
    run.trainer.run()
    assert run.teacher.updates == len(steps) == 4  # of six iterations


def test_pairs_are_as_many_as_the_longer_loader_has() -> None:
    assert list(PairedBatches([1, 2, 3], ["a", "b"])) == [
        {"labelled": 1, "unlabelled": "a"},
        {"labelled": 2, "unlabelled": "b"},
        {"labelled": 3, "unlabelled": "a"},
    ]
    assert len(PairedBatches([1], "abcd")) == 4
    with pytest.raises(ValueError, match="labelled has no batches"):
        PairedBatches([], [1])


def prepared(**keys: str) -> SemiSupervisedPrepareBatch:
    torch.manual_seed(0)
    return SemiSupervisedPrepareBatch(nn.Conv2d(1, 2, 1), FixedThreshold(0.6), **keys)


def batch() -> dict[str, dict[str, Tensor]]:
    image = torch.linspace(-3, 3, 16).reshape(1, 1, 4, 4)
    return {
        "labelled": {"image": image, "label": image > 0},
        "unlabelled": {"image": -image, "strong": 2 * image, "void": (image > 1).float()},
    }


def test_the_student_sees_the_strong_view_and_the_teacher_the_weak() -> None:
    prepare = prepared(strong="strong", void="void")
    image, target = prepare(batch())
    assert_close(image, torch.cat((batch()["labelled"]["image"], batch()["unlabelled"]["strong"])))
    probability = prepare.teacher(batch()["unlabelled"]["image"]).softmax(1)
    void = batch()["unlabelled"]["void"][:, 0] > 0
    assert torch.equal(target.pseudo.label, probability.argmax(1))
    assert torch.equal(target.pseudo.keep, (probability.amax(1) > 0.6) & ~void)
    assert target.pseudo.keep.any() and not target.pseudo.keep.all()
    same, _ = prepared()(batch())
    assert_close(same[1:], batch()["unlabelled"]["image"])


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(KeyError, match=r"no unlabelled: make batches with .*PairedBatches"):
        prepared()({"labelled": {}})
    with pytest.raises(KeyError, match="unlabelled batch has no 'hard', only image, strong, void"):
        prepared(strong="hard")(batch())
    _, target = prepared()(batch())
    loss = SemiSupervisedLoss(CrossEntropyLoss(), CWBASSLoss())
    with pytest.raises(ValueError, match="input holds 3 images, expected 2: 1 labelled and 1"):
        loss(torch.zeros(3, 2, 4, 4), target)
    assert isinstance(target, SemiSupervisedTarget)


def test_maps_of_the_labelled_images_come_along() -> None:
    (batch, *_) = loaders((8, 8))
    label = batch["labelled"]["label"]
    batch["labelled"]["skeleton_label"] = label
    teacher = EMATeacher(UNet(2, 1, 3, (4, 8), (2,)))
    prepare = SemiSupervisedPrepareBatch(teacher, FixedThreshold(0.5), maps="skeleton")
    image, target = prepare(batch)
    supervised = DiceLoss() + SkeletonRecallLoss()
    loss = SemiSupervisedLoss(WithMaps(supervised), CWBASSLoss())
    loss(logits := torch.randn(len(image), 3, 8, 8), target)
    known = len(label)
    assert_close(loss.terms["supervised"], supervised(logits[:known], label, skeleton=label))
