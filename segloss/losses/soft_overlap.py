"""Overlap whose best prediction is the target itself, however soft: squares and metrics."""

from typing import final

from typing_extensions import Unpack

from segloss.arguments import not_negative
from segloss.encoding import Encoding, Multiclass
from segloss.losses.base import RegionOptions, ScoreLoss, Sums, ratio
from segloss.losses.overlap import dice, jaccard, tversky
from segloss.shapes import Scores

__all__ = [
    "CompatibleTverskyLoss",
    "DicePlusPlusLoss",
    "DiceSemimetricLoss",
    "JaccardMetricLoss",
    "SquaredDiceLoss",
    "dice_plus_plus",
    "shared",
    "squared",
]

_SHARED = ("pred", "true", "error^1")


def squared(sums: Sums) -> Sums:
    """The sums with which `segloss.dice` has squares in its denominator.

    Args:
        sums: ``overlap``, ``pred_squared`` and ``true_squared``, each ``(g, k)``.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> dice(squared({"overlap": one, "pred_squared": one, "true_squared": one}))
        tensor([[0.]])
    """
    return {
        "overlap": sums["overlap"],
        "pred": sums["pred_squared"],
        "true": sums["true_squared"],
    }


def shared(sums: Sums) -> Sums:
    r"""The sums with which `segloss.dice` and the like are 0 if and only if p = y.

    They overlap by what prediction and target share, :math:`\sum w \min(p, y) = (\sum w p + \sum w
    y - \sum w |p - y|) / 2`, and not by their product, of which even y has no more than y².

    Args:
        sums: ``pred``, ``true`` and ``error^1``, each ``(g, k)``.

    Example:
        >>> import torch
        >>> half = torch.tensor([[0.5]])  # a voxel half of the class, predicted so
        >>> dice(shared({"pred": half, "true": half, "error^1": 0 * half}))
        tensor([[0.]])
    """
    both = sums["pred"] + sums["true"]
    return {**sums, "overlap": (both - sums["error^1"]) / 2}


def dice_plus_plus(
    sums: Sums, gamma: float = 2.0, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5
) -> Scores:
    r"""One minus a Dice coefficient whose errors are raised to a power.

    .. math:: 1 - \frac{2 \sum w p y + \epsilon_n}
        {2 \sum w p y + \sum w |p - y|^\gamma + \epsilon_d}

    For hard targets :math:`|p - y|^\gamma` is the published :math:`(y (1 - p))^\gamma + ((1 - y)
    p)^\gamma`; for soft ones it is our reading, and 0 only at p = y.

    Args:
        sums: ``overlap`` and ``error^γ``, for example ``error^2.0``, each ``(g, k)``.
        gamma: γ, at least 1, which for hard targets is Dice.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> dice_plus_plus({"overlap": torch.ones(1, 1), "error^2.0": torch.full((1, 1), 2.0)})
        tensor([[0.5000]])
    """
    both = 2 * sums["overlap"]
    return 1 - ratio(both + smooth_nr, both + sums[_error(gamma)] + smooth_dr)


@final
class SquaredDiceLoss(ScoreLoss):
    """`segloss.dice` with Σ w p² and Σ w y² for the sizes: from 0 to 1.

    Its optimum is the target also where that is soft. Where p is nearly 0 so is its gradient, which
    makes it slow to find small structures. Takes the options of `segloss.RegionLoss`.

    References:
        Milletari et al., "V-Net", 3DV 2016. MONAI's ``squared_pred=True``.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> SquaredDiceLoss(reduction="none")(logits, labels)
        tensor([[0.2000, 1.0000]])
    """

    needs = ("overlap", "pred_squared", "true_squared")

    def score(self, sums: Sums) -> Scores:
        return dice(squared(sums), self.smooth_nr, self.smooth_dr)


@final
class DiceSemimetricLoss(ScoreLoss):
    """`segloss.dice` for soft targets: from 0, where p = y and nowhere else, to 1.

    Equal to `segloss.DiceLoss` where the target is hard; that one prefers p = 1 to p = y where y is
    more than a half. For distillation, mixed images, several raters, resampled one-hot targets.
    Takes the options of `segloss.RegionLoss`.

    References:
        Wang et al., "Dice semimetric losses: optimizing the Dice score with soft labels", MICCAI
        2023.

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.5)
        >>> DiceSemimetricLoss()(logits, target)
        tensor(0.)
    """

    needs = _SHARED

    def score(self, sums: Sums) -> Scores:
        return dice(shared(sums), self.smooth_nr, self.smooth_dr)


@final
class JaccardMetricLoss(ScoreLoss):
    """`segloss.jaccard` for soft targets: from 0, where p = y and nowhere else, to 1.

    Equal to `segloss.JaccardLoss` where the target is hard. Takes the options of
    `segloss.RegionLoss`.

    References:
        Wang et al., "Jaccard metric losses: optimizing the Jaccard index with soft labels", NeurIPS
        2023.

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.5)
        >>> JaccardMetricLoss()(logits, target)
        tensor(0.)
    """

    needs = _SHARED

    def score(self, sums: Sums) -> Scores:
        return jaccard(shared(sums), self.smooth_nr, self.smooth_dr)


@final
class CompatibleTverskyLoss(ScoreLoss):
    """`segloss.tversky` for soft targets: from 0, where p = y and nowhere else, to 1.

    Equal to `segloss.TverskyLoss` where the target is hard.

    Args:
        encoding: What the channels mean.
        alpha: Cost of a false positive.
        beta: Cost of a false negative.
        **options: Those of `segloss.RegionLoss`.

    References:
        Wang et al., "Dice semimetric losses: optimizing the Dice score with soft labels", MICCAI
        2023, and its code for this form; the default costs are those of `segloss.TverskyLoss`.

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.5)
        >>> CompatibleTverskyLoss()(logits, target)
        tensor(0.)
    """

    needs = _SHARED

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.alpha = not_negative("alpha", alpha)
        self.beta = not_negative("beta", beta)

    def score(self, sums: Sums) -> Scores:
        return tversky(shared(sums), self.alpha, self.beta, self.smooth_nr, self.smooth_dr)


@final
class DicePlusPlusLoss(ScoreLoss):
    """`segloss.dice_plus_plus` of logits: from 0 to 1.

    Small errors hardly count, so that it does not drive probabilities to 0 and 1 as Dice does; the
    larger γ, the better calibrated and the slower to finish.

    Args:
        encoding: What the channels mean.
        gamma: γ, at least 1.
        **options: Those of `segloss.RegionLoss`.

    References:
        Yeung et al., "Calibrating the Dice loss to handle neural network overconfidence for
        biomedical image segmentation", Journal of Digital Imaging 2023.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> DicePlusPlusLoss(reduction="none")(logits, labels)
        tensor([[0.2000, 1.0000]])
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        gamma: float = 2.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.gamma = not_negative("gamma", gamma)
        if gamma < 1:
            raise ValueError(
                f"gamma must be at least 1, or slopes are infinite where p = y, got {gamma!r}"
            )

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("overlap", _error(self.gamma))

    def score(self, sums: Sums) -> Scores:
        return dice_plus_plus(sums, self.gamma, self.smooth_nr, self.smooth_dr)


def _error(gamma: float) -> str:
    return f"error^{float(gamma)}"
