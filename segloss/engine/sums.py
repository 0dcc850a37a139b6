"""All sums over the voxels that a set of losses asks for, in one pass that keeps only the logits.

Region sums go by name, each a number per sample and channel:

=====================  ==============================================================
``count``              Σ w
``pred``               Σ w p
``true``               Σ w y
``overlap``            Σ w p y
``pred_squared``       Σ w p²
``true_squared``       Σ w y²
``pred_squared_true``  Σ w p² y
``error^γ``            Σ w |p - y|^γ, for example ``error^1.5``; γ ≥ 1
``pred*skeleton``      Σ w p s, for the map of that name, whatever it is
``skeleton``           Σ w s
=====================  ==============================================================

with p the probability, y the target's membership and w the voxel's weight. A `VoxelSum` is
Σ w α φ(m) over the cross entropies m, with a weight α for each class.

The forward pass reads the logits block by block and keeps nothing else; the backward pass reads
them again and writes the gradient in closed form from the derivatives of the sums. Memory beyond
the gradient itself is a few blocks. Second derivatives take the dense path: the same sums over one
block as large as the batch, under ordinary autograd.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import logsigmoid, pad

from segloss.encoding import Encoded
from segloss.engine.voxel import Phi, phi_of

__all__ = ["Request", "VoxelSum", "dense_sums", "map_of", "one_pass"]

# Numbers in a block of logits. On the CPU a few such blocks must fit the cache; larger ones cost
# memory, smaller ones the overhead of many small operations (benchmarks/loss_step.md).
_BLOCK_CPU, _BLOCK_GPU = 1 << 18, 1 << 24


@dataclass(frozen=True)
class VoxelSum:
    """Σ w α φ(m), and Σ w α to divide it by, for each sample.

    Args:
        phi: The loss of a voxel as a function of its cross entropy.
        class_weight: α for each channel; None for 1.
    """

    phi: Phi
    class_weight: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Request:
    """What a pass is to compute. Requests add up: ``a | b`` asks for both, once each."""

    regions: tuple[str, ...] = ()
    voxels: tuple[VoxelSum, ...] = ()

    def __or__(self, other: "Request") -> "Request":
        return Request(
            tuple(dict.fromkeys(self.regions + other.regions)),
            tuple(dict.fromkeys(self.voxels + other.voxels)),
        )

    @property
    def maps(self) -> frozenset[str]:
        """The target maps that the sums read."""
        return frozenset(filter(None, map(map_of, self.regions)))


def map_of(name: str) -> str | None:
    """The target map that a region sum reads, if any.

    Example:
        >>> map_of("pred*skeleton"), map_of("skeleton"), map_of("overlap")
        ('skeleton', 'skeleton', None)
    """
    known = name in _SUMS or name.startswith("error^")
    return None if known else name.removeprefix("pred*")


def one_pass(encoded: Encoded, request: Request) -> tuple[Tensor, Tensor]:
    """The region sums, ``(r, b, c)``, and the voxel sums and their normalisers, ``(v, 2, b)``.

    float64 (float32 on Apple's GPUs, which have no other), differentiable twice in the logits.
    """
    sums: tuple[Tensor, Tensor] = _OnePass.apply(encoded.logits, encoded, request)
    return sums


def dense_sums(encoded: Encoded, request: Request) -> tuple[Tensor, Tensor]:
    """The same as `one_pass` by ordinary autograd: slow, large, and twice differentiable."""
    b, c, _ = encoded.logits.shape
    regions = [_region_sum(encoded, name) for name in request.regions]
    regions = [pad(x, (c - x.shape[1], 0)) for x in regions]  # maps may lack the first channel
    voxels = _voxel_sums(encoded, request.voxels)
    exact = torch.float32 if encoded.logits.device.type == "mps" else torch.float64
    empty = encoded.logits.new_zeros
    return (
        (torch.stack(regions) if regions else empty(0, b, c)).to(exact),
        (torch.stack(voxels) if voxels else empty(0, 2, b)).to(exact),
    )


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, encoded: Encoded, request: Request
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits)
        ctx.encoded = replace(encoded, logits=logits.new_empty(0))  # the rest; it owns no volume
        ctx.request = request
        parts = [
            (samples, dense_sums(encoded.block(samples, voxels), request))
            for samples, voxels in _blocks(logits)
        ]
        b, c, _ = logits.shape
        first = parts[0][1][0]
        regions = first.new_zeros(len(request.regions), b, c)
        voxel_sums = first.new_zeros(len(request.voxels), 2, b)
        for samples, (region, voxel) in parts:
            regions[:, samples] += region
            voxel_sums[:, :, samples] += voxel
        return regions, voxel_sums

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (logits,) = ctx.saved_tensors
        encoded, request = replace(ctx.encoded, logits=logits), ctx.request
        if torch.is_grad_enabled():  # someone wants second derivatives
            sums = dense_sums(encoded, request)
            (grad,) = torch.autograd.grad(sums, logits, slopes, create_graph=True)
            return grad, None, None
        grad = torch.empty_like(logits)
        regions, voxel_sums = (x.to(encoded.dtype) for x in slopes)
        for samples, voxels in _blocks(logits):
            grad[samples, :, voxels] = _gradient(
                encoded.block(samples, voxels),
                request,
                regions[:, samples, :, None],
                voxel_sums[:, 0, samples, None, None],
            )
        return grad, None, None


def _blocks(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut a batch into blocks of whole samples, or of parts of one sample."""
    b, c, n = logits.shape
    size = max(1, (_BLOCK_CPU if logits.device.type == "cpu" else _BLOCK_GPU) // c)
    samples = max(1, size // n)
    for i in range(0, b, samples):
        for j in range(0, n, size):
            yield slice(i, i + samples), slice(j, j + size)


def _weighted(block: Encoded, x: Tensor) -> Tensor:
    return x if block.weight is None else x * block.weight


def _count(block: Encoded) -> Tensor:
    b, c, n = block.logits.shape
    if block.weight is None:
        return block.logits.new_full((b, c), n, dtype=block.dtype)
    return block.weight.sum(2).expand(b, c)


def _true(block: Encoded) -> Tensor:
    return _weighted(block, block.true).sum(2)


_SUMS = {
    "count": _count,
    "true": _true,
    "pred": lambda block: _weighted(block, block.pred).sum(2),
    "overlap": lambda block: vecdot(_weighted(block, block.pred), block.true),
    "pred_squared": lambda block: vecdot(_weighted(block, block.pred), block.pred),
    "true_squared": lambda block: vecdot(_weighted(block, block.true), block.true),
    "pred_squared_true": lambda block: vecdot(
        _weighted(block, block.pred), block.pred * block.true
    ),
}


def _power(name: str) -> float:
    gamma = float(name.removeprefix("error^"))
    if not gamma >= 1:
        raise ValueError(
            f"sum {name!r}: the power must be 1 or more, or its slope is infinite at 0"
        )
    return gamma


def _region_sum(block: Encoded, name: str) -> Tensor:
    if name in _SUMS:
        return _SUMS[name](block)
    if name.startswith("error^"):
        return _weighted(block, (block.pred - block.true).abs().pow(_power(name))).sum(2)
    values = _weighted(block, block.maps[name.removeprefix("pred*")])
    if not name.startswith("pred*"):
        return values.sum(2)
    return vecdot(block.pred[:, -values.shape[1] :], values)


def _slope_in_pred(block: Encoded, names: tuple[str, ...], scales: Tensor) -> Tensor:
    """Derivative by the probabilities of the region sums, each times its scale ``(b, c, 1)``."""
    pred, slope = block.pred, torch.zeros_like(block.pred)
    for name, scale in zip(names, scales, strict=True):
        if name == "pred":
            slope += scale
        elif name == "overlap":
            slope.addcmul_(block.true, scale)
        elif name == "pred_squared":
            slope.addcmul_(pred, 2 * scale)
        elif name == "pred_squared_true":
            slope.addcmul_(pred * block.true, 2 * scale)
        elif name.startswith("error^"):
            gamma, error = _power(name), pred - block.true
            slope.addcmul_(error.abs().pow_(gamma - 1).mul_(error.sign()), gamma * scale)
        elif name.startswith("pred*"):
            values = block.maps[name.removeprefix("pred*")]
            k = values.shape[1]
            slope[:, -k:].addcmul_(values, scale[:, -k:])
    return _weighted(block, slope)


def _gradient(block: Encoded, request: Request, regions: Tensor, voxels: Tensor) -> Tensor:
    """Derivative by the logits, given those by the region sums and by the voxel sums."""
    pred = block.pred
    flow = _slope_in_pred(block, request.regions, regions).mul_(pred)
    if not block.exclusive:
        flow.addcmul_(flow, pred, value=-1)
        return flow.add_(_binary_pull(block, request.voxels, voxels)) if request.voxels else flow
    back = flow.sum(1, keepdim=True).neg_()
    if not request.voxels:
        return flow.addcmul_(pred, back)
    pull = _class_pull(block, request.voxels, voxels)
    if block.labels is None:
        return flow.addcmul_(pred, back.add_(pull.sum(1, keepdim=True))).sub_(pull)
    return flow.addcmul_(pred, back.add_(pull)).addcmul_(block.true, pull, value=-1)


def _class_cross_entropy(block: Encoded) -> Tensor:
    """-log softmax: ``(b, 1, n)`` of the labelled class, or ``(b, c, n)`` of every class.

    The largest probability never underflows, and its logarithm is a cheap way to the others'.
    """
    logits = block.logits.to(block.dtype)
    top = logits.amax(1, keepdim=True)
    if block.labels is not None:
        logits = logits.gather(1, block.labels[:, None])
    return top - logits - block.pred.amax(1, keepdim=True).log()


def _class_shares(block: Encoded, class_weight: tuple[float, ...] | None) -> Tensor | None:
    """w α y, shaped like the cross entropies; None if it is 1 throughout."""
    shares = None if block.labels is not None else block.true
    if class_weight is not None:
        alpha = block.logits.new_tensor(class_weight, dtype=block.dtype)
        by_voxel = alpha[:, None] if block.labels is None else alpha[block.labels][:, None]
        shares = by_voxel if shares is None else shares * by_voxel
    return block.weight if shares is None else _weighted(block, shares)


def _class_pull(block: Encoded, terms: tuple[VoxelSum, ...], scales: Tensor) -> Tensor:
    """Derivative of the voxel sums by the cross entropies."""
    m = _class_cross_entropy(block)
    pull = torch.zeros_like(m)
    for term, scale in zip(terms, scales, strict=True):
        shares = _class_shares(block, term.class_weight)
        slope = term.phi.slope(m) * scale
        pull += slope if shares is None else slope * shares
    return pull


def _entry_weight(block: Encoded, class_weight: tuple[float, ...] | None) -> Tensor:
    """w α of every entry of a multi-label target."""
    ones = torch.ones_like(block.pred)
    if class_weight is not None:
        ones *= block.logits.new_tensor(class_weight, dtype=block.dtype)[:, None]
    return _weighted(block, ones)


def _binary_pull(block: Encoded, terms: tuple[VoxelSum, ...], scales: Tensor) -> Tensor:
    """Derivative of the voxel sums by the logits of a multi-label head."""
    yes, no = _binary_cross_entropies(block)
    pull = torch.zeros_like(block.pred)
    for term, scale in zip(terms, scales, strict=True):
        towards_no = (1 - block.true) * term.phi.slope(no) * block.pred
        towards_yes = block.true * term.phi.slope(yes) * (1 - block.pred)
        pull += _entry_weight(block, term.class_weight) * scale * (towards_no - towards_yes)
    return pull


def _binary_cross_entropies(block: Encoded) -> tuple[Tensor, Tensor]:
    """-log p and -log(1 - p), by a formula whose slope is right at 0 too."""
    logits = block.logits.to(block.dtype)
    return -logsigmoid(logits), -logsigmoid(-logits)


def _voxel_sums(block: Encoded, terms: tuple[VoxelSum, ...]) -> list[Tensor]:
    if not terms:
        return []
    b, _, n = block.logits.shape
    sums = []
    if block.exclusive:
        m = _class_cross_entropy(block)
        for term in terms:
            shares, value = _class_shares(block, term.class_weight), phi_of(term.phi, m)
            if shares is None:
                total, norm = value.sum((1, 2)), value.new_full((b,), n)
            else:
                total, norm = (value * shares).sum((1, 2)), shares.sum((1, 2))
            sums.append(torch.stack((total, norm)))
        return sums
    yes, no = _binary_cross_entropies(block)
    for term in terms:
        value = block.true * phi_of(term.phi, yes) + (1 - block.true) * phi_of(term.phi, no)
        weight = _entry_weight(block, term.class_weight)
        sums.append(torch.stack(((value * weight).sum((1, 2)), weight.sum((1, 2)))))
    return sums
