"""What a network's channels mean, said once and used by every loss.

An **encoding** turns logits, target and maps into an `Encoded`: flat views of what was given, with
nothing converted yet. The engine slices it into blocks and asks each block for memberships, weights
and maps, so that no one-hot volume ever exists as a whole. The encodings' options differ because
their meanings differ: only `Multiclass` has a background, so only `Multiclass` can leave it out.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segloss.activation import Activation, Affine, Outcomes, Sigmoid, Softmax
from segloss.shapes import Logits, Map, Target

__all__ = [
    "Encoded",
    "Encoding",
    "Multiclass",
    "Multilabel",
    "checked_logits",
    "expect_shape",
    "flat_map",
    "flat_weight",
    "held",
    "maker",
    "numbered",
]

# Maps whose single channel names the class, or the instance, of each voxel; 0 for none of them.
_LABEL_MAPS = frozenset({"skeleton", "instances"})
_MAKERS = {
    "skeleton": 'batch["skeleton_label"], made by segloss.transforms.TubedSkeletond("label")',
    "distance": 'batch["distance_label"], made by segloss.transforms.SignedDistanced("label")',
    "instances": 'batch["instances_label"], made by segloss.transforms.InstanceRegionsd("label")',
    "dataset": "the number of each sample's data set, LabelSpace.number(name)",
}


@dataclass(frozen=True)
class Encoded:
    """A batch as the engine reads it: flattened views of the caller's tensors.

    Losses score **nodes**: the channels themselves where the classes are flat, and the nodes of a
    tree of classes where they are nested.

    Args:
        logits: ``(b, c, n)``.
        target: ``(b, n)`` labels, or ``(b, v, n)`` memberships of the nodes.
        activation: What the probabilities of the v nodes are.
        ignore: Target value of the voxels (or entries) that do not count.
        weight: ``(b, 1, n)`` or ``(b, v, n)``.
        maps: Each ``(b, n)`` class labels, or ``(b, k, n)`` for the last k of the v nodes.
        classes: The numbers from 0 on, as many as there are channels, nodes or outcomes, ``(·, 1)``
            in the type to compute in: single precision or more, because half precision cannot hold
            a sum over a volume.
        outcomes: What each label says of the nodes; None if label i is channel i.
        affine: What becomes of the logits first; None for nothing.
    """

    logits: Tensor
    target: Tensor
    activation: Activation
    ignore: int | None
    weight: Tensor | None
    maps: dict[str, Tensor]
    classes: Tensor
    outcomes: Outcomes | None = None
    affine: Affine | None = None

    @property
    def nodes(self) -> int:
        """How many nodes are scored: v."""
        return self.logits.shape[1] if self.outcomes is None else self.outcomes.member.shape[1]


class Encoding(ABC):
    """What the channels mean. A frozen dataclass: equal encodings share a pass."""

    @property
    @abstractmethod
    def first(self) -> int:
        """The first scored node."""

    @property
    @abstractmethod
    def all_channels(self) -> "Encoding":
        """The same reading of the channels with every node scored; equal ones share a pass."""

    @property
    def reads(self) -> frozenset[str]:
        """The maps that `encode` needs, whatever the loss; ``weight`` is not among them."""
        return frozenset()

    @property
    def partial(self) -> bool:
        """Whether a node may be unknown throughout a sample, and is to be left out of the mean."""
        return False

    def nodes(self, channels: int) -> int:
        """How many nodes an input with so many channels has."""
        return channels

    @abstractmethod
    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        """Check the shapes and flatten them; `maps` may hold a ``weight``."""


@dataclass(frozen=True, kw_only=True)
class Multiclass(Encoding):
    """Classes exclude each other: softmax over two or more channels.

    The target holds class labels, ``(b, *space)`` or ``(b, 1, *space)``, integers or floats that
    hold integers; or memberships shaped like the logits, one-hot or soft.

    Args:
        background: Score channel 0 too. (It takes part in the softmax either way.)
        ignore: Label of the voxels that count for nothing. Among memberships it stands in every
            channel of such a voxel, and must be none of them: neither 0 nor 1.

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
        b, c, space = checked_logits(logits)
        if c < 2:
            raise ValueError(
                "input has 1 channel, but Multiclass is a softmax over two or more; "
                "for a single foreground channel use Multilabel()"
            )
        soft = target.shape == logits.shape
        if soft and self.ignore in (0, 1):
            raise ValueError(
                f"target has shape {tuple(target.shape)}, memberships, among which "
                f"ignore={self.ignore} cannot be found: pass class labels, or weight="
            )
        if not soft:
            expect_shape("target", target, (b, *space), (b, 1, *space), (b, c, *space))
        return Encoded(
            logits=logits.flatten(2),
            target=target.flatten(2) if soft else target.reshape(b, -1),
            activation=Softmax(),
            ignore=held(self.ignore, target),
            weight=flat_weight(maps, (b, *space), (b, 1, *space)),
            maps={k: flat_map(k, m, b, c, space) for k, m in maps.items() if k != "weight"},
            classes=numbered(logits),
        )


