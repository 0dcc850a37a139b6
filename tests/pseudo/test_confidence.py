"""The losses of pseudo-labels against their formulas, and against the code they come from."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from segloss import CrossEntropyLoss, Step
from segloss.pseudo import (
    ConfidenceWeightedLoss,
    CWBASSLoss,
    DynamicThreshold,
    FixedThreshold,
    PseudoBoundaryLoss,
    PseudoLabels,
    SoftMatchWeight,
    label_boundary,
    sobel_boundary,
)
from tests.pseudo.teachers import SHAPES, teacher_logits, void_for

LOSSES: list[Any] = [ConfidenceWeightedLoss, PseudoBoundaryLoss, CWBASSLoss]
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=LOSSES, ids=lambda x: x.__name__)
def loss_class(request: pytest.FixtureRequest) -> Any:
    return request.param


def students(teacher: Tensor, seed: int = 5) -> Tensor:
    """Logits of as many voxels and classes."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(teacher.shape, generator=rng, dtype=torch.float64).to(teacher.dtype)


def value_and_gradient(loss: Any, logits: Tensor, pseudo: PseudoLabels) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = loss(logits, pseudo)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def reference(loss: Any, logits: Tensor, pseudo: PseudoLabels) -> Tensor:
    """A literal transcription of the formulas, over lists of voxels."""
    if isinstance(loss, CWBASSLoss):
        confident = reference(loss.confidence, logits, pseudo)
        return confident + loss.boundary_weight * reference(loss.boundary, logits, pseudo)
    surprise: Tensor = functional.cross_entropy(logits, pseudo.label, reduction="none")
    weight = torch.ones_like(surprise) if pseudo.weight is None else pseudo.weight
    void = torch.zeros_like(pseudo.keep) if pseudo.void is None else pseudo.void
    if isinstance(loss, PseudoBoundaryLoss):
        at = label_boundary(pseudo.label)
        if loss.operator == "sobel":
            at = sobel_boundary(pseudo.label, logits.shape[1])
        at = at & pseudo.keep
        total: Tensor = (weight * surprise)[at].sum()
        return total / max(int(at.sum()), 1)
    weight = (weight * pseudo.confidence**loss.gamma)[pseudo.keep]
    over = {
        "kept": float(pseudo.keep.sum()),
        "all": float((~void).sum()),
        "weight": float(weight.sum()),
    }[loss.normalizer]
    total = (weight * surprise[pseudo.keep]).sum()
    return total / (over or 1)


CASES = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(LOSSES),
        "shape": st.sampled_from([*SHAPES, (1, 2, 1, 1), (3, 5, 4, 1)]),
        "seed": st.integers(0, 99),
        "threshold": st.sampled_from([0.0, 0.7, 0.95, 1.0]),
        "soft": st.booleans(),
        "with_void": st.booleans(),
        "gamma": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "normalizer": st.sampled_from(["kept", "all", "weight"]),
        "operator": st.sampled_from(["morph", "sobel"]),
        "boundary_weight": st.sampled_from([0.0, 0.5, 2.0]),
    }
)


@given(CASES)
def test_as_defined(case: dict[str, Any]) -> None:
    loss_class = case["loss"]
    names = {
        ConfidenceWeightedLoss: ("gamma", "normalizer"),
        PseudoBoundaryLoss: ("operator",),
        CWBASSLoss: ("gamma", "normalizer", "operator", "boundary_weight"),
    }[loss_class]
    loss = loss_class(**{name: case[name] for name in names})
    teacher = teacher_logits(case["shape"], seed=case["seed"])
    rule: Any = FixedThreshold(case["threshold"])
    if case["soft"]:
        rule = SoftMatchWeight(teacher.shape[1], momentum=0.0)
    pseudo = PseudoLabels.of(teacher, rule, void=void_for(teacher) if case["with_void"] else None)
    found = value_and_gradient(loss, students(teacher), pseudo)
    expected = value_and_gradient(lambda *x: reference(loss, *x), students(teacher), pseudo)
    assert_close(found, expected, rtol=1e-6, atol=1e-9)


