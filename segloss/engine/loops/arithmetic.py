"""Functions of every number of a row in single precision, in place; and probabilities of logits."""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

from segloss.compiled import compiled

__all__ = ["FUSED", "REORDERED", "logarithm", "logarithm_of_one_more", "sigmoid", "softmax"]

FUSED = frozenset({"contract"})
"""Multiply and add at once."""
REORDERED = frozenset({"contract", "nsz", "reassoc"})
"""Numbers may be added in any order. Infinities and NaN stay what they are."""
_f, _i = np.float32, np.int32
_ZERO, _HALF, _ONE = _f(0), _f(0.5), _f(1)


@compiled(fastmath=FUSED)
def exponential(x, bits, power):
    """X ≤ 0 becomes e^x, at least e^-87; `power` is `bits`, read as single precision."""
    for v in range(len(x)):
        y = max(x[v], _f(-87))  # NaN stays NaN
        k = np.floor(y * _f(1.44269504) + _HALF)
        r = y - k * _f(0.693359375) - k * _f(-2.12194440e-4)
        bits[v] = (_i(k) + _i(127)) << _i(23)
        q = _f(1.9875691500e-4)
        q = q * r + _f(1.3981999507e-3)
        q = q * r + _f(8.3334519073e-3)
        q = q * r + _f(4.1665795894e-2)
        q = q * r + _f(1.6666665459e-1)
        q = q * r + _f(5.0000001201e-1)
        x[v] = q * r * r + r + _ONE
    for v in range(len(x)):
        x[v] *= power[v]


@compiled(fastmath=FUSED)
def logarithm(x, bits, power, exponent):
    """X ≥ 1 becomes log x."""
    for v in range(len(x)):
        power[v] = x[v]
    for v in range(len(x)):
        k = (bits[v] - _i(0x3F3504F3)) >> _i(23)  # so that what is left begins at √½
        exponent[v] = _f(k)
        bits[v] -= k << _i(23)
    for v in range(len(x)):
        y = power[v] - _ONE
        q = _f(7.0376836292e-2)
        q = q * y - _f(1.1514610310e-1)
        q = q * y + _f(1.1676998740e-1)
        q = q * y - _f(1.2420140846e-1)
        q = q * y + _f(1.4249322787e-1)
        q = q * y - _f(1.6668057665e-1)
        q = q * y + _f(2.0000714765e-1)
        q = q * y - _f(2.4999993993e-1)
        q = q * y + _f(3.3333331174e-1)
        squared = y * y
        lost = x[v] - x[v]  # NaN if x is
        x[v] = y + (q * y - _HALF) * squared + exponent[v] * _f(0.69314718) + lost


@compiled(fastmath=FUSED)
def logarithm_of_one_more(e, total, bits, power, exponent):
    """`total` becomes log(1 + e), for 0 ≤ e ≤ 1."""
    for v in range(len(e)):
        total[v] = _ONE + e[v]
    logarithm(total, bits, power, exponent)
    for v in range(len(e)):
        more = _ONE + e[v]
        total[v] += (e[v] - (more - _ONE)) / more  # what the 1 has swallowed


@compiled(fastmath=REORDERED)
def softmax(logits, start, n, pred, short, top, total, bits, power):
    """Probabilities; how far each logit falls short of the largest, and Σ e^ of that."""
    row = logits[0, start : start + n]
    for v in range(n):
        top[v] = row[v]
    for c in range(1, len(pred)):
        row = logits[c, start : start + n]
        for v in range(n):
            top[v] = max(top[v], row[v])
    for v in range(n):
        total[v] = _ZERO
    for c in range(len(pred)):
        row, below, p = logits[c, start : start + n], short[c], pred[c, :n]
        for v in range(n):
            below[v] = row[v] - top[v]
        for v in range(n):
            p[v] = below[v]
        exponential(p, bits, power)
        for v in range(n):
            total[v] += p[v]
    for v in range(n):
        top[v] = _ONE / total[v]
    for c in range(len(pred)):
        p = pred[c]
        for v in range(n):
            p[v] *= top[v]


@compiled(fastmath=FUSED)
def sigmoid(logits, start, n, pred, odds, bits, power):
    """Probabilities, and e^-|logit|."""
    for c in range(len(pred)):
        row, p, e = logits[c, start : start + n], pred[c], odds[c, :n]
        for v in range(n):
            e[v] = -abs(row[v])
        exponential(e, bits, power)
        for v in range(n):
            p[v] = (_ONE if row[v] >= _ZERO else e[v]) / (_ONE + e[v])
