"""Centreline Dice by MONAI's arguments: alone, and beside Dice in one pass."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.activation import Softmax
from segloss.arguments import not_negative
from segloss.encoding import Encoded
from segloss.engine.soft_skeleton import soft_skeleton
from segloss.engine.sums import Request
from segloss.losses.base import Sums, reduced
from segloss.losses.centerline import soft_skeleton_sums, warn_of_wide_tubes
from segloss.monai.base import Activation, SumOfTerms, Term, TermOptions, reduction_of
from segloss.monai.channels import Channels, activation_of
from segloss.monai.overlap import DiceLoss
from segloss.shapes import Logits, Reduced, Target

__all__ = ["SoftDiceclDiceLoss", "SoftclDiceLoss"]


class OfSkeletons(SumOfTerms):
    """A loss with a `CenterlineDice` among its terms, which reads a skeleton of the target."""

    def forward(self, input: Logits, target: Target, skeleton: Tensor | None = None) -> Reduced:
        """The loss of a batch.

        Args:
            input: ``(b, c, *space)``.
            target: Labels ``(b, 1, *space)``, or memberships shaped like the input.
            skeleton: Of the target, for the scored classes or all channels, or class labels; such
                as `segloss.transforms.TubedSkeletond` makes with ``radius=0``: a hard one, found
                once. By default it is the target's soft skeleton, found at every call.
        """
        if skeleton is None:
            (term,) = (x for x in self.terms if isinstance(x, CenterlineDice))
            skeleton = term.soft_skeleton(input, target)
        return self.scored(input, target, skeleton=skeleton)


@final
class SoftclDiceLoss(OfSkeletons):
    """`monai.losses.SoftclDiceLoss`: from 0 to 1, of all classes as one, for each sample.

    Where a tube is wider than `iter_` erosions reach, it has no soft skeleton and no gradient here;
    on the CPU there is a warning. `segloss.CenterlineDiceLoss` tells of the cost, and scores each
    class by itself.

    Args:
        iter_: How often the prediction, and the target, is eroded to find its centreline: at least
            the largest radius of a tube, in voxels.
        smooth_nr: Added to the numerators of precision and recall.
        smooth_dr: Added to their denominators.
        smooth: Added to the sum of precision and recall; above 0.
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`.
        reduction: ``"mean"`` or ``"sum"`` over the samples, or ``"none"`` for ``(b,)``.

    Example:
        >>> label = torch.zeros(1, 1, 5, 6)
        >>> label[:, :, 2] = 1
        >>> found = torch.where(label == 1, 9.0, -9.0)
        >>> found[..., 3:] = -9.0
        >>> SoftclDiceLoss(sigmoid=True)(found, label)
        tensor(0.2728)
    """

    def __init__(
        self,
        iter_: int = 3,
        smooth_nr: float = 1.0,
        smooth_dr: float = 1.0,
        smooth: float = 1e-4,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        reduction: str = "mean",
    ) -> None:
        term = CenterlineDice(
            Channels(activation=activation_of(sigmoid, softmax, other_act)),
            iter_,
            smooth_nr,
            smooth_dr,
            smooth,
            background=include_background,
            reduction=reduction_of(reduction),
        )
        super().__init__((1.0, term))


@final
class SoftDiceclDiceLoss(OfSkeletons):
    """`monai.losses.SoftDiceclDiceLoss`: Dice and `SoftclDiceLoss`, in one pass; from 0 to 1.

    Args:
        iter_: See `SoftclDiceLoss`.
        alpha: The share of the centreline Dice, from 0 to 1; Dice has the rest.
        smooth_nr: See `SoftclDiceLoss`; and added to Dice's numerator.
        smooth_dr: See `SoftclDiceLoss`; and added to Dice's denominator.
        smooth: See `SoftclDiceLoss`.
        include_background: See `DiceLoss`.
        to_onehot_y: See `DiceLoss`.
        sigmoid: See `DiceLoss`.
        softmax: See `DiceLoss`.
        other_act: See `DiceLoss`.
        reduction: ``"mean"`` or ``"sum"``: of Dice over samples and classes, of the centreline Dice
            over samples.

    Example:
        >>> label = torch.zeros(1, 1, 5, 6)
        >>> label[:, :, 2] = 1
        >>> found = torch.where(label == 1, 9.0, -9.0)
        >>> found[..., 3:] = -9.0
        >>> SoftDiceclDiceLoss(sigmoid=True)(found, label)
        tensor(0.2865)
    """

    def __init__(
        self,
        iter_: int = 3,
        alpha: float = 0.5,
        smooth_nr: float = 1.0,
        smooth_dr: float = 1.0,
        smooth: float = 1e-4,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Activation | None = None,
        reduction: str = "mean",
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, got {alpha!r}")
        if str(reduction) == "none":
            raise ValueError(
                'reduction must be "mean" or "sum", got "none": Dice has a number for each sample '
                "and class, the centreline Dice one for each sample"
            )
        dice = DiceLoss(
            include_background,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
        )
        centerline = SoftclDiceLoss(
            iter_,
            smooth_nr,
            smooth_dr,
            smooth,
            include_background,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            reduction=reduction,
        )
        super().__init__(*dice.scaled("1 - alpha", 1 - alpha), *centerline.scaled("alpha", alpha))


@final
class CenterlineDice(Term):
    """Centreline Dice of all scored classes as one.

    Args:
        encoding: The channels.
        iterations: How often to erode.
        smooth_nr: Added to the numerators of precision and recall.
        smooth_dr: Added to their denominators.
        smooth: Added to their sum.
        **options: Those of `Term`.
    """

    compiles = False

    def __init__(
        self,
        encoding: Channels,
        iterations: int,
        smooth_nr: float,
        smooth_dr: float,
        smooth: float,
        **options: Unpack[TermOptions],
    ) -> None:
        super().__init__(encoding, **options)
        if not isinstance(iterations, int) or iterations < 0:
            raise ValueError(f"iter_ must be an integer from 0, got {iterations!r}")
        self.iterations = iterations
        self.smooth_nr = not_negative("smooth_nr", smooth_nr)
        self.smooth_dr = not_negative("smooth_dr", smooth_dr)
        self.smooth = not_negative("smooth", smooth)
        if not smooth:
            raise ValueError("smooth must be above 0: precision and recall may both be 0")

    @property
    def request(self) -> Request:
        return Request(("pred*skeleton", "skeleton"))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def soft_skeleton(self, input: Tensor, target: Tensor) -> Tensor:
        """The soft skeleton of the target, ``(b, c, *space)``, 0 for classes that do not count."""
        target = target.as_subclass(Tensor)
        b, c = input.shape[:2]
        hard = target.shape[1] < c
        skeletons = input.new_zeros(input.shape, dtype=torch.uint8 if hard else torch.float32)
        for sample in range(b):
            for node in range(self.skipped(c), c):
                true = target[sample, 0] == node if hard else target[sample, node]
                (skeletons[sample, node],) = soft_skeleton(true.float()[None], self.iterations)
        return skeletons

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        first = self.skipped(encoded.nodes)
        tubes = 1 if isinstance(encoded.activation, Softmax) else first  # a background is wide
        warn_of_wide_tubes(encoded, space, self.iterations, tubes)
        return soft_skeleton_sums(encoded, space, self.iterations, first)

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        total = {name: x.sum(1) for name, x in regions.items()}
        found, right = total["pred_skeleton"], total["pred_skeleton*true"]
        known, covered = total["skeleton"], total["pred*skeleton"]
        precision = (right + self.smooth_nr) / (found + self.smooth_dr)
        recall = (covered + self.smooth_nr) / (known + self.smooth_dr)
        return 1 - 2 * precision * recall / (precision + recall + self.smooth)

    def finished(self, value: Tensor, input: Tensor, target: Tensor) -> Reduced:
        return reduced(value, self.reduction)
