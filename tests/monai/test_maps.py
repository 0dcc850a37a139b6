"""Losses that need maps, where MONAI calls them with an input and a target."""

import copy
import pickle
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch, list_data_collate
from monai.losses import DeepSupervisionLoss as TheirDeepSupervisionLoss
from torch import Tensor, nn
from torch.testing import assert_close

import segloss
from segloss import (
    BlobLoss,
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    Linear,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
)
from segloss.batches import LabelWithMaps
from segloss.monai import DeepSupervisionLoss, PrepareBatchMaps, WithMaps
from segloss.transforms import (
    DownsampleTargetsd,
    InstanceRegions,
    SignedDistance,
    SignedDistanced,
    TubedSkeleton,
    TubedSkeletond,
)

COMPOUND = DiceLoss() + SkeletonRecallLoss() + 0.1 * BoundaryLoss()
MAPS: dict[str, Any] = {"skeleton": TubedSkeleton(), "distance": SignedDistance(num_classes=3)}


def blobs(*shape: int, classes: int = 3, seed: int = 0) -> Tensor:
    """Labels ``(b, 1, *space)`` of a few blocks, which have skeletons and distances."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.zeros(shape)
    for sample in labels:
        for value in range(1, classes):
            corner = [int(torch.randint(n - 5, (), generator=rng)) for n in shape[2:]]
            sample[(0, *(slice(c, c + 5) for c in corner))] = value
    return labels


def scores(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("space", [(12, 11), (12, 11, 10)])
@pytest.mark.parametrize("channel", [True, False])
def test_the_maps_are_those_that_a_loader_would_make(space: tuple[int, ...], channel: bool) -> None:
    label, logits = blobs(2, 1, *space), scores(2, 3, *space).requires_grad_()
    loaded = [
        SignedDistanced("label", num_classes=3)(TubedSkeletond("label")({"label": x}))
        for x in label
    ]
    batch = list_data_collate(loaded)
    expected = COMPOUND(
        logits, label, skeleton=batch["skeleton_label"], distance=batch["distance_label"]
    )
    loss = WithMaps(COMPOUND, MAPS)
    found = loss(logits, label if channel else label[:, 0])
    assert_close(found, expected, rtol=0, atol=0)
    slopes = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    assert_close(*slopes, rtol=0, atol=0)
    assert set(loss.terms) == {"dice", "skeleton_recall", "boundary"}


def test_distances_are_in_the_unit_of_each_sample() -> None:
    label = blobs(2, 1, 12, 12)
    affines = [torch.diag(torch.tensor(x)) for x in ([2.0, 3, 1, 1], [1.0, 5, 1, 1])]
    batch = list_data_collate(
        [MetaTensor(x, affine=a) for x, a in zip(label, affines, strict=True)]
    )
    logits, boundary = scores(2, 3, 12, 12), BoundaryLoss(reduction="none")
    loss = WithMaps(boundary, {"distance": SignedDistance(num_classes=3)})
    for i, spacing in enumerate([(2.0, 3.0), (1.0, 5.0)]):
        own = WithMaps(boundary, {"distance": SignedDistance(num_classes=3, spacing=spacing)})
        assert_close(loss(logits, batch)[i], own(logits[i : i + 1], label[i : i + 1])[0])


def test_ignored_voxels_and_instances_and_regions() -> None:
    label = blobs(1, 1, 12, 12)
    label[:, :, :2] = 255
    logits = scores(1, 3, 12, 12)
    ignoring = SkeletonRecallLoss(Multiclass(background=False, ignore=255))
    found = WithMaps(ignoring, {"skeleton": TubedSkeleton(ignore=255)})(logits, label)
    skeleton = TubedSkeleton(ignore=255)(label[0])[None]
    assert_close(found, ignoring(logits, label, skeleton=skeleton))

    regions = torch.cat((label == 1, label > 1), 1).float()
    of_regions = BlobLoss(Multilabel())
    found = WithMaps(of_regions, {"instances": InstanceRegions()})(logits[:, 1:], regions)
    instances = InstanceRegions()(regions[0])[None]
    assert_close(found, of_regions(logits[:, 1:], regions, instances=instances))


@pytest.mark.parametrize("wrapper", [DeepSupervisionLoss, TheirDeepSupervisionLoss])
def test_deep_supervision_has_maps_made_at_every_scale(wrapper: type[nn.Module]) -> None:
    label = blobs(2, 1, 16, 16)
    logits = [scores(2, 3, 16, 16), scores(2, 3, 8, 8)]
    loss = WithMaps(COMPOUND, MAPS)
    found = wrapper(loss)(logits, label)
    halves = [DownsampleTargetsd("label", scales=[0.5])({"label": x})["label"][0] for x in label]
    expected = loss(logits[0], label) + 0.5 * loss(logits[1], torch.stack(halves))
    assert_close(found, expected)


def test_a_voxel_of_a_low_resolution_is_larger() -> None:
    samples = [
        MetaTensor(x, affine=torch.diag(torch.tensor([1.0, 2, 3, 1]))) for x in blobs(2, 1, 8, 8, 8)
    ]
    label = list_data_collate(samples)
    seen: list[Any] = []

    class Spy(nn.Module):
        def forward(self, input: Tensor, target: Any) -> Tensor:
            seen.append(target)
            return input.sum()

    DeepSupervisionLoss(Spy())([scores(2, 3, 8, 8, 8), scores(2, 3, 4, 4, 2)], label)
    assert [x.pixdim[1].tolist() for x in seen] == [[1, 2, 3], [2, 4, 12]]
    centre = seen[1].affine[0] @ torch.tensor([0.0, 0, 0, 1]).double()
    assert centre.tolist() == [0.5, 1, 4.5, 1]


def test_it_is_configured_pickled_and_copied_as_auto3dseg_does() -> None:
    """Its templates parse the ``loss`` of their file, and wrap it in MONAI's deep supervision."""
    config = {
        "_target_": "segloss.monai.WithMaps",
        "loss": {
            "_target_": "segloss.build",
            "losses": {"dice": 1, "skeleton_recall": 1, "boundary": 0.1},
        },
        "maps": {
            "skeleton": {"_target_": "segloss.transforms.TubedSkeleton"},
            "distance": {"_target_": "segloss.transforms.SignedDistance", "num_classes": 3},
        },
    }
    parsed = ConfigParser(config).get_parsed_content(instantiate=True)
    logits, label = [scores(1, 3, 16, 16, 8), scores(1, 3, 8, 8, 4)], blobs(1, 1, 16, 16, 8)
    theirs: Any = TheirDeepSupervisionLoss
    expected = theirs(WithMaps(COMPOUND, MAPS))(logits, label)
    for loss in parsed, copy.deepcopy(parsed), pickle.loads(pickle.dumps(parsed)):
        assert_close(theirs(loss)(logits, label.byte()), expected)


