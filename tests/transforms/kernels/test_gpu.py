"""The kernels of the GPU, compiled for the CPU, against those of the CPU and by definition."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import distance_transform_edt

from segloss.metrics.topology import betti_number
from segloss.transforms.functional import skeleton
from segloss.transforms.kernels import distance, gpu, nearest, thinning
from tests.reference.maps import components
from tests.transforms.kernels.test_nearest import to_each_label
from tests.transforms.kernels.test_thinning import blob
from tests.transforms.stand_in import StandIn, from_gpu, on_gpu, to_gpu
from tests.transforms.strategies import anisotropic, label_maps, masks, real_vessels

SOURCE = Path(str(gpu.__file__)).with_suffix(".cu")
pytestmark = pytest.mark.usefixtures("stand_in")


def thinned(*several: np.ndarray) -> np.ndarray:
    planes = [mask.reshape(-1, *mask.shape[-2:]) for mask in several]
    found: np.ndarray = on_gpu(gpu.thinned, np.stack(planes))
    return found.reshape(-1, *several[0].shape)


def removable(mask: np.ndarray) -> int:
    """How many voxels might still go, as the kernel of the CPU sees it."""
    volume = np.pad(mask.reshape(-1, *mask.shape[-2:]), 1)
    voxels = volume.ravel().view(np.uint8)
    line, plane = volume.shape[2], volume.shape[1] * volume.shape[2]
    bits = [thinning.neighbourhood(voxels, v, line, plane) for v in np.flatnonzero(voxels)]
    return sum(map(thinning.removable, bits))


def check_thinned(mask: np.ndarray, line: np.ndarray) -> None:
    assert not (line & ~mask).any()
    assert [betti_number(line, d) for d in (0, 1)] == [betti_number(mask, d) for d in (0, 1)]
    assert removable(line) == 0
    assert_array_equal(thinned(line)[0], line)


@given(masks())
def test_thinned_to_lines_with_the_topology_of_the_mask(mask: np.ndarray) -> None:
    check_thinned(mask, thinned(mask)[0])


@pytest.mark.parametrize("shape", [(28, 25, 31), (40, 37)])
def test_thick_shapes_that_touch_the_border(shape: tuple[int, ...]) -> None:
    for seed in range(3):
        mask = blob(shape, seed)
        check_thinned(mask, thinned(mask)[0])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 7), (9, 1, 7), (2, 2, 2), (1, 9), (8, 9, 7)])
def test_volumes_full_and_empty(shape: tuple[int, ...]) -> None:
    full = np.ones(shape, dtype=bool)
    check_thinned(full, thinned(full)[0])
    assert not thinned(~full).any()


def test_cavities_and_handles_stay() -> None:
    shell = np.ones((9, 9, 9), dtype=bool)
    shell[3:6, 3:6, 3:6] = False
    ring = np.ones((5, 11, 11), dtype=bool)
    ring[:, 4:7, 4:7] = False
    for mask in shell, ring:
        check_thinned(mask, thinned(mask)[0])


def test_real_vessels_run_where_the_cpu_has_them(real_data: Path) -> None:
    for mask in real_vessels(real_data).values():
        line, other = thinned(mask)[0], skeleton(mask)
        check_thinned(mask, line)
        assert line.sum() == pytest.approx(other.sum(), rel=0.02)
        for one, beside in (line, other), (other, line):
            assert np.mean(distance_transform_edt(~beside)[one] < 2) > 0.95


def test_a_plane_is_thinned_as_on_the_cpu() -> None:
    for seed in range(3):
        mask = blob((1, 40, 37), seed)
        assert np.mean(thinned(mask)[0] == skeleton(mask)) > 0.999
        assert_array_equal(thinned(mask)[0], thinned(mask[0]))


def test_a_batch_is_each_by_itself() -> None:
    several = [blob((11, 12, 13), seed) for seed in range(3)]
    assert_array_equal(thinned(*several), np.concatenate([thinned(mask) for mask in several]))


@pytest.mark.parametrize("order", ["backwards", "together"])
def test_every_order_of_threads_gives_the_same(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (9, 10, 11), dtype=np.int32)
    mask = blob((24, 25, 26), 0)
    winding = np.random.default_rng(0).random((30, 40, 50)) < 0.3

    def everything() -> list[np.ndarray]:
        spread = to_gpu(labels * (labels == 2))
        gpu.spread_labels(spread, (1.0, 2.0, 0.5))
        return [
            thinned(mask)[0],
            on_gpu(gpu.squared_distance, labels, (1.0, 2.0, 0.5)),
            from_gpu(spread),
            *map(from_gpu, gpu.nearest_two(to_gpu(labels), (1.0, 2.0, 0.5), 9.0)),
            *(on_gpu(gpu.numbered, each, 1) for each in (labels, winding, mask)),
        ]

    forwards = everything()
    monkeypatch.setitem(sys.modules, "cupy", StandIn(order))
    gpu._module.cache_clear()
    gpu._kernel.cache_clear()
    for one, other in zip(forwards, everything(), strict=True):
        assert_array_equal(one, other)


def test_what_may_go_is_what_may_go_on_the_cpu() -> None:
    """Each neighbourhood in a block of its own, seen from a border that is always empty."""
    rng = np.random.default_rng(0)
    count = 20_000
    around = rng.random((count, 3, 3, 3)) < rng.random((count, 1, 1, 1))
    around[:, 1, 1, 1] = True
    blocks = np.pad(around, [(0, 0), (1, 1), (1, 1), (1, 1)]).view(np.uint8)
    volume, line, plane = to_gpu(blocks), np.int64(5), np.int64(25)
    centres = np.arange(count) * 125 + 62
    gpu._launch("mark", count, volume, to_gpu(centres), 2 * plane, line, plane)
    marked = blocks.reshape(count, -1)[:, 62] == 3
    flat = around.astype(np.uint8)
    flat[:, 1, 1, 1] = 0
    bits = flat.reshape(count, 27).astype(np.int64) @ (1 << np.arange(27))
    expected = [thinning.removable(each) for each in bits]
    assert 1000 < sum(expected) < count - 1000
    assert_array_equal(marked, expected)


@given(label_maps, st.data())
def test_distances_are_those_of_the_cpu(labels: np.ndarray, data: st.DataObject) -> None:
    spacing = data.draw(anisotropic(labels.ndim))
    found = on_gpu(gpu.squared_distance, labels, spacing)
    assert found.dtype == np.float32
    assert_allclose(found, distance.squared_distance(labels, spacing), rtol=1e-6)
    assert_array_equal(
        on_gpu(gpu.squared_distance, labels, (1.0,) * labels.ndim),
        distance.squared_distance(labels, (1.0,) * labels.ndim),
    )


@given(masks(), st.data())
def test_distances_from_centre_to_centre(mask: np.ndarray, data: st.DataObject) -> None:
    spacing = data.draw(anisotropic(mask.ndim))
    found = on_gpu(gpu.squared_distance, mask, spacing, shift=0)
    if mask.any() and not mask.all():
        sides = [distance_transform_edt(side, sampling=spacing) ** 2 for side in (mask, ~mask)]
        assert_allclose(found, sum(sides), rtol=1e-5)
    else:
        assert np.isposinf(found).all()


@given(label_maps, st.data())
def test_nearest_labels(labels: np.ndarray, data: st.DataObject) -> None:
    found, expected = to_gpu(labels.astype(np.int32)), labels.astype(np.int32)
    gpu.spread_labels(found, (1.0,) * labels.ndim)
    nearest.spread_labels(expected, (1.0,) * labels.ndim)
    assert_array_equal(from_gpu(found), expected)

    spacing = data.draw(anisotropic(labels.ndim))
    found = to_gpu(labels.astype(np.int32))
    gpu.spread_labels(found, spacing)
    each = to_each_label(labels, spacing, half=0)
    for c, squares in each.items():
        there = from_gpu(found) == c
        assert_allclose(squares[there], np.min(list(each.values()), axis=0)[there], rtol=1e-6)
    assert np.isin(from_gpu(found), list(each) or [0]).all()


@pytest.mark.parametrize("aside", [(3, 4), (4, 3)])
def test_of_labels_that_are_equally_far_the_lowest(aside: tuple[int, int]) -> None:
    """3² + 4² is 5², whatever comes from a third axis; if that came first, rounding would tell."""
    labels = np.zeros((2, 6, 6), np.int32)
    labels[(1, *aside)], labels[1, 5, 0] = 1, 2
    for step in np.linspace(1.1, 4, 50):
        for axis in range(3):
            spacing = tuple(np.roll([step, 1.0, 1.0], axis).tolist())
            found = to_gpu(labels.transpose(np.roll([0, 1, 2], axis)).copy())
            gpu.spread_labels(found, spacing)
            assert from_gpu(found)[0, 0, 0] == 1


@given(label_maps, st.data(), st.sampled_from([0.0, 0.6, 2.0, 100.0]))
def test_nearest_two_labels(labels: np.ndarray, data: st.DataObject, reach: float) -> None:
    spacing = data.draw(anisotropic(labels.ndim))
    expected = nearest.nearest_two(labels.astype(np.int32), spacing, reach)
    exact = np.sort(
        [*to_each_label(labels, spacing, half=0.5).values(), *[np.full(labels.shape, np.inf)] * 2],
        axis=0,
    )[:2]
    apart = abs(exact - reach**2) > 1e-6 * reach**2  # what is just within reach is up to rounding
    for one, other, sure in zip(
        gpu.nearest_two(to_gpu(labels), spacing, reach), expected, apart, strict=True
    ):
        assert one.dtype == np.float32
        assert_allclose(from_gpu(one)[sure], other[sure], rtol=1e-6)


@given(label_maps, st.data())
def test_components(labels: np.ndarray, data: st.DataObject) -> None:
    connectivity = data.draw(st.integers(1, labels.ndim))
    found = on_gpu(gpu.numbered, labels, connectivity)
    assert found.dtype == np.int32
    assert_array_equal(found, components(labels, connectivity))


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_components_that_wind_and_that_are_small(connectivity: int) -> None:
    """Long chains of parents in every direction; and neighbours that are none, over an edge."""
    sparse = np.random.default_rng(0).random((16, 17, 18)) < 0.06
    for mask in blob((30, 31, 32), 3), sparse, sparse[0]:
        steps = min(connectivity, mask.ndim)
        assert_array_equal(on_gpu(gpu.numbered, mask, steps), components(mask, steps))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs the CUDA compiler")
def test_compiles_for_a_gpu(tmp_path: Path) -> None:
    strict = ["--std=c++14", "-Werror", "all-warnings"]
    subprocess.run(["nvcc", *strict, "-ptx", SOURCE], check=True, cwd=tmp_path)
    text = (tmp_path / "gpu.ptx").read_text()
    for kernel in "mark", "peel", "sweep", "spread", "spread_two", "connect", "find_roots":
        assert f".entry {kernel}(" in text
