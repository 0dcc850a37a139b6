"""Partial labels: against the written-down formulas, and the special cases they contain."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax
from torch.testing import assert_close

import segloss.engine.block
from segloss import (
    BoundaryLoss,
    CalibrationErrorLoss,
    CrossEntropyLoss,
    DiceLoss,
    ExclusionLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    HausdorffDTLoss,
    HausdorffLoss,
    JaccardLoss,
    LabelHeads,
    LabelSets,
    LabelSpace,
    LabelTree,
    NullBCELoss,
    RegionProportionLoss,
    RegionWiseLoss,
    TLoss,
    TverskyLoss,
)
from tests.losses.checks import value_and_gradient
from tests.reference import partial
from tests.trees import Sketch, sketches

FLAT = LabelTree({"liver": None, "spleen": None, "kidney": None})
TWO = LabelSpace(
    FLAT,
    {"livers": {0: "others", 1: "liver", 9: "ignore"}, "spleens": {0: "others", 3: "spleen"}},
)
DATASET = torch.tensor([0, 1, 0])


@dataclass(frozen=True)
class Plan:
    """A label space to be, and a batch: data sets with sets of leaves by their label values."""

    sketch: Sketch
    sets: tuple[tuple[frozenset[int], ...], ...]
    seed: int

    def space(self) -> LabelSpace:
        tree = self.sketch.tree()
        meanings = {
            f"set {d}": {2 * value: self._names(tree, leaves) for value, leaves in enumerate(sets)}
            for d, sets in enumerate(self.sets)
        }
        return LabelSpace(tree, meanings)

    @staticmethod
    def _names(tree: LabelTree, leaves: frozenset[int]) -> Any:
        count = len(tree.leaves)
        kept = [tree.names[tree.leaves[leaf]] for leaf in sorted({x % count for x in leaves})]
        return kept if len(kept) < count else "ignore"


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    leaf_sets = st.frozensets(st.integers(0, 9), min_size=1, max_size=3)
    sets = draw(
        st.lists(st.lists(leaf_sets, min_size=1, max_size=4).map(tuple), min_size=1, max_size=3)
    )
    sure = frozenset({draw(st.integers(0, 9))})  # so that every data set tells something
    return Plan(
        draw(sketches(most=6)), tuple((sure, *each) for each in sets), draw(st.integers(0, 99))
    )


@dataclass
class Batch:
    logits: Tensor
    target: Tensor
    weight: Tensor
    maps: dict[str, Tensor]
    sets: partial.LeafSets
    nodes: list[frozenset[int]]


def batch_of(space: LabelSpace, encoding: Any, seed: int, samples: int = 3) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    d = torch.randint(len(space.names), (samples,), generator=rng)
    target = torch.zeros(samples, 4, 5, dtype=torch.long)
    for sample, number in enumerate(d.tolist()):
        values = torch.tensor(sorted(space.leaves(space.names[number])))
        target[sample] = values[torch.randint(len(values), (4, 5), generator=rng)]
    c = len(encoding.channels)
    logits = 2 * torch.randn(samples, c, 4, 5, generator=rng, dtype=torch.float64)
    weight = 2 * torch.rand(samples, 4, 5, generator=rng, dtype=torch.float64)
    return Batch(
        logits,
        target,
        weight,
        {"dataset": d} if len(space.names) > 1 else {},
        [space.leaves(space.names[number]) for number in d.tolist()],
        [leaves_of(space.tree, node) for node in encoding.scored],
    )


def leaves_of(tree: LabelTree, node: int) -> frozenset[int]:
    return frozenset(i for i, leaf in enumerate(tree.leaves) if node in tree.ancestors(leaf))


def same(loss: Any, batch: Batch, expected: Callable[[Tensor], Tensor], **maps: Tensor) -> None:
    """Value and gradient are those of the formula."""
    found = value_and_gradient(loss, batch.logits, batch.target, **batch.maps, **maps)
    formula = value_and_gradient(lambda z, *_: expected(z), batch.logits)
    assert_close(found, formula, rtol=1e-9, atol=1e-11)


def node_probabilities(logits: Tensor, nodes: list[frozenset[int]]) -> Tensor:
    p = logits.double().flatten(2).softmax(1)
    return torch.stack([p[:, sorted(node)].sum(1) for node in nodes], 1)


@given(plans())
def test_cross_entropy_is_minus_log_of_the_set(plan: Plan) -> None:
    space = plan.space()
    batch = batch_of(space, LabelSets(space), plan.seed)
    loss = CrossEntropyLoss(LabelSets(space))
    written = partial.label_set_cross_entropy
    same(loss, batch, lambda z: written(z, batch.target, batch.sets))
    same(
        loss,
        batch,
        lambda z: written(z, batch.target, batch.sets, batch.weight),
        weight=batch.weight,
    )


@given(plans(), st.booleans())
def test_dice_is_of_the_nodes_that_are_labelled(plan: Plan, heads: bool) -> None:
    space = plan.space()
    encoding: Any = LabelHeads(space) if heads else LabelSets(space)
    batch = batch_of(space, encoding, plan.seed)

    def written(z: Tensor) -> tuple[Tensor, Tensor]:
        softly = isinstance(encoding, LabelSets)
        p = node_probabilities(z, batch.nodes) if softly else z.flatten(2).sigmoid()
        return partial.dice_of_nodes(
            p, batch.target, batch.sets, batch.nodes, len(space.tree.leaves), 1e-5
        )

    def mean(z: Tensor) -> Tensor:
        scores, valid = written(z)
        return (scores * valid).sum() / max(int(valid.sum()), 1) + 0 * z.sum()

    same(DiceLoss(encoding), batch, mean)
    found = DiceLoss(encoding, reduction="none")(batch.logits, batch.target, **batch.maps)
    scores, valid = written(batch.logits)
    assert_close(found, scores * valid)


@given(plans())
def test_exclusion_is_as_written(plan: Plan) -> None:
    space = plan.space()
    tree = space.tree
    counted = [v not in tree.rest for v in range(len(tree))]
    if not any(counted):
        return
    encoding = LabelSets(space)
    batch = batch_of(space, encoding, plan.seed)
    target, sets, nodes = batch.target, batch.sets, batch.nodes
    same(
        ExclusionLoss(encoding),
        batch,
        lambda z: partial.exclusion_log(z, target, sets, nodes, counted) + 0 * z.sum(),
    )
    if all((~partial.possible(target, sets, len(tree.leaves)).all(1)).any(1)):
        same(
            ExclusionLoss(encoding, mode="dice"),
            batch,
            lambda z: partial.exclusion_dice(z, target, sets, nodes, counted, 1e-5),
        )


@given(plans())
def test_the_null_cross_entropy_is_as_written(plan: Plan) -> None:
    space = plan.space()
    encoding = LabelHeads(space)
    if not encoding.channels:
        return
    batch = batch_of(space, encoding, plan.seed)

    def written(z: Tensor) -> tuple[Tensor, Tensor]:
        leaves = len(space.tree.leaves)
        return partial.null_bce(z, batch.target, batch.sets, batch.nodes, leaves)

    def mean(z: Tensor) -> Tensor:
        means, classes = written(z)
        return (means * classes).sum() / classes.sum().clamp(min=1) + 0 * z.sum()

    def total(z: Tensor) -> Tensor:
        means, classes = written(z)
        return (means * classes).mean() + 0 * z.sum()

    same(NullBCELoss(encoding), batch, mean)
    same(NullBCELoss(encoding, classes="sum"), batch, total)
    same(
        NullBCELoss(encoding, classes="sum", group="sample", reduction="sum"),
        batch,
        lambda z: total(z) * len(z),
    )


# What the one formula contains.


def test_labels_of_single_leaves_are_the_ordinary_cross_entropy() -> None:
    meanings = {i: FLAT.names[leaf] for i, leaf in enumerate(FLAT.leaves)}
    encoding = LabelSets(LabelSpace(FLAT, {"all": meanings}))
    batch = batch_of(encoding.space, encoding, 0)
    same(CrossEntropyLoss(encoding), batch, lambda z: cross_entropy(z, batch.target))


def test_a_merged_background_is_the_marginal_loss() -> None:
    """Probabilities are added, as in the paper; its code adds logits, and finds 5.007 here."""
    space = LabelSpace(FLAT, {"kidneys": {0: "others", 1: "kidney"}})
    logits = torch.tensor([5.0, 0, -5, -5]).view(1, 4, 1, 1)
    p = softmax(logits, 1)
    merged = torch.cat([p[:, :3].sum(1, keepdim=True), p[:, 3:]], 1)
    expected = cross_entropy(merged.log(), torch.zeros(1, 1, 1, dtype=torch.long))
    found = CrossEntropyLoss(LabelSets(space))(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    assert_close(found, expected, atol=1e-6, rtol=0)
    assert found < 0.01
    dice = DiceLoss(LabelSets(space), reduction="none")
    target = torch.ones(1, 1, 1, dtype=torch.long)
    scores = dice(logits, target)[0]
    labelled = space.labelled("kidneys")
    assert [FLAT.names[v] for v in labelled] == ["kidney"]
    assert_close(scores[3], 1 - 2 * p[0, 3, 0, 0] / (p[0, 3, 0, 0] + 1), atol=1e-4, rtol=0)
    assert scores[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("loss_class", [CrossEntropyLoss, DiceLoss, ExclusionLoss, FocalLoss])
def test_what_is_ignored_costs_exactly_nothing(loss_class: Any) -> None:
    loss = loss_class(LabelSets(TWO))
    logits = (30 * torch.randn(2, 4, 6, 5)).requires_grad_()
    target = torch.full((2, 6, 5), 9)
    value = loss(logits, target, dataset=torch.tensor([0, 0]))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_unknown_voxels_change_nothing() -> None:
    encoding = LabelSets(TWO)
    batch = batch_of(TWO, encoding, 1)
    known = batch.target[:, :2]
    for loss in (CrossEntropyLoss(encoding), DiceLoss(encoding), ExclusionLoss(encoding)):
        target = torch.full_like(batch.target, 9)
        target[:, :2] = known
        first = torch.zeros(len(target), dtype=torch.long)
        target[target == 3] = 1
        whole = loss(batch.logits, target, dataset=first)
        assert_close(loss(batch.logits[:, :, :2], target[:, :2], dataset=first), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_class_that_is_not_labelled_is_as_if_it_were_not_there(dtype: torch.dtype) -> None:
    """Bit for bit: the other heads learn as in a network without it, and it learns nothing."""
    with_kidney = LabelHeads(LabelSpace(FLAT, {"a": {0: "others", 1: "liver", 2: "spleen"}}))
    without = LabelTree({"liver": None, "spleen": None})
    smaller = LabelHeads(LabelSpace(without, {"a": {0: "others", 1: "liver", 2: "spleen"}}))
    rng = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 3, 16, 17, 5, generator=rng)).to(dtype)
    target = torch.randint(3, (2, 16, 17, 5), generator=rng)
    for make in (CrossEntropyLoss, NullBCELoss, DiceLoss, JaccardLoss, TverskyLoss, FocalLoss):
        value, gradient = value_and_gradient(make(with_kidney), logits, target)
        expected, of_two = value_and_gradient(make(smaller), logits[:, :2], target)
        assert_close(value, expected)
        assert torch.equal(gradient[:, :2], of_two), make
        assert not gradient[:, 2].any(), make


def test_each_sample_teaches_what_its_data_set_labels() -> None:
    encoding = LabelHeads(TWO)
    batch = batch_of(TWO, encoding, 3)
    maps = {"dataset": torch.tensor([0, 1, 0])}
    target = torch.randint(2, (3, 4, 5)) * torch.tensor([1, 3, 1])[:, None, None]
    for make in (CrossEntropyLoss, NullBCELoss, DiceLoss):
        _, gradient = value_and_gradient(make(encoding), batch.logits, target, **maps)
        taught = gradient.abs().sum((2, 3)) > 0
        assert taught.tolist() == [[True, False, False], [False, True, False], [True, False, False]]


def test_the_mean_is_over_what_is_labelled() -> None:
    """A wrong liver costs the same whether or not other samples look for it."""
    encoding = LabelHeads(TWO)
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 0] = -20
    target = torch.ones(2, 4, 4, dtype=torch.long)
    alone = DiceLoss(encoding)(logits[:1], target[:1], dataset=torch.tensor([0]))
    assert_close(alone, torch.tensor(1.0))
    target[1], logits[1, 1] = 3, 20
    both = DiceLoss(encoding)(logits, target, dataset=torch.tensor([0, 1]))
    assert_close(both, torch.tensor(0.5))
    batch = DiceLoss(encoding, group="batch")(logits, target, dataset=torch.tensor([0, 1]))
    assert_close(batch, torch.tensor(0.5))


@pytest.mark.parametrize(
    "make",
    [
        DiceLoss,
        CalibrationErrorLoss,
        RegionProportionLoss,
        TLoss,
        BoundaryLoss,
        HausdorffLoss,
        HausdorffDTLoss,
        RegionWiseLoss,
    ],
    ids=lambda x: x.__name__,
)
def test_a_mean_of_scores_is_of_those_that_are_known(make: Any) -> None:
    encoding = LabelHeads(TWO)
    batch = batch_of(TWO, encoding, 3)
    given_, maps = (batch.logits, batch.target), dict(batch.maps)
    scored = make(encoding, group="sample", reduction="none")
    if "distance" in scored.request.maps | scored.reads:
        maps["distance"] = torch.randn_like(batch.logits)
    scores = scored(*given_, **maps)
    known = torch.arange(3) == batch.maps["dataset"][:, None]  # a node for each data set
    assert (scores[known] != 0).all() and not scores[~known].any()
    mean = make(encoding, group="sample")(*given_, **maps)
    assert_close(mean, scores[known].mean())


def test_what_is_found_of_an_absent_class_is_averaged_over_what_is_labelled() -> None:
    loss = GeneralizedDiceLoss(LabelHeads(TWO), empty="penalise")
    logits, nothing = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    found = loss(logits, nothing, dataset=torch.tensor([0]))
    assert_close(found, logits[:, 0].sigmoid().mean())


def test_channels_may_be_permuted() -> None:
    turned = LabelTree({"kidney": None, "liver": None, "spleen": None})
    datasets = {name: dict(TWO_MEANINGS[name]) for name in TWO.names}
    one, other = LabelSets(TWO), LabelSets(LabelSpace(turned, datasets))
    batch = batch_of(TWO, one, 5)
    order = [one.channels.index(name) for name in other.channels]
    for make in (CrossEntropyLoss, DiceLoss, ExclusionLoss):
        value, gradient = value_and_gradient(make(one), batch.logits, batch.target, **batch.maps)
        again, turned_gradient = value_and_gradient(
            make(other), batch.logits[:, order], batch.target, **batch.maps
        )
        assert_close(again, value)
        assert_close(turned_gradient, gradient[:, order])


TWO_MEANINGS: dict[str, dict[int, Any]] = {
    "livers": {0: "others", 1: "liver", 9: "ignore"},
    "spleens": {0: "others", 3: "spleen"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [CrossEntropyLoss, DiceLoss, ExclusionLoss, FocalLoss])
def test_huge_logits(make: Any, dtype: torch.dtype) -> None:
    encoding = LabelSets(TWO)
    batch = batch_of(TWO, encoding, 2)
    logits = (1e4 * batch.logits.sign()).to(dtype)
    value, gradient = value_and_gradient(make(encoding), logits, batch.target, **batch.maps)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "make", [CrossEntropyLoss, DiceLoss, ExclusionLoss, GeneralizedDiceLoss, FocalLoss]
)
@pytest.mark.parametrize("encoding", [LabelSets(TWO), LabelHeads(TWO)], ids=["sets", "heads"])
def test_blocks_change_nothing(make: Any, encoding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if make is ExclusionLoss and isinstance(encoding, LabelHeads):
        return
    batch = batch_of(TWO, encoding, 4)
    whole = value_and_gradient(make(encoding), batch.logits, batch.target, **batch.maps)
    monkeypatch.setattr(segloss.engine.block, "_CPU", 60)
    parts = value_and_gradient(make(encoding), batch.logits, batch.target, **batch.maps)
    assert_close(parts, whole)


def test_a_compound_of_partial_losses() -> None:
    encoding = LabelSets(TWO)
    loss = CrossEntropyLoss(encoding) + DiceLoss(encoding) + 0.5 * ExclusionLoss(encoding)
    batch = batch_of(TWO, encoding, 6)
    total = loss(batch.logits, batch.target, **batch.maps)
    each = [term(batch.logits, batch.target, **batch.maps) for term in loss.losses.values()]
    assert_close(total, each[0] + each[1] + 0.5 * each[2])


def test_class_weights_are_those_of_the_nodes_a_label_names() -> None:
    encoding = LabelSets(TWO)
    logits, target = torch.randn(1, 4, 2, 2), torch.tensor([[[1, 1], [0, 0]]])
    cross = CrossEntropyLoss(encoding, class_weight=[1, 5, 2, 3])  # background, liver, ...
    p = logits.softmax(1)
    m = -torch.where(target == 1, p[:, 1], p[:, 0] + p[:, 2] + p[:, 3]).log()
    w = torch.where(target == 1, 5.0, 2.0)  # 2 is the mean of 1, 2 and 3
    found = cross(logits, target, dataset=torch.tensor([0]))
    assert_close(found, (w * m).sum() / w.sum())


# What is held wrong is told so.


def test_the_data_set_is_asked_for() -> None:
    loss, logits = CrossEntropyLoss(LabelSets(TWO)), torch.zeros(2, 4, 3, 3)
    target = torch.zeros(2, 3, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"the dataset map is missing: .* LabelSpace\.number"):
        loss(logits, target)
    with pytest.raises(ValueError, match="dataset holds label 2, but the data sets are livers, sp"):
        loss(logits, target, dataset=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="dataset holds label -1"):
        loss(logits, target, dataset=torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"dataset has shape \(2, 2\), expected \(2,\)"):
        loss(logits, target, dataset=torch.tensor([[0, 1], [0, 1]]))
    single = CrossEntropyLoss(LabelSets(LabelSpace(FLAT, {"a": {0: "others", 1: "liver"}})))
    assert single(logits, target).isfinite()
    with pytest.raises(ValueError, match="no term of the loss reads the map 'dataset'"):
        single(logits, target, dataset=torch.tensor([0, 1]))


@pytest.mark.parametrize("label", [1, 2, 9])
def test_a_label_that_stands_for_nothing(label: int) -> None:
    """Known in one data set, it may be unknown in the other."""
    target = torch.zeros(2, 3, 3, dtype=torch.uint8)
    target[1, 1, 1] = label
    with pytest.raises(
        ValueError, match=rf"target holds labels \[{label}\], which stand .*spleens has 0, 3"
    ):
        CrossEntropyLoss(LabelSets(TWO))(
            torch.zeros(2, 4, 3, 3), target, dataset=torch.tensor([0, 1])
        )


def test_a_label_beyond_all() -> None:
    target = torch.full((1, 3, 3), 200)
    with pytest.raises(ValueError, match=r"target holds label 200.*livers has 0, 1, 9"):
        DiceLoss(LabelSets(TWO))(torch.zeros(1, 4, 3, 3), target, dataset=torch.tensor([0]))


def test_channels_that_contradict_the_tree() -> None:
    maps = {"dataset": torch.tensor([0])}
    target = torch.zeros(1, 3, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"5 channels, but LabelSets needs 4.*background, liver"):
        DiceLoss(LabelSets(TWO))(torch.zeros(1, 5, 3, 3), target, **maps)
    with pytest.raises(ValueError, match=r"4 channels, but LabelHeads needs 3.*: liver, spleen"):
        DiceLoss(LabelHeads(TWO))(torch.zeros(1, 4, 3, 3), target, **maps)


def test_losses_that_need_another_encoding() -> None:
    with pytest.raises(TypeError, match="encoding"):
        ExclusionLoss(LabelHeads(TWO))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="encoding"):
        NullBCELoss(LabelSets(TWO))  # type: ignore[arg-type]
    for wrong in ({"mode": "linear"}, {"group": "all"}):
        with pytest.raises((ValueError, TypeError), match=r"linear|all"):
            ExclusionLoss(LabelSets(TWO), **wrong)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match="median"):
        NullBCELoss(LabelHeads(TWO), classes="median")  # type: ignore[arg-type]
