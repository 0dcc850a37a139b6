"""nnU-Net's three folders, with a tiny dataset for each way to label."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nnunet.datasets import MODES, write_preprocessed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # other people's warnings are no error here
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def preprocessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nnUNet_preprocessed")
    for number, mode in enumerate(MODES):
        write_preprocessed(folder, f"Dataset90{number}_{mode}", mode)
    return folder


@pytest.fixture
def folders(preprocessed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders and variables of nnU-Net; the results are the test's own."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return tmp_path


@pytest.fixture
def make_trainer(folders: Path) -> Callable[..., Any]:
    """Trainers of any class for any of the datasets, initialised."""
    from tests.nnunet.running import initialised

    return initialised
