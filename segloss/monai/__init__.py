"""MONAI's losses by MONAI's names and arguments, on segloss's engine; and maps for its trainers.

Import a loss from here instead of from ``monai.losses``, and it has the same value and gradient,
takes less memory, and lacks the defects; the few deliberate differences are listed in the
documentation. With no past to keep, use `segloss`'s own losses, whose options exclude misuse:
`WithMaps` and `PrepareBatchMaps` bring them their maps. Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segloss.monai.centerline import SoftclDiceLoss, SoftDiceclDiceLoss
    from segloss.monai.contingency import MCCLoss
    from segloss.monai.cross_entropy import DiceCELoss
    from segloss.monai.focal import DiceFocalLoss, FocalLoss, GeneralizedDiceFocalLoss
    from segloss.monai.maps import PrepareBatchMaps, WithMaps
    from segloss.monai.overlap import DiceLoss, GeneralizedDiceLoss, MaskedDiceLoss, TverskyLoss
    from segloss.monai.supervision import DeepSupervisionLoss
    from segloss.monai.surface import BoundaryLoss, HausdorffDTLoss, LogHausdorffDTLoss
    from segloss.monai.wasserstein import GeneralizedWassersteinDiceLoss

_HOME = {
    "segloss.monai.centerline": ("SoftDiceclDiceLoss", "SoftclDiceLoss"),
    "segloss.monai.contingency": ("MCCLoss",),
    "segloss.monai.cross_entropy": ("DiceCELoss",),
    "segloss.monai.focal": ("DiceFocalLoss", "FocalLoss", "GeneralizedDiceFocalLoss"),
    "segloss.monai.maps": ("PrepareBatchMaps", "WithMaps"),
    "segloss.monai.overlap": (
        "DiceLoss",
        "GeneralizedDiceLoss",
        "MaskedDiceLoss",
        "TverskyLoss",
    ),
    "segloss.monai.supervision": ("DeepSupervisionLoss",),
    "segloss.monai.surface": ("BoundaryLoss", "HausdorffDTLoss", "LogHausdorffDTLoss"),
    "segloss.monai.wasserstein": ("GeneralizedWassersteinDiceLoss",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

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
    "PrepareBatchMaps",
    "SoftDiceclDiceLoss",
    "SoftclDiceLoss",
    "TverskyLoss",
    "WithMaps",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segloss.monai' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
