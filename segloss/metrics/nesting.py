"""How often a prediction claims a part of a structure where it does not claim the structure."""

from collections.abc import Sequence
from typing import Any, final

import torch
from monai.utils import MetricReduction
from torch import Tensor

from segloss.label_tree import LabelTree
from segloss.metrics.base import Metric
from segloss.transforms.nesting import channel_nodes

__all__ = ["NestingViolation"]


@final
class NestingViolation(Metric):
    r"""The part of the voxels at which nesting is broken, from 0 to 1; lower is better.

    A voxel is counted if the probability of any node passes that of a node it is part of, by more
    than the tolerance: :math:`\max_v (p_v - p_{\mathrm{parent}(v)}) > \epsilon`. Probabilities and
    masks are counted alike. Independent sigmoids break nesting, the activations of
    `segloss.hierarchy` cannot, and labels do not either.

    Call it with ``y_pred``, (B, R, H, W) or (B, R, H, W, D), or a list of samples without the batch
    axis. It returns one value per sample, (B, 1), float32, and keeps it for `aggregate`.

    Args:
        tree: Which node is part of which.
        nodes: The nodes whose channels these are, in that order; None: all but the rests (see
            `segloss.LabelTree`). A node is compared with the nearest one above it that has a
            channel.
        tolerance: Passes the parent's probability by this much at no cost: what rounding does.
        reduction: How `aggregate` reduces samples, as in MONAI: ``"none"``, ``"mean"``, ``"sum"``
            and so on.
        get_not_nans: Have `aggregate` return how many values counted, too.

    Raises:
        ValueError: A node is not in the tree, none is part of another, or ``reduction`` is unknown;
            on calling, if there is not one channel for each node, or a probability is not from 0
            to 1.

    Example:
        >>> tree = LabelTree({"fibre": ["axon"]})
        >>> fibre, axon = [[0.2, 0.9]], [[0.7, 0.8]]
        >>> NestingViolation(tree)(torch.tensor([[fibre, axon]]))
        tensor([[0.5000]])
    """

    def __init__(
        self,
        tree: LabelTree,
        nodes: Sequence[str] | None = None,
        *,
        tolerance: float = 1e-6,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        channels = channel_nodes(tree, nodes)
        self.names = tuple(tree.names[node] for node in channels)
        channel = {node: place for place, node in enumerate(channels)}
        self.pairs = tuple(
            (place, channel[above[0]])
            for node, place in channel.items()
            if (above := [v for v in tree.ancestors(node)[1:] if v in channel])
        )
        if not self.pairs:
            raise ValueError(
                f"none of the nodes {self.names} is part of another: nothing is nested"
            )
        if tolerance < 0:
            raise ValueError(f"tolerance must be a number of at least 0, got {tolerance}")
        self.tolerance = tolerance

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is not None:
            raise ValueError("y is not used: nesting is a matter of the prediction alone")
        if y_pred.ndim not in (4, 5) or y_pred.shape[1] != len(self.names):
            raise ValueError(
                f"y_pred has shape {tuple(y_pred.shape)}, expected (B, {len(self.names)}, H, W) or "
                f"(B, {len(self.names)}, H, W, D), the channels being {', '.join(self.names)}"
            )
        found = y_pred.as_subclass(Tensor)
        pred = found if found.is_floating_point() else found.float()
        if not ((pred >= 0) & (pred <= 1)).all():
            raise ValueError(
                f"y_pred holds values from {pred.min():g} to {pred.max():g}, expected probabilities "
                "from 0 to 1, or masks: apply a sigmoid or the tree's activation first"
            )
        broken = torch.zeros_like(pred[:, 0], dtype=torch.bool)
        for child, parent in self.pairs:
            broken |= pred[:, child] - pred[:, parent] > self.tolerance
        return broken.flatten(1).float().mean(1, keepdim=True)
