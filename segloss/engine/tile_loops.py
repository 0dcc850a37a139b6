"""The loops of `segloss.engine.tiles`, compiled by numba: sums over voxels, and their gradient.

A tile is a few hundred voxels: what belongs to it stays in the processor's fastest memory from the
first loop over it to the last. Every inner loop runs over the voxels of a tile and does nothing
that a compiler could not do for many of them at a time. That is why exponentials and logarithms are
polynomials here, exact to the last digit or two of single precision, and why the inner loops
index rows by their own number alone: another index might be negative, and would be looked at one by
one.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

from segloss.compiled import compiled

__all__ = ["add_up", "add_up_by_number", "write_gradient"]

(
    _COUNT,
    _PRED,
    _TRUE,
    _OVERLAP,
    _PRED_SQUARED,
    _TRUE_SQUARED,
    _PRED_SQUARED_TRUE,
    _PRED_SQUARED_REST,
    _ALARM,
    _MISS,
    _REJECTED,
    _MAP,
    _PRED_TIMES_MAP,
) = range(13)  # in the order of `segloss.engine.tiles.SUMS`
_TILE = 512
_FUSED = frozenset({"contract"})
# Numbers may be added in any order. Infinities and NaN stay what they are.
_REORDERED = frozenset({"contract", "nsz", "reassoc"})
_f, _i = np.float32, np.int32
_ZERO, _HALF, _ONE, _TWO = _f(0), _f(0.5), _f(1), _f(2)


@compiled(fastmath=_FUSED)
def _exponential(x, bits, power):
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


@compiled(fastmath=_FUSED)
def _logarithm(x, bits, power, exponent):
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


@compiled(fastmath=_FUSED)
def _logarithm_of_one_more(e, total, bits, power, exponent):
    """`total` becomes log(1 + e), for 0 ≤ e ≤ 1."""
    for v in range(len(e)):
        total[v] = _ONE + e[v]
    _logarithm(total, bits, power, exponent)
    for v in range(len(e)):
        more = _ONE + e[v]
        total[v] += (e[v] - (more - _ONE)) / more  # what the 1 has swallowed


@compiled(fastmath=_REORDERED)
def _softmax(logits, start, n, pred, short, top, total, bits, power):
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
        _exponential(p, bits, power)
        for v in range(n):
            total[v] += p[v]
    for v in range(n):
        top[v] = _ONE / total[v]
    for c in range(len(pred)):
        p = pred[c]
        for v in range(n):
            p[v] *= top[v]


@compiled(fastmath=_FUSED)
def _sigmoid(logits, start, n, pred, odds, bits, power):
    """Probabilities, and e^-|logit|."""
    for c in range(len(pred)):
        row, p, e = logits[c, start : start + n], pred[c], odds[c, :n]
        for v in range(n):
            e[v] = -abs(row[v])
        _exponential(e, bits, power)
        for v in range(n):
            p[v] = (_ONE if row[v] >= _ZERO else e[v]) / (_ONE + e[v])


@compiled(fastmath=_REORDERED)
def _narrow(labels, classes, short):
    """The labels in 32 bits, of which a processor compares more at a time; how many are none."""
    wrong = 0
    for v in range(len(labels)):
        short[v] = _i(labels[v])
        wrong += (labels[v] < 0) | (labels[v] >= classes)
    return wrong


@compiled(fastmath=_REORDERED)
def _in_class(short, c, n, row):
    """1 where the label is c, 0 elsewhere."""
    label = _i(c)
    for v in range(n):
        row[v] = _ONE if short[v] == label else _ZERO


@compiled(fastmath=_REORDERED)
def _fill(labels, true, true_from, weight, at, n, short, y, w):
    """The tile's memberships and weights; how many labels are none."""
    wrong = 0
    if len(labels):
        wrong = _narrow(labels[at : at + n], len(y), short)
    for c in range(len(y)):
        row = y[c]
        if len(labels):
            _in_class(short, c, n, row)
        else:
            given = true[c, true_from + at : true_from + at + n]
            for v in range(n):
                row[v] = given[v]
    for c in range(len(weight)):
        row, given = w[c], weight[c, at : at + n]
        for v in range(n):
            row[v] = given[v]
    return wrong


@compiled(fastmath=_REORDERED)
def _common_sums(p, y, w):
    """The first four, which most losses ask for, in one loop."""
    count, pred, true, overlap = _ZERO, _ZERO, _ZERO, _ZERO
    for v in range(len(p)):
        weighted = w[v] * p[v]
        count += w[v]
        pred += weighted
        true += w[v] * y[v]
        overlap += weighted * y[v]
    return count, pred, true, overlap


