"""The value of any loss of the package, by the formula in its documentation."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.reference.calibration import calibration_scores
from tests.reference.centrelines import centreline_score
from tests.reference.dense import Dense, dense, pooled, region_sum
from tests.reference.hardest import hardest_mean
from tests.reference.instances import INSTANCE, instance_score
from tests.reference.logits import LOGITS, logit_mean
from tests.reference.neighbours import neighbour_scores
from tests.reference.overlap import overlap_score
from tests.reference.surfaces import SURFACE, boundary_dou_score, surface_cost, worst_and_kept
from tests.reference.voxels import ADJUSTED, VOXEL, adjusted, voxel_cost

_FORMULAS = {
    "BoundaryDoULoss": boundary_dou_score,
    "CenterlineDiceLoss": centreline_score,
    **dict.fromkeys(INSTANCE, instance_score),
}
_OF_SKELETONS = ("SkeletonRecallLoss", "CenterlineDiceLoss")


def reference(loss: Any, input: Tensor, target: Tensor, **maps: Tensor) -> Tensor:
    """What the loss, with its options, should return, in float64, differentiable in `input`."""
    name = type(loss).__name__
    if name == "CompoundLoss":
        terms = [reference(term, input, target, **maps) for term in loss.losses.values()]
        weighted = [w * v for w, v in zip(loss.weights.values(), terms, strict=True)]
        return torch.stack(torch.broadcast_tensors(*weighted)).sum(0)
    x = dense(loss.encoding, input, target, maps)
    if name in ADJUSTED:
        logits = adjusted(loss, input, x.true.reshape(input.shape))
        x = dense(loss.encoding, logits, target, maps)
    if name == "NeighbourAwareCalibrationLoss":
        near = neighbour_scores(loss, x, input.shape[2:])[:, _scored(loss) :]
        return _class_mean(loss, near, torch.ones_like(near).bool())
    if name == "TopKCrossEntropyLoss":
        return _reduce(hardest_mean(loss, x, _scored(loss)), loss.reduction)
    if name in LOGITS or getattr(loss, "label_smoothing", False):
        return _reduce(logit_mean(loss, x, _scored(loss)), loss.reduction)
    if name in VOXEL:
        return _reduce(_voxel_mean(loss, x), loss.reduction)
    if name in ("GeneralizedDiceLoss", "GeneralizedSurfaceLoss"):
        return _reduce(_generalized(loss, x), loss.reduction)
    score = _class_mean(loss, *_scores(loss, x))
    if name == "ExponentialLogarithmicLoss":
        by_class, by_voxel = loss.dice_weight, loss.cross_entropy_weight
    elif name == "UnifiedFocalLoss":
        by_class, by_voxel = loss.region_weight, 1 - loss.region_weight
    else:
        return score
    mean = _voxel_mean(loss, x)[:, None]
    if loss.reduction != "mean":
        mean = mean.expand(-1, x.true.shape[1] - _scored(loss))
    both: Tensor = by_class * score + by_voxel * _reduce(mean, loss.reduction)
    return both


def _scored(loss: Any) -> int:
    """The first channel that counts."""
    return 0 if getattr(loss.encoding, "background", True) else 1


def _sums(loss: Any, x: Dense) -> Any:
    return lambda name: pooled(region_sum(x, name), loss.group)[:, _scored(loss) :]


def _scores(loss: Any, x: Dense) -> tuple[Tensor, Tensor]:
    """A score for each group and class, and whether the class is there."""
    s = _sums(loss, x)
    name = type(loss).__name__
    count = s("count")
    if name == "BoundaryLoss":
        return _ratio(s("pred*distance"), count), torch.ones_like(count).bool()
    if name in SURFACE:
        cost = pooled(surface_cost(loss, x).sum(2), loss.group)[:, _scored(loss) :]
        return _ratio(cost, count), torch.ones_like(count).bool()
    if name == "CalibrationErrorLoss":
        score = calibration_scores(loss, x)[:, _scored(loss) :]
        return score, torch.ones_like(count).bool()
    if name == "RegionProportionLoss":
        return _ratio((s("pred") - s("true")).abs(), count), torch.ones_like(count).bool()
    if name == "TLoss":
        return _student(loss, s("error^2"), count), torch.ones_like(count).bool()
    a, b = loss.smooth_nr, loss.smooth_dr
    presence = s("skeleton" if name in _OF_SKELETONS else "true")
    if name == "DiceLoss":
        top, bottom = 2 * s("overlap") + a, s("pred") + s("true") + b
    elif name == "JaccardLoss":
        top, bottom = s("overlap") + a, s("pred") + s("true") - s("overlap") + b
    elif name == "TverskyLoss":
        hit, false_pos = s("overlap"), s("pred") - s("overlap")
        false_neg = s("true") - s("overlap")
        top, bottom = hit + a, hit + loss.alpha * false_pos + loss.beta * false_neg + b
    elif name == "NoiseRobustDiceLoss":
        power = "_squared" if loss.squared_denominator else ""
        size = s("pred" + power) + s("true" + power)
        top, bottom = size - s(f"error^{loss.gamma}") + a, size + b
    elif name == "SkeletonRecallLoss":
        top, bottom = s("pred*skeleton") + a, s("skeleton") + b
    else:
        found = 1 - _FORMULAS.get(name, overlap_score)(loss, x)[:, _scored(loss) :]
        top, bottom = found, torch.ones_like(found)
    score = 1 - _ratio(top, bottom)
    if loss.empty == "penalise":
        score = torch.where(presence == 0, _ratio(s("pred"), count), score)
    score = torch.where(count == 0, 0.0, score)
    return score, (presence != 0) if loss.empty == "skip" else torch.ones_like(presence).bool()


def _student(loss: Any, error: Tensor, count: Tensor) -> Tensor:
    """Minus the log density of Student's t-distribution in D dimensions, over D."""
    nu, d = loss.log_nu.double().exp(), torch.where(count == 0, 1.0, count)
    peak = torch.lgamma((nu + d) / 2) - torch.lgamma(nu / 2) - d / 2 * torch.log(math.pi * nu)
    density = peak - (nu + d) / 2 * torch.log(1 + error / nu)
    return torch.where(count == 0, 0.0, -density / d)


