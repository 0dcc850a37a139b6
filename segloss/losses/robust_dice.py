"""Overlap that does not insist on wrong labels: noise-robust Dice."""

from typing import final

from typing_extensions import Unpack

from segloss.arguments import number
from segloss.encoding import Encoding, Multiclass
from segloss.losses.base import RegionOptions, ScoreLoss, Sums, ratio
from segloss.shapes import Scores

__all__ = ["NoiseRobustDiceLoss", "noise_robust_dice"]


def noise_robust_dice(
    sums: Sums,
    gamma: float = 1.5,
    squared_denominator: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Scores:
    r"""Errors to the power γ over the sizes of prediction and target.

    .. math::

        1 - \frac{D - \sum w |p - y|^\gamma + \epsilon_n}{D + \epsilon_d}, \quad
        D = \sum w p + \sum w y

    which is :math:`\sum w |p - y|^\gamma / (D + \epsilon)` for equal ε. γ = 1 is Dice where the
    target is hard.

    Args:
        sums: ``error^γ``, for example ``error^1.5``, with ``pred`` and ``true``, or with
            ``pred_squared`` and ``true_squared``; each ``(g, k)``.
        gamma: γ, from 1, mean absolute error, to 2, mean squared error.
        squared_denominator: Take D = Σ w p² + Σ w y², with which γ = 2 is squared Dice.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1. With the squared denominator and γ < 2 there is no upper bound.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> noise_robust_dice({"error^1.5": one, "pred": one, "true": one})
        tensor([[0.5000]])
    """
    power = "_squared" if squared_denominator else ""
    size = sums["pred" + power] + sums["true" + power]
    return 1 - ratio(size - sums[_error(gamma)] + smooth_nr, size + smooth_dr)


@final
class NoiseRobustDiceLoss(ScoreLoss):
    """`segloss.noise_robust_dice` of logits: from 0 (the target, nothing else) to 1.

    Between the robustness of mean absolute error (γ = 1) and the speed of mean squared error (γ =
    2). The authors' group sums over the batch: ``group="batch"``.

    Args:
        encoding: What the channels mean.
        gamma: γ, from 1 to 2.
        squared_denominator: Squares in the denominator. They make a faint prediction expensive:
            the loss may pass 1, without a bound for an absent class. Those who implement the
            paper report this form, its authors' later code has the other, our default.
        **options: Those of `segloss.RegionLoss`.

    References:
        Wang et al., "A noise-robust framework for automatic segmentation of COVID-19 pneumonia
        lesions from CT images", IEEE TMI 2020. We have read code, not the paper's equations.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> NoiseRobustDiceLoss(reduction="none")(logits, labels)
        tensor([[0.2357, 0.7071]])
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        gamma: float = 1.5,
        squared_denominator: bool = False,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        if not 1 <= number("gamma", gamma) <= 2:
            raise ValueError(
                "gamma must lie between 1 (mean absolute error) and 2 (mean squared error), or "
                f"gradients are infinite or robustness is lost, got {gamma!r}"
            )
        self.gamma, self.squared_denominator = float(gamma), squared_denominator

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        squared = ("pred_squared", "true_squared")
        return (_error(self.gamma), *(squared if self.squared_denominator else ("pred", "true")))

    def score(self, sums: Sums) -> Scores:
        return noise_robust_dice(
            sums, self.gamma, self.squared_denominator, self.smooth_nr, self.smooth_dr
        )


def _error(gamma: float) -> str:
    return f"error^{float(gamma)}"
