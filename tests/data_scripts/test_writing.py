"""Maps on disk: what is read back, where it lies, and what is left when writing fails."""

import gzip
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.transforms import LoadImaged
from PIL import Image

from segloss.data_scripts.volumes import (
    Grid,
    map_files,
    read_grid,
    read_label,
    read_map,
    write_map,
)
from tests.data_scripts.files import ball, itk, load, write_itk, write_nifti

Array = npt.NDArray[Any]

LABEL = np.arange(7 * 5 * 4).reshape(7, 5, 4) % 11
TURNED = np.array([[0, -0.5, 0, 9], [0.7, 0, 0, -30.5], [0, 0, 3, 4], [0, 0, 0, 1]])


def flat_grid(*shape: int) -> Grid:
    return Grid(shape, np.eye(4))


shapes = st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple)


@given(
    shape=shapes,
    count=st.integers(1, 3),
    dtype=st.sampled_from([np.uint8, np.int16, np.int32, np.uint16, np.float32, np.bool_]),
    data=st.data(),
)
def test_maps_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    count: int,
    dtype: npt.DTypeLike,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("maps")
    channels = data.draw(
        hnp.arrays(
            dtype,
            (count, *shape),
            elements={"allow_nan": False} if np.dtype(dtype).kind == "f" else None,
        )
    )
    grid = flat_grid(*shape)
    path = folder / "map.nii.gz"
    size = write_map(path, iter(channels), grid, count=count, dtype=dtype, description="")
    files = map_files(path, grid, count)
    assert sorted(files) == sorted(folder.iterdir())
    assert size == sum(file.stat().st_size for file in files)
    back = read_map(files)
    np.testing.assert_array_equal(back, channels)
    assert back.dtype == (np.uint8 if dtype == np.bool_ else dtype)


@given(
    shape=shapes,
    exponent=st.integers(-14, -1),
    data=st.data(),
)
def test_steps_are_kept_and_nothing_is_off_by_more_than_half_of_one(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    exponent: int,
    data: st.DataObject,
) -> None:
    step = 2.0**exponent
    largest = float(np.float32(32767 * step))
    values = data.draw(
        hnp.arrays(np.float32, (2, *shape), elements=st.floats(-largest, largest, width=32))
    )
    path = tmp_path_factory.mktemp("steps") / "map.nii.gz"
    grid = flat_grid(*shape)
    write_map(path, values, grid, count=2, dtype=np.int16, step=step, description="")
    files = map_files(path, grid, 2)
    back = read_map(files)
    assert back.dtype == np.float32
    assert np.abs(back.astype(float) - values).max() <= step / 2
    np.testing.assert_array_equal(np.rint(back / step) * step, back)
    header = nib.Nifti1Header(gzip.decompress(files[0].read_bytes())[:348])
    assert header["scl_slope"] == step
    assert header.get_data_dtype() == np.int16


@pytest.mark.parametrize("shape", [(9, 6), (9, 6, 1), (9, 6, 5)])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ending", [".nii.gz", ".png"])
def test_monai_loads_maps_as_it_loads_labels(
    tmp_path: Path, shape: tuple[int, ...], count: int, ending: str
) -> None:
    label = (np.arange(np.prod(shape)) % 5).reshape(shape).astype(np.uint8)
    source = tmp_path / f"label{ending}"
    if ending == ".nii.gz":
        write_nifti(source, label, TURNED)
    elif len(shape) == 2:
        Image.fromarray(label.T).save(source)
    else:
        return
    volume = read_label(source)
    channels = [volume.array + 0.25 * k for k in range(count)]
    path = tmp_path / "map.nii.gz"
    write_map(path, channels, volume.grid, count=count, dtype=np.int16, step=0.25, description="")
    files = [str(file) for file in map_files(path, volume.grid, count)]
    loaded = LoadImaged(("label", "map"), ensure_channel_first=True)(
        {"label": str(source), "map": files[0] if len(files) == 1 else files}
    )
    assert loaded["map"].shape == (count, *loaded["label"].shape[1:])
    for k in range(count):
        np.testing.assert_array_equal(loaded["map"][k], loaded["label"][0] + 0.25 * k)
    np.testing.assert_allclose(loaded["map"].affine, loaded["label"].affine, atol=1e-6)
    np.testing.assert_allclose(loaded["map"].pixdim, loaded["label"].pixdim, atol=1e-6)


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (1, 0), (0, 2), (1, 4)])
@pytest.mark.parametrize("units", [0, 2, 3])
def test_the_label_s_geometry_is_the_map_s(
    tmp_path: Path, qform: int, sform: int, units: int
) -> None:
    image = nib.Nifti1Image(LABEL.astype(np.uint8), TURNED)
    image.set_qform(TURNED, code=1)
    fields = {**image.header}
    geometry = {
        name: fields[name]
        for name in fields
        if name.startswith(("srow", "quatern", "qoffset", "pixdim"))
    }
    write_nifti(
        tmp_path / "a.nii.gz",
        LABEL.astype(np.uint8),
        **{**geometry, "qform_code": qform, "sform_code": sform, "xyzt_units": units},
    )
    write_map(
        tmp_path / "map.nii.gz",
        [LABEL.astype(np.uint8)] * 2,
        read_grid(tmp_path / "a.nii.gz"),
        count=2,
        dtype=np.uint8,
        description="two channels",
    )
    label, made = (load(tmp_path / name) for name in ("a.nii.gz", "map.nii.gz"))
    np.testing.assert_array_equal(made.affine, label.affine)
    for name in (*geometry, "qform_code", "sform_code", "xyzt_units"):
        first = 4 if name == "pixdim" else None
        np.testing.assert_array_equal(
            np.atleast_1d(made.header[name])[:first], np.atleast_1d(label.header[name])[:first]
        )
    assert made.header["descrip"] == b"two channels"
    assert nib.Nifti1Header.diagnose_binaryblock(made.header.binaryblock) == ""


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_maps_of_itk_labels_lie_where_itk_s_own_nifti_does(tmp_path: Path, ending: str) -> None:
    turn = [0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1]
    geometry = {"spacing": (1.0, 2.0, 3.0), "origin": (5.0, 6.0, 7.0), "direction": turn}
    for name in (f"label{ending}", "itk.nii.gz"):
        write_itk(tmp_path / name, ball(), **geometry)
    volume = read_label(tmp_path / f"label{ending}")
    path = tmp_path / "map.nii.gz"
    write_map(path, [volume.array], volume.grid, count=1, dtype=np.uint8, description="")
    made, expected = (load(tmp_path / name) for name in ("map.nii.gz", "itk.nii.gz"))
    np.testing.assert_allclose(made.affine, expected.affine, atol=1e-5)
    image = itk().ReadImage(str(path))
    np.testing.assert_allclose(image.GetOrigin(), geometry["origin"], atol=1e-5)
    np.testing.assert_allclose(image.GetDirection(), turn, atol=1e-5)