@compiled(fastmath=_REORDERED)
def _sum(kind, p, y, w, m):
    a = _ZERO
    if kind == _PRED_SQUARED:
        for v in range(len(p)):
            a += w[v] * p[v] * p[v]
    elif kind == _TRUE_SQUARED:
        for v in range(len(p)):
            a += w[v] * y[v] * y[v]
    elif kind == _PRED_SQUARED_TRUE:
        for v in range(len(p)):
            a += w[v] * p[v] * p[v] * y[v]
    elif kind == _PRED_SQUARED_REST:
        for v in range(len(p)):
            a += w[v] * p[v] * p[v] * (_ONE - y[v])
    elif kind == _ALARM:
        for v in range(len(p)):
            a += w[v] * p[v] * (_ONE - y[v])
    elif kind == _MISS:
        for v in range(len(p)):
            a += w[v] * (_ONE - p[v]) * y[v]
    elif kind == _REJECTED:
        for v in range(len(p)):
            a += w[v] * (_ONE - p[v]) * (_ONE - y[v])
    elif kind == _MAP:
        for v in range(len(p)):
            a += w[v] * m[v]
    else:
        for v in range(len(p)):
            a += w[v] * p[v] * m[v]
    return a


@compiled(fastmath=_REORDERED)
def _add_slope(kind, scale, p, y, m, slope):
    """Add the derivative of a sum by p, without the weight."""
    if kind == _PRED_SQUARED:
        for v in range(len(p)):
            slope[v] += _TWO * scale * p[v]
    elif kind == _PRED_SQUARED_TRUE:
        for v in range(len(p)):
            slope[v] += _TWO * scale * p[v] * y[v]
    elif kind == _PRED_SQUARED_REST:
        for v in range(len(p)):
            slope[v] += _TWO * scale * p[v] * (_ONE - y[v])
    elif kind == _ALARM:
        for v in range(len(p)):
            slope[v] += scale * (_ONE - y[v])
    elif kind == _MISS:
        for v in range(len(p)):
            slope[v] -= scale * y[v]
    elif kind == _REJECTED:
        for v in range(len(p)):
            slope[v] -= scale * (_ONE - y[v])
    elif kind == _PRED_TIMES_MAP:
        for v in range(len(p)):
            slope[v] += scale * m[v]


@compiled(fastmath=_REORDERED)
def add_up(
    logits,
    sigmoid,
    first,
    begin,
    end,
    labels,
    true,
    true_from,
    weight,
    label_maps,
    maps,
    maps_from,
    plan,
    alpha,
    out,
):
    """Add the sums over some voxels to `out`.

    Args:
        logits: ``(c, all)``; those from `first` on are meant.
        sigmoid: Whether they are of sigmoids, not of a softmax.
        first: See there.
        begin: The first voxel, counted from `first`.
        end: The one after the last.
        labels: ``(n,)`` int64, or none where there are memberships.
        true: ``(c, ·)`` memberships, or none.
        true_from: Which of them is that of the first voxel.
        weight: ``(0, 1 or c, n)``.
        label_maps: ``(·, n)`` int64.
        maps: ``(·, ·)``, the rows of all maps one after the other.
        maps_from: Which column is that of the first voxel.
        plan: A row for each region sum: its number, how many nodes it has, and for that of a map
            its first row, and whether that is one of `label_maps`.
        alpha: ``(t, c)`` class weights of each sum of cross entropies.
        out: float64: the region sums one after the other, and two numbers for each sum of cross
            entropies.

    Returns:
        How many labels are none of the classes.
    """
    c = len(logits)
    pred, other, y = np.empty((c, _TILE), _f), np.empty((c, _TILE), _f), np.empty((c, _TILE), _f)
    w, m = np.ones((max(1, len(weight)), _TILE), _f), np.empty(_TILE, _f)
    top, total, exponent = np.empty(_TILE, _f), np.empty(_TILE, _f), np.empty(_TILE, _f)
    common = np.empty((c, 4), _f)
    bits, short = np.empty(_TILE, _i), np.empty(_TILE, _i)
    power = bits.view(_f)
    wrong = 0
    for at in range(begin, end, _TILE):
        n = min(_TILE, end - at)
        if sigmoid:
            _sigmoid(logits, first + at, n, pred, other, bits, power)
        else:
            _softmax(logits, first + at, n, pred, other, top, total, bits, power)
        wrong += _fill(labels, true, true_from, weight, at, n, short, y, w)
        for node in range(c):
            common[node] = _common_sums(pred[node, :n], y[node], w[node % len(w)])
        column = 0
        for s in range(len(plan)):
            kind, k, row, of_labels = plan[s]
            if of_labels:
                wrong += _narrow(label_maps[row, at : at + n], c, short)
            for i in range(k):
                node = c - k + i
                if kind <= _OVERLAP:
                    out[column + i] += common[node, kind]
                    continue
                values = m[:n]
                if of_labels:
                    _in_class(short, node, n, m)
                elif kind >= _MAP:
                    values = maps[row + i, maps_from + at : maps_from + at + n]
                out[column + i] += _sum(kind, pred[node, :n], y[node], w[node % len(w)], values)
            column += k
        if len(alpha) and not sigmoid:
            _logarithm(total[:n], bits, power, exponent)
        for node in range(c if len(alpha) else 0):
            yes, belongs, weights = other[node], y[node], w[node % len(w)]
            z = logits[node, first + at : first + at + n]
            if sigmoid:
                _logarithm_of_one_more(yes[:n], total, bits, power, exponent)
            for t in range(len(alpha)):
                scale = alpha[t, node]
                value, norm = _ZERO, _ZERO
                if sigmoid:
                    for v in range(n):
                        missed = belongs[v] * max(-z[v], _ZERO)
                        alarm = (_ONE - belongs[v]) * max(z[v], _ZERO)
                        value += weights[v] * (missed + alarm + total[v])
                        norm += weights[v]
                else:
                    for v in range(n):
                        share = weights[v] * belongs[v]
                        value += share * (total[v] - yes[v]) if share != _ZERO else _ZERO
                        norm += share
                out[column + 2 * t] += scale * value
                out[column + 2 * t + 1] += scale * norm
    return wrong


