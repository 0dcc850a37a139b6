"""What overlap does not see, in MONAI's metric interface: thin structures, and nested ones."""

from segloss.metrics.centerline import CenterlineDiceMetric
from segloss.metrics.nesting import NestingViolation
from segloss.metrics.topology import BettiErrorMetric, betti_number

__all__ = ["BettiErrorMetric", "CenterlineDiceMetric", "NestingViolation", "betti_number"]
