"""What a segmentation batch can look like: one at will, or any for Hypothesis to explore."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from segloss import (
    AsymmetricLoss,
    CalibrationErrorLoss,
    CenterlineBoundaryDiceLoss,
    CenterlineDiceLoss,
    CompatibleTverskyLoss,
    CompoundLoss,
    CompSumLoss,
    CrossEntropyLoss,
    DiceLoss,
    DicePlusPlusLoss,
    ExponentialLogarithmicLoss,
    FocalLoss,
    FocalTverskyLoss,
    GeneralizedCrossEntropyLoss,
    GeneralizedDiceLoss,
    GeneralizedSurfaceLoss,
    HausdorffDTLoss,
    HausdorffLoss,
    JaccardLoss,
    LDAMLoss,
    LDRKLLoss,
    LogitAdjustedCrossEntropyLoss,
    Loss,
    LovaszLoss,
    MarginSmoothingLoss,
    Multiclass,
    Multilabel,
    NoiseRobustDiceLoss,
    Poly1CrossEntropyLoss,
    Poly1FocalLoss,
    RegionLoss,
    ReverseCrossEntropyLoss,
    SensitivitySpecificityLoss,
    SymmetricCrossEntropyLoss,
    TLoss,
    TopKCrossEntropyLoss,
    TverskyLoss,
    UnifiedFocalLoss,
    VectorScalingLoss,
    VoxelLoss,
)
from segloss.catalogue import CATALOGUE, Family
from segloss.losses.base import ScoreLoss

IGNORED = 255


def catalogued(kind: type = Loss, *families: str) -> tuple[Any, ...]:
    """The losses of the catalogue that read any encoding: of that kind, and of these families."""
    return tuple(
        entry.loss
        for entry in CATALOGUE.values()
        if not entry.needs
        and all(issubclass(x, entry.loss.takes) for x in (Multiclass, Multilabel))
        and issubclass(entry.loss, kind)
        and entry.family in (families or get_args(Family))
    )


INSTANCE = catalogued(Loss, "instances")
TOPOLOGY = catalogued(Loss, "topology")  # another package, in single precision: test_topology.py
_APART = (
    *TOPOLOGY,
    CenterlineBoundaryDiceLoss,
)  # whose weights have a test: test_centerline_boundary
LOSSES = tuple(x for x in catalogued() if x not in _APART)
WITH_PRIOR = (LogitAdjustedCrossEntropyLoss, VectorScalingLoss, LDAMLoss)
NARROW = (AsymmetricLoss, UnifiedFocalLoss, *WITH_PRIOR)
"""Those that do not take both encodings, or must be told how often each class occurs."""
EVERY_LOSS = (*LOSSES, *NARROW)
REGION = tuple(x for x in LOSSES if issubclass(x, ScoreLoss))
WITH_POLICY = tuple(x for x in EVERY_LOSS if issubclass(x, RegionLoss))
VOXEL = catalogued(VoxelLoss)
ROBUST = catalogued(VoxelLoss, "label errors")
PENALTIES = catalogued(VoxelLoss, "calibration")  # they do not look at the label
FURTHER_OVERLAP = tuple(
    x
    for x in catalogued(ScoreLoss, "overlap", "soft targets", "contingency")
    if x not in (DiceLoss, JaccardLoss, TverskyLoss)
)
ENCODINGS = (
    Multiclass(),
    Multiclass(background=False),
    Multiclass(ignore=IGNORED),
    Multiclass(background=False, ignore=IGNORED),
    Multilabel(),
    Multilabel(ignore=IGNORED),
)


@dataclass
class Batch:
    """Logits and a target, with every map a loss may ask for."""

    logits: Tensor
    target: Tensor
    skeleton: Tensor
    distance: Tensor
    weight: Tensor
    instances: Tensor | None = None

    def maps(self, loss: Any, *, weight: bool = False) -> dict[str, Tensor]:
        """The maps that the loss reads, and no other."""
        terms: list[Any] = [*loss.losses.values()] if isinstance(loss, CompoundLoss) else [loss]
        read: set[str] = set().union(*(term.request.maps | term.reads for term in terms))
        if weight:
            read |= {"weight"}
        return {name: getattr(self, name) for name in sorted(read)}


def make_batch(
    encoding: Any = Multiclass(),  # noqa: B008
    *,
    shape: Sequence[int] = (2, 3, 6, 5),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    scale: float = 2.0,
    present: int | None = None,
    soft: bool = False,
) -> Batch:
    """A random batch of ``(b, c, *space)`` logits; labels below `present`; a fifth is ignored."""
    b, c, *space = shape
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(b, c, *space, generator=rng, dtype=torch.float64)
    labels = torch.randint(present or c, (b, *space), generator=rng)
    regions = torch.randint(2, (b, c, *space), generator=rng)
    skeleton = torch.rand(b, *space, generator=rng) < 0.4
    ignored = torch.rand(b, *space, generator=rng) < 0.2
    distance = 3 * torch.randn(b, c, *space, generator=rng, dtype=torch.float64)
    # Numbers of their own for each sample, so that samples in a row are one sample with them all.
    instances = torch.randint(4, (b, *space), generator=rng)
    instances = instances + 3 * torch.arange(b).view(-1, *[1] * len(space)) * (instances > 0)
    weight = 2 * torch.rand(b, *space, generator=rng, dtype=torch.float64)
    weight = weight * (torch.rand(b, *space, generator=rng) < 0.8)
    memberships = torch.rand(b, c, *space, generator=rng, dtype=torch.float64)
    if isinstance(encoding, Multiclass):
        target = memberships / memberships.sum(1, keepdim=True) if soft else labels
        tube = labels * skeleton
    else:
        target = memberships if soft else regions
        tube, ignored = regions * skeleton[:, None], ignored[:, None].expand_as(regions)
        instances = instances[:, None].repeat(1, c, *[1] * len(space))
    if encoding.ignore is not None:
        ignored = ignored[:, None] if target.ndim > ignored.ndim else ignored
        target = target.masked_fill(ignored, encoding.ignore)
    return Batch(
        logits.to(dtype),
        target.to(dtype) if target.is_floating_point() else target,
        tube,
        distance.to(dtype)[:, 1:] if leaves_out_background(encoding) else distance.to(dtype),
        weight.to(dtype),
        instances,
    )


def made(loss_class: Any, encoding: Any = None, *, channels: int = 3, **options: Any) -> Any:
    """The loss, told how often each class occurs if it must be; only with an encoding it takes."""
    if loss_class in WITH_PRIOR:
        options["prior"] = [(0.9 - 0.01 * k) / 3**k for k in range(channels)]
    if encoding is None:
        return loss_class(**options)
    if not isinstance(encoding, loss_class.takes):
        pytest.skip(f"{loss_class.__name__} takes another encoding")
    return loss_class(encoding, **options)


def leaves_out_background(encoding: Multiclass | Multilabel) -> bool:
    return isinstance(encoding, Multiclass) and not encoding.background


@st.composite
def options(draw: st.DrawFn, loss_class: Any, scored: int) -> dict[str, Any]:
    """Any options that a loss takes, for that number of scored classes."""
    chosen: dict[str, Any] = {
        "group": draw(st.sampled_from(["sample", "batch", "ranks"])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    if draw(st.booleans()):
        weights = st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=scored, max_size=scored)
        chosen["class_weight"] = draw(weights)
    if issubclass(loss_class, RegionLoss):
        chosen["empty"] = draw(st.sampled_from(["smooth", "skip", "penalise"]))
        chosen["smooth_nr"] = draw(st.sampled_from([0.0, 1e-5, 1.0]))
        chosen["smooth_dr"] = draw(st.sampled_from([1e-5, 1.0]))
    if loss_class in (TverskyLoss, CompatibleTverskyLoss, FocalTverskyLoss):
        chosen |= {"alpha": draw(st.sampled_from([0.1, 0.5])), "beta": draw(st.floats(0.1, 2))}
    if loss_class is CrossEntropyLoss:
        chosen["label_smoothing"] = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    if loss_class is TopKCrossEntropyLoss:
        chosen["k"] = draw(st.sampled_from([1.0, 10.0, 50.0, 100.0]))
    if loss_class is MarginSmoothingLoss:
        chosen["margin"] = draw(st.sampled_from([0.0, 0.5, 10.0]))
    if loss_class in (FocalLoss, Poly1FocalLoss):
        chosen["gamma"] = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]))
    if loss_class in (Poly1CrossEntropyLoss, Poly1FocalLoss):
        chosen["epsilon"] = draw(st.sampled_from([-1.0, 0.0, 2.0]))
    if loss_class is AsymmetricLoss:
        chosen["gamma_yes"] = draw(st.sampled_from([0.0, 1.0]))
        chosen["gamma_no"] = draw(st.sampled_from([0.0, 0.5, 4.0]))
        chosen["shift"] = draw(st.sampled_from([0.0, 0.05, 0.5]))
    if loss_class in (LogitAdjustedCrossEntropyLoss, VectorScalingLoss):
        chosen["tau"] = draw(st.sampled_from([0.0, 1.0, 2.0]))
    if loss_class is VectorScalingLoss:
        chosen["gamma"] = draw(st.sampled_from([0.0, 0.3]))
    if loss_class is LDAMLoss:
        chosen["max_margin"] = draw(st.sampled_from([0.0, 0.5]))
        chosen["scale"] = draw(st.sampled_from([1.0, 5.0]))
    if loss_class is UnifiedFocalLoss:
        chosen["delta"] = draw(st.sampled_from([0.0, 0.6, 1.0]))
        chosen["gamma"] = draw(st.sampled_from([0.0, 0.5, 0.75]))
        chosen["region_weight"] = draw(st.sampled_from([0.0, 0.5, 1.0]))
        chosen["asymmetric"] = draw(st.booleans())
    if loss_class is GeneralizedCrossEntropyLoss:
        chosen["q"] = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
        chosen["truncate"] = draw(st.sampled_from([None, None, 0.2, 0.5]))
    if loss_class is CompSumLoss:
        chosen["tau"] = draw(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]))
    if loss_class in (ReverseCrossEntropyLoss, SymmetricCrossEntropyLoss):
        chosen["log_zero"] = draw(st.sampled_from([-4.0, -9.0]))
    if loss_class is SymmetricCrossEntropyLoss:
        chosen |= {"alpha": draw(st.sampled_from([0.0, 0.1, 6.0])), "beta": draw(st.floats(0, 2))}
    if loss_class is LDRKLLoss:
        chosen["temperature"] = draw(st.sampled_from([0.5, 1.0, 10.0]))
        chosen["margin"] = draw(st.sampled_from([0.0, 0.1, 1.0]))
        chosen["adaptation"] = draw(st.sampled_from([None, None, 1.5, 2.0]))
    if loss_class in (FocalTverskyLoss, ExponentialLogarithmicLoss):
        chosen["gamma"] = draw(st.sampled_from([0.3, 0.75, 1.0, 2.0]))
    if loss_class is DicePlusPlusLoss:
        chosen["gamma"] = draw(st.sampled_from([1.0, 1.5, 2.0, 4.0]))
    if loss_class is SensitivitySpecificityLoss:
        chosen["sensitivity"] = draw(st.sampled_from([0.0, 0.05, 1.0]))
    if loss_class is CalibrationErrorLoss:
        chosen["bins"] = draw(st.sampled_from([1, 4, 16]))
        chosen["binning"] = draw(st.sampled_from(["hard", "soft"]))
    if loss_class is LovaszLoss:  # with wide bins: rounding seldom moves an error to another
        chosen["bins"] = draw(st.sampled_from([1, 4, 16]))
    if loss_class is NoiseRobustDiceLoss:
        chosen["gamma"] = draw(st.sampled_from([1.0, 1.5, 2.0]))
        chosen["squared_denominator"] = draw(st.booleans())
    if loss_class in (HausdorffLoss, HausdorffDTLoss):
        chosen["alpha"] = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    if loss_class is HausdorffDTLoss:
        chosen["spacing"] = draw(st.sampled_from([0.5, 1.0]))
    if loss_class is CenterlineDiceLoss:
        chosen["iterations"] = draw(st.sampled_from([0, 1, 2]))
    if loss_class is TLoss:
        chosen["initial_nu"] = draw(st.sampled_from([0.5, 3.0, 50.0]))
    if loss_class in (GeneralizedDiceLoss, GeneralizedSurfaceLoss):
        chosen["weighting"] = draw(st.sampled_from(["square", "simple", "uniform"]))
    return chosen


@dataclass
class Case:
    """A loss with its options and a batch it takes, made on demand.

    Not by the strategy: run-time type checks draw from `random`, which strategies must not.
    """

    loss_class: Any
    encoding: Multiclass | Multilabel
    options: dict[str, Any]
    batch: dict[str, Any]
    weighted: bool

    def make(self) -> tuple[Any, Batch, dict[str, Tensor]]:
        """The loss, the batch, and the maps to pass."""
        loss, batch = self.loss_class(self.encoding, **self.options), make_batch(**self.batch)
        return loss, batch, batch.maps(loss, weight=self.weighted)


@st.composite
def cases(
    draw: st.DrawFn, losses: Sequence[Any] = EVERY_LOSS, dtype: torch.dtype = torch.float64
) -> Case:
    """Any loss with any options, on any batch.

    Single precision has no digits left for the gradient of a batch all of whose voxels are
    saturated, so there the logits stay moderate.
    """
    scales = [0.1, 1.0, 8.0] if dtype == torch.float64 else [0.1, 1.0, 2.0]
    loss_class = draw(st.sampled_from(losses))
    encoding: Any = draw(st.sampled_from([e for e in ENCODINGS if isinstance(e, loss_class.takes)]))
    c = draw(st.integers(1 if isinstance(encoding, Multilabel) else 2, 5))
    batch = {
        "encoding": encoding,
        "shape": (draw(st.integers(1, 3)), c, *draw(_spaces)),
        "dtype": dtype,
        "seed": draw(st.integers(0, 2**31)),
        "scale": draw(st.sampled_from(scales)),
        "present": draw(st.integers(1, c)),
        "soft": draw(st.booleans()),
    }
    chosen = draw(options(loss_class, c - leaves_out_background(encoding)))
    if loss_class in WITH_PRIOR:
        chosen["prior"] = draw(st.lists(st.sampled_from([0.01, 0.2, 0.7]), min_size=c, max_size=c))
    return Case(loss_class, encoding, chosen, batch, draw(st.booleans()))


_spaces = st.lists(st.integers(1, 5), min_size=2, max_size=3)
