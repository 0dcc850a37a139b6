"""Labels and maps for deep supervision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from numpy.testing import assert_array_equal

import segloss.transforms
from segloss.transforms import (
    BoundaryBand,
    DownsampleTargetsd,
    SignedDistance,
    TubedSkeleton,
    TubedSkeletond,
)
from segloss.transforms.functional import downsample

LABEL = np.sort(np.random.default_rng(0).integers(0, 3, (1, 9, 8, 12)), axis=2)
MAPS = {"skeleton": TubedSkeleton(), "distance": SignedDistance(num_classes=3)}
SCALES = (1, 0.5, (0.5, 0.25, 0.25))
SHAPES = [(9, 8, 12), (5, 4, 6), (5, 2, 3)]
SPACING = (2.0, 0.5, 3.0)
AFFINE = torch.diag(torch.tensor([*SPACING, 1.0]))


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, MetaTensor])
def test_lists_of_labels_and_of_maps_made_anew(make: Callable[..., Any]) -> None:
    label = make(LABEL)
    sample = {"label": label}
    result = DownsampleTargetsd("label", SCALES, MAPS)(sample)
    assert sample["label"] is label
    assert result["label"][0] is label
    for i, shape in enumerate(SHAPES):
        low = result["label"][i]
        assert type(low) is type(label)
        assert low.dtype == label.dtype
        assert_array_equal(np.asarray(low[0]), downsample(LABEL[0], shape))
        skeleton, distance = result["skeleton_label"][i], result["distance_label"][i]
        assert_array_equal(skeleton, TubedSkeleton()(low))
        spacing = np.array(SHAPES[0]) / shape
        assert_array_equal(distance, SignedDistance(3)(low, spacing=spacing))


@pytest.mark.parametrize("given", [False, True])
def test_distances_keep_their_unit(given: bool) -> None:
    label = MetaTensor(LABEL, affine=torch.eye(4) if given else AFFINE)
    maps = {
        "distance": SignedDistance(3, spacing=SPACING if given else None),
        "band": BoundaryBand(3, spacing=SPACING if given else None),
    }
    result = DownsampleTargetsd("label", (0.5,), maps)({"label": label})
    (low,), (distance,), (band,) = (
        result["label"], result["distance_label"], result["band_label"]
    )  # fmt: skip
    spacing = np.array(SPACING) * np.array(SHAPES[0]) / SHAPES[1]
    assert_array_equal(distance, SignedDistance(3, spacing=spacing)(low))
    assert_array_equal(band, BoundaryBand(3, spacing=spacing)(low))


def test_the_affine_follows() -> None:
    """The corners of the image stay where they are."""
    label = MetaTensor(LABEL, affine=AFFINE)
    (low,) = DownsampleTargetsd("label", (0.5,))({"label": label})["label"]
    for corner in np.ndindex(2, 2, 2):
        full, half = (
            a.affine.numpy() @ [*(np.array(corner) * a.shape[1:] - 0.5), 1] for a in (label, low)
        )
        np.testing.assert_allclose(half, full, atol=1e-6)
    assert_array_equal(label.affine, AFFINE)


def test_images() -> None:
    label = MetaTensor(LABEL[..., 0], affine=AFFINE)
    result = DownsampleTargetsd("label", (1, 0.5), MAPS)({"label": label})
    assert [low.shape for low in result["label"]] == [(1, 9, 8), (1, 5, 4)]
    assert result["label"][1].pixdim.tolist() == pytest.approx([2.0 * 9 / 5, 1.0])


@pytest.mark.parametrize("workers", [0, 2])
def test_collates_into_lists_of_batches(workers: int) -> None:
    samples = [{"label": MetaTensor(np.roll(LABEL, i, 2), affine=AFFINE)} for i in range(2)]
    dataset = Dataset(samples, DownsampleTargetsd("label", SCALES, MAPS))
    (batch,) = DataLoader(dataset, batch_size=2, num_workers=workers)
    assert [tuple(low.shape) for low in batch["label"]] == [(2, 1, *shape) for shape in SHAPES]
    assert [tuple(m.shape) for m in batch["skeleton_label"]] == [(2, 1, *s) for s in SHAPES]
    assert [tuple(m.shape) for m in batch["distance_label"]] == [(2, 2, *s) for s in SHAPES]
    for i in range(2):
        alone = dataset[i]
        for key in "label", "skeleton_label", "distance_label":
            for scale in range(3):
                assert_array_equal(batch[key][scale][i], alone[key][scale])


def test_a_float_a_hair_above_an_integer_is_that_integer() -> None:
    (low,) = DownsampleTargetsd("x", (1 / 3 + 1e-12,))({"x": np.zeros((1, 30, 99))})["x"]
    assert low.shape == (1, 10, 33)


def test_aliases_and_missing_keys() -> None:
    for alias in "D", "Dict":
        assert getattr(segloss.transforms, f"DownsampleTargets{alias}") is DownsampleTargetsd
    assert DownsampleTargetsd("x", (1,), allow_missing_keys=True)({"y": 0}) == {"y": 0}


@pytest.mark.parametrize(
    ("scales", "maps", "error", "message"),
    [
        ((), {}, ValueError, "scales is empty"),
        ((1, 2), {}, ValueError, "a scale must be above 0 and up to 1, got 2"),
        ((1, 0), {}, ValueError, "a scale must be a finite number above 0, got 0"),
        (
            ((1, 0.5),),
            {},
            ValueError,
            r"scale \(1.0, 0.5\) has 2 numbers, but the image has 3 axes",
        ),
        ((1,), {"x": TubedSkeletond("label")}, TypeError, r"maps\['x'\] is .* array transform"),
        ((1,), [TubedSkeleton()], TypeError, r"maps(?s:.*)TubedSkeleton"),
    ],
)
def test_held_wrong(scales: Any, maps: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DownsampleTargetsd("label", scales, maps)({"label": LABEL})
