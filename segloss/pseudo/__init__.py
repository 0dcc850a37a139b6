"""Learning from labels that nobody drew: teachers, pseudo-labels, and the losses that trust them.

Names are imported on first use, as those of `segloss` are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segloss.pseudo.teacher import EMATeacher

_HOME = {
    "segloss.pseudo.teacher": ("EMATeacher",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "EMATeacher",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segloss.pseudo' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
