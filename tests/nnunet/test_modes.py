"""In every mode of nnU-Net its own images and targets are untouched, and its steps work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.nnunet.running import as_list, batches, built, clone, initialised

# isort: split
import blosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import (
    nnUNetTrainerNoDA,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerTopkLoss import (
    nnUNetTrainerDiceTopK10Loss,
)
from nnunetv2.training.nnUNetTrainer.variants.network_architecture import (
    nnUNetTrainerNoDeepSupervision as without,
)

from segloss.nnunet.trainers import (
    BoundaryMixin,
    SegLossMixin,
    SkeletonRecallMixin,
    nnUNetTrainerBoundary,
    nnUNetTrainerSkeletonRecall,
    nnUNetTrainerSkeletonRecallBoundary,
)
from segloss.transforms.functional import signed_distance, tubed_skeleton
from tests.nnunet.datasets import CASES, MODES

OURS = (nnUNetTrainerSkeletonRecall, nnUNetTrainerBoundary, nnUNetTrainerSkeletonRecallBoundary)
VARIANTS = (
    nnUNetTrainerDA5,
    nnUNetTrainerNoDA,
    nnUNetTrainerNoMirroring,
    nnUNetTrainerDiceTopK10Loss,
    without.nnUNetTrainerNoDeepSupervision,
)
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_flat", "3d_cascade_fullres")
Maker = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("folders")


def mixed(base: type, *mixins: type) -> Any:
    return type("nnUNetTrainerMixed", (*mixins, base), {})


def previous_stage(trainer: Any) -> None:
    """The labels themselves as what the first stage of the cascade predicted."""
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    folder.mkdir(parents=True, exist_ok=True)
    for case in range(CASES):
        label = blosc2.open(f"{trainer.preprocessed_dataset_folder}/case_{case}_seg.b2nd")
        path = folder / f"case_{case}.b2nd"
        path.unlink(missing_ok=True)
        blosc2.asarray(np.ascontiguousarray(label[0]), urlpath=str(path))


def step(trainer: Any, batch: dict[str, Any]) -> float:
    outcome = trainer.train_step(clone(batch))
    return float(outcome["loss"])


def assert_same_batches(plain: Any, ours: Any) -> None:
    for theirs, packed in zip(batches(plain), batches(ours), strict=True):
        assert torch.equal(theirs["data"], packed["data"])
        with ours._maps_for_the_loss(packed) as batch:
            scales = zip(as_list(theirs["target"]), as_list(batch["target"]), strict=True)
            for expected, found in scales:
                assert expected.dtype == found.dtype
                assert torch.equal(expected, found)
            assert isinstance(theirs["target"], list) == isinstance(batch["target"], list)
        assert as_list(theirs["target"])[0].any()  # there is something to compare


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("mode", MODES)
def test_images_and_targets_are_bit_identical(mode: str, kind: Any) -> None:
    assert_same_batches(initialised(nnUNetTrainer, mode), initialised(kind, mode))


@pytest.mark.parametrize("base", VARIANTS, ids=lambda kind: kind.__name__)
def test_images_and_targets_of_other_trainers_are_bit_identical(base: Any) -> None:
    ours = mixed(base, SkeletonRecallMixin, BoundaryMixin)
    assert_same_batches(initialised(base), initialised(ours))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_training_and_a_validation_step(configuration: str, mode: str) -> None:
    trainer = initialised(nnUNetTrainerSkeletonRecallBoundary, mode, configuration)
    if "cascade" in configuration:
        previous_stage(trainer)
    train, validation = batches(trainer)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    assert np.isfinite(step(trainer, train))
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, trainer.network.parameters(), strict=True)
    )
    outcome = trainer.validation_step(clone(validation))
    heads = trainer.label_manager.num_segmentation_heads - ("regions" not in mode)
    assert outcome["tp_hard"].shape == (heads,)
    assert trainer.loss.maps is None
    assert 0 < trainer.loss.terms["skeleton_recall"] < 1


@pytest.mark.parametrize("mode", MODES)
def test_the_pseudo_dice_is_nnunets(mode: str) -> None:
    """With more channels in the target nnU-Net computes another one, without complaint."""
    plain = initialised(nnUNetTrainer, mode)
    ours = initialised(nnUNetTrainerSkeletonRecallBoundary, mode)
    ours.network.load_state_dict(plain.network.state_dict())
    expected = plain.validation_step(batches(plain)[1])
    found = ours.validation_step(batches(ours)[1])
    for name in ("tp_hard", "fp_hard", "fn_hard"):
        np.testing.assert_array_equal(expected[name], found[name])


@pytest.mark.parametrize("base", VARIANTS, ids=lambda kind: kind.__name__)
def test_a_mixin_in_front_of_another_trainer(base: Any) -> None:
    trainer = initialised(mixed(base, SkeletonRecallMixin, BoundaryMixin))
    assert np.isfinite(step(trainer, batches(trainer)[0]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "3d_flat"])
def test_maps_are_those_of_the_labels_of_their_scale(configuration: str, mode: str) -> None:
    """Recomputed from the targets that nnU-Net sees, at every scale whose loss counts."""
    trainer = initialised(nnUNetTrainerSkeletonRecallBoundary, mode, configuration)
    packed = batches(trainer)[0]
    clip = 20 * min(trainer.voxel_size)
    full = packed["target"][0].shape[2:]
    with trainer._maps_for_the_loss(packed) as batch:
        found = trainer.loss.maps
        assert [bool(maps) for maps in found] == [w != 0 for w in trainer.loss.scale_weights]
        for target, maps in zip(batch["target"], found, strict=True):
            for i in range(len(target) if maps else 0):
                label = target[i].numpy()
                spacing = [
                    size * whole / part
                    for size, whole, part in zip(
                        trainer.voxel_size, full, label.shape[1:], strict=True
                    )
                ]
                unknown = np.zeros(label.shape[1:], bool)
                if "regions" in mode:
                    masks = [channel.copy() for channel in label[:2]]
                    unknown = label[2].copy() if "ignore" in mode else unknown
                    skeleton = np.stack([tubed_skeleton(mask) for mask in masks])
                else:
                    masks = [label[0] == 1, label[0] == 2]
                    unknown = label[0] == 3
                    skeleton = tubed_skeleton(np.where(unknown, 0, label[0]))[None]
                np.testing.assert_array_equal(maps["skeleton"][i].numpy(), skeleton)
                distance = [
                    signed_distance(mask, spacing=tuple(spacing), unknown=unknown) / clip
                    for mask in masks
                ]
                np.testing.assert_allclose(
                    maps["distance"][i].float().numpy(),
                    np.clip(np.stack(distance), -1, 1),
                    rtol=1e-3,
                    atol=1e-7,
                )


def test_a_mixin_behind_the_trainer_is_an_error() -> None:
    with pytest.raises(TypeError, match="put the mixin first"):
        mixed(SkeletonRecallMixin, nnUNetTrainer)


def test_a_loss_without_the_terms_is_an_error() -> None:
    class Forgetful(nnUNetTrainerSkeletonRecall):
        def _build_loss(self) -> Any:
            return nnUNetTrainer._build_loss(self)

    with pytest.raises(TypeError, match=r"must return super\(\)._build_loss"):
        initialised(Forgetful).get_dataloaders()


def test_a_batch_without_maps_is_an_error() -> None:
    batch = batches(initialised(nnUNetTrainer))[0]
    trainer = initialised(nnUNetTrainerSkeletonRecall)
    with pytest.raises(ValueError, match=r"1 channels, expected torch.int16 with 2, the maps"):
        trainer.train_step(batch)


def test_a_term_whose_map_nobody_makes_is_an_error() -> None:
    class Unmapped(nnUNetTrainerSkeletonRecall):
        def target_maps(self) -> dict[str, Any]:
            return {}

    with pytest.raises(ValueError, match="reads the map 'skeleton', and target_maps"):
        initialised(Unmapped).get_dataloaders()


def test_terms_need_not_have_maps() -> None:
    from segloss import TverskyLoss

    class Tversky(SegLossMixin, nnUNetTrainer):
        def loss_terms(self) -> Any:
            encoding = self.target_labels.encoding(background=False)
            return {"tversky": (1.0, TverskyLoss(encoding, group=self.dice_group))}

    trainer = initialised(Tversky)
    train, _ = batches(trainer)
    assert train["target"][0].shape[1] == 1
    assert np.isfinite(step(trainer, train))


def test_loaders_can_be_asked_for_alone() -> None:
    trainer = built(nnUNetTrainerSkeletonRecall)
    trainer.batch_size = 2
    train, _ = trainer.get_dataloaders()
    assert next(train)["target"][0].shape[1] == 2


def test_names_are_not_nnunets_own(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

    from segloss.nnunet import TRAINERS, trainer_folder

    for name in TRAINERS:
        with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
            find(name)
    copied = folders / "ext"
    shutil.copytree(trainer_folder(), copied)
    monkeypatch.setenv("nnUNet_extTrainer", str(copied))
    for name in TRAINERS:
        assert find(name).__module__ == "segloss.nnunet.trainers"