def test_axes_that_nifti_1_cannot_count(tmp_path: Path) -> None:
    long = np.arange(40000 * 2).reshape(40000, 2).astype(np.int32)
    path = tmp_path / "map.nii.gz"
    write_map(path, [long], flat_grid(40000, 2), count=1, dtype=np.int32, description="long")
    assert isinstance(load(path), nib.Nifti2Image)
    np.testing.assert_array_equal(read_map(path)[0], long)
    np.testing.assert_array_equal(read_label(path).array, long)


def test_the_same_map_makes_the_same_bytes(tmp_path: Path) -> None:
    channels = [ball().astype(np.float32) * k for k in (1, 2)]
    for name in ("one", "other"):
        path = tmp_path / f"{name}.nii.gz"
        write_map(
            path,
            channels,
            flat_grid(12, 10, 8),
            count=2,
            dtype=np.int16,
            step=1 / 64,
            description="x",
        )
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


@pytest.mark.parametrize("value", [512.0, -512.1, np.inf, np.nan])
def test_values_beyond_the_largest_step_are_an_error(tmp_path: Path, value: float) -> None:
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = value
    with pytest.raises(
        OverflowError, match=r"map.nii.gz: values .* not multiples of 0.015625 that"
    ):
        write_map(
            tmp_path / "map.nii.gz",
            [values],
            flat_grid(4, 4),
            count=1,
            dtype=np.int16,
            step=1 / 64,
            description="",
        )
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"channels": [np.zeros((4, 5), np.uint8)]}, ValueError, r"shape \(4, 5\), expected \(4, 4\)"),
        ({"channels": []}, ValueError, "fewer channels than count says"),
        ({"channels": [np.zeros((4, 4), np.uint8)] * 2}, ValueError, "more than 1 channels"),
        ({"channels": [np.zeros((4, 4), np.int16)]}, TypeError, "int16 does not fit into uint8"),
        ({"path": "map.nii"}, ValueError, "must end in .nii.gz, got 'map.nii'"),
        ({"count": 0}, ValueError, "count must be 1 or more"),
        ({"step": 0.0}, ValueError, "step must be above 0"),
        ({"step": 0.5, "dtype": np.float32}, ValueError, "dtype an integer"),
        ({"description": "x" * 80}, ValueError, "at most 79 characters"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_cannot_be_written(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments: dict[str, Any] = {
        "path": "map.nii.gz",
        "channels": [np.zeros((4, 4), np.uint8)],
        "count": 1,
        "dtype": np.uint8,
        "step": None,
        "description": "",
    } | changes
    path, channels = tmp_path / arguments.pop("path"), arguments.pop("channels")
    with pytest.raises(error, match=words):
        write_map(path, channels, flat_grid(4, 4), **arguments)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
def test_what_fails_leaves_the_old_map_alone(
    tmp_path: Path, error: type[BaseException], shape: tuple[int, ...]
) -> None:
    grid, path = flat_grid(*shape), tmp_path / "map.nii.gz"
    write_map(path, [np.ones(shape, np.uint8)] * 2, grid, count=2, dtype=np.uint8, description="")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def channels() -> Iterator[Array]:
        yield np.zeros(shape, np.uint8)
        assert [file for file in tmp_path.iterdir() if file.name.startswith(".unfinished-")]
        raise error

    with pytest.raises(error):
        write_map(path, channels(), grid, count=2, dtype=np.uint8, description="")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_one_channel_is_held_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Array]] = []

    def channels() -> Iterator[Array]:
        for _ in range(5):
            assert sum(array() is not None for array in alive) == 0
            array = np.zeros((8, 8, 8), np.uint8)
            alive.append(weakref.ref(array))
            yield array
            del array

    write_map(
        tmp_path / "map.nii.gz",
        channels(),
        flat_grid(8, 8, 8),
        count=5,
        dtype=np.uint8,
        description="",
    )
