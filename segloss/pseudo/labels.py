"""Pseudo-labels: what a teacher says of each voxel, how sure it is, and whether that will do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from segloss.encoding import checked_logits, expect_shape
from segloss.losses.base import ratio
from segloss.shapes import Logits, Map, Reduced

__all__ = ["PseudoLabels", "Rule"]

Rule: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""Takes probabilities ``(b, c, *space)`` and the void voxels; says which voxels to keep, ``(b,
*space)`` bool, or how much each is to count, in floating point."""

_TYPES = {"label": torch.int64, "keep": torch.bool, "void": torch.bool}


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What a teacher says of each voxel of a batch. Nothing here has a gradient.

    Every tensor is ``(b, *space)``; mix, crop or flip them all alike if the student sees an image
    that was changed so.

    Args:
        label: The likeliest class, int64.
        confidence: Its probability, 1/c to 1, in float32 or wider.
        keep: Which voxels are trusted enough to learn from, bool.
        weight: How much those count, if not all alike.
        void: Voxels that are none, such as padding, bool; they are never kept, nor counted.

    Example:
        >>> from segloss.pseudo import FixedThreshold
        >>> logits = torch.tensor([[0.0, 3.0], [4.0, 1.0]]).reshape(1, 2, 1, 2)
        >>> labels = PseudoLabels.of(logits, FixedThreshold(0.95))
        >>> labels.label, labels.keep, labels.kept
        (tensor([[[1, 0]]]), tensor([[[ True, False]]]), tensor(0.5000))
    """

    label: Map
    confidence: Map
    keep: Map
    weight: Map | None = None
    void: Map | None = None

    def __post_init__(self) -> None:
        for name, x in vars(self).items():
            if x is not None:
                expect_shape(name, x, tuple(self.label.shape))
                _expect_type(name, x)

    @classmethod
    def of(
        cls, teacher_logits: Logits, threshold: Rule, *, void: Map | None = None
    ) -> "PseudoLabels":
        """The pseudo-labels of a softmax.

        Args:
            teacher_logits: ``(b, c, *space)``, two classes or more, in half to double precision.
            threshold: Which voxels to keep: a `ThresholdRule`, or any function that takes what one
                takes and returns what one returns.
            void: ``(b, *space)`` bool; the voxels that never count.
        """
        # Subclasses of Tensor, such as MONAI's MetaTensor, pay for metadata at every operation.
        logits = teacher_logits.as_subclass(Tensor)
        void = None if void is None else void.as_subclass(Tensor)
        b, c, space = checked_logits(logits)
        if c < 2:
            raise ValueError(
                "teacher_logits has 1 channel, expected two classes or more: of a single sigmoid "
                "channel x pass torch.cat((torch.zeros_like(x), x), 1)"
            )
        if void is not None:
            expect_shape("void", void, (b, *space))
            _expect_type("void", void)
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            probability = logits.softmax(1, dtype=dtype)
            chosen = threshold(probability, void)
            expect_shape("what the threshold returns", chosen, (b, *space))
            weight = None if chosen.dtype == torch.bool else chosen
            keep = chosen if weight is None else weight > 0
            keep = keep if void is None else keep & ~void
            return cls(logits.max(1).indices, probability.amax(1), keep, weight, void)

    @property
    def worth(self) -> Map:
        """How much each voxel counts, ``(b, *space)``: 0 if it is not kept, else its weight or 1."""
        keep = self.keep.to(self.confidence.dtype)
        return keep if self.weight is None else keep * self.weight

    @property
    def voxels(self) -> Reduced:
        """How many voxels there are that are not void, as a tensor that nobody waits for."""
        if self.void is None:
            return self.confidence.new_full((), self.label.numel())
        return (~self.void).sum().to(self.confidence.dtype)

    @property
    def kept(self) -> Reduced:
        """The share of the voxels that is kept, 0 to 1."""
        return ratio(self.keep.sum().to(self.confidence.dtype), self.voxels)

    def kept_by_class(self, classes: int) -> Tensor:
        """The same of the voxels labelled with each class, ``(classes,)``; NaN if there are none.

        A rare class that is hardly kept is one that is being forgotten.
        """
        shares = []
        for k in range(classes):
            labelled = self.label == k
            if self.void is not None:
                labelled &= ~self.void
            shares.append((labelled & self.keep).sum() / labelled.sum())
        return torch.stack(shares)


def _expect_type(name: str, x: Tensor) -> None:
    wanted = _TYPES.get(name)
    if not (x.is_floating_point() if wanted is None else x.dtype == wanted):
        raise TypeError(f"{name} has dtype {x.dtype}, expected {wanted or 'floating point'}")
