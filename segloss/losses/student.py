"""The errors of a volume as one draw from Student's t-distribution, whose tails are learned."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from segloss.arguments import above_zero
from segloss.encoding import Encoding, Multiclass
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.losses.base import Loss, Reduction, Sums, class_mean
from segloss.shapes import Reduced

__all__ = ["TLoss"]


@final
class TLoss(Loss):
    r"""Minus the log density of all errors p - y of a class at once, for each voxel.

    .. math::

        \frac{1}{D} \left(
        \log \Gamma\left(\tfrac{\nu}{2}\right) - \log \Gamma\left(\tfrac{\nu + D}{2}\right)
        + \tfrac{D}{2} \log \pi \nu
        + \tfrac{\nu + D}{2} \log\left(1 + \tfrac{1}{\nu} \sum w (p - y)^2\right) \right)

    with D = Σ w. A density has no fixed least value: the loss passes 0, and is negative where the
    errors are few, the more so the larger the volume. Its optimum is the target all the same.

    ν, the degrees of freedom, is a parameter: **give the loss's parameters to the optimiser too**.
    It is e to the power of ``log_nu``, one number for all classes. An image labelled badly
    throughout is let go of, in favour of others: the smaller ν, the sooner. Under
    DistributedDataParallel the loss must be part of the wrapped module, or each rank's ν goes its
    own way.

    Args:
        encoding: What the channels mean.
        initial_nu: ν to start with.
        group: Densities are of each ``"sample"``, as published, of the ``"batch"``, or of all
            ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.

    References:
        Gonzalez-Jimenez et al., "Robust T-loss for medical image segmentation", MICCAI 2023, for
        one class. The mean over classes, and the division by D, are ours; in the authors' code
        errors count e^½ times as much as in this formula.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> loss = TLoss()
        >>> loss(logits, labels)
        tensor(0.8831, grad_fn=<ToCopyBackward0>)
        >>> [name for name, _ in loss.named_parameters()]
        ['log_nu']
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        initial_nu: float = math.e,
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)
        self.initial_nu = above_zero("initial_nu", initial_nu)
        self.log_nu = nn.Parameter(torch.tensor(math.log(self.initial_nu)))

    @property
    def request(self) -> Request:
        return Request(("error^2", "count"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        error, count = regions["error^2"], regions["count"]
        nothing = count == 0
        d = count.masked_fill(nothing, 1)
        # In the type of the sums, double precision: the terms are huge, and nearly cancel.
        nu = self.log_nu.to(d).exp()
        density = torch.lgamma((nu + d) / 2) - torch.lgamma(nu / 2) - d / 2 * (math.pi * nu).log()
        score = ((nu + d) / 2 * torch.log1p(error / nu) - density) / d
        score = score.masked_fill(nothing, 0)
        return class_mean(score, self.class_weight, self.reduction, self.known(count))
