"""The two examples run on folders of either kind; their numbers are another matter."""

import importlib.util
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("default")  # other people's warnings are no error here


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Five images of a square ring in a square, or of a cube in a box."""
    shape = (24,) * request.param
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for seed in range(5):
        label = np.zeros(shape, np.uint8)
        label[(slice(4, 20),) * len(shape)] = 1
        label[(slice(8 + seed, 16),) * len(shape)] = 2
        noise = np.random.default_rng(seed).normal(0, 9, shape)
        image = (100 * label + 20 + noise).clip(0, 255).astype(np.uint8)
        for part, array in (("images", image), ("labels", label)):
            if len(shape) == 2:
                Image.fromarray(array).save(tmp_path / part / f"{seed}.png")
            else:
                nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / part / f"{seed}.nii.gz")
    return tmp_path


def test_nested_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("nested_classes").main(data=folder, steps=2, out=folder / "picture.png")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == 3
    for nested in rows[1:]:
        assert nested.count("0.0000 %") == 2  # no voxel breaks the nesting
    with Image.open(folder / "picture.png") as picture:
        assert picture.width > 4 * picture.height


def test_partial_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("partial_labels").main(data=folder, classes="[ring, hole]", steps=2)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == [
        "background taken for true",
        "LabelSets",
        "all labels",
    ]


@pytest.mark.parametrize("name", ["nested_classes", "partial_labels"])
def test_too_few_images(name: str, tmp_path: Path) -> None:
    module = example(name)
    with pytest.raises(module.typer.BadParameter, match="holds 0 labelled images, needs 5"):
        module.main(data=tmp_path)
