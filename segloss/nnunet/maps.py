"""The target maps that nnU-Net's workers make, each with its options."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from segloss.nnunet.labels import Labels
from segloss.transforms.arrays import positive, whole
from segloss.transforms.channels import Channels, distance_channels, skeleton_channels

__all__ = ["DistanceMap", "Sample", "SkeletonMap", "TargetMap"]


class Sample(NamedTuple):
    """The label of one patch at one of the scales of deep supervision."""

    channels: Channels
    """Class labels in one channel, or one channel for each region."""
    ignore: int | None
    """What marks unknown voxels in them."""
    labels: Labels
    spacing: tuple[float, ...]
    """Size of a voxel of this scale along each axis, in mm."""
    shrunk: tuple[float, ...]
    """The same in voxels of the full resolution."""


class TargetMap(ABC):
    """Makes a map of a label. Picklable, because workers may be spawned."""

    real: ClassVar[bool]
    """Whether it holds real numbers, kept in half precision on their way to the loss."""

    @abstractmethod
    def channels(self, labels: Labels) -> int:
        """How many channels the map has."""

    @abstractmethod
    def make(self, sample: Sample) -> Iterator[np.ndarray]:
        """The map, one channel at a time."""


@dataclass(frozen=True)
class SkeletonMap(TargetMap):
    """The class on a tube around its centreline, 0 elsewhere; for regions, a mask of each tube.

    Args:
        radius: Of the tube, in voxels of its scale.
        per_class: Thin each class by itself rather than all as one; see
            `segloss.transforms.functional.tubed_skeleton`. Regions are thinned each in any case.

    Raises:
        TypeError: If the radius is not an integer.
        ValueError: If it is negative.
    """

    radius: int = 2
    per_class: bool = False
    real = False

    def __post_init__(self) -> None:
        whole("radius", self.radius, least=0)

    def channels(self, labels: Labels) -> int:
        return labels.classes if labels.regions else 1

    def make(self, sample: Sample) -> Iterator[np.ndarray]:
        return skeleton_channels(
            sample.channels, radius=self.radius, per_class=self.per_class, ignore=sample.ignore
        )


@dataclass(frozen=True)
class DistanceMap(TargetMap):
    """The signed distance to the boundary of each class or region, negative inside.

    It travels in half precision, whose relative error of 1/2000 is nothing beside a voxel.

    Args:
        unit: ``"mm"``, by the spacing in nnU-Net's plans, or ``"voxel"``, of the full resolution.
        clip: Distances beyond ``±clip`` become ``±clip``.
        normalize: Divide by `clip`, or without one each map by its own largest absolute value.

    Raises:
        TypeError: If `clip` is not a number.
        ValueError: If it is not above 0, or the unit is none of the two.
    """

    unit: str = "mm"
    clip: float | None = None
    normalize: bool = False
    real = True

    def __post_init__(self) -> None:
        if self.unit not in ("mm", "voxel"):
            raise ValueError(f"unit must be 'mm' or 'voxel', got {self.unit!r}")
        if self.clip is not None:
            positive("clip", self.clip)

    def channels(self, labels: Labels) -> int:
        return labels.classes

    def make(self, sample: Sample) -> Iterator[np.ndarray]:
        several = len(sample.channels) > 1
        return distance_channels(
            sample.channels,
            num_classes=None if several else sample.labels.classes + 1,
            spacing=sample.spacing if self.unit == "mm" else sample.shrunk,
            ignore=sample.ignore,
            clip=self.clip,
            normalize=self.normalize,
        )
