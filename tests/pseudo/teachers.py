"""Teachers for the tests: logits and void voxels, at will."""

import torch
from torch import Tensor

SHAPES = [(2, 3, 6, 5), (2, 4, 3, 5, 4)]
"""In 2D and in 3D."""


def teacher_logits(
    shape: tuple[int, ...] = (2, 3, 6, 5),
    *,
    seed: int = 0,
    scale: float = 3.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Random logits ``(b, c, *space)``."""
    rng = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=rng, dtype=torch.float64)).to(dtype)


def void_for(logits: Tensor, seed: int = 9) -> Tensor:
    """A fifth of the voxels."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand((len(logits), *logits.shape[2:]), generator=rng) < 0.2


def two_classes(confidence: list[float]) -> Tensor:
    """Probabilities ``(1, 2, 1, n)`` of a teacher that is so sure of class 0."""
    p = torch.tensor(confidence)
    return torch.stack((p, 1 - p))[None, :, None]
