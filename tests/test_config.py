"""Losses from plain data: names, lists, mappings, YAML, bundles."""

from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    CompoundLoss,
    Constant,
    Cosine,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HierarchicalDiceCELoss,
    LabelTree,
    Linear,
    Multiclass,
    Multilabel,
    SkeletonRecallLoss,
    Step,
    Tree,
    build,
)
from segloss.catalogue import CATALOGUE
from tests.strategies import make_batch

TREE = Tree(LabelTree({"liver": {"tumour": None}}))


def test_a_name_is_that_loss() -> None:
    assert repr(build("dice")) == repr(DiceLoss())
    assert repr(build("boundary")) == repr(BoundaryLoss())


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_name_can_be_built(name: str) -> None:
    entry = CATALOGUE[name]
    if entry.needs:
        with pytest.raises(TypeError, match=f"losses: .*{entry.needs[0]}"):
            build(name)
    else:
        assert type(build(name)) is entry.loss
        assert list(build({name: 1}).losses) == [name]
        assert list(build([name]).losses) == [name]


def test_a_mapping_is_a_compound_with_its_names_weights_and_options() -> None:
    found = build(
        {
            "dice": 1,
            "skeleton_recall": {"weight": 0.5, "smooth_nr": 0},
            "hard": {"loss": "focal", "gamma": 3.0, "encoding": "multilabel"},
            "cross_entropy": {},
        }
    )
    expected = CompoundLoss(
        {
            "dice": DiceLoss(),
            "skeleton_recall": (0.5, SkeletonRecallLoss(smooth_nr=0)),
            "hard": FocalLoss(Multilabel(), gamma=3.0),
            "cross_entropy": CrossEntropyLoss(),
        }
    )
    assert repr(found) == repr(expected)


def test_a_list_is_a_sum() -> None:
    found = build(["dice", {"loss": "dice", "weight": 2, "group": "batch"}, "cross_entropy"])
    expected = DiceLoss() + 2.0 * DiceLoss(group="batch") + CrossEntropyLoss()
    assert repr(found) == repr(expected)
    batch = make_batch()
    assert_close(found(batch.logits, batch.target), expected(batch.logits, batch.target))


@pytest.mark.parametrize(
    ("given", "schedule"),
    [
        ({"linear": [0.0, 1.0, 500]}, Linear(0.0, 1.0, 500)),
        ({"cosine": {"start": 1.0, "end": 0.5, "steps": 10}}, Cosine(1.0, 0.5, 10)),
        ({"step": [1.0, 0.5, 10]}, Step(1.0, 0.5, 10)),
        ({"constant": 0.25}, Constant(0.25)),
        (Linear(0.0, 1.0, 3), Linear(0.0, 1.0, 3)),
    ],
)
def test_a_weight_may_follow_a_schedule(given: Any, schedule: Any) -> None:
    found = build({"dice": 1.0, "boundary": {"weight": given}})
    assert repr(found) == repr(
        CompoundLoss({"dice": DiceLoss(), "boundary": (schedule, BoundaryLoss())})
    )


@pytest.mark.parametrize(
    ("given", "encodings"),
    [
        (None, [Multiclass(), Multiclass(background=False)]),
        ("multiclass", [Multiclass(), Multiclass(background=False)]),
        (
            {"multiclass": {"ignore": 255}},
            [Multiclass(ignore=255), Multiclass(background=False, ignore=255)],
        ),
        ({"multiclass": {"background": True}}, [Multiclass(), Multiclass()]),
        (Multiclass(ignore=255), [Multiclass(ignore=255), Multiclass(ignore=255)]),
        ({"multilabel": {"ignore": 2}}, [Multilabel(ignore=2), Multilabel(ignore=2)]),
    ],
    ids=str,
)
def test_what_an_encoding_does_not_say_stays_as_the_loss_has_it(
    given: Any, encodings: list[Any]
) -> None:
    found = build(["dice", "skeleton_recall"], encoding=given)
    assert [loss.encoding for loss in found.losses.values()] == encodings