@dataclass(frozen=True, kw_only=True)
class Multilabel(Encoding):
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
        b, c, space = checked_logits(logits)
        single = [(b, *space)] if c == 1 else []
        expect_shape("target", target, (b, c, *space), *single)
        for name in maps.keys() - {"weight"}:
            expect_shape(
                f"{name} map",
                maps[name],
                (b, c, *space),
                *single,
                hint=f"; {name} is {maker(name)}",
            )
        return Encoded(
            logits=logits.flatten(2),
            target=target.reshape(b, c, -1),
            activation=Sigmoid(),
            ignore=held(self.ignore, target),
            weight=flat_weight(maps, (b, *space), (b, 1, *space), (b, c, *space)),
            maps={name: m.reshape(b, c, -1) for name, m in maps.items() if name != "weight"},
            classes=numbered(logits),
        )


_STORED_ONLY = frozenset({torch.uint16, torch.uint32, torch.uint64})


def checked_logits(logits: Tensor) -> tuple[int, int, tuple[int, ...]]:
    """Batch, channels and image axes of what must be logits."""
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


def expect_shape(name: str, x: Tensor, *shapes: tuple[int, ...], hint: str = "") -> None:
    """Raise unless the tensor has one of the shapes, can be computed with, and wants no gradient."""
    if x.dtype in _STORED_ONLY:
        raise TypeError(f"{name} is {x.dtype}, which PyTorch only stores: pass it as .long()")
    if x.requires_grad:
        raise ValueError(f"{name} requires a gradient, and gets none here: pass {name}.detach()")
    if tuple(x.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {wanted}{hint}")


def numbered(logits: Tensor, count: int | None = None) -> Tensor:
    """The numbers from 0 on, in the type to compute in; by default one for each channel."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.arange(count or logits.shape[1], device=logits.device, dtype=dtype)[:, None]


def held(ignore: int | None, target: Tensor) -> int | None:
    """The ignore label, if the target's dtype can hold it; PyTorch would compare its last byte."""
    if ignore is None or target.dtype == torch.bool or target.is_floating_point():
        return ignore
    limits = torch.iinfo(target.dtype)
    return ignore if limits.min <= ignore <= limits.max else None


def maker(name: str) -> str:
    """Where a target map comes from, for an error message."""
    return _MAKERS.get(name, "a map of that name")


def flat_weight(maps: Mapping[str, Tensor], *shapes: tuple[int, ...]) -> Tensor | None:
    """The ``weight`` among the maps, ``(b, 1 or v, n)``; the first shape is ``(b, *space)``."""
    weight = maps.get("weight")
    if weight is None:
        return None
    expect_shape("weight", weight, *shapes)
    b, *space = shapes[0]
    return weight.reshape(b, -1, torch.Size(space).numel())


def flat_map(name: str, x: Tensor, b: int, c: int, space: tuple[int, ...]) -> Tensor:
    """Label maps have no channel or one; other maps one for each class, or each but the first."""
    labels = [(b, *space), (b, 1, *space)] if name in _LABEL_MAPS else []
    shapes = [*labels, (b, c - 1, *space), (b, c, *space)]
    expect_shape(f"{name} map", x, *dict.fromkeys(shapes), hint=f"; {name} is {maker(name)}")
    return x.reshape(b, -1) if tuple(x.shape) in labels else x.flatten(2)
