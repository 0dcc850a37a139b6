"""Which pseudo-labels to keep: a threshold for each class, that follows what the teacher knows."""

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from segloss.arguments import fraction
from segloss.losses.base import ratio
from segloss.pseudo.rules import Over, RunningRule, Seen
from segloss.shapes import Map

__all__ = ["ClassThresholds", "FlexMatchThreshold", "FreeMatchThreshold"]


class ClassThresholds(RunningRule):
    """Keep a voxel whose confidence is its class's threshold or more. Abstract."""

    def __init__(self, classes: int, momentum: float, floor: float, group: Over) -> None:
        super().__init__(classes, momentum, group)
        self.floor = fraction("floor", floor)

    @property
    def thresholds(self) -> Tensor:
        """The threshold of each class, ``(classes,)``."""
        return self.unfloored.clamp(min=self.floor)

    @property
    @abstractmethod
    def unfloored(self) -> Tensor:
        """The same without the floor."""

    def choose(self, seen: Seen) -> Map:
        return seen.confidence >= self.thresholds[seen.label]


@final
class FlexMatchThreshold(ClassThresholds):
    r"""Lower thresholds for the classes that the teacher is seldom sure of: FlexMatch's rule.

    .. math:: \tau_k = \text{threshold} \cdot \frac{\beta_k}{2 - \beta_k},
        \qquad \beta_k = \frac{s_k}{\max(s_1, \ldots, s_c, u)}

    with :math:`s_k` the share of the voxels of which the teacher says k with a confidence of
    ``threshold`` or more, and u the share of which it is not so sure of anything. The paper counts
    images by their latest prediction; running shares of voxels are our reading. A class of 2 % of
    the voxels gets a threshold of 0.01, which is none: mind ``floor``.

    Args:
        classes: How many there are.
        threshold: That of the class the teacher knows best, 0 to 1.
        momentum: How slowly the shares follow those of the batches, 0 to 1.
        floor: No threshold is less, 0 to 1.
        warm_up: Whether u takes part.
        group: The shares are those of this process's ``"batch"``, or of all ``"ranks"``; without a
            process group they are the same.

    References:
        Zhang et al., "FlexMatch", NeurIPS 2021.

    Example:
        >>> rule = FlexMatchThreshold(2, momentum=0.0)
        >>> p = torch.tensor([0.97, 0.98, 0.99, 0.6])
        >>> keep = rule(torch.stack((p, 1 - p)).reshape(1, 2, 2, 2))
        >>> rule.thresholds
        tensor([0.9500, 0.0000])
    """

    counted: Tensor

    def __init__(
        self,
        classes: int,
        *,
        threshold: float = 0.95,
        momentum: float = 0.999,
        floor: float = 0.0,
        warm_up: bool = True,
        group: Over = "ranks",
    ) -> None:
        super().__init__(classes, momentum, floor, group)
        self.threshold = fraction("threshold", threshold)
        self.warm_up = warm_up
        self.register_buffer("counted", torch.zeros(classes))

    def update(self, seen: Seen) -> None:
        sure = seen.confidence >= self.threshold
        by_class = [seen.total((sure & (seen.label == k)).float()) for k in range(self.classes)]
        count, shares = seen.means(*by_class, group=self.group)
        self.follow(self.counted, torch.stack(shares), count)

    @property
    def unfloored(self) -> Tensor:
        most = self.counted.max()
        if self.warm_up:
            most = torch.maximum(most, 1 - self.counted.sum())
        known = ratio(self.counted, most)
        return self.threshold * known / (2 - known)


@final
class FreeMatchThreshold(ClassThresholds):
    r"""Thresholds of a teacher's own making, for all and for each class: FreeMatch's rule.

    .. math:: \tau_k = \tau \cdot \frac{\tilde p_k}{\max_j \tilde p_j}

    with τ the running mean of the confidences, and :math:`\tilde p_k` that of the probabilities of
    class k. A class of a few per cent of the voxels gets a threshold below 1/c, which is none:
    mind ``floor``.

    Args:
        classes: How many there are.
        momentum: How slowly the means follow those of the batches, 0 to 1.
        floor: No threshold is less, 0 to 1; ours.
        group: The means are those of this process's ``"batch"``, or of all ``"ranks"``; without a
            process group they are the same.

    References:
        Wang et al., "FreeMatch", ICLR 2023.

    Example:
        >>> rule = FreeMatchThreshold(2, momentum=0.0)
        >>> p = torch.tensor([0.9, 0.9, 0.9, 0.3])
        >>> keep = rule(torch.stack((p, 1 - p)).reshape(1, 2, 2, 2))
        >>> rule.thresholds
        tensor([0.8500, 0.2833])
    """

    overall: Tensor
    share: Tensor

    def __init__(
        self,
        classes: int,
        *,
        momentum: float = 0.999,
        floor: float = 0.0,
        group: Over = "ranks",
    ) -> None:
        super().__init__(classes, momentum, floor, group)
        self.register_buffer("overall", torch.tensor(1 / classes))
        self.register_buffer("share", torch.full((classes,), 1 / classes))

    def update(self, seen: Seen) -> None:
        by_class = [seen.total(p) for p in seen.probability.unbind(1)]
        totals = (seen.total(seen.confidence), *by_class)
        count, (confidence, *share) = seen.means(*totals, group=self.group)
        self.follow(self.overall, confidence, count)
        self.follow(self.share, torch.stack(share), count)

    @property
    def unfloored(self) -> Tensor:
        return self.overall * self.share / self.share.max()
