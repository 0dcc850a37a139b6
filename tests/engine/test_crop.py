"""Boxes cut out of a batch: where they lie, and what is in them."""

from random import Random
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from segloss.engine.crop import cropped, draw_box
from segloss.engine.sums import Request, one_pass
from tests.strategies import ENCODINGS, make_batch


def test_a_box_lies_anywhere_in_the_image() -> None:
    draw = Random(0)
    boxes = [draw_box((2, 3), (4, 3), draw, None) for _ in range(100)]
    assert {(rows.start, rows.stop) for rows, _ in boxes} == {(0, 2), (1, 3), (2, 4)}
    assert {(columns.start, columns.stop) for _, columns in boxes} == {(0, 3)}


def test_a_box_is_around_one_of_the_voxels_and_within_the_image() -> None:
    around, draw = torch.zeros(9, 8, dtype=torch.bool), Random(0)
    around[0, 0] = around[4, 3] = around[8, 7] = True
    boxes = {
        tuple((side.start, side.stop) for side in draw_box((3, 4), (9, 8), draw, around.flatten()))
        for _ in range(100)
    }
    assert boxes == {((0, 3), (0, 4)), ((3, 6), (1, 5)), ((6, 9), (4, 8))}
    nowhere = draw_box((3, 4), (9, 8), Random(1), torch.zeros(72, dtype=torch.bool))
    assert nowhere == draw_box((3, 4), (9, 8), Random(1), None)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_a_batch_of_boxes_is_the_batch_cut_by_hand(encoding: Any, soft: bool) -> None:
    batch = make_batch(encoding, shape=(2, 3, 5, 6), soft=soft)
    boxes = [(slice(0, 3), slice(2, 6)), (slice(2, 5), slice(0, 4))]
    whole = encoding.encode(batch.logits, batch.target, {"weight": batch.weight})

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row[(..., *box)] for row, box in zip(x, boxes, strict=True)])

    parts = {"weight": by_hand(batch.weight)}
    expected = encoding.encode(by_hand(batch.logits), by_hand(batch.target), parts)
    request = Request(("pred", "overlap", "count"))
    assert_close(one_pass(cropped(whole, (5, 6), boxes), request), one_pass(expected, request))
