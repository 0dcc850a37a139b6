"""All sums over the voxels that a set of losses asks for, in one pass that keeps only the logits.

Region sums go by name, each a number per sample and node:

=====================  ==============================================================
``count``              Σ w
``pred``               Σ w p
``true``               Σ w y
``overlap``            Σ w p y
``pred_squared``       Σ w p²
``true_squared``       Σ w y²
``pred_squared_true``  Σ w p² y
``pred_squared_rest``  Σ w p² (1 - y)
``alarm``              Σ w p (1 - y)
``miss``               Σ w (1 - p) y
``rejected``           Σ w (1 - p) (1 - y)
``error^γ``            Σ w |p - y|^γ, for example ``error^1.5``; γ ≥ 1
``errors/n``           a histogram of |p - y|: see `segloss.engine.histogram`
``pred/n``             a histogram of p, ``pred_between/n`` one with blurred bins: the same
``pred*skeleton``      Σ w p s, for the map of that name, whatever it is
``skeleton``           Σ w s
``error^2*skeleton``   Σ w |p - y|² s, and other products: see `segloss.engine.map_sums`
=====================  ==============================================================

with p the probability, y the target's membership and w the voxel's weight. Those that are
differences of others are there because subtracting loses their digits where they are small. Where
labels name nodes of a tree there are the ``confusion`` and the ``tally`` of
`segloss.engine.confusion` too. Sums over the voxels' cross entropies,
`segloss.engine.voxel.VoxelSum`, and of costs in their logits,
`segloss.engine.logit_cost.CostSum`, are computed in the same pass.

The forward pass reads the logits block by block and keeps nothing else; the backward pass reads
them again and writes the gradient in closed form from the derivatives of the sums; where there is
none, autograd differentiates one block at a time. Memory beyond the gradient itself is a few
blocks. Second derivatives take the dense path: the same sums over one
block as large as the batch, under ordinary autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import pad

from segloss.activation import Sigmoid, Softmax
from segloss.encoding import Encoded
from segloss.engine import backend, confusion, histogram, map_sums, tiles
from segloss.engine.block import Block, Place, places, product
from segloss.engine.logit_cost import CostSum
from segloss.engine.voxel import VoxelSum, binary_pull, class_pull, has_closed_form, voxel_sums

__all__ = ["Request", "Sums", "dense_sums", "map_of", "numbers_of_a_node", "one_pass"]

Sums = dict[str, Tensor]
"""Region sums by name."""


@dataclass(frozen=True)
class Request:
    """What a pass is to compute. Requests add up: ``a | b`` asks for both, once each."""

    regions: tuple[str, ...] = ()
    voxels: tuple[VoxelSum | CostSum, ...] = ()

    def __or__(self, other: "Request") -> "Request":
        return Request(
            tuple(dict.fromkeys(self.regions + other.regions)),
            tuple({term.name: term for term in self.voxels + other.voxels}.values()),
        )

    @property
    def maps(self) -> frozenset[str]:
        """The target maps that the sums read."""
        return frozenset(filter(None, map(map_of, self.regions)))

    @property
    def constant(self) -> bool:
        """Whether the logits do not matter: there is no gradient, and no pass for it."""
        targets = ("count", "true", "true_squared")
        of_maps = {name for name in self.regions if map_of(name) and "*" not in name}
        return len(self.voxels) == 0 and of_maps.union(targets).issuperset(self.regions)


def map_of(name: str) -> str | None:
    """The target map that a region sum reads, if any.

    Example:
        >>> map_of("pred*skeleton"), map_of("skeleton"), map_of("overlap")
        ('skeleton', 'skeleton', None)
    """
    known = name in _SUMS or histogram.is_histogram(name)
    return None if known else map_sums.map_in(name)


def numbers_of_a_node(name: str) -> int:
    """How many numbers a region sum holds for each node: one, or a histogram's."""
    return histogram.width(name) if histogram.is_histogram(name) else 1


