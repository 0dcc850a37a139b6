"""What all losses share: ask for sums, score them, reduce. A loss itself is a few lines of algebra.

`one_pass` is the only way into the engine: it runs any number of losses on one batch, those that
read the channels alike in one pass over the voxels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

from segloss.arguments import not_negative, numbers, one_of, options_of
from segloss.encoding import Encoded, Encoding, Multiclass, maker
from segloss.engine import sums as engine
from segloss.engine.constants import constant
from segloss.engine.groups import GROUPS, Group, pool
from segloss.engine.logit_cost import CostSum, LogitCost
from segloss.engine.sums import Request
from segloss.engine.voxel import Phi, VoxelSum
from segloss.shapes import Logits, Map, PerGroup, Reduced, Scores, Target

if TYPE_CHECKING:
    from segloss.compose import CompoundLoss, Weight

__all__ = [
    "Loss",
    "LossOptions",
    "MissingMap",
    "RegionLoss",
    "RegionOptions",
    "ScoreLoss",
    "Sums",
    "VoxelLoss",
    "VoxelOptions",
    "class_mean",
    "one_pass",
    "ratio",
    "reduced",
    "shares",
]

Reduction = Literal["mean", "sum", "none"]
Empty = Literal["smooth", "skip", "penalise"]
Sums = Mapping[str, PerGroup]
"""The sums a loss asked for by name, each ``(g, k)``, or with a histogram for each of the k."""


class MissingMap(ValueError):
    """The map of that name was not passed to a loss that reads it; and where it comes from."""

    def __init__(self, name: str, made: str) -> None:
        super().__init__(name, made)

    def __str__(self) -> str:
        name, made = self.args
        return f"the {name} map is missing: pass {name}={made}"


class LossOptions(TypedDict, total=False):
    """The options of every loss."""

    group: Group
    class_weight: Sequence[float] | None
    reduction: Reduction


class RegionOptions(LossOptions, total=False):
    """The options of every region loss, with `RegionLoss`'s meaning and defaults."""

    smooth_nr: float
    smooth_dr: float
    empty: Empty


