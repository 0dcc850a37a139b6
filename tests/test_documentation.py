"""Everything the documentation shows as Python runs, and every public name is documented.

A fenced ``python`` block of the README or of a page is run, in order and in one namespace per page.
``<!-- not run: reason -->`` in the line above a block leaves it out. Docstring examples are
doctests.
"""

import doctest
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import segloss
import segloss.monai
import segloss.pseudo
import segloss.transforms
import segloss.transforms.functional
from tests.test_packaging import LIVES_OUTSIDE, ROOT, SETUPTOOLS

FENCE = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n)?```python.*\n(?P<code>(?s:.*?))^```$", re.MULTILINE
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
API = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))


class Block(NamedTuple):
    line: int
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(text.count("\n", 0, match.start("code")), match["code"])
        for match in FENCE.finditer(text)
        if not match["skip"]
    ]


def modules() -> list[str]:
    """Every module there is, found without importing any."""
    found = []
    for package in SETUPTOOLS["packages"]:
        folder = LIVES_OUTSIDE.get(package, package.replace(".", "/"))
        for outer, outside in LIVES_OUTSIDE.items():
            if package.startswith(outer + "."):
                folder = outside + package.removeprefix(outer).replace(".", "/")
        found.append(package)
        found += [
            f"{package}.{module.name}"
            for module in pkgutil.iter_modules([str(ROOT / folder)])
            if not module.ispkg
        ]
    return found


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page)],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": page.stem}
    for line, code in blocks(page):
        shown = compile("\n" * line + code, str(page), "exec")  # tracebacks point at the page
        exec(shown, namespace)  # noqa: S102


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_hold(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("segloss.engine.kernels."):
        pytest.importorskip("triton", reason="needs Triton")
    if name.startswith("segloss.nnunet."):
        pytest.importorskip("batchgeneratorsv2", reason="needs nnU-Net: tests/nnunet")
    if name == "segloss.losses.topology":
        pytest.importorskip("topolosses.losses", reason="needs segloss-monai[topology]")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    outcome = doctest.testmod(
        import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert outcome.failed == 0, "the failures are in the captured output"


@pytest.mark.parametrize(
    "module",
    [segloss, segloss.monai, segloss.pseudo, segloss.transforms, segloss.transforms.functional],
    ids=lambda m: m.__name__,
)
def test_every_public_name_has_an_entry_on_an_api_page(module: object) -> None:
    entries = set(re.findall(r"^::: ([\w.]+)$", API, re.MULTILINE))
    for name in module.__all__:  # type: ignore[attr-defined]
        public = getattr(module, name)
        assert f"{module.__name__}.{public.__name__}" in entries  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "module", [segloss, segloss.monai, segloss.pseudo, segloss.transforms], ids=lambda m: m.__name__
)
def test_every_public_name_has_an_example(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        public = getattr(module, name)
        assert inspect.isabstract(public) or ">>> " in (public.__doc__ or ""), name


def test_every_test_a_page_names_is_there() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert f"def {name}(" in tests, f"{page.name}: {name}"
