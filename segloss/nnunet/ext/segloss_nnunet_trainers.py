"""What nnU-Net finds through the variable ``nnUNet_extTrainer``; the trainers live in segloss."""

from segloss.nnunet.trainers import (
    nnUNetTrainerBoundary,
    nnUNetTrainerNestedRegions,
    nnUNetTrainerSegLoss,
    nnUNetTrainerSkeletonRecall,
    nnUNetTrainerSkeletonRecallBoundary,
)

__all__ = [
    "nnUNetTrainerBoundary",
    "nnUNetTrainerNestedRegions",
    "nnUNetTrainerSegLoss",
    "nnUNetTrainerSkeletonRecall",
    "nnUNetTrainerSkeletonRecallBoundary",
]
