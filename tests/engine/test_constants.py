"""Class weights on a device."""

import torch

from segloss import CrossEntropyLoss, DiceLoss
from segloss.engine.constants import constant
from tests.losses.checks import value_and_gradient
from tests.strategies import make_batch


def test_are_copied_once_for_each_type() -> None:
    like = torch.zeros(1)
    assert constant((0.5, 7.0), like) is constant((0.5, 7.0), like)
    assert constant((0.5, 7.0), like.double()).dtype == torch.float64


def test_what_validation_made_serves_training() -> None:
    weights = [0.25, 1.0, 3.5]  # of no other test
    loss = DiceLoss(class_weight=weights) + CrossEntropyLoss(class_weight=weights)
    batch = make_batch()
    with torch.inference_mode():
        before = loss(batch.logits, batch.target)
    value, gradient = value_and_gradient(loss, batch.logits, batch.target)
    assert value == before
    assert gradient.any()
