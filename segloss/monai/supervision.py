"""Deep supervision by MONAI's arguments: one target, shrunk to every scale."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from segloss.arguments import numbers, one_of

__all__ = ["DeepSupervisionLoss"]

_MODES: dict[str, Callable[[int], float]] = {
    "same": lambda scale: 1.0,
    "exp": lambda scale: max(0.5**scale, 0.0625),
    "two": lambda scale: 0.5 if scale else 1.0,
}


@final
class DeepSupervisionLoss(nn.Module):
    """`monai.losses.DeepSupervisionLoss`: the weighted sum of a loss over scales.

    The target is resampled to every scale, taking the nearest voxel. A loss that needs maps can have
    them made at each: `WithMaps`; or takes lists of them: `segloss.DeepSupervisionLoss`.

    Args:
        loss: A loss of an input and a target.
        weight_mode: ``"same"`` for 1 at every scale, ``"exp"`` for weights that halve down to 1/16,
            or ``"two"`` for 1 and then one half.
        weights: A weight for each scale instead; of more than there are scales, the first ones.

    Example:
        >>> from segloss.monai import DiceLoss
        >>> logits = [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)]
        >>> labels = torch.zeros(1, 1, 8, 8)
        >>> DeepSupervisionLoss(DiceLoss(to_onehot_y=True, softmax=True))(logits, labels)
        tensor(1.0000)
    """

    def __init__(
        self,
        loss: nn.Module,
        weight_mode: str = "exp",
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.weight_mode: str = one_of("weight_mode", weight_mode, tuple(_MODES))
        self.weights = None if weights is None else numbers("weights", weights)

    def forward(self, input: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """The weighted sum.

        Args:
            input: What the loss takes, at one scale or at each.
            target: What the loss takes, at the scale of the image.
        """
        if isinstance(input, Tensor):
            value: Tensor = self.loss(input, target)
            return value
        if not input:
            raise ValueError("input is an empty list, expected logits for one scale or more")
        if self.weights is None:
            weights = tuple(map(_MODES[self.weight_mode], range(len(input))))
        else:
            weights = self.weights
        if len(weights) < len(input):
            raise ValueError(f"weights has {len(weights)} numbers, but input {len(input)} scales")
        values = [self.loss(x, _resampled(target, x.shape[2:])) for x in input]
        # What is left over belongs to scales that the network does not return.
        return torch.stack([w * v for w, v in zip(weights, values, strict=False)]).sum(0)


def _resampled(target: Tensor, size: torch.Size) -> Tensor:
    if target.shape[2:] == size:
        return target
    real = target.to(torch.promote_types(target.dtype, torch.float32))
    small: Any = interpolate(real, size, mode="nearest-exact").to(target.dtype)
    if hasattr(small, "affine"):  # MONAI's MetaTensor, whose voxels have grown
        from segloss.transforms.downsample import shrunk_affine

        small.meta = dict(small.meta)  # the target has the same one
        small.affine = shrunk_affine(small.affine, target.shape[2:], size)
    return small  # type: ignore[no-any-return]
