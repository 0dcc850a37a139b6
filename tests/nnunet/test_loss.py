"""The loss of a trainer: nnU-Net's own, the terms beside it, and both in one pass."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.nnunet.running import batches, clone, initialised

# isort: split
from nnunetv2.training.loss.compound_losses import DC_and_topk_loss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import (
    nnUNetTrainerDiceCELoss_noSmooth,
    nnUNetTrainerDiceLoss,
)

from segloss import Linear, Multiclass, RegionWiseLoss, SkeletonRecallLoss
from segloss.nnunet.fused import fused
from segloss.nnunet.labels import Labels
from segloss.nnunet.loss import TermsLoss
from segloss.nnunet.trainers import (
    SegLossMixin,
    nnUNetTrainerBoundary,
    nnUNetTrainerSegLoss,
    nnUNetTrainerSkeletonRecall,
    nnUNetTrainerSkeletonRecallBoundary,
)
from tests.nnunet.datasets import MODES

pytestmark = pytest.mark.usefixtures("folders")


class Fused(SegLossMixin, nnUNetTrainer):
    fused = True


class FusedWithTerms(nnUNetTrainerSkeletonRecallBoundary):
    fused = True


def value_and_slopes(loss: Any, outputs: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
    leaves = [output.detach().requires_grad_() for output in outputs]
    value = loss(leaves, [target.clone() for target in targets])
    slopes = torch.autograd.grad(value, leaves, allow_unused=True)
    return [value.detach(), *(slope for slope in slopes if slope is not None)]


def random_scales(trainer: Any) -> tuple[list[Tensor], list[Tensor]]:
    """A batch's targets at every scale, and logits for them."""
    targets = batches(trainer)[0]["target"]
    torch.manual_seed(1)
    heads = trainer.label_manager.num_segmentation_heads
    return [torch.randn(len(t), heads, *t.shape[2:]) for t in targets], targets


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])  # Dice of the batch, of samples
def test_fused_is_nnunets_loss(configuration: str, mode: str) -> None:
    plain = initialised(nnUNetTrainer, mode, configuration)
    outputs, targets = random_scales(plain)
    expected = value_and_slopes(plain.loss, outputs, targets)
    ours = initialised(Fused, mode, configuration).loss
    ours.maps = [{}] * len(targets)
    found = value_and_slopes(ours, outputs, targets)
    assert len(found) == len(expected) == len(targets)  # the last scale has no weight
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("mode", ["ignore", "regions_ignore"])
def test_fused_is_nnunets_loss_where_a_sample_or_all_is_unknown(mode: str) -> None:
    plain = initialised(nnUNetTrainer, mode)
    outputs, targets = random_scales(plain)
    ours = initialised(Fused, mode).loss
    ours.maps = [{}] * len(targets)
    for unknown in (slice(1), slice(None)):
        for target in targets:
            if "regions" in mode:
                target[unknown, :-1], target[unknown, -1] = False, True
            else:
                target[unknown] = 3
        expected = value_and_slopes(plain.loss, outputs, targets)
        found = value_and_slopes(ours, outputs, targets)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("base", [nnUNetTrainerDiceCELoss_noSmooth, nnUNetTrainer])
