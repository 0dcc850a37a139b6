"""Everything of nnU-Net that the trainers touch, in one place."""

try:
    from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
except ImportError as error:
    raise ImportError(
        f"segloss's trainers need nnU-Net, 2.8 or newer ({error}): "
        "pip install 'segloss-monai[nnunet]'"
    ) from error

__all__ = [
    "BasicTransform",
    "ComposeTransforms",
    "DC_and_BCE_loss",
    "DC_and_CE_loss",
    "DeepSupervisionWrapper",
    "MemoryEfficientSoftDiceLoss",
    "nnUNetTrainer",
]