def one_pass(encoded: Encoded, request: Request) -> tuple[Sums, Tensor]:
    """The region sums, each ``(b, v)``, and the voxel sums and their normalisers, ``(s, 2, b)``.

    float64 (float32 on Apple's GPUs, which have no other), differentiable twice in the logits.
    By Triton, or loops compiled for the CPU, where `segloss.backend` says so. By PyTorch under
    torch.compile it is `dense_sums`, which the compiler can see into and fuse.
    """
    if request.constant:
        encoded = replace(encoded, logits=encoded.logits.detach())
    if len(request.regions) + len(request.voxels) == 0:
        return {}, encoded.classes.new_empty(0, 2, len(encoded.logits))
    if backend.takes(encoded, request):
        from segloss.engine.kernels import rows

        return rows.sums(encoded, request)
    if torch.compiler.is_compiling():
        with _full_precision(encoded.logits):
            return dense_sums(encoded, request)
    inner = _inner(encoded, request)
    packed: Tensor = _OnePass.apply(encoded.logits, encoded, inner)  # type: ignore[no-untyped-call]
    return _by_node(packed, encoded, inner, request)


def dense_sums(encoded: Encoded, request: Request) -> tuple[Sums, Tensor]:
    """The same as `one_pass` by ordinary autograd: slow, large, and twice differentiable."""
    inner = _inner(encoded, request)
    return _by_node(_packed_sums(Block(encoded), inner), encoded, inner, request)


def _inner(encoded: Encoded, request: Request) -> Request:
    """What is summed up for a request: itself, or less."""
    if encoded.outcomes is None or isinstance(encoded.activation, Sigmoid):
        return request  # the sums of sigmoids do not depend, not even in rounding, on one another
    return replace(request, regions=confusion.instead_of(request.regions))


def _by_node(
    packed: Tensor, encoded: Encoded, inner: Request, request: Request
) -> tuple[Sums, Tensor]:
    """The sums of a request from the packed sums; a node that a map lacks has a sum of 0."""
    sums, voxels = _unpacked(packed, encoded, inner)
    if encoded.outcomes is not None:
        members = encoded.activation.members if isinstance(encoded.activation, Softmax) else None
        sums |= confusion.node_sums(sums, encoded.outcomes, members)
    missing = {name: max(0, encoded.nodes - x.shape[1]) for name, x in sums.items()}
    missing |= dict.fromkeys(confusion.SUMS, 0)
    return {name: pad(sums[name], (missing[name], 0)) for name in request.regions}, voxels


def _full_precision(logits: Tensor) -> torch.autocast:
    """Switch autocast off: it would compute the sums over a volume in half precision."""
    return torch.autocast(logits.device.type, enabled=False)


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, encoded: Encoded, request: Request) -> Tensor:
        # Saved as autograd saves, so that changing one in place before backward is an error.
        ctx.save_for_backward(logits, encoded.target, encoded.weight, *encoded.maps.values())
        nothing = logits.new_empty(0)
        maps = dict.fromkeys(encoded.maps, nothing)
        ctx.encoded = replace(encoded, logits=nothing, target=nothing, weight=None, maps=maps)
        ctx.request = request
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        width = sum(_widths(encoded, request))
        total = logits.new_zeros(logits.shape[0], width, dtype=exact)
        with _full_precision(logits):
            by_tiles = not request.constant and tiles.supports(encoded, request)
            sums = tiles.tiled_sums if by_tiles else _block_sums
            for place in places(encoded):
                total[place[0]] += sums(encoded, request, place)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        logits, target, weight, *values = ctx.saved_tensors
        maps = dict(zip(ctx.encoded.maps, values, strict=True))
        encoded = replace(ctx.encoded, logits=logits, target=target, weight=weight, maps=maps)
        request = ctx.request
        with _full_precision(logits):
            if torch.is_grad_enabled():  # someone wants second derivatives
                sums = _packed_sums(Block(encoded), request)
                (grad,) = torch.autograd.grad(sums, logits, slope.to(sums.dtype), create_graph=True)
            else:
                grad = _gradient_by_blocks(encoded, request, slope)
        return grad, None, None


