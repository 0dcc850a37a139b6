"""Yes and no questions with few yeses: easy and suspect noes cost less, or nothing."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import not_negative, number
from segloss.encoding import Encoding, Multilabel
from segloss.engine.sums import Request
from segloss.engine.voxel import Focal, Phi, VoxelSum
from segloss.losses.base import VoxelLoss, VoxelOptions

__all__ = ["AsymmetricLoss"]

_LEAST_SHIFT = 0.001


@dataclass(frozen=True)
class ShiftedFocal:
    """φ(m) = -u^γ log(1 - u), u = max(1 - e^-m - s, 0): the focal loss of a lower error.

    The shift s must be at least 0.001; without it, it is `Focal`.
    """

    gamma: float
    shift: float

    @property
    def name(self) -> str:
        return f"shifted focal {self.gamma} {self.shift}"

    def value(self, m: Tensor) -> Tensor:
        wrong = self._wrong(m)
        return -wrong.pow(self.gamma) * torch.log1p(-wrong)

    def slope(self, m: Tensor) -> Tensor:
        wrong = self._wrong(m)
        free = wrong == 0
        per_wrong = -torch.log1p(-wrong) / wrong.masked_fill(free, 1)
        steepness = wrong.pow(self.gamma) * (self.gamma * per_wrong + 1 / (1 - wrong))
        return (torch.exp(-m) * steepness).masked_fill(free, 0)

    def _wrong(self, m: Tensor) -> Tensor:
        return (-torch.expm1(-m) - self.shift).clamp(min=0)


@final
class AsymmetricLoss(VoxelLoss):
    r"""The mean over the entries of two focal losses, one of a yes, one of a no: from 0.

    .. math::

        -y (1 - p)^{\gamma_+} \log p - (1 - y) u^{\gamma_-} \log (1 - u),
        \quad u = \max(p - s, 0)

    for regions that overlap, of which few voxels are part: noes are many and mostly easy. Those with
    p < s do not pull at all. Nor do those with p near 1, which are taken for missing labels: a
    network that starts with such predictions does not leave them. The mean runs over the entries that
    count; the authors add up. Their code can hold the powers fixed in the gradient, which we do not.

    Args:
        encoding: `segloss.Multilabel`. For classes that exclude each other only the yes is asked
            for, and this is `segloss.FocalLoss`.
        gamma_yes: γ₊.
        gamma_no: γ₋.
        shift: s, below 1; 0, or at least 0.001.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021, eq. 4 to 7. The
        defaults are those of the authors' code.

    Example:
        >>> import torch
        >>> from segloss import Multilabel
        >>> loss = AsymmetricLoss(Multilabel(), gamma_yes=0.0, gamma_no=1.0, shift=0.25)
        >>> logits = torch.zeros(1, 1, 2, 2)
        >>> loss(logits, torch.ones(1, 1, 2, 2)), loss(logits, torch.zeros(1, 1, 2, 2))
        (tensor(0.6931), tensor(0.0719))
    """

    takes = (Multilabel,)

    def __init__(
        self,
        encoding: Encoding = Multilabel(),
        *,
        gamma_yes: float = 1.0,
        gamma_no: float = 4.0,
        shift: float = 0.05,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.gamma_yes = not_negative("gamma_yes", gamma_yes)
        self.gamma_no = not_negative("gamma_no", gamma_no)
        if number("shift", shift) and not _LEAST_SHIFT <= shift < 1:
            raise ValueError(
                f"shift must be 0, or lie between {_LEAST_SHIFT}, where single precision sees it, and "
                f"1: the probability up to which a no costs nothing, got {shift!r}"
            )
        self.shift = float(shift)

    @property
    def phi(self) -> Phi:
        return Focal(self.gamma_yes)

    @property
    def request(self) -> Request:
        no = ShiftedFocal(self.gamma_no, self.shift) if self.shift else Focal(self.gamma_no)
        return Request(voxels=(VoxelSum(self.phi, no=no),))
