"""Which pseudo-labels to keep: one threshold for all classes, or weights instead."""

import math
from typing import Any, final, get_args

import torch
from torch import Tensor

from segloss.arguments import fraction, not_negative, one_of
from segloss.compose import Weight
from segloss.pseudo.rules import Over, RunningRule, Seen, ThresholdRule
from segloss.shapes import Map

__all__ = ["DynamicThreshold", "EntropyPercentile", "FixedThreshold", "SoftMatchWeight"]


@final
class FixedThreshold(ThresholdRule):
    """Keep a voxel whose confidence is ``threshold`` or more: FixMatch's rule.

    Confidence is at least 1/c with c classes; nothing below that filters anything.

    Args:
        threshold: 0 to 1.

    References:
        Sohn et al., "FixMatch", NeurIPS 2020.

    Example:
        >>> FixedThreshold(0.95)(torch.tensor([0.97, 0.03]).reshape(1, 2, 1, 1))
        tensor([[[True]]])
    """

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = fraction("threshold", threshold)

    def choose(self, seen: Seen) -> Map:
        return seen.confidence >= self.threshold


@final
class DynamicThreshold(ThresholdRule):
    r"""Keep a voxel whose confidence is above a threshold that rises with the mean: CW-BASS's rule.

    .. math:: \tau = \text{clamp}\left(\text{base} \cdot \sigma(\beta (\bar c - 1/2)), \text{low},
        \text{high}\right)

    with :math:`\bar c` the mean confidence of the batch. The published numbers, which are the
    defaults, keep τ between 0.300 and 0.337 whatever the teacher says: with two classes, whose
    confidence is at least 1/2, nothing is ever left out. β = 10 reaches from 0.3 to 0.59. The
    authors' own sequel does better with a fixed 0.95, `FixedThreshold`.

    Args:
        base: The threshold's scale.
        beta: How steeply it rises.
        low: Its least value, 0 to 1.
        high: Its largest.
        group: The mean runs over this process's ``"batch"``, as the authors', or over those of all
            ``"ranks"``; without a process group they are the same.

    References:
        CW-BASS, arXiv 2502.15152, after the authors' code: the paper's formulas could not be had.

    Example:
        >>> rule = DynamicThreshold(beta=10)
        >>> [round(rule.at(torch.tensor(mean)).item(), 3) for mean in (0.5, 0.7, 0.9)]
        [0.3, 0.528, 0.589]
    """

    def __init__(
        self,
        base: float = 0.6,
        beta: float = 0.5,
        low: float = 0.3,
        high: float = 0.8,
        *,
        group: Over = "ranks",
    ) -> None:
        super().__init__()
        self.base = not_negative("base", base)
        self.beta = not_negative("beta", beta)
        self.low, self.high = fraction("low", low), fraction("high", high)
        if low > high:
            raise ValueError(f"low must not be above high, got low={low} and high={high}")
        self.group: Over = one_of("group", group, get_args(Over))

    def at(self, mean: Tensor) -> Tensor:
        """The threshold τ for a mean confidence."""
        return (self.base * torch.sigmoid(self.beta * (mean - 0.5))).clamp(self.low, self.high)

    def choose(self, seen: Seen) -> Map:
        classes = seen.probability.shape[1]
        highest = self.at(torch.ones(())).item()  # on the CPU
        if highest < 1 / classes and not self._warned:
            self._warn(
                f"never rises above {highest:.3f}, and with {classes} classes no confidence is "
                f"below {1 / classes:.3f}: every voxel is kept"
            )
        _, (mean,) = seen.means(seen.total(seen.confidence), group=self.group)
        return seen.confidence > self.at(mean)