def _gradient_by_blocks(encoded: Encoded, request: Request, slope: Tensor) -> Tensor:
    """Derivative by the logits, from that by the packed sums."""
    logits, dtype = encoded.logits, encoded.classes.dtype
    grad = torch.empty_like(logits)
    slope = slope.to(dtype)
    if tiles.supports(encoded, request):
        for place in places(encoded):
            tiles.write_tiled_gradient(encoded, request, place, slope[place[0]], grad)
        return grad
    closed_form = has_closed_form(encoded.activation, request.voxels)
    for samples, voxels in places(encoded, closed_form=closed_form):
        part = grad[samples, :, voxels]
        if not closed_form:
            part.copy_(_gradient_by_autograd(encoded, (samples, voxels), request, slope[samples]))
            continue
        out = part if part.dtype == dtype else part.to(dtype)
        block = Block(encoded, (samples, voxels), checked=True)
        by_region, by_voxel = _unpacked(slope[samples], encoded, request)
        _gradient(block, request, by_region, by_voxel[:, 0, :, None, None], out)
        block.by_input(out)
        if out is not part:
            part.copy_(out)
    return grad


def _gradient_by_autograd(
    encoded: Encoded, place: Place, request: Request, slope: Tensor
) -> Tensor:
    with torch.enable_grad():
        block = Block(encoded, place, checked=True)
        block.logits = block.logits.detach().requires_grad_()
        sums = _packed_sums(block, request)
        (grad,) = torch.autograd.grad(sums, block.logits, slope.to(sums.dtype))
    return block.by_input(grad)


def _block_sums(encoded: Encoded, request: Request, place: Place) -> Tensor:
    return _packed_sums(Block(encoded, place), request)


def _packed_sums(block: Block, request: Request) -> Tensor:
    """All sums side by side, ``(b, …)``: few operations matter when blocks are many."""
    regions = [_region_sum(block, name) for name in request.regions]
    return torch.cat(regions + voxel_sums(block, request.voxels), 1)


def _unpacked(packed: Tensor, encoded: Encoded, request: Request) -> tuple[Sums, Tensor]:
    """Undo the packing: the region sums by name, and the voxel sums, ``(s, 2, b)``."""
    *regions, voxels = packed.split(_widths(encoded, request), 1)
    named = dict(zip(request.regions, regions, strict=True))
    return named, voxels.T.reshape(-1, 2, len(packed))


def _widths(encoded: Encoded, request: Request) -> list[int]:
    """How many numbers each region sum has for a sample, and all voxel sums together."""
    widths = []
    for name in request.regions:
        if encoded.outcomes is not None and name in confusion.SUMS:
            widths.append(confusion.width(name, encoded))
            continue
        values = encoded.maps.get(map_of(name) or "")
        labelled = values is not None and values.ndim == 2
        v = encoded.nodes
        nodes = v if values is None else v - 1 if labelled else values.shape[1]
        widths.append(nodes * numbers_of_a_node(name))
    return [*widths, 2 * len(request.voxels)]


def _count(block: Block) -> Tensor:
    b, c, n = block.logits.shape
    if block.weight is None:
        return block.logits.new_full((b, c), n)
    return block.weight.sum(2).expand(b, c)


_SUMS: dict[str, Callable[[Block], Tensor]] = {
    "count": _count,
    "pred": lambda block: block.weighted(block.pred).sum(2),
    "true": lambda block: block.weighted(block.true).sum(2),
    "overlap": lambda block: vecdot(block.weighted(block.pred), block.true),
    "pred_squared": lambda block: vecdot(block.weighted(block.pred), block.pred),
    "true_squared": lambda block: vecdot(block.weighted(block.true), block.true),
    "pred_squared_true": lambda block: vecdot(block.weighted(block.pred), block.pred * block.true),
    "pred_squared_rest": lambda block: vecdot(block.weighted(block.pred.square()), 1 - block.true),
    "alarm": lambda block: vecdot(block.weighted(block.pred), 1 - block.true),
    "miss": lambda block: vecdot(block.weighted(1 - block.pred), block.true),
    "rejected": lambda block: vecdot(block.weighted(1 - block.pred), 1 - block.true),
    "confusion": confusion.confusion,
    "tally": confusion.tally,
}


