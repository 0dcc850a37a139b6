"""Maps behind the channels of a target, and off again."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.nnunet.running import batches, initialised

# isort: split
from segloss.nnunet.labels import Labels
from segloss.nnunet.maps import DistanceMap, SkeletonMap
from segloss.nnunet.targets import AppendMaps, unpacked
from segloss.nnunet.trainers import nnUNetTrainerSegLoss
from segloss.transforms.functional import signed_distance, tubed_skeleton
from tests.nnunet.datasets import tubes


def packed(labels: Labels, target: Tensor, **maps: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """What comes off again, of what was packed and collated."""
    append = AppendMaps(labels, maps, (2.0, 1.0, 1.0), (1.0,))
    (out,) = pickle.loads(pickle.dumps(append))(image=None, segmentation=[target])["segmentation"]
    own, found = unpacked(out[None], labels, maps)
    assert own.dtype == target.dtype
    assert torch.equal(own[0], target)
    return out, {name: values[0] for name, values in found.items()}


@pytest.mark.parametrize("ignore", [None, 2])
def test_a_single_region(ignore: int | None) -> None:
    vessel = tubes(0) > 0
    unknown = np.zeros(vessel.shape, bool)
    unknown[:, :10] = ignore is not None
    vessel &= ~unknown
    target = torch.from_numpy(np.stack([vessel, unknown] if ignore else [vessel]))
    labels = Labels(1, regions=True, ignore=ignore)
    whole, maps = packed(labels, target, skeleton=SkeletonMap())
    assert whole.dtype == torch.bool
    np.testing.assert_array_equal(maps["skeleton"][0], tubed_skeleton(vessel))
    whole, maps = packed(labels, target, distance=DistanceMap(), skeleton=SkeletonMap(radius=1))
    assert whole.dtype == torch.int16
    np.testing.assert_array_equal(maps["skeleton"][0], tubed_skeleton(vessel, radius=1))
    expected = signed_distance(vessel, spacing=(2, 1, 1), unknown=unknown)
    np.testing.assert_array_equal(maps["distance"][0], expected.astype(np.float16))


def test_each_class_can_have_a_skeleton_of_its_own() -> None:
    label = np.ones((8, 12, 30), np.int16)
    label[4:] = 2
    target = torch.from_numpy(label)[None]
    union = packed(Labels(2), target, skeleton=SkeletonMap())[1]["skeleton"]
    own = packed(Labels(2), target, skeleton=SkeletonMap(per_class=True))[1]["skeleton"]
    np.testing.assert_array_equal(own[0], tubed_skeleton(label, per_class=True))
    assert not torch.equal(own, union)


def test_distances_in_voxels_are_those_of_the_full_resolution() -> None:
    label = torch.from_numpy(tubes(0).astype(np.int16))[None]
    half = label[:, ::2, ::2, ::2].contiguous()
    maps = {"distance": DistanceMap(unit="voxel")}
    append = AppendMaps(Labels(2), maps, (9.0, 9.0, 9.0), (0.5, 0.5))
    scales = append(image=None, segmentation=[label, half])["segmentation"]
    found = unpacked(scales[1][None], Labels(2), maps)[1]["distance"][0, 0]
    expected = signed_distance(half[0].numpy() == 1, spacing=2)
    np.testing.assert_array_equal(found, expected.astype(np.float16))


def test_what_half_precision_cannot_hold_is_an_error() -> None:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int16)
    target[0, 0] = 1
    append = AppendMaps(Labels(1), {"distance": DistanceMap()}, (3e4, 1.0, 1.0), (1.0,))
    with pytest.raises(OverflowError, match=r"the distance map goes from .* clip it, or measure"):
        append(image=None, segmentation=target)


def test_a_segmentation_of_another_kind_is_an_error() -> None:
    append = AppendMaps(Labels(1), {"skeleton": SkeletonMap()}, (1.0, 1.0, 1.0), (1.0,))
    for target in (torch.zeros(1, 4, 4, 4), torch.zeros(2, 4, 4, 4, dtype=torch.int16)):
        with pytest.raises(ValueError, match=r"expected torch\.int16 with 1"):
            append(image=None, segmentation=target)


@pytest.mark.parametrize("mode", ["labels", "regions_ignore"])
def test_a_trainer_with_its_losses_from_a_file(
    folders: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGLOSS_NNUNET_CONFIG", raising=False)
    with pytest.raises(ValueError, match="export SEGLOSS_NNUNET_CONFIG=/path/to/it"):
        initialised(nnUNetTrainerSegLoss, mode)
    path = folders / "losses.yaml"
    path.write_text(
        "fused: true\nbase_weight: 0.5\nterms:\n  tversky: {weight: 2}\n"
        "  far: {loss: boundary}\nmaps: {distance: {clip: 3}}\n"
    )
    monkeypatch.setenv("SEGLOSS_NNUNET_CONFIG", str(path))
    trainer = initialised(nnUNetTrainerSegLoss, mode)
    assert trainer.loss.compound.weights["tversky"] == 2
    assert trainer.loss.compound.weights["dice"] == 0.5
    with trainer._maps_for_the_loss(batches(trainer)[0]):
        (distance,) = trainer.loss.maps[0].values()
        assert distance.max() == 3
    outcome = trainer.train_step(batches(trainer)[0])
    assert np.isfinite(outcome["loss"])
    assert set(trainer.loss.terms) == {"dice", "cross_entropy", "tversky", "far"}
