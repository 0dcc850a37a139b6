"""Losses of single voxels, averaged: cross entropy, focal loss."""

from typing import final

from typing_extensions import Unpack

from segloss.arguments import not_negative
from segloss.encoding import Encoding, Multiclass
from segloss.engine.voxel import CrossEntropy, Focal
from segloss.losses.base import VoxelLoss, VoxelOptions

__all__ = ["CrossEntropyLoss", "FocalLoss"]


@final
class CrossEntropyLoss(VoxelLoss):
    """The mean of -log p(true class): from 0.

    With `segloss.Multilabel` it is the binary cross entropy of every entry. As in PyTorch the mean
    is weighted by ``weight=``, by class, and leaves ignored voxels out.

    Takes the options of `segloss.VoxelLoss`.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> CrossEntropyLoss()(logits, labels)
        tensor(0.6931)
    """

    @property
    def phi(self) -> CrossEntropy:
        return CrossEntropy()


@final
class FocalLoss(VoxelLoss):
    """The mean of (1 - p)^γ times -log p, with p the probability of the true class: from 0.

    The softmax form with `segloss.Multiclass`, the one-against-the-rest form with
    `segloss.Multilabel`: different losses. Finite for every γ ≥ 0, in value and gradient, at any
    logits. MONAI divides the softmax form by the number of channels too: its value is ours / c.

    Args:
        encoding: What the channels mean.
        gamma: γ; 0 is cross entropy.
        **options: Those of `segloss.VoxelLoss`; ``class_weight`` is the paper's α.

    References:
        Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 4 and 5.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> FocalLoss(gamma=1)(logits, labels)
        tensor(0.3466)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        gamma: float = 2.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.gamma = not_negative("gamma", gamma)

    @property
    def phi(self) -> Focal:
        return Focal(self.gamma)
