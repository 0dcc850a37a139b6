"""What must hold of a loss whatever its formula."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CalibrationErrorLoss,
    CrossEntropyLoss,
    DiceLoss,
    ExponentialLogarithmicLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    GeneralizedSurfaceLoss,
    JaccardLoss,
    MCCLoss,
    Multiclass,
    Multilabel,
    NeighbourAwareCalibrationLoss,
    SkeletonRecallLoss,
    SquentropyLoss,
    TLoss,
    TverskyLoss,
    UnifiedFocalLoss,
)
from tests.losses.checks import value_and_gradient
from tests.strategies import (
    ENCODINGS,
    EVERY_LOSS,
    IGNORED,
    PENALTIES,
    VOXEL,
    WITH_POLICY,
    WITH_PRIOR,
    Batch,
    made,
    make_batch,
)

IGNORING = [e for e in ENCODINGS if e.ignore is not None]
HELD_BACK = (SquentropyLoss, NeighbourAwareCalibrationLoss, *PENALTIES)  # from large logits
# The batch's distances are noise: what is nearest to them is not the target.
TO_THE_TARGET = [x for x in EVERY_LOSS if x not in (BoundaryLoss, *HELD_BACK)]
FROM_ZERO = [x for x in TO_THE_TARGET if x is not TLoss]  # a density
STRAIGHT = [x for x in TO_THE_TARGET if x is not CalibrationErrorLoss]  # by way of other bins

GENERALIZED = (GeneralizedDiceLoss, GeneralizedSurfaceLoss)
WITH_ENTROPY = (ExponentialLogarithmicLoss, UnifiedFocalLoss)
BLIND_TO_NAMES = [x for x in EVERY_LOSS if x not in (UnifiedFocalLoss, *WITH_PRIOR)]

each_loss = pytest.mark.parametrize("loss_class", EVERY_LOSS, ids=lambda x: x.__name__)
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=str)


def ignored_in(target: Tensor, encoding: Any) -> Tensor:
    """Where the target does not count."""
    value = -1 if encoding.ignore is None else encoding.ignore
    return target == value


def certain(encoding: Any, batch: Batch, scale: float = 40.0) -> Tensor:
    """Logits that say the target, and no in what is ignored."""
    target = batch.target.masked_fill(ignored_in(batch.target, encoding), 0).long()
    if isinstance(encoding, Multiclass):
        target = torch.nn.functional.one_hot(target, batch.logits.shape[1]).movedim(-1, 1)
    return scale * (2 * target.double() - 1)


@each_encoding
@pytest.mark.parametrize("loss_class", FROM_ZERO, ids=lambda x: x.__name__)
def test_a_perfect_prediction_costs_nothing(loss_class: Any, encoding: Any) -> None:
    loss = made(loss_class, encoding)
    batch = make_batch(encoding)
    logits = getattr(loss, "temperature", 1.0) * certain(encoding, batch)
    value, gradient = value_and_gradient(loss, logits, batch.target, **batch.maps(loss))
    assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoding", [Multiclass(background=False), Multilabel()], ids=str)
def test_no_prediction_beats_the_target_at_the_boundary_loss(encoding: Any) -> None:
    inside = torch.tensor([[0.0, 1, 1, 0, 0]]).double()
    distance = torch.tensor([[0.5, -0.5, -0.5, 0.5, 1.5]]).double()[None, None].expand(1, 1, 2, 5)
    labels = inside.expand(1, 2, 5).long()
    if isinstance(encoding, Multilabel):
        batch = Batch(torch.zeros(1, 1, 2, 5), labels[:, None], labels, distance, distance)
    else:
        batch = Batch(torch.zeros(1, 2, 2, 5), labels, labels, distance, distance)
    loss = BoundaryLoss(encoding)
    best = loss(certain(encoding, batch), batch.target, distance=distance)
    assert_close(best, distance.clamp(max=0).mean())
    for seed in range(20):
        other = 5 * torch.randn(
            batch.logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        assert loss(other, batch.target, distance=distance) > best


@each_encoding
@pytest.mark.parametrize("empty", ["smooth", "skip", "penalise"])
@pytest.mark.parametrize("loss_class", WITH_POLICY, ids=lambda x: x.__name__)
def test_overlap_losses_lie_between_zero_and_one(
    loss_class: Any, encoding: Any, empty: str
) -> None:
    loss = made(loss_class, encoding, reduction="none", empty=empty)
    most = {MCCLoss: 2, **dict.fromkeys(WITH_ENTROPY, torch.inf)}.get(loss_class, 1)
    if loss_class in GENERALIZED and empty == "penalise":
        most = 2
    for seed, present in [(0, 3), (1, 2), (2, 1)]:
        batch = make_batch(encoding, seed=seed, present=present, scale=8.0)
        score = loss(batch.logits, batch.target, **batch.maps(loss, weight=True))
        assert ((score >= -1e-9) & (score <= most + 1e-9)).all()


@each_encoding
@pytest.mark.parametrize("loss_class", STRAIGHT, ids=lambda x: x.__name__)
def test_coming_nearer_never_costs_more(loss_class: Any, encoding: Any) -> None:
    batch = make_batch(encoding)
    loss = made(loss_class, encoding)
    end, maps = certain(encoding, batch, scale=6.0), batch.maps(loss)
    p = [batch.logits.softmax(1), end.softmax(1)]
    if isinstance(encoding, Multilabel):
        p = [batch.logits.sigmoid(), end.sigmoid()]
    values = []
    for t in torch.linspace(0, 1, 12).tolist():
        between = (1 - t) * p[0] + t * p[1]
        exclusive = isinstance(encoding, Multiclass)
        logits = between.log() if exclusive else between.logit()
        values.append(loss(logits, batch.target, **maps))
    assert (torch.stack(values).diff() < 1e-12).all()


@each_encoding
@pytest.mark.parametrize("loss", [DiceLoss, *[x for x in VOXEL if x not in PENALTIES]])
def test_an_undecided_voxel_is_pulled_unless_it_is_ignored(loss: Any, encoding: Any) -> None:
    batch = make_batch(encoding)
    _, gradient = value_and_gradient(loss(encoding), torch.zeros_like(batch.logits), batch.target)
    counts = ~ignored_in(batch.target, encoding)
    if isinstance(encoding, Multiclass):
        if loss is not DiceLoss and not encoding.background:
            counts = counts & (batch.target != 0)
        assert (gradient.abs().sum(1) > 0).equal(counts)
    else:
        assert (gradient != 0).equal(counts)


@pytest.mark.parametrize("loss_class", [x for x in EVERY_LOSS if x not in PENALTIES])
def test_a_head_that_starts_at_zero_learns_from_one_channel(loss_class: Any) -> None:
    loss = made(loss_class, Multilabel(), channels=1)
    batch = make_batch(Multilabel(), shape=(1, 1, 4, 4))
    maps = batch.maps(loss)
    _, gradient = value_and_gradient(loss, torch.zeros_like(batch.logits), batch.target, **maps)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("axis", [2, 3, 4])
@each_loss
def test_flipping_everything_flips_the_gradient(loss_class: Any, axis: int) -> None:
    encoding = Multiclass(background=False, ignore=IGNORED)
    loss = made(loss_class, encoding)
    batch = make_batch(encoding, shape=(2, 3, 3, 4, 5))
    maps = batch.maps(loss, weight=True)
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, **maps)
    turned = {k: m.flip(axis - 5) for k, m in maps.items()}
    other, other_gradient = value_and_gradient(
        loss, batch.logits.flip(axis), batch.target.flip(axis - 5), **turned
    )
    assert_close(other, value)
    assert_close(other_gradient.flip(axis), gradient)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("loss_class", BLIND_TO_NAMES, ids=lambda x: x.__name__)
def test_renaming_the_classes_renames_the_gradient(loss_class: Any, order: tuple[int, ...]) -> None:
    loss = made(loss_class, Multiclass(background=True))
    batch = make_batch(shape=(2, 3, 4, 5), soft=True)
    maps = batch.maps(loss)
    own = {"skeleton": torch.rand(2, 3, 4, 5).double(), "instances": torch.randint(4, (2, 3, 4, 5))}
    maps |= {name: own[name] for name in maps.keys() & own.keys()}  # a channel for each class
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, **maps)
    other, other_gradient = value_and_gradient(
        loss,
        batch.logits[:, order],
        batch.target[:, order],
        **{k: m[:, order] for k, m in maps.items()},
    )
    assert_close(other, value)
    assert_close(other_gradient, gradient[:, order])


@pytest.mark.parametrize("group", ["sample", "batch"])
@each_encoding
@each_loss
def test_no_weight_is_as_good_as_cropped(loss_class: Any, encoding: Any, group: str) -> None:
    loss = made(loss_class, encoding, group=group, reduction="none")
    batch = make_batch(encoding, shape=(2, 3, 4, 6))
    maps = batch.maps(loss)
    weight = torch.ones(2, 4, 6)
    weight[..., 4:] = 0
    value, gradient = value_and_gradient(loss, batch.logits, batch.target, weight=weight, **maps)
    crop = {k: m[..., :4] for k, m in maps.items()}
    other, inner = value_and_gradient(loss, batch.logits[..., :4], batch.target[..., :4], **crop)
    assert_close(value, other)
    assert_close(gradient[..., :4], inner)
    assert not gradient[..., 4:].any()


@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("encoding", IGNORING, ids=str)
@each_loss
def test_an_ignored_voxel_has_no_say(loss_class: Any, encoding: Any, group: str) -> None:
    loss = made(loss_class, encoding, group=group, reduction="none")
    batch = make_batch(encoding, shape=(2, 3, 4, 6))
    target, maps = batch.target.clone(), batch.maps(loss)
    target[..., 4:] = IGNORED
    value, gradient = value_and_gradient(loss, batch.logits, target, **maps)
    assert not gradient[..., 4:].any()
    crop = {k: m[..., :4] for k, m in maps.items()}
    other, inner = value_and_gradient(loss, batch.logits[..., :4], target[..., :4], **crop)
    assert_close(value, other)
    assert_close(gradient[..., :4], inner)
    changed = batch.logits.clone()
    changed[..., 4:] = 100 * torch.randn(2, 3, 4, 2)
    assert_close(loss(changed, target, **maps), value)


NOTHING = [
    (x, e)
    for x in EVERY_LOSS
    for e in (["smooth", "skip", "penalise"] if x in WITH_POLICY else [None])
]


@pytest.mark.parametrize("by", ["ignore", "weight"])
@pytest.mark.parametrize("group", ["sample", "batch"])
@pytest.mark.parametrize("encoding", IGNORING, ids=str)
@pytest.mark.parametrize(("loss_class", "empty"), NOTHING)
def test_nothing_but_ignored_voxels_costs_nothing(
    loss_class: Any, empty: str | None, encoding: Any, group: str, by: str
) -> None:
    policy: dict[str, Any] = {} if empty is None else {"empty": empty, "smooth_nr": 0.0}
    batch = make_batch(encoding, shape=(2, 3, 3, 4))
    target = torch.full_like(batch.target, IGNORED) if by == "ignore" else batch.target
    weight = {"weight": torch.zeros(2, 3, 4)} if by == "weight" else {}
    for reduction in ("mean", "none"):
        loss = made(loss_class, encoding, group=group, reduction=reduction, **policy)
        maps = batch.maps(loss) | weight
        value, gradient = value_and_gradient(loss, batch.logits, target, **maps)
        assert not value.any()
        assert not gradient.any()


@pytest.mark.parametrize("encoding", IGNORING, ids=str)
@each_loss
def test_one_sample_of_nothing_spoils_no_other(loss_class: Any, encoding: Any) -> None:
    loss = made(loss_class, encoding, group="sample", reduction="none")
    batch = make_batch(encoding, scale=8.0)  # beyond any margin
    target, maps = batch.target.clone(), batch.maps(loss)
    target[0] = IGNORED
    value, gradient = value_and_gradient(loss, batch.logits, target, **maps)
    alone = {k: m[1:] for k, m in maps.items()}
    assert_close(value[1:], loss(batch.logits[1:], target[1:], **alone))
    assert not value[0].any()
    assert not gradient[0].any()
    assert gradient[1].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel(ignore=IGNORED)], ids=str)
@each_loss
def test_extreme_logits_stay_finite(loss_class: Any, encoding: Any, dtype: torch.dtype) -> None:
    losses = [made(loss_class, encoding, reduction="none", group="sample")]
    if loss_class is FocalLoss:
        losses += [FocalLoss(encoding, gamma=g) for g in (0.0, 0.5, 5.0)]
    batch = make_batch(encoding, dtype=dtype)
    for loss in losses:
        maps = batch.maps(loss)
        right = certain(encoding, batch, scale=1e4).to(dtype)
        for logits in (right, -right, 1e4 * batch.logits.sign(), torch.full_like(right, 1e4)):
            value, gradient = value_and_gradient(loss, logits, batch.target, **maps)
            assert value.isfinite().all()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("loss_class", [CrossEntropyLoss, FocalLoss])
def test_a_confident_error_costs_what_its_logit_says(loss_class: Any) -> None:
    logits = torch.tensor([[-1e4, 1e4]]).double().reshape(1, 2, 1, 1)
    value, gradient = value_and_gradient(made(loss_class), logits, torch.zeros(1, 1, 1).long())
    assert value == 2e4
    assert_close(gradient.flatten(), torch.tensor([-1.0, 1.0]).double())


@pytest.mark.parametrize("loss_class", [DiceLoss, JaccardLoss, TverskyLoss, SkeletonRecallLoss])
def test_policies_for_a_class_that_is_absent(loss_class: Any) -> None:
    encoding = Multiclass()
    batch = make_batch(encoding, present=2, shape=(2, 3, 6, 5))
    maps = batch.maps(made(loss_class, encoding))
    score = {
        empty: made(loss_class, encoding, empty=empty, reduction="none")(
            batch.logits, batch.target, **maps
        )
        for empty in ("smooth", "skip", "penalise")
    }
    present = [1] if loss_class is SkeletonRecallLoss else [0, 1]
    for other in (score["skip"], score["penalise"]):
        assert_close(other[:, present], score["smooth"][:, present])
    assert not score["skip"][:, 2].any()
    mean_probability = batch.logits.softmax(1)[:, 2].mean((1, 2))
    assert_close(score["penalise"][:, 2], mean_probability)
    skipped = made(loss_class, encoding, empty="skip")(batch.logits, batch.target, **maps)
    assert_close(skipped, score["smooth"][:, present].mean())


def test_penalising_an_absent_class_pulls_its_false_positives() -> None:
    logits, labels = torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8).long()
    foreground = Multiclass(background=False)
    policies: dict[Any, bool] = {"smooth": False, "skip": False, "penalise": True}
    for empty, pulls in policies.items():
        _, gradient = value_and_gradient(DiceLoss(foreground, empty=empty), logits, labels)
        assert (gradient.abs().max() > 1e-3) == pulls


def test_class_weights_have_mean_one_in_region_losses() -> None:
    batch = make_batch()
    each = DiceLoss(reduction="none")(batch.logits, batch.target)
    for factor in (1.0, 10.0):
        loss = DiceLoss(class_weight=[1 * factor, 2 * factor, 3 * factor])
        assert_close(
            loss(batch.logits, batch.target),
            (each * torch.tensor([0.5, 1.0, 1.5]).double()).mean(),
        )


@pytest.mark.parametrize("loss_class", [x for x in EVERY_LOSS if x not in GENERALIZED])
def test_equal_class_weights_are_none(loss_class: Any) -> None:
    loss = made(loss_class, Multiclass())
    batch = make_batch()
    maps = batch.maps(loss)
    weighted = made(loss_class, Multiclass(), class_weight=[4.0, 4.0, 4.0])
    assert_close(
        weighted(batch.logits, batch.target, **maps), loss(batch.logits, batch.target, **maps)
    )


def test_the_letter_alpha_goes_with_false_positives() -> None:
    p = torch.tensor([0.5, 0.5, 0.5, 0.5]).double().reshape(1, 1, 1, 4)
    label = torch.tensor([1, 0, 0, 0]).reshape(1, 1, 1, 4)
    # hit 0.5, false positives 1.5, false negatives 0.5
    loss = TverskyLoss(Multilabel(), alpha=0.1, beta=0.9, smooth_nr=0.0, smooth_dr=0.0)
    assert_close(loss(p.logit(), label).item(), 1 - 0.5 / (0.5 + 0.1 * 1.5 + 0.9 * 0.5))


def test_relations_between_overlap_losses() -> None:
    batch = make_batch(scale=3.0)
    exact: dict[str, Any] = {"smooth_nr": 0.0, "smooth_dr": 0.0, "reduction": "none"}
    d = DiceLoss(**exact)(batch.logits, batch.target)
    j = JaccardLoss(**exact)(batch.logits, batch.target)
    assert_close(1 - j, (1 - d) / (1 + d))
    half = TverskyLoss(alpha=0.5, beta=0.5, **exact)(batch.logits, batch.target)
    assert_close(half, d)
    whole = TverskyLoss(alpha=1.0, beta=1.0, **exact)(batch.logits, batch.target)
    assert_close(whole, j)
