"""Losses put together: weighted sums in one pass, and deep supervision."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast, final

import torch
from torch import Tensor, nn

from segloss.arguments import number, numbers
from segloss.losses.base import Loss, one_pass
from segloss.shapes import Logits, Map, Reduced, Target

__all__ = ["CompoundLoss", "DeepSupervisionLoss", "Weight", "a_weight", "term_name"]

Weight: TypeAlias = float | Callable[[int], float]
"""A number, or a schedule: a function of the number of epochs done."""
_WORDS = re.compile("(?<=[a-z0-9])(?=[A-Z][A-Za-z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word begins in camel case; capitals in a row are one word."""


@final
class CompoundLoss(nn.Module):
    """A weighted sum of losses, computed in one pass over the voxels.

    Write it as a sum, ``DiceLoss() + 0.5 * SkeletonRecallLoss()``, or with names of your own. A
    weight may be a schedule, such as `segloss.Linear`; call `step` after every epoch to advance
    it. The number of epochs done is part of the ``state_dict``.

    Args:
        losses: Losses, or pairs ``(weight, loss)``; a mapping names them. By default a name is the
            class's, ``"skeleton_recall"`` for `segloss.SkeletonRecallLoss`.

    Attributes:
        terms: After a call, the value of each loss, detached and without its weight, for logging.

    Example:
        >>> import torch
        >>> from segloss import CrossEntropyLoss, DiceLoss
        >>> loss = DiceLoss() + 0.5 * CrossEntropyLoss()
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(1.0132)
        >>> loss.terms
        {'dice': tensor(0.6667), 'cross_entropy': tensor(0.6931)}
    """

    def __init__(
        self,
        losses: "Mapping[str, Loss | tuple[Weight, Loss]] | Sequence[Loss | tuple[Weight, Loss]]",
    ) -> None:
        super().__init__()
        named = losses.items() if isinstance(losses, Mapping) else [(None, x) for x in losses]
        self.losses = nn.ModuleDict()
        self._weights: dict[str, Weight] = {}
        for name, entry in named:
            weight, loss = entry if isinstance(entry, tuple) and len(entry) == 2 else (1.0, entry)
            self._append(name, weight, loss)
        if not self.losses:
            raise ValueError("losses is empty: a compound needs one loss or more")
        self.epoch = 0
        self.terms: dict[str, Tensor] = {}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss at the present epoch."""
        return {k: w(self.epoch) if callable(w) else w for k, w in self._weights.items()}

    def step(self) -> None:
        """Say that an epoch is over."""
        self.epoch += 1

    def forward(self, input: Logits, target: Target, **maps: Map) -> Reduced:
        """The weighted sum; takes the maps that its losses need, see `segloss.Loss`."""
        values = self.values(input, target, maps)
        if len({v.shape for v in values.values()}) > 1:
            shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in values.items())
            raise ValueError(f"the terms have different shapes ({shapes}): use one reduction")
        weights = self.weights
        return torch.stack([weights[k] * v for k, v in values.items()]).sum(0)

    def values(
        self, input: Tensor, target: Tensor, maps: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The value of each loss without its weight, with its gradient; sets `terms`."""
        values = one_pass([loss for *_, loss in self._entries()], input, target, maps)
        named = dict(zip(self.losses, values, strict=True))
        self.terms = {k: v.detach() for k, v in named.items()}
        return named

    def get_extra_state(self) -> dict[str, int]:
        """The number of epochs done, for the ``state_dict``."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of epochs done."""
        self.epoch = int(state["epoch"])

    def __add__(self, other: "Loss | CompoundLoss") -> "CompoundLoss":
        if isinstance(other, Loss):
            other = CompoundLoss([other])
        if not isinstance(other, CompoundLoss):
            return NotImplemented
        if self.epoch != other.epoch:
            raise ValueError(f"cannot add losses at epochs {self.epoch} and {other.epoch}")
        return self._rebuilt([*self._entries(), *other._entries()])

    def __mul__(self, weight: Weight) -> "CompoundLoss":
        return self._rebuilt([(k, _product(w, weight), loss) for k, w, loss in self._entries()])

    __rmul__ = __mul__

    def extra_repr(self) -> str:
        """The weights."""
        return f"weights={self._weights}"

    def _entries(self) -> "list[tuple[str, Weight, Loss]]":
        return [(k, self._weights[k], cast(Loss, loss)) for k, loss in self.losses.items()]

    def _rebuilt(self, entries: "list[tuple[str, Weight, Loss]]") -> "CompoundLoss":
        first, *rest = entries
        compound = CompoundLoss({first[0]: first[1:]})
        for name, weight, loss in rest:
            compound._append(name, weight, loss)
        compound.epoch = self.epoch
        return compound

    def _append(self, name: str | None, weight: Weight, loss: Loss) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(
                f"losses must hold segloss losses, or pairs (weight, loss), got {type(loss).__name__}"
            )
        name = term_name(type(loss).__name__) if name is None else name
        weight = a_weight("a weight", weight)
        stem, count = name, 1
        while name in self.losses:
            count += 1
            name = f"{stem}_{count}"
        try:
            self.losses[name] = loss
        except KeyError as error:  # a dot in it, or what an nn.ModuleDict calls its own
            raise ValueError(f"a loss cannot be called {name!r}: {error.args[0]}") from error
        self._weights[name] = weight


