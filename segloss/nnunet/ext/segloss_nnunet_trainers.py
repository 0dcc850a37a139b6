"""What nnU-Net finds through the variable ``nnUNet_extTrainer``; the trainers live in segloss."""

from segloss.nnunet.trainers import (
    nnUNetTrainerBoundary,
    nnUNetTrainerSegLoss,
    nnUNetTrainerSkeletonRecall,
    nnUNetTrainerSkeletonRecallBoundary,
)

__all__ = [
    "nnUNetTrainerBoundary",
    "nnUNetTrainerSegLoss",
    "nnUNetTrainerSkeletonRecall",
    "nnUNetTrainerSkeletonRecallBoundary",
]
