"""A block of voxels, ready for arithmetic: probabilities, memberships, weights, maps.

Everything is converted here, a block at a time, so that no one-hot volume, probability volume or
widened label volume ever exists as a whole.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from segloss.encoding import Encoded
from segloss.shapes import Flat, PerVoxel, Weights

__all__ = ["Block", "Place", "places"]

# Numbers in a block of logits. On the CPU larger blocks cost memory, smaller ones the overhead of
# many small operations (benchmarks/loss_step.md). A GPU wants large ones.
_CPU, _GPU = 3 << 17, 1 << 24

_NEAREST = "resample label maps with nearest-neighbour interpolation"


T = TypeVar("T")

Place = tuple[slice, slice]
"""Some samples, and some voxels of each."""


def places(logits: Tensor) -> list[Place]:
    """Cut a batch ``(b, c, n)`` into blocks: whole samples, or nearly equal parts of one."""
    b, c, n = logits.shape
    size = max(1, (_CPU if logits.device.type == "cpu" else _GPU) // c)
    samples = max(1, size // n)
    voxels = -(-n // -(-n // size))
    return [
        (slice(i, i + samples), slice(j, j + voxels))
        for i in range(0, b, samples)
        for j in range(0, n, voxels)
    ]


class lazy(Generic[T]):
    """A property that is computed once.

    It is functools.cached_property without the lock that Python had there until 3.12, through which
    torch.compile cannot see.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.name = compute, compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, block: Any, _: type) -> T:
        value = self.compute(block)
        setattr(block, self.name, value)
        return value


class Block:
    """Some samples and voxels of a batch; each property is computed once, when it is asked for.

    Args:
        encoded: The batch.
        place: Which samples, and which voxels of each.
        checked: The labels are known to be integers in range.
    """

    def __init__(
        self,
        encoded: Encoded,
        place: Place = (slice(None), slice(None)),
        *,
        checked: bool = False,
    ) -> None:
        self.exclusive = encoded.exclusive
        self.dtype = encoded.classes.dtype
        self._encoded, (self._samples, self._voxels) = encoded, place
        self.logits = encoded.logits[self._samples, :, self._voxels].to(self.dtype)
        self._checked = checked

    @lazy
    def pred(self) -> Flat:
        """Probabilities: softmax or sigmoid of the logits."""
        return self.softmax[0] if self.exclusive else self.logits.sigmoid()

    @lazy
    def softmax(self) -> tuple[Flat, PerVoxel, PerVoxel]:
        """Probabilities, the largest logit t, and Σ e^(logit - t), the last two ``(b, 1, n)``."""
        # By hand: torch's softmax copies a strided block first, and does not give t and the sum.
        top = self.logits.detach().amax(1, keepdim=True)
        odds = (self.logits - top).exp()
        total = odds.sum(1, keepdim=True)
        return odds / total if odds.requires_grad else odds.div_(total), top, total

    @lazy
    def labels(self) -> Tensor | None:
        """``(b, n)`` int64 class labels, 0 where ignored; None if the target is memberships."""
        if self._target.ndim == 3:
            return None
        self._check("target", self._target)
        return self._target.long()

    @lazy
    def true(self) -> Flat:
        """How much each voxel belongs to each class."""
        if self.labels is None:
            return self._target.to(self.dtype)
        return self._one_hot(self._target, first=0)

    @lazy
    def weight(self) -> Weights | None:
        """How much each voxel (or entry) counts, ``(b, 1, n)`` or ``(b, c, n)``; None if equally."""
        weight = self._encoded.weight
        if weight is not None:
            weight = weight[self._samples, :, self._voxels].to(self.dtype)
        if self._ignored is None:
            return weight
        counts = (~self._ignored).to(self.dtype)
        counts = counts[:, None] if counts.ndim == 2 else counts
        return counts if weight is None else counts * weight

    @lazy
    def maps(self) -> dict[str, Tensor]:
        """The target maps, each ``(b, k, n)`` for the last k channels."""
        maps = {}
        for name, values in self._encoded.maps.items():
            values = values[self._samples, ..., self._voxels]
            if values.ndim == 2:
                self._check(f"{name} map", values)
                maps[name] = self._one_hot(values, first=1)
            else:
                maps[name] = values.to(self.dtype)
        return maps

    def weighted(self, x: Tensor) -> Tensor:
        """Each voxel times its weight."""
        return x if self.weight is None else x * self.weight

    @lazy
    def _target(self) -> Tensor:
        target = self._encoded.target[self._samples, ..., self._voxels]
        return target if self._ignored is None else target.masked_fill(self._ignored, 0)

    @lazy
    def _ignored(self) -> Tensor | None:
        ignore = self._encoded.ignore
        if ignore is None:
            return None
        return self._encoded.target[self._samples, ..., self._voxels] == ignore

    def _check(self, name: str, labels: Tensor) -> None:
        if not self._checked:
            _check_labels(name, labels, self.logits.shape[1])

    def _one_hot(self, labels: Tensor, first: int) -> Flat:
        """``(b, n)`` labels as memberships of the classes from the first on."""
        b, c, n = self.logits.shape
        classes = self._encoded.classes[first:]
        out = self.logits.new_empty(b, c - first, n)
        # Comparing floats is vectorised on the CPU, comparing int64 is not: several times faster.
        return torch.eq(labels.to(self.dtype)[:, None], classes, out=out)


def _check_labels(name: str, labels: Tensor, c: int) -> None:
    """Raise unless these are class labels: at once on the CPU, without a sync on a GPU."""
    on_cpu = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if labels.is_floating_point():
        whole = (labels.frac() == 0).all()  # which is false for inf and NaN, too
        _require(whole, f"{name} holds class labels that are not integers: {_NEAREST}", on_cpu)
    bounds = (labels.byte() if labels.dtype == torch.bool else labels).aminmax()
    if not on_cpu:
        fits = (bounds.min >= 0) & (bounds.max < c)
        _require(fits, f"{name} holds labels outside 0 to {c - 1}", on_cpu)
        return
    low, high = int(bounds.min), int(bounds.max)
    if low < 0 or high >= c:
        worst = low if low < 0 else high
        hint = f"; if it marks voxels that should not count, say Multiclass(ignore={worst})"
        raise ValueError(
            f"{name} holds label {worst}, but the input has {c} channels, for labels 0 to {c - 1}"
            + (hint if name == "target" else "")
        )


def _require(condition: Tensor, message: str, on_cpu: bool) -> None:
    if on_cpu:
        if not condition:
            raise ValueError(message)
    else:  # raises when the GPU gets there, and does not make the CPU wait for it
        torch._assert_async(condition, message)
