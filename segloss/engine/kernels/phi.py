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
def value(m, PHI: tl.constexpr):
    """φ(m), for a constant tuple of a name and the numbers after it."""
    if PHI[0] == "cross entropy":
        return m
    elif PHI[0] == "focal":
        return power(-expm1(-m), PHI[1]) * m
    elif PHI[0] == "poly-1":
        wrong = -expm1(-m)
        return power(wrong, PHI[1]) * (m + PHI[2] * wrong)
    elif PHI[0] == "shifted focal":
        wrong = tl.maximum(-expm1(-m) - PHI[2], 0)
        return power(wrong, PHI[1]) * _shifted(m, wrong, PHI[2])
    elif PHI[0] == "symmetric":
        return PHI[1] * m - PHI[2] * expm1(-m)
    else:
        tl.static_assert(PHI[0] == "comp-sum")
        rate: tl.constexpr = 1 - PHI[1]
        m = tl.minimum(m, PHI[2])
        if rate == 0:
            return m
        else:
            steep = tl.minimum(rate * m, _STEEPEST)
            return (expm1(steep) + (rate * m - steep) * _HEIGHT) / rate


@compiled
def slope(m, PHI: tl.constexpr):
    """dφ/dm."""
    if PHI[0] == "cross entropy":
        return tl.zeros_like(m) + 1
    elif PHI[0] == "focal":
        return _focal_slope(-expm1(-m), m, PHI[1], 0)
    elif PHI[0] == "poly-1":
        return _focal_slope(-expm1(-m), m, PHI[1], PHI[2] * (PHI[1] + 1))
    elif PHI[0] == "shifted focal":
        right, wrong = tl.exp(-m), tl.maximum(-expm1(-m) - PHI[2], 0)
        per_wrong = _shifted(m, wrong, PHI[2]) / tl.where(wrong == 0, 1, wrong)
        steepness = PHI[1] * per_wrong + 1 / (right + PHI[2])
        return tl.where(wrong == 0, 0, right * power(wrong, PHI[1]) * steepness)
    elif PHI[0] == "symmetric":
        return PHI[1] + PHI[2] * tl.exp(-m)
    else:
        tl.static_assert(PHI[0] == "comp-sum")
        rate: tl.constexpr = 1 - PHI[1]
        return tl.where(m >= PHI[2], 0, tl.exp(tl.minimum(rate * m, _STEEPEST)))


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
