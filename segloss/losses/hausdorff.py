"""Hausdorff losses: errors by a power of their distance to the boundary."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative
from segloss.encoding import Encoded, Encoding, Multiclass
from segloss.engine import sums as engine
from segloss.engine.distance import checked_spacing, squared_boundary_distance, voxel_size
from segloss.engine.sums import Request
from segloss.engine.volumes import Volume, volumes
from segloss.losses.base import LossOptions, Sums, ratio
from segloss.losses.surface import DistanceLoss
from segloss.shapes import Scores

__all__ = ["HausdorffDTLoss", "HausdorffLoss", "hausdorff"]


def hausdorff(sums: Sums, alpha: float = 2.0) -> Scores:
    r"""The mean over the voxels of squared errors times a power of the distance to the boundary.

    .. math:: \frac{\sum w (p - y)^2 |\varphi|^\alpha}{\sum w}

    Args:
        sums: ``error^2*distance^α``, for example ``error^2*distance^2.0``, and ``count``, each
            ``(g, k)``.
        alpha: α.

    Returns:
        ``(g, k)``, 0 or more, in the unit of the distance to the power of α.

    Example:
        >>> import torch
        >>> six = torch.tensor([[6.0]])
        >>> hausdorff({"error^2*distance^2.0": six / 2, "count": six})
        tensor([[0.5000]])
    """
    return ratio(sums[_to_the_target(alpha)], sums["count"])


@final
class HausdorffLoss(DistanceLoss):
    """`segloss.hausdorff` of logits: each error counts by its distance to the target's boundary.

    The one-sided form: only distances to the target's boundary, which are known at load time, so
    that it costs a sum in the joint pass. `HausdorffDTLoss` has the other side too. From 0, at the
    target, without an upper bound, in the unit of the distance to the power of α. A class whose map
    is 0 throughout costs nothing; add it to a region loss.

    Takes the map ``distance=``, ``(b, k, *space)`` for the k scored classes or all channels, of
    `segloss.transforms.SignedDistanced`. Far errors dominate: clip the map, and divide by the clip,
    so that weights mean the same for every spacing.

    Args:
        encoding: What the channels mean. By default the background is left out.
        alpha: α, the power of the distance, above 0; or 0, with which all errors count alike.
        **options: Those of `segloss.BoundaryLoss`.

    References:
        Karimi and Salcudean, "Reducing the Hausdorff distance in medical image segmentation with
        convolutional neural networks", IEEE TMI 2020: the distance-transform loss, without the
        prediction's side.

    Example:
        >>> import torch
        >>> logits, label = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> distance = torch.tensor([[[[1.5, 0.5, -0.5, -1.5]]]])
        >>> HausdorffLoss()(logits, label, distance=distance)
        tensor(0.3125)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        alpha: float = 2.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.alpha = not_negative("alpha", alpha)

    @property
    def request(self) -> Request:
        return Request((_to_the_target(self.alpha), "count"))

    def score(self, sums: Sums) -> Scores:
        return hausdorff(sums, self.alpha)


@final
class HausdorffDTLoss(DistanceLoss):
    """`HausdorffLoss` to both boundaries, that of the target and that of the prediction: from 0.

    An error counts by the sum of its distances, each to the power of α, to the target's boundary
    and to that of the prediction, which is where a probability passes one half. The latter is
    measured at every step, exactly and on the device of the logits, and has no gradient: that is
    most of what this loss costs. Voxels that are ignored, or weigh 0, are on neither side. A
    prediction without a boundary, empty or full, has distances of 0, and so has such a target: where
    both are, nothing is left of the loss, so add it to a region loss. torch.compile leaves it as it
    is.

    Takes the map ``distance=`` as `HausdorffLoss` does. Both distances are to the faces between
    voxels, half a voxel beside them. (MONAI's, of the same name, are to the centre of the nearest
    voxel on the other side, in voxels: half a voxel more.)

    Args:
        encoding: What the channels mean. By default the background is left out.
        alpha: α, the power of the distances, above 0; or 0, with which all errors count alike.
        spacing: Size of a voxel along each image axis, in the order of the array, or along all, in
            the unit of the map: 1 if that is in voxels.
        **options: Those of `segloss.BoundaryLoss`.

    References:
        Karimi and Salcudean, "Reducing the Hausdorff distance in medical image segmentation with
        convolutional neural networks", IEEE TMI 2020.

    Example:
        >>> import torch
        >>> label = torch.tensor([[[0, 0, 1, 1]]])
        >>> distance = torch.tensor([[[[1.5, 0.5, -0.5, -1.5]]]])
        >>> found = torch.tensor([[[9.0, -9.0, -9.0, -9.0]]])  # at the wrong end
        >>> logits = torch.stack([-found, found], 1)
        >>> HausdorffDTLoss()(logits, label, distance=distance)
        tensor(3.3750)
    """

    compiles = False

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        alpha: float = 2.0,
        spacing: float | Sequence[float] = 1.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.alpha = not_negative("alpha", alpha)
        self.spacing = checked_spacing(spacing)

    @property
    def request(self) -> Request:
        return Request(("count",))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"distance"})

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        size = voxel_size(self.spacing, len(space))
        parts = volumes(encoded, space, self.encoding.first)
        squares = torch.cat([_squares(samples, size) for samples in parts])
        maps = {"distance": encoded.maps["distance"], "squares": squares}
        sides = Request((_to_the_target(self.alpha), self._to_the_prediction))
        sums, _ = engine.one_pass(replace(encoded, maps=maps), sides)
        return sums

    def score(self, sums: Sums) -> Scores:
        to_the_prediction = ratio(sums[self._to_the_prediction], sums["count"])
        return hausdorff(sums, self.alpha) + to_the_prediction

    @property
    def _to_the_prediction(self) -> str:
        return f"error^2*squares^{self.alpha / 2}"


def _to_the_target(alpha: float) -> str:
    return f"error^2*distance^{float(alpha)}"


def _squares(samples: Volume, size: tuple[float, ...]) -> Tensor:
    """The squared distances to the prediction's boundary, ``(b, k, n)``."""
    found = samples.pred > 0.5
    return squared_boundary_distance(found, size, there=samples.there).flatten(2)
