"""Arithmetic on a tile: all channels of some voxels of a sample, ``[channels, lanes, voxels]``.

A **row** is a sum Σ w q, for a q(p, y, …) of its own, over the voxels of each channel: `sum_rows` adds
them up, `write_gradient` turns the derivative by them into that by the logits. Rows are constants to
the compiler (`segloss.engine.kernels.rows`), so that a kernel holds what was asked for and no more.

A tile holds every channel, so that the logits are read once; the more channels, the fewer voxels. A
thread of the GPU is a lane: it has all channels of a few voxels side by side, so that neither a softmax
nor the adding up of a tile asks another thread. Programs write into places of their own: nothing is
added up in an order that could differ.
"""
# ruff: noqa: ANN001, ANN201, ANN202, RET505

import triton.language as tl

from segloss.engine.kernels import phi
from segloss.engine.kernels.compile import compiled

__all__ = ["sum_rows", "write_gradient"]


@compiled
def sum_rows(
    logits, target, weight, affine, maps, out, strides, n, tiles,
    KINDS: tl.constexpr, NAMES: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    MAPS: tl.constexpr, POWERS: tl.constexpr, C: tl.constexpr, CHANNELS: tl.constexpr,
    LANES: tl.constexpr, VOXELS: tl.constexpr, SOFTMAX: tl.constexpr, LABELS: tl.constexpr,
    IGNORE: tl.constexpr, SHARED: tl.constexpr, MAPPED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add up the rows over ``tiles`` tiles: ``out`` is ``(b, programs, rows, c)``.

    Of each row: ``KINDS``, ``NAMES`` and their two numbers, ``FIRST`` and ``SECOND``, which of the
    ``MAPS`` to multiply by and to which of the ``POWERS``; below 0 for none.
    ``CHANNELS``: the next power of two from the number of channels, ``C``.
    ``LABELS``: the target has no channels. ``SHARED``: nor has the weight. ``MAPPED``: how many
    channels each map has, 0 for labels. ``strides`` are those of the logits, the target, the weight
    and the maps, over samples, channels and voxels.
    """
    program, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)[:, None, None]
    sums = ()
    for i in tl.static_range(len(KINDS)):
        sums += (tl.zeros((1 if KINDS[i] == "wrong" else CHANNELS, LANES), DTYPE),)
    for tile in range(tiles):
        voxel = _voxels(program * tiles + tile, LANES, VOXELS)
        y, w, label, wrong = _truth(
            target, weight, strides, sample, channel, voxel, n, C, LABELS, IGNORE, SHARED, DTYPE
        )
        f = _logits(logits, affine, strides, sample, channel, voxel, n, y, C, SOFTMAX, DTYPE)
        p, yes, no = _prediction(f, y, channel, C, SOFTMAX, LABELS)
        more = ()
        for i in tl.static_range(len(KINDS)):
            if KINDS[i] == "region":
                q = _value(w, p, y, NAMES[i], FIRST[i])
                if MAPS[i] >= 0:
                    s = _map(maps, strides, sample, channel, voxel, n, C, MAPPED, MAPS[i])[0]
                    q *= _powered(s.to(DTYPE), POWERS[i])
            elif KINDS[i] == "label":
                q = w * p * _as_number(label == FIRST[i], DTYPE)
            elif KINDS[i] == "yes":
                q = w * y * phi.value(yes, NAMES[i], FIRST[i], SECOND[i])
            elif KINDS[i] == "no":
                q = w * (1 - y) * phi.value(no, NAMES[i], FIRST[i], SECOND[i])
            elif MAPS[i] < 0:
                q = _as_number(wrong, DTYPE)
            else:
                q = _map(maps, strides, sample, channel, voxel, n, C, MAPPED, MAPS[i])[1]
                q = _as_number(q, DTYPE)
            more += (sums[i] + tl.sum(q, 2),)
        sums = more
    channel = tl.arange(0, CHANNELS)
    row = (sample * tl.num_programs(0) + program) * len(KINDS)
    for i in tl.static_range(len(KINDS)):
        tl.store(out + (row + i) * C + channel, tl.sum(sums[i], 1), mask=channel < C)


@compiled
def write_gradient(
    logits, target, weight, affine, maps, scale, out, out_strides, strides, n,
    KINDS: tl.constexpr, NAMES: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    MAPS: tl.constexpr, POWERS: tl.constexpr, C: tl.constexpr, CHANNELS: tl.constexpr,
    LANES: tl.constexpr, VOXELS: tl.constexpr, SOFTMAX: tl.constexpr, LABELS: tl.constexpr,
    IGNORE: tl.constexpr, SHARED: tl.constexpr, MAPPED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Derivative by the logits of the rows, each times its ``scale``, ``(b, rows, c)``."""
    sample = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)[:, None, None]
    voxel = _voxels(tl.program_id(0).to(tl.int64), LANES, VOXELS)
    y, w, label, _ = _truth(
        target, weight, strides, sample, channel, voxel, n, C, LABELS, IGNORE, SHARED, DTYPE
    )
    f = _logits(logits, affine, strides, sample, channel, voxel, n, y, C, SOFTMAX, DTYPE)
    p, yes, no = _prediction(f, y, channel, C, SOFTMAX, LABELS)
    by_pred, by_yes, by_no = tl.zeros_like(f), tl.zeros_like(f), tl.zeros_like(f)
    for i in tl.static_range(len(KINDS)):
        by_row = tl.load(scale + (sample * len(KINDS) + i) * C + channel, channel < C, 0)
        if KINDS[i] == "region":
            slope = by_row * _slope(p, y, NAMES[i], FIRST[i])
            if MAPS[i] >= 0:
                s = _map(maps, strides, sample, channel, voxel, n, C, MAPPED, MAPS[i])[0]
                slope *= _powered(s.to(DTYPE), POWERS[i])
            by_pred += slope
        elif KINDS[i] == "label":
            by_pred += by_row * _as_number(label == FIRST[i], DTYPE)
        elif KINDS[i] == "yes":
            by_yes += by_row * y * phi.slope(yes, NAMES[i], FIRST[i], SECOND[i])
        elif KINDS[i] == "no":
            by_no += by_row * (1 - y) * phi.slope(no, NAMES[i], FIRST[i], SECOND[i])
    if SOFTMAX:
        flow = w * by_pred * p
        back = tl.sum(w * by_yes - flow, 0)[None]
        flow += p * back - w * by_yes
    else:
        flow = w * (by_pred * p * (1 - p) + by_no * p - by_yes * (1 - p))
    if affine is not None:
        flow *= tl.load(affine[0] + channel, channel < C, 0)
    place = _places(out, out_strides, sample, channel, voxel)
    tl.store(place, flow.to(out.dtype.element_ty), mask=(channel < C) & (voxel < n))


