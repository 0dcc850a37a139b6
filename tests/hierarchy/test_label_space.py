"""What label values stand for, and what is refused before the first step of a training."""

import pickle
from typing import Any

import pytest

from segloss import LabelSpace, LabelTree

TREE = LabelTree({"liver": {"tumour": None}, "spleen": None})


def names(tree: LabelTree, leaves: frozenset[int]) -> set[str]:
    return {tree.names[tree.leaves[leaf]] for leaf in leaves}


def test_every_way_to_say_it() -> None:
    space = LabelSpace(
        TREE,
        {
            "all": {0: "background", 1: "rest of liver", 2: "tumour", 3: "spleen"},
            "organs": {7: "liver", 0: ["background", "spleen"], 255: "ignore"},
            "tumours": {0: "others", 1: ["rest of liver", "spleen"], 2: "tumour"},
        },
    )
    assert [names(TREE, s) for s in space.leaves("all").values()] == [
        {"background"},
        {"rest of liver"},
        {"tumour"},
        {"spleen"},
    ]
    organs = {value: names(TREE, s) for value, s in space.leaves("organs").items()}
    assert organs == {
        0: {"background", "spleen"},
        7: {"rest of liver", "tumour"},
        255: {"background", "rest of liver", "tumour", "spleen"},
    }
    assert names(TREE, space.leaves("tumours")[0]) == {"background"}
    assert [space.number(name) for name in space.names] == [0, 1, 2]


def test_a_node_is_labelled_where_labels_make_it_up() -> None:
    space = LabelSpace(
        TREE,
        {
            "parts": {0: "others", 1: "rest of liver", 2: "tumour"},
            "whole": {0: "others", 1: "liver", 9: "ignore"},
            "coarse and fine": {0: "others", 1: "liver", 2: "tumour"},
            "tumours": {0: "others", 1: "tumour"},
        },
    )
    labelled = {name: {TREE.names[node] for node in space.labelled(name)} for name in space.names}
    assert labelled == {
        "parts": {"liver", "rest of liver", "tumour"},
        "whole": {"liver"},
        "coarse and fine": {"liver", "tumour"},
        "tumours": {"tumour"},
    }


def test_a_space_is_a_value() -> None:
    given = {"a": {0: "others", 1: "liver"}}
    space, twin = LabelSpace(TREE, given), LabelSpace(TREE, given)
    given["a"][2] = "spleen"
    assert space == twin == pickle.loads(pickle.dumps(space))
    assert hash(space) == hash(twin)
    assert space != LabelSpace(TREE, given)
    assert 2 not in space.leaves("a")


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({}, "datasets is empty"),
        ({"a": {}}, "a: no label tells anything"),
        ({"a": {0: "ignore"}}, "a: no label tells anything"),
        ({"a": {0: "background", 1: "lifer"}}, r"a: label 1: there is no node 'lifer'.*'liver'"),
        ({"a": {0: "background", 1: []}}, "a: label 1 stands for nothing"),
        ({"a": {-1: "ignore", 1: "liver"}}, "a: label -1 is not from 0 to 65535"),
        ({"a": {0: ["background", "ignore"]}}, "a: label 0: 'ignore' cannot be one of several"),
        ({"a": {0: ["others", "spleen"]}}, "a: label 0: 'others' cannot be one of several"),
        (
            {"a": {0: "others", 1: "background", 2: "liver", 3: "spleen"}},
            "a: label 0 stands for all others, but the other labels stand for every leaf",
        ),
    ],
)
def test_what_stands_for_nothing(datasets: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelSpace(TREE, datasets)


def test_what_is_no_space() -> None:
    with pytest.raises(TypeError, match="a label value is an integer, got True"):
        LabelSpace(TREE, {"a": {True: "liver"}})
    for word in ("ignore", "others"):
        with pytest.raises(ValueError, match=f"a node '{word}', which means something else"):
            LabelSpace(LabelTree({word: None}), {"a": {0: "background"}})
    with pytest.raises(ValueError, match="no data set 'kits'; there are a, b"):
        LabelSpace(TREE, {"a": {0: "liver"}, "b": {0: "liver"}}).number("kits")


def test_comes_back_from_its_repr() -> None:
    given: Any = {"a": {0: "others", 1: "b", 2: ["c", "d"]}, "e": {0: "d", 1: "ignore"}}
    space = LabelSpace(LabelTree({"b": None, "c": None, "d": None}), given)
    assert eval(repr(space)) == space


def test_labels_without_values_are_named() -> None:
    listed: Any = {"livers": ["background", "liver"]}
    with pytest.raises(TypeError, match="livers"):
        LabelSpace(TREE, listed)
