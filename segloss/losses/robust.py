"""Losses of single voxels that do not insist on wrong labels: functions of their cross entropy.

Cross entropy pulls hardest at the voxels it finds most wrong. Where these are the mislabelled ones,
a loss must let go of them instead: its slope in the cross entropy m falls, as e^-m or a power of it.
The price is that voxels wrong for any other reason are let go of too: a rare class may never be
learned, and training starts slowly. Warm up with cross entropy, or add an overlap loss.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative, number
from segloss.encoding import Encoding, Multiclass
from segloss.engine.voxel import Phi
from segloss.losses.base import VoxelLoss, VoxelOptions

__all__ = [
    "CompSumLoss",
    "GeneralizedCrossEntropyLoss",
    "ReverseCrossEntropyLoss",
    "SymmetricCrossEntropyLoss",
]

# Where e^x is continued by its tangent: the slope is still finite in single precision.
_STEEPEST = 60.0


@dataclass(frozen=True)
class CompSum:
    """φ(m) = (e^((1-τ)m) - 1) / (1 - τ), which is m at τ = 1; constant from m = ``end`` on.

    Args:
        tau: τ.
        end: Where to stop; infinite for nowhere.
    """

    tau: float
    end: float = math.inf

    @property
    def name(self) -> str:
        return f"comp-sum {self.tau} {self.end}"

    def value(self, m: Tensor) -> Tensor:
        rate, m = 1 - self.tau, m.clamp(max=self.end)
        if rate == 0:
            return m
        growth = rate * m
        steep = growth.clamp(max=_STEEPEST)
        return (torch.expm1(steep) + (growth - steep) * math.exp(_STEEPEST)) / rate

    def slope(self, m: Tensor) -> Tensor:
        return ((1 - self.tau) * m).clamp(max=_STEEPEST).exp().masked_fill(m >= self.end, 0)


@dataclass(frozen=True)
class Symmetric:
    """φ(m) = α m + β a, with a = 1 - e^-m the probability of being wrong."""

    alpha: float
    beta: float

    @property
    def name(self) -> str:
        return f"symmetric {self.alpha} {self.beta}"

    def value(self, m: Tensor) -> Tensor:
        return self.alpha * m - self.beta * torch.expm1(-m)

    def slope(self, m: Tensor) -> Tensor:
        return self.alpha + self.beta * torch.exp(-m)


@final
class GeneralizedCrossEntropyLoss(VoxelLoss):
    """The mean of (1 - p^q) / q, with p the probability of the true class: from 0 to 1/q.

    Between cross entropy (q = 0, in the limit) and mean absolute error (q = 1). A voxel pulls by p^q
    times as much as with cross entropy, one that is wrong for certain not at all.

    Args:
        encoding: What the channels mean.
        q: From 0 to 1: how soon the loss lets go of a voxel.
        truncate: k; voxels with p ≤ k cost the constant (1 - k^q) / q, and pull not at all. A
            network that starts with all p ≤ k never learns: train it without, first. None for
            no such k. The paper's is 0.5; it alternates training with choosing the voxels to
            leave out, which we do not.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Zhang and Sabuncu, "Generalized cross entropy loss for training deep neural networks with
        noisy labels", NeurIPS 2018.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> GeneralizedCrossEntropyLoss(q=1.0)(logits, labels)
        tensor(0.5000)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        q: float = 0.7,
        truncate: float | None = None,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        if not 0 <= number("q", q) <= 1:
            raise ValueError(
                f"q must lie between 0 (cross entropy) and 1 (mean absolute error), got {q!r}"
            )
        if truncate is not None and not 0 < number("truncate", truncate) < 1:
            raise ValueError(
                "truncate must be a probability between 0 and 1, below which voxels do not pull, "
                f"or None, got {truncate!r}"
            )
        self.q, self.truncate = float(q), truncate

    @property
    def phi(self) -> Phi:
        return CompSum(1 + self.q, math.inf if self.truncate is None else -math.log(self.truncate))


@final
class CompSumLoss(VoxelLoss):
    r"""The mean of a comp-sum loss, one parameter from the exponential to the absolute error.

    .. math:: \frac{p^{\tau - 1} - 1}{1 - \tau}

    from 0, with p the probability of the true class: τ = 0 is the sum of exponentials, e^(f_k - f_y)
    over the other classes k; τ = 1 cross entropy; between 1 and 2 generalised cross entropy with q =
    τ - 1; τ = 2 mean absolute error (half of the convention that counts all classes). Only τ > 1
    makes it robust. Below 1 it grows exponentially in the cross entropy m; from (1 - τ) m = 60 on it
    goes straight on along its tangent, to stay finite, and half-precision gradients overflow sooner.

    Args:
        encoding: What the channels mean.
        tau: τ, at least 0.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Mao, Mohri and Zhong, "Cross-entropy loss functions: theoretical analysis and applications",
        ICML 2023.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> [round(CompSumLoss(tau=tau)(logits, labels).item(), 4) for tau in (0.0, 1.0, 2.0)]
        [2.0, 1.0986, 0.6667]
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        tau: float = 1.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.tau = not_negative("tau", tau)

    @property
    def phi(self) -> Phi:
        return CompSum(self.tau)


@final
class ReverseCrossEntropyLoss(VoxelLoss):
    """The mean of -A (1 - p), with p the probability of the true class: from 0 to -A.

    Cross entropy with prediction and target changing places, A < 0 standing for the log of the
    target's zeros: mean absolute error but for a factor.

    Args:
        encoding: What the channels mean.
        log_zero: A; by default log 1e-4, as in the active-passive losses. -4 and -6 are common too.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Wang et al., "Symmetric cross entropy for robust learning with noisy labels", ICCV 2019.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> ReverseCrossEntropyLoss(log_zero=-4.0)(logits, labels)
        tensor(2.)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        log_zero: float = math.log(1e-4),
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.log_zero = _below_zero("log_zero", log_zero)

    @property
    def phi(self) -> Phi:
        return Symmetric(0.0, -self.log_zero)


@final
class SymmetricCrossEntropyLoss(VoxelLoss):
    """α times cross entropy, to learn, plus β times reverse cross entropy, to be robust: from 0.

    Args:
        encoding: What the channels mean.
        alpha: α. Used with β = 1: 0.1 for ten classes of small pictures, 6 with β = 0.1 for a
            hundred; nothing is known for volumes.
        beta: β.
        log_zero: A of `segloss.ReverseCrossEntropyLoss`.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Wang et al., "Symmetric cross entropy for robust learning with noisy labels", ICCV 2019.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> SymmetricCrossEntropyLoss(alpha=1.0, beta=0.5, log_zero=-4.0)(logits, labels)
        tensor(1.6931)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = math.log(1e-4),
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.alpha = not_negative("alpha", alpha)
        self.beta = not_negative("beta", beta)
        self.log_zero = _below_zero("log_zero", log_zero)

    @property
    def phi(self) -> Phi:
        return Symmetric(self.alpha, -self.log_zero * self.beta)


def _below_zero(name: str, value: float) -> float:
    if number(name, value) >= 0:
        raise ValueError(
            f"{name} stands for the log of 0 and must be a finite number below 0, got {value!r}"
        )
    return float(value)
