"""Learning more from harder voxels, as a branch of the network has learned to tell them."""

from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from segloss.arguments import above_zero, not_negative, one_of
from segloss.encoding import Multiclass, expect_shape
from segloss.losses.base import ratio
from segloss.losses.voxelwise import CrossEntropyLoss
from segloss.shapes import Logits, Map, Reduced, Target

__all__ = ["HardnessBranch", "HardnessWeightedLoss"]


@final
class HardnessBranch(nn.Sequential):
    """A small head that tells hard voxels from features; it never changes the features.

    Convolution, normalisation, ReLU, convolution to one channel. The last begins at zero, so that
    in the beginning all voxels are equally hard and the loss is the plain mean. The network can
    do without it once trained: `HardnessWeightedLoss` is all that asks it.

    Args:
        spatial_dims: 2 or 3.
        channels: Of the features.
        hidden: Channels in between.

    Example:
        >>> HardnessBranch(2, 8)(torch.randn(1, 8, 4, 4)).shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(self, spatial_dims: Literal[2, 3], channels: int, hidden: int = 32) -> None:
        convolution: type[nn.Conv2d | nn.Conv3d]
        if spatial_dims == 2:
            convolution = nn.Conv2d
        elif spatial_dims == 3:
            convolution = nn.Conv3d
        else:
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")
        last = convolution(hidden, 1, 1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        super().__init__(
            convolution(channels, hidden, 3, padding=1, bias=False),
            nn.GroupNorm(1, hidden),
            nn.ReLU(),
            last,
        )

    def forward(self, features: Logits) -> Tensor:
        """Logits of hardness, ``(b, 1, *space)``, of features ``(b, channels, *space)``."""
        hardness: Tensor = super().forward(features.detach())  # type: ignore[no-untyped-call]
        return hardness


@final
class HardnessWeightedLoss(nn.Module):
    r"""Cross entropy weighted by hardness H, and the loss by which hardness is learned.

    .. math:: \sum \bar H \, CE - \alpha \sum H \, \overline{CE},
        \qquad H = \frac{\sigma(d) + c}{\sum (\sigma(d) + c)}

    where a bar stops the gradient: the network minimises the weighted cross entropy, and the branch
    that gave d maximises it, which moves weight to the voxels whose cross entropy is above the
    weighted mean. No voxel weighs more than (1 + c) / c times as much as another: 11 times.
    The value is 1 - α times the first sum, from 0 if α ≤ 1. Ignored voxels are left out before H is
    normalised; in the authors' code they dilute it. That the same weights serve pseudo-labels is
    our reading of their tables: pass what counts as ``weight``.

    Args:
        encoding: A softmax. Targets are class labels. Without the background, voxels labelled so
            are left out.
        offset: c, above 0.
        scale: α; under Adam it hardly matters, as it scales the branch's gradient and nothing else.
        group: H is normalised over the ``"batch"``, as the authors do, or over each ``"sample"``,
            whose losses are then averaged. The first makes samples compete for weight.

    Attributes:
        terms: After a call, the detached sums: ``"segmentation"`` and ``"hardness"``.

    References:
        "Learning hardness levels", arXiv 2305.08462; IJCV 2025. The formula is that of the authors'
        code; we could not compare it with the paper.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> loss = HardnessWeightedLoss()
        >>> loss(logits, labels, torch.zeros(1, 1, 2, 2))
        tensor(0.6862)
        >>> loss.terms
        {'segmentation': tensor(0.6931), 'hardness': tensor(-0.0069)}
    """

    def __init__(
        self,
        encoding: Multiclass = Multiclass(),
        *,
        offset: float = 0.1,
        scale: float = 0.01,
        group: Literal["sample", "batch"] = "batch",
    ) -> None:
        super().__init__()
        if not isinstance(encoding, Multiclass):
            raise TypeError(
                f"encoding must be Multiclass(), whose voxels have one label, got {encoding!r}"
            )
        self.encoding = encoding
        self.offset = above_zero("offset", offset)
        self.scale = not_negative("scale", scale)
        one_of("group", group, ("sample", "batch"))  # of the ranks, weights cannot compete
        self.cross_entropy = CrossEntropyLoss(encoding, group=group)
        self.terms: dict[str, Tensor] = {}

    def forward(
        self, input: Logits, target: Target, hardness: Tensor, *, weight: Map | None = None
    ) -> Reduced:
        """The loss of a batch, in float32 or wider.

        Args:
            input: Logits, ``(b, c, *space)``.
            target: Class labels, ``(b, *space)`` or ``(b, 1, *space)``.
            hardness: d, ``(b, 1, *coarse)``, brought to the size of the logits by linear
                interpolation.
            weight: ``(b, *space)``; how much each voxel counts besides, for example which
                pseudo-labels to keep.
        """
        input, target, hardness = (x.as_subclass(Tensor) for x in (input, target, hardness))
        b, _, *space = input.shape
        expect_shape("target", target, (b, *space), (b, 1, *space))
        if hardness.shape[:2] != (b, 1) or hardness.ndim != input.ndim:
            raise ValueError(
                f"hardness has shape {tuple(hardness.shape)}, expected ({b}, 1, *coarse) with "
                f"{len(space)} image axes"
            )
        with torch.autocast(input.device.type, enabled=False):
            hard = self._weights(hardness, tuple(space))
            if weight is not None:
                expect_shape("weight", weight, (b, *space))
                hard = hard * weight.as_subclass(Tensor)
            segmentation: Tensor = self.cross_entropy(input, target, weight=hard.detach())
            learned = -self.scale * self._mean(input.detach(), target, hard)
        self.terms = {"segmentation": segmentation.detach(), "hardness": learned.detach()}
        return segmentation + learned

    def extra_repr(self) -> str:
        """The options."""
        return f"offset={self.offset}, scale={self.scale}"

    def _weights(self, hardness: Tensor, space: tuple[int, ...]) -> Map:
        """σ(d) + c at every voxel, ``(b, *space)``."""
        exact = hardness.to(torch.promote_types(hardness.dtype, torch.float32))
        if exact.shape[2:] != space:
            linear = "bilinear" if len(space) == 2 else "trilinear"
            exact = interpolate(exact, space, mode=linear, align_corners=False)
        return exact[:, 0].sigmoid() + self.offset

    def _mean(self, logits: Logits, target: Target, hard: Map) -> Tensor:
        """The cross entropy weighted by hardness, differentiable in the latter."""
        labels = target.reshape(hard.shape).long()
        counts = labels >= self.encoding.first
        if self.encoding.ignore is not None:
            counts = counts & (labels != self.encoding.ignore)
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        surprise = cross_entropy(exact, labels.where(counts, 0), reduction="none")
        axes = tuple(range(1 if self.cross_entropy.group == "sample" else 0, hard.ndim))
        hard = hard * counts
        return ratio((hard * surprise).sum(axes), hard.sum(axes)).mean()