class VoxelOptions(LossOptions, total=False):
    """The options of every loss of single voxels, with `VoxelLoss`'s meaning and defaults."""


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient, and 0 where the denominator is 0: in value and in gradient."""
    nothing = denominator == 0
    return (numerator / denominator.masked_fill(nothing, 1)).masked_fill(nothing, 0)


class Loss(nn.Module, ABC):
    """A loss of logits, a target and the target maps it needs; losses add up and scale.

    Args:
        encoding: What the channels mean.
        group: Sums run over each ``"sample"``, the ``"batch"``, or the batches of all ``"ranks"``.
        class_weight: A number for each scored class.
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for the scores themselves.
    """

    takes: ClassVar[tuple[type[Encoding], ...]] = (Encoding,)
    """The encodings that it is defined for."""
    compiles: ClassVar[bool] = True
    """Whether torch.compile can see into it; if not, it is left out of what is compiled."""
    makers: ClassVar[Mapping[str, str]] = {}
    """Where its maps come from, for an error message, if not from where they usually do."""

    def __init__(
        self,
        encoding: Encoding,
        *,
        group: Group,
        class_weight: Sequence[float] | None,
        reduction: Reduction,
    ) -> None:
        super().__init__()
        if not isinstance(encoding, Encoding):
            raise TypeError(
                f"encoding must say what the channels mean, got {encoding!r}: "
                "Multiclass() for a softmax, Multilabel() for sigmoids"
            )
        if not isinstance(encoding, self.takes):
            known = " or ".join(kind.__name__ for kind in self.takes)
            raise TypeError(f"{type(self).__name__} takes the encoding {known}, got {encoding!r}")
        self.encoding = encoding
        self.group: Group = one_of("group", group, GROUPS)
        self.class_weight = None if class_weight is None else numbers("class_weight", class_weight)
        self.reduction: Reduction = one_of("reduction", reduction, get_args(Reduction))

    @property
    def reading(self) -> Encoding:
        """The encoding for the engine: the loss's own, unless it sees the channels differently."""
        return self.encoding

    @property
    @abstractmethod
    def request(self) -> Request:
        """The sums that the loss reads; `completed` adds what the number of channels decides."""

    @property
    def reads(self) -> frozenset[str]:
        """The target maps that `own_sums` reads."""
        return frozenset()

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        """Sums that a pass over single voxels does not give, each ``(b, v)``; none by default.

        Args:
            encoded: The batch.
            space: Its image axes.
        """
        return {}

    @abstractmethod
    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        """The loss, from its sums, pooled over its groups and cut to its scored classes.

        Args:
            regions: The region sums, and the loss's own, by name, each ``(g, k)``.
            voxels: For each voxel sum, it and its normaliser, ``(2, g)``.
        """

    def forward(self, input: Logits, target: Target, **maps: Map) -> Reduced:
        """The loss of a batch.

        Args:
            input: Logits, ``(b, c, *space)``, in half to double precision.
            target: What the encoding takes.
            **maps: The target maps that the loss needs, and, for any loss, ``weight``: how much
                each voxel counts, ``(b, *space)`` or ``(b, 1, *space)``.
        """
        return one_pass([self], input, target, maps)[0]

    def known(self, count: Tensor) -> Tensor | None:
        """Which of ``(g, k)`` scores are of nodes that are known, from Σ w; None for all.

        What partial labels say nothing of is left out of the mean.
        """
        return count != 0 if self.encoding.partial else None

    def skipped(self, nodes: int) -> int:
        """How many of so many nodes come before the first scored one."""
        return self.encoding.first

    def full_class_weight(self, channels: int) -> tuple[float, ...] | None:
        """The weight of every node, the unscored first one's being 0."""
        first, nodes = self.encoding.first, self.encoding.nodes(channels)
        if self.class_weight is None:
            return None if first == 0 else (0.0,) + (1.0,) * (nodes - 1)
        if len(self.class_weight) != nodes - first:
            raise ValueError(
                f"class_weight has {len(self.class_weight)} numbers, expected {nodes - first}: "
                f"one for each scored class of an input with {channels} channels"
            )
        return (0.0,) * first + self.class_weight

    def completed(self, channels: int) -> Request:
        """The request, with the class weights for so many channels."""
        weight, request = self.full_class_weight(channels), self.request
        terms = tuple(replace(term, class_weight=weight) for term in request.voxels)
        return Request(request.regions, terms)

    def __add__(self, other: "Loss | CompoundLoss") -> "CompoundLoss":
        from segloss.compose import CompoundLoss

        return CompoundLoss([self]) + other

    def __mul__(self, weight: "Weight") -> "CompoundLoss":
        from segloss.compose import CompoundLoss

        return CompoundLoss([(weight, self)])

    __rmul__ = __mul__

    def extra_repr(self) -> str:
        """The options, as the constructor takes them."""
        return options_of(self)


