"""Centreline-boundary Dice against its formula, its weights spelt out as they are published."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.testing import assert_close

from segloss import CenterlineBoundaryDiceLoss, CenterlineDiceLoss, DiceLoss, Multiclass, Multilabel
from segloss.transforms import SignedDistance, TubedSkeleton
from tests.losses.checks import (
    RELATIVE,
    assert_half_precision_keeps_its_digits,
    value_and_gradient,
)
from tests.reference.centrelines import pooled_skeleton
from tests.reference.dense import dense, pooled
from tests.reference.surfaces import boundary_distance
from tests.strategies import ENCODINGS, make_batch

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=str)


def weights(depth: Tensor, line: Tensor, there: Tensor, axes: int) -> tuple[Tensor, Tensor, Tensor]:
    """D, the radius on the centreline, and its inverse, of one mask: each flat."""
    inside = there & (depth > 0)
    if not inside.any():
        return torch.zeros_like(depth), torch.zeros_like(depth), line
    deepest, least = depth[inside].max(), depth[inside].min()
    inverse = ((deepest - depth + least) / deepest) ** (axes - 1)
    return depth / deepest, depth / deepest * (line > 0), inverse * line


def combined(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """As published: b · c, and a · c where b is 0 and a is not."""
    return torch.where((a != 0) & (b == 0), a * c, b * c)


def by_definition(loss: Any, input: Tensor, target: Tensor, **maps: Tensor) -> Tensor:
    """What the loss should return, in float64, for ``reduction="none"``."""
    x = dense(loss.encoding, input, target, maps)
    b, c, _ = x.pred.shape
    first = 0 if getattr(loss.encoding, "background", True) else 1
    spacing = loss.spacing if isinstance(loss.spacing, tuple) else (loss.spacing,) * len(x.space)
    there, found = x.weight != 0, x.pred.detach() > 0.5
    depths = boundary_distance(found, there, x.space, spacing) * found
    sums = torch.zeros(4, b, c, dtype=torch.float64)
    for i in range(b):
        for k in range(first, c):
            p, w, known = x.pred[i, k], x.weight[i, k], there[i, k]
            y_line, y_depth = x.maps["skeleton"][i, k], -x.maps["distance"][i, k].clamp(max=0)
            mask = (found[i, k] & known).double().reshape(x.space)
            p_line = pooled_skeleton(mask, loss.iterations, known.reshape(x.space)).flatten()
            dy, ry, uy = weights(y_depth, y_line, known, len(x.space))
            dp, rp, up = weights(depths[i, k], p_line, known, len(x.space))
            rp = rp * p
            sums[0, i, k] = (w * up * p * dy).sum()
            sums[1, i, k] = (w * combined(rp, ry, up * p)).sum()
            sums[2, i, k] = (w * uy * dp * p).sum()
            sums[3, i, k] = (w * combined(ry, rp, uy)).sum()
    a, p, r, q = (pooled(s, loss.group)[:, first:] for s in sums)

    def share(top: Tensor, bottom: Tensor) -> Tensor:
        quotient: Tensor = (top + loss.smooth_nr) / (bottom + loss.smooth_dr)
        return quotient

    precision, recall = share(a, p), share(r, q)
    score: Tensor = 1 - 2 * precision * recall / (precision + recall)
    return score


@each_encoding
@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (2, 3, 4, 3, 5)], ids=["2d", "3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_is_as_defined(
    encoding: Any, group: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    spacing = (2.0, 0.5, 1.0)[: len(shape) - 2]
    loss = CenterlineBoundaryDiceLoss(
        encoding, iterations=2, spacing=spacing, group=group, reduction="none"
    )
    batch = make_batch(encoding, shape=shape, dtype=dtype)
    relative = RELATIVE[dtype]
    for weighted in (False, True):
        maps = batch.maps(loss, weight=weighted)
        value, gradient = value_and_gradient(loss, batch.logits, batch.target, **maps)
        expected, slope = value_and_gradient(
            lambda *a, **k: by_definition(loss, *a, **k),
            batch.logits.double(),
            batch.target,
            **maps,
        )
        assert value.dtype == gradient.dtype == dtype
        assert_close(value.double(), expected, rtol=relative, atol=relative)
        tolerance = relative * slope.abs().max().item() + 1e-15
        assert_close(gradient.double(), slope, rtol=10 * relative, atol=tolerance)


def test_gradcheck() -> None:
    loss = CenterlineBoundaryDiceLoss(Multiclass(ignore=255), iterations=2)
    batch = make_batch(loss.encoding, shape=(1, 3, 4, 5))
    maps = batch.maps(loss, weight=True)
    logits = batch.logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, batch.target, **maps), logits, eps=1e-7, fast_mode=True
    )


def tree(radii: tuple[int, int] = (4, 1), depth: int = 20) -> Tensor:
    """A thick vessel and a thin one side by side in a volume, ``(1, d, h, w)``."""
    label = torch.zeros(depth, 14, 26, dtype=torch.long)
    y, x = torch.meshgrid(torch.arange(14), torch.arange(26), indexing="ij")
    for centre, radius in zip((7, 19), radii, strict=True):
        label[2:-2][:, (y - 6) ** 2 + (x - centre) ** 2 <= radius**2] = 1
    return label[None]


def maps_of(label: Tensor) -> dict[str, Tensor]:
    skeletons = [TubedSkeleton(radius=0)(one[None].numpy()) for one in label]
    distances = [SignedDistance(num_classes=2)(one[None].numpy()) for one in label]
    return {
        name: torch.stack([torch.as_tensor(x) for x in maps])
        for name, maps in (("skeleton", skeletons), ("distance", distances))
    }


def certain(found: Tensor) -> Tensor:
    return 20.0 * one_hot(found, 2).movedim(-1, 1).double()


@pytest.mark.parametrize("label", [tree(), tree()[:, 9]], ids=["3d", "2d"])
def test_the_target_itself_costs_nothing_however_it_is_thinned(label: Tensor) -> None:
    """The target's centreline is Lee's or Zhang's, the prediction's the morphological one."""
    maps = maps_of(label)
    loss = CenterlineBoundaryDiceLoss(iterations=6)
    assert_close(loss(certain(label), label, **maps).item(), 0.0, rtol=0, atol=1e-6)


def test_a_thin_branch_counts_as_much_as_a_thick_one() -> None:
    """More than in Dice, where it is small, and than in clDice, where it counts by its length."""
    label = tree()
    maps, found = maps_of(label), label.clone()
    found[..., 16:] = 0  # the thin one is missed
    foreground = Multiclass(background=False)
    missed = [
        CenterlineBoundaryDiceLoss(iterations=6)(certain(found), label, **maps),
        CenterlineDiceLoss(iterations=6)(certain(found), label, skeleton=maps["skeleton"]),
        DiceLoss(foreground)(certain(found), label),
    ]
    assert missed[0] > 0.2 > 3 * missed[2]
    assert missed[0] > missed[1] > missed[2]


def test_a_centreline_off_the_middle_costs_before_it_leaves_the_vessel() -> None:
    label = tree((4, 3))
    maps, costs = maps_of(label), []
    for shift in (0, 1, 2):
        logits = certain(label.roll(shift, 2))
        by_line = CenterlineDiceLoss(iterations=6)(logits, label, skeleton=maps["skeleton"])
        assert by_line < 0.02
        costs.append(CenterlineBoundaryDiceLoss(iterations=6)(logits, label, **maps))
    assert costs[0] + 0.05 < costs[1] < costs[2] - 0.05


def test_all_foreground_together_is_one_channel() -> None:
    """The published loss, of the largest foreground logit against the background's."""
    label = tree()[:, 9]
    logits = certain(label).flip(2) + make_batch(shape=(1, 2, *label.shape[1:])).logits
    logits = torch.cat([logits, logits[:, 1:] - 3], 1)
    together = logits[:, 1:].amax(1, keepdim=True) - logits[:, :1]
    pair = torch.cat([logits[:, :1], logits[:, 1:].amax(1, keepdim=True)], 1)
    maps = maps_of(label)
    options: Any = {"smooth_nr": 1.0, "smooth_dr": 1.0}
    published = by_definition(
        CenterlineBoundaryDiceLoss(iterations=6, group="batch", **options),
        pair,
        label,
        **maps,
    )
    binary = CenterlineBoundaryDiceLoss(Multilabel(), iterations=6, **options)
    channels = {"skeleton": (maps["skeleton"] > 0), "distance": maps["distance"]}
    assert_close(binary(together, label[:, None], **channels), published[0, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("encoding", [Multiclass(ignore=255), Multilabel(ignore=255)], ids=str)
def test_ignoring_is_cropping(encoding: Any) -> None:
    loss = CenterlineBoundaryDiceLoss(encoding, iterations=3)
    batch = make_batch(encoding, shape=(2, 2, 9, 8))
    maps = batch.maps(loss)
    cut = {name: x[..., :5] for name, x in maps.items()}
    expected, slope = value_and_gradient(loss, batch.logits[..., :5], batch.target[..., :5], **cut)
    target = batch.target.clone()
    target[..., 5:] = 255
    value, gradient = value_and_gradient(loss, batch.logits, target, **maps)
    assert_close(value, expected)
    assert_close(gradient[..., :5], slope)
    assert not gradient[..., 5:].any()


def test_half_precision_and_huge_logits() -> None:
    loss = CenterlineBoundaryDiceLoss(iterations=2)
    batch = make_batch(loss.encoding, shape=(1, 3, 8, 9, 8), dtype=torch.float32)
    assert_half_precision_keeps_its_digits(loss, batch)


def test_a_class_that_is_absent_or_not_found() -> None:
    label = tree()
    empty = torch.zeros_like(label)
    logits = make_batch(shape=(1, 2, *label.shape[1:])).logits
    penalised = CenterlineBoundaryDiceLoss(iterations=2, empty="penalise")
    assert_close(penalised(logits, empty, **maps_of(empty)), logits.softmax(1)[:, 1].mean())
    skipped = CenterlineBoundaryDiceLoss(iterations=2, empty="skip")
    assert skipped(logits, empty, **maps_of(empty)) == 0
    loss = CenterlineBoundaryDiceLoss(iterations=2)
    value, gradient = value_and_gradient(loss, certain(empty), label, **maps_of(label))
    assert value > 0.99
    assert not gradient.any()


def test_a_missing_skeleton_is_a_hard_one() -> None:
    label = tree()
    distance = maps_of(label)["distance"]
    with pytest.raises(ValueError, match=r"skeleton map is missing.*radius=0\)"):
        CenterlineBoundaryDiceLoss()(certain(label), label, distance=distance)


def test_options_that_are_none() -> None:
    with pytest.raises(ValueError, match="iterations must be a whole number of at least 0, got -1"):
        CenterlineBoundaryDiceLoss(iterations=-1)
    with pytest.raises(
        ValueError, match=r"spacing must hold finite numbers above 0, got \(1.0, 0.0\)"
    ):
        CenterlineBoundaryDiceLoss(spacing=(1.0, 0.0))
