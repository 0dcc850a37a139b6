"""Topology: losses of the package topolosses, on a part of the image and not at every step.

They compare pieces and loops, which no sum over voxels knows. That takes the CPU seconds for a
volume, so it is for single crops now and then, beside a loss that sees everything.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from random import Random
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, final, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import Unpack

from segloss.activation import Softmax
from segloss.arguments import not_negative, one_of
from segloss.encoding import Encoded, Encoding, Multiclass
from segloss.engine.block import Block
from segloss.engine.crop import cropped, draw_box
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.losses.base import Loss, Reduction, Sums, class_mean, ratio
from segloss.shapes import Nodes, Reduced

__all__ = ["BettiMatchingLoss", "TopographLoss"]

Peer: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_Centre = Literal["foreground", "anywhere"]
_Filtration = Literal["superlevel", "sublevel", "bothlevels"]
_Aggregation = Literal["mean", "sum", "max", "min", "rms"]


class TopologyOptions(TypedDict, total=False):
    """The options of every loss of topology."""

    every: int
    crop: int | Sequence[int] | None
    centre: _Centre
    seed: int
    group: Group
    class_weight: Sequence[float] | None
    reduction: Reduction


class _TopologyLoss(Loss):
    """A loss of another package, of each sample and class: on a crop, every so many steps.

    `BettiMatchingLoss` says what the options are.
    """

    compiles = False
    axes: ClassVar[tuple[int, ...]] = (2, 3)
    """How many image axes it can look at."""

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        every: int = 1,
        crop: int | Sequence[int] | None = None,
        centre: _Centre = "foreground",
        seed: int = 0,
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)
        if every < 1:
            raise ValueError(f"every must be 1 step or more, got {every!r}")
        if crop is not None and min([crop] if isinstance(crop, int) else crop) < 1:
            raise ValueError(f"crop must be 1 voxel or more along every axis, got {crop!r}")
        self.every = every
        self.crop = crop if crop is None or isinstance(crop, int) else tuple(crop)
        self.centre: _Centre = one_of("centre", centre, get_args(_Centre))
        self.seed = seed
        self._steps = 0

    @property
    @abstractmethod
    def peer(self) -> Peer:
        """The loss of ``(1, 2, *space)`` probabilities and memberships of the rest and a class."""

    @property
    def request(self) -> Request:
        return Request(("true",))  # it reads all labels, so that none out of range goes unnoticed

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        if len(space) not in self.axes:
            raise ValueError(
                f"input has {len(space)} image axes, but {type(self).__name__} takes two: for "
                "volumes there is BettiMatchingLoss"
            )
        b, v, first = len(encoded.logits), encoded.nodes, self.encoding.first
        draw, factor = Random(f"{self.seed}, {self._steps}"), self._factor(encoded.logits)
        nothing = encoded.logits[:, :1, :0].sum(2).to(encoded.classes.dtype)  # with a gradient of 0
        if not factor:
            idle = nothing.expand(b, v)
            return {"topology": idle, "looked_at": torch.ones_like(idle)}
        size = self._size(space)
        focused = self.centre == "foreground" and size != space
        around = [self._foreground(encoded, i) if focused else None for i in range(b)]
        boxes = [draw_box(size, space, draw, where) for where in around]
        with torch.autocast(encoded.logits.device.type, enabled=False):
            block = Block(cropped(encoded, space, boxes))
            there = block.weighted(torch.ones_like(block.true)) != 0
            exclusive = isinstance(block.activation, Softmax) and block.activation.members is None
            pred, true = (
                _beside_the_rest(x, there, exclusive)[:, first:].reshape(-1, 1, 2, *size)
                for x in (block.pred, block.true)
            )
            cost = torch.stack([self.peer(p, y) for p, y in zip(pred, true, strict=True)])
        cost = factor * cost.to(nothing).view(b, v - first) + nothing
        return {"topology": pad(cost, (first, 0)), "looked_at": there.any(2).to(cost)}

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        looked_at = regions["looked_at"]
        present = looked_at != 0 if self.encoding.partial else None
        score = ratio(regions["topology"], looked_at)
        return class_mean(score, self.class_weight, self.reduction, present)

    def get_extra_state(self) -> dict[str, int]:
        """The number of steps done, for the ``state_dict``."""
        return {"steps": self._steps}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of steps done."""
        self._steps = int(state["steps"])

    def _factor(self, logits: Tensor) -> int:
        """How much this call counts; a step is counted."""
        if not logits.requires_grad:
            return 1
        self._steps += 1
        return 0 if (self._steps - 1) % self.every else self.every

    def _size(self, space: tuple[int, ...]) -> tuple[int, ...]:
        crop = space if self.crop is None else self.crop
        edges = (crop,) * len(space) if isinstance(crop, int) else crop
        if len(edges) != len(space):
            raise ValueError(f"crop={crop} has {len(edges)} axes, but the input {len(space)}")
        return tuple(map(min, edges, space))

    def _foreground(self, encoded: Encoded, sample: int) -> Tensor:
        """Which of its voxels belong to a scored class."""
        block = Block(encoded, (slice(sample, sample + 1), slice(None)))
        return block.weighted(block.true)[0, self.encoding.first :].amax(0) != 0


