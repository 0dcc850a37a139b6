"""Instances, numbered: the array function and the transform."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from numpy.testing import assert_array_equal
from skimage.measure import label as label_of_scikit_image

from segloss.transforms import InstanceRegions
from segloss.transforms.functional import instance_regions
from tests.reference.maps import components, instance_distances
from tests.transforms.strategies import anisotropic, label_maps

LABEL = np.random.default_rng(0).integers(0, 3, (1, 6, 7, 8)) * (np.arange(8) % 3 > 0)
SPACING = (2.0, 0.5, 3.0)


def real_labels(data: Path) -> dict[str, tuple[np.ndarray, tuple[float, ...]]]:
    """Arteries of many classes, kidneys with tumours, a hippocampus; and the size of a voxel."""
    labels = {}
    for path in (
        data / "topcow_roi" / "topcow_mr_roi_003.nii.gz",
        data / "hippocampus_msd" / "labels" / "hippocampus_001.nii.gz",
    ):
        image = nib.Nifti1Image.from_filename(path)
        labels[path.parent.name] = np.asarray(image.dataobj), image.header.get_zooms()[:3]
    kidney = np.load(data / "kits19_labels" / "case_00015.npz")
    labels["kits19"] = kidney["label"][::2, ::4, ::4], tuple(kidney["spacing"] * (2, 4, 4))
    return {
        name: (label.astype(np.uint8), tuple(float(step) for step in size))
        for name, (label, size) in labels.items()
    }


class TestComponents:
    @given(label_maps, st.integers(1, 3))
    def test_are_those_of_each_class(self, labels: np.ndarray, connectivity: int) -> None:
        connectivity = min(connectivity, labels.ndim)
        found = instance_regions(labels, connectivity=connectivity)
        assert found.dtype == np.int32
        assert_array_equal(found, components(labels, connectivity))
        if labels.ndim == 2 or labels.shape[-1] > 1:  # else it has an order of its own
            peer = label_of_scikit_image(labels, background=0, connectivity=connectivity)
            assert_array_equal(found, peer)

    @given(label_maps)
    def test_touch_at_corners_unless_told_otherwise(self, labels: np.ndarray) -> None:
        assert_array_equal(instance_regions(labels), components(labels, labels.ndim))

    def test_on_real_labels(self, real_data: Path) -> None:
        for labels, _ in real_labels(real_data).values():
            for connectivity in 1, 2, 3:
                found = instance_regions(labels, connectivity=connectivity)
                assert_array_equal(found, components(labels, connectivity))

    @pytest.mark.parametrize("shape", [(1, 1, 5), (5, 1, 1), (1, 5, 1), (4, 5, 1), (5, 1), (1, 1)])
    def test_where_an_axis_has_one_voxel(self, shape: tuple[int, ...]) -> None:
        labels = np.random.default_rng(0).integers(0, 2, shape) * 7
        for connectivity in range(1, len(shape) + 1):
            found = instance_regions(labels, connectivity=connectivity)
            assert_array_equal(found, components(labels, connectivity))

    @given(label_maps)
    def test_the_ignored_connect_nothing(self, labels: np.ndarray) -> None:
        without = np.where(labels == 2, 0, labels)
        assert_array_equal(instance_regions(labels, ignore=2), instance_regions(without))

    @pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float32])
    def test_every_dtype_of_labels(self, dtype: type) -> None:
        labels = (LABEL[0] > 0).astype(dtype)
        assert_array_equal(instance_regions(labels), components(labels > 0, 3))


class TestVoronoi:
    @given(label_maps, st.data())
    def test_is_the_nearest_there_is(self, labels: np.ndarray, data: st.DataObject) -> None:
        spacing = data.draw(anisotropic(labels.ndim))
        regions = instance_regions(labels, regions="voronoi", spacing=spacing)
        if not labels.any():
            assert not regions.any()
            return
        distances = instance_distances(components(labels, labels.ndim), spacing)
        found = np.take_along_axis(distances, regions[None] - 1, axis=0)
        np.testing.assert_allclose(found[0], distances.min(axis=0), rtol=1e-6)

    @given(label_maps, st.sampled_from([None, 0.3, 5.0]))
    def test_of_two_equally_near_it_is_the_first(
        self, labels: np.ndarray, spacing: float | None
    ) -> None:
        regions = instance_regions(labels, regions="voronoi", spacing=spacing)
        if labels.any():
            ones = (1.0,) * labels.ndim
            squares = instance_distances(components(labels, labels.ndim), ones) ** 2
            assert_array_equal(regions, 1 + squares.round().argmin(axis=0))

    @given(label_maps, st.data())
    def test_holds_the_components(self, labels: np.ndarray, data: st.DataObject) -> None:
        spacing = data.draw(anisotropic(labels.ndim))
        regions = instance_regions(labels, regions="voronoi", spacing=spacing)
        assert_array_equal(np.where(labels, regions, 0), instance_regions(labels))

    @given(label_maps)
    def test_the_ignored_are_in_no_region(self, labels: np.ndarray) -> None:
        regions = instance_regions(labels, regions="voronoi", ignore=2)
        without = np.where(labels == 2, 0, labels)
        expected = instance_regions(without, regions="voronoi")
        assert_array_equal(regions, np.where(labels == 2, 0, expected))

    def test_on_real_labels(self, real_data: Path) -> None:
        for labels, spacing in real_labels(real_data).values():
            regions = instance_regions(labels, regions="voronoi", spacing=spacing)
            distances = instance_distances(components(labels, 3), spacing)
            found = np.take_along_axis(distances, regions[None] - 1, axis=0)
            np.testing.assert_allclose(found[0], distances.min(axis=0), rtol=1e-6)


class TestTransform:
    @pytest.mark.parametrize("regions", ["components", "voronoi"])
    def test_is_that_of_the_label(self, regions: str) -> None:
        options: dict[str, Any] = {"regions": regions, "connectivity": 1}
        expected = instance_regions(LABEL[0], spacing=SPACING, **options)
        found = InstanceRegions(spacing=SPACING, **options)(LABEL)
        assert_array_equal(found, expected[None])
        image = MetaTensor(LABEL, affine=torch.diag(torch.tensor([*SPACING, 1.0])))
        assert_array_equal(InstanceRegions(**options)(image), expected[None])

    @pytest.mark.parametrize("dtype", [np.uint8, torch.int64])
    def test_dtype_is_as_asked(self, dtype: torch.dtype | type) -> None:
        found = InstanceRegions(dtype=dtype)(torch.from_numpy(LABEL))
        assert found.dtype == (dtype if isinstance(dtype, torch.dtype) else torch.uint8)

    def test_more_than_the_dtype_can_number(self) -> None:
        label = np.zeros((1, 32, 32), dtype=np.uint8)
        label[:, ::2, ::2] = 1
        with pytest.raises(ValueError, match="instance 256 does not fit into dtype uint8: pass a"):
            InstanceRegions(dtype=np.uint8)(label)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"regions": "nearest"}, ValueError, r"one of \('components', 'voronoi'\), got 'nearest'"),
        ({"connectivity": 0}, ValueError, "connectivity must be 1 or more, got 0"),
        ({"connectivity": 4}, ValueError, "connectivity must be from 1 to 3, .* axes, got 4"),
        ({"spacing": 0}, ValueError, "spacing must be a finite number above 0, got 0"),
        ({"dtype": np.float32}, TypeError, "dtype must hold integers, got float32"),
    ],
)
def test_held_wrong(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        instance_regions(LABEL[0], **options)
    with pytest.raises(error, match=message):
        InstanceRegions(**options)(LABEL)
