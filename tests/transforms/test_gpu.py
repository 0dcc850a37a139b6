"""Maps on a GPU are those of the CPU. Without a GPU the stand-in is one; with one, see the end."""

import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Flip
from monai.utils import TransformBackends
from numpy.testing import assert_allclose, assert_array_equal

from segloss.metrics.topology import betti_number
from segloss.transforms import (
    BoundaryBand,
    BoundaryWeight,
    DownsampleTargetsd,
    InstanceRegions,
    SignedDistance,
    SoftenLabels,
    TargetMaps,
    TubedSkeleton,
    TubedSkeletond,
    containers,
)
from segloss.transforms.base import ON_GPU_TOO, TargetMap
from segloss.transforms.functional import (
    boundary_band,
    boundary_weight,
    centreline,
    downsample,
    instance_regions,
    signed_distance,
    skeleton,
    tube,
    tubed_skeleton,
)
from segloss.transforms.kernels import gpu
from tests.transforms.stand_in import DeviceArray, StandIn, on_gpu, to_gpu
from tests.transforms.strategies import anisotropic, label_maps, masks

LABEL = np.random.default_rng(0).integers(0, 3, (1, 7, 8, 9)).astype(np.uint8)
REGIONS = np.concatenate([LABEL > 0, LABEL > 1]).astype(np.uint8)
SAME: list[TargetMap] = [  # as on the CPU, up to rounding
    SignedDistance(num_classes=3, clip=2, normalize=True),
    SignedDistance(num_classes=3, background=True, ignore=2, spacing=(1, 2, 0.5)),
    SignedDistance(num_classes=3, convention="kervadec"),
    InstanceRegions(),
    InstanceRegions("voronoi", connectivity=1, ignore=2),
    BoundaryBand(width=1.5, ignore=2),
    BoundaryWeight("distance", sigma=2),
    BoundaryWeight("unet", sigma=2, ignore=2),
    BoundaryWeight("linear", ignore=2),
    SoftenLabels(num_classes=3, ignore=2),
]
ALL = [*SAME, TubedSkeleton(), TubedSkeleton(per_class=True, ignore=2, radius=1)]


@pytest.mark.usefixtures("stand_in")
class TestArrayFunctions:
    @given(masks(), st.data(), st.sampled_from(["face", "kervadec"]))
    def test_signed_distance(self, mask: np.ndarray, data: st.DataObject, convention: str) -> None:
        options: dict[str, Any] = {
            "spacing": data.draw(anisotropic(mask.ndim)),
            "convention": convention,
        }
        found = on_gpu(signed_distance, mask, **options)
        assert_allclose(found, signed_distance(mask, **options), rtol=1e-5, atol=1e-6)
        unknown = np.roll(mask, 1, axis=0)
        found = on_gpu(signed_distance, mask, unknown=unknown, **options)
        expected = signed_distance(mask, unknown=unknown, **options)
        assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    @given(label_maps, st.data(), st.sampled_from([None, 2, -1, 300]))
    def test_the_other_maps(
        self, labels: np.ndarray, data: st.DataObject, ignore: int | None
    ) -> None:
        options: dict[str, Any] = {"spacing": (2.0, 1.0, 4.0)[: labels.ndim], "ignore": ignore}
        assert_array_equal(
            on_gpu(boundary_band, labels, width=1.7, **options),
            boundary_band(labels, width=1.7, **options),
        )
        for kind in "distance", "unet":
            assert_allclose(
                on_gpu(boundary_weight, labels, kind=kind, **options),
                boundary_weight(labels, kind=kind, **options),
                rtol=1e-5,
            )
        for regions in "components", "voronoi":
            assert_array_equal(
                on_gpu(instance_regions, labels, regions=regions, **options),
                instance_regions(labels, regions=regions, **options),
            )
        shape = tuple(data.draw(st.integers(1, size)) for size in labels.shape)
        assert_array_equal(on_gpu(downsample, labels, shape), downsample(labels, shape))

    @given(label_maps, st.booleans(), st.sampled_from([None, 2]))
    def test_tubes(self, labels: np.ndarray, per_class: bool, ignore: int | None) -> None:
        options: dict[str, Any] = {"per_class": per_class, "ignore": ignore}
        line = on_gpu(centreline, labels, **options)
        known = np.where(labels == ignore, 0, labels)
        assert_array_equal(line, known * (line != 0))
        for one in (1, 2, 3) if per_class else (known,):
            mask, thin = (known == one, line == one) if per_class else (known > 0, line > 0)
            assert_array_equal(thin, on_gpu(skeleton, mask))
            assert [betti_number(thin, d) for d in (0, 1)] == [
                betti_number(mask, d) for d in (0, 1)
            ]
        assert_array_equal(
            on_gpu(tubed_skeleton, labels, radius=1, **options),
            tube(line, labels, radius=1, **options),
        )
        assert_array_equal(
            on_gpu(tube, line, labels, radius=2, **options),
            tube(line, labels, radius=2, **options),
        )

    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float32])
    def test_every_dtype_of_labels(self, dtype: type) -> None:
        labels = (LABEL[0] > 0).astype(dtype)
        found = on_gpu(tubed_skeleton, labels)
        assert found.dtype == dtype
        assert_array_equal(found, on_gpu(tubed_skeleton, LABEL[0] > 0).astype(dtype))

    def test_complaints_are_those_of_the_cpu(self) -> None:
        with pytest.raises(TypeError, match=r"got 0\.5: resample labels"):
            centreline(to_gpu(np.full((3, 3), 0.5)))
        with pytest.raises(ValueError, match="labels holds -1: class ids are 0 or more"):
            boundary_band(to_gpu(np.full((3, 3), -1)), width=1)
        with pytest.raises(ValueError, match="centreline holds 1 where labels hold 2"):
            tube(to_gpu(np.ones((2, 2), int)), to_gpu(np.full((2, 2), 2)), radius=1)
        with pytest.raises(TypeError, match="mask has dtype int64, expected bool"):
            skeleton(to_gpu(np.ones((2, 2), np.int64)))


