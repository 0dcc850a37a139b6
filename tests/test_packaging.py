"""The folder layout and ``pyproject.toml`` say the same thing.

``transforms/`` and ``data_scripts/`` are imported as parts of ``segloss``. Setuptools cannot find
such packages by itself, so they are listed by hand, and a forgotten one would be missing from the
wheel without a word.
"""

import re
import sys
from pathlib import Path

import segloss

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
LIVES_OUTSIDE: dict[str, str] = SETUPTOOLS["package-dir"]


def test_every_package_is_listed() -> None:
    on_disk = {
        ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
        for name, folder in {"segloss": "segloss", **LIVES_OUTSIDE}.items()
        for init in (ROOT / folder).rglob("__init__.py")  # does not follow the links
    }
    assert on_disk | {"segloss.nnunet.ext"} == set(SETUPTOOLS["packages"])


def test_editors_can_follow_the_links() -> None:
    for name, folder in LIVES_OUTSIDE.items():
        link = ROOT / name.replace(".", "/")
        assert link.resolve() == ROOT / folder, f"enable symlinks in Git, or ignore: {link}"


def test_the_package_and_its_metadata_agree_on_the_version() -> None:
    assert segloss.__version__ == PYPROJECT["project"]["version"]
    assert f"## {segloss.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_nobody_is_told_to_install_the_other_segloss() -> None:
    """``segloss`` on the package index is an unrelated project under the GPL."""
    for page in ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"):
        assert not re.search(r"install\s+['\"]?segloss(?!-)\b", page.read_text()), page