def cwbass_of_the_authors(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The present code's loss, in its own order; its boundary operator apart."""
    confidence, label = teacher.softmax(1).max(1)
    boundary = sobel_boundary(label, teacher.shape[1]).float()
    tau = (0.6 * torch.sigmoid(beta * (confidence.mean() - 0.5))).clamp(0.3, 0.8)
    label[confidence <= tau] = 255
    valid = (label != 255).float()
    surprise = functional.cross_entropy(student, label, ignore_index=255, reduction="none")
    weighted = (confidence * surprise * valid).sum() / valid.sum().clamp(min=1)
    at_boundary = (surprise * boundary * valid).sum() / (boundary * valid).sum().clamp(min=1)
    return weighted + 0.5 * at_boundary


@pytest.mark.parametrize("beta", [0.5, 10.0])
def test_is_the_authors_loss(beta: float) -> None:
    teacher = teacher_logits((2, 3, 9, 8), scale=1.0)
    pseudo = PseudoLabels.of(teacher, DynamicThreshold(beta=beta))
    assert pseudo.kept == 1 if beta == 0.5 else 0.5 < pseudo.kept < 1
    found = CWBASSLoss(operator="sobel")(students(teacher), pseudo)
    assert_close(found, cwbass_of_the_authors(students(teacher), teacher, beta))


def test_what_is_left_out_is_not_taught_as_background() -> None:
    """Which the first release did: it set the labels it left out to 0, and averaged over all."""
    teacher = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4).clone()
    teacher[0, 1, 0, 0] = 9.0
    student = torch.zeros_like(teacher).requires_grad_()
    pseudo = PseudoLabels.of(teacher, FixedThreshold(0.95))
    ConfidenceWeightedLoss()(student, pseudo).backward()
    assert student.grad is not None
    assert student.grad.count_nonzero() == 2
    assert student.grad[0, 1, 0, 0] < 0
    label = pseudo.label * pseudo.keep  # the first release
    (published,) = torch.autograd.grad(functional.cross_entropy(student, label), student)
    assert (published[0, 0].flatten()[1:] < 0).all()


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_without_confidence_and_boundary_it_is_cross_entropy(shape: tuple[int, ...]) -> None:
    teacher = teacher_logits(shape)
    pseudo = PseudoLabels.of(teacher, FixedThreshold(0.0))
    plain = CrossEntropyLoss()(students(teacher), pseudo.label)
    for loss in (CWBASSLoss(gamma=0, boundary_weight=0), ConfidenceWeightedLoss(gamma=0)):
        assert_close(loss(students(teacher), pseudo), plain)


def test_a_constant_confidence_scales_the_cross_entropy() -> None:
    """And not even that as a weighted mean."""
    teacher = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)[None, :, None, None]
    pseudo = PseudoLabels.of(teacher.expand(2, 3, 5, 5), FixedThreshold(0.0))
    student = students(teacher_logits((2, 3, 5, 5)))
    plain = CrossEntropyLoss()(student, pseudo.label)
    c = pseudo.confidence[0, 0, 0]
    assert_close(ConfidenceWeightedLoss(gamma=2)(student, pseudo), c**2 * plain)
    assert_close(ConfidenceWeightedLoss(gamma=2, normalizer="weight")(student, pseudo), plain)


def test_normalizers_differ_by_the_share_that_is_kept() -> None:
    teacher = teacher_logits()
    pseudo = PseudoLabels.of(teacher, FixedThreshold(0.9), void=void_for(teacher))
    kept, over_all = (
        ConfidenceWeightedLoss(gamma=0, normalizer=n)(students(teacher), pseudo)
        for n in ("kept", "all")
    )
    assert 0.1 < pseudo.kept < 0.9
    assert_close(over_all, kept * pseudo.kept)


def test_decay() -> None:
    """Lowering all confidences by a tenth scales the loss; by the epoch is our reading."""
    teacher = teacher_logits()
    pseudo, student = PseudoLabels.of(teacher, FixedThreshold(0.5)), students(teacher)
    lower = PseudoLabels(pseudo.label, 0.9 * pseudo.confidence, pseudo.keep)
    confident, edge = (
        CWBASSLoss(gamma=2, boundary_weight=0)(student, pseudo),
        PseudoBoundaryLoss()(student, pseudo),
    )
    assert_close(ConfidenceWeightedLoss(gamma=2)(student, lower), 0.9**2 * confident)
    assert_close(
        CWBASSLoss(gamma=2, decay=0.9**2)(student, pseudo), 0.9**2 * confident + 0.5 * edge
    )
    loss = CWBASSLoss(gamma=2, decay=Step(1.0, 0.9, 1))
    for epoch in range(3):
        assert_close(loss(student, pseudo), 0.9**epoch * confident + 0.5 * edge)
        loss.step()
    other = CWBASSLoss(gamma=2, decay=Step(1.0, 0.9, 1))
    other.load_state_dict(loss.state_dict())
    assert_close(other(student, pseudo), 0.9**3 * confident + 0.5 * edge)


def test_statistics() -> None:
    teacher = teacher_logits()
    void = void_for(teacher)
    pseudo = PseudoLabels.of(teacher, FixedThreshold(0.9), void=void)
    loss = CWBASSLoss()
    loss(students(teacher).requires_grad_(), pseudo)
    at = label_boundary(pseudo.label) & pseudo.keep
    assert_close(loss.statistics["kept"], pseudo.kept)
    assert_close(loss.statistics["boundary"].item(), (at.sum() / (~void).sum()).item())
    assert not any(x.requires_grad for x in loss.statistics.values())


def test_nothing_kept_costs_exactly_nothing(loss_class: Any) -> None:
    teacher = teacher_logits()
    everything = torch.ones(2, 6, 5, dtype=torch.bool)
    for void, threshold in ((None, 1.0), (everything, 0.0)):
        pseudo = PseudoLabels.of(teacher, FixedThreshold(threshold), void=void)
        value, gradient = value_and_gradient(loss_class(), students(teacher), pseudo)
        assert value == 0
        assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("normalizer", ["kept", "all", "weight"])
