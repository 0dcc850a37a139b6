"""Losses of pseudo-labels: cross entropies that are weighted by the teacher's confidence.

Each is one weighted sum over the voxels, of which the engine keeps nothing but the logits.
"""

from collections.abc import Sequence
from typing import Any, Literal, final, get_args

from torch import Tensor, nn

from segloss.arguments import not_negative, one_of, options_of
from segloss.compose import Weight, a_weight
from segloss.encoding import Multiclass, checked_logits
from segloss.engine.groups import pool
from segloss.engine.voxel import CrossEntropy
from segloss.losses.base import Sums, VoxelLoss, one_pass, ratio
from segloss.pseudo.boundaries import label_boundary, sobel_boundary
from segloss.pseudo.labels import PseudoLabels
from segloss.pseudo.rules import Over
from segloss.shapes import Logits, Map, Reduced

__all__ = ["CWBASSLoss", "ConfidenceWeightedLoss", "PseudoBoundaryLoss"]

Normalizer = Literal["kept", "all", "weight"]
Operator = Literal["morph", "sobel"]


@final
class ConfidenceWeightedLoss(nn.Module):
    r"""Cross entropy of the kept pseudo-labels, weighted by the teacher's confidence: from 0.

    .. math:: \frac{1}{n} \sum_{i \text{ kept}} c_i^\gamma \, (-\log p_{i, \hat y_i})

    It is 0 where nothing is kept. What n is differs from method to method, and hides a weight: of
    two losses that look alike, one may be the other times the share of the voxels that is kept.

    ============  =========================================  ===================================
    normalizer    n                                          who
    ============  =========================================  ===================================
    ``"kept"``    the voxels kept                            CW-BASS
    ``"all"``     all voxels but the void ones               FixMatch, UniMatch, FlexMatch,
                                                             FreeMatch, SoftMatch (all with γ = 0)
    ``"weight"``  the weights                                a weighted mean
    ============  =========================================  ===================================

    Args:
        gamma: γ, 0 or more; 0 lets all that is kept count alike.
        normalizer: What n is.
        group: n is this process's ``"batch"``'s, or that of the batches of all ``"ranks"``.

    References:
        CW-BASS, arXiv 2502.15152, after the authors' code: the paper's formulas could not be had.

    Example:
        >>> import torch
        >>> from segloss.pseudo import FixedThreshold, PseudoLabels
        >>> pseudo = PseudoLabels.of(torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1), FixedThreshold(0.8))
        >>> pseudo.confidence, ConfidenceWeightedLoss()(torch.zeros(1, 2, 1, 1), pseudo)
        (tensor([[[0.8808]]]), tensor(0.6105))
    """

    def __init__(
        self, *, gamma: float = 1.0, normalizer: Normalizer = "kept", group: Over = "batch"
    ) -> None:
        super().__init__()
        self.gamma = not_negative("gamma", gamma)
        self.normalizer: Normalizer = one_of("normalizer", normalizer, get_args(Normalizer))
        self.group: Over = one_of("group", group, get_args(Over))

    def forward(self, student_logits: Logits, pseudo: PseudoLabels) -> Reduced:
        """The loss of a batch.

        Args:
            student_logits: ``(b, c, *space)``, in half to double precision.
            pseudo: The teacher's labels of the same voxels.
        """
        return _weighted_sum(student_logits, pseudo, self.weight(pseudo), self.group)

    def weight(self, pseudo: PseudoLabels) -> Map:
        """How much the cross entropy of each voxel counts, ``(b, *space)``."""
        _expect_pseudo_labels(pseudo)
        weight = pseudo.confidence.pow(self.gamma) * pseudo.worth
        over = {"kept": pseudo.keep.sum(), "all": pseudo.voxels, "weight": weight.sum()}
        return _divided(weight, over[self.normalizer], self.group)

    def extra_repr(self) -> str:
        """The options, as the constructor takes them."""
        return options_of(self)