class RegionLoss(Loss):
    """A loss made of region sums. A group with nothing in it (every voxel ignored) scores 0.

    Args:
        encoding: What the channels mean.
        group: Scores are of each ``"sample"``, of the ``"batch"``, or of all ``"ranks"``' batches.
        class_weight: One number for each scored class, scaled to have mean 1.
        smooth_nr: Added to the numerator, in voxels.
        smooth_dr: Added to the denominator, in voxels.
        empty: What a class scores that is absent from a group: the formula's value (``"smooth"``:
            for Dice about 1 whatever the prediction, with hardly a gradient), nothing, leaving the
            mean to the others (``"skip"``), or its mean probability (``"penalise"``, our own
            choice: false positives cost, each as much as in mean absolute error).
        reduction: ``"mean"`` or ``"sum"`` of the scores, or ``"none"`` for ``(g, k)`` scores.
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        group: Group = "sample",
        class_weight: Sequence[float] | None = None,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        empty: Empty = "smooth",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)
        self.smooth_nr = not_negative("smooth_nr", smooth_nr)
        self.smooth_dr = not_negative("smooth_dr", smooth_dr)
        self.empty: Empty = one_of("empty", empty, get_args(Empty))


class ScoreLoss(RegionLoss):
    """A region loss made of one score for each group and class. Its options are `RegionLoss`'s."""

    needs: ClassVar[tuple[str, ...]]
    """The names of the sums that `score` reads."""
    presence: ClassVar[str] = "true"
    """The sum that is 0 where a class is absent."""

    @property
    def voxel_terms(self) -> tuple[VoxelSum, ...]:
        """The sums over single voxels that `reduce` adds to the scores; none by default."""
        return ()

    @abstractmethod
    def score(self, sums: Sums) -> Scores:
        """One number for each group and class."""

    @property
    def request(self) -> Request:
        policy = {"smooth": (), "skip": (self.presence,), "penalise": (self.presence, "pred")}
        return Request((*self.needs, "count", *policy[self.empty]), self.voxel_terms)

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        score, present = self.scores(regions)
        return class_mean(score, self.class_weight, self.reduction, present)

    def scores(self, regions: Sums) -> tuple[Scores, Tensor | None]:
        """The scores, with the policy for absent classes, and which of them count; None for all."""
        score, count = self.score(regions), regions["count"]
        if self.empty == "penalise":
            absent = regions[self.presence] == 0
            score = torch.where(absent, ratio(regions["pred"], count), score)
        score = score.masked_fill(count == 0, 0)
        present = self.known(count)
        if self.empty == "skip":
            found = regions[self.presence] != 0
            present = found if present is None else found & present
        return score, present


class VoxelLoss(Loss):
    """The weighted mean over each group of a function φ of the voxels' cross entropies.

    With memberships, the mean over the labels that may be drawn from them, too.

    Args:
        encoding: What the channels mean. Leaving out the background leaves out the voxels
            labelled so.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.
        class_weight: One number for each scored class: the weight of the voxels (with
            `segloss.Multilabel`: of the entries) that belong to it.
        reduction: ``"mean"`` or ``"sum"`` over the groups, or ``"none"`` for ``(g,)``.
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        group: Group = "batch",
        class_weight: Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoding, group=group, class_weight=class_weight, reduction=reduction)

    @property
    @abstractmethod
    def phi(self) -> Phi | LogitCost:
        """The function; or a cost that all logits of a voxel enter."""

    @property
    def request(self) -> Request:
        phi = self.phi
        return Request(voxels=(CostSum(phi) if isinstance(phi, LogitCost) else VoxelSum(phi),))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        ((total, norm),) = voxels
        return reduced(ratio(total, norm), self.reduction)


def one_pass(
    losses: Sequence[Loss], input: Tensor, target: Tensor, maps: Mapping[str, Tensor]
) -> list[Tensor]:
    """The value of each loss; losses that read the channels alike share a pass over the voxels."""
    values = _one_pass if all(loss.compiles for loss in losses) else _uncompiled_pass
    return values(losses, input, target, maps)


def _one_pass(
    losses: Sequence[Loss], input: Tensor, target: Tensor, maps: Mapping[str, Tensor]
) -> list[Tensor]:
    for name, x in {"input": input, "target": target, **maps}.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    input, target = _plain(input), _plain(target)
    maps = {name: _plain(x) for name, x in maps.items()}
    channels = input.shape[1] if input.ndim > 1 else 0
    requests = [loss.completed(channels) for loss in losses]
    read_by_encodings = [loss.encoding.reads for loss in losses]
    scored = [request.maps | loss.reads for request, loss in zip(requests, losses, strict=True)]
    needed = frozenset().union(*scored, *read_by_encodings)
    makers = {name: made for loss in losses for name, made in loss.makers.items()}
    _check_maps(needed, maps, makers)

    values: list[Tensor] = [input] * len(losses)
    for encoding in dict.fromkeys(loss.reading.all_channels for loss in losses):
        members = [i for i, loss in enumerate(losses) if loss.reading.all_channels == encoding]
        request = Request()
        for i in members:
            request |= requests[i]
        read = {"weight"}.union(encoding.reads, *(scored[i] for i in members))
        own = {name: x for name, x in maps.items() if name in read}
        encoded = encoding.encode(input, target, own)
        for i in members:
            _check_coverage(losses[i], input, encoded, {name: maps[name] for name in scored[i]})
        summed = {name: x for name, x in encoded.maps.items() if name in request.maps}
        regions, voxels = engine.one_pass(replace(encoded, maps=summed), request)
        for i in members:
            with torch.autocast(input.device.type, enabled=False):
                own_sums = losses[i].own_sums(encoded, input.shape[2:])
            first = losses[i].skipped(encoded.nodes)
            value = _value(losses[i], first, requests[i], request, regions, voxels, own_sums)
            values[i] = value.to(encoded.classes.dtype)
    return values


_uncompiled_pass = torch.compiler.disable(_one_pass)


def _plain(x: Tensor) -> Tensor:
    # Subclasses of Tensor, such as MONAI's MetaTensor, pay for their metadata at every operation.
    return x if type(x) is Tensor else x.as_subclass(Tensor)


def _value(
    loss: Loss,
    first: int,
    own: Request,
    joint: Request,
    regions: engine.Sums,
    voxels: Tensor,
    own_sums: Sums,
) -> Tensor:
    """Pick a loss's sums out of those of a joint pass, add its own, pool them, and reduce."""
    named = {
        name: regions[name][:, first * engine.numbers_of_a_node(name) :] for name in own.regions
    }
    named |= {name: x[:, first:] for name, x in own_sums.items()}
    scored = list(named.values())
    pooled: Sequence[Tensor] = []
    if scored:  # side by side: between ranks one message is cheaper than many
        widths = [x.shape[1] for x in scored]
        pooled = pool(torch.cat(scored, 1)[None], loss.group)[0].split(widths, 1)
    names = [term.name for term in joint.voxels]
    summed = [pool(voxels[names.index(term.name)], loss.group) for term in own.voxels]
    return loss.reduce(dict(zip(named, pooled, strict=True)), summed)


