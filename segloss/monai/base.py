"""What MONAI's losses have in common here: terms, added up in one pass, and their options."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypedDict, cast

import torch
from torch import Tensor, nn

from segloss.arguments import not_negative, numbers, one_of
from segloss.engine.groups import Group
from segloss.losses.base import Loss, Reduction, one_pass
from segloss.monai.channels import Channels
from segloss.shapes import Logits, Reduced, Target

__all__ = [
    "Activation",
    "SumOfTerms",
    "Term",
    "TermOptions",
    "Weights",
    "check_logits",
    "class_weight",
    "group_of",
    "reduction_of",
]

Activation: TypeAlias = Callable[[Tensor], Tensor]
Weights: TypeAlias = Sequence[float] | float | Tensor


class TermOptions(TypedDict, total=False):
    """The options of every term, with `Term`'s meaning and defaults."""

    background: bool
    weight: tuple[float, ...] | None
    group: Group
    reduction: Reduction


class Term(Loss, ABC):
    """One part of a loss.

    Args:
        encoding: The channels.
        background: Score channel 0 too; a single channel is scored in any case.
        weight: One number for all scored classes, or one for each.
        group: Score each ``"sample"``, or the ``"batch"`` as one.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, as MONAI understands them.
    """

    def __init__(
        self,
        encoding: Channels,
        *,
        background: bool = True,
        weight: tuple[float, ...] | None = None,
        group: Group = "sample",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=None, reduction=reduction)
        self.background = background
        self.weight = weight
        self.ignore = encoding.ignore

    def skipped(self, channels: int) -> int:
        """How many channels come before the first scored one."""
        return 0 if self.background or channels == 1 else 1

    def by_class(self, name: str, numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
        """One number for every scored class, from one for all or one for each."""
        classes = channels - self.skipped(channels)
        if len(numbers) not in (1, classes):
            raise ValueError(
                f"{name} has {len(numbers)} numbers, expected {classes}: one for each scored class "
                f"of an input with {channels} channels"
            )
        return numbers if len(numbers) == classes else numbers * classes

    @abstractmethod
    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        """The loss, from what `reduce` returned for a batch."""


class SumOfTerms(nn.Module):
    """A weighted sum of terms, in as few passes over the voxels as they have readings.

    Args:
        terms: Pairs of a weight and a term.
    """

    def __init__(self, *terms: tuple[float, Term]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(term for _, term in terms)
        self.lambdas = tuple(weight for weight, _ in terms)

    def forward(self, input: Logits, target: Target) -> Reduced:
        """The loss of a batch.

        Args:
            input: ``(b, c, *space)``, in half to double precision.
            target: Labels ``(b, 1, *space)``, or memberships shaped like the input.
        """
        return self.scored(input, target)

    def scored(self, input: Tensor, target: Tensor, **maps: Tensor) -> Tensor:
        """The weighted sum."""
        terms = cast(list[Term], list(self.terms))
        values = one_pass(terms, input, target, maps)
        target = target.as_subclass(Tensor)  # the metadata of MONAI's MetaTensor end here
        done = [t.finished(v, input, target) for t, v in zip(terms, values, strict=True)]
        return torch.stack([w * v for w, v in zip(self.lambdas, done, strict=True)]).sum(0)

    def scaled(self, name: str, weight: float) -> list[tuple[float, Term]]:
        """The terms with their weights times another, to be part of a larger sum."""
        weight = not_negative(name, weight)
        terms = cast(list[Term], list(self.terms))
        return [(weight * w, term) for w, term in zip(self.lambdas, terms, strict=True)]


def reduction_of(name: str, *, voxels: bool = False) -> Reduction:
    """The reduction by its name, or by MONAI's enumeration; losses of voxels have no ``"none"``."""
    if voxels and str(name) == "none":
        raise ValueError(
            'reduction must be "mean" or "sum", got "none": the loss of every voxel would be as '
            'large as the input; segloss.FocalLoss(group="sample", reduction="none") has one '
            "number for each sample"
        )
    found: Reduction = one_of("reduction", str(name), ("mean", "sum", "none"))
    return found


def group_of(batch: bool) -> Group:
    """What MONAI's ``batch`` scores."""
    return "batch" if batch else "sample"


def class_weight(weight: Weights | None) -> tuple[float, ...] | None:
    """The numbers of a weight."""
    if weight is None:
        return None
    return numbers("weight", torch.as_tensor(weight, dtype=torch.float64).flatten().tolist())


def check_logits(sigmoid: bool, softmax: bool, other_act: Activation | None) -> None:
    """Raise if the other term would take probabilities for logits."""
    if not (sigmoid or softmax or other_act):
        raise ValueError(
            "the input of this loss is logits, for the sake of its second term: say softmax=True, "
            "sigmoid=True or other_act= for Dice too"
        )