def test_schedules_go_on_and_are_saved() -> None:
    loss = WithMaps(DiceLoss() + Linear(0.0, 1.0, 4) * SkeletonRecallLoss(), MAPS)
    loss.step()
    other = copy.deepcopy(loss)
    other.step()
    loss.load_state_dict(other.state_dict())
    assert loss.loss.epoch == 2
    WithMaps(CrossEntropyLoss()).step()


def loader(scales: list[float] | None = None) -> DataLoader:
    samples = []
    for seed in range(4):
        sample: dict[str, Any] = {
            "image": scores(1, 16, 16),
            "label": blobs(1, 1, 16, 16, seed=seed)[0],
        }
        if scales is None:
            sample = SignedDistanced("label", num_classes=3)(TubedSkeletond("label")(sample))
        else:
            sample = DownsampleTargetsd("label", scales=scales, maps=MAPS)(sample)
        samples.append(sample)
    return DataLoader(Dataset(samples), batch_size=2)


def test_a_packed_label_is_a_label_with_its_maps() -> None:
    (batch, _) = loader()
    with_metadata = {**batch, "label": MetaTensor(batch["label"])}
    image, target = PrepareBatchMaps(["skeleton", "distance"])(with_metadata, "cpu", True)
    assert_close(image, batch["image"])
    assert isinstance(target, LabelWithMaps)
    assert list(target.maps) == ["skeleton", "distance"]
    assert_close(target.as_subclass(Tensor), batch["label"])
    logits = scores(2, 3, 16, 16)
    maps = {name: batch[f"{name}_label"] for name in MAPS}
    assert_close(WithMaps(COMPOUND)(logits, target), COMPOUND(logits, batch["label"], **maps))
    # What it lacks is made, and only that.
    _, lacking = PrepareBatchMaps({"skeleton": "label"})(batch)
    maps["skeleton"] = batch["label"]
    assert_close(
        WithMaps(COMPOUND, MAPS)(logits, lacking), COMPOUND(logits, batch["label"], **maps)
    )
    # What is computed from it does not carry its maps.
    for changed in target[:1], target.flip(2), target.float() + 0, decollate_batch(target)[0]:
        assert type(changed) is Tensor


