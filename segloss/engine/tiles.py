"""The pass over the voxels on the CPU, in single precision: every sum of a tile while it is at hand.

PyTorch's operations each go over a whole block, and a block is too large for the fastest memory.
The loops of `segloss.engine.loops` go over a tile of a few hundred voxels until all that is asked of
it is done. They know the sums that most losses are made of; `supports` says whether they know all of
a request, and `segloss.engine.sums` does without them if not.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segloss.activation import Sigmoid, Softmax
from segloss.encoding import Encoded
from segloss.engine import backend
from segloss.engine.block import Block, Place, check_labels
from segloss.engine.voxel import CrossEntropy, VoxelSum, label_weight

if TYPE_CHECKING:
    from segloss.engine.sums import Request

__all__ = ["SUMS", "supports", "tiled_sums", "write_tiled_gradient"]

SUMS = (
    "count",
    "pred",
    "true",
    "overlap",
    "pred_squared",
    "true_squared",
    "pred_squared_true",
    "pred_squared_rest",
    "alarm",
    "miss",
    "rejected",
    "tally",
    "confusion",
)
"""The region sums that the loops know, by their numbers there; Σ w s and Σ w p s of maps follow."""
_OF_LABELS = SUMS[-2:]

# Voxels for which it is worth asking another thread: it takes about as long as a thousand do.
_WORTH_A_THREAD = 1 << 13

_pool: ThreadPoolExecutor | None = None


def supports(encoded: Encoded, request: "Request") -> bool:
    """Whether the loops know the sums asked for, and the batch's layout."""
    logits, activation = encoded.logits, encoded.activation
    return (
        backend.chosen() != "torch"
        and logits.device.type == "cpu"
        and logits.dtype == encoded.classes.dtype == torch.float32
        and logits.is_contiguous()
        and (_knows_labels if encoded.outcomes else _knows_channels)(encoded, request.regions)
        and all(_is_plain(term, activation) for term in request.voxels)
    )


def _knows_channels(encoded: Encoded, regions: tuple[str, ...]) -> bool:
    activation = encoded.activation
    flat = isinstance(activation, Softmax) and activation.members is None
    sums = set(SUMS).difference(_OF_LABELS)
    known = all(name in sums or _map_of(name) in encoded.maps for name in regions)
    return known and (flat or isinstance(activation, Sigmoid))


def _knows_labels(encoded: Encoded, regions: tuple[str, ...]) -> bool:
    """Of the nodes of a tree the loops know what is made of the labels of its leaves."""
    leaves = encoded.outcomes is not None and encoded.outcomes.plain
    plain = leaves and encoded.affine is None
    return plain and isinstance(encoded.activation, Softmax) and set(regions) <= set(_OF_LABELS)


def tiled_sums(encoded: Encoded, request: "Request", place: Place) -> Tensor:
    """The sums over a block side by side, ``(b, ·)``, float64."""
    samples = range(*place[0].indices(len(encoded.logits)))
    return torch.stack([_Part(encoded, request, i, place[1]).sums() for i in samples])


def write_tiled_gradient(
    encoded: Encoded, request: "Request", place: Place, slope: Tensor, grad: Tensor
) -> None:
    """Write the derivative of a block's sums by its logits.

    Args:
        encoded: The batch.
        request: The sums.
        place: The block.
        slope: What the derivative of each sum counts, ``(b, ·)`` in the order of `tiled_sums`.
        grad: Where to write to, shaped like the logits, contiguous.
    """
    for row, i in enumerate(range(*place[0].indices(len(encoded.logits)))):
        _Part(encoded, request, i, place[1], checked=True).write_gradient(slope[row], grad[i])


