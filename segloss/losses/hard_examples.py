"""Losses of the voxels that cost most, and of no others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from torch import Tensor
from typing_extensions import Unpack

from segloss.arguments import number
from segloss.encoding import Encoded, Encoding, Multiclass
from segloss.engine.hardest import hardest
from segloss.engine.sums import Request, one_pass
from segloss.engine.voxel import CrossEntropy, VoxelSum
from segloss.losses.base import Sums, VoxelLoss, VoxelOptions, ratio, reduced
from segloss.shapes import Reduced

__all__ = ["TopKCrossEntropyLoss"]


@final
class TopKCrossEntropyLoss(VoxelLoss):
    """The mean cross entropy of the k percent of voxels where it is largest: from 0.

    Easy voxels, most of a background, neither cost nor pull. The k percent are of the weight of the
    voxels that count, in each group: of what is ignored, or has no weight, nothing is ever chosen; a
    voxel of weight 2 is as good as two; of a voxel on the brink only a part is chosen, and of voxels
    on the brink that cost the same, the same part of each. So the loss is continuous in k, and
    k = 100 is `segloss.CrossEntropyLoss`. With `segloss.Multilabel` entries are chosen, a channel of a
    voxel each; with memberships, voxels, by their cross entropy with all of these.

    nnU-Net's takes whole voxels of the batch, k percent rounded down, counts ignored ones in and as
    costing nothing, and multiplies by class weights before it chooses, with no weights in the mean;
    without weights, and where k percent are a whole number, it is the same.

    The cross entropy of each voxel (or entry) is kept while the loss is computed, and how much of it
    is chosen until its gradient is; and where voxels do not count alike, their weights. The logits
    are read once more than by other losses, and torch.compile leaves it as it is. With
    ``group="ranks"`` the ranks speak to each other four times, with double precision seven, of 2050
    numbers at most. On a GPU weights are added up in no fixed order, but in double precision: it shows
    in the sixteenth digit, if they are no whole numbers.

    Args:
        encoding: What the channels mean.
        k: In percent, above 0, to 100.
        **options: Those of `segloss.VoxelLoss`; by default the voxels of a batch are one group.

    References:
        Wu et al., "Bridging category-level and instance-level semantic image segmentation", 2016;
        nnU-Net's ``TopKLoss``.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2, 10, 10)
        >>> logits[:, 0] = 9.0  # right, but for the first row
        >>> labels = torch.zeros(1, 10, 10, dtype=torch.long)
        >>> labels[:, 0] = 1
        >>> TopKCrossEntropyLoss(k=10)(logits, labels)
        tensor(9.0001)
    """

    compiles = False

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        k: float = 10.0,
        **options: Unpack[VoxelOptions],
    ) -> None:
        super().__init__(encoding, **options)
        if not 0 < number("k", k) <= 100:
            raise ValueError(f"k must be a percentage, above 0 and up to 100, got {k!r}")
        self.k = float(k)

    @property
    def phi(self) -> CrossEntropy:
        return CrossEntropy()

    @property
    def request(self) -> Request:
        return Request()

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        term = VoxelSum(self.phi, self.full_class_weight(encoded.logits.shape[1]))
        chosen = hardest(encoded, term, self.k, self.group)
        weight = chosen if encoded.weight is None else chosen * encoded.weight
        _, voxels = one_pass(replace(encoded, weight=weight, maps={}), Request(voxels=(term,)))
        total, count = voxels[0, :, :, None].expand(-1, -1, encoded.nodes)
        return {"total": total, "count": count}

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        mean = ratio(regions["total"], regions["count"])[:, 0]
        return reduced(mean, self.reduction)
