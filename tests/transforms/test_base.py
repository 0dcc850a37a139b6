"""What every target map promises in a MONAI pipeline, whichever map it is."""

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    PersistentDataset,
    ThreadDataLoader,
    pickle_hashing,
)
from monai.transforms import Compose, RandFlipd, Rotate90d, Spacingd, Transform
from numpy.testing import assert_array_equal

import segloss.transforms
from segloss.transforms import (
    BoundaryBand,
    BoundaryBandd,
    BoundaryWeight,
    BoundaryWeightd,
    InstanceRegions,
    InstanceRegionsd,
    SignedDistance,
    SignedDistanced,
    SoftenLabels,
    SoftenLabelsd,
    TubedSkeleton,
    TubedSkeletond,
)
from segloss.transforms.base import TargetMap, TargetMapd

# array form, dictionary form, arguments, key
PAIRS: list[tuple[type[TargetMap], type[TargetMapd], dict[str, Any], str]] = [
    (TubedSkeleton, TubedSkeletond, {}, "skeleton_label"),
    (SignedDistance, SignedDistanced, {"num_classes": 3}, "distance_label"),
    (BoundaryBand, BoundaryBandd, {"width": 1.5}, "band_label"),
    (InstanceRegions, InstanceRegionsd, {"regions": "voronoi"}, "instances_label"),
    (BoundaryWeight, BoundaryWeightd, {"kind": "unet", "sigma": 2}, "weight_label"),
    (SoftenLabels, SoftenLabelsd, {"num_classes": 3}, "soft_label"),
]
NAMES = [array.__name__ for array, *_ in PAIRS]
EACH = pytest.mark.parametrize(("array", "dictionary", "options", "key"), PAIRS, ids=NAMES)

LABEL = (np.random.default_rng(0).random((1, 9, 8, 7)) < 0.6).astype(np.int16)
LABEL[:, :, 4:] *= 2
AFFINE = torch.diag(torch.tensor([2.0, 0.5, 3.0, 1.0]))


