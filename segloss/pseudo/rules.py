"""What the rules have in common that say which pseudo-labels to keep."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from segloss.arguments import fraction, one_of, options_of
from segloss.encoding import expect_shape
from segloss.engine.groups import pool
from segloss.losses.base import ratio
from segloss.shapes import Logits, Map

__all__ = ["Over", "RunningRule", "Seen", "ThresholdRule"]

Over = Literal["batch", "ranks"]

PATIENCE = 100
"""After so many batches of which everything or nothing was kept there is a warning."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a rule sees: the teacher's probabilities, and which voxels do not count."""

    probability: Logits
    void: Map | None

    @cached_property
    def confidence(self) -> Map:
        """The largest probability of each voxel."""
        return self.probability.amax(1)

    @cached_property
    def label(self) -> Map:
        """The class that has it."""
        return self.probability.max(1).indices  # argmax is several times slower on the CPU

    @cached_property
    def count(self) -> Tensor:
        """How many voxels count."""
        if self.void is None:
            return self.confidence.new_full((), self.confidence.numel(), dtype=torch.int64)
        return (~self.void).sum()

    def total(self, x: Map) -> Tensor:
        """The sum of ``(b, *space)`` numbers over the voxels that count."""
        return x.sum() if self.void is None else x.masked_fill(self.void, 0).sum()

    def means(self, *totals: Tensor, group: Over) -> tuple[Tensor, tuple[Tensor, ...]]:
        """How many voxels count in the group, and each total divided by it; 0 if none does."""
        sums = torch.stack((self.count.to(self.confidence), *totals))
        count, *pooled = pool(sums[:, None], group)[:, 0]
        return count, tuple(ratio(x, count) for x in pooled)


class ThresholdRule(nn.Module, ABC):
    """Says which voxels to learn from. Abstract.

    In training mode a rule that keeps statistics takes those of a batch in before it decides; in
    evaluation mode it only decides. The statistics are buffers: ``state_dict`` saves them. Void
    voxels never count. A rule that keeps everything, or nothing, in a hundred training batches on
    end warns of it, once; it counts on the device, and waits for that no more often.
    """

    classes: int | None = None
    """How many classes the rule was made for, if that matters."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: Tensor | None = None
        self._batches = 0
        self._warned = False

    @torch.no_grad()
    def forward(self, probability: Logits, void: Map | None = None) -> Map:
        """Which voxels to keep, or how much each is to count.

        Args:
            probability: The teacher's, ``(b, c, *space)``.
            void: ``(b, *space)`` bool; the voxels that never count.

        Returns:
            ``(b, *space)``: bool, or weights from 0 to 1 in floating point.
        """
        b, c, *space = probability.shape
        if self.classes not in (None, c):
            raise ValueError(
                f"probability has {c} classes, but the rule was made for {self.classes}: {self}"
            )
        if void is not None:
            expect_shape("void", void, (b, *space))
        with torch.autocast(probability.device.type, enabled=False):
            exact = torch.promote_types(probability.dtype, torch.float32)
            seen = Seen(probability.detach().to(exact), void)
            if self.training:
                self.update(seen)
            chosen = self.choose(seen)
            chosen = chosen if void is None else chosen.masked_fill(void, 0)
            if self.training and chosen.dtype == torch.bool and not self._warned:
                self._watch(chosen.sum(), seen.count)
        return chosen

    def update(self, seen: Seen) -> None:
        """Take the statistics of a batch in."""

    @abstractmethod
    def choose(self, seen: Seen) -> Map:
        """Which voxels to keep, or how much each is to count; void ones do not matter."""

    def extra_repr(self) -> str:
        """The options, as the constructor takes them."""
        return options_of(self)

    def _watch(self, kept: Tensor, count: Tensor) -> None:
        counts = torch.stack((kept, count))
        self._kept = counts if self._kept is None else self._kept + counts
        self._batches += 1
        if self._batches % PATIENCE == 0:
            total, of = self._kept.tolist()
            self._kept = None
            if of and total in (0, of):
                part = "every" if total else "no"
                self._warn(f"kept {part} voxel in {PATIENCE} batches on end")

    def _warn(self, what: str) -> None:
        self._warned = True
        warnings.warn(
            f"{self} {what}: if that is not meant, choose a threshold for this number of classes, "
            "or first train on labels until the teacher can tell what it knows",
            stacklevel=2,
        )


class RunningRule(ThresholdRule):
    """A rule with statistics that follow those of the batches. Abstract."""

    classes: int

    def __init__(self, classes: int, momentum: float, group: Over) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be 2 or more, got {classes!r}")
        self.classes = classes
        self.momentum = fraction("momentum", momentum)
        self.group: Over = one_of("group", group, get_args(Over))

    def follow(self, old: Tensor, new: Tensor, count: Tensor) -> None:
        """Move a statistic towards a batch's, if any voxel of it counts."""
        moved = self.momentum * old + (1 - self.momentum) * new
        old.copy_(torch.where(count > 0, moved, old))
