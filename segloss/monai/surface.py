"""Boundary and Hausdorff losses by MONAI's arguments, with distances made here or brought along."""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from segloss.arguments import not_negative
from segloss.encoding import expect_shape
from segloss.engine.block import Block
from segloss.engine.distance import squared_boundary_distance
from segloss.engine.sums import Request
from segloss.losses.base import Sums, reduced
from segloss.losses.surface import boundary
from segloss.monai.base import Activation, SumOfTerms, Term, group_of, reduction_of
from segloss.monai.channels import Channels, activation_of
from segloss.shapes import Logits, Reduced, Target

__all__ = ["BoundaryLoss", "HausdorffDTLoss", "LogHausdorffDTLoss"]


class Measuring(SumOfTerms):
    """A loss that measures distances at every call."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def measured(
        self,
        input: Tensor,
        target: Tensor,
        *,
        pred: Callable[[Tensor], Tensor] | None = None,
        true: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Measures of every scored class, 0 for the others: ``(b, c, *space)``.

        Args:
            input: See `SumOfTerms.forward`.
            target: See `SumOfTerms.forward`.
            pred: Measures the mask of a class in a prediction, ``(*space)``.
            true: Measures that in a target, and is added.
        """
        (term,) = self.terms
        assert isinstance(term, Term)
        input, target = input.detach().as_subclass(Tensor), target.as_subclass(Tensor)
        encoded = term.encoding.encode(input, target, {})
        measures = torch.zeros_like(input, dtype=encoded.classes.dtype)
        for sample, out in enumerate(measures):
            block = Block(encoded, (slice(sample, sample + 1), slice(None)))
            for side, measure in {"pred": pred, "true": true}.items():
                if measure is not None:
                    masks = getattr(block, side)[0].view(out.shape) > 0.5
                    for node in range(term.skipped(len(out)), len(out)):
                        out[node] += measure(masks[node])
        return measures


@final
class BoundaryLoss(Measuring):
    """`monai.losses.BoundaryLoss`: the mean of probability times signed distance, in voxels.

    It is least, and negative, at the target; see `segloss.BoundaryLoss`. Without ``distance=`` it
    measures the distances at every call, as MONAI does: from centre to centre, and one voxel less
    inside. A class that is absent from a sample, or fills it, costs nothing.

    Args:
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(b, k)`` (``(k,)`` with `batch`).
        batch: The mean over the samples is taken before the reduction.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[[0, 0, 1, 1]]]])
        >>> loss = BoundaryLoss(include_background=False, softmax=True)
        >>> loss(logits, labels)
        tensor(0.2500)
        >>> loss(logits, labels, distance=torch.tensor([[[[1.5, 0.5, -0.5, -1.5]]]]))
        tensor(0.)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        reduction: str = "mean",
        batch: bool = False,
    ) -> None:
        term = DistanceMean(
            Channels(activation=activation_of(sigmoid, softmax, other_act)),
            background=include_background,
            reduction=reduction_of(reduction),
            group=group_of(batch),
        )
        super().__init__((1.0, term))

    def forward(self, input: Logits, target: Target, distance: Tensor | None = None) -> Reduced:
        """The loss of a batch.

        Args:
            input: ``(b, c, *space)``.
            target: Labels ``(b, 1, *space)``, or memberships shaped like the input.
            distance: Signed distances of the scored classes, or of all channels, such as
                `segloss.transforms.SignedDistanced` makes: then nothing is measured here.
        """
        if distance is None:
            distance = self.measured(input, target, true=_signed)
        return self.scored(input, target, distance=distance)


class HausdorffDTLoss(Measuring):
    """`monai.losses.HausdorffDTLoss`: squared errors, by their distances to both boundaries.

    The distances are in voxels, from centre to centre. Those to the boundary of the prediction,
    where it passes ½, are measured at every call and take most of the time; the gradient does not
    run through them. A class of which either has no boundary is at distance 0 from it.

    Args:
        alpha: The power of the distances.
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(b, k, 1, 1)`` (``(1, k, 1, 1)`` with
            `batch`; one more 1 in 3D).
        batch: Score the batch as one.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[[0, 0, 1, 1]]]])
        >>> HausdorffDTLoss(softmax=True)(logits, labels)
        tensor(0.6250)
    """

    def __init__(
        self,
        alpha: float = 2.0,
        include_background: bool = False,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        reduction: str = "mean",
        batch: bool = False,
    ) -> None:
        term = ErrorMean(
            Channels(activation=activation_of(sigmoid, softmax, other_act)),
            background=include_background,
            reduction=reduction_of(reduction),
            group=group_of(batch),
        )
        super().__init__((1.0, term))
        self.alpha = not_negative("alpha", alpha)

    def forward(self, input: Logits, target: Target, distance: Tensor | None = None) -> Reduced:
        """The loss of a batch.

        Args:
            input: ``(b, c, *space)``.
            target: Labels ``(b, 1, *space)``, or memberships shaped like the input.
            distance: Distances to the target's boundaries, signed or not, in voxels, for the scored
                classes or all channels; then these are not measured here. Those of
                `segloss.transforms.SignedDistanced` are to faces rather than centres: up to half a
                voxel less along each axis.
        """
        known = self._far if distance is None else None
        weight = self.measured(input, target, pred=self._far, true=known)
        if distance is not None:
            b, c, *space = input.shape
            expect_shape("distance map", distance, (b, c - 1, *space), (b, c, *space))
            far = distance.as_subclass(Tensor).to(weight.dtype).abs() ** self.alpha
            weight[:, c - far.shape[1] :] += far
        return self.scored(input, target, weight=weight)

    def _far(self, mask: Tensor) -> Tensor:
        return _squares(mask) ** (self.alpha / 2)


@final
class LogHausdorffDTLoss(HausdorffDTLoss):
    """`monai.losses.LogHausdorffDTLoss`: the logarithm of one plus `HausdorffDTLoss`, reduced.

    Takes the options of `HausdorffDTLoss`.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[[0, 0, 1, 1]]]])
        >>> LogHausdorffDTLoss(softmax=True)(logits, labels)
        tensor(0.4855)
    """

    def forward(self, input: Logits, target: Target, distance: Tensor | None = None) -> Reduced:
        """The loss of a batch, see `HausdorffDTLoss.forward`."""
        return super().forward(input, target, distance).log1p()


@final
class DistanceMean(Term):
    """The mean over the voxels of probability times distance."""

    @property
    def request(self) -> Request:
        return Request(("pred*distance", "count"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        return boundary(regions)

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        return reduced(value[0] if self.group == "batch" else value, self.reduction)


@final
class ErrorMean(Term):
    """The mean over the voxels of the squared error, each weighted by its entry's weight."""

    @property
    def request(self) -> Request:
        return Request(("error^2",))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        return regions["error^2"]

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        samples = len(input) if self.group == "batch" else 1
        value = value / (samples * input[0, 0].numel())
        if self.reduction == "none":
            return value.reshape(*value.shape, *[1] * (input.ndim - 2))
        return reduced(value, self.reduction)


def _squares(mask: Tensor) -> Tensor:
    """The squared distance to the nearest voxel of the other kind; 0 if there is none."""
    return squared_boundary_distance(mask, (1.0,) * mask.ndim, "centre")


def _signed(mask: Tensor) -> Tensor:
    distance = _squares(mask).sqrt_()
    return torch.where(mask & (distance > 0), 1 - distance, distance)