@pytest.mark.parametrize("label", [LABEL, REGIONS, LABEL[:, 3]], ids=["ids", "regions", "image"])
@pytest.mark.usefixtures("stand_in")
def test_transforms_of_cupys_arrays(label: np.ndarray) -> None:
    for transform in SAME:
        if len(label) > 1 and isinstance(transform, SignedDistance | SoftenLabels):
            transform = type(transform)()  # the number of classes is that of the regions
        if len(label) == 1 and label.ndim == 3 and transform.spacing is not None:
            continue
        found = on_gpu(transform, label)
        expected: Any = transform(label)
        assert found.dtype == expected.dtype
        assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    tubes = on_gpu(TubedSkeleton(), label)
    assert tubes.shape == label.shape
    assert tubes.dtype == (bool if len(label) > 1 else np.int16)


@pytest.fixture
def tensors_on_gpu(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors on the CPU pass for tensors on a GPU."""
    monkeypatch.setattr(containers, "_on_cuda", lambda label: isinstance(label, torch.Tensor))
    monkeypatch.setattr(containers, "_stream", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


@pytest.mark.usefixtures("tensors_on_gpu")
class TestTensors:
    @pytest.mark.parametrize("make", [torch.as_tensor, MetaTensor])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bool])
    def test_come_back_as_what_they_were(
        self, make: Callable[..., torch.Tensor], dtype: torch.dtype
    ) -> None:
        label = make(torch.as_tensor(LABEL).to(dtype))
        for transform in SAME:
            found = transform(label)
            assert type(found) is type(label)
            expected: Any = transform(label.numpy())
            assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)
            assert found.dtype == torch.as_tensor(expected).dtype
        regions = TubedSkeleton()(make(torch.as_tensor(REGIONS).to(dtype)))
        assert regions.dtype == torch.bool

        class Same(TargetMap):
            backend = ON_GPU_TOO

            def make(self, channels: Any, spacing: Any) -> Any:
                assert isinstance(channels, DeviceArray)
                assert channels.dtype == label.numpy().dtype
                return channels

        same: Any = Same()(label)
        assert same.dtype == label.dtype
        assert torch.equal(same, label)

    def test_keep_their_metadata_and_give_their_spacing(self) -> None:
        affine = torch.diag(torch.tensor([2.0, 0.5, 3.0, 1.0]))
        label = MetaTensor(torch.as_tensor(LABEL), affine=affine, meta={"name": "case"})
        found: Any = SignedDistance(num_classes=3)(label)
        assert_array_equal(found.affine, label.affine)
        assert found.meta["name"] == "case"
        expected: Any = SignedDistance(num_classes=3, spacing=(2.0, 0.5, 3.0))(LABEL)
        assert_allclose(found.numpy(), expected, rtol=1e-5)

    def test_in_dictionaries_and_at_several_scales(self) -> None:
        sample = TubedSkeletond("label")({"label": torch.as_tensor(LABEL)})
        assert_array_equal(sample["skeleton_label"], TubedSkeleton()(torch.as_tensor(LABEL)))
        scaled = DownsampleTargetsd("label", (1, 0.5), {"instances": InstanceRegions()})(sample)
        low = downsample(LABEL, (1, 4, 4, 5))
        assert_array_equal(scaled["label"][1], low)
        assert_array_equal(scaled["instances_label"][1], InstanceRegions()(low))

    def test_are_thinned_as_one_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        thinned, calls = gpu.thinned, []

        def counted(masks: Any) -> Any:
            calls.append(masks.shape)
            return thinned(masks)

        monkeypatch.setattr(gpu, "thinned", counted)
        batch = torch.as_tensor(np.stack([LABEL, np.roll(LABEL, 1, axis=2)]))
        found = TargetMaps({"skeleton": TubedSkeleton(per_class=True)})(batch)["skeleton"]
        assert calls == [(4, 7, 8, 9)]  # two samples with two classes each
        for each, label in zip(found, batch, strict=True):
            assert_array_equal(each, TubedSkeleton(per_class=True)(label))

    def test_a_map_that_only_numpy_makes(self) -> None:
        class Foreground(TargetMap):
            def make(self, channels: Any, spacing: Any) -> Any:
                assert type(channels) is np.ndarray
                return channels > 0

        assert_array_equal(Foreground()(torch.as_tensor(LABEL)), LABEL > 0)


def test_without_cupy_maps_are_made_on_the_cpu_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "_on_cuda", lambda label: isinstance(label, torch.Tensor))
    monkeypatch.setattr(containers, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"CuPy is not installed.*segloss-monai\[cupy\]"):
        found = TubedSkeleton()(torch.as_tensor(LABEL))
    assert_array_equal(found, TubedSkeleton()(LABEL))


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_monai_is_told_that_cupy_can(transform: TargetMap) -> None:
    assert transform.backend == [TransformBackends.NUMPY, TransformBackends.CUPY]


class TestTargetMaps:
    maps = TargetMaps({"skeleton": TubedSkeleton(), "distance": SignedDistance(num_classes=3)})

    @pytest.mark.parametrize("shape", [(3, 1, 7, 8, 9), (2, 1, 7, 8), (1, 1, 5, 5)])
    def test_each_sample_has_the_maps_that_it_has_alone(self, shape: tuple[int, ...]) -> None:
        labels = torch.as_tensor(np.random.default_rng(0).integers(0, 3, shape))
        found = self.maps(labels)
        assert list(found) == ["skeleton", "distance"]
        for i, label in enumerate(labels):
            assert torch.equal(found["skeleton"][i], TubedSkeleton()(label))  # type: ignore[arg-type]
            assert torch.equal(found["distance"][i], SignedDistance(num_classes=3)(label))  # type: ignore[arg-type]
        assert not any(each.requires_grad for each in found.values())

    def test_each_sample_of_a_loader_has_its_own_spacing(self) -> None:
        affines = [torch.diag(torch.tensor([s, s, s, 1.0])) for s in (1.0, 2.0)]
        data = [{"label": MetaTensor(torch.as_tensor(LABEL), affine=each)} for each in affines]
        (batch,) = DataLoader(Dataset(data), batch_size=2)
        one, other = self.maps(batch["label"])["distance"]
        assert type(one) is torch.Tensor
        assert torch.equal(2 * one, other)

    def test_it_is_pickled_and_printed(self) -> None:
        copy = pickle.loads(pickle.dumps(self.maps))
        labels = torch.as_tensor(LABEL[None])
        assert torch.equal(copy(labels)["distance"], self.maps(labels)["distance"])
        assert repr(copy) == "TargetMaps(maps=['skeleton', 'distance'])"

    def test_held_wrong(self) -> None:
        with pytest.raises(ValueError, match="maps is empty"):
            TargetMaps({})
        with pytest.raises(TypeError, match=r"maps\['skeleton'\] is <.*Flip.*: expected an array"):
            TargetMaps({"skeleton": Flip()})
        # Run-time type checks, where they are on, say it before the package can.
        with pytest.raises(TypeError, match=r"maps(?s:.*)TubedSkeleton"):
            TargetMaps(TubedSkeleton())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"the label has shape \(1, 7, 8\): expected \(batch"):
            self.maps(torch.zeros(1, 7, 8))


@pytest.mark.gpu
class TestOnAGpu:
    """The same once more, with CuPy itself."""

    @pytest.fixture(autouse=True)
    def cupy(self) -> Any:
        return pytest.importorskip("cupy")

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
    @pytest.mark.parametrize("transform", SAME, ids=lambda t: type(t).__name__)
    def test_maps_are_those_of_the_cpu(self, transform: TargetMap, dtype: torch.dtype) -> None:
        label = torch.as_tensor(LABEL).to(dtype)
        found: Any = transform(label.cuda())
        assert found.is_cuda
        expected: Any = transform(label)
        assert found.dtype == expected.dtype
        assert_allclose(found.cpu(), expected, rtol=1e-5, atol=1e-6)

    def test_centrelines_are_those_of_the_same_code_on_the_cpu(
        self, cupy: Any, request: pytest.FixtureRequest
    ) -> None:
        mask = np.random.default_rng(0).random((3, 40, 41, 42)) < 0.7
        found = cupy.asnumpy(gpu.thinned(cupy.asarray(mask)))
        request.getfixturevalue("stand_in")
        assert_array_equal(found, [on_gpu(skeleton, each) for each in mask])

    def test_a_batch_of_every_map(self) -> None:
        batch = torch.as_tensor(np.stack([LABEL, np.roll(LABEL, 1, axis=2)])).cuda()
        made = TargetMaps({str(i): transform for i, transform in enumerate(ALL)})(batch)
        for i, transform in enumerate(ALL):
            for found, label in zip(made[str(i)], batch, strict=True):
                assert torch.equal(found, transform(label))  # type: ignore[arg-type]

    def test_on_a_stream_of_its_own(self) -> None:
        label = torch.as_tensor(LABEL).cuda()
        expected: Any = SignedDistance(num_classes=3)(label)
        with torch.cuda.stream(torch.cuda.Stream()):
            found: Any = SignedDistance(num_classes=3)(label + 0)
        torch.cuda.synchronize()
        assert torch.equal(found, expected)
