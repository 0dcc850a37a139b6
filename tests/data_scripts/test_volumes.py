"""Labels from files of every format, and the complaints about those that are none."""

import gzip
import os
import re
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import LoadImaged
from PIL import Image

from segloss.data_scripts.volumes import (
    SUFFIXES,
    BadVolume,
    Grid,
    read_grid,
    read_image,
    read_label,
    stem,
)
from tests.data_scripts.files import (
    MALFORMED,
    Malformed,
    ball,
    itk,
    load,
    npz_as_nifti,
    write_itk,
    write_nifti,
)

Array = npt.NDArray[Any]

LABEL = np.arange(7 * 5 * 4).reshape(7, 5, 4) % 11
TURNED = np.array([[0, -0.5, 0, 9], [0.7, 0, 0, -30.5], [0, 0, 3, 4], [0, 0, 0, 1]])
DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.uint64]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("dtype", [*DTYPES, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_nifti_of_any_number_type(tmp_path: Path, dtype: npt.DTypeLike, suffix: str) -> None:
    path = tmp_path / f"label{suffix}"
    image = nib.Nifti1Image(LABEL.astype(dtype), TURNED, dtype=np.dtype(dtype))
    content = image.to_bytes()
    path.write_bytes(gzip.compress(content) if "gz" in suffix.lower() else content)
    volume = read_label(path)
    np.testing.assert_array_equal(volume.array, LABEL)
    assert volume.array.dtype == np.uint8
    assert volume.array.flags.c_contiguous
    np.testing.assert_allclose(volume.grid.affine, TURNED)
    assert volume.grid.spacing == pytest.approx((0.7, 0.5, 3))
    assert volume.grid.unit == "mm"
    assert read_grid(path).shape == volume.grid.shape == (7, 5, 4)


def test_nifti_2_big_endian_and_extensions(tmp_path: Path) -> None:
    kinds: list[type[nib.Nifti1Image]] = [nib.Nifti1Image, nib.Nifti2Image]
    for number, kind in enumerate(kinds):
        header = kind.header_class(endianness=">")
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"hello" * 9))
        image = kind(LABEL.astype(">i2"), TURNED, header)
        nib.save(image, tmp_path / f"{number}.nii.gz")
        np.testing.assert_array_equal(read_label(tmp_path / f"{number}.nii.gz").array, LABEL)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(255, np.uint8), (256, np.uint16), (65536, np.uint32), (2**32 - 1, np.uint32)],
)
def test_labels_take_no_more_room_than_they_need(
    tmp_path: Path, largest: int, dtype: npt.DTypeLike
) -> None:
    label = np.zeros((5, 4, 300), np.float64)
    label[2, 1, 250] = largest
    write_nifti(tmp_path / "a.nii.gz", label)
    array = read_label(tmp_path / "a.nii.gz").array
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, label)


def test_labels_grow_when_a_later_block_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segloss.data_scripts.nifti.BLOCK", 100)
    label = np.zeros((5, 4, 9), np.int32)
    label[:, :, 0], label[:, :, 4], label[:, :, 8] = 200, 70000, 300
    write_nifti(tmp_path / "a.nii.gz", label)
    array = read_label(tmp_path / "a.nii.gz").array
    np.testing.assert_array_equal(array, label)
    assert array.dtype == np.uint32
    label[3, 2, 7] = -5
    write_nifti(tmp_path / "a.nii.gz", label)
    with pytest.raises(BadVolume, match=r"holds -5 at voxel \(3, 2, 7\)"):
        read_label(tmp_path / "a.nii.gz")


def test_a_scale_in_the_header_counts(tmp_path: Path) -> None:
    label = ball().astype(np.int16)
    write_nifti(tmp_path / "a.nii.gz", label * 4, scl_slope=0.25, scl_inter=2)
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii.gz").array, label + 2)
    write_nifti(tmp_path / "b.nii.gz", label, scl_slope=0.1)
    with pytest.raises(BadVolume, match="expected whole numbers"):
        read_label(tmp_path / "b.nii.gz")


