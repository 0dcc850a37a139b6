"""The loops of `segloss.engine.tiles`: sums over voxels, and their gradient."""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

from segloss.compiled import compiled
from segloss.engine.loops.arithmetic import (
    REORDERED,
    logarithm,
    logarithm_of_one_more,
    sigmoid,
    softmax,
)

__all__ = ["add_up", "write_gradient"]

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
    _TALLY,
    _CONFUSION,
    _MAP,
    _PRED_TIMES_MAP,
) = range(15)  # in the order of `segloss.engine.tiles.SUMS`
_TILE = 512
_f, _i, _index = np.float32, np.int32, np.uint32
_ZERO, _ONE, _TWO = _f(0), _f(1), _f(2)


@compiled(fastmath=REORDERED)
def _narrow(labels, classes, short):
    """The labels in 32 bits, of which a processor compares more at a time; how many are none."""
    wrong = 0
    for v in range(len(labels)):
        outside = (labels[v] < 0) | (labels[v] >= classes)
        short[v] = _i(0) if outside else _i(labels[v])
        wrong += outside
    return wrong


@compiled(fastmath=REORDERED)
def _in_class(short, c, n, row):
    """1 where the label is c, 0 elsewhere."""
    label = _i(c)
    for v in range(n):
        row[v] = _ONE if short[v] == label else _ZERO


@compiled(fastmath=REORDERED)
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


@compiled(fastmath=REORDERED)
def _adjust(logits, start, n, affine, y, out):
    """Slope · logit + shift - margin · membership."""
    for c in range(len(y)):
        slope, shift, margin = affine[0, c], affine[1, c], affine[2, c]
        z, belongs, row = logits[c, start : start + n], y[c], out[c]
        for v in range(n):
            row[v] = z[v] * slope + shift - margin * belongs[v]


@compiled(fastmath=REORDERED)
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


@compiled(fastmath=REORDERED)
def _add_by_label(kind, pred, short, w, n, row, out):
    """Σ w of each label, or Σ w p of each channel and label."""
    c = len(pred)
    for label in range(c):
        _in_class(short, label, n, row)
        total = _ZERO
        for v in range(n):
            row[v] *= w[v]
            total += row[v]
        if kind == _TALLY:
            out[label] += total
        elif total != _ZERO:  # near each other voxels have few labels
            for node in range(c):
                p, a = pred[node], _ZERO
                for v in range(n):
                    a += p[v] * row[v]
                out[node * c + label] += a


@compiled(fastmath=REORDERED)
def _add_chosen(scales, short, n, slope):
    """Add to each channel what a voxel's label says of it."""
    c = len(slope)
    for node in range(c):
        chosen, row = scales[node * c : (node + 1) * c], slope[node]
        for v in range(n):
            row[v] += chosen[_index(short[v])]


@compiled(fastmath=REORDERED)
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


@compiled(fastmath=REORDERED)
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


@compiled(fastmath=REORDERED)
def add_up(
    logits,
    is_sigmoid,
    affine,
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
        is_sigmoid: Whether they are of sigmoids, not of a softmax.
        affine: Slope, shift and margin of the logits, ``(3, c)``, or none.
        first: See `logits`.
        begin: The first voxel, counted from `first`.
        end: The one after the last.
        labels: ``(n,)`` int64, or none where there are memberships.
        true: ``(c, ·)`` memberships, or none.
        true_from: Which of them is that of the first voxel.
        weight: ``(0, 1 or c, n)``.
        label_maps: ``(·, n)`` int64.
        maps: ``(·, ·)``, the rows of all maps one after the other.
        maps_from: Which column is that of the first voxel.
        plan: A row for each region sum: its number, how many it is, and for that of a map
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
    power, adjusted = bits.view(_f), np.empty((c if len(affine) else 0, _TILE), _f)
    wrong = 0
    for at in range(begin, end, _TILE):
        n = min(_TILE, end - at)
        wrong += _fill(labels, true, true_from, weight, at, n, short, y, w)
        read, start = logits, first + at
        if len(affine):
            _adjust(logits, start, n, affine, y, adjusted)
            read, start = adjusted, 0
        if is_sigmoid:
            sigmoid(read, start, n, pred, other, bits, power)
        else:
            softmax(read, start, n, pred, other, top, total, bits, power)
        for node in range(c):
            common[node] = _common_sums(pred[node, :n], y[node], w[node % len(w)])
        column = 0
        for s in range(len(plan)):
            kind, k, row, of_labels = plan[s]
            if kind in (_TALLY, _CONFUSION):
                _add_by_label(kind, pred, short, w[0], n, m, out[column : column + k])
                column += k
                continue
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
        if len(alpha) and not is_sigmoid:
            logarithm(total[:n], bits, power, exponent)
        for node in range(c if len(alpha) else 0):
            yes, belongs, weights = other[node], y[node], w[node % len(w)]
            z = read[node, start : start + n]
            if is_sigmoid:
                logarithm_of_one_more(yes[:n], total, bits, power, exponent)
            for t in range(len(alpha)):
                scale = alpha[t, node]
                value, norm = _ZERO, _ZERO
                if is_sigmoid:
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


@compiled(fastmath=REORDERED)
def write_gradient(
    logits,
    is_sigmoid,
    affine,
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
    power, adjusted = bits.view(_f), np.empty((c if len(affine) else 0, _TILE), _f)
    for at in range(begin, end, _TILE):
        n = min(_TILE, end - at)
        _fill(labels, true, true_from, weight, at, n, short, y, w)
        read, start = logits, first + at
        if len(affine):
            _adjust(logits, start, n, affine, y, adjusted)
            read, start = adjusted, 0
        if is_sigmoid:
            sigmoid(read, start, n, pred, slope, bits, power)
        else:
            softmax(read, start, n, pred, slope, top, total, bits, power)
        for node in range(c):
            by_pred, belongs, shared, own = slope[node], y[node], common[node, 0], common[node, 1]
            for v in range(n):
                by_pred[v] = shared + own * belongs[v]
        column = 0
        for s in range(len(plan)):
            kind, k, row, of_labels = plan[s]
            if kind in (_TALLY, _CONFUSION):
                if kind == _CONFUSION:
                    _add_chosen(scales[column : column + k], short, n, slope)
                column += k
                continue
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
            if is_sigmoid:
                for v in range(n):
                    known = weights[v] * p[v] * (_ONE - p[v]) * by_pred[v]
                    g[v] = known + weights[v] * scale * (p[v] - belongs[v])
            else:
                for v in range(n):
                    by_pred[v] *= weights[v] * p[v]
                    flow[v] += by_pred[v]
                    belongs[v] *= weights[v] * scale
                    pull[v] += belongs[v]
        if not is_sigmoid:
            for node in range(c):
                p, share, by_logit = pred[node], y[node], slope[node]
                g = grad[node, first + at : first + at + n]
                for v in range(n):
                    g[v] = by_logit[v] + p[v] * (pull[v] - flow[v]) - share[v]
        for node in range(c if len(affine) else 0):
            g, stretch = grad[node, first + at : first + at + n], affine[0, node]
            for v in range(n):
                g[v] *= stretch
