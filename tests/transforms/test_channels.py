"""Maps one channel at a time: lazily, in order, and the same as the transforms make at once."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from segloss.transforms import (
    BoundaryBand,
    BoundaryWeight,
    InstanceRegions,
    SignedDistance,
    TubedSkeleton,
)
from segloss.transforms.base import stacked
from segloss.transforms.channels import (
    band_channels,
    distance_channels,
    distance_count,
    instance_channels,
    skeleton_channels,
    weight_channels,
)
from segloss.transforms.functional import centreline

LABEL = (np.random.default_rng(0).random((1, 9, 8, 7)) < 0.6).astype(np.uint8)
LABEL[:, :, 4:] *= 2
LABEL[:, 3] = 255
REGIONS = np.concatenate([LABEL > 0, LABEL == 1, LABEL == 2]).astype(np.uint8)
REGIONS[:, 3] = 255

MAPS: list[tuple[Callable[..., Iterator[np.ndarray]], type, dict[str, Any]]] = [
    (skeleton_channels, TubedSkeleton, {}),
    (distance_channels, SignedDistance, {"clip": 2}),
    (distance_channels, SignedDistance, {"normalize": True, "spacing": (1, 2, 0.5)}),
    (instance_channels, InstanceRegions, {"regions": "voronoi", "spacing": (1, 2, 0.5)}),
    (band_channels, BoundaryBand, {"width": 1.5, "dtype": np.uint8}),
    (weight_channels, BoundaryWeight, {"kind": "unet", "sigma": 2}),
]
EACH = pytest.mark.parametrize(("channels", "transform", "options"), MAPS)


class Asked:
    """Regions that are made when they are asked for, and remember it."""

    def __init__(self, regions: np.ndarray) -> None:
        self.regions = regions
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int, /) -> np.ndarray:
        self.asked.append(index)
        region: np.ndarray = self.regions[index].copy()
        return region


@EACH
def test_are_those_of_the_transform(
    channels: Callable[..., Iterator[np.ndarray]], transform: type, options: dict[str, Any]
) -> None:
    of_classes = {"num_classes": 3} if transform is SignedDistance else {}
    for label, more in (LABEL, of_classes), (REGIONS, {}):
        expected = transform(ignore=255, **options, **more)(label)
        found = list(channels(label, ignore=255, **options, **more))
        assert_array_equal(found, expected)
        assert {channel.dtype for channel in found} == {expected.dtype}


@EACH
def test_are_made_one_at_a_time(
    channels: Callable[..., Iterator[np.ndarray]], transform: type, options: dict[str, Any]
) -> None:
    label = Asked(REGIONS)
    maps = channels(label, ignore=255, **options)
    for asked in range(len(REGIONS)):
        next(maps)
        assert label.asked == list(range(asked + 1))
    assert next(maps, None) is None


@EACH
def test_nothing_holds_a_map_that_was_taken(
    channels: Callable[..., Iterator[np.ndarray]], transform: type, options: dict[str, Any]
) -> None:
    """While the next one is made, the last one may be gone."""
    taken: list[weakref.ref[np.ndarray]] = []

    class Watched(Asked):
        def __getitem__(self, index: int, /) -> np.ndarray:
            gc.collect()
            alive.append([ref() is not None for ref in taken])
            return super().__getitem__(index)

    alive: list[list[bool]] = []
    maps = channels(Watched(REGIONS), ignore=255, **options)
    for _ in REGIONS:
        taken.append(weakref.ref(next(maps)))
    assert alive == [[], [False], [False, False]]


@pytest.mark.parametrize("per_class", [False, True])
def test_centrelines_that_are_there_already(per_class: bool) -> None:
    options: dict[str, Any] = {"per_class": per_class, "ignore": 255}
    for label in LABEL, REGIONS:
        lines = [centreline(channel, **options) for channel in label]
        found = list(skeleton_channels(label, centrelines=lines, **options))
        assert_array_equal(found, list(skeleton_channels(label, **options)))


def test_centrelines_of_regions_may_be_masks() -> None:
    regions = LABEL[0] == 1, LABEL[0] == 2
    lines = [centreline(region) for region in regions]
    assert {line.dtype for line in lines} == {np.dtype(bool)}
    found = skeleton_channels(regions, centrelines=lines)
    assert_array_equal(list(found), list(skeleton_channels(np.array(regions))))


def test_as_many_centrelines_as_channels() -> None:
    with pytest.raises(ValueError, match="centrelines has 1 entries, but the label has 3 channels"):
        next(skeleton_channels(REGIONS, centrelines=LABEL))


def test_how_many_distances_there_will_be() -> None:
    assert distance_count(LABEL, num_classes=4) == 3
    assert distance_count(LABEL, num_classes=4, background=True) == 4
    assert distance_count(REGIONS) == distance_count(REGIONS, num_classes=3) == 3


def test_a_stack_is_filled_as_maps_come() -> None:
    """When the next one is made, the last one is in the stack and nowhere else."""
    refs: list[weakref.ref[np.ndarray]] = []

    def maps() -> Iterator[np.ndarray]:
        for index in range(4):
            assert sum(ref() is not None for ref in refs) == 0
            refs.append(weakref.ref(made := np.full((2, 3), index)))
            yield made
            del made

    assert_array_equal(stacked(maps(), 4)[:, 0, 0], range(4))
    one = np.zeros((2, 3))
    assert np.shares_memory(stacked(iter([one]), 1), one)
