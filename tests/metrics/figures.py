"""Figures whose Betti numbers every topology book knows."""

import numpy as np

from segloss.metrics.base import Mask


def _grid(*shape: int) -> list[np.ndarray]:
    return [
        axis - (n - 1) / 2
        for axis, n in zip(np.ogrid[tuple(map(slice, shape))], shape, strict=True)
    ]


def disk() -> Mask:
    y, x = _grid(15, 15)
    return np.asarray(y**2 + x**2 <= 25)


def ring() -> Mask:
    y, x = _grid(15, 15)
    return np.asarray(disk() & (y**2 + x**2 > 9))


def two_rings() -> Mask:
    return np.concatenate([ring(), ring()], axis=1)


def ball() -> Mask:
    z, y, x = _grid(15, 15, 15)
    return np.asarray(z**2 + y**2 + x**2 <= 25)


def hollow_ball() -> Mask:
    z, y, x = _grid(15, 15, 15)
    return np.asarray(ball() & (z**2 + y**2 + x**2 > 6))


def torus() -> Mask:
    z, y, x = _grid(9, 21, 21)
    return np.asarray((np.sqrt(y**2 + x**2) - 6) ** 2 + z**2 <= 6)


def two_balls() -> Mask:
    return np.concatenate([ball(), ball()], axis=0)


def torus_and_hollow_ball() -> Mask:
    return np.concatenate(
        [np.pad(torus(), ((3, 3), (0, 0), (0, 0))), np.pad(hollow_ball(), ((0, 0), (3, 3), (3, 3)))]
    )


def frame() -> Mask:
    """The twelve edges of a cube: five independent loops."""
    ends = sum(
        (np.isin(np.arange(7), (0, 6)).reshape(s) for s in ((-1, 1, 1), (1, -1, 1), (1, 1, -1))),
        np.zeros((7, 7, 7), dtype=int),
    )
    return np.asarray(ends >= 2)


BETTI = {  # pieces, loops
    disk: (1, 0),
    ring: (1, 1),
    two_rings: (2, 2),
    ball: (1, 0),
    hollow_ball: (1, 0),  # its cavity is no loop
    torus: (1, 1),
    two_balls: (2, 0),
    torus_and_hollow_ball: (2, 1),
    frame: (1, 5),
}