@final
class PseudoBoundaryLoss(nn.Module):
    r"""The mean cross entropy of the kept pseudo-labels at the boundaries of their classes: from 0.

    It is 0 where no such voxel is kept. Boundaries are those of the teacher's labels before any is
    left out, and do not depend on its confidence.

    Args:
        operator: ``"morph"``: both sides of every boundary, and all that is one voxel thin
            (`label_boundary`); ours. ``"sobel"``: the authors', which misses what is one voxel thin
            (`sobel_boundary`). They count the border of the image as a boundary; we do not.
        group: The mean runs over this process's ``"batch"``, or those of all ``"ranks"``.

    References:
        CW-BASS, arXiv 2502.15152, after the authors' code: the paper's formulas could not be had.

    Example:
        >>> import torch
        >>> from segloss.pseudo import FixedThreshold, PseudoLabels
        >>> teacher = torch.tensor([[9.0, 9.0, 9.0, 0.0], [0.0, 0.0, 0.0, 9.0]]).reshape(1, 2, 1, 4)
        >>> pseudo = PseudoLabels.of(teacher, FixedThreshold(0.95))
        >>> loss = PseudoBoundaryLoss()
        >>> loss.mask(pseudo, classes=2), loss(torch.zeros(1, 2, 1, 4), pseudo)
        (tensor([[[False, False,  True,  True]]]), tensor(0.6931))
    """

    def __init__(self, *, operator: Operator = "morph", group: Over = "batch") -> None:
        super().__init__()
        self.operator: Operator = one_of("operator", operator, get_args(Operator))
        self.group: Over = one_of("group", group, get_args(Over))

    def forward(self, student_logits: Logits, pseudo: PseudoLabels) -> Reduced:
        """The loss of a batch.

        Args:
            student_logits: ``(b, c, *space)``, in half to double precision.
            pseudo: The teacher's labels of the same voxels.
        """
        weight = self.weight(pseudo, student_logits.shape[1])
        return _weighted_sum(student_logits, pseudo, weight, self.group)

    def mask(self, pseudo: PseudoLabels, classes: int) -> Map:
        """The voxels that are learned from, ``(b, *space)`` bool."""
        _expect_pseudo_labels(pseudo)
        if self.operator == "morph":
            return label_boundary(pseudo.label) & pseudo.keep
        return sobel_boundary(pseudo.label, classes) & pseudo.keep

    def weight(self, pseudo: PseudoLabels, classes: int) -> Map:
        """How much the cross entropy of each voxel counts, ``(b, *space)``."""
        mask = self.mask(pseudo, classes)
        return _divided(pseudo.worth * mask, mask.sum(), self.group)

    def extra_repr(self) -> str:
        """The options, as the constructor takes them."""
        return options_of(self)


