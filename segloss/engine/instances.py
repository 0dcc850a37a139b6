"""Sums over each instance of a sample: one pass over the voxels, however many there are."""

import torch
from torch import Tensor

from segloss.encoding import Encoded
from segloss.engine.block import Block, Place, check_labels, places
from segloss.engine.by_number import sums_by_number
from segloss.engine.probability import Measure, measured
from segloss.shapes import Nodes

__all__ = ["InstanceSums", "instance_sums"]


def instance_sums(encoded: Encoded, first: int) -> Tensor:
    """Σ w p, Σ w p y and Σ w y over each number of the ``instances`` map.

    On CUDA without Triton, or with thousands of numbers, the order of the additions is not fixed;
    they are in float64, so that it shows in the sixteenth digit.

    Args:
        encoded: The batch.
        first: The first scored node.

    Returns:
        ``(b, 3, k, 1 + n)`` for the last k nodes: those that are scored and
        numbered. n is the largest number, or more.
    """
    sums: Tensor = measured(encoded, InstanceSums(encoded, first))
    return sums


class InstanceSums(Measure):
    """Sums of the nodes that are scored and have numbered voxels: shape ``(3, k, 1 + n)``."""

    def __init__(self, encoded: Encoded, first: int) -> None:
        numbers = encoded.maps["instances"]
        scored = encoded.nodes - first
        self.nodes = scored if numbers.ndim == 2 else min(scored, numbers.shape[1])
        count = 1 + max(0, _largest(numbers))
        check_labels("instances map", numbers, count, "instances are numbered from 1, 0 for none")
        self.shape = (3, self.nodes, count)

    def places(self, encoded: Encoded) -> list[Place]:
        """Those of any other sum."""
        return places(encoded)

    def sums(self, block: Block, encoded: Encoded, place: Place) -> Tensor:
        """What the block adds to each instance."""
        pred, true = block.pred[:, -self.nodes :], block.true[:, -self.nodes :]
        weight = block.weight
        if weight is not None:
            weight = weight[:, -self.nodes :]
            pred, true = pred * weight, true * weight
        overlap = block.pred[:, -self.nodes :] * true
        numbers = self._numbers(encoded, place)
        return sums_by_number(numbers, (pred, overlap, true), self.shape[2])

    def slope(self, block: Block, encoded: Encoded, place: Place, scale: Tensor) -> Nodes:
        """What its instance says to each voxel."""
        numbers = self._numbers(encoded, place)
        slope = torch.zeros_like(block.pred)
        by_pred, by_overlap = (scale[:, i].gather(2, numbers) for i in range(2))
        torch.addcmul(
            by_pred, by_overlap, block.true[:, -self.nodes :], out=slope[:, -self.nodes :]
        )
        return slope if block.weight is None else slope.mul_(block.weight)

    def _numbers(self, encoded: Encoded, place: Place) -> Tensor:
        samples, voxels = place
        numbers = encoded.maps["instances"][samples, ..., voxels].long()
        if numbers.ndim == 2:
            return numbers[:, None].expand(-1, self.nodes, -1)
        return numbers[:, -self.nodes :]


def _largest(numbers: Tensor) -> int:
    """The largest number there is; on a GPU the largest there can be, if that is not too large."""
    short = not numbers.is_floating_point() and numbers.element_size() <= 2
    if short and numbers.device.type != "cpu":
        return 1 if numbers.dtype == torch.bool else torch.iinfo(numbers.dtype).max
    return int(numbers.max())
