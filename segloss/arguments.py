"""Checks of what a caller passes: the value, or an error that says what was expected."""

import math
from difflib import get_close_matches
from operator import index
from typing import Any

__all__ = [
    "above_zero",
    "all_above_zero",
    "fraction",
    "known",
    "not_negative",
    "number",
    "numbers",
    "one_of",
    "options_of",
    "whole",
]


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


def number(name: str, value: Any, wanted: str = "a finite number") -> float:
    """The value, if it is a finite number."""
    if isinstance(value, str) or not hasattr(value, "__float__") or not math.isfinite(value):
        text = isinstance(value, str) and value[:1].isdigit()
        remedy = ", which is text: YAML takes 1.0e-5 for a number, but not 1e-5" if text else ""
        raise ValueError(f"{name} must be {wanted}, got {value!r}{remedy}")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """The value, if it is a finite number of at least 0."""
    wanted = "a number of at least 0"
    if number(name, value, wanted) < 0:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return float(value)


def above_zero(name: str, value: Any) -> float:
    """The value, if it is a finite number above 0."""
    wanted = "a finite number above 0"
    if number(name, value, wanted) <= 0:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """The value, if it lies between 0 and 1."""
    if not 0 <= number(name, value) <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")
    return float(value)


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value, if it is an integer of at least so much."""
    try:
        fits = index(value) >= least
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """The values, if they are finite numbers of at least 0 and not all 0."""
    checked = tuple(not_negative(name, value) for value in _listed(name, values))
    if not sum(checked):
        raise ValueError(f"{name} must hold a number above 0, got {checked}")
    return checked


def all_above_zero(name: str, values: Any) -> tuple[float, ...]:
    """The values, one for each class or channel, if they are finite numbers above 0."""
    checked = tuple(number(name, value) for value in _listed(name, values))
    if not checked:
        raise ValueError(f"{name} is empty, expected a number for each class")
    for k, value in enumerate(checked):
        if not 0 < value < math.inf:
            raise ValueError(
                f"{name} must hold numbers above 0, got {value} for class {k}: a class that never "
                "occurs cannot be weighed"
            )
    return checked


def _listed(name: str, values: Any) -> list[Any]:
    try:
        return list(values)
    except TypeError as error:
        raise TypeError(f"{name} must be a list of numbers, got {values!r}") from error


def options_of(module: Any) -> str:
    """The options of a module, as its constructor takes them, for its `repr`."""
    options = {k: v for k, v in vars(module).items() if k[0] != "_" and k != "training"}
    return ", ".join(f"{k}={v!r}" for k, v in options.items())
