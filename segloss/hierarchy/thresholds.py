"""Thresholds between nested levels that are learned: the last layer of a network."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from segloss.arguments import above_zero, whole
from segloss.engine.scan import running_sum
from segloss.shapes import Logits

__all__ = ["LevelThresholds"]

_LEAST_GAP = 0.2


@final
class LevelThresholds(nn.Module):
    r"""Turns one depth channel x into those of `segloss.OrderedLevels`, by learned thresholds.

    .. math:: z_k = s (x - \theta_k), \qquad \theta_{k+1} = \theta_k + 0.2 + \log(1 + e^{\delta_k})

    What `segloss.MultiLevelActivation` is with fixed ones. Put it last in the network, so that its
    parameters are the network's, and leave them out of weight decay. Computes in single precision or
    more, whatever autocast says. The parametrisation is this project's own.

    Args:
        levels: K, how many nested nodes there are.
        steepness: s.

    Raises:
        ValueError: If there is no level, or the steepness is not a finite number above 0.

    Example:
        >>> thresholds = LevelThresholds(3)
        >>> [round(t, 3) for t in thresholds.thresholds.tolist()]
        [-1.0, 0.0, 1.0]
        >>> thresholds(torch.zeros(1, 1, 4, 4)).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(self, levels: int, *, steepness: float = 10.0) -> None:
        super().__init__()
        levels = whole("levels", levels)
        self.steepness = above_zero("steepness", steepness)
        self.first = nn.Parameter(torch.tensor((1 - levels) / 2))
        start = torch.tensor(1 - _LEAST_GAP).expm1().log().item()  # thresholds 1 apart
        self.gaps = nn.Parameter(torch.full((levels - 1,), start))

    @property
    def thresholds(self) -> Tensor:
        """θ, ``(K,)``, increasing."""
        steps = softplus(self.gaps) + _LEAST_GAP
        return torch.cat((self.first[None], self.first + running_sum(steps)))

    def forward(self, depth: Logits) -> Tensor:
        """The log odds of each level, ``(b, K, *space)``, outermost first.

        Args:
            depth: ``(b, 1, *space)``.

        Raises:
            ValueError: If there is more than one channel.
        """
        if depth.shape[1] != 1:
            raise ValueError(f"depth has shape {tuple(depth.shape)}, expected one channel")
        with torch.autocast(depth.device.type, enabled=False):
            x = depth.to(torch.promote_types(depth.dtype, torch.float32))
            thresholds = self.thresholds.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
            return self.steepness * (x - thresholds)

    def extra_repr(self) -> str:
        return f"{len(self.gaps) + 1}, steepness={self.steepness}"
