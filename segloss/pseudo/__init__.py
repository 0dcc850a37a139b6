"""Learning from labels that nobody drew: teachers, pseudo-labels, and the losses that trust them.

Names are imported on first use, as those of `segloss` are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segloss.pseudo.adawac import AdaWACLoss
    from segloss.pseudo.boundaries import label_boundary, sobel_boundary
    from segloss.pseudo.class_thresholds import (
        ClassThresholds,
        FlexMatchThreshold,
        FreeMatchThreshold,
    )
    from segloss.pseudo.confidence import ConfidenceWeightedLoss, CWBASSLoss, PseudoBoundaryLoss
    from segloss.pseudo.consistency import (
        ConsistencyLoss,
        UncertaintyAwareConsistencyLoss,
        monte_carlo_entropy,
    )
    from segloss.pseudo.hardness import HardnessBranch, HardnessWeightedLoss
    from segloss.pseudo.labels import PseudoLabels
    from segloss.pseudo.monai import (
        EMATeacherHandler,
        PairedBatches,
        SemiSupervisedLoss,
        SemiSupervisedPrepareBatch,
        SemiSupervisedTarget,
    )
    from segloss.pseudo.ramps import SigmoidRamp
    from segloss.pseudo.rules import ThresholdRule
    from segloss.pseudo.supervision import CrossPseudoSupervisionLoss
    from segloss.pseudo.teacher import EMATeacher
    from segloss.pseudo.thresholds import (
        DynamicThreshold,
        EntropyPercentile,
        FixedThreshold,
        SoftMatchWeight,
    )

_HOME = {
    "segloss.pseudo.boundaries": ("label_boundary", "sobel_boundary"),
    "segloss.pseudo.class_thresholds": (
        "ClassThresholds",
        "FlexMatchThreshold",
        "FreeMatchThreshold",
    ),
    "segloss.pseudo.confidence": ("CWBASSLoss", "ConfidenceWeightedLoss", "PseudoBoundaryLoss"),
    "segloss.pseudo.labels": ("PseudoLabels",),
    "segloss.pseudo.ramps": ("SigmoidRamp",),
    "segloss.pseudo.rules": ("ThresholdRule",),
    "segloss.pseudo.teacher": ("EMATeacher",),
    "segloss.pseudo.thresholds": (
        "DynamicThreshold",
        "EntropyPercentile",
        "FixedThreshold",
        "SoftMatchWeight",
    ),
    "segloss.pseudo.adawac": ("AdaWACLoss",),
    "segloss.pseudo.consistency": (
        "ConsistencyLoss",
        "UncertaintyAwareConsistencyLoss",
        "monte_carlo_entropy",
    ),
    "segloss.pseudo.hardness": (
        "HardnessBranch",
        "HardnessWeightedLoss",
    ),
    "segloss.pseudo.supervision": ("CrossPseudoSupervisionLoss",),
    "segloss.pseudo.monai": (
        "EMATeacherHandler",
        "PairedBatches",
        "SemiSupervisedLoss",
        "SemiSupervisedPrepareBatch",
        "SemiSupervisedTarget",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AdaWACLoss",
    "CWBASSLoss",
    "ClassThresholds",
    "ConfidenceWeightedLoss",
    "ConsistencyLoss",
    "CrossPseudoSupervisionLoss",
    "DynamicThreshold",
    "EMATeacher",
    "EMATeacherHandler",
    "EntropyPercentile",
    "FixedThreshold",
    "FlexMatchThreshold",
    "FreeMatchThreshold",
    "HardnessBranch",
    "HardnessWeightedLoss",
    "PairedBatches",
    "PseudoBoundaryLoss",
    "PseudoLabels",
    "SemiSupervisedLoss",
    "SemiSupervisedPrepareBatch",
    "SemiSupervisedTarget",
    "SigmoidRamp",
    "SoftMatchWeight",
    "ThresholdRule",
    "UncertaintyAwareConsistencyLoss",
    "label_boundary",
    "monte_carlo_entropy",
    "sobel_boundary",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segloss.pseudo' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
