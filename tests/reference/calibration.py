"""The calibration error, bin by bin."""

from typing import Any

import torch
from torch import Tensor

from tests.reference.dense import Dense, pooled

__all__ = ["calibration_scores"]


def calibration_scores(loss: Any, x: Dense) -> Tensor:
    """``(g, c)``: the gaps of the bins that are not empty, averaged."""
    gaps, filled = [], []
    for i in range(loss.bins):
        share = x.weight * _share(x.pred, i, loss.bins, loss.binning == "soft")
        size, said, came = (
            pooled(z.sum(2), loss.group) for z in (share, share * x.pred, share * x.true)
        )
        counts = size > (0.01 if loss.binning == "soft" else 0)
        gap = (said - came).abs() / torch.where(counts, size, 1.0)
        gaps.append(torch.where(counts, gap, 0.0))
        filled.append(counts.double())
    return torch.stack(gaps).sum(0) / torch.stack(filled).sum(0).clamp(min=1)


def _share(p: Tensor, i: int, bins: int, soft: bool) -> Tensor:
    """How much of each voxel is in bin i."""
    last = i == bins - 1
    if not soft:
        return ((p >= i / bins) & ((p < (i + 1) / bins) | last)).double()
    centre = (i + 0.5) / bins
    hat = (1 - (p - centre).abs() * bins).clamp(min=0)
    beyond = ((p <= centre) & (i == 0)) | ((p >= centre) & last)
    return torch.where(beyond, 1.0, hat)