def test_nothing_kept_whatever_the_normalizer(normalizer: Any) -> None:
    pseudo = PseudoLabels.of(teacher_logits(), FixedThreshold(1.0))
    loss = ConfidenceWeightedLoss(normalizer=normalizer)
    value, gradient = value_and_gradient(loss, students(teacher_logits()), pseudo)
    assert value == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_saturated_teachers_and_students(loss_class: Any, dtype: torch.dtype) -> None:
    teacher = teacher_logits().sign().mul(1e4).to(dtype)
    student = students(teacher_logits()).sign().mul(1e4).to(dtype)
    pseudo = PseudoLabels.of(teacher, FixedThreshold(0.95))
    value, gradient = value_and_gradient(loss_class(), student, pseudo)
    assert value.isfinite()
    assert value > 1e3
    assert gradient.isfinite().all()
    assert gradient.count_nonzero()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(1, 2, 64, 64), (1, 3, 16, 16, 16)], ids=["2d", "3d"])
def test_half_precision_is_computed_in_single(
    loss_class: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    teacher = teacher_logits(shape, dtype=dtype)
    student = students(teacher_logits(shape)).to(dtype)
    pseudo = PseudoLabels.of(teacher, FixedThreshold(0.9))
    exact = PseudoLabels.of(teacher.double(), FixedThreshold(0.9))
    expected, slope = value_and_gradient(loss_class(), student.double(), exact)
    with torch.autocast("cpu", dtype=dtype):
        value, gradient = value_and_gradient(loss_class(), student, pseudo)
    assert value.dtype == torch.float32
    assert_close(value.double(), expected, rtol=1e-5, atol=0)
    unit = torch.finfo(dtype)
    assert_close(gradient.double(), slope, rtol=2 * unit.eps, atol=unit.smallest_normal)


def test_gradients_are_right_and_the_teacher_gets_none(loss_class: Any) -> None:
    teacher = teacher_logits((2, 3, 2, 3)).requires_grad_()
    loss = loss_class()

    def through(student: Tensor, teacher: Tensor) -> Any:
        return loss(student, PseudoLabels.of(teacher, FixedThreshold(0.8)))

    student = students(teacher.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: through(x, teacher.detach()), student)
    through(student, teacher).backward()
    assert teacher.grad is None


def test_gives_the_same_twice(loss_class: Any) -> None:
    teacher = teacher_logits((2, 3, 20, 20), dtype=torch.float32)
    pseudo = PseudoLabels.of(teacher, FixedThreshold(0.9))
    first, second = (value_and_gradient(loss_class(), students(teacher), pseudo) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_pseudo_labels_of_other_voxels(loss_class: Any) -> None:
    pseudo = PseudoLabels.of(torch.zeros(1, 2, 4, 5), FixedThreshold(0.0))
    with pytest.raises(ValueError, match=r"student_logits has shape \(1, 2, 5, 4\).*\(1, 4, 5\)"):
        loss_class()(torch.zeros(1, 2, 5, 4), pseudo)
    label = torch.full((1, 4, 5), 2)
    wrong = PseudoLabels(label, label.float(), label.bool())
    with pytest.raises(ValueError, match="label 2, but the input has 2 channels"):
        loss_class()(torch.zeros(1, 2, 4, 5), wrong)


def with_option(name: str, value: Any) -> CWBASSLoss:
    options: dict[str, Any] = {name: value}
    return CWBASSLoss(**options)


@pytest.mark.parametrize("option", ["gamma", "boundary_weight"])
def test_a_number_below_zero(option: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be .* at least 0, got -1"):
        with_option(option, -1)


@pytest.mark.parametrize("option", ["normalizer", "operator", "group"])
def test_a_word_that_is_no_option(option: str) -> None:
    # Run-time type checks, where they are on, say it before the package can.
    with pytest.raises((ValueError, TypeError)) as caught:
        with_option(option, "avg")
    assert option in str(caught.value)


def test_says_its_options() -> None:
    for loss in (ConfidenceWeightedLoss(gamma=2, normalizer="all"), PseudoBoundaryLoss()):
        twin = eval(repr(loss), {type(loss).__name__: type(loss)})
        assert repr(twin) == repr(loss)
    for word in ("boundary_weight=0.25", "decay=0.5", "gamma=2.0", "operator='sobel'"):
        assert word in repr(CWBASSLoss(gamma=2, boundary_weight=0.25, decay=0.5, operator="sobel"))


@pytest.mark.compiled  # with type checks on, they complain first
def test_a_label_map_is_no_pseudo_label() -> None:
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    for loss in (ConfidenceWeightedLoss(), PseudoBoundaryLoss(), CWBASSLoss()):
        with pytest.raises(TypeError, match=r"pseudo is Tensor, expected what PseudoLabels\.of"):
            loss(logits, labels)
