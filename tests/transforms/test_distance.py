"""The signed distance as a transform: classes, spacing, scale."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.testing import assert_allclose, assert_array_equal

from segloss.transforms import SignedDistance
from segloss.transforms.functional import signed_distance
from tests.reference.maps import published_distance

LABEL = np.random.default_rng(0).integers(0, 3, (1, 6, 7, 8))
SPACING = (2.0, 0.5, 3.0)


def test_a_map_for_each_class() -> None:
    classes = [signed_distance(LABEL[0] == c) for c in range(4)]
    assert not classes[3].any()  # it is not there
    assert_array_equal(SignedDistance(4)(LABEL), classes[1:])
    assert_array_equal(SignedDistance(4, background=True)(LABEL), classes)


def test_the_ignored_belong_to_no_class() -> None:
    unknown = LABEL[0] == 2
    maps = SignedDistance(2, background=True, ignore=2)(LABEL)
    for c in 0, 1:
        assert_array_equal(maps[c], signed_distance(LABEL[0] == c, unknown=unknown))
    assert not maps[:, unknown].any()


def test_published_convention() -> None:
    maps = SignedDistance(3, convention="kervadec", spacing=SPACING)(LABEL)
    assert_allclose(maps[0], published_distance(LABEL[0] == 1, SPACING), rtol=1e-5, atol=1e-5)


def test_spacing_is_that_of_the_image() -> None:
    """The length of each column of the affine, in the order of the array, whatever the rotation."""
    affine = torch.eye(4).double()
    affine[:3, :3] = torch.tensor([[0, 0.5, 0], [-2.0, 0, 0], [0, 0, 3.0]])
    image = MetaTensor(LABEL, affine=affine)
    expected = SignedDistance(3, spacing=SPACING)(LABEL)
    assert_array_equal(SignedDistance(3)(image), expected)
    assert_array_equal(SignedDistance(3)(LABEL, spacing=np.array(SPACING)), expected)

    flat = MetaTensor(LABEL[..., 0], affine=affine)
    assert_array_equal(
        SignedDistance(3)(flat), SignedDistance(3, spacing=SPACING[:2])(LABEL[..., 0])
    )
    in_voxels = SignedDistance(3, spacing=1)(image)
    assert_array_equal(in_voxels, SignedDistance(3)(LABEL))
    assert_array_equal(in_voxels, SignedDistance(3)(torch.from_numpy(LABEL)))


def test_clip_and_normalize() -> None:
    raw = np.asarray(SignedDistance(4)(np.sort(LABEL, axis=2)))
    assert abs(raw[:2]).max() > 2

    def scaled(**options: Any) -> Any:
        maps = SignedDistance(4, **options)(np.sort(LABEL, axis=2))
        assert maps.dtype == np.float32
        return maps

    assert_array_equal(scaled(clip=2), np.clip(raw, -2, 2))
    assert_array_equal(scaled(clip=2, normalize=True), np.clip(raw, -2, 2) / 2)
    largest = abs(raw).max(axis=(1, 2, 3), keepdims=True)
    assert_array_equal(scaled(normalize=True)[:2], (raw / np.where(largest, largest, 1))[:2])
    assert not scaled(normalize=True)[2].any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "num_classes must be 2 or more, got 1"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be an integer of 2 or more, got 2.0"),
        ({"convention": "edges"}, ValueError, r"convention must be one of \('face', 'kervadec'\)"),
        ({"spacing": (1, 0, 1)}, ValueError, "spacing must be a finite number above 0, got 0"),
        ({"spacing": -1}, ValueError, "spacing must be a finite number above 0, got -1"),
        ({"clip": 0}, ValueError, "clip must be a finite number above 0, got 0"),
    ],
)
def test_made_wrong(options: dict[str, Any], error: type[Exception], message: str) -> None:
    if options.get("num_classes") == 2.0 and not isinstance(options["num_classes"], int):
        message = f"{message}|num_classes"  # the type checks of the tests may speak first
    with pytest.raises(error, match=message):
        SignedDistance(**options)


@pytest.mark.parametrize(
    ("options", "label", "message"),
    [
        ({}, LABEL, "num_classes is needed"),
        ({"num_classes": 2}, LABEL, "holds class 2, but num_classes is 2: ids go up to 1.*ignore="),
        ({"num_classes": 3}, LABEL[:, :, 0] > 0, r"spacing has 3 entries"),
        ({"num_classes": 3}, np.zeros((2, 4, 5)), "has 2 channels, a region each, but num_classes"),
    ],
)
def test_called_wrong(options: dict[str, Any], label: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SignedDistance(**options)(label, spacing=(1, 1, 1) if "entries" in message else None)
