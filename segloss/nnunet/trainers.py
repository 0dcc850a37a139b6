"""Trainers for nnU-Net with losses of this package: no fork, and nothing of nnU-Net copied.

Every override calls nnU-Net's own method. A mixin goes in front of any trainer::

    class nnUNetTrainerMine(SkeletonRecallMixin, nnUNetTrainerDA5):
        skeleton_weight = 0.5
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segloss.compose import Weight
from segloss.engine.groups import Group
from segloss.losses.base import Loss
from segloss.losses.centerline import SkeletonRecallLoss
from segloss.losses.surface import BoundaryLoss
from segloss.nnunet.config import config_path, read_recipe
from segloss.nnunet.labels import Labels
from segloss.nnunet.loss import TermsLoss
from segloss.nnunet.maps import DistanceMap, SkeletonMap, TargetMap
from segloss.nnunet.mixin import TrainerMixin
from segloss.nnunet.nested import NestedRegionsMixin
from segloss.nnunet.peer import ComposeTransforms, nnUNetTrainer
from segloss.nnunet.targets import AppendMaps, unpacked
from segloss.schedules import Linear

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
]

Terms = dict[str, tuple[Weight, Loss]]


class SegLossMixin(TrainerMixin):
    """Adds terms to the loss of the nnU-Net trainer that it stands in front of.

    A subclass says which, in `loss_terms`. nnU-Net's workers make the maps that they need, at the
    end of nnU-Net's own pipeline. nnU-Net's constructors take no more than its five arguments, so
    options are class attributes.

    Attributes:
        base_weight: What nnU-Net's own loss is multiplied by: a number or a schedule.
        fused: Compute nnU-Net's Dice and cross entropy in one pass with the terms: the same
            numbers, with less memory.

    Example:
        >>> from segloss import TverskyLoss
        >>> class nnUNetTrainerTversky(SegLossMixin, nnUNetTrainer):
        ...     def loss_terms(self):
        ...         encoding = self.target_labels.encoding(background=False)
        ...         tversky = TverskyLoss(encoding, alpha=0.3, beta=0.7, group=self.dice_group)
        ...         return {**super().loss_terms(), "tversky": (0.5, tversky)}
    """

    base_weight: Weight = 1.0
    fused: bool = False

    # What nnU-Net's trainers have.
    loss: Any
    label_manager: Any
    configuration_manager: Any
    is_ddp: bool
    local_rank: int
    num_epochs: int
    current_epoch: int
    output_folder: str
    print_to_log_file: Any

    _epoch_terms: dict[str, list[Tensor]]

    def loss_terms(self) -> Terms:
        """The terms by name, each with its weight: a number, or a schedule over the epochs."""
        return {}

    def target_maps(self) -> dict[str, TargetMap]:
        """The maps there can be; those that no term reads are not made."""
        return {"skeleton": SkeletonMap(), "distance": DistanceMap()}

    @property
    def target_labels(self) -> Labels:
        """What the channels of nnU-Net's target mean."""
        return Labels.of(self.label_manager)

    @property
    def dice_group(self) -> Group:
        """What nnU-Net's own Dice is computed over in this configuration."""
        if not self.configuration_manager.batch_dice:
            return "sample"
        return "ranks" if self.is_ddp else "batch"

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Along each axis of a patch, in mm, as planned."""
        axes = len(self.configuration_manager.patch_size)
        return tuple(map(float, self.configuration_manager.spacing))[-axes:]

    def get_training_transforms(self, *arguments: Any, **options: Any) -> Any:
        """nnU-Net's, and the maps."""
        return self._with_maps(super().get_training_transforms(*arguments, **options))  # type: ignore[misc]

    def get_validation_transforms(self, *arguments: Any, **options: Any) -> Any:
        """nnU-Net's, and the maps."""
        return self._with_maps(super().get_validation_transforms(*arguments, **options))  # type: ignore[misc]

    def train_step(self, batch: dict[str, Any]) -> Any:
        """nnU-Net's, with the maps handed to the loss."""
        with self._maps_for_the_loss(batch) as own:
            outcome = super().train_step(own)  # type: ignore[misc]
        for name, value in self.loss.terms.items():
            self._epoch_terms.setdefault(name, []).append(value)
        return outcome

    def validation_step(self, batch: dict[str, Any]) -> Any:
        """nnU-Net's, with the maps handed to the loss."""
        with self._maps_for_the_loss(batch) as own:
            return super().validation_step(own)  # type: ignore[misc]

    def on_train_start(self) -> None:
        """nnU-Net's, and the loss is written to the log."""
        super().on_train_start()  # type: ignore[misc]
        self.print_to_log_file(f"Loss: {self.loss}")

    def on_train_epoch_start(self) -> None:
        """nnU-Net's."""
        super().on_train_epoch_start()  # type: ignore[misc]
        self._epoch_terms = {}

    def on_train_epoch_end(self, *arguments: Any, **options: Any) -> None:
        """nnU-Net's, and the mean of each term is written to the log."""
        super().on_train_epoch_end(*arguments, **options)  # type: ignore[misc]
        weights = self.loss.compound.weights
        for name, values in self._epoch_terms.items():
            mean = torch.stack(values).mean()
            self.print_to_log_file(f"train_{name} {mean:.4f} (weight {weights[name]:.4g})")

    def _build_loss(self) -> TermsLoss:
        self._epoch_terms = {}
        return TermsLoss(
            super()._build_loss(),  # type: ignore[misc]
            self.loss_terms(),
            self.target_labels,
            base_weight=self.base_weight,
            fuse=self.fused,
        )

    def _with_maps(self, pipeline: Any) -> Any:
        # nnU-Net builds the loss before the loaders, but they can be asked for alone.
        loss = self._build_loss() if self.loss is None else self._terms_loss()
        maps = self._maps_for(loss)
        if not maps:
            return pipeline
        append = AppendMaps(self.target_labels, maps, self.voxel_size, loss.scale_weights)
        return ComposeTransforms([pipeline, append])

    def _maps_for(self, loss: TermsLoss) -> dict[str, TargetMap]:
        available = self.target_maps()
        for name in sorted(loss.needs - available.keys()):
            raise ValueError(
                f"a term reads the map {name!r}, and target_maps() makes only "
                f"{', '.join(sorted(available))}"
            )
        return {name: available[name] for name in sorted(loss.needs)}

    def _terms_loss(self) -> TermsLoss:
        if not isinstance(self.loss, TermsLoss):
            raise TypeError(
                f"the loss of {type(self).__name__} is {type(self.loss).__name__} and lacks the "
                "terms: _build_loss must return super()._build_loss()"
            )
        return self.loss

    @contextmanager
    def _maps_for_the_loss(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Take the maps out of a batch; the loss has them until the step is over."""
        loss = self._terms_loss()
        maps, labels = self._maps_for(loss), self.target_labels
        given = batch["target"]
        targets, found = [], []
        scales = zip(loss.scales("target", given), loss.scale_weights, strict=True)
        for scale, weight in scales:
            # The whole at once: a part of a pinned tensor would be copied synchronously.
            moved = scale.to(self.device, non_blocking=True)  # type: ignore[attr-defined]
            own, extra = unpacked(moved, labels, maps) if maps and weight else (moved, {})
            targets.append(own)
            found.append(extra)
        loss.maps, loss.epoch = found, self.current_epoch
        try:
            yield {**batch, "target": targets if loss.supervised else targets[0]}
        finally:
            loss.maps = None


class SkeletonRecallMixin(SegLossMixin):
    """Adds skeleton recall to any nnU-Net trainer.

    Attributes:
        skeleton_weight: A number, or a schedule over the epochs.
        skeleton_radius: Of the tube around the centreline, in voxels.
        skeleton_per_class: Thin each class by itself rather than all as one.
    """

    skeleton_weight: Weight = 1.0
    skeleton_radius: int = 2
    skeleton_per_class: bool = False

    def loss_terms(self) -> Terms:
        """Skeleton recall, and what other mixins add."""
        encoding = self.target_labels.encoding(background=False)
        term = SkeletonRecallLoss(encoding, group=self.dice_group)
        return {**super().loss_terms(), "skeleton_recall": (self.skeleton_weight, term)}

    def target_maps(self) -> dict[str, TargetMap]:
        """The skeleton with these options."""
        skeleton = SkeletonMap(self.skeleton_radius, self.skeleton_per_class)
        return {**super().target_maps(), "skeleton": skeleton}


class BoundaryMixin(SegLossMixin):
    """Adds the boundary loss to any nnU-Net trainer.

    The distances, in mm, are divided by `boundary_clip`: a false voxel that far from the boundary,
    or further, costs `boundary_weight`, a nearer one less in proportion. Cross entropy charges an
    improbable false voxel its probability, and so does this at weight 1.

    Attributes:
        boundary_weight: A number, reached as `boundary_rise` says; or a schedule over the epochs.
        boundary_rise: The share of the training over which the weight rises from 0, because the
            boundary loss alone would have the network predict nothing.
        boundary_clip: In mm; None is 20 times the smallest side of a voxel.
    """

    boundary_weight: Weight = 1.0
    boundary_rise: float = 0.5
    boundary_clip: float | None = None

    def loss_terms(self) -> Terms:
        """The boundary loss, and what other mixins add."""
        weight = self.boundary_weight
        if not callable(weight) and self.boundary_rise:
            weight = Linear(0.0, weight, max(1, round(self.boundary_rise * self.num_epochs)))
        term = BoundaryLoss(self.target_labels.encoding(background=False), group=self.dice_group)
        return {**super().loss_terms(), "boundary": (weight, term)}

    def target_maps(self) -> dict[str, TargetMap]:
        """The distance with these options."""
        clip = 20 * min(self.voxel_size) if self.boundary_clip is None else self.boundary_clip
        return {**super().target_maps(), "distance": DistanceMap(clip=clip, normalize=True)}


class nnUNetTrainerSkeletonRecall(SkeletonRecallMixin, nnUNetTrainer):
    """nnU-Net's loss and skeleton recall."""


class nnUNetTrainerBoundary(BoundaryMixin, nnUNetTrainer):
    """nnU-Net's loss and the boundary loss, whose weight rises over the first half."""


class nnUNetTrainerSkeletonRecallBoundary(SkeletonRecallMixin, BoundaryMixin, nnUNetTrainer):
    """nnU-Net's loss, skeleton recall and the boundary loss."""


class nnUNetTrainerNestedRegions(NestedRegionsMixin, nnUNetTrainer):
    """nnU-Net's loss, on regions that are nested by construction."""


class nnUNetTrainerSegLoss(SegLossMixin, nnUNetTrainer):
    """nnU-Net with the losses that a YAML file names: see `segloss.nnunet.config`.

    The environment variable ``SEGLOSS_NNUNET_CONFIG`` names the file. A copy is kept beside the
    checkpoints.
    """

    def loss_terms(self) -> Terms:
        """From the file."""
        labels, group = self.target_labels, self.dice_group
        return {
            name: (term.weight, term.build(labels, group))
            for name, term in self._recipe.terms.items()
        }

    def target_maps(self) -> dict[str, TargetMap]:
        """With the options from the file."""
        return {**super().target_maps(), **self._recipe.maps}

    def on_train_start(self) -> None:
        """nnU-Net's, and the file is copied beside the checkpoints."""
        super().on_train_start()
        if self.local_rank == 0:
            copy = Path(self.output_folder, "segloss.yaml")
            copy.write_bytes(config_path().read_bytes())  # which it is, if a training goes on by it

    def _build_loss(self) -> TermsLoss:
        self._recipe = read_recipe(config_path())
        self.base_weight, self.fused = self._recipe.base_weight, self._recipe.fused
        return super()._build_loss()
