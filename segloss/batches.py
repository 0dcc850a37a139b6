"""Batches as dictionaries, and labels that carry their maps where only one target may pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

__all__ = ["Keys", "LabelWithMaps", "labelled", "map_keys"]

Keys: TypeAlias = str | Sequence[str] | Mapping[str, str]
"""Names of maps; or their keys by name, where these are others."""


@final
class LabelWithMaps(Tensor):
    """A label, for all the world a tensor, with the maps that were made of it.

    Whatever is computed from it is a plain tensor: the maps of a label that was cut or resampled
    would no longer belong to it.
    """

    maps: dict[str, Tensor]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, label: Tensor, maps: Mapping[str, Tensor]) -> "LabelWithMaps":
        """The label, without metadata, and its maps; nothing is copied."""
        carrier = label.as_subclass(Tensor).as_subclass(cls)
        carrier.maps = dict(maps)
        return carrier


def map_keys(maps: Keys, label: str) -> dict[str, str]:
    """The key of every map: by default ``skeleton_label``, as `segloss.transforms` calls it."""
    if isinstance(maps, Mapping):
        return dict(maps)
    return {name: f"{name}_{label}" for name in ([maps] if isinstance(maps, str) else maps)}


def labelled(
    batch: Mapping[str, Any], label: str, maps: Mapping[str, str], move: Callable[[Tensor], Tensor]
) -> Any:
    """The label of a batch with its maps; a list of them, one for each scale, if it is a list.

    Args:
        batch: Tensors, or lists of tensors, by key.
        label: Key of the labels.
        maps: Keys of the maps, by name.
        move: Where to.

    Raises:
        KeyError: If the batch lacks one of them.
        ValueError: If there are not as many of each map as of the label.
    """
    for key in (label, *maps.values()):
        if key not in batch:
            raise KeyError(
                f"the batch has no {key!r}, only {', '.join(map(str, batch))}: is the transform "
                "that makes it missing?"
            )
    if isinstance(batch[label], Tensor):
        return _carrier(batch[label], {name: batch[key] for name, key in maps.items()}, move)
    for key in maps.values():
        if isinstance(batch[key], Tensor) or len(batch[key]) != len(batch[label]):
            raise ValueError(
                f"the batch has a list of {len(batch[label])} labels at {label!r}, one for each "
                f"scale, but not as many maps at {key!r}: segloss.transforms.DownsampleTargetsd "
                "makes them"
            )
    return [
        _carrier(one, {name: batch[key][i] for name, key in maps.items()}, move)
        for i, one in enumerate(batch[label])
    ]


def _carrier(
    label: Tensor, maps: Mapping[str, Tensor], move: Callable[[Tensor], Tensor]
) -> LabelWithMaps:
    moved = {name: move(x).as_subclass(Tensor) for name, x in maps.items()}
    return LabelWithMaps.of(move(label), moved)
