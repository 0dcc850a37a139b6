"""Compounds of losses that belong together."""

from typing_extensions import Unpack

from segloss.compose import CompoundLoss
from segloss.encoding import Encoding, Multiclass
from segloss.losses.base import VoxelOptions
from segloss.losses.relative import NormalizedCrossEntropyLoss
from segloss.losses.robust import ReverseCrossEntropyLoss

__all__ = ["active_passive"]


def active_passive(
    encoding: Encoding = Multiclass(),
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    **options: Unpack[VoxelOptions],
) -> CompoundLoss:
    """α times normalised cross entropy, which learns, plus β times reverse, which learns on.

    Args:
        encoding: What the channels mean: `segloss.Multiclass` or `segloss.Multilabel`.
        alpha: α. The paper has (α, β) = (1, 1) for ten classes of small pictures and (10, 0.1) for
            a hundred; its code (1, 10) for digits.
        beta: β.
        **options: Those of `segloss.VoxelLoss`.

    Returns:
        ``alpha * NormalizedCrossEntropyLoss(…) + beta * ReverseCrossEntropyLoss(…)``.

    References:
        Ma et al., "Normalized loss functions for deep learning with noisy labels", ICML 2020.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> active_passive(alpha=2.0, beta=0.1)(logits, labels)
        tensor(1.1908)
    """
    active = NormalizedCrossEntropyLoss(encoding, **options)
    return alpha * active + beta * ReverseCrossEntropyLoss(encoding, **options)
