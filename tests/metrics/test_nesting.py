"""The nesting violation: against the plain definition, and MONAI's habits."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch.testing import assert_close

from segloss.label_tree import LabelTree
from segloss.metrics import NestingViolation
from segloss.transforms import LabelsToRegions, RegionsToLabels
from tests.trees import Sketch, sketches

BRATS = LabelTree({"whole": {"core": ["enhancing"]}})


@given(sketches(), st.integers(0, 99))
def test_it_is_the_plain_definition(sketch: Sketch, seed: int) -> None:
    tree = sketch.tree()
    if max(tree.parents) < 0:
        return
    pred = torch.rand(2, len(tree), 3, 4, 2, generator=torch.Generator().manual_seed(seed))
    pred = pred ** torch.arange(1, len(tree) + 1)[:, None, None, None]  # often nested
    expected = torch.zeros(2, 1)
    for sample, *place in np.ndindex(2, 3, 4, 2):
        p = pred[(sample, slice(None), *place)].tolist()
        broken = any(
            p[v] - p[parent] > 1e-6 for v, parent in enumerate(tree.parents) if parent >= 0
        )
        expected[sample] += broken / 24
    assert_close(torch.as_tensor(NestingViolation(tree, tree.names)(pred)), expected)


@given(sketches(), st.integers(0, 99))
def test_decoded_labels_break_nothing(sketch: Sketch, seed: int) -> None:
    tree = sketch.tree()
    regions = [v for v in range(len(tree)) if v not in tree.rest]
    if not any(tree.parents[v] in regions for v in regions):
        return
    pred = torch.rand(len(regions), 4, 5, generator=torch.Generator().manual_seed(seed))
    metric = NestingViolation(tree)
    metric([torch.as_tensor(LabelsToRegions(tree)(RegionsToLabels(tree)(pred)))])
    assert_close(metric.aggregate(), torch.zeros(1))


def test_a_node_in_between_may_have_no_channel() -> None:
    pred = torch.tensor([[[[0.5, 0.5]], [[0.7, 0.3]]]])
    found = NestingViolation(BRATS, ["whole", "enhancing"])(pred)
    assert_close(found, torch.tensor([[0.5]]))
    turned = NestingViolation(BRATS, ["enhancing", "whole"])(pred.flip(1))
    assert_close(turned, torch.tensor([[0.5]]))


def test_rounding_is_no_violation() -> None:
    pred = torch.tensor([0.5, 0.5 + 5e-7, 0.5]).reshape(1, 3, 1, 1)
    assert NestingViolation(BRATS)(pred).item() == 0  # type: ignore[union-attr]
    assert NestingViolation(BRATS, tolerance=0)(pred).item() == 1  # type: ignore[union-attr]


def test_monai_s_habits() -> None:
    rng = torch.Generator().manual_seed(0)
    batches = [torch.rand(n, 3, 6, 5, 4, generator=rng) for n in (2, 3)]
    metric = NestingViolation(BRATS, get_not_nans=True, reduction="mean_batch")
    scores = torch.cat([torch.as_tensor(metric(batch)) for batch in batches])
    value, counted = metric.aggregate()
    assert scores.shape == (5, 1)
    assert_close(value, scores.mean(0))
    assert counted.item() == 5
    assert_close(metric.aggregate("none")[0], scores)
    metric.reset()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="call the metric on a batch first"):
        metric.aggregate()
    masks = batches[0] > 0.5
    expected = torch.as_tensor(NestingViolation(BRATS)(masks.float()))
    for kind in (masks, masks.byte(), masks.bfloat16(), MetaTensor(masks), list(masks)):
        assert_close(torch.as_tensor(NestingViolation(BRATS)(kind)), expected)


@pytest.mark.parametrize(
    ("tree", "options", "words"),
    [
        (LabelTree({"a": None, "b": None}), {}, "nothing is nested"),
        (BRATS, {"nodes": ["whole"]}, "none of the nodes .*'whole'.* is part of another"),
        (BRATS, {"nodes": ["whole", "hole"]}, "no node 'hole'"),
        (BRATS, {"nodes": ["whole", "whole"]}, "each once"),
        (BRATS, {"tolerance": -1e-3}, "tolerance must .* at least 0, got -0.001"),
        (BRATS, {"reduction": "avg"}, "'avg' is not a valid MetricReduction"),
    ],
)
def test_what_cannot_be_measured(tree: LabelTree, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NestingViolation(tree, **options)


def test_what_is_no_prediction() -> None:
    metric = NestingViolation(BRATS)
    with pytest.raises(ValueError, match=r"\(1, 4, 5, 5\), expected \(B, 3, .*whole, core, enh"):
        metric(torch.zeros(1, 4, 5, 5))
    with pytest.raises(ValueError, match=r"from -2 to -2, expected probabilities"):
        metric(torch.full((1, 3, 5, 5), -2.0))
    with pytest.raises(ValueError, match="y is not used"):
        metric(torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 5, 5))
