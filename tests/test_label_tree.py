"""Label trees: what they say about their nodes, where they come from, and what they refuse."""

import json
import pickle
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloss.label_tree import LabelTree
from tests.trees import Sketch, sketches

BRATS = {"whole tumour": {"tumour core": {"enhancing tumour": None}}}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def links(tree: LabelTree) -> dict[str, str | None]:
    """Each node's parent, by name."""
    above = [None if parent < 0 else tree.names[parent] for parent in tree.parents]
    return dict(zip(tree.names, above, strict=True))


def way_up(above: dict[str, str | None], name: str) -> list[str]:
    parent = above[name]
    return [name] + ([] if parent is None else way_up(above, parent))


@given(sketches())
def test_a_tree_agrees_with_itself(sketch: Sketch) -> None:
    tree = sketch.tree()
    above = links(tree)
    ways = [way_up(above, name) for name in tree.names]
    ends = [v for v, name in enumerate(tree.names) if name not in above.values()]
    assert list(tree.leaves) == ends
    assert len(tree) == len(tree.names) == len(set(tree.names))
    for v, name in enumerate(tree.names):
        assert tree.index(name) == v
        assert tree.parents[v] < v
        assert [tree.names[u] for u in tree.ancestors(v)] == ways[v]
        assert [tree.names[u] for u in tree.descendants(v)] == [
            tree.names[u] for u in range(len(tree)) if name in ways[u]
        ]
        assert [tree.names[u] for u in tree.children[v]] == [n for n in above if above[n] == name]
        assert tree.membership[v] == tuple(name in ways[leaf] for leaf in ends)
        assert len(tree.children[v]) != 1
        assert any(tree.membership[v])
    # The children of a node share its leaves out among them, and so do the nodes at the top.
    for family in [tuple(v for v, p in enumerate(tree.parents) if p < 0), *tree.children]:
        shared = [sum(column) for column in zip(*(tree.membership[v] for v in family))]  # noqa: B905
        assert set(shared) <= {0, 1}
    assert {v for v in tree.rest if tree.children[v]} == set()


@given(sketches())
def test_it_can_be_written_down(sketch: Sketch) -> None:
    tree = sketch.tree()
    for twin in eval(repr(tree)), pickle.loads(pickle.dumps(tree)):
        assert twin == tree
        assert hash(twin) == hash(tree)
        assert twin.membership == tree.membership
    lines = str(tree).splitlines()
    assert len(lines) == len(tree)
    labels = [line.rpartition(" = ")[2] for line in lines if " = " in line]
    assert sorted(map(int, labels)) == list(range(len(tree.leaves)))


def test_a_rest_is_made_where_a_child_is_alone() -> None:
    tree = LabelTree(BRATS)
    assert links(tree) == {
        "background": None,
        "whole tumour": None,
        "rest of whole tumour": "whole tumour",
        "tumour core": "whole tumour",
        "rest of tumour core": "tumour core",
        "enhancing tumour": "tumour core",
    }
    assert [tree.names[v] for v in tree.rest] == [
        n for n in tree.names if n[:4] in ("rest", "back")
    ]
    assert [tree.names[v] for v in tree.leaves] == [
        "background",
        "rest of whole tumour",
        "rest of tumour core",
        "enhancing tumour",
    ]


def test_a_rest_has_the_name_it_is_given() -> None:
    named = LabelTree({"fibre": ["axon"]}, rest={"fibre": "myelin"})
    listed = LabelTree({"fibre": ["myelin", "axon"]}, rest={"fibre": "myelin"})
    assert named == listed
    assert named.names == ("background", "fibre", "myelin", "axon")
    assert named.rest == (0, 2)
    plain = LabelTree({"fibre": ["myelin", "axon"]})
    assert plain.rest == (0,)
    assert plain != listed
    several = LabelTree({"liver": ["tumour", "vessel"]}, rest={"liver": "parenchyma"})
    assert several.names[2:] == ("parenchyma", "tumour", "vessel")


def test_the_background_stands_where_it_is_put() -> None:
    last = LabelTree({"liver": None, "air": None}, background="air")
    assert last.names == ("liver", "air")
    assert last.rest == (1,)
    without = LabelTree({"liver": None, "air": None}, background=None)
    assert without.names == ("liver", "air")
    assert without.rest == ()


