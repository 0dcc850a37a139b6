"""Kernels are compiled once for a machine, and again when what they are made of changes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.test_packaging import ROOT

CALLER = """
from loops.callee import value
from segloss.compiled import compiled

@compiled
def twice(x):
    return 2 * value(x)
"""
CALLEE = """
from segloss.compiled import compiled

@compiled
def value(x):
    return x + {added}
"""


def twice(folder: Path, added: int) -> tuple[str, int]:
    """What a process makes of 2 (10 + added), and how often it took a kernel from the disk."""
    package = folder / "loops"
    package.mkdir(exist_ok=True)
    files = {"__init__": "", "caller": CALLER, "callee": CALLEE.format(added=added)}
    for name, text in files.items():
        file = package / f"{name}.py"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    program = (
        "from loops.caller import twice; print(twice(10), sum(twice.stats.cache_hits.values()))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    environment |= {"NUMBA_CACHE_DIR": str(folder / "cache")}
    found = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    value, hits = found.split()
    return value, int(hits)


def test_a_change_in_another_file_is_seen(tmp_path: Path) -> None:
    assert twice(tmp_path, 1) == ("22", 0)
    assert twice(tmp_path, 1) == ("22", 1)
    assert twice(tmp_path, 300) == ("620", 0)
