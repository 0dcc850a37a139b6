"""Labels to regions and back: against nnU-Net's and MONAI's forms, and what holds for any tree."""

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import CacheDataset, MetaTensor
from monai.transforms import (
    Compose,
    ConvertToMultiChannelBasedOnBratsClasses,
    RandFlipd,
    Transform,
)
from numpy.testing import assert_array_equal

import segloss.transforms
from segloss.label_tree import LabelTree
from segloss.transforms import (
    LabelsToRegions,
    LabelsToRegionsd,
    RegionsToLabels,
    RegionsToLabelsd,
)
from segloss.transforms.nesting import regions_to_labels
from tests.trees import Sketch, sketches

RULES = ["child_wins", "parent_gates", "top_down", "argmax_leaf"]
BRATS = LabelTree({"whole": {"core": ["enhancing"]}}, rest={"whole": "oedema", "core": "necrosis"})
VALUES = {0: "background", 1: "necrosis", 2: "oedema", 4: "enhancing"}


def labels_of(tree: LabelTree, seed: int, shape: tuple[int, ...] = (5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(len(tree.leaves), size=(1, *shape))


def test_brats_regions_are_monais() -> None:
    label = np.random.default_rng(0).choice([0, 1, 2, 4], size=(1, 6, 5, 4))
    found = LabelsToRegions(BRATS, nodes=["core", "whole", "enhancing"], values=VALUES)(label)
    peer = ConvertToMultiChannelBasedOnBratsClasses()(label)
    assert_array_equal(found, np.asarray(peer))
    back = RegionsToLabels(BRATS, nodes=["core", "whole", "enhancing"], values=VALUES)(found)
    assert_array_equal(back, label)


@given(sketches(), st.integers(0, 99))
def test_regions_are_unions_of_leaves(sketch: Sketch, seed: int) -> None:
    tree = sketch.tree()
    label = labels_of(tree, seed)
    regions = LabelsToRegions(tree, nodes=tree.names)(label)
    assert isinstance(regions, np.ndarray)
    for v, region in enumerate(regions):
        inside = [leaf for leaf, within in enumerate(tree.membership[v]) if within]
        assert_array_equal(region, np.isin(label[0], inside))
    assert_array_equal(
        LabelsToRegions(tree)(label),
        regions[[v for v in range(len(tree)) if v not in tree.rest]],
    )


@given(sketches(), st.integers(0, 99), st.sampled_from(RULES), st.booleans())
def test_labels_come_back_by_every_rule(sketch: Sketch, seed: int, rule: str, rests: bool) -> None:
    tree = sketch.tree()
    label = labels_of(tree, seed)
    nodes = tree.names if rests else None
    regions = LabelsToRegions(tree, nodes)(label)
    assert_array_equal(RegionsToLabels(tree, rule, nodes=nodes)(regions), label)


@given(sketches(most=6), st.integers(0, 999), st.sampled_from(RULES), st.booleans())
def test_any_probabilities_give_the_leaf_of_the_plain_definition(
    sketch: Sketch, seed: int, rule: str, rests: bool
) -> None:
    tree = sketch.tree()
    nodes = [v for v in range(len(tree)) if rests or v not in tree.rest]
    regions = np.random.default_rng(seed).random((len(nodes), 4, 5))
    found = RegionsToLabels(tree, rule, 0.6, nodes=[tree.names[v] for v in nodes])(regions)
    for place in np.ndindex(4, 5):
        given_p = {tree.names[v]: float(regions[(c, *place)]) for c, v in enumerate(nodes)}
        expected = tree.index(one_voxel(tree, given_p, rule, 0.6))
        assert tree.leaves[np.asarray(found)[(0, *place)]] == expected


def one_voxel(tree: LabelTree, given_p: dict[str, float], rule: str, limit: float) -> str:
    """The rules as they are explained, for one voxel, by names."""
    rests = {tree.names[v] for v in tree.rest}
    kin = {name: [tree.names[u] for u in tree.children[v]] for v, name in enumerate(tree.names)}
    kin["all"] = [tree.names[v] for v, parent in enumerate(tree.parents) if parent < 0]
    p = {"all": 1.0, **given_p}

    def with_parts(name: str) -> float:
        return max([p[name]] + [with_parts(child) for child in kin[name] if child in p])

    if rule == "child_wins":
        p = {name: with_parts(name) for name in p}
    elif rule != "parent_gates":
        for parent, children in kin.items():
            for rest in set(children) & rests - p.keys():
                others = sum(p[child] for child in children if child != rest)
                p[rest] = max(p[parent] - others, 0)
    if rule == "argmax_leaf":
        return max((tree.names[leaf] for leaf in tree.leaves), key=lambda name: p[name])
    node = "all"
    while kin[node]:
        best = max((child for child in kin[node] if child in p), key=lambda child: p[child])
        left = [child for child in kin[node] if child in rests]
        if rule != "top_down" and p[best] <= limit and left:
            best = left[0]
        node = best
    return node


@given(st.integers(0, 999))
def test_in_a_chain_the_child_wins_as_in_nnunet(seed: int) -> None:
    regions = np.random.default_rng(seed).random((3, 5, 4))
    expected = np.zeros((5, 4))
    for region, label in zip(regions, [1, 2, 3], strict=True):
        expected[region > 0.5] = label
    assert_array_equal(np.asarray(RegionsToLabels(BRATS)(regions))[0], expected)


@given(sketches(), st.integers(0, 99), st.sampled_from(RULES))
def test_what_is_decoded_is_nested(sketch: Sketch, seed: int, rule: str) -> None:
    tree = sketch.tree()
    count = len(tree) - len(tree.rest)
    probabilities = np.random.default_rng(seed).random((count, 4, 5)) if count else None
    if probabilities is None:
        return
    regions = LabelsToRegions(tree, tree.names)(RegionsToLabels(tree, rule)(probabilities))
    regions = np.asarray(regions).astype(int)
    for v, parent in enumerate(tree.parents):
        assert parent < 0 or (regions[v] <= regions[parent]).all()


def test_an_isolated_child() -> None:
    """The enhancing tumour outside the whole one: kept or dropped, by the rule."""
    regions = np.array([0.3, 0.3, 0.9])[:, None, None]
    decoded = {rule: RegionsToLabels(BRATS, rule)(regions).item() for rule in RULES}
    assert decoded == {"child_wins": 3, "parent_gates": 0, "top_down": 0, "argmax_leaf": 3}


def test_unknown_voxels_stay_unknown() -> None:
    label = np.array([[[0, 1, 2, 3, 255]]])
    found = LabelsToRegions(BRATS, ignore=255)(label)
    assert_array_equal(
        np.asarray(found)[:, 0],
        [[0, 1, 1, 1, 255], [0, 0, 1, 1, 255], [0, 0, 0, 1, 255]],
    )
    negative = LabelsToRegions(BRATS, ignore=-1, dtype=torch.int16)(np.array([[[0, -1]]]))
    assert_array_equal(np.asarray(negative)[:, 0, 1], [-1, -1, -1])
    assert np.asarray(negative).dtype == np.int16


def test_a_label_above_a_region_leaves_it_open() -> None:
    """One annotator marked the whole tumour only: whether there is a core in it is unknown."""
    values = {0: "background", 1: "whole", 2: "core"}
    label = np.array([[[0, 1, 2]]])
    found = LabelsToRegions(BRATS, values=values, ignore=255)(label)
    assert_array_equal(np.asarray(found)[:, 0], [[0, 1, 1], [0, 255, 1], [0, 255, 255]])
    coarse = LabelsToRegions(BRATS, nodes=["whole"], values=values)(label)
    assert_array_equal(np.asarray(coarse)[:, 0], [[0, 1, 1]])
    with pytest.raises(
        ValueError, match=r"label 1 stands for 'whole': .* \['core', 'enhancing'\].*ignore=255"
    ):
        LabelsToRegions(BRATS, values=values)(label)


PAIRS: list[Any] = [
    (LabelsToRegions, LabelsToRegionsd, labels_of(BRATS, 0)),
    (RegionsToLabels, RegionsToLabelsd, np.random.default_rng(0).random((3, 5, 4, 3))),
]
EACH = pytest.mark.parametrize(("array", "dictionary", "given"), PAIRS, ids=["to", "from"])


@EACH
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, MetaTensor])
def test_container_comes_back(
    array: Any, dictionary: Any, given: np.ndarray, make: Callable[..., Any]
) -> None:
    expected, found = array(BRATS)(given), array(BRATS)(make(given))
    assert type(found) is type(make(given))
    assert_array_equal(np.asarray(found), expected)
    assert np.asarray(found).dtype == np.uint8
    meta = MetaTensor(given, affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    assert_array_equal(array(BRATS)(meta).affine, meta.affine)


@EACH
def test_dictionary_replaces(array: Any, dictionary: Any, given: np.ndarray) -> None:
    sample = {"label": given.copy(), "image": "image"}
    result = dictionary("label", BRATS)(sample)
    assert_array_equal(result["label"], array(BRATS)(given))
    assert result["image"] == "image"
    assert_array_equal(sample["label"], given)
    assert dictionary("x", BRATS, allow_missing_keys=True)(sample).keys() == sample.keys()
    with pytest.raises(KeyError, match="x"):
        dictionary("x", BRATS)(sample)
    one, other = (inspect.signature(t).parameters for t in (array, dictionary))
    assert other.keys() - one.keys() == {"keys", "allow_missing_keys"}
    assert {k: p.default for k, p in one.items()} == {k: other[k].default for k in one}
    for alias in "D", "Dict":
        assert getattr(segloss.transforms, array.__name__ + alias) is dictionary


@EACH
def test_a_transform_that_pickles_and_caches(
    array: Any, dictionary: Any, given: np.ndarray
) -> None:
    for transform in array(BRATS), dictionary("label", BRATS):
        assert isinstance(transform, Transform)
    twin = pickle.loads(pickle.dumps(array(BRATS)))
    assert_array_equal(twin(given), array(BRATS)(given))
    chain = Compose([dictionary("label", BRATS), RandFlipd("label", prob=1.0)])
    dataset = CacheDataset([{"label": given}], chain, progress=False)
    assert_array_equal(dataset._cache[0]["label"], array(BRATS)(given))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": ["hole"]}, r"no node 'hole'.*did you mean 'whole'"),
        ({"nodes": ["whole", "whole"]}, "each once"),
        ({"nodes": []}, "each once"),
        ({"values": {0: "background", 1: "tumor"}}, "no node 'tumor'"),
        ({"values": {-1: "core"}}, "-1 stands for 'core', but labels are 0 to"),
        ({"values": {255: "core"}, "ignore": 255}, "255 stands for 'core', but is the ignore"),
        ({"ignore": 256}, "dtype uint8 cannot hold the ignore label 256"),
        ({"ignore": -1}, "dtype uint8 cannot hold the ignore label -1"),
        ({"ignore": 9, "dtype": bool}, "dtype bool cannot hold the ignore label 9"),
    ],
)
def test_regions_that_cannot_be_made(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelsToRegions(BRATS, **options)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.full((1, 2, 2), 7), r"holds \[7\], which stand for no node .* 3 \(enhancing\)"),
        (np.zeros((2, 2, 2), int), r"\(2, 2, 2\): expected label values in one channel"),
        (np.full((1, 2, 2), -1), "holds -1: class ids are 0 or more"),
        (np.zeros((2, 2)), "EnsureChannelFirstd"),
    ],
)
def test_labels_that_are_none(label: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelsToRegions(BRATS)(label)


def test_a_label_that_is_not_there_need_not_be_mapped() -> None:
    values = {2: "whole", 5: "enhancing"}
    found = LabelsToRegions(BRATS, nodes=["whole"], values=values, ignore=3)(np.array([[[2, 3]]]))
    assert_array_equal(np.asarray(found)[:, 0], [[1, 3]])
    with pytest.raises(ValueError, match=r"holds \[0\]"):
        LabelsToRegions(BRATS, nodes=["whole"], values=values, ignore=3)(np.array([[[2, 0]]]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "last_wins"}, "rule must be one of .*child_wins.* got 'last_wins'"),
        ({"threshold": 1.0}, "threshold must be a probability below 1, got 1"),
        ({"nodes": ["whole", "enhancing"]}, r"'core' is missing; only a rest .*'oedema'"),
        ({"values": {0: "background"}}, r"one label for each leaf .*'enhancing'"),
        ({"values": {**VALUES, 9: "enhancing"}}, "one label for each leaf"),
        ({"values": {**VALUES, 9: "core"}}, "one label for each leaf .*'core'"),
        ({"values": {**VALUES, 300: "enhancing"}}, "one label for each leaf"),
    ],
)
def test_labels_that_cannot_be_made(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RegionsToLabels(BRATS, **options)


def test_the_function_knows_its_rules() -> None:
    # Run-time type checks, where they are on, say it before the package can.
    with pytest.raises((ValueError, TypeError), match=r"rule.*last_wins"):
        regions_to_labels(np.zeros((3, 2, 2)), BRATS, rule="last_wins")  # type: ignore[arg-type]


def test_above_a_threshold_of_0_whatever_is_possible_counts() -> None:
    regions = np.array([1e-9, 0.0, 0.0])[:, None, None]
    assert RegionsToLabels(BRATS, threshold=0.0)(regions).item() == 1  # the outermost
    assert RegionsToLabels(BRATS)(regions).item() == 0


def test_a_label_that_is_no_integer() -> None:
    with pytest.raises(TypeError, match="a label is an integer, got True"):
        LabelsToRegions(BRATS, nodes=["whole"], values={True: "whole"})


def test_a_dtype_that_cannot_hold_the_labels() -> None:
    far = {0: "background", 1: "necrosis", 2: "oedema", 300: "enhancing"}
    with pytest.raises(ValueError, match="300 does not fit into dtype uint8"):
        RegionsToLabels(BRATS, values=far)
    with pytest.raises(TypeError, match="dtype must hold integers, got float32"):
        RegionsToLabels(BRATS, dtype=torch.float32)


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        (np.zeros((4, 2, 2)), "there are 4 regions, expected 3: whole, core, enhancing"),
        (np.full((3, 2, 2), -3.2), "holds values from -3.2 to -3.2, expected probabilities"),
        (np.full((3, 2, 2), np.nan), "expected probabilities"),
    ],
)
def test_regions_that_are_none(regions: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RegionsToLabels(BRATS)(regions)