def test_nodes_keep_the_order_they_are_given_in() -> None:
    names, parents = ["a", "b", "c", "d", "e", "f"], [-1, -1, 0, 1, 0, 1]
    tree = LabelTree.from_parents(names, parents, background=None)
    assert list(tree.names) == names
    assert list(tree.parents) == parents
    nested = LabelTree({"a": ["c", "e"], "b": ["d", "f"]}, background=None)
    assert links(nested) == links(tree)


def test_yaml_says_what_a_mapping_says(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text("whole tumour:\n  tumour core:\n    enhancing tumour:\neye: [lens, retina]\n")
    expected = LabelTree({**BRATS, "eye": ["lens", "retina"]})
    assert LabelTree.from_yaml(path) == expected
    path.write_text("fibre: {axon: {}}")
    named = LabelTree.from_yaml(str(path), rest={"fibre": "myelin"}, background="outside")
    assert named.names == ("outside", "fibre", "myelin", "axon")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("liver: a\nliver: b", "'liver' stands there twice"),
        ("liver: [a", "cannot be read as YAML"),
        ("- liver", r"holds \['liver'\]: expected a mapping"),
        ("", "holds None: expected a mapping"),
        ("liver: &a {tumour: *a}", "part of itself|recursive"),
    ],
)
def test_yaml_that_is_no_tree(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        LabelTree.from_yaml(path)


def test_the_labels_of_nnunet_are_those_of_the_leaves(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {**REGIONS, "ignore": 4}}))
    tree = LabelTree.from_nnunet(path)
    assert tree == LabelTree.from_nnunet({"labels": REGIONS})
    assert {name: parent for name, parent in links(tree).items() if parent} == {
        "core": "whole",
        "rest of whole": "whole",
        "rest of core": "core",
        "enhancing": "core",
    }
    for name, labels in REGIONS.items():
        members = set(labels) if isinstance(labels, list) else {labels}
        inside = tree.membership[tree.index(name)]
        assert {leaf for leaf, within in enumerate(inside) if within} == members
    flat = LabelTree.from_nnunet({"labels": {"background": 0, "liver": 2, "spleen": 1}})
    assert flat.names == ("background", "spleen", "liver")


