"""What callers pass by mistake is told so by the name of the argument, whatever it is."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from segloss import CompoundLoss, CrossEntropyLoss, DiceLoss, build
from segloss.arguments import (
    above_zero,
    all_above_zero,
    fraction,
    not_negative,
    number,
    numbers,
    whole,
)
from segloss.pseudo import CWBASSLoss, SemiSupervisedLoss


@pytest.mark.parametrize("check", [number, not_negative, above_zero, fraction])
@pytest.mark.parametrize("wrong", ["0.5", None, [0.5], math.nan, math.inf, -math.inf])
def test_what_is_no_number(check: Callable[[str, Any], float], wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^rate must be a .*number.*, got "):
        check("rate", wrong)


@pytest.mark.parametrize("check", [number, not_negative, above_zero, fraction])
@pytest.mark.parametrize("half", [0.5, np.float32(0.5), torch.tensor(0.5)])
def test_a_number_of_any_kind_is_a_float(check: Callable[[str, Any], float], half: Any) -> None:
    found = check("rate", half)
    assert type(found) is float
    assert found == 0.5


def test_a_number_out_of_range() -> None:
    for check, wrong in ((not_negative, -1), (above_zero, 0), (fraction, 1.5), (fraction, -0.5)):
        with pytest.raises(ValueError, match=f"rate must .* got {wrong}"):
            check("rate", wrong)


@pytest.mark.parametrize("wrong", [2.5, math.nan, "3", None, torch.tensor(3.0), 0, -1])
def test_what_counts_nothing(wrong: Any) -> None:
    with pytest.raises(ValueError, match="bins must be a whole number of at least 1, got "):
        whole("bins", wrong)


def test_whole_numbers_of_any_kind_are_ints() -> None:
    for three in (3, np.int64(3), torch.tensor(3)):
        assert type(whole("bins", three)) is int
    assert whole("iterations", 0, least=0) == 0


@pytest.mark.parametrize("check", [numbers, all_above_zero])
def test_one_number_is_no_list(check: Callable[[str, Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"class_weight must be a list of numbers, got 2\.0"):
        check("class_weight", 2.0)


def test_numbers_that_yaml_takes_for_text() -> None:
    with pytest.raises(ValueError, match=r"'1e-5', which is text: YAML takes 1\.0e-5"):
        not_negative("smooth_nr", "1e-5")


def test_a_loss_is_no_weight_and_a_weight_is_finite() -> None:
    two: Any = CrossEntropyLoss()
    with pytest.raises(TypeError, match="weight must be a number or a schedule"):
        DiceLoss() * two
    with pytest.raises(ValueError, match="a weight must be a finite number, got nan"):
        math.nan * DiceLoss()
    text: Any = "2"
    for make in (lambda: CWBASSLoss(decay=text), lambda: SemiSupervisedLoss(two, two, weight=text)):
        with pytest.raises(TypeError, match=r"decay|weight"):
            make()
    triple: Any = [(1.0, 2.0, DiceLoss())]
    with pytest.raises(TypeError):  # here, or by run-time type checks
        CompoundLoss(triple)


@pytest.mark.parametrize("wrong", [{"cross_entropy": 0.5}, {"weight": 0.5}])
def test_an_entry_of_a_list_names_its_loss(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"losses\[1\] must be a name, or a mapping"):
        build(["dice", wrong])
