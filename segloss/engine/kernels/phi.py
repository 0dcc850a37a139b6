"""The functions φ(m) of `segloss.engine.voxel.Phi` and their slopes, on tiles.

Each has the name of its `Phi` here, and takes the numbers in that name as its parameters. A φ that is
not here is left to the PyTorch engine; one more is a branch in `value`, one in `slope`, and its name.
"""
# ruff: noqa: ANN001, ANN201, ANN202, RET505

import math

import triton.language as tl

from segloss.engine.kernels.compile import compiled

__all__ = ["NAMES", "log1p", "power", "slope", "value"]

NAMES = frozenset({"cross entropy", "focal", "poly-1", "shifted focal", "comp-sum", "symmetric"})
"""The functions there are."""

# Where the comp-sum's exponential is continued by its tangent.
_STEEPEST = tl.constexpr(60.0)
_HEIGHT = tl.constexpr(math.exp(60.0))


@compiled
def value(m, NAME: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """φ(m), for a name and the numbers after it."""
    if NAME == "cross entropy":
        return m
    elif NAME == "focal":
        return power(-expm1(-m), A) * m
    elif NAME == "poly-1":
        wrong = -expm1(-m)
        return power(wrong, A) * (m + B * wrong)
    elif NAME == "shifted focal":
        wrong = tl.maximum(-expm1(-m) - B, 0)
        return power(wrong, A) * _shifted(m, wrong, B)
    elif NAME == "symmetric":
        return A * m - B * expm1(-m)
    else:
        tl.static_assert(NAME == "comp-sum")
        rate: tl.constexpr = 1 - A
        m = tl.minimum(m, B)
        if rate == 0:
            return m
        else:
            steep = tl.minimum(rate * m, _STEEPEST)
            return (expm1(steep) + (rate * m - steep) * _HEIGHT) / rate


@compiled
def slope(m, NAME: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """dφ/dm."""
    if NAME == "cross entropy":
        return tl.zeros_like(m) + 1
    elif NAME == "focal":
        return _focal_slope(-expm1(-m), m, A, 0)
    elif NAME == "poly-1":
        return _focal_slope(-expm1(-m), m, A, B * (A + 1))
    elif NAME == "shifted focal":
        right, wrong = tl.exp(-m), tl.maximum(-expm1(-m) - B, 0)
        per_wrong = _shifted(m, wrong, B) / tl.where(wrong == 0, 1, wrong)
        steepness = A * per_wrong + 1 / (right + B)
        return tl.where(wrong == 0, 0, right * power(wrong, A) * steepness)
    elif NAME == "symmetric":
        return A + B * tl.exp(-m)
    else:
        tl.static_assert(NAME == "comp-sum")
        rate: tl.constexpr = 1 - A
        return tl.where(m >= B, 0, tl.exp(tl.minimum(rate * m, _STEEPEST)))


@compiled
def _focal_slope(wrong, m, GAMMA: tl.constexpr, FURTHER: tl.constexpr):
    m_over_wrong = tl.where(wrong == 0, 1, m / tl.where(wrong == 0, 1, wrong))
    return power(wrong, GAMMA) * (1 + (1 - wrong) * (GAMMA * m_over_wrong + FURTHER))


@compiled
def _shifted(m, wrong, SHIFT: tl.constexpr):
    """-log(1 - wrong), for wrong = max(1 - e^-m - shift, 0)."""
    small = tl.minimum(wrong, 0.5)  # near 0 the one has the digits, near 1 the other
    return tl.where(wrong < 0.5, -log1p(-small), -tl.log(tl.exp(-m) + SHIFT))


@compiled
def power(x, EXPONENT: tl.constexpr):
    """x^γ of an x ≥ 0, 0^0 being 1."""
    if EXPONENT == 0:
        return tl.zeros_like(x) + 1
    elif EXPONENT == 1:
        return x
    elif EXPONENT == 2:
        return x * x
    else:
        return tl.where(x == 0, 0, tl.exp2(EXPONENT * tl.log2(tl.where(x == 0, 1, x))))


@compiled
def expm1(x):
    """e^x - 1 with all of its digits, which Triton has not got; so Kahan: errors of e^x cancel."""
    up = tl.exp(x)
    near = (tl.abs(x) < 1) & (up != 1)
    odds = tl.where(near, up, 2.0)
    return tl.where(near, (odds - 1) * (x / tl.log(odds)), tl.where(up == 1, x, up - 1))


@compiled
def log1p(x):
    """log(1 + x) with all of its digits, in the same way, for -1 < x ≤ 1."""
    sum = 1 + x
    return tl.where(sum == 1, x, tl.log(sum) * (x / tl.where(sum == 1, 1, sum - 1)))