def test_a_trailing_axis_of_one_is_no_axis(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", LABEL[..., None].astype(np.uint8))
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii.gz").array, LABEL)
    write_nifti(tmp_path / "b.nii.gz", LABEL[:, :, :1, None].astype(np.uint8))
    np.testing.assert_array_equal(read_label(tmp_path / "b.nii.gz").array, LABEL[:, :, :1])


def test_nifti_without_an_affine_lies_where_nibabel_says(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", ball(), (2, 3, 4, 1), sform_code=0, qform_code=0)
    grid = read_grid(tmp_path / "a.nii")
    image = load(tmp_path / "a.nii")
    np.testing.assert_array_equal(grid.affine, image.affine)
    assert grid.spacing == (2, 3, 4)


@pytest.mark.parametrize(("code", "unit"), [(0, "mm"), (2, "mm"), (3, "um"), (7, "mm"), (10, "mm")])
def test_units_of_length(tmp_path: Path, code: int, unit: str) -> None:
    write_nifti(tmp_path / "a.nii", ball(), xyzt_units=code)
    assert read_grid(tmp_path / "a.nii").unit == unit


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_reading_takes_at_most_twice_the_label_as_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: npt.DTypeLike
) -> None:
    monkeypatch.setattr("segloss.data_scripts.nifti.BLOCK", 2**18)
    label = ball((128, 128, 128))
    write_nifti(tmp_path / "a.nii.gz", label.astype(dtype))
    read_label(tmp_path / "a.nii.gz")
    tracemalloc.start()
    array = read_label(tmp_path / "a.nii.gz").array
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(array, label)
    assert peak < 2 * 4 * label.size


@pytest.mark.parametrize(
    "make",
    [
        lambda array: Image.fromarray(array),
        lambda array: Image.fromarray(array.astype(np.uint16)),
        lambda array: Image.fromarray(array > 0),
        lambda array: _with_palette(array),
    ],
    ids=["8 bits", "16 bits", "1 bit", "palette"],
)
def test_png_as_monai_reads_it(tmp_path: Path, make: Callable[[Array], Image.Image]) -> None:
    label = (np.arange(6 * 9).reshape(6, 9) % 4).astype(np.uint8)
    make(label).save(tmp_path / "a.png")
    volume = read_label(tmp_path / "a.png")
    monai = LoadImaged("a", ensure_channel_first=True)({"a": str(tmp_path / "a.png")})["a"]
    np.testing.assert_array_equal(volume.array[None], monai)
    np.testing.assert_array_equal(volume.grid.affine, monai.affine)
    assert volume.grid.shape == (9, 6)
    assert volume.grid.spacing is None
    assert volume.grid.unit == "voxel"


def _with_palette(label: Array) -> Image.Image:
    image = Image.fromarray(label).convert("P")
    image.putpalette([7, 7, 7, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


def test_png_of_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(ball((30, 20))).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # it warns above, and refuses the double
    assert read_label(tmp_path / "a.png").array.any()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(BadVolume, match="more pixels than Pillow opens"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"metadata": None},
        {"bigtiff": True, "byteorder": ">", "tile": (16, 16)},
    ],
    ids=str,
)
def test_tiff_stack(tmp_path: Path, options: dict[str, Any]) -> None:
    stack = (np.arange(3 * 20 * 30).reshape(3, 20, 30) % 700).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", **options)
    volume = read_label(path)
    np.testing.assert_array_equal(volume.array, stack.transpose(2, 1, 0))
    assert volume.grid.shape == (30, 20, 3)
    assert volume.grid.spacing is None
    whole = path.read_bytes()
    for length in range(8, len(whole) - 200, len(whole) // 9):
        path.write_bytes(whole[:length])
        try:
            cut = read_label(path)
        except BadVolume:
            continue
        np.testing.assert_array_equal(cut.array, volume.array)  # only metadata was lost


def test_tiff_of_one_page_has_the_axes_of_a_png(tmp_path: Path) -> None:
    label = ball((30, 20))
    tifffile.imwrite(tmp_path / "a.tiff", label)
    Image.fromarray(label).save(tmp_path / "a.png")
    tiff, png = (read_label(tmp_path / f"a.{ending}") for ending in ("tiff", "png"))
    np.testing.assert_array_equal(tiff.array, png.array)
    assert tiff.grid.same_place(png.grid) is None


def test_tiff_packed_in_a_way_that_needs_another_package(tmp_path: Path) -> None:
    Image.fromarray(ball((30, 20))).save(tmp_path / "a.tif", compression="tiff_lzw")
    try:
        import imagecodecs  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(BadVolume, match=r"compressed .* pip install imagecodecs"):
            read_label(tmp_path / "a.tif")
    else:
        np.testing.assert_array_equal(read_label(tmp_path / "a.tif").array, ball((30, 20)).T)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("axes", [2, 3])
def test_itk_formats_lie_where_simpleitk_says(tmp_path: Path, ending: str, axes: int) -> None:
    path = tmp_path / f"a{ending}"
    label = LABEL[..., 0] if axes == 2 else LABEL
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])[:axes, :axes]
    write_itk(
        path,
        label.astype(np.int16),
        spacing=(0.5, 0.8, 3.0)[:axes],
        origin=(-12.0, 40.0, 7.0)[:axes],
        direction=turn.ravel().tolist(),
    )
    volume = read_label(path)
    np.testing.assert_array_equal(volume.array, label)
    assert volume.grid.spacing == pytest.approx((0.5, 0.8, 3)[:axes])
    image = itk().ReadImage(str(path))
    for voxel in ((0, 0, 0), (6, 0, 0), (0, 4, 0), (5, 3, 2)):
        left, back, *up = image.TransformIndexToPhysicalPoint(voxel[:axes])
        here = volume.grid.affine @ (*voxel[:axes], *[0] * (3 - axes), 1)
        np.testing.assert_allclose(here[:3], (-left, -back, *up, 0)[:3], atol=1e-12)