@compiled
def _voxels(tile, LANES: tl.constexpr, VOXELS: tl.constexpr):
    """Which voxels a tile has, ``[1, lanes, voxels]``."""
    lane, own = tl.arange(0, LANES)[None, :, None], tl.arange(0, VOXELS)[None, None, :]
    return (tile * LANES + lane) * VOXELS + own


@compiled
def _places(x, strides, sample, channel, voxel):
    return x + sample * strides[0] + channel.to(tl.int64) * strides[1] + voxel * strides[2]


@compiled
def _truth(
    target, weight, strides, sample, channel, voxel, n,
    C: tl.constexpr, LABELS: tl.constexpr, IGNORE: tl.constexpr, SHARED: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Memberships y, weights w (0 beyond the volume), labels, and where a label is no class."""
    first = tl.zeros((1, 1, 1), tl.int32) if LABELS else channel
    inside = (voxel < n) & (first < C)
    given = tl.load(_places(target, strides[1], sample, first, voxel), inside, 0)
    if given.dtype.is_floating():
        given = given.to(DTYPE)
    elif given.dtype != tl.int64:  # bytes may not hold what they are compared with
        given = given.to(tl.int32)
    w = _as_number(voxel < n, DTYPE)
    if IGNORE is not None:
        w = tl.where(given == IGNORE, 0, w)
        given = tl.where(given == IGNORE, 0, given)
    if weight is not None:
        first = tl.zeros((1, 1, 1), tl.int32) if SHARED else channel
        place = _places(weight, strides[2], sample, first, voxel)
        w *= tl.load(place, (voxel < n) & (first < C), 0).to(DTYPE)
    if LABELS:
        classes, wrong = _one_hot(given, channel, C)
        y = _as_number(classes, DTYPE)
    else:
        y, wrong = given.to(DTYPE), voxel < 0
    return y, w, given, wrong


@compiled
def _as_number(condition, DTYPE: tl.constexpr):
    one = tl.full((1, 1, 1), 1, DTYPE)  # chosen: converted, it would take two instructions
    return tl.where(condition, one, one * 0)


@compiled
def _one_hot(labels, channel, C: tl.constexpr):
    """Which class a voxel has, and where it has none."""
    fits = (labels >= 0) & (labels < C)
    number = tl.where(fits, labels, 0).to(tl.int32)
    return number == channel, (fits & (number.to(labels.dtype) == labels)) == 0


@compiled
def _logits(
    logits, affine, strides, sample, channel, voxel, n, y,
    C: tl.constexpr, SOFTMAX: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    inside = (channel < C) & (voxel < n)
    f = tl.load(_places(logits, strides[0], sample, channel, voxel), inside, 0).to(DTYPE)
    if affine is not None:
        f = f * tl.load(affine[0] + channel, channel < C, 0)
        f += tl.load(affine[1] + channel, channel < C, 0)
        if len(affine) == 3:
            f -= y * tl.load(affine[2] + channel, channel < C, 0)
    return tl.where(channel < C, f, float("-inf")) if SOFTMAX else f


@compiled
def _prediction(f, y, channel, C: tl.constexpr, SOFTMAX: tl.constexpr, LABELS: tl.constexpr):
    """Probabilities, and the cross entropies of yes and no; of the label alone where there is one."""
    if SOFTMAX:
        top = tl.max(f, 0)[None]
        odds = tl.exp(f - top)
        total = tl.sum(odds, 0)[None]
        if LABELS:
            below = top - tl.sum(tl.where(y == 1, f, 0), 0)[None]
        else:
            below = tl.where(channel < C, top - f, 0)
        p, yes = odds * (1 / total), tl.log(total) + below
        no = yes
    else:
        odds = tl.exp(-tl.abs(f))
        p = tl.where(f >= 0, 1, odds) / (1 + odds)
        rest = phi.log1p(odds)
        yes, no = rest + tl.maximum(-f, 0), rest + tl.maximum(f, 0)
    return p, yes, no


@compiled
def _map(
    maps, strides, sample, channel, voxel, n,
    C: tl.constexpr, MAPPED: tl.constexpr, I: tl.constexpr,
):  # fmt: skip
    """A map, of classes from 1 on if it holds labels, and where a label is no class."""
    if MAPPED[I] == 0:
        first = tl.zeros((1, 1, 1), tl.int32)
        place = _places(maps[I], strides[3 + I], sample, first, voxel)
        labels = tl.load(place, voxel < n, 0)
        if not labels.dtype.is_floating() and labels.dtype != tl.int64:
            labels = labels.to(tl.int32)
        classes, wrong = _one_hot(labels, channel, C)
        return classes & (channel > 0), wrong
    else:
        own = channel - (C - MAPPED[I])
        place = _places(maps[I], strides[3 + I], sample, own, voxel)
        inside = (own >= 0) & (channel < C) & (voxel < n)
        return tl.load(place, inside, 0), voxel < 0


@compiled
def _powered(s, POWER: tl.constexpr):
    """A map, or a power of its size."""
    return s if POWER < 0 else phi.power(tl.abs(s), POWER)


@compiled
def _value(w, p, y, NAME: tl.constexpr, GAMMA: tl.constexpr):
    """What a region sum adds up, without its map; w first, so that w p is computed once for all."""
    if NAME == "count":
        return w + tl.zeros_like(p)
    elif NAME == "pred":
        return w * p
    elif NAME == "true":
        return w * y
    elif NAME == "overlap":
        return w * p * y
    elif NAME == "pred_squared":
        return w * p * p
    elif NAME == "true_squared":
        return w * y * y
    elif NAME == "pred_squared_true":
        return w * p * p * y
    elif NAME == "pred_squared_rest":
        return w * p * p * (1 - y)
    elif NAME == "alarm":
        return w * p * (1 - y)
    elif NAME == "miss":
        return w * y * (1 - p)
    elif NAME == "rejected":
        return w * (1 - p) * (1 - y)
    else:
        tl.static_assert(NAME == "error")
        return w * phi.power(tl.abs(p - y), GAMMA)


@compiled
def _slope(p, y, NAME: tl.constexpr, GAMMA: tl.constexpr):
    """Its derivative by p."""
    if NAME == "pred":
        return tl.zeros_like(p) + 1
    elif NAME == "overlap":
        return y
    elif NAME == "pred_squared":
        return 2 * p
    elif NAME == "pred_squared_true":
        return 2 * p * y
    elif NAME == "pred_squared_rest":
        return 2 * p * (1 - y)
    elif NAME == "alarm":
        return 1 - y
    elif NAME == "miss":
        return -y
    elif NAME == "rejected":
        return y - 1
    elif NAME == "error":
        error = p - y
        sign = tl.where(error > 0, 1, tl.where(error < 0, -1, 0))
        return GAMMA * phi.power(tl.abs(error), GAMMA - 1) * sign
    else:  # count, true, true_squared
        return tl.zeros_like(p)