def _ratio(top: Tensor, bottom: Tensor, otherwise: float = 0.0) -> Tensor:
    """The quotient, and a constant where the denominator is 0."""
    return torch.where(bottom == 0, otherwise, top / torch.where(bottom == 0, 1.0, bottom))


def _class_mean(loss: Any, score: Tensor, present: Tensor) -> Tensor:
    given = [1.0] * score.shape[1] if loss.class_weight is None else loss.class_weight
    weight = score.new_tensor(given).expand_as(score)
    weight = weight * score.shape[1] / weight[0].sum() * present
    if loss.reduction == "none":
        return score * weight
    if loss.reduction == "sum":
        return (score * weight).sum()
    return (score * weight).sum() / weight.sum() if weight.any() else (score * 0).sum()


def _generalized(loss: Any, x: Dense) -> Tensor:
    s = _sums(loss, x)
    true, count = s("true"), s("count")
    power = {"square": 2.0, "simple": 1.0, "uniform": 0.0}[loss.weighting]
    rows = []
    for volumes in true.tolist():
        row = [v**-power if v else 0.0 for v in volumes]
        if loss.empty == "smooth":
            row = [w if v else max(row) or 1.0 for v, w in zip(volumes, row, strict=True)]
        rows.append(row)
    weight = true.new_tensor(rows)
    if loss.class_weight is not None:
        weight = weight * weight.new_tensor(loss.class_weight)
    if type(loss).__name__ == "GeneralizedSurfaceLoss":
        size, kept = (y[:, _scored(loss) :] for y in worst_and_kept(loss, x))
    else:
        size, kept = s("pred") + true, 2 * s("overlap")
    top = (weight * kept).sum(1, keepdim=True) + loss.smooth_nr
    bottom = (weight * size).sum(1, keepdim=True) + loss.smooth_dr
    score = 1 - _ratio(top, bottom)
    if loss.empty == "penalise":
        mean = _ratio(s("pred"), count)
        score = score + torch.where(true == 0, mean, 0.0).mean(1, keepdim=True)
    return torch.where((count == 0).all(1, keepdim=True), 0.0, score)


def _voxel_mean(loss: Any, x: Dense) -> Tensor:
    """The mean of what a voxel costs over those that count, each group's."""
    first, c = _scored(loss), x.true.shape[1]
    given = [1.0] * (c - first) if loss.class_weight is None else list(loss.class_weight)
    class_weight = x.true.new_tensor([0.0] * first + given)[None, :, None]
    if x.exclusive:
        cost = torch.stack([voxel_cost(loss, x.log_pred, x.log_rest, k) for k in range(c)], 1)
        entry, share = class_weight * x.true * cost, class_weight * x.true
    else:
        outcomes, rest = torch.stack([x.log_pred, x.log_rest], 1), [x.log_rest, x.log_pred]
        yes, no = (voxel_cost(loss, outcomes, torch.stack(rest, 1), k) for k in (0, 1))
        entry = class_weight * (x.true * yes + (1 - x.true) * no)
        share = class_weight.expand_as(x.true)
    total = pooled((x.weight * entry).sum((1, 2)), loss.group)
    norm = pooled((x.weight * share).sum((1, 2)), loss.group)
    return _ratio(total, norm)


def _reduce(score: Tensor, reduction: str) -> Tensor:
    return {"mean": score.mean(), "sum": score.sum(), "none": score}[reduction]
