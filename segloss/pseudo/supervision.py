"""Two networks that teach each other."""

from typing import final

import torch
from torch import Tensor, nn

from segloss.arguments import fraction
from segloss.encoding import Multiclass
from segloss.engine.groups import Group
from segloss.losses.voxelwise import CrossEntropyLoss
from segloss.pseudo.consistency import not_void
from segloss.shapes import Logits, Map, Reduced

__all__ = ["CrossPseudoSupervisionLoss"]


@final
class CrossPseudoSupervisionLoss(nn.Module):
    r"""The cross entropy of each network with the classes that the other finds likeliest: from 0.

    .. math:: CE(z_1, \arg\max z_2) + CE(z_2, \arg\max z_1)

    The labels carry no gradient: each network learns from the other, which must have begun from
    other weights. Add it, times 1.5 (VOC) or 6 (Cityscapes) as the authors do, to the supervised
    losses of both; they apply it to labelled images too.

    Args:
        encoding: A softmax. The labels are of all classes, so ``background`` and ``ignore`` are
            left at their defaults; pass ``void``.
        threshold: The other network's probability from which a voxel counts, 0 to 1; the mean runs
            over those that do. The authors have none, which is 0.
        group: The means run over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.

    References:
        Chen et al., "Semi-supervised semantic segmentation with cross pseudo supervision",
        CVPR 2021.

    Example:
        >>> CrossPseudoSupervisionLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
        tensor(1.3863)
    """

    def __init__(
        self,
        encoding: Multiclass = Multiclass(),
        *,
        threshold: float = 0.0,
        group: Group = "batch",
    ) -> None:
        super().__init__()
        if encoding != Multiclass():
            raise ValueError(
                f"encoding must be Multiclass(), got {encoding!r}: the networks name the classes "
                "themselves, all of them; say with void= which voxels do not count"
            )
        self.threshold = fraction("threshold", threshold)
        self.cross_entropy = CrossEntropyLoss(encoding, group=group)

    def forward(self, first: Logits, second: Tensor, *, void: Map | None = None) -> Reduced:
        """The loss of both networks on one batch, in float32 or wider.

        Args:
            first: Logits of the one, ``(b, c, *space)``.
            second: Logits of the other, the same shape.
            void: ``(b, *space)`` bool; the voxels that do not count. If none does, the loss is 0.
        """
        if first.shape != second.shape:
            raise ValueError(
                f"second has shape {tuple(second.shape)}, expected that of first, "
                f"{tuple(first.shape)}"
            )
        counts = None if void is None else not_void(void, first)
        return self._taught(first, second, counts) + self._taught(second, first, counts)

    def extra_repr(self) -> str:
        """The threshold."""
        return f"threshold={self.threshold}"

    def _taught(self, student: Tensor, teacher: Tensor, counts: Map | None) -> Tensor:
        teacher = teacher.detach()
        if self.threshold > 0:
            exact = teacher.to(torch.promote_types(teacher.dtype, torch.float32))
            sure = (exact.amax(1) - exact.logsumexp(1)).exp() >= self.threshold
            counts = sure if counts is None else counts & sure
        weight = {} if counts is None else {"weight": counts}
        value: Tensor = self.cross_entropy(student, teacher.argmax(1), **weight)
        return value