def test_lists_of_scales_are_packed_as_lists() -> None:
    (batch, _) = loader(scales=[1, 0.5])
    _, target = PrepareBatchMaps(["skeleton", "distance"])(batch)
    logits = [scores(2, 3, 16, 16), scores(2, 3, 8, 8)]
    loss = segloss.DeepSupervisionLoss(COMPOUND)
    maps = {name: batch[f"{name}_label"] for name in MAPS}
    assert_close(WithMaps(loss)(logits, target), loss(logits, batch["label"], **maps))
    skeletons = segloss.DeepSupervisionLoss(SkeletonRecallLoss())
    made = WithMaps(skeletons, {"skeleton": TubedSkeleton()})(logits, batch["label"])
    assert_close(made, skeletons(logits, batch["label"], skeleton=maps["skeleton"]))


def test_what_is_wrong_is_named() -> None:
    logits, label = scores(1, 3, 16, 16), blobs(1, 1, 16, 16)
    for loss, batch in (
        (SkeletonRecallLoss(), (logits, label)),
        (segloss.DeepSupervisionLoss(COMPOUND), ([logits], [label])),
    ):
        with pytest.raises(ValueError, match=r"is missing: say WithMaps\(loss, \{\"") as error:
            WithMaps(loss)(*batch)
        assert 'PrepareBatchMaps("' in str(error.value)
    with pytest.raises(ValueError, match="no term of the loss reads the map 'skeleton'"):
        WithMaps(DiceLoss(), {"skeleton": TubedSkeleton()})(logits, label)
    with pytest.raises(TypeError, match=r"two tensors, or two lists .* got list and Tensor"):
        WithMaps(COMPOUND, MAPS)([logits], label)
    with pytest.raises(KeyError, match="the batch has no 'skeleton_label', only image, label"):
        PrepareBatchMaps("skeleton")({"image": logits, "label": label})
    with pytest.raises(KeyError, match="the batch has no 'image', only label"):
        PrepareBatchMaps("skeleton")({"label": label})
    with pytest.raises(ValueError, match=r"a list of 1 labels at 'label', .* at 'skeleton_label'"):
        PrepareBatchMaps("skeleton")(
            {"image": 0 * label, "label": [label], "skeleton_label": label}
        )


def test_monais_trainer_and_its_metrics() -> None:
    pytest.importorskip("ignite")
    from monai.engines import SupervisedTrainer
    from monai.handlers import MeanDice, from_engine
    from monai.transforms import AsDiscreted

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(1, 3, 3, padding=1)

    trained, twin = network(), network()
    loss = WithMaps(COMPOUND)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=loader(),
        network=trained,
        optimizer=torch.optim.SGD(trained.parameters(), lr=0.1),
        loss_function=loss,
        prepare_batch=PrepareBatchMaps(["skeleton", "distance"]),
        postprocessing=AsDiscreted(["pred", "label"], argmax=(True, False), to_onehot=3),
        key_train_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
    )
    trainer.run()
    assert 0 < trainer.state.metrics["dice"] < 1

    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for batch in loader():
        optimizer.zero_grad()
        maps = {name: batch[f"{name}_label"] for name in MAPS}
        COMPOUND(twin(batch["image"]), batch["label"], **maps).backward()
        optimizer.step()
    assert_close(trained.weight, twin.weight)


def test_monais_trainer_with_deep_supervision() -> None:
    pytest.importorskip("ignite")
    from monai.engines import SupervisedTrainer

    class TwoScales(nn.Conv2d):
        def forward(self, input: Tensor) -> Any:
            return [out := super().forward(input), out[..., ::2, ::2]]

    network = TwoScales(1, 3, 3, padding=1)
    seen: list[Tensor] = []
    loss = WithMaps(segloss.DeepSupervisionLoss(COMPOUND))
    loss.register_forward_hook(lambda module, arguments, value: seen.append(value.detach()))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=loader(scales=[1, 0.5]),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=loss,
        prepare_batch=PrepareBatchMaps(["skeleton", "distance"]),
    )
    trainer.run()
    for value, batch in zip(seen, loader(scales=[1, 0.5]), strict=True):
        maps = {name: batch[f"{name}_label"] for name in MAPS}
        expected = segloss.DeepSupervisionLoss(COMPOUND)(
            network(batch["image"]), batch["label"], **maps
        )
        assert_close(value, expected.detach())