class _Part:
    """The voxels of one sample that are in a block, as the loops take them."""

    def __init__(
        self,
        encoded: Encoded,
        request: "Request",
        sample: int,
        voxels: slice,
        *,
        checked: bool = False,
    ) -> None:
        self.encoded, self.place = encoded, (slice(sample, sample + 1), voxels)
        # The loops find integers out of range, but no fractions.
        found_later = not encoded.target.is_floating_point()
        plain = replace(encoded, affine=None)  # which is for the loops
        block = Block(plain, self.place, checked=checked or found_later)
        channels, self.size = block.logits.shape[1:]
        labels, weight = block.labels, block.voxel_weight
        label_maps: list[Tensor] = []
        maps: list[Tensor] = []
        rows = {}
        for name in dict.fromkeys(map(_map_of, request.regions)):
            if name not in encoded.maps:
                continue
            values = encoded.maps[name][sample]
            if values.ndim == 1:
                if values.is_floating_point() and not checked:
                    self._check(name)
                rows[name] = (channels - 1, len(label_maps), 1)
                label_maps.append(values[voxels].long()[None])
            else:
                rows[name] = (len(values), sum(len(x) for x in maps), 0)
                maps.append(values)
        plan = [
            (SUMS.index(name), channels**2 if name == "confusion" else channels, 0, 0)
            if name in SUMS
            else (len(SUMS) + name.startswith("pred*"), *rows[_map_of(name)])
            for name in request.regions
        ]
        self.width = sum(nodes for _, nodes, *_ in plan)
        weights = [
            label_weight(term.class_weight, encoded.outcomes, encoded.classes)
            if term.class_weight
            else torch.ones(channels)
            for term in request.voxels
        ]
        self.alpha = torch.stack(weights) if weights else torch.empty(0, channels)
        self.before = (
            encoded.logits[sample].detach().numpy(),
            isinstance(encoded.activation, Sigmoid),
            _affine(encoded).numpy(),
            voxels.indices(encoded.logits.shape[2])[0],
        )
        if labels is not None:
            true = _rows([], voxels)
        elif encoded.ignore is None:
            true = _rows([encoded.target[sample]], voxels)
        else:
            true = _rows([block.true[0]], slice(None))
        self.after = (
            _joined([] if labels is None else [labels], torch.int64).reshape(-1).numpy(),
            *true,
            _joined([] if weight is None else [weight[0]], torch.float32).numpy(),
            _joined(label_maps, torch.int64).numpy(),
            *_rows(maps, voxels),
            torch.tensor(plan, dtype=torch.int64).reshape(-1, 4).numpy(),
        )

    def sums(self) -> Tensor:
        """All sums, float64."""
        parts = _parts(self.size)
        out = torch.zeros(len(parts), self.width + 2 * len(self.alpha), dtype=torch.float64)

        from segloss.engine.loops.sums import add_up  # here, as it loads numba

        wrong = [0] * len(parts)

        def work(i: int, begin: int, end: int) -> None:
            given = (*self.before, begin, end, *self.after)
            wrong[i] = add_up(*given, self.alpha.numpy(), out[i].numpy())

        _share(work, parts)
        if any(wrong):  # say which, and of what
            _ = Block(self.encoded, self.place).labels
            for name, values in self.encoded.maps.items():
                if values.ndim == 2:
                    self._check(name)
        return out.sum(0)

    def _check(self, name: str) -> None:
        channels = self.encoded.logits.shape[1]
        values = self.encoded.maps[name][self.place]
        check_labels(f"{name} map", values, channels, f"the input has {channels} channels")

    def write_gradient(self, slope: Tensor, grad: Tensor) -> None:
        """The derivative of the sums, each times its slope."""
        scales, by_voxel = slope[: self.width], slope[self.width :: 2]
        pull = by_voxel @ self.alpha if len(self.alpha) else by_voxel

        from segloss.engine.loops.sums import write_gradient  # see `sums`

        def work(_: int, begin: int, end: int) -> None:
            given = (*self.before, begin, end, *self.after)
            write_gradient(*given, pull.numpy(), scales.numpy(), grad.numpy())

        _share(work, _parts(self.size))


def _affine(encoded: Encoded) -> Tensor:
    """Slope, shift and margin of the logits, ``(3, c)``; no rows if they stay as they are."""
    affine = encoded.affine
    if affine is None:
        return torch.empty(0, encoded.logits.shape[1])
    margin = torch.zeros_like(affine.slope) if affine.margin is None else affine.margin
    return torch.cat((affine.slope, affine.shift, margin), 1).T.contiguous()


def _joined(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Rows of several tensors as one; of one that is as it should be, itself."""
    parts = [x.detach().to(dtype).contiguous() for x in parts]
    if not parts:
        return torch.empty(0, 0, dtype=dtype)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows(parts: list[Tensor], voxels: slice) -> tuple[Any, int]:
    """The rows of whole samples, and where the voxels begin in them; copied if they must be."""
    if len(parts) == 1 and parts[0].dtype == torch.float32 and parts[0].is_contiguous():
        return parts[0].numpy(), voxels.start or 0
    return _joined([x[:, voxels] for x in parts], torch.float32).numpy(), 0


def _map_of(name: str) -> str:
    """The map that a region sum is of, if it is of one."""
    return name.removeprefix("pred*")


def _is_plain(term: Any, activation: Any) -> bool:
    """Whether it is the cross entropy of the label, or of every yes or no of a sigmoid."""
    if not isinstance(term, VoxelSum) or not term.phi == term.phi_of_no == CrossEntropy():
        return False
    steps = term.of == "step" and term.class_weight is None  # which add up to the label's
    return term.of == "label" or steps or isinstance(activation, Sigmoid)


def _parts(voxels: int) -> list[tuple[int, int]]:
    """Nearly equal ranges, one for each thread that is worth it."""
    count = max(1, min(torch.get_num_threads(), voxels // _WORTH_A_THREAD))
    ends = [voxels * i // count for i in range(count + 1)]
    return list(pairwise(ends))


def _share(work: Callable[[int, int, int], None], parts: list[tuple[int, int]]) -> None:
    """Do each part in a thread of its own, the first one here."""
    global _pool
    if len(parts) > 1 and _pool is None:
        _pool = ThreadPoolExecutor(thread_name_prefix="segloss")
    others = [_pool.submit(work, i, *part) for i, part in enumerate(parts) if i and _pool]
    work(0, *parts[0])
    for other in others:
        other.result()


def _forget_pool() -> None:
    global _pool
    _pool = None  # its threads did not come along into the forked process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
