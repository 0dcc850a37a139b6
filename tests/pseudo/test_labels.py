"""Pseudo-labels hold what the teacher says, and nothing that could reach it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss.pseudo import FixedThreshold, PseudoLabels, SigmoidRamp, SoftMatchWeight
from tests.pseudo.teachers import SHAPES, teacher_logits, void_for


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_as_defined(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = teacher_logits(shape, dtype=dtype).requires_grad_()
    void = void_for(logits)
    pseudo = PseudoLabels.of(logits, FixedThreshold(0.8), void=void)
    probability = logits.detach().double().softmax(1)
    confidence, label = probability.max(1)
    assert torch.equal(pseudo.label, label)
    assert pseudo.confidence.dtype == torch.promote_types(dtype, torch.float32)
    assert_close(pseudo.confidence.double(), confidence, rtol=1e-6, atol=0)
    keep = (confidence >= 0.8) & ~void
    assert torch.equal(pseudo.keep, keep)
    assert 0 < keep.sum() < keep.numel()
    assert_close(pseudo.kept.item(), keep.sum().item() / (~void).sum().item())
    assert not any(x.requires_grad for x in vars(pseudo).values() if x is not None)
    for k, share in enumerate(pseudo.kept_by_class(shape[1])):
        of = (label == k) & ~void
        assert_close(share.item(), (keep & of).sum().item() / of.sum().item())


def test_autocast_changes_nothing() -> None:
    logits = teacher_logits((1, 3, 8, 8), dtype=torch.float32)
    expected = PseudoLabels.of(logits, FixedThreshold(0.8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = PseudoLabels.of(logits, FixedThreshold(0.8))
    assert torch.equal(found.confidence, expected.confidence)
    assert torch.equal(found.keep, expected.keep)


def test_a_metatensor_is_a_tensor() -> None:
    from monai.data import MetaTensor

    logits, void = teacher_logits(), void_for(teacher_logits())
    pseudo = PseudoLabels.of(MetaTensor(logits), FixedThreshold(0.8), void=MetaTensor(void))
    expected = PseudoLabels.of(logits, FixedThreshold(0.8), void=void)
    for name in ("label", "confidence", "keep", "void"):
        assert type(getattr(pseudo, name)) is Tensor
        assert torch.equal(getattr(pseudo, name), getattr(expected, name))


def test_nothing_kept_and_nothing_there() -> None:
    logits = teacher_logits()
    everything = torch.ones(2, 6, 5, dtype=torch.bool)
    assert PseudoLabels.of(torch.zeros_like(logits), FixedThreshold(0.95)).kept == 0
    assert PseudoLabels.of(logits, FixedThreshold(0.0)).kept == 1
    nothing = PseudoLabels.of(logits, FixedThreshold(0.0), void=everything)
    assert nothing.kept == nothing.voxels == 0
    assert nothing.kept_by_class(3).isnan().all()


def test_weights_in_place_of_a_threshold() -> None:
    logits, void = teacher_logits(), void_for(teacher_logits())
    rule = SoftMatchWeight(3)
    pseudo = PseudoLabels.of(logits, rule, void=void)
    assert pseudo.weight is not None
    assert torch.equal(pseudo.weight, rule.eval()(logits.softmax(1), void))
    assert torch.equal(pseudo.worth, pseudo.weight)
    assert torch.equal(pseudo.keep, ~void)


def test_any_function_is_a_rule_and_void_voxels_are_not_kept_by_it() -> None:
    logits, void = teacher_logits(), void_for(teacher_logits())

    def rule(probability: Tensor, void: Tensor | None) -> Tensor:
        return probability[:, 0] > 0.5

    pseudo = PseudoLabels.of(logits, rule, void=void)
    assert torch.equal(pseudo.keep, (logits.softmax(1)[:, 0] > 0.5) & ~void)
    with pytest.raises(
        ValueError, match=r"threshold returns has shape \(2, 3, 6, 5\).*\(2, 6, 5\)"
    ):
        PseudoLabels.of(logits, lambda probability, void: probability > 0.5)


def fields(**changed: Any) -> dict[str, Any]:
    label = torch.zeros(1, 2, 2, dtype=torch.int64)
    return {"label": label, "confidence": label.float(), "keep": label.bool(), **changed}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"keep": torch.ones(1, 2, 3, dtype=torch.bool)},
            ValueError,
            r"keep .*\(1, 2, 3\).*2, 2\)",
        ),
        ({"confidence": torch.ones(1, 2, 2).requires_grad_()}, ValueError, "confidence .*detach"),
        ({"label": torch.zeros(1, 2, 2)}, TypeError, "label .*float32.*int64"),
        ({"keep": torch.ones(1, 2, 2)}, TypeError, "keep .*float32.*bool"),
        ({"weight": torch.ones(1, 2, 2, dtype=torch.bool)}, TypeError, "weight .*bool.*floating"),
        ({"void": torch.zeros(1, 2, 2)}, TypeError, "void .*float32.*bool"),
    ],
)
def test_fields_that_are_none(changed: Any, error: type[Exception], message: str) -> None:
    PseudoLabels(**fields())
    with pytest.raises(error, match=message):
        PseudoLabels(**fields(**changed))


def test_logits_that_are_none() -> None:
    rule = FixedThreshold()
    with pytest.raises(ValueError, match=r"teacher_logits has 1 channel.*torch\.cat"):
        PseudoLabels.of(torch.zeros(1, 1, 2, 2), rule)
    logits, void = torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"void has shape \(1, 1, 2, 2\), expected \(1, 2, 2\)"):
        PseudoLabels.of(logits, rule, void=void)
    with pytest.raises(TypeError, match=r"void has dtype torch\.int64, expected torch\.bool"):
        PseudoLabels.of(logits, rule, void=void[:, 0].long())


def test_the_ramp_of_semi_supervised_learning() -> None:
    """The values that the usual code gives at the beginning, half-way and from the end on."""
    ramp = SigmoidRamp(0.0, 0.1, 200)
    found = [ramp(epoch) for epoch in (0, 100, 200, 400)]
    assert found == pytest.approx([0.1 * 0.0067379, 0.1 * 0.2865048, 0.1, 0.1], rel=1e-5)
    rising = [ramp(epoch) for epoch in range(201)]
    assert rising == sorted(rising)