@compiled(fastmath=_REORDERED)
def write_gradient(
    logits,
    sigmoid,
    first,
    begin,
    end,
    labels,
    true,
    true_from,
    weight,
    label_maps,
    maps,
    maps_from,
    plan,
    alpha,
    scales,
    grad,
):
    """Write the derivative by the logits of the sums, each times its scale; arguments as above.

    Args:
        logits: See `add_up`, as for all up to `alpha`; but this is now one row of class weights,
            each already times the scale of its sum, or none.
        scales: The scales of the region sums one after the other.
        grad: ``(c, all)``, like the logits.
    """
    c = len(logits)
    pred, slope, y = np.empty((c, _TILE), _f), np.empty((c, _TILE), _f), np.empty((c, _TILE), _f)
    w, m = np.ones((max(1, len(weight)), _TILE), _f), np.empty(_TILE, _f)
    top, total = np.empty(_TILE, _f), np.empty(_TILE, _f)
    common = np.zeros((c, 2), _f)  # the slopes of Σ w p and Σ w p y
    column = 0
    for s in range(len(plan)):
        kind, k = plan[s, 0], plan[s, 1]
        if kind in (_PRED, _OVERLAP):
            common[:, int(kind == _OVERLAP)] = scales[column : column + k]
        column += k
    bits, short = np.empty(_TILE, _i), np.empty(_TILE, _i)
    power = bits.view(_f)
    for at in range(begin, end, _TILE):
        n = min(_TILE, end - at)
        if sigmoid:
            _sigmoid(logits, first + at, n, pred, slope, bits, power)
        else:
            _softmax(logits, first + at, n, pred, slope, top, total, bits, power)
        _fill(labels, true, true_from, weight, at, n, short, y, w)
        for node in range(c):
            by_pred, belongs, shared, own = slope[node], y[node], common[node, 0], common[node, 1]
            for v in range(n):
                by_pred[v] = shared + own * belongs[v]
        column = 0
        for s in range(len(plan)):
            kind, k, row, of_labels = plan[s]
            if of_labels:
                _narrow(label_maps[row, at : at + n], c, short)
            for i in range(k if kind > _OVERLAP else 0):
                node = c - k + i
                values = m[:n]
                if of_labels:
                    _in_class(short, node, n, m)
                elif kind >= _MAP:
                    values = maps[row + i, maps_from + at : maps_from + at + n]
                scale = scales[column + i]
                _add_slope(kind, scale, pred[node, :n], y[node], values, slope[node])
            column += k
        flow, pull = top, total
        for v in range(n):
            flow[v], pull[v] = _ZERO, _ZERO
        for node in range(c):
            p, belongs, weights, by_pred = pred[node], y[node], w[node % len(w)], slope[node]
            scale = alpha[node] if len(alpha) else _ZERO
            g = grad[node, first + at : first + at + n]
            if sigmoid:
                for v in range(n):
                    known = weights[v] * p[v] * (_ONE - p[v]) * by_pred[v]
                    g[v] = known + weights[v] * scale * (p[v] - belongs[v])
            else:
                for v in range(n):
                    by_pred[v] *= weights[v] * p[v]
                    flow[v] += by_pred[v]
                    belongs[v] *= weights[v] * scale
                    pull[v] += belongs[v]
        if not sigmoid:
            for node in range(c):
                p, share, by_logit = pred[node], y[node], slope[node]
                g = grad[node, first + at : first + at + n]
                for v in range(n):
                    g[v] = by_logit[v] + p[v] * (pull[v] - flow[v]) - share[v]


@compiled
def add_up_by_number(numbers, pred, overlap, true, out):
    """Add up Σ w p, Σ w p y and Σ w y over the voxels of each number.

    Args:
        numbers: ``(k, n)``, from 0, below the last axis of `out`.
        pred: w p, ``(k, n)``.
        overlap: w p y.
        true: w y.
        out: ``(3, k, ·)`` float64.
    """
    for node in range(len(numbers)):
        for v in range(numbers.shape[1]):
            number = numbers[node, v]
            out[0, node, number] += pred[node, v]
            out[1, node, number] += overlap[node, v]
            out[2, node, number] += true[node, v]
