"""The channels as MONAI's options describe them: an activation, or none, over classes of any kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import assert_never

from segloss.activation import Activation, NodeActivation, Sigmoid, Softmax
from segloss.encoding import (
    Encoded,
    Encoding,
    checked_logits,
    expect_shape,
    flat_map,
    flat_weight,
    numbered,
)
from segloss.engine.constants import constant
from segloss.shapes import Flat, Logits, Map, Nodes, PerVoxel, Target

__all__ = ["Channels", "Chosen", "activation_of", "counted"]

Chosen: TypeAlias = Literal["softmax", "sigmoid", "given"] | Callable[[Tensor], Tensor]
"""A softmax, sigmoids, probabilities that are given, or a function that makes them."""


def activation_of(
    sigmoid: bool, softmax: bool, other_act: Callable[[Tensor], Tensor] | None
) -> Chosen:
    """The one that the options name."""
    if other_act is not None and not callable(other_act):
        raise TypeError(f"other_act must be a function of a tensor, or None, got {other_act!r}")
    if sigmoid + softmax + (other_act is not None) > 1:
        raise ValueError(
            f"sigmoid={sigmoid}, softmax={softmax} and other_act={other_act!r} exclude each other: "
            "give one of them"
        )
    if sigmoid or softmax:
        return "sigmoid" if sigmoid else "softmax"
    return "given" if other_act is None else other_act


@final
@dataclass(frozen=True, kw_only=True)
class Channels(Encoding):
    """Channels of any activation; their target is labels or memberships, and shape decides which.

    Args:
        activation: How the channels become probabilities.
        ignore: Label of the voxels that count for nothing. Among memberships, those of that class,
            or, if no class has that number, those of no class.
        positive: How much an entry counts that is 1, for every channel or each of the last ones.
        negative: How much an entry counts that is 0.
    """

    activation: Chosen
    ignore: int | None = None
    positive: tuple[float, ...] | None = None
    negative: float = 1.0

    @property
    def first(self) -> int:
        """Every channel is summed up; a loss leaves the background out afterwards."""
        return 0

    @property
    def all_channels(self) -> "Channels":
        """The same reading of the channels; equal ones share a pass."""
        return self

    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        """Check the shapes and flatten them; `maps` may hold a ``weight``."""
        b, c, space = checked_logits(logits)
        expect_shape("target", target, *dict.fromkeys([(b, 1, *space), (b, c, *space)]))
        if c == 1 and self.activation == "softmax":
            raise ValueError(
                "input has 1 channel, over which a softmax is 1 everywhere: say sigmoid=True"
            )
        if callable(self.activation):
            logits = self.activation(logits)
            if tuple(logits.shape) != (b, c, *space):
                raise ValueError(
                    f"other_act returned shape {tuple(logits.shape)}, expected that of the input, "
                    f"{(b, c, *space)}"
                )
        labels = target.shape[1] < c
        weight = flat_weight(maps, (b, *space), (b, 1, *space), (b, c, *space))
        by_value = self._by_value(logits, target.flatten(2))
        if not labels and self.ignore is not None:
            by_value = _product(by_value, counted(target, self.ignore).flatten(2))
        return Encoded(
            logits=logits.flatten(2),
            target=target.reshape(b, -1) if labels else target.flatten(2),
            activation=self._read(logits),
            ignore=self.ignore if labels else None,
            weight=_product(weight, by_value),
            maps={k: _flat(k, m, b, c, space) for k, m in maps.items() if k != "weight"},
            classes=numbered(logits),
        )

    def _read(self, logits: Tensor) -> Activation:
        if self.activation == "softmax":
            return Softmax()
        if self.activation == "sigmoid":
            return Sigmoid()
        if self.activation == "given" or callable(self.activation):
            _check_probabilities(logits)
            return Probabilities()
        assert_never(self.activation)

    def _by_value(self, logits: Tensor, target: Tensor) -> Tensor | None:
        """The weight of every entry by its target value, ``(b, c, n)``; None if all are alike."""
        if self.positive is None:
            return None
        classes = numbered(logits)
        c = len(classes)
        member = target if target.shape[1] == c else target == classes
        skipped = c - len(self.positive) if len(self.positive) > 1 else 0
        positive = constant((1.0,) * skipped + self.positive, classes)[:, None]
        return self.negative + (positive - self.negative) * member.to(classes.dtype)


@final
@dataclass(frozen=True, eq=False)
class Probabilities(NodeActivation):
    """The input holds probabilities already."""

    joint = False

    def log_probabilities(self, logits: Flat) -> tuple[Nodes, Nodes]:
        return _log(logits), _log(1 - logits)

    def surprise(
        self, logits: Flat, true: Nodes, known: Nodes | None, weight: tuple[float, ...] | None
    ) -> PerVoxel:
        raise TypeError("channels that are no softmax give a label no probability of its own")


def counted(target: Target, ignore: int) -> Tensor:
    """1 where a voxel counts and 0 where it is ignored, ``(b, 1, *space)``."""
    if target.shape[1] == 1:
        keep = target != ignore
    elif 0 <= ignore < target.shape[1]:
        keep = target[:, ignore : ignore + 1] == 0
    else:
        keep = target.sum(1, keepdim=True) > 0
    return keep.to(torch.promote_types(target.dtype, torch.float32))


def _flat(name: str, x: Tensor, b: int, c: int, space: tuple[int, ...]) -> Tensor:
    """As of a softmax; but a single channel has no background to be told from, so it is no label."""
    if c > 1:
        return flat_map(name, x, b, c, space)
    expect_shape(f"{name} map", x, (b, 1, *space))
    return x.flatten(2)


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a * b


def _check_probabilities(x: Tensor) -> None:
    """Raise at logits: at once on the CPU, without a sync on a GPU. NaN is for the loss to show."""
    message = (
        "input holds values outside 0 to 1, and they are taken for probabilities as they are: say "
        "softmax=True or sigmoid=True if they are logits"
    )
    low, high = x.detach().aminmax()
    wrong = (low < 0) | (high > 1.001)  # what was averaged or interpolated is rounded
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        if wrong:
            raise ValueError(message)
    else:
        torch._assert_async(~wrong, message)


def _log(p: Tensor) -> Tensor:
    log: Tensor = _Log.apply(p)  # type: ignore[no-untyped-call]
    return log


class _Log(torch.autograd.Function):
    """The logarithm, such that exp(log(p)) has slope 1 at p = 0 too."""

    @staticmethod
    def forward(ctx: object, p: Tensor) -> Tensor:
        ctx.save_for_backward(p)  # type: ignore[attr-defined]
        return _positive(p).log()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad / _positive(p)


def _positive(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(p.dtype).tiny)
