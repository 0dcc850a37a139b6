"""What a network's channels mean, said once and used by every loss.

An **encoding** turns logits, target and maps into an `Encoded`: flat views of what was given, with
nothing converted yet. The engine slices it into blocks and asks each block for memberships, weights
and maps, so that no one-hot volume ever exists as a whole. The encodings' options differ because
their meanings differ: only `Multiclass` has a background, so only `Multiclass` can leave it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from segloss.shapes import Logits, Map, Target

__all__ = ["Encoded", "Encoding", "Multiclass", "Multilabel", "maker"]

# Maps whose single channel names the class of each voxel, with 0 for none of them.
_LABEL_MAPS = frozenset({"skeleton"})
_MAKERS = {
    "skeleton": 'batch["skeleton_label"], made by segloss.transforms.TubedSkeletond("label")',
    "distance": 'batch["distance_label"], made by segloss.transforms.SignedDistanced("label")',
}


@dataclass(frozen=True)
class Encoded:
    """A batch as the engine reads it: flattened views of the caller's tensors.

    Args:
        logits: ``(b, c, n)``.
        target: ``(b, n)`` class labels, or ``(b, c, n)`` memberships.
        exclusive: Softmax over the channels if true, a sigmoid for each if not.
        ignore: Target value of the voxels (or entries) that do not count.
        weight: ``(b, 1, n)`` or ``(b, c, n)``.
        maps: Each ``(b, n)`` class labels, or ``(b, k, n)`` for the last k of the c channels.
        classes: The channels' numbers, ``(c, 1)``, in the type to compute in: single precision or
            more, because half precision cannot hold a sum over a volume.
    """

    logits: Tensor
    target: Tensor
    exclusive: bool
    ignore: int | None
    weight: Tensor | None
    maps: dict[str, Tensor]
    classes: Tensor


@dataclass(frozen=True, kw_only=True)
class Multiclass:
    """Classes exclude each other: softmax over two or more channels.

    The target holds class labels, ``(b, *space)`` or ``(b, 1, *space)``, integers or floats that
    hold integers; or, if nothing is to be ignored, memberships shaped like the logits, one-hot or
    soft.

    Args:
        background: Score channel 0 too. (It takes part in the softmax either way.)
        ignore: Label of the voxels that count for nothing.

    Example:
        >>> Multiclass(background=False, ignore=255)
        Multiclass(background=False, ignore=255)
    """

    background: bool = True
    ignore: int | None = None

    @property
    def first(self) -> int:
        """The first scored channel."""
        return 0 if self.background else 1

    @property
    def all_channels(self) -> "Multiclass":
        """The same reading of the channels with every one scored; equal ones share a pass."""
        return replace(self, background=True)

    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        """Check the shapes and flatten them; `maps` may hold a ``weight``."""
        b, c, space = _checked_logits(logits)
        if c < 2:
            raise ValueError(
                "input has 1 channel, but Multiclass is a softmax over two or more; "
                "for a single foreground channel use Multilabel()"
            )
        soft = target.shape == logits.shape
        if soft and self.ignore is not None:
            raise ValueError(
                f"target has shape {tuple(target.shape)}, memberships, among which "
                f"ignore={self.ignore} cannot be found: pass class labels, or weight="
            )
        if not soft:
            _expect_shape("target", target, (b, *space), (b, 1, *space), (b, c, *space))
        return Encoded(
            logits=logits.flatten(2),
            target=target.flatten(2) if soft else target.reshape(b, -1),
            exclusive=True,
            ignore=_held(self.ignore, target),
            weight=_flat_weight(maps, (b, *space), (b, 1, *space)),
            maps={k: _flat_map(k, m, b, c, space) for k, m in maps.items() if k != "weight"},
            classes=_numbered(logits),
        )


@dataclass(frozen=True, kw_only=True)
class Multilabel:
    """Each channel answers a yes-or-no question of its own: sigmoid. One channel is binary.

    The target is shaped like the logits (``(b, *space)`` will do for one channel) and holds 0, 1,
    or anything between.

    Args:
        ignore: Target value of the entries that count for nothing.

    Example:
        >>> Multilabel()
        Multilabel(ignore=None)
    """

    ignore: int | None = None

    @property
    def first(self) -> int:
        """The first scored channel."""
        return 0

    @property
    def all_channels(self) -> "Multilabel":
        """The same reading of the channels; equal ones share a pass."""
        return self

    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        """Check the shapes and flatten them; `maps` may hold a ``weight``."""
        b, c, space = _checked_logits(logits)
        single = [(b, *space)] if c == 1 else []
        _expect_shape("target", target, (b, c, *space), *single)
        for name in maps.keys() - {"weight"}:
            _expect_shape(
                f"{name} map",
                maps[name],
                (b, c, *space),
                *single,
                hint=f"; {name} is {maker(name)}",
            )
        return Encoded(
            logits=logits.flatten(2),
            target=target.reshape(b, c, -1),
            exclusive=False,
            ignore=_held(self.ignore, target),
            weight=_flat_weight(maps, (b, *space), (b, 1, *space), (b, c, *space)),
            maps={name: m.reshape(b, c, -1) for name, m in maps.items() if name != "weight"},
            classes=_numbered(logits),
        )


Encoding: TypeAlias = Multiclass | Multilabel


def _checked_logits(logits: Tensor) -> tuple[int, int, tuple[int, ...]]:
    b, c, *space = logits.shape if logits.ndim > 2 else (0, 0)
    if len(space) not in (2, 3):
        raise ValueError(
            f"input has shape {tuple(logits.shape)}, expected (batch, channels, *space) with two "
            "or three image axes"
        )
    if not logits.is_floating_point():
        raise TypeError(f"input has dtype {logits.dtype}, expected logits in floating point")
    if logits.numel() == 0:
        raise ValueError(f"input has shape {tuple(logits.shape)}: there is nothing in it to score")
    return b, c, tuple(space)


def _expect_shape(name: str, x: Tensor, *shapes: tuple[int, ...], hint: str = "") -> None:
    if x.requires_grad:
        raise ValueError(f"{name} requires a gradient, and gets none here: pass {name}.detach()")
    if tuple(x.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {wanted}{hint}")


def _numbered(logits: Tensor) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.arange(logits.shape[1], device=logits.device, dtype=dtype)[:, None]


def _held(ignore: int | None, target: Tensor) -> int | None:
    """The ignore label, if the target's dtype can hold it; PyTorch would compare its last byte."""
    if ignore is None or target.dtype == torch.bool or target.is_floating_point():
        return ignore
    limits = torch.iinfo(target.dtype)
    return ignore if limits.min <= ignore <= limits.max else None


def maker(name: str) -> str:
    """Where a target map comes from, for an error message."""
    return _MAKERS.get(name, "a map of that name")


def _flat_weight(maps: Mapping[str, Tensor], *shapes: tuple[int, ...]) -> Tensor | None:
    weight = maps.get("weight")
    if weight is None:
        return None
    _expect_shape("weight", weight, *shapes)
    b, *space = shapes[0]
    return weight.reshape(b, -1, torch.Size(space).numel())


def _flat_map(name: str, x: Tensor, b: int, c: int, space: tuple[int, ...]) -> Tensor:
    """Label maps have no channel or one; other maps one for each class, or each but the first."""
    labels = [(b, *space), (b, 1, *space)] if name in _LABEL_MAPS else []
    shapes = [*labels, (b, c - 1, *space), (b, c, *space)]
    _expect_shape(f"{name} map", x, *dict.fromkeys(shapes), hint=f"; {name} is {maker(name)}")
    return x.reshape(b, -1) if tuple(x.shape) in labels else x.flatten(2)
