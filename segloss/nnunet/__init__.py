"""nnU-Net trainers with segloss's losses; needs ``pip install 'segloss-monai[nnunet]'``.

Names are imported on first use, so that the command line need not load PyTorch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segloss.nnunet.trainers import (
        BoundaryMixin,
        NestedRegionsMixin,
        SegLossMixin,
        SkeletonRecallMixin,
        nnUNetTrainerBoundary,
        nnUNetTrainerNestedRegions,
        nnUNetTrainerSegLoss,
        nnUNetTrainerSkeletonRecall,
        nnUNetTrainerSkeletonRecallBoundary,
    )

__all__ = [
    "BoundaryMixin",
    "NestedRegionsMixin",
    "SegLossMixin",
    "SkeletonRecallMixin",
    "nnUNetTrainerBoundary",
    "nnUNetTrainerNestedRegions",
    "nnUNetTrainerSegLoss",
    "nnUNetTrainerSkeletonRecall",
    "nnUNetTrainerSkeletonRecallBoundary",
    "trainer_folder",
]

TRAINERS = tuple(name for name in __all__ if name.startswith("nnUNetTrainer"))
"""What goes behind ``-tr``."""


def trainer_folder() -> Path:
    """Where nnU-Net finds the trainers: the value of the variable ``nnUNet_extTrainer``.

    It holds one file. nnU-Net imports every module of such a folder under its bare name, which the
    package itself would not survive.

    Example:
        >>> [path.name for path in trainer_folder().glob("*.py")]
        ['segloss_nnunet_trainers.py']
    """
    return Path(__file__).parent / "ext"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'segloss.nnunet' has no attribute {name!r}")
    return getattr(import_module("segloss.nnunet.trainers"), name)


def __dir__() -> list[str]:
    return __all__
