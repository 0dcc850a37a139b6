"""How fast to trust a teacher: the weight of what is learned from it, epoch by epoch."""

import math
from typing import final

from segloss.schedules import Ramp

__all__ = ["SigmoidRamp"]


@final
class SigmoidRamp(Ramp):
    r"""From ``start`` to ``end`` along :math:`e^{-5 (1 - t)^2}`, then ``end``: late, and steep.

    With t the share of the ``steps`` that is done. Semi-supervised learning weighs its unlabelled
    term so; it begins a little above ``start``, at 0.0067 of the way. The steps need not be epochs:
    SSL4MIS counts 200 steps of 150 iterations each.

    References:
        Laine and Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017.

    Example:
        >>> [round(SigmoidRamp(0.0, 1.0, 200)(epoch), 4) for epoch in (0, 100, 200, 300)]
        [0.0067, 0.2865, 1.0, 1.0]
    """

    def share(self, time: float) -> float:
        return math.exp(-5 * (1 - time) ** 2)
