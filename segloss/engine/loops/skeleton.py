"""The loops of `segloss.engine.skeleton_waves`: soft skeletons, and their slope.

The planes of a map come by one after the other, and behind each plane all that depends on it: its
erosions, what opening leaves of them, and for the slope the way back. A plane is forgotten when
nothing looks at it any more, so that memory does not grow with the number of planes.

All planes lie in `planes`, flat, and those of one map in a ring: a row of a table says where it
begins and how many planes it has. Around the voxels of a plane is a frame of `NOTHING`, one column
of which does for both sides, so that neighbours are as far away everywhere and no loop has a border.
The same number stands for voxels that do not exist: to a minimum it is too large, and a maximum
takes it for 0.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

from segloss.compiled import compiled

__all__ = ["NOTHING", "write_skeleton", "write_slope"]

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
NOTHING = _f(2)
"""Instead of a value of the map, where there is no voxel."""

_CHUNK = 1024  # voxels whose numbers stay in the processor's fastest memory


@compiled
def write_skeleton(x, begin, planes, maps, rests, out):
    """Write the soft skeleton of some planes of a map.

    Args:
        x: The map, ``(d, h, w)``, with `NOTHING` where no voxel is.
        begin: The first plane that is wanted.
        planes: Room for the rings, ``(·, (h + 2) (w + 1))``.
        maps: The rings of the map and its erosions, ``(k + 2, 2)``, at least 3 planes each.
        rests: The rings of what the first i pieces leave, ``(k + 2, 2)``: at least 2 planes each,
            but 1 for no pieces.
        out: Where to write the planes that are wanted.
    """
    _fill(planes, maps, NOTHING)
    _fill(planes, rests, _ONE)
    stages = np.zeros((4, planes.shape[1]), _f)
    k, w, end = len(maps) - 2, x.shape[2] + 1, begin + len(out)
    for t in range(len(x) + k + 2):
        _erode_and_open(x, begin, end, planes, maps, rests, stages, t)
        z = t - k - 2
        if begin <= z < end:
            rest = _plane(planes, rests, k + 1, z)
            for y in range(x.shape[1]):
                row, left, own = out[z - begin, y], rest[(y + 1) * w : (y + 2) * w - 1], x[z, y]
                for v in range(w - 1):
                    row[v] = _ZERO if own[v] == NOTHING else _ONE - left[v]


@compiled
def write_slope(x, scale, begin, planes, maps, rests, scales, flows, out):
    """Write the derivative by a map of the sum of its soft skeleton times a scale.

    Args:
        x: The map, ``(d, h, w)``, with `NOTHING` where no voxel is.
        scale: One number for each voxel of some planes, 0 for those that do not exist; it is 0 in
            the other planes.
        begin: The first of these planes.
        planes: Room for the rings, ``(·, (h + 2) (w + 1))``.
        maps: The rings of the map and its erosions, ``(k + 2, 2)``: 2 (k - i) + 5 planes each.
        rests: The rings of what the first i pieces leave, ``(k + 1, 2)``: 2 (k - i) + 2 planes
            each, but 1 for no pieces.
        scales: The ring of the scale times what the later pieces leave, ``(1, 2)``, k + 1 planes.
        flows: The rings of the derivatives by the map and its erosions, ``(k + 2, 2)``, 3 planes
            each.
        out: Where to write to, ``(d, h, w)``.
    """
    _fill(planes, maps, NOTHING)
    _fill(planes, rests, _ONE)
    _fill(planes, scales, _ZERO)
    _fill(planes, flows, _ZERO)
    stages, backs = np.zeros((4, planes.shape[1]), _f), np.zeros((3, planes.shape[1]), _f)
    k, w, end, last = len(rests) - 1, x.shape[2] + 1, begin + len(scale), len(x) - 1
    for t in range(len(x) + 2 * k + 4):
        _erode_and_open(x, begin, end, planes, maps, rests, stages, t)
        for i in range(k, -1, -1):
            z, reach = t - 2 * k - 2 + i, k + 1 - i
            if begin <= z < end:
                pulled = _plane(planes, scales, 0, z)
                if i == k:
                    _lay(scale[z - begin], pulled)
                eroded = _around(planes, maps, i + 1, z, last)
                _open(_plane(planes, maps, i, z), eroded, w, stages)
                rest, flow = _plane(planes, rests, i, z), _plane(planes, flows, i, z)
                _pull(stages[3], rest, pulled, flow, backs[2])
                _undo_dilation(stages, backs, eroded, _around(planes, flows, i + 1, z, last), w)
            z -= 1
            if max(begin - reach, 0) <= z <= min(end + reach - 1, last):
                flow, eroded = _plane(planes, flows, i + 1, z), _plane(planes, maps, i + 1, z)
                sources = _around(planes, maps, i, z, last)
                _undo_erosion(flow, eroded, sources, _around(planes, flows, i, z, last), w)
        z = t - 2 * k - 4
        if 0 <= z <= last:
            flow = _plane(planes, flows, 0, z)
            for y in range(x.shape[1]):
                row, given = out[z, y], flow[(y + 1) * w : (y + 2) * w - 1]
                for v in range(w - 1):
                    row[v] = given[v]
            flow[:] = _ZERO


@compiled
def _erode_and_open(x, begin, end, planes, maps, rests, stages, t):
    """Erode as often as there are maps, and multiply what the pieces leave; at time t.

    The pieces are wanted from `begin` to `end`, and the erosions as far as these look.
    """
    last, w = len(x) - 1, x.shape[2] + 1
    for i in range(len(maps)):
        z, reach = t - i, len(maps) - i
        if max(begin - reach, 0) <= z <= min(end + reach - 1, last):
            if i == 0:
                _lay(x[z], _plane(planes, maps, i, z))
            else:
                _erode(_around(planes, maps, i - 1, z, last), w, _plane(planes, maps, i, z))
    for i in range(len(rests) - 1):
        z = t - i - 2
        if begin <= z < end:
            _open(_plane(planes, maps, i, z), _around(planes, maps, i + 1, z, last), w, stages)
            piece = stages[3]
            rest, left = _plane(planes, rests, i, z), _plane(planes, rests, i + 1, z)
            for v in range(len(piece)):
                left[v] = rest[v] * (_ONE - piece[v])


@compiled
def _plane(planes, rings, i, z):
    return planes[rings[i, 0] + z % rings[i, 1]]


@compiled
def _around(planes, rings, i, z, last):
    """The planes before, here and after; at the ends itself, which changes no extreme."""
    before, after = _plane(planes, rings, i, max(z - 1, 0)), min(z + 1, last)
    return before, _plane(planes, rings, i, z), _plane(planes, rings, i, after)


@compiled
def _fill(planes, rings, value):
    for plane in range(rings[0, 0], rings[-1, 0] + rings[-1, 1]):
        planes[plane] = value


@compiled
def _lay(rows, plane):
    """Lay rows into the frame of a plane."""
    n = rows.shape[1]
    for y in range(len(rows)):
        row, own = rows[y], plane[(y + 1) * (n + 1) : (y + 1) * (n + 1) + n]
        for v in range(n):
            own[v] = row[v]


@compiled
def _erode(planes, w, out):
    """The least of each voxel and its neighbours in three planes, whose rows are w apart."""
    n = len(out) - 2 * w
    before, here, after = planes
    own, b, a = here[w : w + n], before[w : w + n], after[w : w + n]
    up, down, left, right = here[:n], here[2 * w :], here[w - 1 :], here[w + 1 :]
    eroded = out[w : w + n]
    for v in range(n):
        least = min(own[v], b[v], a[v], up[v], down[v], left[v], right[v])
        eroded[v] = NOTHING if own[v] == NOTHING else least


@compiled
def _open(x, eroded, w, stages):
    """Dilate along one axis, along two, along all; last, the piece that this does not bring back."""
    n = len(x) - 2 * w
    before, here, after = eroded
    own, b, a = here[w : w + n], before[w : w + n], after[w : w + n]
    first, second, third = stages[0, w : w + n], stages[1, w : w + n], stages[2, w : w + n]
    for v in range(n):
        first[v] = max(_seen(own[v]), _seen(b[v]), _seen(a[v]))
    up, down = stages[0, :n], stages[0, 2 * w :]
    for v in range(n):
        second[v] = max(first[v], up[v], down[v])
    left, right = stages[1, w - 1 :], stages[1, w + 1 :]
    for v in range(n):
        third[v] = max(second[v], left[v], right[v])
    opened, piece = stages[2], stages[3]
    for v in range(len(x)):
        piece[v] = max(x[v] - opened[v], _ZERO)


@compiled
def _seen(value):
    return _ZERO if value == NOTHING else value


@compiled
def _pull(piece, rest, scale, flow, back):
    """Flow into the map, and back out of what it was opened to; scale it for earlier pieces."""
    for v in range(len(piece)):
        back[v] = -(rest[v] * scale[v]) if piece[v] > _ZERO else _ZERO
    for v in range(len(piece)):
        flow[v] -= back[v]
    for v in range(len(piece)):
        scale[v] *= _ONE - piece[v]


@compiled
def _undo_dilation(stages, backs, sources, targets, w):
    """From the last stage to the map: `backs` are the flows into the stages, 0 when left."""
    for axis, shift in ((2, 1), (1, w)):
        stage, back = stages[axis - 1], backs[axis - 1]
        _hand_over(backs[axis], stages[axis], (stage, stage, stage), (back, back, back), shift, w)
    _hand_over(backs[0], stages[0], sources, targets, 0, w)


@compiled
def _undo_erosion(flow, eroded, sources, targets, w):
    _hand_over(flow, eroded, sources, targets, 0, w)
    source, target = sources[1], targets[1]
    for shift in (w, 1):
        _hand_over(flow, eroded, (source, source, source), (target, target, target), shift, w)


@compiled
def _hand_over(flow, extreme, sources, targets, shift, w):
    """Hand flow on to the voxel itself if the extreme is its own, else to its neighbours.

    Sources and targets are planes before, here and after; the neighbours are as many places before
    in the first, and after in the last.
    """
    for c in range(w, len(flow) - w, _CHUNK):
        d = min(c + _CHUNK, len(flow) - w)
        f, e = flow[c:d], extreme[c:d]
        _hand_on(f, e, sources[1][c:d], targets[1][c:d])
        _hand_on(f, e, sources[0][c - shift : d - shift], targets[0][c - shift : d - shift])
        _hand_on(f, e, sources[2][c + shift : d + shift], targets[2][c + shift : d + shift])


@compiled
def _hand_on(flow, extreme, source, target):
    """Hand flow on to where the extreme comes from; none of it remains."""
    for v in range(len(flow)):
        given = flow[v] if source[v] == extreme[v] else _ZERO
        target[v] += given
        flow[v] -= given
