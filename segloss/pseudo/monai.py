"""Semi-supervised learning with MONAI's workflows: batches, targets and a teacher for its trainer.

`monai.engines.SupervisedTrainer` asks for a batch, applies the network, and calls a loss with the
prediction and the target. Here a batch has a labelled and an unlabelled half, the target of which
is what the teacher says; the loss takes them apart again. The trainer needs ``decollate=False``,
because the halves differ in what they hold, and pytorch-ignite, as all of MONAI's trainers do.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, final, runtime_checkable

import torch
from monai.engines import PrepareBatch
from monai.utils import optional_import
from torch import Tensor, nn

from segloss.batches import Keys, labelled, map_keys
from segloss.compose import Weight, a_weight
from segloss.pseudo.labels import PseudoLabels, Rule
from segloss.pseudo.teacher import EMATeacher
from segloss.shapes import Logits, Reduced, Target

__all__ = [
    "EMATeacherHandler",
    "PairedBatches",
    "SemiSupervisedLoss",
    "SemiSupervisedPrepareBatch",
    "SemiSupervisedTarget",
]

Events, _ = optional_import("ignite.engine", name="Events")


@runtime_checkable
class Loader(Sized, Iterable[Any], Protocol):
    """What gives batches and knows how many, such as a DataLoader."""


@final
class PairedBatches:
    """Batches ``{"labelled": …, "unlabelled": …}`` of two loaders, as many as the longer one has.

    The shorter one begins anew, shuffling again if it does, as often as it takes. So an epoch sees
    every image of the longer one once.

    Args:
        labelled: Any loader; how many images in a batch is its business.
        unlabelled: Another.

    Example:
        >>> list(PairedBatches(["a"], [1, 2]))
        [{'labelled': 'a', 'unlabelled': 1}, {'labelled': 'a', 'unlabelled': 2}]
    """

    def __init__(self, labelled: Loader, unlabelled: Loader) -> None:
        for name, loader in {"labelled": labelled, "unlabelled": unlabelled}.items():
            if len(loader) == 0:
                raise ValueError(f"{name} has no batches: is its data set empty, or drop_last set?")
        self.labelled = labelled
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return max(len(self.labelled), len(self.unlabelled))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pairs = zip(_endless(self.labelled), _endless(self.unlabelled), strict=True)
        for pair in islice(pairs, len(self)):
            yield dict(zip(("labelled", "unlabelled"), pair, strict=True))


@dataclass(frozen=True, eq=False)
class SemiSupervisedTarget:
    """The target of a batch whose first images are labelled, and the others are not.

    Args:
        label: Labels of the first images, what the supervised loss takes; they may carry maps.
        pseudo: The teacher's labels of the others.

    Example:
        >>> from segloss.pseudo import FixedThreshold
        >>> said = PseudoLabels.of(torch.zeros(3, 2, 4, 4), FixedThreshold(0.95))
        >>> target = SemiSupervisedTarget(torch.zeros(2, 1, 4, 4), said)
        >>> len(target.label), len(target.pseudo.label)
        (2, 3)
    """

    label: Target
    pseudo: PseudoLabels


@final
class SemiSupervisedPrepareBatch(PrepareBatch):
    """Packs a batch of `PairedBatches` for a `SupervisedTrainer`, and asks the teacher for labels.

    The student gets the labelled images and then the unlabelled ones, in one batch; so all must be
    of one shape. The teacher works in full precision, whatever ``amp`` of the trainer.

    Args:
        teacher: Gives logits ``(b, c, *space)``.
        threshold: Which of its labels to keep, see `PseudoLabels`.
        image: Key of the images, labelled and not.
        label: Key of the labels.
        maps: Names of the maps of labels, or their keys by name, see
            `segloss.monai.PrepareBatchMaps`; the supervised loss is then a `segloss.monai.WithMaps`.
        strong: Key of what the student sees of an unlabelled image, if not the same as the teacher:
            a strongly augmented version of it. Both must lie on the same voxels.
        void: Key of masks ``(b, *space)`` or ``(b, 1, *space)``, above 0 where an unlabelled voxel
            is none; by default there are none.

    Example:
        >>> from segloss.pseudo import EMATeacher, FixedThreshold
        >>> teacher = EMATeacher(nn.Conv2d(1, 2, 1))
        >>> prepare = SemiSupervisedPrepareBatch(teacher, FixedThreshold(0.95))
        >>> known = {"image": torch.zeros(2, 1, 4, 4), "label": torch.zeros(2, 1, 4, 4)}
        >>> unknown = {"image": torch.zeros(3, 1, 4, 4)}
        >>> image, target = prepare({"labelled": known, "unlabelled": unknown})
        >>> image.shape, target.pseudo.label.shape
        (torch.Size([5, 1, 4, 4]), torch.Size([3, 4, 4]))
    """

    def __init__(
        self,
        teacher: nn.Module,
        threshold: Rule,
        *,
        image: str = "image",
        label: str = "label",
        maps: Keys = (),
        strong: str | None = None,
        void: str | None = None,
    ) -> None:
        self.teacher = teacher
        self.threshold = threshold
        self.image = image
        self.label = label
        self.maps = map_keys(maps, label)
        self.strong = image if strong is None else strong
        self.void = void

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, SemiSupervisedTarget]:
        """The student's input and its target, on the device."""
        for part in ("labelled", "unlabelled"):
            if part not in batchdata:
                raise KeyError(
                    f"the batch has {', '.join(batchdata)}, but no {part}: make batches with "
                    "segloss.pseudo.monai.PairedBatches"
                )

        def move(x: Tensor) -> Tensor:
            plain: Tensor = x.as_subclass(Tensor)
            return plain.to(device=device, non_blocking=non_blocking, **kwargs)

        def moved(part: str, key: str) -> Tensor:
            if key not in batchdata[part]:
                raise KeyError(
                    f"the {part} batch has no {key!r}, only {', '.join(batchdata[part])}"
                )
            return move(batchdata[part][key])

        image = torch.cat((moved("labelled", self.image), moved("unlabelled", self.strong)))
        with torch.no_grad():
            logits = self.teacher(moved("unlabelled", self.image))
        void = None
        if self.void is not None:
            void = moved("unlabelled", self.void).reshape(len(logits), *logits.shape[2:]) > 0
        pseudo = PseudoLabels.of(logits, self.threshold, void=void)
        label = labelled(batchdata["labelled"], self.label, self.maps, move)
        return image, SemiSupervisedTarget(label, pseudo)