def test_a_term_may_have_an_encoding_of_its_own() -> None:
    found = build(
        {"dice": 1, "focal": {"encoding": Multilabel()}},
        encoding={"multiclass": {"background": False}},
    )
    assert [loss.encoding for loss in found.losses.values()] == [
        Multiclass(background=False),
        Multilabel(),
    ]


def test_a_tree_is_told_its_encoding() -> None:
    assert repr(build("hierarchical_dice_ce", TREE)) == repr(HierarchicalDiceCELoss(TREE))


YAML = """
encoding: {multiclass: {ignore: 255}}
losses:
  dice: 1
  cross_entropy: {weight: 0.5}
  thin: {loss: skeleton_recall, smooth_nr: 0}
  boundary: {weight: {linear: [0, 1, 500]}}
"""


def test_from_yaml() -> None:
    found: Any = build(**yaml.safe_load(YAML))
    assert list(found.losses) == ["dice", "cross_entropy", "thin", "boundary"]
    assert found.weights == {"dice": 1, "cross_entropy": 0.5, "thin": 1, "boundary": 0}
    assert {loss.encoding.ignore for loss in found.losses.values()} == {255}


def test_from_a_bundle() -> None:
    parser = ConfigParser(
        {
            "loss": {
                "_target_": "segloss.build",
                "losses": {
                    "dice": 1,
                    "skeleton_recall": {
                        "weight": {"_target_": "segloss.Linear", "start": 0, "end": 1, "steps": 2}
                    },
                    "hierarchical_dice_ce": {"encoding": "@tree"},
                },
            },
            "tree": {
                "_target_": "segloss.Tree",
                "tree": {"_target_": "segloss.LabelTree", "nested": {"liver": {"tumour": None}}},
            },
        }
    )
    found: Any = parser.get_parsed_content("loss")
    assert [type(loss) for loss in found.losses.values()] == [
        DiceLoss,
        SkeletonRecallLoss,
        HierarchicalDiceCELoss,
    ]
    found.step()
    assert found.weights["skeleton_recall"] == 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dise": 1}, "dise: loss 'dise' is not known: did you mean 'dice'"),
        (["DiceLoss"], r"losses\[0\]: loss 'DiceLoss' is not known: did you mean 'dice'"),
        ({"x": {"weight": 1}}, "x: loss 'x' is not known: it is none of dice, "),
        ({"x": {"loss": "dice", "smoth_nr": 1}}, "x: option 'smoth_nr' .*did you mean 'smooth_nr'"),
        ({"dice": {"gamma": 1}}, "dice: option 'gamma' .*none of encoding, group, "),
        ({"dice": {"smooth_nr": -1}}, "dice: smooth_nr must be a number of at least 0, got -1"),
        ({"dice": -1}, "dice: weight must be a number of at least 0, got -1"),
        ({"dice": None}, "dice: weight must be a number of at least 0, got None"),
        ({"dice": "cross_entropy"}, "dice: weight must be a number .*got 'cross_entropy'"),
        ({"dice": {"weight": {"liner": [0, 1, 2]}}}, "dice: weight: schedule 'liner' .*'linear'"),
        ({"dice": {"weight": {"linear": [0, 1, 0]}}}, "dice: weight: steps must be at least 1"),
        ({"dice": {"encoding": "multilable"}}, "dice: encoding 'multilable' .*'multilabel'"),
        ({}, "losses is empty"),
    ],
    ids=str,
)
def test_what_is_not_understood(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dice": {"weight": {"linear": [0, 1]}}}, "dice: weight: .*steps"),
        ({"dice": {"weight": {"linear": [0, 1, 2], "step": []}}}, "dice: weight must be a mapping"),
        ({"dice": {"encoding": {"multiclass": {"ignor": 1}}}}, "dice: .*ignor"),
        ({"dice": {"encoding": {"multiclass": 255}}}, "dice: encoding 'multiclass' must .*got 255"),
        (
            {"hierarchical_dice_ce": {"encoding": "multiclass"}},
            "(?s)hierarchical_dice_ce: .*encoding",
        ),
        (3, "losses"),
    ],
    ids=str,
)
def test_what_is_of_the_wrong_kind(given: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        build(given)


def test_numbers_may_be_numpys_or_tensors() -> None:
    assert build({"dice": torch.tensor(0.5)}).weights == {"dice": 0.5}
