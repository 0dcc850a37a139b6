"""What importing a module must not drag in, and that every public name is there.

Which module may import which is import-linter's business (``pyproject.toml``); this is about what
is loaded when the program runs, through whatever third party.
"""

import ast
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import segloss
import segloss.losses
import segloss.monai
import segloss.pseudo
import segloss.transforms

IMAGE_CODE = {"skimage", "scipy", "edt", "cc3d", "numba", "nibabel", "monai"}  # torch loads NumPy
TRAINING = {"torch", "monai", "segloss.engine", "segloss.losses", "segloss.compose"}
LOSSES = [f"segloss.losses.{m.name}" for m in pkgutil.iter_modules(segloss.losses.__path__)]


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (["segloss", "segloss.monai"], {"torch", "numpy", *IMAGE_CODE}),
        (["segloss.compose", "segloss.schedules", *LOSSES], {"segloss.transforms", *IMAGE_CODE}),
        (["segloss.transforms"], TRAINING),
        (["segloss.transforms.functional"], TRAINING),
        (["segloss.data_scripts.cli"], TRAINING),
    ],
    ids=["segloss", "losses", "transforms", "functional", "cli"],
)
def test_import_drags_in_nothing_it_should_not(modules: list[str], forbidden: set[str]) -> None:
    code = f"import sys, {', '.join(modules)}; print(*sorted(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not forbidden.intersection(loaded)


@pytest.mark.parametrize(
    "name",
    [
        "segloss",
        "segloss.metrics",
        "segloss.monai",
        "segloss.pseudo",
        "segloss.transforms",
        "segloss.transforms.functional",
    ],
)
def test_every_public_name_is_there(name: str) -> None:
    module = import_module(name)
    assert module.__all__ == sorted(set(module.__all__))
    for public in module.__all__:
        assert getattr(module, public) is not None
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize(
    "module", [segloss, segloss.monai, segloss.pseudo, segloss.transforms], ids=lambda m: m.__name__
)
def test_type_checkers_see_the_names_that_are_there(module: ModuleType) -> None:
    """The imports under ``TYPE_CHECKING`` are what editors know, and nothing runs them."""
    seen: set[str] = set()
    for node in ast.parse(Path(inspect.getfile(module)).read_text()).body:
        if isinstance(node, ast.If):
            for imported in node.body:
                assert isinstance(imported, ast.ImportFrom)
                for alias in imported.names:
                    seen.add(alias.name)
                    home = import_module(str(imported.module))
                    assert getattr(home, alias.name) is getattr(module, alias.name)
    assert seen == set(module.__all__)


@pytest.mark.parametrize(
    "module", [segloss, segloss.pseudo, segloss.transforms], ids=lambda m: m.__name__
)
def test_an_unknown_name_is_an_attribute_error(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Dise'"):
        module.Dise  # noqa: B018