@final
class DeepSupervisionLoss(nn.Module):
    """One loss at several resolutions: the weighted sum over the scales.

    Takes lists: of logits, of targets and of every map, one entry for each scale, as
    `segloss.transforms.DownsampleTargetsd` makes them. Maps belong to a scale: shrinking a skeleton
    breaks it, so each is recomputed on the smaller label.

    Args:
        loss: A loss, a compound, or a compound in a `segloss.UncertaintyWeighting` or
            `segloss.GradientNormBalance`.
        weights: One number for each scale, scaled to sum to 1. By default they halve from each
            scale to the next.

    Attributes:
        terms: After a call, those of a compound at the first scale.

    Example:
        >>> import torch
        >>> from segloss import DiceLoss
        >>> logits = [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)]
        >>> labels = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)]
        >>> DeepSupervisionLoss(DiceLoss())(logits, labels)
        tensor(0.6667)
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.weights = None if weights is None else numbers("weights", weights)
        self.terms: dict[str, Tensor] = {}

    def forward(
        self, input: Sequence[Tensor], target: Sequence[Tensor], **maps: Sequence[Tensor]
    ) -> Reduced:
        """The weighted sum over the scales."""
        for name, values in {"input": input, "target": target, **maps}.items():
            if isinstance(values, Tensor):
                raise TypeError(f"{name} is a tensor, expected a list with one for each scale")
            if len(values) != len(input):
                raise ValueError(
                    f"{name} has {len(values)} scales, but input has {len(input)}: every list "
                    "needs one entry for each scale"
                )
        if not input:
            raise ValueError("input is an empty list, expected logits for one scale or more")
        weights = self.weights or tuple(0.5**i for i in range(len(input)))
        if len(weights) != len(input):
            raise ValueError(f"weights has {len(weights)} numbers, but input {len(input)} scales")
        total = torch.zeros((), device=input[0].device)
        for i in reversed(range(len(input))):  # the first scale last: its terms stay
            if weights[i]:
                scale_maps = {name: values[i] for name, values in maps.items()}
                value = self.loss(input[i], target[i], **scale_maps)
                total = total + weights[i] / sum(weights) * value
        self.terms = getattr(self.loss, "terms", {})
        return total

    def step(self) -> None:
        """Say that an epoch is over, to a compound's schedules."""
        if not isinstance(self.loss, Loss):
            self.loss.step()  # type: ignore[operator]

    def extra_repr(self) -> str:
        """The weights."""
        return f"weights={self.weights}"


def a_weight(name: str, given: Any) -> Weight:
    """The weight, if it is a finite number or a schedule."""
    if callable(given) and not isinstance(given, nn.Module):
        return cast(Weight, given)
    if isinstance(given, str) or not hasattr(given, "__float__"):
        raise TypeError(f"{name} must be a number or a schedule, got {given!r}")
    return number(name, given)


def _product(a: Weight, b: Weight) -> Weight:
    if callable(a) or callable(b):
        return _Product(a, b)
    return a * b


class _Product:
    """The product of two weights, at least one of them a schedule."""

    def __init__(self, a: Weight, b: Weight) -> None:
        self.factors = (a, b)

    def __call__(self, epoch: int) -> float:
        a, b = (w(epoch) if callable(w) else w for w in self.factors)
        return a * b


def term_name(class_name: str) -> str:
    """The name of a term: that of its class in snake case, without ``Loss``."""
    return _WORDS.sub("_", class_name.removesuffix("Loss")).lower()
