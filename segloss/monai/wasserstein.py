"""Generalised Wasserstein Dice by MONAI's arguments."""

from typing import Any, final

import torch
from torch import nn

from segloss.arguments import one_of
from segloss.hierarchy.encoding import Tree
from segloss.hierarchy.losses import GeneralizedWassersteinDiceLoss as OfTree
from segloss.label_tree import LabelTree
from segloss.monai.base import reduction_of
from segloss.shapes import Logits, Reduced, Target

__all__ = ["GeneralizedWassersteinDiceLoss"]


@final
class GeneralizedWassersteinDiceLoss(nn.Module):
    """`monai.losses.GeneralizedWassersteinDiceLoss`: Dice in which some mistakes cost more.

    For classes that are nested, `segloss.GeneralizedWassersteinDiceLoss` knows the distances.

    Args:
        dist_matrix: What it costs to take a class for another, ``(c, c)``, an array or a tensor;
            it is divided by its largest number.
        weighting_mode: ``"default"``, or ``"GDL"`` for classes weighted by one over their volume.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(b,)``.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> GeneralizedWassersteinDiceLoss(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))(logits, labels)
        tensor(1.0000)
    """

    def __init__(
        self,
        dist_matrix: Any,
        weighting_mode: str = "default",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
    ) -> None:
        super().__init__()
        distances = torch.as_tensor(dist_matrix, dtype=torch.float64)
        if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or len(distances) < 2:
            raise ValueError(
                f"dist_matrix has shape {tuple(distances.shape)}, expected (c, c) for c classes"
            )
        if not (distances.min() >= 0 and 0 < distances.max() < torch.inf):
            raise ValueError(
                "dist_matrix must hold finite numbers of at least 0, and one above, got "
                f"{distances.tolist()}"
            )
        weightings = {"default": "foreground", "GDL": "volume"}
        self.loss = OfTree(
            Tree(LabelTree({f"class {i}": None for i in range(1, len(distances))})),
            distances=(distances / distances.max()).tolist(),
            weighting=weightings[one_of("weighting_mode", weighting_mode, tuple(weightings))],  # type: ignore[arg-type]
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            reduction=reduction_of(reduction),
        )

    def forward(self, input: Logits, target: Target) -> Reduced:
        """The loss of a batch.

        Args:
            input: Logits of a softmax, ``(b, c, *space)``.
            target: Labels, ``(b, 1, *space)`` or ``(b, *space)``.
        """
        value: Reduced = self.loss(input, target)
        return value
