"""What overlap does not see: whether thin structures are found whole, in MONAI's metric interface."""

from segloss.metrics.centerline import CenterlineDiceMetric
from segloss.metrics.topology import BettiErrorMetric, betti_number

__all__ = ["BettiErrorMetric", "CenterlineDiceMetric", "betti_number"]