@given(sketches(background=True))
def test_regions_of_any_tree_are_that_tree(sketch: Sketch) -> None:
    """Each node as nnU-Net writes it, in any order, gives the same nested sets of leaves."""
    tree = sketch.tree()
    sets = {
        name: [leaf for leaf, within in enumerate(inside) if within]
        for name, inside in zip(tree.names, tree.membership, strict=True)
    }
    inner = {name: labels for name, labels in reversed(sets.items()) if name != "background"}
    labels = {"background": tree.leaves.index(tree.index("background")), **inner}
    found = LabelTree.from_nnunet({"labels": labels})
    assert links(found) == links(tree)
    for name in tree.names:
        assert found.membership[found.index(name)] == tree.membership[tree.index(name)]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "x": [1, 2], "y": [2, 3]}, r"'x' and 'y' share the labels \[2\]"),
        ({"background": 0, "x": [1, 2], "y": [2, 1]}, "'x' and 'y' have the same labels"),
        ({"background": 0, "x": 1, "y": 3}, r"without a gap, got \[0, 1, 3\]"),
        ({"x": 1}, '"labels" must be like'),
        ({"background": 0, "x": []}, "gives .* for 'x', expected a label or several"),
        ({"background": 0, "x": "1"}, "gives '1' for 'x'"),
        ({"background": 0}, "expected two nodes or more"),
    ],
)
def test_regions_that_are_no_tree(labels: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelTree.from_nnunet({"labels": labels})


@given(sketches(), st.data())
def test_distances_are_those_along_the_tree(sketch: Sketch, data: st.DataObject) -> None:
    tree = sketch.tree()
    step = {name: data.draw(st.sampled_from([0.5, 1.0, 3.0])) for name in tree.names}
    matrix = tree.distance_matrix(step)
    above = links(tree)
    ends = [tree.names[leaf] for leaf in tree.leaves]
    length = {}
    for one, other in combinations(ends, 2):
        up, down = way_up(above, one), way_up(above, other)
        length[one, other] = sum(step[v] for v in up if v not in down)
        length[one, other] += sum(step[v] for v in down if v not in up)
    inside = [value for pair, value in length.items() if "background" not in pair] or [1.0]
    for (i, one), (j, other) in combinations(enumerate(ends), 2):
        expected = 1.0 if "background" in (one, other) else length[one, other] / max(inside)
        assert matrix[i][j] == matrix[j][i] == pytest.approx(expected)
    assert all(matrix[i][i] == 0 for i in range(len(ends)))
    assert max(map(max, matrix)) == 1


def test_distances_that_are_none() -> None:
    tree = LabelTree({"eye": ["lens", "retina"]})
    with pytest.raises(ValueError, match="'lens' has -1, expected a number from 0"):
        tree.distance_matrix({"lens": -1})
    with pytest.raises(ValueError, match="'lens' has nan"):
        tree.distance_matrix({"lens": float("nan")})
    with pytest.raises(ValueError, match=r"no node 'retine' .* did you mean 'retina'"):
        tree.distance_matrix({"retine": 1})
    with pytest.raises(ValueError, match="all steps between the leaves have length 0"):
        tree.distance_matrix({"lens": 0, "retina": 0})


@pytest.mark.parametrize(
    ("nested", "options", "words"),
    [
        ({"a": {"b": {"a": None}}}, {}, "'a' is part of itself: a > b > a"),
        ({"a": ["x"], "b": ["x"]}, {}, "'x' comes twice"),
        ({"a": ["x", "x"]}, {}, "'x' comes twice"),
        ({" ": None}, {}, "the name of a node is empty: ' '"),
        ({}, {}, "at its top: expected two nodes or more"),
        ({"a": ["b", "c"]}, {"background": None}, r"\['a'\] at its top"),
        ({"a": ["b"]}, {"rest": None}, "'a' has a single child, 'b', and would be the same"),
        ({"a": ["b"], "c": ["d"]}, {"rest": {"a": "x"}}, "'c' has a single child, 'd'"),
        ({"a": ["b"]}, {"rest": {"a": "b"}}, "'a' has a single child, 'b'"),
        ({"a": ["b", "c"]}, {"rest": {"b": "x"}}, "'b' is a leaf"),
        ({"liver": ["b", "c"]}, {"rest": {"lifer": "x"}}, "did you mean 'liver'"),
        ({"a": ["b"], "c": ["d"]}, {"rest": {"a": "x", "c": "x"}}, "'x' comes twice"),
        ({"a": {"b": ["c", "d"]}}, {"rest": {"a": "b"}}, "'b' is to hold what is left over, but"),
        ({"a": ["background", "c"]}, {}, "'background' comes twice"),
    ],
)
def test_what_is_no_tree(nested: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelTree(nested, **options)


@pytest.mark.parametrize(
    ("nested", "words"),
    [
        ({1: None}, "must be text, got 1: quote"),
        ({"a": [1, 2]}, "must be text, got 1"),
        ({"a": [{"b": ["c"]}]}, "children that have children of their own are a mapping"),
        ({"a": "b"}, "'a' has 'b', expected a mapping or a list"),
        ({"a": 3}, "'a' has 3, expected a mapping or a list"),
    ],
)
def test_what_is_no_name(nested: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        LabelTree(nested)


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ([-1, 0], "there are 3 names but 2 parents"),
        ([1, 2, 0], "'a' is part of itself: 'a' < 'b' < 'c' < 'a'"),
        ([-1, 1, 0], "'b' is part of itself: 'b' < 'b'"),
        ([1, 2, 1], "the parent of 'a', 'b', comes after it"),
        ([2, -1, -1], "the parent of 'a', 'c', comes after it: put parents before"),
        ([1, 7, 0], "the parent of 'b' is number 7, expected -1 .none. to 2"),
        ([-2, 0, 0], "the parent of 'a' is number -2"),
    ],
)
def test_parents_that_are_none(parents: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelTree.from_parents(["a", "b", "c"], parents)


def test_a_tree_does_not_change() -> None:
    tree = LabelTree(BRATS)
    with pytest.raises(AttributeError):
        tree.names = ()  # type: ignore[misc]
    assert len({tree, LabelTree(BRATS)}) == 1
    with pytest.raises(ValueError, match=r"no node 'enhancing' .*: did you mean"):
        tree.index("enhancing")


def test_a_large_tree_is_quick() -> None:
    """A chain five hundred deep: as bad as trees come."""
    chain = [-1, *range(500)]
    tree = LabelTree.from_parents([str(v) for v in range(501)], chain)
    assert len(tree.leaves) == 502
    assert tree.descendants(1) == tuple(range(1, len(tree)))


def test_it_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, segloss.label_tree; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "monai"} & set(loaded)
