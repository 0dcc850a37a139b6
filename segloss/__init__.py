"""Segmentation losses for MONAI and nnU-Net, and the load-time target maps that feed them.

Names are imported on first use, so that `segloss.transforms` and the command line, which need no
PyTorch, do not pay for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segloss.balance import GradientNormBalance, UncertaintyWeighting
    from segloss.catalogue import list_losses
    from segloss.compose import CompoundLoss, DeepSupervisionLoss
    from segloss.config import build
    from segloss.encoding import Multiclass, Multilabel
    from segloss.engine.backend import backend
    from segloss.hierarchy.activations import (
        ConditionalSigmoid,
        LeafSoftmax,
        MaxConstraint,
        MultiLevelActivation,
        OrderedLevels,
        TreeActivation,
    )
    from segloss.hierarchy.encoding import Tree
    from segloss.hierarchy.label_sets import LabelHeads, LabelSets
    from segloss.hierarchy.label_space import LabelSpace
    from segloss.hierarchy.levels import MultiLevelLoss
    from segloss.hierarchy.losses import (
        GeneralizedWassersteinDiceLoss,
        HierarchicalCrossEntropyLoss,
        HierarchicalDiceCELoss,
    )
    from segloss.hierarchy.partial import ExclusionLoss, NullBCELoss
    from segloss.hierarchy.sigmoids import MaxConstraintLoss, TreeMinLoss
    from segloss.hierarchy.thresholds import LevelThresholds
    from segloss.hierarchy.triplet import TreeTripletLoss
    from segloss.label_tree import LabelTree
    from segloss.losses.adjusted import (
        LDAMLoss,
        LogitAdjustedCrossEntropyLoss,
        VectorScalingLoss,
    )
    from segloss.losses.asymmetric import AsymmetricLoss
    from segloss.losses.base import Loss, RegionLoss, VoxelLoss
    from segloss.losses.boundary_overlap import BoundaryDoULoss, boundary_dou
    from segloss.losses.calibration import CalibrationErrorLoss, calibration_error
    from segloss.losses.centerline import (
        CenterlineDiceLoss,
        SkeletonRecallLoss,
        centerline_dice,
        skeleton_recall,
    )
    from segloss.losses.centerline_boundary import (
        CenterlineBoundaryDiceLoss,
        centerline_boundary_dice,
    )
    from segloss.losses.contingency import (
        MCCLoss,
        RegionProportionLoss,
        SensitivitySpecificityLoss,
        matthews,
        region_proportion,
        sensitivity_specificity,
    )
    from segloss.losses.hard_examples import TopKCrossEntropyLoss
    from segloss.losses.hausdorff import HausdorffDTLoss, HausdorffLoss, hausdorff
    from segloss.losses.instance import BlobLoss, ConnectedComponentDiceLoss
    from segloss.losses.lovasz import LovaszLoss, lovasz
    from segloss.losses.overlap import (
        DiceLoss,
        GeneralizedDiceLoss,
        JaccardLoss,
        TverskyLoss,
        dice,
        generalized_dice,
        jaccard,
        tversky,
    )
    from segloss.losses.penalties import (
        LogSumExpLoss,
        MarginSmoothingLoss,
        NeighbourAwareCalibrationLoss,
    )
    from segloss.losses.polynomial import Poly1CrossEntropyLoss, Poly1FocalLoss
    from segloss.losses.relative import LDRKLLoss, NormalizedCrossEntropyLoss
    from segloss.losses.reshaped_overlap import (
        ExponentialLogarithmicLoss,
        FocalTverskyLoss,
        LogCoshDiceLoss,
        focal_tversky,
        log_cosh_dice,
        logarithmic_dice,
    )
    from segloss.losses.robust import (
        CompSumLoss,
        GeneralizedCrossEntropyLoss,
        ReverseCrossEntropyLoss,
        SymmetricCrossEntropyLoss,
    )
    from segloss.losses.robust_dice import NoiseRobustDiceLoss, noise_robust_dice
    from segloss.losses.soft_overlap import (
        CompatibleTverskyLoss,
        DicePlusPlusLoss,
        DiceSemimetricLoss,
        JaccardMetricLoss,
        SquaredDiceLoss,
        dice_plus_plus,
    )
    from segloss.losses.student import TLoss
    from segloss.losses.surface import (
        BoundaryLoss,
        GeneralizedSurfaceLoss,
        RegionWiseLoss,
        boundary,
        generalized_surface,
        region_wise,
    )
    from segloss.losses.surrogates import SparsemaxLoss, SquentropyLoss
    from segloss.losses.topology import BettiMatchingLoss, TopographLoss
    from segloss.losses.unified_focal import UnifiedFocalLoss
    from segloss.losses.voxelwise import CrossEntropyLoss, FocalLoss
    from segloss.priors import (
        ClassPriors,
        class_balanced_weights,
        class_priors,
        inverse_frequency_weights,
    )
    from segloss.recipes import active_passive
    from segloss.schedules import Constant, Cosine, Linear, Step, rebalanced

__version__ = "0.1.0"

_HOME = {
    "segloss.balance": ("GradientNormBalance", "UncertaintyWeighting"),
    "segloss.catalogue": ("list_losses",),
    "segloss.compose": ("CompoundLoss", "DeepSupervisionLoss"),
    "segloss.config": ("build",),
    "segloss.encoding": ("Multiclass", "Multilabel"),
    "segloss.engine.backend": ("backend",),
    "segloss.hierarchy.activations": (
        "ConditionalSigmoid",
        "LeafSoftmax",
        "MaxConstraint",
        "MultiLevelActivation",
        "OrderedLevels",
        "TreeActivation",
    ),
    "segloss.hierarchy.encoding": ("Tree",),
    "segloss.hierarchy.losses": (
        "GeneralizedWassersteinDiceLoss",
        "HierarchicalCrossEntropyLoss",
        "HierarchicalDiceCELoss",
    ),
    "segloss.hierarchy.sigmoids": (
        "MaxConstraintLoss",
        "TreeMinLoss",
    ),
    "segloss.hierarchy.levels": ("MultiLevelLoss",),
    "segloss.hierarchy.thresholds": ("LevelThresholds",),
    "segloss.hierarchy.triplet": ("TreeTripletLoss",),
    "segloss.hierarchy.label_sets": ("LabelHeads", "LabelSets"),
    "segloss.hierarchy.label_space": ("LabelSpace",),
    "segloss.hierarchy.partial": ("ExclusionLoss", "NullBCELoss"),
    "segloss.label_tree": ("LabelTree",),
    "segloss.losses.adjusted": (
        "LDAMLoss",
        "LogitAdjustedCrossEntropyLoss",
        "VectorScalingLoss",
    ),
    "segloss.losses.asymmetric": ("AsymmetricLoss",),
    "segloss.losses.base": ("Loss", "RegionLoss", "VoxelLoss"),
    "segloss.losses.boundary_overlap": ("BoundaryDoULoss", "boundary_dou"),
    "segloss.losses.calibration": ("CalibrationErrorLoss", "calibration_error"),
    "segloss.losses.centerline": (
        "CenterlineDiceLoss",
        "SkeletonRecallLoss",
        "centerline_dice",
        "skeleton_recall",
    ),
    "segloss.losses.centerline_boundary": (
        "CenterlineBoundaryDiceLoss",
        "centerline_boundary_dice",
    ),
    "segloss.losses.contingency": (
        "MCCLoss",
        "RegionProportionLoss",
        "SensitivitySpecificityLoss",
        "matthews",
        "region_proportion",
        "sensitivity_specificity",
    ),
    "segloss.losses.hard_examples": ("TopKCrossEntropyLoss",),
    "segloss.losses.hausdorff": ("HausdorffDTLoss", "HausdorffLoss", "hausdorff"),
    "segloss.losses.instance": ("BlobLoss", "ConnectedComponentDiceLoss"),
    "segloss.losses.lovasz": ("LovaszLoss", "lovasz"),
    "segloss.losses.overlap": (
        "DiceLoss",
        "GeneralizedDiceLoss",
        "JaccardLoss",
        "TverskyLoss",
        "dice",
        "generalized_dice",
        "jaccard",
        "tversky",
    ),
    "segloss.losses.polynomial": ("Poly1CrossEntropyLoss", "Poly1FocalLoss"),
    "segloss.losses.penalties": (
        "LogSumExpLoss",
        "MarginSmoothingLoss",
        "NeighbourAwareCalibrationLoss",
    ),
    "segloss.losses.relative": ("LDRKLLoss", "NormalizedCrossEntropyLoss"),
    "segloss.losses.reshaped_overlap": (
        "ExponentialLogarithmicLoss",
        "FocalTverskyLoss",
        "LogCoshDiceLoss",
        "focal_tversky",
        "log_cosh_dice",
        "logarithmic_dice",
    ),
    "segloss.losses.robust": (
        "CompSumLoss",
        "GeneralizedCrossEntropyLoss",
        "ReverseCrossEntropyLoss",
        "SymmetricCrossEntropyLoss",
    ),
    "segloss.losses.robust_dice": ("NoiseRobustDiceLoss", "noise_robust_dice"),
    "segloss.losses.soft_overlap": (
        "CompatibleTverskyLoss",
        "DicePlusPlusLoss",
        "DiceSemimetricLoss",
        "JaccardMetricLoss",
        "SquaredDiceLoss",
        "dice_plus_plus",
    ),
    "segloss.losses.student": ("TLoss",),
    "segloss.losses.surface": (
        "BoundaryLoss",
        "GeneralizedSurfaceLoss",
        "RegionWiseLoss",
        "boundary",
        "generalized_surface",
        "region_wise",
    ),
    "segloss.losses.surrogates": ("SparsemaxLoss", "SquentropyLoss"),
    "segloss.losses.unified_focal": ("UnifiedFocalLoss",),
    "segloss.losses.topology": ("BettiMatchingLoss", "TopographLoss"),
    "segloss.losses.voxelwise": ("CrossEntropyLoss", "FocalLoss"),
    "segloss.priors": (
        "ClassPriors",
        "class_balanced_weights",
        "class_priors",
        "inverse_frequency_weights",
    ),
    "segloss.recipes": ("active_passive",),
    "segloss.schedules": ("Constant", "Cosine", "Linear", "Step", "rebalanced"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AsymmetricLoss",
    "BettiMatchingLoss",
    "BlobLoss",
    "BoundaryDoULoss",
    "BoundaryLoss",
    "CalibrationErrorLoss",
    "CenterlineBoundaryDiceLoss",
    "CenterlineDiceLoss",
    "ClassPriors",
    "CompSumLoss",
    "CompatibleTverskyLoss",
    "CompoundLoss",
    "ConditionalSigmoid",
    "ConnectedComponentDiceLoss",
    "Constant",
    "Cosine",
    "CrossEntropyLoss",
    "DeepSupervisionLoss",
    "DiceLoss",
    "DicePlusPlusLoss",
    "DiceSemimetricLoss",
    "ExclusionLoss",
    "ExponentialLogarithmicLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "GeneralizedCrossEntropyLoss",
    "GeneralizedDiceLoss",
    "GeneralizedSurfaceLoss",
    "GeneralizedWassersteinDiceLoss",
    "GradientNormBalance",
    "HausdorffDTLoss",
    "HausdorffLoss",
    "HierarchicalCrossEntropyLoss",
    "HierarchicalDiceCELoss",
    "JaccardLoss",
    "JaccardMetricLoss",
    "LDAMLoss",
    "LDRKLLoss",
    "LabelHeads",
    "LabelSets",
    "LabelSpace",
    "LabelTree",
    "LeafSoftmax",
    "LevelThresholds",
    "Linear",
    "LogCoshDiceLoss",
    "LogSumExpLoss",
    "LogitAdjustedCrossEntropyLoss",
    "Loss",
    "LovaszLoss",
    "MCCLoss",
    "MarginSmoothingLoss",
    "MaxConstraint",
    "MaxConstraintLoss",
    "MultiLevelActivation",
    "MultiLevelLoss",
    "Multiclass",
    "Multilabel",
    "NeighbourAwareCalibrationLoss",
    "NoiseRobustDiceLoss",
    "NormalizedCrossEntropyLoss",
    "NullBCELoss",
    "OrderedLevels",
    "Poly1CrossEntropyLoss",
    "Poly1FocalLoss",
    "RegionLoss",
    "RegionProportionLoss",
    "RegionWiseLoss",
    "ReverseCrossEntropyLoss",
    "SensitivitySpecificityLoss",
    "SkeletonRecallLoss",
    "SparsemaxLoss",
    "SquaredDiceLoss",
    "SquentropyLoss",
    "Step",
    "SymmetricCrossEntropyLoss",
    "TLoss",
    "TopKCrossEntropyLoss",
    "TopographLoss",
    "Tree",
    "TreeActivation",
    "TreeMinLoss",
    "TreeTripletLoss",
    "TverskyLoss",
    "UncertaintyWeighting",
    "UnifiedFocalLoss",
    "VectorScalingLoss",
    "VoxelLoss",
    "active_passive",
    "backend",
    "boundary",
    "boundary_dou",
    "build",
    "calibration_error",
    "centerline_boundary_dice",
    "centerline_dice",
    "class_balanced_weights",
    "class_priors",
    "dice",
    "dice_plus_plus",
    "focal_tversky",
    "generalized_dice",
    "generalized_surface",
    "hausdorff",
    "inverse_frequency_weights",
    "jaccard",
    "list_losses",
    "log_cosh_dice",
    "logarithmic_dice",
    "lovasz",
    "matthews",
    "noise_robust_dice",
    "rebalanced",
    "region_proportion",
    "region_wise",
    "sensitivity_specificity",
    "skeleton_recall",
    "tversky",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segloss' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
