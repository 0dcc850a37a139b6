"""Surfaces: how far from the target's boundary are the errors?"""

from collections.abc import Sequence
from typing import final

from torch import Tensor

from segloss.encoding import Encoding, Multiclass
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.losses.base import Loss, Reduction, Sums, class_mean, ratio
from segloss.shapes import Reduced, Scores

__all__ = ["BoundaryLoss", "boundary"]


def boundary(sums: Sums) -> Scores:
    r"""The mean over the voxels of probability times signed distance.

    .. math:: \frac{\sum w p \varphi}{\sum w}

    Args:
        sums: ``pred*distance`` and ``count``, each ``(g, k)``.

    Returns:
        ``(g, k)``, in the unit of the distance. The least value, negative, is reached by the
        target itself.

    Example:
        >>> import torch
        >>> boundary({"pred*distance": torch.tensor([[-3.0]]), "count": torch.tensor([[6.0]])})
        tensor([[-0.5000]])
    """
    return ratio(sums["pred*distance"], sums["count"])


@final
class BoundaryLoss(Loss):
    """`segloss.boundary` of logits: each false voxel costs its distance to the boundary.

    Unlike other losses here it passes 0 and stays negative at its optimum, which is the target; it
    is linear in the probabilities, so its gradient does not fade, and alone it collapses to an
    empty prediction where the background is large. Add it to a region loss, with a weight that
    grows (`segloss.rebalanced`). A class whose map is 0 throughout costs nothing.

    Takes the map ``distance=``, ``(b, k, *space)`` for the k scored classes or all channels,
    negative inside, of `segloss.transforms.SignedDistanced`. Far voxels dominate it: clip the map
    there, and divide by the clip, so that weights mean the same for every spacing.

    Args:
        encoding: What the channels mean. By default the background is left out.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.

    References:
        Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, eq. 5.

    Example:
        >>> import torch
        >>> logits, label = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> distance = torch.tensor([[[[1.5, 0.5, -0.5, -1.5]]]])
        >>> BoundaryLoss()(logits, label, distance=distance)
        tensor(0.)
        >>> BoundaryLoss()(logits + distance.sign() * torch.tensor([[[[9.0]], [[-9.0]]]]), label, distance=distance)
        tensor(-0.5000)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)

    @property
    def request(self) -> Request:
        return Request(("pred*distance", "count"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        return class_mean(boundary(regions), self.class_weight, self.reduction)
