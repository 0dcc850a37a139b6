"""Checks of what a caller passes: the value, or an error that says what was expected."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

__all__ = ["fraction", "known", "not_negative", "numbers", "one_of"]


def one_of(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    """The value, if it is one of the options."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def known(name: str, value: Any, names: tuple[str, ...]) -> str:
    """The value, if it is one of the names; if not, the error suggests the nearest."""
    if value not in names:
        near = get_close_matches(str(value).lower(), names, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"it is none of {', '.join(names)}"
        raise ValueError(f"{name} {value!r} is not known: {remedy}")
    return str(value)


def not_negative(name: str, value: Any) -> float:
    """The value, if it is a finite number of at least 0."""
    if not hasattr(value, "__float__") or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def fraction(name: str, value: float) -> float:
    """The value, if it lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")
    return float(value)


def numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """The values, if they are finite numbers of at least 0 and not all 0."""
    checked = tuple(not_negative(name, value) for value in values)
    if not sum(checked):
        raise ValueError(f"{name} must hold a number above 0, got {checked}")
    return checked


def all_above_zero(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """The values, one for each class or channel, if they are finite numbers above 0."""
    checked = tuple(map(float, values))
    if not checked:
        raise ValueError(f"{name} is empty, expected a number for each class")
    for k, value in enumerate(checked):
        if not 0 < value < math.inf:
            raise ValueError(
                f"{name} must hold numbers above 0, got {value} for class {k}: a class that never "
                "occurs cannot be weighed"
            )
    return checked
