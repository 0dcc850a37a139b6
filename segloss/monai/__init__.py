"""MONAI's losses by MONAI's names and arguments, on segloss's engine.

Import a loss from here instead of from ``monai.losses``, and it has the same value and gradient,
takes less memory, and lacks the defects; the few deliberate differences are listed in the
documentation. With no past to keep, use `segloss`'s own losses, whose options exclude misuse.
"""

from segloss.monai.centerline import SoftclDiceLoss, SoftDiceclDiceLoss
from segloss.monai.contingency import MCCLoss
from segloss.monai.cross_entropy import DiceCELoss
from segloss.monai.focal import DiceFocalLoss, FocalLoss, GeneralizedDiceFocalLoss
from segloss.monai.overlap import DiceLoss, GeneralizedDiceLoss, MaskedDiceLoss, TverskyLoss
from segloss.monai.supervision import DeepSupervisionLoss
from segloss.monai.surface import BoundaryLoss, HausdorffDTLoss, LogHausdorffDTLoss
from segloss.monai.wasserstein import GeneralizedWassersteinDiceLoss

__all__ = [
    "BoundaryLoss",
    "DeepSupervisionLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "GeneralizedWassersteinDiceLoss",
    "HausdorffDTLoss",
    "LogHausdorffDTLoss",
    "MCCLoss",
    "MaskedDiceLoss",
    "SoftDiceclDiceLoss",
    "SoftclDiceLoss",
    "TverskyLoss",
]