@final
class SoftMatchWeight(RunningRule):
    r"""Weigh every voxel by how near its confidence comes to the mean: SoftMatch's rule.

    .. math:: w = \exp\left(-\frac{\min(c - \mu, 0)^2}{2 \sigma^2 / n^2}\right)

    with μ and σ² the running mean and variance of the confidences. Users report that in
    segmentation nearly all weights end at 1: so many confidences are alike.

    Args:
        classes: How many there are.
        width: n, more than 0; the larger, the stricter.
        momentum: How slowly μ and σ² follow those of the batches, 0 to 1.
        group: They are those of this process's ``"batch"``, or of all ``"ranks"``; without a
            process group they are the same.

    References:
        Chen et al., "SoftMatch", ICLR 2023.

    Example:
        >>> rule = SoftMatchWeight(2, momentum=0.0)
        >>> p = torch.tensor([0.6, 0.8])
        >>> rule(torch.stack((p, 1 - p)).reshape(1, 2, 1, 2))
        tensor([[[0.3679, 1.0000]]])
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self, classes: int, *, width: float = 2.0, momentum: float = 0.999, group: Over = "ranks"
    ) -> None:
        super().__init__(classes, momentum, group)
        self.width = not_negative("width", width)
        self.register_buffer("mean", torch.tensor(1 / classes))
        self.register_buffer("variance", torch.tensor(1.0))

    def update(self, seen: Seen) -> None:
        count, (mean,) = seen.means(seen.total(seen.confidence), group=self.group)
        squares = seen.total((seen.confidence - mean).square())
        _, (spread,) = seen.means(squares, group=self.group)
        self.follow(self.mean, mean, count)
        self.follow(self.variance, spread * count / (count - 1).clamp(min=1), count)

    def choose(self, seen: Seen) -> Map:
        short = (seen.confidence - self.mean).clamp(max=0)
        narrow = torch.finfo(self.variance.dtype).tiny  # all alike: weights of 0 and 1, not NaN
        return (-(short * self.width).square() / (2 * self.variance).clamp(min=narrow)).exp()


@final
class EntropyPercentile(ThresholdRule):
    """Keep the voxels whose entropy is below a percentile of the batch's: U2PL's rule.

    All are kept at 100 %. Where more voxels than that are saturated, with no entropy at all, none
    is below the percentile: then none is kept, and the loss is 0 (the published code's is NaN).

    Args:
        percent: 0 to 100, or a schedule such as ``Linear(80, 100, epochs)``, U2PL's; call `step`
            after every epoch to advance it.

    References:
        Wang et al., "Semi-supervised semantic segmentation using unreliable pseudo-labels", CVPR
        2022.

    Example:
        >>> p = torch.tensor([0.5, 0.6, 0.8, 0.9])
        >>> EntropyPercentile(50)(torch.stack((p, 1 - p)).reshape(1, 2, 2, 2))
        tensor([[[False, False],
                 [ True,  True]]])
    """

    def __init__(self, percent: Weight = 80.0) -> None:
        super().__init__()
        self.percent = percent
        self.epoch = 0
        self._now()

    def step(self) -> None:
        """Say that an epoch is over."""
        self.epoch += 1

    def get_extra_state(self) -> dict[str, int]:
        """The number of epochs done, for the ``state_dict``."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of epochs done."""
        self.epoch = int(state["epoch"])

    def choose(self, seen: Seen) -> Map:
        percent = self._now()
        entropy: Tensor = torch.special.entr(seen.probability).sum(1)
        if percent == 100:
            return torch.ones_like(entropy, dtype=torch.bool)
        return entropy < _percentile(entropy, seen, percent)

    def extra_repr(self) -> str:
        """The option, as the constructor takes it."""
        return f"percent={self.percent!r}"

    def _now(self) -> float:
        percent = self.percent(self.epoch) if callable(self.percent) else self.percent
        if not 0 <= percent <= 100:
            raise ValueError(
                f"percent must lie between 0 and 100, got {percent} at epoch {self.epoch}"
            )
        return percent


def _percentile(x: Map, seen: Seen, percent: float) -> Tensor:
    """Of the voxels that count, interpolated; by sorting, as torch.quantile takes no volumes."""
    counted = x if seen.void is None else x.masked_fill(seen.void, math.inf)
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    position = (seen.count - 1).clamp(min=0).to(exact) * (percent / 100)
    ordered = counted.flatten().sort().values
    # Two places at once: a single number as an index would be waited for on a GPU.
    below, above = ordered[torch.stack((position.floor(), position.ceil())).long()]
    cut: Tensor = torch.lerp(below, above, position.frac().to(x))
    return cut