@final
class CWBASSLoss(nn.Module):
    r"""CW-BASS's loss of unlabelled images: from 0, and 0 where nothing is kept.

    .. math:: \delta(e) \cdot L_{confidence} + \text{boundary\_weight} \cdot L_{boundary}

    `ConfidenceWeightedLoss` and `PseudoBoundaryLoss`, summed in one pass over the voxels. The
    authors add it to the cross entropy of labelled images with a weight that grows linearly, from 0
    to 1 in the first five epochs (``Linear(0, 1, 5)``), and threshold with `DynamicThreshold`; start
    from `FixedThreshold`, with which their sequel did better. Teacher and student see the same
    image.

    Args:
        gamma: See `ConfidenceWeightedLoss`.
        boundary_weight: 0 or more.
        normalizer: See `ConfidenceWeightedLoss`.
        operator: See `PseudoBoundaryLoss`.
        decay: δ(e), a number or a schedule; call `step` after every epoch to advance it.
            ``Step(1.0, 0.9, 1)`` is our reading of the paper's decay of confidence, 0.9 to the power
            of the epoch. The authors' code lowers confidences by a tenth once, whatever the epoch:
            ``0.9**gamma``.
        group: Sums run over this process's ``"batch"``, or those of all ``"ranks"``.

    Attributes:
        statistics: After a call, for logging: the share ``"kept"`` of the voxels, and the share
            that is kept at a ``"boundary"``; void voxels apart.

    References:
        CW-BASS, arXiv 2502.15152, after the authors' code: the paper's formulas could not be had.

    Example:
        >>> import torch
        >>> from segloss.pseudo import FixedThreshold, PseudoLabels
        >>> teacher = torch.tensor([[9.0, 9.0, 1.0, 0.0], [0.0, 0.0, 0.0, 9.0]]).reshape(1, 2, 1, 4)
        >>> pseudo = PseudoLabels.of(teacher, FixedThreshold(0.95))
        >>> loss = CWBASSLoss()
        >>> loss(torch.zeros(1, 2, 1, 4), pseudo), loss.statistics
        (tensor(1.0396), {'kept': tensor(0.7500), 'boundary': tensor(0.2500)})
    """

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        boundary_weight: float = 0.5,
        normalizer: Normalizer = "kept",
        operator: Operator = "morph",
        decay: Weight = 1.0,
        group: Over = "batch",
    ) -> None:
        super().__init__()
        self.confidence = ConfidenceWeightedLoss(gamma=gamma, normalizer=normalizer, group=group)
        self.boundary = PseudoBoundaryLoss(operator=operator, group=group)
        self.boundary_weight = not_negative("boundary_weight", boundary_weight)
        self.decay = a_weight("decay", decay)
        self.epoch = 0
        self.statistics: dict[str, Tensor] = {}

    def forward(self, student_logits: Logits, pseudo: PseudoLabels) -> Reduced:
        """The loss of a batch.

        Args:
            student_logits: ``(b, c, *space)``, in half to double precision.
            pseudo: The teacher's labels of the same voxels.
        """
        at_boundary = self.boundary.weight(pseudo, student_logits.shape[1])
        self.statistics = {
            "kept": pseudo.kept,
            "boundary": ratio((at_boundary > 0).sum().to(at_boundary), pseudo.voxels),
        }
        decay = self.decay(self.epoch) if callable(self.decay) else self.decay
        weight = decay * self.confidence.weight(pseudo) + self.boundary_weight * at_boundary
        return _weighted_sum(student_logits, pseudo, weight, self.boundary.group)

    def step(self) -> None:
        """Say that an epoch is over."""
        self.epoch += 1

    def get_extra_state(self) -> dict[str, int]:
        """The number of epochs done, for the ``state_dict``."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of epochs done."""
        self.epoch = int(state["epoch"])

    def extra_repr(self) -> str:
        """The options that its two terms do not have."""
        return f"boundary_weight={self.boundary_weight}, decay={self.decay}"


def _weighted_sum(
    student_logits: Tensor, pseudo: PseudoLabels, weight: Tensor, group: Over
) -> Tensor:
    """Σ w (-log p(pseudo-label)) over the group."""
    b, _, space = checked_logits(student_logits)
    if tuple(pseudo.label.shape) != (b, *space):
        raise ValueError(
            f"student_logits has shape {tuple(student_logits.shape)}, but the pseudo-labels have "
            f"{tuple(pseudo.label.shape)}, expected {(b, *space)}: they must be of the same voxels"
        )
    return one_pass([_WeightedSum(group)], student_logits, pseudo.label, {"weight": weight})[0]


def _expect_pseudo_labels(pseudo: object) -> None:
    if not isinstance(pseudo, PseudoLabels):
        raise TypeError(
            f"pseudo is {type(pseudo).__name__}, expected what PseudoLabels.of(teacher_logits, "
            "threshold) gives"
        )


def _divided(weight: Tensor, by: Tensor, group: Over) -> Tensor:
    """The weights over a number that is summed over the group; nothing over 0 is 0."""
    return ratio(weight, pool(by.to(weight)[None, None], group)[0, 0])


class _WeightedSum(VoxelLoss):
    """The weighted sum of the cross entropies, not divided by anything."""

    def __init__(self, group: Over) -> None:
        super().__init__(Multiclass(), group=group, class_weight=None, reduction="sum")

    @property
    def phi(self) -> CrossEntropy:
        return CrossEntropy()

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        total: Tensor = voxels[0][0]
        return total.sum()