@EACH
class TestEachMap:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
    @pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, MetaTensor])
    def test_container_comes_back(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
        make: Callable[..., Any],
        dtype: type,
    ) -> None:
        transform, label = array(**options), make(LABEL.astype(dtype))
        expected, result = transform(LABEL), transform(label)
        assert type(result) is type(label)
        assert_array_equal(np.asarray(result), expected)
        assert np.asarray(result).dtype == expected.dtype
        assert_array_equal(np.asarray(label), LABEL)

    def test_metadata_comes_back(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        label = MetaTensor(LABEL, affine=AFFINE, meta={"patient": "x"})
        result = array(**options)(label)
        assert isinstance(result, MetaTensor)
        assert_array_equal(result.affine, AFFINE)
        assert result.meta["patient"] == "x"
        result.meta["patient"] = "y"
        assert label.meta["patient"] == "x"

    def test_dictionary_adds_and_keeps(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        sample = {"label": LABEL.copy(), "image": "image"}
        result = dictionary("label", **options)(sample)
        assert result.keys() == {"label", "image", key}
        assert sample.keys() == {"label", "image"}
        assert result["label"] is sample["label"]
        assert_array_equal(result["label"], LABEL)
        assert_array_equal(result[key], array(**options)(LABEL))

        assert "other_label" in dictionary("label", new_key_prefix="other_", **options)(sample)
        assert dictionary("x", allow_missing_keys=True, **options)(sample).keys() == sample.keys()
        with pytest.raises(KeyError, match="x"):
            dictionary("x", **options)(sample)
        with pytest.raises(ValueError, match="the map would take the label's place"):
            dictionary("label", new_key_prefix="", **options)

    def test_dictionary_takes_what_the_array_takes(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        one, other = (inspect.signature(t).parameters for t in (array, dictionary))
        assert other.keys() - one.keys() == {"keys", "new_key_prefix", "allow_missing_keys"}
        assert {k: p.default for k, p in one.items()} == {k: other[k].default for k in one}
        for alias in "D", "Dict":
            assert getattr(segloss.transforms, array.__name__ + alias) is dictionary

    def test_is_a_transform_that_pickles(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        for transform in array(**options), dictionary("label", **options):
            assert isinstance(transform, Transform)
        twin = pickle.loads(pickle.dumps(array(**options)))
        assert_array_equal(twin(LABEL), array(**options)(LABEL))

    def test_cached_before_the_first_random_transform(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        chain = Compose([dictionary("label", **options), RandFlipd(["label", key], prob=1.0)])
        dataset = CacheDataset([{"label": LABEL}], chain, progress=False)
        assert key in dataset._cache[0]
        assert_array_equal(dataset[0][key], np.flip(array(**options)(LABEL), axis=(1, 2, 3)))

    @pytest.mark.parametrize(
        "shape", [(9,), (4, 5), (1, 2, 3, 4, 5), (1, 0, 4)], ids=lambda shape: f"{len(shape)}D"
    )
    def test_no_channel_first_image(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
        shape: tuple[int, ...],
    ) -> None:
        with pytest.raises(ValueError, match=r"the label has shape .*EnsureChannelFirstd"):
            array(**options)(np.zeros(shape, dtype=np.uint8))

    def test_labels_that_were_interpolated(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        with pytest.raises(TypeError, match=r"got 0\.5: resample labels with mode='nearest'"):
            array(**options)(torch.full((1, 4, 4), 0.5))

    def test_class_ids_in_several_channels(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        label = np.concatenate([LABEL, LABEL, LABEL])
        with pytest.raises(ValueError, match=r"several channels holds 2: each channel is a region"):
            array(**options)(label)

    def test_regions_are_one_by_one(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        regions = np.concatenate([LABEL > 0, LABEL == 1, LABEL == 2])
        transform = array(**options)
        if "num_classes" in options:
            options = {**options, "num_classes": 2}
        # The last of a region's maps is its own; the background may have one, too.
        alone = np.concatenate([array(**options)(channel[None])[-1:] for channel in regions])
        for label in regions, regions.astype(np.float32):
            assert_array_equal(transform(label), alone)

    def test_regions_with_unknown_voxels(
        self,
        array: type[TargetMap],
        dictionary: type[TargetMapd],
        options: dict[str, Any],
        key: str,
    ) -> None:
        regions = np.concatenate([LABEL > 0, LABEL == 1, LABEL == 2]).astype(np.uint8)
        regions[:, 2:4] = 255
        result = array(**{**options, "ignore": 255})(regions)
        kept = 255 if array is SoftenLabels else 0  # a target is told by it what is unknown
        assert (result[:, 2:4] == kept).all()
        assert result[:, :2].any()


SAMPLES = [{"label": torch.from_numpy(np.roll(LABEL, shift, 1))} for shift in range(4)]
CHAIN = Compose([dictionary("label", **options) for _, dictionary, options, _ in PAIRS])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers(method: str) -> None:
    expected = [CHAIN(sample) for sample in SAMPLES]
    loader = DataLoader(
        Dataset(SAMPLES, CHAIN), batch_size=2, num_workers=1, multiprocessing_context=method
    )
    batches = list(loader)
    for *_, key in PAIRS:
        found = torch.cat([batch[key] for batch in batches])
        assert_array_equal(found, torch.stack([sample[key] for sample in expected]))


def test_worker_threads() -> None:
    loader = ThreadDataLoader(
        Dataset(SAMPLES, CHAIN), batch_size=1, num_workers=2, use_thread_workers=True
    )
    for sample, batch in zip(SAMPLES, loader, strict=True):
        assert_array_equal(batch["skeleton_label"][0], CHAIN(sample)["skeleton_label"])


def test_a_persistent_cache_notices_a_changed_parameter(tmp_path: Path) -> None:
    def skeleton(radius: int) -> Any:
        dataset = PersistentDataset(
            SAMPLES, TubedSkeletond("label", radius), tmp_path, hash_transform=pickle_hashing
        )
        return dataset[0]["skeleton_label"]

    for radius in 2, 0, 2:
        assert_array_equal(skeleton(radius), TubedSkeleton(radius)(SAMPLES[0]["label"]))


@pytest.mark.parametrize("lazy", [False, True])
def test_in_a_lazy_chain_pending_operations_come_first(lazy: bool) -> None:
    chain = Compose(
        [
            Rotate90d("label", k=1, spatial_axes=(0, 1)),
            Spacingd("label", pixdim=(1.0, 1.0, 1.0), mode="nearest"),
            TubedSkeletond("label", radius=1),
            SignedDistanced("label", num_classes=3),
        ],
        lazy=lazy,
        overrides={"label": {"mode": "nearest"}},  # a lazy Spacingd forgets its own mode
    )
    sample = chain({"label": MetaTensor(LABEL.astype(np.float32), affine=AFFINE)})
    label = sample["label"]
    assert not label.pending_operations
    assert label.shape != LABEL.shape
    assert_array_equal(sample["skeleton_label"], TubedSkeleton(1)(label))
    assert_array_equal(sample["distance_label"], SignedDistance(3)(label))
