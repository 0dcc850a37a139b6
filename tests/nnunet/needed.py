"""Skips the module that imports it where there is no nnU-Net."""

import pytest

pytest.importorskip(
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    reason="needs nnU-Net: pip install 'segloss-monai[nnunet]'",
    exc_type=ImportError,
)