@final
class SemiSupervisedLoss(nn.Module):
    """A loss of labelled images plus a weight times a loss of unlabelled ones.

    Args:
        supervised: Takes logits and labels.
        unsupervised: Takes logits and `PseudoLabels`, such as `CWBASSLoss`.
        weight: Of the second; a number, or a schedule over the epochs.

    Attributes:
        epoch: How often `step` was called; part of the ``state_dict``.
        terms: After a call, both detached, without the weight.

    Example:
        >>> from segloss import CrossEntropyLoss, Linear
        >>> from segloss.pseudo import CWBASSLoss
        >>> loss = SemiSupervisedLoss(CrossEntropyLoss(), CWBASSLoss(), weight=Linear(0.0, 1.0, 5))
    """

    def __init__(
        self,
        supervised: nn.Module,
        unsupervised: Callable[[Tensor, PseudoLabels], Tensor],
        *,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__()
        self.supervised = supervised
        self.unsupervised = unsupervised
        self.weight = a_weight("weight", weight)
        self.epoch = 0
        self.terms: dict[str, Tensor] = {}

    def forward(self, input: Logits, target: SemiSupervisedTarget) -> Reduced:
        """The loss of a batch that `SemiSupervisedPrepareBatch` packed."""
        known, unknown = len(target.label), len(target.pseudo.label)
        if len(input) != known + unknown:
            raise ValueError(
                f"input holds {len(input)} images, expected {known + unknown}: {known} labelled "
                f"and {unknown} that are not"
            )
        supervised = self.supervised(input[:known], target.label)
        unsupervised = self.unsupervised(input[known:], target.pseudo)
        self.terms = {
            "supervised": supervised.detach(),
            "unsupervised": unsupervised.detach(),
        }
        weight = self.weight(self.epoch) if callable(self.weight) else self.weight
        value: Tensor = supervised + weight * unsupervised
        return value

    def step(self) -> None:
        """Say that an epoch is over, to both losses too if they have schedules."""
        self.epoch += 1
        for loss in (self.supervised, self.unsupervised):
            if callable(advance := getattr(loss, "step", None)):
                advance()

    def get_extra_state(self) -> dict[str, int]:
        """The number of epochs done, for the ``state_dict``."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of epochs done."""
        self.epoch = int(state["epoch"])

    def extra_repr(self) -> str:
        """The weight."""
        return f"weight={self.weight}"


@final
class EMATeacherHandler:
    """Updates the teacher after each step of a trainer's optimizer.

    With ``accumulation_steps`` that is not after every iteration. The teacher is a module: save it
    with the rest, ``CheckpointSaver(folder, {"network": network, "teacher": teacher, …})``, together
    with the threshold and the loss, if these keep statistics or schedules.

    Args:
        teacher: Of the trainer's network.
        loss: A loss to tell when an epoch is over, if it has a schedule. Attach the handler before
            a CheckpointSaver, or what is saved of the epoch lacks its end.

    Example:
        >>> teacher = EMATeacher(nn.Conv2d(1, 2, 1))
        >>> handler = EMATeacherHandler(teacher)  # among SupervisedTrainer's train_handlers
    """

    def __init__(self, teacher: EMATeacher, loss: SemiSupervisedLoss | None = None) -> None:
        self.teacher = teacher
        self.loss = loss

    def attach(self, engine: Any) -> None:
        """Be called when the engine, an ignite one, has done an iteration or an epoch."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        if self.loss is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.loss.step)

    def __call__(self, engine: Any) -> None:
        """Update the teacher, if the iteration ended with a step of the optimizer."""
        every = getattr(engine, "accumulation_steps", 1)
        done, length = engine.state.iteration, engine.state.epoch_length
        within = done if length is None else (done - 1) % length + 1
        if within % every == 0 or within == length:
            self.teacher.update(engine.network)


def _endless(loader: Loader) -> Iterator[Any]:
    while True:
        yield from loader