def _check_maps(
    needed: frozenset[str], maps: Mapping[str, Tensor], makers: Mapping[str, str]
) -> None:
    for name in sorted(needed - maps.keys()):
        raise MissingMap(name, makers.get(name, maker(name)))
    for name in sorted(maps.keys() - needed - {"weight"}):
        known = ", ".join(sorted(needed | {"weight"}))
        raise ValueError(
            f"no term of the loss reads the map {name!r}; those that are read: {known}"
        )


def class_mean(
    score: Tensor,
    class_weight: tuple[float, ...] | None,
    reduction: Reduction,
    present: Tensor | None = None,
) -> Tensor:
    """Reduce ``(g, k)`` scores, classes by their weights scaled to mean 1, absent ones left out."""
    weight = shares(score, class_weight, present)
    if reduction == "mean":
        return ratio((score * weight).sum(), weight.sum())
    return reduced(score * weight, reduction)


def shares(score: Tensor, class_weight: tuple[float, ...] | None, present: Tensor | None) -> Tensor:
    """How much each of ``(g, k)`` scores counts: its class's weight, scaled to mean 1; 0 if absent."""
    weight = torch.ones_like(score)
    if class_weight is not None:
        weight = weight * constant(class_weight, weight)
        weight = weight / weight.mean()
    return weight if present is None else weight * present


def _check_coverage(
    loss: Loss, input: Tensor, encoded: Encoded, maps: Mapping[str, Tensor]
) -> None:
    """Raise if a map has no channel for the background, but the loss scores it."""
    for name, x in maps.items():
        channels = encoded.maps[name].shape[1] if encoded.maps[name].ndim == 3 else None
        if channels is not None and channels < encoded.nodes - loss.skipped(encoded.nodes):
            raise ValueError(
                f"{name} map has shape {tuple(x.shape)}, expected {tuple(input.shape)}, because "
                f"{type(loss).__name__} scores the background: make the map with background=True, "
                "or score Multiclass(background=False)"
            )


def reduced(score: Tensor, reduction: Reduction) -> Tensor:
    """The mean or the sum of the scores, or the scores."""
    if reduction == "none":
        return score
    return score.mean() if reduction == "mean" else score.sum()
