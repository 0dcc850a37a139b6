"""In every mode of nnU-Net: its images and targets are untouched, and a step works."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.nnunet import needed  # noqa: F401
from tests.nnunet.datasets import MODES
from tests.nnunet.running import batches

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # isort: skip
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import (
    nnUNetTrainerNoDA,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from segloss.nnunet.trainers import (
    nnUNetTrainerBoundary,
    nnUNetTrainerSkeletonRecall,
    nnUNetTrainerSkeletonRecallBoundary,
)

OURS = (nnUNetTrainerSkeletonRecall, nnUNetTrainerBoundary, nnUNetTrainerSkeletonRecallBoundary)
VARIANTS = (
    nnUNetTrainerDA5,
    nnUNetTrainerNoDA,
    nnUNetTrainerNoMirroring,
    nnUNetTrainerNoDeepSupervision,
)


def mixed(base: type, *mixins: type) -> type:
    return type("nnUNetTrainerMixed", (*mixins, base), {})


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("mode", MODES)
def test_images_and_targets_are_bit_identical(
    make_trainer: Callable[..., Any], mode: str, kind: type
) -> None:
    plain, ours = make_trainer(nnUNetTrainer, mode), make_trainer(kind, mode)
    for theirs, packed in zip(batches(plain), batches(ours), strict=True):
        assert torch.equal(theirs["data"], packed["data"])
        with ours._maps_for_the_loss(packed) as batch:
            targets = zip(theirs["target"], batch["target"], strict=True)
            for expected, found in targets:
                assert expected.dtype == found.dtype
                assert torch.equal(expected, found)
            assert all(sample.any() for sample in theirs["target"][0])
