"""Cross entropy for rare classes: of logits scaled, shifted or cut by how often a class occurs.

What is rare has to win by more while training, and so errs less when the adjustment is gone: predict
from the network's logits as they are. Each reads the logits in its own way, so beside losses of the
plain logits it costs a pass of its own.

``prior`` says how often each class occurs **in what the loader hands out**, after all sampling of
patches: `segloss.class_priors` counts it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import Unpack

from segloss.activation import Affine
from segloss.arguments import above_zero, all_above_zero, not_negative
from segloss.encoding import Encoded, Encoding, Multiclass, Multilabel
from segloss.engine.constants import constant
from segloss.engine.voxel import CrossEntropy
from segloss.losses.base import VoxelLoss, VoxelOptions
from segloss.shapes import Logits, Map, Target

__all__ = ["LDAMLoss", "LogitAdjustedCrossEntropyLoss", "VectorScalingLoss"]


@dataclass(frozen=True, kw_only=True)
class Adjusted(Encoding):
    """The channels of an encoding, each logit as slope · logit + shift - margin · membership.

    Each of the three has one number for each channel.
    """

    encoding: Encoding
    slope: tuple[float, ...]
    shift: tuple[float, ...]
    margin: tuple[float, ...] | None = None

    @property
    def first(self) -> int:
        return self.encoding.first

    @property
    def all_channels(self) -> "Adjusted":
        return replace(self, encoding=self.encoding.all_channels)

    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        encoded = self.encoding.encode(logits, target, maps)
        channels = logits.shape[1]
        if len(self.slope) != channels:
            raise ValueError(
                f"prior has {len(self.slope)} numbers, expected {channels}: one for each channel of "
                "the input, the background's too"
            )

        def column(numbers: tuple[float, ...]) -> Tensor:
            return constant(numbers, encoded.classes)[:, None]

        margin = None if self.margin is None else column(self.margin)
        return replace(encoded, affine=Affine(column(self.slope), column(self.shift), margin))


class _AdjustedLoss(VoxelLoss):
    """Cross entropy of adjusted logits."""

    takes: ClassVar[tuple[type[Encoding], ...]] = (Multiclass,)

    def __init__(
        self, encoding: Encoding, *, prior: Sequence[float], **options: Unpack[VoxelOptions]
    ) -> None:
        super().__init__(encoding, **options)
        self.prior = all_above_zero("prior", prior)

    @property
    def phi(self) -> CrossEntropy:
        return CrossEntropy()


@final
class LogitAdjustedCrossEntropyLoss(_AdjustedLoss):
    r"""Cross entropy of logits plus τ log π, with π how often each class occurs: from 0.

    A classifier that is right as often for rare classes as for frequent ones, for τ = 1; cross
    entropy for τ = 0. Overlap losses see to rare classes already; adjust none of theirs.

    Args:
        encoding: `segloss.Multiclass`; or `segloss.Multilabel`, whose logits are shifted by
            τ log(π / (1 - π)).
        prior: π, a number above 0 for each channel, the background's too; in any unit, or with
            `segloss.Multilabel` between 0 and 1.
        tau: τ, at least 0.
        **options: Those of `segloss.VoxelLoss`. A ``class_weight`` counts as well as the prior.

    References:
        Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10. The form for
        yes-or-no questions is our reading.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
        >>> LogitAdjustedCrossEntropyLoss(prior=[0.9, 0.1])(logits, labels)
        tensor(2.3026)
    """

    takes = (Multiclass, Multilabel)

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        prior: Sequence[float],
        tau: float = 1.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, prior=prior, **options)
        self.tau = not_negative("tau", tau)
        if isinstance(encoding, Multilabel) and max(self.prior) >= 1:
            raise ValueError(
                "prior must hold numbers below 1 for Multilabel, how often the answer is yes, "
                f"got {self.prior}"
            )

    @property
    def reading(self) -> Adjusted:
        binary = isinstance(self.encoding, Multilabel)
        odds = [p / (1 - p) if binary else p for p in self.prior]
        return Adjusted(
            encoding=self.encoding,
            slope=(1.0,) * len(odds),
            shift=tuple(self.tau * math.log(x) for x in odds),
        )


@final
class VectorScalingLoss(_AdjustedLoss):
    r"""Cross entropy of the logits :math:`\Delta f + \tau \log \pi`: from 0.

    :math:`\Delta_k = (\pi_k / \max \pi)^\gamma` scales the logits of rare classes down, so that they
    have to become larger to say as much, even where training already separates the classes: there the
    shift alone no longer acts. τ = 0 scales only; γ = 0 is `segloss.LogitAdjustedCrossEntropyLoss`.

    Args:
        encoding: `segloss.Multiclass`.
        prior: π, a number above 0 for each channel, the background's too; in any unit.
        tau: τ, at least 0; to be tuned for each data set, say the authors.
        gamma: γ, at least 0. Among voxels classes are rarer than among pictures; a class of one
            voxel in a thousand is scaled by 0.13 at the default.
        **options: Those of `segloss.VoxelLoss`. A ``class_weight`` counts as well as the prior.

    References:
        Kini et al., "Label-imbalanced and group-sensitive classification under
        overparameterization", NeurIPS 2021. Scaling alone: Ye et al., "Identifying and compensating
        for feature deviation in imbalanced deep learning", 2020 (class-dependent temperatures).

    Example:
        >>> import torch
        >>> logits = torch.tensor([2.0, -2.0]).reshape(1, 2, 1, 1)
        >>> loss = VectorScalingLoss(prior=[16, 1], tau=0.0, gamma=0.5)
        >>> loss(logits, torch.ones(1, 1, 1))
        tensor(2.5789)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        prior: Sequence[float],
        tau: float = 1.0,
        gamma: float = 0.3,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, prior=prior, **options)
        self.tau = not_negative("tau", tau)
        self.gamma = not_negative("gamma", gamma)

    @property
    def reading(self) -> Adjusted:
        most = max(self.prior)
        return Adjusted(
            encoding=self.encoding,
            slope=tuple((p / most) ** self.gamma for p in self.prior),
            shift=tuple(self.tau * math.log(p) for p in self.prior),
        )


