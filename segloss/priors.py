"""How often classes occur in what a loader hands out, and class weights made of it.

Counts belong to patches after all sampling: where foreground is oversampled, it is what the network
sees that a loss has to make up for, not what the scanner saw.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import length_hint
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from segloss.arguments import all_above_zero, not_negative, number
from segloss.encoding import Multiclass, Multilabel
from segloss.engine.sums import Request, one_pass

__all__ = ["ClassPriors", "class_balanced_weights", "class_priors", "inverse_frequency_weights"]


@dataclass(frozen=True)
class ClassPriors:
    """How often each class occurs, the background among them: `segloss.class_priors` counts it.

    Args:
        voxels: Voxels of each class; of memberships, their sum.
        counted: Voxels that count, ignored ones being left out: for each class, as it may be known
            of some regions only.
        patches: Patches that each class occurs in.
        total: How many patches there were.

    Example:
        >>> priors = ClassPriors(voxels=(90, 10), counted=(100, 100), patches=(4, 1), total=4)
        >>> priors.frequencies
        (0.9, 0.1)
    """

    voxels: tuple[float, ...]
    counted: tuple[float, ...]
    patches: tuple[int, ...]
    total: int

    @property
    def frequencies(self) -> tuple[float, ...]:
        """The share of each class in the voxels that count, the ``prior`` of losses that take one."""
        return tuple(n / of if of else 0.0 for n, of in zip(self.voxels, self.counted, strict=True))


def class_priors(
    loader: Iterable[Any],
    encoding: Multiclass | Multilabel = Multiclass(),
    *,
    channels: int,
    target: str | int = "label",
    batches: int | None = None,
    progress: bool = True,
) -> ClassPriors:
    """Count the classes in the batches of a loader.

    Count once, before training, from the loader that training will use, and keep the numbers: each
    process of a distributed run would count batches of its own.

    Args:
        loader: Batches, as a PyTorch, MONAI or nnU-Net loader gives them: dictionaries or tuples.
        encoding: What the targets mean, and what is ignored in them.
        channels: How many channels the network has.
        target: Where a batch has its target: the key, or the place in the tuple. It is what the
            losses take: labels, ``(b, *space)`` or ``(b, 1, *space)``, or memberships ``(b, c,
            *space)``. Of a list, one for each scale, the first is counted.
        batches: How many batches to count; by default all, which a loader without end needs.
        progress: Show a bar.

    Returns:
        Voxels, patches and frequencies of each channel's class.

    Raises:
        ValueError: If a batch has no such target, or the target is none, or nothing counts.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0]]).reshape(2, 1, 2, 2)
        >>> loader = torch.utils.data.DataLoader([{"label": x} for x in labels], batch_size=2)
        >>> priors = class_priors(loader, channels=2, progress=False)
        >>> priors.frequencies, priors.patches
        ((0.875, 0.125), (2, 1))
    """
    taken = loader if batches is None else islice(loader, batches)
    length = length_hint(loader) or batches
    if length is not None and batches is not None:
        length = min(length, batches)
    bar = track(taken, "Counting classes", length, transient=True, disable=not progress)
    voxels, counted, patches = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))
    total = 0
    for i, batch in enumerate(bar):
        try:
            true, count = _counts(encoding, channels, _target_of(batch, target))
        except ValueError as error:
            raise ValueError(f"batch {i}: {error}") from error
        voxels += true.sum(0)
        counted += count.sum(0)
        patches += (true > 0).sum(0)
        total += len(true)
    if not counted.any():
        raise ValueError(
            f"the loader gave {total} patches without a voxel that counts: there is nothing to count"
        )
    return ClassPriors(
        voxels=tuple(voxels.tolist()),
        counted=tuple(counted.tolist()),
        patches=tuple(map(int, patches.tolist())),
        total=total,
    )


def class_balanced_weights(
    counts: Sequence[float], *, beta: float | None = None
) -> tuple[float, ...]:
    r"""Class weights :math:`(1 - \beta) / (1 - \beta^n)`, scaled to mean 1: ``class_weight=``.

    They lie between equal weights (β = 0) and inverse counts (β → 1): n samples that overlap are
    worth (1 - βⁿ) / (1 - β) that do not.

    Args:
        counts: n, of each class: in how many cases or patches it occurs, not in how many voxels. The
            loss wants one for each scored class: leave the first out with
            ``Multiclass(background=False)``.
        beta: β, from 0, below 1. By default 1 - 1/N, with N the largest of the counts: where a
            background is among them, the number of all cases. The default is ours.

    Raises:
        ValueError: If a class does not occur, or all weights come out equal for unequal counts, as
            they do for a β of 0.9999 and counts of voxels.

    References:
        Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019.

    Example:
        >>> [round(x, 3) for x in class_balanced_weights([100, 50, 2])]
        [0.087, 0.14, 2.773]
    """
    counts = all_above_zero("counts", counts)
    if beta is None:
        beta = 1 - 1 / max(1.0, max(counts))
    if not 0 <= number("beta", beta) < 1:
        raise ValueError(f"beta must be a number from 0, below 1, got {beta!r}")
    log_beta = math.log(beta) if beta else -math.inf
    weights = _mean_one([-1 / math.expm1(n * log_beta) for n in counts])
    if max(weights) < _EQUAL * min(weights) and max(counts) >= 2 * min(counts):
        raise ValueError(
            f"beta={beta} makes the weights of all classes equal, though their counts lie between "
            f"{min(counts):g} and {max(counts):g}: give in how many cases each class occurs, not in "
            "how many voxels, or leave beta out"
        )
    return weights


def inverse_frequency_weights(prior: Sequence[float], *, power: float = 0.5) -> tuple[float, ...]:
    """Class weights that fall as a power of how often a class occurs, scaled to mean 1.

    Args:
        prior: A number above 0 for each scored class: frequencies or counts, in any unit.
        power: 1 for inverse frequencies, and so for those relative to the median; 0.5, their square
            root, for a rare class that is not to outweigh all others; 0 for equal weights.

    Example:
        >>> inverse_frequency_weights([0.64, 0.04])
        (0.4, 1.6)
    """
    power = not_negative("power", power)
    return _mean_one([p**-power for p in all_above_zero("prior", prior)])


# Weights that differ by less are the same to a loss.
_EQUAL = 1.01


def _target_of(batch: Any, place: str | int) -> Tensor:
    try:
        found = batch[place]
    except (KeyError, IndexError, TypeError) as error:
        known = sorted(map(str, batch)) if isinstance(batch, dict) else f"{len(batch)} entries"
        raise ValueError(
            f"target={place!r} is not in the batch, a {type(batch).__name__} of {known}"
        ) from error
    first = found[0] if isinstance(found, (list, tuple)) else found
    return torch.as_tensor(first).detach().as_subclass(Tensor)


def _counts(
    encoding: Multiclass | Multilabel, channels: int, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Voxels of each class, and those that count, of each sample: each ``(b, c)``."""
    if target.ndim not in (3, 4, 5):
        raise ValueError(
            f"target has shape {tuple(target.shape)}, expected (batch, *space) or "
            "(batch, channels, *space) with two or three image axes"
        )
    by_channel = target.ndim == 5 or (target.ndim == 4 and target.shape[1] in (1, channels))
    space = target.shape[2:] if by_channel else target.shape[1:]
    # The engine does the counting, so that a target means here what it means to a loss.
    logits = torch.zeros((), device=target.device).expand(len(target), channels, *space)
    encoded = encoding.encode(logits, target, {})
    sums, _ = one_pass(encoded, Request(("true", "count")))
    true, count = sums["true"].double().cpu(), sums["count"].double().cpu()
    if isinstance(encoding, Multiclass) and encoded.target.ndim == 3:
        _check_memberships(true, count, target)
    return true, count


def _check_memberships(true: Tensor, count: Tensor, target: Tensor) -> None:
    """Raise unless they add up to 1: labels of volumes as deep as there are channels do not."""
    if not torch.allclose(true.sum(1), count[:, 0], rtol=1e-3):
        b, *space = target.shape
        raise ValueError(
            f"target has shape {tuple(target.shape)}, with a channel for each class, but these "
            "memberships do not add up to 1: if it holds the labels of volumes, give it a channel "
            f"axis, {(b, 1, *space)}"
        )


def _mean_one(weights: list[float]) -> tuple[float, ...]:
    mean = sum(weights) / len(weights)
    return tuple(weight / mean for weight in weights)
