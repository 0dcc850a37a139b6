"""Target maps where a loss is called with an input and a target, and nothing else."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import torch
from monai.engines import PrepareBatch
from monai.transforms import Transform
from torch import Tensor, nn

from segloss.batches import Keys, LabelWithMaps, labelled, map_keys
from segloss.shapes import Reduced
from segloss.transforms.base import TargetMap

__all__ = ["PrepareBatchMaps", "WithMaps"]


@final
class WithMaps(nn.Module):
    """A loss of an input and a target only: its maps come with the target, or are made of it.

    They come with it where `PrepareBatchMaps` has packed the batch. Any other label has them made at
    every call: for Auto3DSeg, `monai.losses.DeepSupervisionLoss`, and every loop that knows of no
    maps. That costs what the transforms cost, on the CPU, while the network waits; loader workers
    would do it meanwhile.

    Args:
        loss: What takes an input, a target and maps: a loss or a compound of segloss; or its
            `DeepSupervisionLoss` for lists of inputs and of targets.
        maps: Transforms that make the maps, by name, like those of
            `segloss.transforms.DownsampleTargetsd`. Distances are by their `spacing`, or that of a
            MetaTensor's affine, or in voxels of the target as it comes: where a wrapper shrinks it
            and tells nobody (`monai.losses.DeepSupervisionLoss`), of the low resolution. Samples are
            shared out among as many threads as PyTorch has.

    Example:
        >>> from segloss import DiceLoss, SkeletonRecallLoss
        >>> from segloss.transforms import TubedSkeleton
        >>> loss = WithMaps(DiceLoss() + SkeletonRecallLoss(), {"skeleton": TubedSkeleton()})
        >>> loss(torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 8, 8))
        tensor(1.1667)
    """

    def __init__(self, loss: nn.Module, maps: Mapping[str, Transform] | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.maps: dict[str, TargetMap] = {}
        for name, make in (maps or {}).items():
            if not isinstance(make, TargetMap):
                raise TypeError(
                    f"maps[{name!r}] is {make!r}, expected an array transform that makes a map, "
                    "such as segloss.transforms.TubedSkeleton()"
                )
            self.maps[name] = make

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
        """
        value: Tensor
        if isinstance(input, Tensor) and isinstance(target, Tensor):
            value = self.loss(input, target, **self._maps(target, input.ndim))
            return value
        if isinstance(input, Tensor) or isinstance(target, Tensor):
            raise TypeError(
                "input and target must be two tensors, or two lists with one for each scale, got "
                f"{type(input).__name__} and {type(target).__name__}; for one target of several "
                "scales segloss.monai.DeepSupervisionLoss(WithMaps(...)) has it shrunk"
            )
        scales = [self._maps(x, input[0].ndim) for x in target]
        maps = {name: [scale[name] for scale in scales] for name in scales[0]}
        value = self.loss(list(input), list(target), **maps)
        return value

    @torch.no_grad()
    def _maps(self, target: Tensor, axes: int) -> dict[str, Tensor]:
        """What the target carries, or what is made of it."""
        carried = target.maps if isinstance(target, LabelWithMaps) else {}
        wanted = {name: make for name, make in self.maps.items() if name not in carried}
        labels = list(target if target.ndim == axes else target.unsqueeze(1))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            made = {name: pool.map(make, labels) for name, make in wanted.items()}
            stacked = {name: torch.stack(list(map(_plain, maps))) for name, maps in made.items()}
        return {**carried, **stacked}

    def extra_repr(self) -> str:
        """The names of the maps that are made."""
        return f"maps={list(self.maps)}"


def _plain(x: Any) -> Tensor:
    return torch.as_tensor(x).as_subclass(Tensor)


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
            raise KeyError(f"the batch has no {self.image!r}, only {', '.join(batchdata)}")
        return move(batchdata[self.image]), labelled(batchdata, self.label, self.maps, move)
