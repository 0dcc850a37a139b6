"""What the kernels are told of a batch, and which sums of it they are to compute.

Rows go by name in one string, ``"; "`` between them, because operators take no objects. Region sums
have the names of `segloss.engine.sums`, with the number of a map for its name, such as ``pred*0``.
Besides these there are

=================  ===========================================================================
``yes focal 2.0``  Σ w y φ(m), for the φ of that name and the cross entropy m of a softmax's
                   channel, or of a sigmoid's yes
``no focal 2.0``   Σ w (1 - y) φ(m), for the cross entropy m of a sigmoid's no
``label 3``        Σ w p over the voxels with that label
``wrong``          how many of the target's labels are no class, whatever their weight
``wrong 0``        the same of a map's labels
=================  ===========================================================================
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from segloss.engine.kernels.compile import INTERPRETED

__all__ = ["WIDEST", "Batch", "named_numbers", "strides"]

WIDEST = 256
"""The most channels that a tile can hold."""

_WARPS, _LANES = 4, 128  # of a program: a lane for each thread
_ROOM = 64  # for a tile's numbers, in the registers of a thread
_MANY = 32  # channels; of more, several threads share a lane's
_COLUMNS = ("KINDS", "NAMES", "FIRST", "SECOND", "MAPS", "POWERS")  # of the rows, for the kernels


class Batch(NamedTuple):
    """A `segloss.encoding.Encoded`, taken apart, and the rows that are asked for.

    Args:
        logits: ``(b, c, n)``, with any strides; at most `WIDEST` channels.
        target: ``(b, n)`` labels or ``(b, c, n)`` memberships.
        weight: ``(b, 1, n)`` or ``(b, c, n)``.
        affine: Slope, shift and, if there is one, margin, each ``(c, 1)``; empty for none.
        maps: Each ``(b, n)`` labels or ``(b, k, n)``, for the last k channels.
        rows: Their names.
        softmax: Whether the probabilities are a softmax's, or sigmoids.
        ignore: Target value that does not count.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    affine: list[Tensor]
    maps: list[Tensor]
    rows: str
    softmax: bool
    ignore: int | None

    @property
    def dtype(self) -> torch.dtype:
        """What to compute in."""
        return torch.promote_types(self.logits.dtype, torch.float32)

    @property
    def tensors(self) -> tuple[Any, ...]:
        """What the kernels read."""
        lists = tuple(self.affine) or None, tuple(self.maps) or None
        return self.logits, self.target, self.weight, *lists

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """Over samples, channels and voxels: of the logits, the target, the weight, the maps."""
        return tuple(map(strides, (self.logits, self.target, self.weight, *self.maps)))

    @property
    def constants(self) -> dict[str, Any]:
        """What the kernels are compiled for."""
        c = self.logits.shape[1]
        channels = triton.next_power_of_2(c)
        rows = [_parsed(row) for row in self.rows.split("; ")]
        return {
            **dict(zip(_COLUMNS, map(_marked, zip(*rows, strict=True)), strict=True)),
            "C": c,
            "CHANNELS": channels,
            "LANES": _LANES if channels <= _MANY else _LANES * 16 // channels,
            "VOXELS": max(1, min(self._voxels_at_once, _ROOM // channels)),
            "SOFTMAX": self.softmax,
            "LABELS": self.target.ndim == 2,
            "IGNORE": self.ignore,
            "SHARED": self.weight is None or self.weight.shape[1] == 1,
            "MAPPED": _marked(0 if x.ndim == 2 else x.shape[1] for x in self.maps),
            "DTYPE": tl.float64 if self.dtype == torch.float64 else tl.float32,
            "num_warps": _WARPS,
            "enable_fp_fusion": True,  # Triton's default, of which it warns that it will change
        }

    @property
    def _voxels_at_once(self) -> int:
        """Those that 16 bytes hold, the most a thread can read, of whatever needs most for one."""
        given = (self.logits, self.target, self.weight, *self.maps)
        return 16 // max(x.element_size() for x in given if x is not None)


def strides(x: Tensor | None) -> tuple[int, int, int]:
    """Over samples, channels and voxels; labels have no channels."""
    if x is None:
        return 0, 0, 0
    return x.stride(0), x.stride(1) if x.ndim == 3 else 0, x.stride(-1)


def named_numbers(name: str) -> tuple[Any, ...]:
    """The name of a φ without its numbers, and these.

    Example:
        >>> named_numbers("comp-sum 1.7 inf")
        ('comp-sum', 1.7, inf)
    """
    words = name.split()
    numbers = [word for word in words if word[0] in "-0123456789" or word == "inf"]
    words = words[: len(words) - len(numbers)]
    return (" ".join(words), *(int(x) if x.isdigit() else float(x) for x in numbers))


@cache
def _parsed(row: str) -> tuple[Any, ...]:
    """A row as the kernels take it: its kind, name and two numbers, its map and the map's power."""
    kind, _, rest = row.partition(" ")
    if kind in ("yes", "no"):
        return kind, *(*named_numbers(rest), 0.0, 0.0)[:3], -1, -1.0
    if kind == "label":
        return kind, "", int(rest), 0.0, -1, -1.0
    if kind == "wrong":
        return kind, "", 0.0, 0.0, int(rest or -1), -1.0
    factor, _, read = row.rpartition("*") if "*" in row or row[0].isdigit() else (row, "", "")
    name, _, gamma = (factor or "count").partition("^")
    number, _, power = read.partition("^")
    return "region", name, float(gamma or 1), 0.0, int(number or -1), float(power or -1)


def _marked(constants: Iterable[Any]) -> tuple[Any, ...]:
    """Marked as constants in a tuple: Triton before 3.7 takes no others, its interpreter no marks."""
    return tuple(constants) if INTERPRETED else tuple(map(tl.constexpr, constants))
