"""A block of voxels, ready for arithmetic: probabilities, memberships, weights, maps.

Everything is converted here, a block at a time, so that no one-hot volume, probability volume or
widened label volume ever exists as a whole.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss.activation import NodeActivation, Softmax
from segloss.encoding import Encoded
from segloss.shapes import Flat, PerVoxel, Weights

__all__ = ["Block", "Place", "check_labels", "places", "product"]

# Numbers in a block of logits, or of nodes, whichever are more. On the CPU larger blocks cost memory, smaller ones the overhead of
# many small operations (benchmarks/loss_step.md). A GPU wants large ones.
_CPU, _GPU = 3 << 17, 1 << 24

# Autograd keeps about this many times as much of a block as a gradient in closed form does.
_KEPT = 4

_NEAREST = "resample label maps with nearest-neighbour interpolation"


T = TypeVar("T")

Place = tuple[slice, slice]
"""Some samples, and some voxels of each."""


def places(encoded: Encoded, *, closed_form: bool = True) -> list[Place]:
    """Cut a batch into blocks: whole samples, or nearly equal parts of one."""
    b, _, n = encoded.logits.shape
    width = len(encoded.classes) if closed_form else _KEPT * len(encoded.classes)
    size = max(1, (_CPU if encoded.logits.device.type == "cpu" else _GPU) // width)
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
        self.activation, self.outcomes = encoded.activation, encoded.outcomes
        self.dtype = encoded.classes.dtype
        self._encoded, (self._samples, self._voxels) = encoded, place
        self.logits = encoded.logits[self._samples, :, self._voxels].to(self.dtype)
        self._checked = checked
        self._affine = encoded.affine
        if self._affine is not None:
            self.logits = torch.addcmul(self._affine.shift, self.logits, self._affine.slope)
            if self._affine.margin is not None:
                self.logits = self.logits.addcmul(self.true, self._affine.margin, value=-1)

    @lazy
    def pred(self) -> Flat:
        """Probabilities of the nodes, ``(b, v, n)``."""
        if isinstance(self.activation, Softmax):
            members = self.activation.members
            return self.softmax[0] if members is None else product(members, self.softmax[0])
        if isinstance(self.activation, NodeActivation):
            return self.activation.log_probabilities(self.logits)[0].exp()
        return self.logits.sigmoid()

    @lazy
    def softmax(self) -> tuple[Flat, PerVoxel, PerVoxel]:
        """Probabilities, the largest logit t, and Σ e^(logit - t), the last two ``(b, 1, n)``."""
        # By hand: torch's softmax copies a strided block first, and does not give t and the sum.
        top = self.logits.detach().amax(1, keepdim=True)
        odds = (self.logits - top).exp()
        total = odds.sum(1, keepdim=True)
        return odds / total if odds.requires_grad else odds.div_(total), top, total

    @lazy
    def answers(self) -> tuple[Flat, Flat]:
        """The logs of the probabilities of yes and of no, each ``(b, v, n)``, for cross entropy."""
        if isinstance(self.activation, NodeActivation):
            return self.activation.answers(self.logits, self.true)
        return logsigmoid(self.logits), logsigmoid(-self.logits)

    @lazy
    def cross_entropy(self) -> Tensor:
        """-log softmax: ``(b, 1, n)`` of the label, or ``(b, c, n)`` of every channel."""
        logits = self.logits
        if self.labels is not None:
            if self.outcomes is None or self.outcomes.plain:
                logits = logits.gather(1, self.labels[:, None])
            elif self.outcomes.single is not None:
                logits = logits.gather(1, self.outcomes.single[self.labels][:, None])
            else:
                _, best, odds = self.within
                logits = best + odds.log()
        _, top, total = self.softmax
        return total.log() + (top - logits)  # the largest logit first: it may be huge

    @lazy
    def labels(self) -> Tensor | None:
        """``(b, n)`` int64 labels, 0 where ignored; None if the target is memberships.

        With `Outcomes`, the numbers of their rows.
        """
        if self._target.ndim == 3:
            return None
        rows = None if self.outcomes is None else self.outcomes.rows
        if rows is None:
            self._check("target", self._target, self._labels)
            return self._target.long()
        self._check("target", self._target, (rows.shape[1], self._labels[1]))
        found = rows[self._samples].gather(1, self._target.long())
        if not self._checked:
            _check_rows(found, self._target, self._labels[1])
        return found

    @lazy
    def outcome(self) -> Flat:
        """Which label each voxel has, one-hot, ``(b, t, n)``."""
        assert self.labels is not None
        mapped = self.outcomes is not None and self.outcomes.rows is not None
        return self._one_hot(self.labels if mapped else self._target, 0, self._labels[0])

    @lazy
    def true(self) -> Flat:
        """How much each voxel belongs to each node, ``(b, v, n)``."""
        if self.labels is None:
            return self._target.to(self.dtype)
        return (
            self.outcome if self.outcomes is None else product(self.outcomes.member.T, self.outcome)
        )

    @lazy
    def share(self) -> Flat:
        """How much the label would like of each channel of a softmax, ``(b, c, n)``.

        All of the one channel it names, or, of several, the softmax over these alone.
        """
        if self.outcomes is None:
            return self.true
        if self.outcomes.plain:
            return self.outcome
        if self.outcomes.single is not None:
            return product(self._sets.to(self.dtype).T, self.outcome)
        odds, _, total = self.within
        return odds / total

    @lazy
    def within(self) -> tuple[Flat, PerVoxel, PerVoxel]:
        """Odds e^(logit - t), t and their sum, over the channels that the label leaves possible."""
        # By products rather than masks, so that nothing infinite enters the arithmetic.
        possible = product(self._sets.to(self.dtype).T, self.outcome)
        lowered = self.logits.detach().add(possible.sub(1).mul_(1e30))
        top = lowered.amax(1, keepdim=True)
        odds = (self.logits - top).clamp(max=0).exp() * possible
        return odds, top, odds.sum(1, keepdim=True)

    @lazy
    def known(self) -> Flat | None:
        """Where it is known whether a voxel belongs to a node, ``(b, v, n)``; None for all."""
        if self.outcomes is None or self.outcomes.known is None:
            return None
        return product(self.outcomes.known.T, self.outcome)

    @lazy
    def weight(self) -> Weights | None:
        """How much each voxel counts for each node, ``(b, 1 or v, n)``; None if equally."""
        if self.known is None:
            return self.voxel_weight
        return self.known if self.voxel_weight is None else self.known * self.voxel_weight

    @lazy
    def voxel_weight(self) -> Weights | None:
        """How much each voxel (or entry of memberships) counts; None if equally."""
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
                c = self.logits.shape[1]
                self._check(f"{name} map", values, (c, f"the input has {c} channels"))
                maps[name] = self._one_hot(values, 1, c)
            else:
                maps[name] = values.to(self.dtype)
        return maps

    def weighted(self, x: Tensor) -> Tensor:
        """Each voxel times its weight."""
        return x if self.weight is None else x * self.weight

    def by_input(self, gradient: Flat) -> Flat:
        """Derivative by the logits that were given, from that by the block's; in place."""
        return gradient if self._affine is None else gradient.mul_(self._affine.slope)

    @lazy
    def _target(self) -> Tensor:
        target = self._encoded.target[self._samples, ..., self._voxels]
        return target if self._ignored is None else target.masked_fill(self._ignored, 0)

    @lazy
    def _ignored(self) -> Tensor | None:
        ignore = self._encoded.ignore
        if ignore is None:
            return None
        target = self._encoded.target[self._samples, ..., self._voxels]
        if target.ndim == 3 and isinstance(self.activation, Softmax):
            target = target[:, :1]  # a voxel is ignored as a whole
        return target == ignore

    @property
    def _sets(self) -> Tensor:
        assert self.outcomes is not None
        return self.outcomes.sets

    @property
    def _labels(self) -> tuple[int, str]:
        """How many labels there are, and why."""
        if self.outcomes is not None:
            return len(self.outcomes.member), self.outcomes.described
        c = self.logits.shape[1]
        return c, f"the input has {c} channels"

    def _check(self, name: str, labels: Tensor, expected: tuple[int, str]) -> None:
        if not self._checked:
            check_labels(name, labels, *expected)

    def _one_hot(self, labels: Tensor, first: int, end: int) -> Flat:
        """``(b, n)`` labels as memberships of the classes from the first on."""
        b, n = labels.shape
        classes = self._encoded.classes[first:end]
        out = self.logits.new_empty(b, end - first, n)
        # Comparing floats is vectorised on the CPU, comparing int64 is not: several times faster.
        return torch.eq(labels.to(self.dtype)[:, None], classes, out=out)


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix ``(i, j)`` times each ``(j, n)`` of a batch, ``(b, i, n)``."""
    return torch.bmm(matrix.to(x.dtype).expand(len(x), -1, -1), x)


def check_labels(name: str, labels: Tensor, count: int, why: str) -> None:
    """Raise unless these are class labels: at once on the CPU, without a sync on a GPU."""
    on_cpu = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if labels.is_floating_point():
        whole = (labels.frac() == 0).all()  # which is false for inf and NaN, too
        _require(whole, f"{name} holds class labels that are not integers: {_NEAREST}", on_cpu)
    bounds = (labels.byte() if labels.dtype == torch.bool else labels).aminmax()
    if not on_cpu:
        most = bounds.max if labels.is_floating_point() else bounds.max.long()  # no byte is < 256
        fits = (bounds.min >= 0) & (most < count)
        _require(fits, f"{name} holds labels outside 0 to {count - 1}", on_cpu)
        return
    low, high = int(bounds.min), int(bounds.max)
    if low < 0 or high >= count:
        worst = low if low < 0 else high
        hint = f"; if it marks voxels that should not count, give the encoding ignore={worst}"
        raise ValueError(
            f"{name} holds label {worst}, but {why}, for labels 0 to {count - 1}"
            + (hint if name == "target" else "")
        )


def _check_rows(rows: Tensor, labels: Tensor, why: str) -> None:
    """Raise unless every label has a row."""
    missing = rows < 0
    on_cpu = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and missing.any():
        wrong = labels[missing].unique().tolist()
        raise ValueError(f"target holds labels {wrong}, which stand for nothing: {why}")
    if not on_cpu:
        _require(~missing.any(), "target holds labels that stand for nothing", on_cpu)


def _require(condition: Tensor, message: str, on_cpu: bool) -> None:
    if on_cpu:
        if not condition:
            raise ValueError(message)
    else:  # raises when the GPU gets there, and does not make the CPU wait for it
        torch._assert_async(condition, message)
