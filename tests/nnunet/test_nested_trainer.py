"""nnU-Net trains and predicts regions that are nested by construction."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nnunet.running import as_list, batches, clone, initialised

# isort: split
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from segloss.nnunet import trainer_folder
from segloss.nnunet.checkpoints import export_model
from segloss.nnunet.nested import NestedNetwork
from segloss.nnunet.trainers import (
    NestedRegionsMixin,
    SkeletonRecallMixin,
    nnUNetTrainerNestedRegions,
)

pytestmark = pytest.mark.usefixtures("folders")


class Mixed(NestedRegionsMixin, SkeletonRecallMixin, nnUNetTrainer):
    pass


class Fused(Mixed):
    fused = True


@pytest.mark.parametrize("mode", ["regions", "regions_ignore"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_step(mode: str, configuration: str) -> None:
    """Veins in vessels; the loss is nnU-Net's own, of the nested outputs."""
    trainer = initialised(nnUNetTrainerNestedRegions, mode, configuration)
    batch = batches(trainer)[0]
    outputs = trainer.network(batch["data"])
    assert len(outputs) > 1
    for output in outputs:
        assert (output[:, 1] <= output[:, 0]).all()
    expected = trainer.loss(outputs, as_list(batch["target"])).item()
    assert trainer.train_step(clone(batch))["loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.validation_step(clone(batch))["loss"].shape == ()


def test_with_other_mixins_fused_or_not() -> None:
    losses = []
    for kind in (Mixed, Fused):
        trainer = initialised(kind, "regions")
        losses.append(trainer.train_step(clone(batches(trainer)[0]))["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_trains_nested_what_the_plain_trainer_need_not() -> None:
    """Random weights put veins outside vessels, unless the regions are nested."""
    broken = {}
    for kind in (nnUNetTrainer, nnUNetTrainerNestedRegions):
        trainer = initialised(kind, "regions")
        output = as_list(trainer.network(batches(trainer)[0]["data"]))[0].sigmoid()
        broken[kind] = (output[:, 1] > output[:, 0]).float().mean().item()
    assert broken[nnUNetTrainer] > 0.1
    assert broken[nnUNetTrainerNestedRegions] == 0


def test_a_compiled_network() -> None:
    class Compiled(nnUNetTrainerNestedRegions):
        def _do_i_compile(self) -> bool:
            return True

    plain = initialised(nnUNetTrainerNestedRegions, "regions")
    batch = batches(plain)[0]
    expected = plain.train_step(clone(batch))["loss"]
    compiled = initialised(Compiled, "regions")
    assert compiled.train_step(clone(batch))["loss"] == pytest.approx(expected, rel=1e-3)


def test_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="nested regions need a dataset with regions"):
        initialised(nnUNetTrainerNestedRegions, "labels")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """A trainer after a step, and its saved model."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainer_folder()))
    trainer = initialised(nnUNetTrainerNestedRegions, "regions")
    trainer.train_step(batches(trainer)[0])
    head = trainer.network.decoder.seg_layers[-1]
    head.weight.data *= 30  # for logits of both signs
    folder = Path(trainer.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    for name, content in (
        ("plans", trainer.plans_manager.plans),
        ("dataset", trainer.dataset_json),
    ):
        (folder.parent / f"{name}.json").write_text(json.dumps(content))
    return trainer, folder.parent


def test_goes_on_from_a_checkpoint(model: tuple[Any, Path]) -> None:
    trainer, folder = model
    fresh = initialised(nnUNetTrainerNestedRegions, "regions")
    fresh.load_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    batch = batches(trainer)[0]
    found = [each.validation_step(clone(batch))["loss"].item() for each in (trainer, fresh)]
    assert found[0] == found[1]

    _, folder = model

    _, folder = model
    """Sliding windows, flips, resampling to another grid, thresholds: all of nnU-Net's own."""
    trainer, folder = model
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    assert isinstance(predictor.network, NestedNetwork)
    assert predictor.network.parents == (-1, 0)
    image = torch.randn(1, 40, 44, 40)
    odds = predictor.predict_logits_from_preprocessed_data(image)
    assert odds.shape == (2, 40, 44, 40)
    assert (odds[1] <= odds[0]).all()
    resample = predictor.configuration_manager.resampling_fn_probabilities
    odds = torch.as_tensor(resample(odds, (61, 52, 33), (2.0, 1.0, 0.5), (1.3, 0.8, 0.6)))
    vessel, vein = predictor.label_manager.apply_inference_nonlin(odds) > 0.5
    assert vein.any() and (vessel & ~vein).any() and not (vein & ~vessel).any()


def test_such_a_model_is_not_exported(model: tuple[Any, Path]) -> None:
    with pytest.raises(ValueError, match="ends in nested regions, which no nnU-Net without"):
        export_model(model[1])
    assert not (model[1].parent / "nnUNetTrainer__nnUNetPlans__3d_fullres").exists()