def test_fused_takes_the_options_of_the_loss_it_replaces(base: Any) -> None:
    class Weighted(base):
        def _build_loss(self) -> Any:
            loss = super()._build_loss()
            loss.loss.weight_ce, loss.loss.weight_dice = 0.5, 2.0
            loss.loss.ce.weight = torch.tensor([0.5, 1.0, 3.0])
            loss.loss.dc.do_bg = True
            return loss

    plain = initialised(Weighted)
    outputs, targets = random_scales(plain)
    ours = initialised(type("FusedWeighted", (SegLossMixin, Weighted), {"fused": True})).loss
    ours.maps = [{}] * len(targets)
    expected = value_and_slopes(plain.loss, outputs, targets)
    for one, other in zip(value_and_slopes(ours, outputs, targets), expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_only_losses_that_are_known_are_fused() -> None:
    with pytest.raises(TypeError, match="loss is MemoryEfficientSoftDiceLoss: leave fused out"):
        initialised(type("Dice", (SegLossMixin, nnUNetTrainerDiceLoss), {"fused": True}))
    with pytest.raises(TypeError, match="loss is DC_and_topk_loss"):
        fused(DC_and_topk_loss({}, {}), 2)
    loss = initialised(nnUNetTrainer).loss.loss
    loss.ce.label_smoothing = 0.1
    with pytest.raises(TypeError, match="label_smoothing"):
        fused(loss, 2)


@pytest.mark.parametrize("mode", MODES)
def test_fused_trains_as_beside(mode: str) -> None:
    """The same step, whether nnU-Net's loss is computed by its own code or with the terms."""
    found = []
    for kind in (nnUNetTrainerSkeletonRecallBoundary, FusedWithTerms):
        trainer = initialised(kind, mode)
        trainer.current_epoch = 300
        outcome = trainer.train_step(batches(trainer)[0])
        weights = torch.cat([p.detach().flatten() for p in trainer.network.parameters()])
        found.append((float(outcome["loss"]), weights))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_terms_are_added_at_every_scale_with_nnunets_weights() -> None:
    """The published fork computes its whole loss at full resolution only, without saying so."""
    trainer = initialised(nnUNetTrainerSkeletonRecall)
    packed = batches(trainer)[0]
    weights = trainer.loss.scale_weights
    assert [w > 0 for w in weights] == [True, True, False]
    with trainer._maps_for_the_loss(packed) as batch:
        targets, maps = batch["target"], trainer.loss.maps
        outputs = [torch.randn(2, 3, *t.shape[2:]) for t in targets]
        value = trainer.loss(outputs, targets)
        expected = trainer.loss.base(outputs, targets)
        term = SkeletonRecallLoss(Multiclass(background=False))
        for weight, output, target, own in zip(weights, outputs, targets, maps, strict=True):
            if weight:
                expected = expected + weight * term(output, target, skeleton=own["skeleton"])
        assert_close(value, expected)
        _, *slopes = value_and_slopes(trainer.loss, outputs, targets)
        assert len(slopes) == 2 and slopes[1].abs().max() > 0


@pytest.mark.parametrize("short", ["output", "target", "maps"])
def test_a_scale_that_is_missing_is_an_error(short: str) -> None:
    """The cause of the same defect: zip() stops at the shortest list."""
    trainer = initialised(nnUNetTrainerSkeletonRecall)
    with trainer._maps_for_the_loss(batches(trainer)[0]) as batch:
        targets = batch["target"]
        outputs = [torch.randn(2, 3, *t.shape[2:]) for t in targets]
        if short == "maps":
            trainer.loss.maps = trainer.loss.maps[:1]
        given = {"output": outputs, "target": targets}
        given |= {short: given[short][:1]} if short in given else {}
        with pytest.raises(ValueError, match=f"{short} has 1 scales, .* 3 weights"):
            trainer.loss(**given)
        with pytest.raises(ValueError, match="output is Tensor, expected a list with one for"):
            trainer.loss(outputs[0], targets)
    packed = batches(trainer)[0]
    with pytest.raises(ValueError, match=r"target has 1 scales, .* 3 weights"):
        trainer.train_step({**packed, "target": packed["target"][:1]})


@pytest.mark.parametrize("mode", ["ignore", "regions_ignore"])
def test_an_ignore_label_does_not_mix_samples(mode: str) -> None:
    """The published fork writes every sample's skeleton into every sample of the batch."""
    trainer = initialised(nnUNetTrainerSkeletonRecall, mode)
    with trainer._maps_for_the_loss(batches(trainer)[0]) as batch:
        target, skeleton = batch["target"][0], trainer.loss.maps[0]["skeleton"]
    labels = Labels(2, "regions" in mode, 3)
    own, voxels = labels.for_loss(target)
    term = SkeletonRecallLoss(labels.encoding(background=False))
    if "regions" in mode:
        perfect = 40 * own.float() - 20
    else:
        known = target.clamp(max=2)
        perfect = torch.stack([40.0 * (known[:, 0] == label) - 20 for label in range(3)], 1)
    assert_close(
        term(perfect, own, skeleton=skeleton, **voxels), torch.zeros(()), atol=1e-6, rtol=0
    )

    logits = torch.randn(perfect.shape)
    whole = term(logits, own, skeleton=skeleton, **voxels)
    parts = [
        term(
            logits[i : i + 1],
            own[i : i + 1],
            skeleton=skeleton[i : i + 1],
            **{name: x[i : i + 1] for name, x in voxels.items()},
        )
        for i in range(2)
    ]
    assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("mode", ["ignore", "regions_ignore"])
@pytest.mark.parametrize("kind", [nnUNetTrainerSkeletonRecall, nnUNetTrainerBoundary])
def test_unknown_voxels_have_no_say(kind: Any, mode: str) -> None:
    trainer = initialised(kind, mode)
    trainer.current_epoch = 500
    with trainer._maps_for_the_loss(batches(trainer)[0]) as batch:
        target, maps = batch["target"][0], trainer.loss.maps[0]
        labels = trainer.target_labels
        own, voxels = labels.for_loss(target)
        unknown = target[:, -1:] if "regions" in mode else target == 3
        assert unknown.any() and not unknown.all()
        logits = torch.randn(2, own.shape[1] if "regions" in mode else 3, *own.shape[2:])
        logits.requires_grad_()
        trainer.loss.compound.epoch = trainer.current_epoch
        trainer.loss.compound(logits, own, **maps, **voxels).backward()
        assert logits.grad is not None and logits.grad.abs().sum() > 0
        assert not (logits.grad * unknown).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("kind", [nnUNetTrainerSkeletonRecall, nnUNetTrainerBoundary])
def test_without_foreground_the_terms_are_zero_and_so_is_their_slope(
    kind: Any, configuration: str, mode: str
) -> None:
    trainer = initialised(kind, mode, configuration)
    trainer.current_epoch = 500
    batch = batches(trainer)[0]
    for scale in batch["target"]:
        unknown = scale[:, 2:3].clone() if mode == "regions_ignore" else None
        scale.zero_()
        if unknown is not None:
            scale[:, 2:3] = unknown
    plain = initialised(nnUNetTrainer, mode, configuration)
    own = trainer.target_labels.channels
    stripped = [t[:, :own].to(trainer.target_labels.dtype) for t in clone(batch)["target"]]
    expected = plain.train_step({**batch, "target": stripped})
    found = trainer.train_step(clone(batch))
    assert found["loss"] == expected["loss"]
    assert [float(term) for term in trainer.loss.terms.values()] == [0.0]
    for one, other in zip(trainer.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_absent_class_leaves_the_other_as_it_was() -> None:
    """It counts as fully covered, as in the paper: half the loss of the class that is there."""
    trainer = initialised(nnUNetTrainerSkeletonRecall)
    with trainer._maps_for_the_loss(batches(trainer)[0]) as batch:
        target, skeleton = batch["target"][0], trainer.loss.maps[0]["skeleton"]
    alone = torch.where(skeleton == 1, 1, 0)
    logits = torch.randn(2, 3, *target.shape[2:])
    term = SkeletonRecallLoss(Multiclass(background=False), reduction="none")
    scores = term(logits, target, skeleton=alone)
    assert scores[:, 1].tolist() == [0.0, 0.0]
    assert_close(scores[:, 0], term(logits, target, skeleton=skeleton)[:, 0])


def test_weights_follow_the_epochs_of_the_trainer() -> None:
    class Scheduled(nnUNetTrainerSkeletonRecall):
        skeleton_weight = Linear(0.0, 2.0, 10)
        base_weight = Linear(1.0, 0.0, 10)

    trainer = initialised(Scheduled)
    batch = batches(trainer)[0]
    for epoch, added, kept in ((0, 0.0, 1.0), (5, 1.0, 0.5), (20, 2.0, 0.0)):
        trainer.current_epoch = epoch
        with trainer._maps_for_the_loss(batch) as own:
            outputs = [torch.randn(2, 3, *t.shape[2:]) for t in own["target"]]
            value = trainer.loss(outputs, own["target"])
            base = trainer.loss.base(outputs, own["target"])
            terms = sum(
                weight * trainer.loss.compound.losses["skeleton_recall"](o, t, **maps)
                for weight, o, t, maps in zip(
                    trainer.loss.scale_weights,
                    outputs,
                    own["target"],
                    trainer.loss.maps,
                    strict=True,
                )
                if weight
            )
        assert_close(value, kept * base + added * terms)


def test_the_boundary_rises_over_half_of_the_training() -> None:
    trainer = initialised(nnUNetTrainerBoundary)
    weights = trainer.loss.compound
    found = []
    for epoch in (0, 250, 500, 999):
        weights.epoch = epoch
        found.append(weights.weights["boundary"])
    assert found == [0.0, 0.5, 1.0, 1.0]


def test_a_training_may_go_on_by_the_copy_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda trainer: None)
    path = tmp_path / "losses.yaml"
    path.write_text("terms: {tversky: {alpha: 0.3}}")
    monkeypatch.setenv("SEGLOSS_NNUNET_CONFIG", str(path))
    trainer = initialised(nnUNetTrainerSegLoss)
    trainer.on_train_start()
    copy = Path(trainer.output_folder, "segloss.yaml")
    monkeypatch.setenv("SEGLOSS_NNUNET_CONFIG", str(copy))
    trainer.on_train_start()
    assert copy.read_text() == path.read_text()


def test_a_loss_needs_the_maps_of_a_step() -> None:
    trainer = initialised(nnUNetTrainerSkeletonRecall)
    with pytest.raises(RuntimeError, match="works inside train_step and validation_step"):
        trainer.loss([], [])
    with pytest.raises(ValueError, match="losses is empty"):
        TermsLoss(torch.nn.Identity(), {}, Labels(2))


def test_a_map_that_only_a_terms_own_sums_read_is_made() -> None:
    loss = TermsLoss(torch.nn.Identity(), {"region_wise": (1.0, RegionWiseLoss())}, Labels(2))
    assert loss.needs == {"distance"}


def test_groups_are_those_of_nnunets_dice() -> None:
    groups = {
        configuration: initialised(nnUNetTrainerSkeletonRecall, "labels", configuration)
        .loss.compound.losses["skeleton_recall"]
        .group
        for configuration in ("2d", "3d_fullres")
    }
    assert groups == {"2d": "batch", "3d_fullres": "sample"}


@pytest.mark.parametrize(("regions", "ignore"), [*product([False, True], [None, 3])])
def test_labels_say_what_the_target_holds(regions: bool, ignore: int | None) -> None:
    labels = Labels(2, regions, ignore)
    assert labels.channels == (2 if regions else 1) + (regions and ignore is not None)
    target = torch.zeros(1, labels.channels, 2, 2, dtype=labels.dtype)
    own, voxels = labels.for_loss(target)
    assert own.shape[1] == (2 if regions else 1)
    assert bool(voxels) == (regions and ignore is not None)
