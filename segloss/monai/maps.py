"""Target maps where a loss is called with an input and a target, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from monai.engines import PrepareBatch
from torch import Tensor, nn

from segloss.batches import Keys, LabelWithMaps, labelled, map_keys
from segloss.losses.base import MissingMap
from segloss.shapes import Reduced
from segloss.transforms.base import TargetMap
from segloss.transforms.batch import TargetMaps

__all__ = ["PrepareBatchMaps", "WithMaps"]


@final
class WithMaps(nn.Module):
    """A loss of an input and a target only: its maps come with the target, or are made of it.

    They come with it where `PrepareBatchMaps` has packed the batch. For any other label they are made
    at every call by `segloss.transforms.TargetMaps`: for Auto3DSeg, `monai.losses.DeepSupervisionLoss`
    and every loop that knows of no maps. On the CPU the network waits for that; the workers of a
    loader would do it meanwhile.

    Args:
        loss: What takes an input, a target and maps: a loss or a compound of segloss; or its
            `DeepSupervisionLoss` for lists of inputs and of targets.
        maps: Transforms that make the maps, by name, see `segloss.transforms.TargetMaps`. Distances
            in voxels are in those of the target as it comes: where a wrapper has shrunk it and told
            nobody, as `monai.losses.DeepSupervisionLoss` does, in those of the low resolution.

    Example:
        >>> from segloss import DiceLoss, SkeletonRecallLoss
        >>> from segloss.transforms import TubedSkeleton
        >>> loss = WithMaps(DiceLoss() + SkeletonRecallLoss(), {"skeleton": TubedSkeleton()})
        >>> loss(torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 8, 8))
        tensor(1.1667)
    """

    def __init__(self, loss: nn.Module, maps: Mapping[str, TargetMap] | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.maps = TargetMaps(maps) if maps else None

    @property
    def terms(self) -> dict[str, Tensor]:
        """Those of the loss, after a call."""
        terms: dict[str, Tensor] = getattr(self.loss, "terms", {})
        return terms

    def step(self) -> None:
        """Say that an epoch is over, to the loss's schedules."""
        if callable(advance := getattr(self.loss, "step", None)):
            advance()

    def forward(
        self, input: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]
    ) -> Reduced:
        """The loss of a batch.

        Args:
            input: What the loss takes: ``(b, c, *space)``, or a list of them.
            target: Labels, or channels of regions, as the loss takes them; or a list of them.

        Raises:
            ValueError: If the loss reads a map that the target neither carries nor has made of it.
        """
        if isinstance(input, Tensor) and isinstance(target, Tensor):
            return self._scored(input, target, self._maps(target, input.ndim))
        if isinstance(input, Tensor) or isinstance(target, Tensor):
            raise TypeError(
                "input and target must be two tensors, or two lists with one for each scale, got "
                f"{type(input).__name__} and {type(target).__name__}; for one target of several "
                "scales segloss.monai.DeepSupervisionLoss(WithMaps(...)) has it shrunk"
            )
        scales = [self._maps(x, input[0].ndim) for x in target]
        maps = {name: [scale[name] for scale in scales] for name in scales[0]}
        return self._scored(list(input), list(target), maps)

    def _scored(self, input: Any, target: Any, maps: Mapping[str, Any]) -> Tensor:
        try:
            value: Tensor = self.loss(input, target, **maps)
        except MissingMap as error:
            name, made = error.args
            raise ValueError(
                f'the {name} map is missing: say WithMaps(loss, {{"{name}": ...}}) with a transform '
                f'that makes it of the target, or have PrepareBatchMaps("{name}") bring {made}'
            ) from error
        return value

    def _maps(self, target: Tensor, axes: int) -> dict[str, Tensor]:
        """What the target carries, and what is made of it."""
        carried = target.maps if isinstance(target, LabelWithMaps) else {}
        if self.maps is None or self.maps.maps.keys() <= carried.keys():
            return carried
        return {**self.maps(target if target.ndim == axes else target.unsqueeze(1)), **carried}


@final
class PrepareBatchMaps(PrepareBatch):
    """Packs a label and its maps into one target for MONAI's trainer, whose loss is a `WithMaps`.

    The target is a tensor, the label itself, so that metrics and post-processing have what they
    expect; the maps are with it, on the same device. For lists, as
    `segloss.transforms.DownsampleTargetsd` makes them, there is a list of targets.

    Args:
        maps: The names of the maps: ``"skeleton"`` is found at the key ``skeleton_label``. Or a
            mapping of names to keys.
        image: Key of the images.
        label: Key of the labels.

    Example:
        >>> from segloss import DiceLoss, SkeletonRecallLoss
        >>> label = torch.ones(1, 1, 8, 8)
        >>> batch = {"image": torch.zeros(1, 2, 8, 8), "label": label, "skeleton_label": label}
        >>> image, target = PrepareBatchMaps("skeleton")(batch)
        >>> WithMaps(DiceLoss() + SkeletonRecallLoss())(image, target)
        tensor(1.1667)
    """

    def __init__(self, maps: Keys, *, image: str = "image", label: str = "label") -> None:
        self.maps = map_keys(maps, label)
        self.image = image
        self.label = label

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """The network's input and the target, on the device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, non_blocking=non_blocking, **kwargs)

        if self.image not in batchdata:
            raise KeyError(
                f"the batch has no {self.image!r}, only {', '.join(map(str, batchdata))}"
            )
        return move(batchdata[self.image]), labelled(batchdata, self.label, self.maps, move)