def test_itk_formats_agree_with_nifti_that_itk_writes(tmp_path: Path) -> None:
    turn = [0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1]
    for ending in (".nrrd", ".mha", ".nii.gz"):
        write_itk(tmp_path / f"a{ending}", ball(), spacing=(1.0, 2.0, 3.0), direction=turn)
    nifti, *others = (
        read_label(tmp_path / f"a{ending}") for ending in (".nii.gz", ".nrrd", ".mha")
    )
    for other in others:
        np.testing.assert_array_equal(other.array, nifti.array)
        assert other.grid.same_place(nifti.grid) is None


def test_without_simpleitk_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / "a.nrrd").write_text("NRRD0004\n")
    with pytest.raises(BadVolume, match=r"a.nrrd: .* pip install 'segloss-monai\[nrrd\]'"):
        read_label(tmp_path / "a.nrrd")


# ---------------------------------------------------------------- what is no label


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_what_is_no_label_gets_one_clear_line(tmp_path: Path, case: Malformed) -> None:
    path = tmp_path / case.name
    case.write(path)
    with pytest.raises(BadVolume) as caught:
        read_label(path)
    line = str(caught.value)
    assert line.startswith(f"{case.name}: ")
    assert "\n" not in line
    assert re.search(case.words, line)


def test_the_table_of_bad_files_is_what_it_says() -> None:
    assert len({case.name for case in MALFORMED}) == len(MALFORMED) >= 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", ball())
    (tmp_path / "a.nii").chmod(0)
    with pytest.raises(BadVolume, match=r"a.nii: may not be read. Check its permissions"):
        read_label(tmp_path / "a.nii")


def test_permission_denied_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti(tmp_path / "a.nii", ball())

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadVolume, match=r"a.nii: may not be read. Check its permissions"):
        read_label(tmp_path / "a.nii")