@final
class LDAMLoss(_AdjustedLoss):
    r"""Cross entropy of :math:`s (f_k - m_k y_k)`, the label's logit cut by a margin: from 0.

    The rarer a class, the wider the margin that its voxels have to keep from the others:
    ``max_margin`` for the rarest, less by the fourth root of how much oftener a class occurs.

    A margin means something only against the size of the logits. In the paper these are cosines,
    from -1 to 1, and s stretches them; a network with an ordinary last layer has larger ones, and
    learns with ``scale=1`` and a margin in units of its logits. The paper turns class weights on
    for the last epochs only (deferred re-weighting): use two losses in turn, or schedules.

    Args:
        encoding: `segloss.Multiclass`. Of memberships y, each cuts its logit in proportion.
        prior: A number above 0 for each channel, the background's too; in any unit.
        max_margin: The margin of the rarest class.
        scale: s, above 0.
        **options: Those of `segloss.VoxelLoss`.

    References:
        Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", NeurIPS
        2019. Cutting memberships in proportion is our reading.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> LDAMLoss(prior=[16, 1], max_margin=2.0, scale=1.0)(logits, labels)
        tensor(1.3133)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        prior: Sequence[float],
        max_margin: float = 0.5,
        scale: float = 30.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, prior=prior, **options)
        self.max_margin = not_negative("max_margin", max_margin)
        self.scale = above_zero("scale", scale)

    @property
    def reading(self) -> Adjusted:
        least, widest = min(self.prior), self.scale * self.max_margin
        return Adjusted(
            encoding=self.encoding,
            slope=(self.scale,) * len(self.prior),
            shift=(0.0,) * len(self.prior),
            margin=tuple(widest * (least / p) ** 0.25 for p in self.prior),
        )