@final
class BettiMatchingLoss(_TopologyLoss):
    """Betti matching: what the pieces, loops and cavities of prediction and target do not share.

    Features of the probability map are born and die as a threshold falls; those that lie in the
    same place in the target are matched. Matched ones cost twice the squared distance of their
    births and deaths, unmatched ones the square of their lifetime: from 0, and a **sum** over all
    features, of which a noisy map has thousands. So start with it late, with a small weight, beside
    a loss that sees every voxel, such as ``DiceLoss() + 0.001 * BettiMatchingLoss(every=8,
    crop=48)``.

    The package topolosses computes it, on the CPU and in single precision: ``pip install
    'segloss-monai[topology]'``. Gradients go through ordinary autograd, to the few voxels where
    features are born and die. Ignored voxels, and those that weigh 0, are background for both;
    other weights do not enter. In a `segloss.DeepSupervisionLoss` each scale is a step.

    Args:
        encoding: What the channels mean. By default the background's topology is left out.
        filtration: ``"superlevel"`` looks at the class, ``"sublevel"`` at what it leaves free,
            ``"bothlevels"`` at both, and takes the mean.
        least_lifetime: Unmatched features of the prediction that live no longer cost nothing.
        **options: ``every`` (so many steps from one evaluation to the next; the first step is one),
            ``crop`` (edge of the part of each image that is looked at, in voxels, or one for each
            axis; shorter axes are taken whole; by default the whole image), ``centre``
            (``"foreground"``: the crop is about a random voxel of a scored class, moved into the
            image, or anywhere if there is none; or ``"anywhere"``), ``seed``, ``group``,
            ``class_weight`` (scaled to have mean 1), ``reduction``. A step is a call whose logits
            want a gradient. The steps that are left out give 0, with a gradient of 0; the others
            are **multiplied by** ``every``, so that value and gradient are right in the mean over
            the steps. Calls that want no gradient are all evaluated, and not multiplied. Crops
            depend on the seed and on the number of steps done, which is part of the ``state_dict``.

    Raises:
        ImportError: When called, if topolosses is not installed.

    References:
        Stucki et al., "Topologically Faithful Image Segmentation via Induced Matching of
        Persistence Barcodes", ICML 2023, and "Efficient Betti Matching Enables Topology-Aware 3D
        Segmentation via Persistent Homology", 2024. Steps, crops and the mean over samples and
        classes are not theirs.

    Example:
        >>> import torch
        >>> label = torch.zeros(1, 5, 6, dtype=torch.long)
        >>> label[:, 2] = 1
        >>> found = torch.where(label == 1, 9.0, -9.0)
        >>> found[:, :, 3] = -9.0  # one vessel, found as two pieces
        >>> BettiMatchingLoss()(torch.stack([-found, found], 1), label)
        tensor(1.)
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        filtration: _Filtration = "superlevel",
        least_lifetime: float = 0.0,
        **options: Unpack[TopologyOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.filtration: _Filtration = one_of("filtration", filtration, get_args(_Filtration))
        self.least_lifetime = not_negative("least_lifetime", least_lifetime)

    @property
    def peer(self) -> Peer:
        return _peer(
            "BettiMatchingLoss",
            filtration_type=self.filtration,
            barcode_length_threshold=self.least_lifetime,
        )


@final
class TopographLoss(_TopologyLoss):
    """Topograph: the regions of a picture whose label would have to change to mend its topology.

    From the graph of regions that prediction and target share come those wrong regions that break,
    join or hide a component; each costs the probability with which it is predicted: from 0, a
    **sum** over the regions. So add it to a loss that sees every pixel, such as ``DiceLoss() +
    0.1 * TopographLoss(every=4, crop=128)``.

    For pictures only, of two axes. The package topolosses computes it, on the CPU and in single
    precision: ``pip install 'segloss-monai[topology]'``. Gradients go through ordinary autograd.
    Classes that exclude each other are predicted where they are the most probable, others where
    they are more probable than not; a soft target is read in the same way. Ignored voxels, and
    those that weigh 0, are background for both; other weights do not enter.

    Args:
        encoding: What the channels mean. By default the background's topology is left out.
        connectivity: 8 if pixels that share a corner touch, in the class, or 4.
        aggregation: What of the probabilities in a region it costs.
        **options: Those of `segloss.BettiMatchingLoss`: ``every``, ``crop``, ``centre``, ``seed``,
            ``group``, ``class_weight``, ``reduction``.

    Raises:
        ImportError: When called, if topolosses is not installed.

    References:
        Lux et al., "Topograph: An Efficient Graph-Based Framework for Strictly Topology Preserving
        Image Segmentation", arXiv 2411.03228. Steps, crops and the mean over samples and classes
        are not theirs.

    Example:
        >>> import torch
        >>> label = torch.zeros(1, 5, 6, dtype=torch.long)
        >>> label[:, 2] = 1
        >>> found = torch.where(label == 1, 9.0, -9.0)
        >>> found[:, :, 3] = -9.0  # one vessel, found as two pieces
        >>> TopographLoss()(torch.stack([-found, found], 1), label)
        tensor(1.)
    """

    axes = (2,)

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        connectivity: Literal[4, 8] = 8,
        aggregation: _Aggregation = "mean",
        **options: Unpack[TopologyOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.connectivity: Literal[4, 8] = one_of("connectivity", connectivity, (4, 8))
        self.aggregation: _Aggregation = one_of("aggregation", aggregation, get_args(_Aggregation))

    @property
    def peer(self) -> Peer:
        return _peer(
            "TopographLoss",
            eight_connectivity=self.connectivity == 8,
            aggregation=self.aggregation,
        )


def _peer(name: str, **options: Any) -> Peer:
    try:
        losses = import_module("topolosses.losses")
    except ImportError as error:
        raise ImportError(
            f"{name} needs topolosses, 0.2 or newer ({error}): "
            "pip install 'segloss-monai[topology]'"
        ) from error
    loss: Peer = getattr(losses, name)(
        include_background=False, use_base_loss=False, alpha=1.0, **options
    )
    return loss


def _beside_the_rest(x: Nodes, there: Tensor, exclusive: bool) -> Tensor:
    """Each node's map after that of the rest, ``(b, v, 2, n)``; all rest where nothing is there.

    The rest is the most probable other node if they exclude each other: then the larger of the two
    says where the node is the most probable of all, as an argmax over the nodes would.
    """
    if exclusive:
        top, index = x.topk(2, 1)
        is_top = index[:, :1] == torch.arange(x.shape[1], device=x.device)[:, None]
        rest = torch.where(is_top, top[:, 1:], top[:, :1])
    else:
        rest = 1 - x
    return torch.stack([rest.where(there, 1), x.where(there, 0)], 2)