def _region_sum(block: Block, name: str) -> Tensor:
    if name in _SUMS:
        return _SUMS[name](block)
    if histogram.is_histogram(name):
        return histogram.histogram(block, name)
    return map_sums.total(block, name)


def _slope_in_pred(
    block: Block, names: tuple[str, ...], scales: dict[str, Tensor], out: Tensor | None
) -> Tensor:
    """Derivative by the nodes' probabilities of the sums, each times its scale ``(b, k, 1)``."""
    zero = block.logits.new_zeros(())
    pred, overlap = (scales[name] if name in names else zero for name in ("pred", "overlap"))
    slope = torch.addcmul(pred, block.true, overlap, out=out)
    for name in names:
        if name == "pred_squared":
            slope.addcmul_(block.pred, 2 * scales[name])
        elif name == "pred_squared_true":
            slope.addcmul_(block.pred * block.true, 2 * scales[name])
        elif name == "pred_squared_rest":
            slope.addcmul_(block.pred * (1 - block.true), 2 * scales[name])
        elif name == "alarm":
            slope.addcmul_(1 - block.true, scales[name])
        elif name == "miss":
            slope.addcmul_(block.true, scales[name], value=-1)
        elif name == "rejected":
            slope.addcmul_(1 - block.true, scales[name], value=-1)
        elif histogram.is_histogram(name):
            slope.add_(histogram.slope(block, name, scales[name]))
        elif name not in _SUMS:
            map_sums.add_slope(block, name, scales[name], slope)
    return slope if block.weight is None else slope.mul_(block.weight)


def _slope_in_channels(
    block: Block, names: tuple[str, ...], scales: dict[str, Tensor], out: Tensor
) -> Tensor:
    """The same, by the probabilities of the channels."""
    members = block.activation.members if isinstance(block.activation, Softmax) else None
    if members is None and "confusion" not in names:
        return _slope_in_pred(block, names, scales, out)
    others = tuple(name for name in names if name not in confusion.SUMS)
    slope = confusion.slope(block, scales["confusion"]) if "confusion" in names else out.zero_()
    if others:
        by_node = _slope_in_pred(block, others, scales, None)
        slope += by_node if members is None else product(members.T, by_node)
    return slope


def _gradient(
    block: Block, request: Request, regions: dict[str, Tensor], voxels: Tensor, out: Tensor
) -> None:
    """Derivative by the logits, from those by the region sums and by the voxel sums.

    Works in place in ``out``: a block's worth of memory is most of what a step costs.
    """
    scales = {name: scale[:, :, None] for name, scale in regions.items()}
    slope = _slope_in_channels(block, request.regions, scales, out)
    vars(block).pop("maps", None)  # before the probabilities need the room
    terms = list(zip(request.voxels, voxels, strict=True))
    phis = [(term, scale) for term, scale in terms if isinstance(term, VoxelSum)]
    _regions_and_phis(block, slope, phis, out)
    for term, scale in terms:
        if isinstance(term, CostSum):
            out.addcmul_(term.slope(block), scale)


def _regions_and_phis(
    block: Block, slope: Tensor, phis: list[tuple[VoxelSum, Tensor]], out: Tensor
) -> None:
    """Derivative by the logits, from those by the probabilities and by the voxel sums."""
    if not isinstance(block.activation, Softmax):
        pred = block.pred
        flow = slope.mul_(pred)
        flow.addcmul_(flow, pred, value=-1)
        if phis:
            flow.add_(binary_pull(block, phis))
        return
    pred = block.softmax[0]
    flow = torch.mul(slope, pred, out=out)
    back = flow.sum(1, keepdim=True).neg_()
    if phis:
        pull = class_pull(block, phis)
        shared = pull if block.labels is not None else pull.sum(1, keepdim=True)
        flow.addcmul_(pred, back.add_(shared))
        if block.labels is None:
            flow.sub_(pull)
        else:
            flow.addcmul_(block.share, pull, value=-1)
    else:
        flow.addcmul_(pred, back)
