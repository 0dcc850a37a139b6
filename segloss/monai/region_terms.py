"""Dice and its kin as MONAI computes them, from the engine's sums."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative
from segloss.engine.constants import constant
from segloss.engine.sums import Request
from segloss.losses.base import Sums, reduced
from segloss.losses.overlap import generalized_dice, tversky
from segloss.monai.base import Term, TermOptions
from segloss.monai.channels import Channels
from segloss.shapes import Reduced

__all__ = ["GeneralizedOverlap", "Overlap"]


class RegionTermOptions(TermOptions, total=False):
    """The options of every region term, with `RegionTerm`'s meaning and defaults."""

    smooth_nr: float
    smooth_dr: float
    as_image: bool


class RegionTerm(Term):
    """One score for each group and class.

    Args:
        encoding: The channels.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        as_image: ``reduction="none"`` gives scores that broadcast over an image.
        **options: Those of `Term`.
    """

    def __init__(
        self,
        encoding: Channels,
        *,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        as_image: bool = True,
        **options: Unpack[TermOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.smooth_nr = not_negative("smooth_nr", smooth_nr)
        self.smooth_dr = not_negative("smooth_dr", smooth_dr)
        self.as_image = as_image

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        if self.weight is not None:
            weight = self.by_class("weight", self.weight, input.shape[1])
            if len(weight) > 1:  # as in MONAI: not a single class
                value = value * constant(weight, value)
        if self.group == "batch":
            value = value[0]
        if self.as_image and self.reduction == "none":
            return value.reshape(*value.shape, *[1] * (input.ndim - 2))
        return reduced(value, self.reduction)


class OverlapTermOptions(RegionTermOptions, total=False):
    """The options of every term of overlap, with `OverlapTerm`'s meaning and defaults."""

    squared: bool
    soft: bool


class OverlapTerm(RegionTerm):
    """Overlap with the target, by ``overlap``, ``pred`` and ``true``.

    Args:
        encoding: The channels.
        squared: Squared probabilities and memberships in the denominator.
        soft: The overlap that is right for soft labels: half of Σp + Σy - Σ|p - y|.
        **options: Those of `RegionTerm`.
    """

    def __init__(
        self,
        encoding: Channels,
        *,
        squared: bool = False,
        soft: bool = False,
        **options: Unpack[RegionTermOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.squared, self.soft = squared, soft

    @property
    def request(self) -> Request:
        square = "_squared" if self.squared else ""
        overlap = "error^1" if self.soft and not self.squared else "overlap"
        return Request((f"pred{square}", f"true{square}", overlap))

    def overlapping(self, regions: Sums) -> Sums:
        """The sums under the names that the formulas have for them."""
        pred, true, overlap = (regions[name] for name in self.request.regions)
        if self.request.regions[2] != "overlap":
            overlap = (pred + true - overlap) / 2
        return {"pred": pred, "true": true, "overlap": overlap}


@final
class Overlap(OverlapTerm):
    """Dice, Jaccard or Tversky: false positives cost alpha, false negatives beta.

    Args:
        encoding: The channels.
        alpha: Cost of a false positive.
        beta: Cost of a false negative.
        **options: Those of `OverlapTerm`.
    """

    def __init__(
        self,
        encoding: Channels,
        alpha: float,
        beta: float,
        **options: Unpack[OverlapTermOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.alpha = not_negative("alpha", alpha)
        self.beta = not_negative("beta", beta)

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        sums = self.overlapping(regions)
        return tversky(sums, self.alpha, self.beta, self.smooth_nr, self.smooth_dr)


@final
class GeneralizedOverlap(OverlapTerm):
    """Dice of all classes together, each by its volume to a power.

    Args:
        encoding: The channels.
        power: -2, -1, or 0. An absent class weighs as much as the one that weighs most.
        **options: Those of `OverlapTerm`.
    """

    def __init__(
        self, encoding: Channels, power: int, **options: Unpack[OverlapTermOptions]
    ) -> None:
        super().__init__(encoding, **options)
        self.power = power

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        sums = self.overlapping(regions)
        absent = (sums["true"] == 0) & (self.power != 0)
        weight = sums["true"].masked_fill(absent, 1).pow(self.power).masked_fill(absent, 0)
        weight = torch.where(absent, weight.amax(1, keepdim=True), weight)
        return generalized_dice(sums, weight, self.smooth_nr, self.smooth_dr)


@final
class Matthews(RegionTerm):
    """One minus Matthews' correlation, smoothed as MONAI does; 0 where nothing at all is wrong."""

    @property
    def request(self) -> Request:
        return Request(("overlap", "alarm", "miss", "rejected"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        hit, alarm, miss, rejected = (regions[name] for name in self.request.regions)
        spread = (hit + alarm) * (hit + miss) * (rejected + alarm) * (rejected + miss)
        spread = spread + self.smooth_dr
        constant = spread == 0
        likeness = hit * rejected - alarm * miss + self.smooth_nr
        likeness = (likeness / spread.masked_fill(constant, 1).sqrt()).masked_fill(constant, 0)
        # A probability that is given as 0 is taken for the least number there is.
        least = 2 * torch.finfo(torch.float32).tiny * (hit + alarm + miss + rejected)
        return (1 - likeness).masked_fill(alarm + miss <= least, 0)