@settings(max_examples=200)
@given(data=st.data())
def test_damage_anywhere_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    ending = data.draw(st.sampled_from([".nii", ".nii.gz", ".png", ".tif"]))
    path = folder / f"a{ending}"
    if "nii" in ending:
        write_nifti(path, ball((6, 5, 4)))
    elif ending == ".png":
        Image.fromarray(ball((9, 7))).save(path)
    else:
        tifffile.imwrite(path, ball((9, 7)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(BadVolume):  # and nothing else
        volume = read_label(path)
        assert volume.array.shape == volume.grid.shape


# ---------------------------------------------------------------- images and grids


def test_images_keep_their_values(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 60).reshape(5, 4, 3).astype(np.float32)
    write_nifti(tmp_path / "a.nii.gz", values)
    write_nifti(tmp_path / "b.nii.gz", np.stack([values, values + 5], axis=-1))
    for name in ("a", "b"):
        image = read_image(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(image.array, values)
        assert image.array.dtype == np.float32
        assert read_grid(tmp_path / f"{name}.nii.gz").shape == (5, 4, 3)
    write_itk(tmp_path / "c.nrrd", values)
    np.testing.assert_array_equal(read_image(tmp_path / "c.nrrd").array, values)


def test_colours_become_brightness(tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[..., 0], colours[..., 1], colours[..., 2] = 200, 100, 50
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(colours).save(tmp_path / "a.bmp")
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    for ending in ("png", "bmp", "tif"):
        image = read_image(tmp_path / f"a.{ending}")
        assert image.array.shape == read_grid(tmp_path / f"a.{ending}").shape == (6, 4)
        np.testing.assert_allclose(image.array, 0.299 * 200 + 0.587 * 100 + 0.114 * 50, atol=1)


@pytest.mark.parametrize(
    ("affine", "shape", "words"),
    [
        (np.diag([1.0, 1, 2, 1]), (5, 4, 4), "the shapes differ"),
        (np.diag([1.0, 1, 2.1, 1]), (5, 4, 3), "voxel sizes differ: 1 x 1 x 2 and 1 x 1 x 2.1 mm"),
        (np.diag([-1.0, 1, 2, 1]), (5, 4, 3), "apart: the axes point in different directions"),
        (
            np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]),
            (5, 4, 3),
            r"up to 0.5 mm apart: the first voxel is at \(0.00, 0.00, 0.00\) and at \(0.50,",
        ),
    ],
    ids=["shape", "spacing", "flip", "half a voxel"],
)
def test_what_keeps_grids_apart(affine: Array, shape: tuple[int, ...], words: str) -> None:
    grid = Grid((5, 4, 3), np.diag([1.0, 1, 2, 1]), (1.0, 1.0, 2.0))
    spacing = tuple(float(size) for size in np.abs(np.diag(affine))[:3])
    difference = grid.same_place(Grid(shape, affine, spacing))
    assert difference is not None
    assert re.search(words, difference)


def test_rounding_does_not_keep_grids_apart() -> None:
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = turn * (0.488281, 0.488281, 0.625), (-124.7559, 90.2134, -31.5)
    grid = Grid((512, 512, 200), exact, (0.488281, 0.488281, 0.625))
    for rounded in (exact.astype(np.float32), exact.round(4)):
        other = Grid((512, 512, 200), rounded.astype(float), (0.4883, 0.4883, 0.625))
        assert grid.same_place(other) is None
    nowhere = Grid((512, 512, 200), np.eye(4))
    assert grid.same_place(nowhere) is nowhere.same_place(grid) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "a"), ("a.b.NII.GZ", "a.b"), ("a.nii", "a"), ("a.b.png", "a.b"), ("a", "a")],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(Path("x.y") / name) == expected


def test_suffixes() -> None:
    assert {".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".tif", ".tiff"} == set(SUFFIXES)


# ---------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("folder", "pattern", "labels"),
    [
        ("hippocampus_msd/labels", "*_00*.nii.gz", {0, 1, 2}),
        ("topcow_roi", "*.nii.gz", {*range(13), 15}),
        ("spinal_cord_sct", "*_seg*.nii.gz", None),
        ("hrf_third/labels", "0*_dr.png", {0, 1, 2, 3}),
    ],
)
def test_real_labels(real_data: Path, folder: str, pattern: str, labels: set[int] | None) -> None:
    files = sorted((real_data / folder).glob(pattern))[:8]
    assert files
    found: set[int] = set()
    for file in files:
        volume = read_label(file)
        monai = LoadImaged("a", ensure_channel_first=True)({"a": str(file)})["a"]
        np.testing.assert_array_equal(volume.array[None], monai)
        np.testing.assert_allclose(volume.grid.affine, monai.affine, atol=1e-6)
        if volume.grid.spacing is not None:
            np.testing.assert_allclose(volume.grid.spacing, monai.pixdim, rtol=1e-5)
        found |= set(np.unique(volume.array).tolist())
    assert labels is None or found <= labels


def test_real_images_lie_where_their_labels_do(real_data: Path) -> None:
    for label in sorted((real_data / "hippocampus_msd/labels").glob("*_00*.nii.gz")):
        image = real_data / "hippocampus_msd/images" / label.name
        assert read_grid(image).same_place(read_grid(label)) is None
    for label in sorted((real_data / "hrf_third/labels").glob("0*.png")):
        image = real_data / "hrf_third/images" / f"{label.stem}.jpg"
        assert read_grid(image).same_place(read_grid(label)) is None
        assert read_image(image).array.shape == read_grid(label).shape


@pytest.mark.parametrize(
    "name",
    ["tubular_3d_masks/brainvessels_P3", "tubular_3d_masks/lung_R3", "kits19_labels/case_00015"],
)
def test_real_masks_as_nifti(real_data: Path, tmp_path: Path, name: str) -> None:
    source = real_data / f"{name}.npz"
    volume = read_label(npz_as_nifti(source, tmp_path))
    with np.load(source) as held:
        np.testing.assert_array_equal(volume.array, held["label" if "label" in held else "vessels"])
        np.testing.assert_allclose(volume.grid.spacing or (), held["spacing"], rtol=1e-6)
