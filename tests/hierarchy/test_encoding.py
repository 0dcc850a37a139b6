"""Trees as encodings: ordinary losses score every node, against definitions in float64."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss import (
    BoundaryLoss,
    ConditionalSigmoid,
    CrossEntropyLoss,
    DiceLoss,
    ExclusionLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    LabelSets,
    LabelSpace,
    LabelTree,
    LeafSoftmax,
    MaxConstraint,
    MultiLevelActivation,
    SkeletonRecallLoss,
    SquaredDiceLoss,
    Tree,
)
from segloss.engine import block
from segloss.engine.sums import Request, dense_sums, one_pass
from segloss.engine.voxel import CrossEntropy, Focal, VoxelSum
from tests.hierarchy.test_activations import defined
from tests.hierarchy.trees import BARE, BRATS, NESTED, SEVEN, WIDE, tree_batch, with_inner_labels
from tests.reference import trees as reference

IGNORED = 255
ENCODINGS: list[Any] = [
    Tree(tree, activation, labels=labels(tree), ignore=ignore)
    for tree, activations in ((WIDE, NESTED), (BARE, NESTED), (BRATS, (MultiLevelActivation(4.0),)))
    for activation in activations
    for labels, ignore in ((lambda tree: None, None), (with_inner_labels, IGNORED))
]


def named(encoding: Tree) -> str:
    labels = "leaves" if encoding.labels is None else "all labels"
    return f"{encoding.activation}-{len(encoding.tree)} nodes-{labels}"


each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=named)


def spelt_out(encoding: Tree, z: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Probabilities, memberships and weights of all nodes, and the weight of the voxels."""
    tree = encoding.tree
    counts = weight.clone()
    if encoding.ignore is not None:
        counts[target == encoding.ignore] = 0
        target = target.masked_fill(target == encoding.ignore, 0)
    true, known = reference.memberships(tree.parents, list(encoding.named), target)
    return defined(encoding.activation, z, tree), true, known * counts[:, None], counts, target


def check(found: Tensor, expected: Tensor, z: Tensor, relative: float = 1e-9) -> None:
    """Value and gradient."""
    assert_close(found, expected, rtol=relative, atol=1e-12)
    pull = torch.linspace(1, 2, found.numel(), dtype=torch.float64).reshape(found.shape)
    (gradient,) = torch.autograd.grad((found * pull).sum(), z, retain_graph=True)
    (slope,) = torch.autograd.grad((expected * pull).sum(), z, retain_graph=True)
    assert_close(gradient, slope, rtol=relative, atol=1e-3 * relative)


@each_encoding
def test_dice_of_every_node(encoding: Tree) -> None:
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    found = DiceLoss(encoding, reduction="none")(z, batch.target, weight=batch.weight)
    p, true, weight, _, _ = spelt_out(encoding, z, batch.target, batch.weight)
    check(found, reference.node_dice(p, true, weight), z)


@each_encoding
def test_cross_entropy_of_the_label(encoding: Tree) -> None:
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    found = CrossEntropyLoss(encoding)(z, batch.target, weight=batch.weight)
    p, true, weight, counts, target = spelt_out(encoding, z, batch.target, batch.weight)
    tree = encoding.tree
    if isinstance(encoding.activation, MaxConstraint):
        every = -(true * p.log() + (1 - true) * (1 - p).log())
        check(found, (weight * every).sum() / weight.sum(), z)
        return
    if isinstance(encoding.activation, ConditionalSigmoid):
        known = (weight > 0).double()
        voxels = reference.heads_cross_entropy(z, tree.parents, tree.rest, true, known)
    else:
        voxels = reference.label_cross_entropy(p, list(encoding.named), target)
    check(found, (counts * voxels).sum() / counts.sum(), z)


@pytest.mark.parametrize(
    "encoding", [e for e in ENCODINGS if isinstance(e.activation, LeafSoftmax)], ids=named
)
def test_focal_loss_and_class_weights(encoding: Tree) -> None:
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    alpha = [float(1 + v % 3) for v in range(len(encoding.tree))]
    loss = FocalLoss(encoding, gamma=1.5, class_weight=alpha)
    p, _, _, counts, target = spelt_out(encoding, z, batch.target, torch.ones_like(batch.weight))
    m = reference.label_cross_entropy(p, list(encoding.named), target)
    share = counts * torch.tensor(alpha, dtype=torch.float64)[torch.tensor(encoding.named)[target]]
    expected = (share * (1 - (-m).exp()) ** 1.5 * m).sum() / share.sum()
    check(loss(z, batch.target), expected, z)


def test_a_softmax_over_leaves_is_a_softmax() -> None:
    """Labels that are all leaves: the cross entropy is PyTorch's."""
    batch = tree_batch(Tree(WIDE))
    expected = torch.nn.functional.cross_entropy(batch.logits, batch.target)
    assert_close(CrossEntropyLoss(Tree(WIDE))(batch.logits, batch.target), expected)


NAMES = ("count", "true", "overlap", "pred", "pred_squared", "pred_squared_true", "true_squared")


@each_encoding
def test_all_sums_at_once_in_blocks_are_the_dense_ones(
    encoding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_CPU", 120)
    v = len(encoding.tree)
    alpha = tuple(1.0 + i for i in range(v))
    terms = [VoxelSum(Focal(2.0), alpha, "node"), VoxelSum(CrossEntropy(), of="node")]
    if encoding.joint:
        terms += [VoxelSum(CrossEntropy(), alpha, "step"), VoxelSum(Focal(2.0), alpha)]
    batch = tree_batch(encoding)
    maps = {"weight": batch.weight, "distance": torch.randn(2, v, 6, 5, dtype=torch.float64)}
    names = (*NAMES, "error^1.5", "pred*distance", "distance")
    for request in (
        Request((*names, "confusion", "tally"), tuple(terms)),
        Request(names, (VoxelSum(CrossEntropy()),)),
    ):
        z = batch.logits.requires_grad_()
        encoded = encoding.encode(z, batch.target, maps)
        results = [one_pass(encoded, request), dense_sums(encoded, request)]
        flat = [torch.cat([*map(torch.flatten, s.values()), v.flatten()]) for s, v in results]
        assert_close(*flat)
        pull = torch.randn(flat[0].shape, dtype=torch.float64)
        assert_close(*(torch.autograd.grad(x, z, pull)[0] for x in flat))


@each_encoding
def test_sums_that_are_not_linear_by_their_definition(encoding: Any) -> None:
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    distance = torch.randn(2, len(encoding.tree), 6, 5, dtype=torch.float64)
    maps = {"weight": batch.weight, "distance": distance}
    request = Request(("pred_squared", "error^2", "pred*distance", "distance"))
    sums, _ = one_pass(encoding.encode(z, batch.target, maps), request)
    p, true, weight, _, _ = spelt_out(encoding, z, batch.target, batch.weight)
    for name, each in {
        "pred_squared": p**2,
        "error^2": (p - true) ** 2,
        "pred*distance": p * distance,
        "distance": distance + 0 * p,
    }.items():
        check(sums[name], (weight * each).sum((2, 3)), z)


@each_encoding
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_finite_far_out(encoding: Any, dtype: torch.dtype) -> None:
    loss = DiceLoss(encoding) + CrossEntropyLoss(encoding) + FocalLoss(encoding, gamma=0.5)
    batch = tree_batch(encoding, scale=1e4, dtype=dtype)
    z = batch.logits.requires_grad_()
    value = loss(z, batch.target)
    value.backward()
    assert z.grad is not None
    assert value.dtype == torch.float32 and value.isfinite()
    assert z.grad.dtype == dtype and z.grad.isfinite().all()


@each_encoding
def test_decoding_cannot_break_the_nesting(encoding: Any) -> None:
    logits = tree_batch(encoding, scale=8).logits
    labels = encoding.decode(logits)
    assert labels.shape == (2, 1, 6, 5) and labels.dtype == torch.int64
    own = [*encoding.tree.leaves]
    regions = torch.tensor(encoding.tree.membership)[:, labels[:, 0]].movedim(0, 1)
    for node, parent in enumerate(encoding.tree.parents):
        if parent >= 0:
            assert not (regions[:, node] & ~regions[:, parent]).any()
    p = encoding.probabilities(logits)
    assert_close(p, defined(encoding.activation, logits, encoding.tree))
    assert torch.equal(p[:, own].gather(1, labels), p[:, own].amax(1, keepdim=True))


def test_a_super_class_says_nothing_of_what_is_inside() -> None:
    """Voxels known to be in the organ only: no gradient flows between what it holds."""
    tree = LabelTree({"organ": ["left", "right"]})
    encoding = Tree(tree, labels=["background", "organ"])
    logits = torch.randn(1, 3, 4, 4, dtype=torch.float64).requires_grad_()
    labels = torch.ones(1, 4, 4, dtype=torch.long)
    loss = DiceLoss(encoding) + CrossEntropyLoss(encoding)
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    pi = logits.detach().softmax(1)
    assert_close(gradient[:, 1] * pi[:, 2], gradient[:, 2] * pi[:, 1])
    sums, _ = one_pass(encoding.encode(logits, labels, {}), Request(("count",)))
    assert sums["count"].tolist() == [[16, 16, 0, 0]]


def test_a_label_that_could_be_anything_costs_nothing() -> None:
    """All of the tree is ignored: 0, with a gradient of 0."""
    for encoding in (e for e in ENCODINGS if e.ignore is not None):
        logits = tree_batch(encoding).logits.requires_grad_()
        labels = torch.full((2, 6, 5), IGNORED)
        value = (DiceLoss(encoding) + CrossEntropyLoss(encoding))(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == 0 and not gradient.any()


def test_other_losses_score_nodes_too() -> None:
    encoding = Tree(SEVEN)
    batch = tree_batch(encoding)
    v = len(SEVEN)
    maps = {
        "skeleton": torch.rand(2, v, 6, 5) < 0.3,
        "distance": torch.randn(2, v, 6, 5),
    }
    for loss, names in (
        (JaccardLoss, ()),
        (GeneralizedDiceLoss, ()),
        (SkeletonRecallLoss, ("skeleton",)),
        (BoundaryLoss, ("distance",)),
    ):
        value = loss(encoding)(batch.logits, batch.target, **{k: maps[k] for k in names})
        assert value.isfinite()
    none = SkeletonRecallLoss(encoding, reduction="none")
    score = none(batch.logits, batch.target, skeleton=maps["skeleton"])
    p = defined(LeafSoftmax(), batch.logits, SEVEN)
    tube = maps["skeleton"].double()
    expected = 1 - ((p * tube).sum((2, 3)) + 1e-5) / (tube.sum((2, 3)) + 1e-5)
    assert_close(score, expected)


def test_samples_do_not_see_each_other() -> None:
    for encoding in ENCODINGS:
        batch = tree_batch(encoding)
        loss = DiceLoss(encoding, reduction="none")
        whole = loss(batch.logits, batch.target)
        assert_close(whole[1:], loss(batch.logits[1:], batch.target[1:]))


@each_encoding
def test_is_a_value(encoding: Any) -> None:
    import segloss

    assert (
        eval(repr(encoding), {name: getattr(segloss, name) for name in segloss.__all__}) == encoding
    )
    assert pickle.loads(pickle.dumps(encoding)) == encoding
    assert len({encoding, pickle.loads(pickle.dumps(encoding))}) == 1


def test_what_does_not_fit_is_refused_with_names() -> None:
    with pytest.raises(ValueError, match="no node 'cor' in the tree: did you mean 'core'"):
        Tree(BRATS, labels=["background", "cor"])
    with pytest.raises(ValueError, match="labels is empty"):
        Tree(BRATS, labels=[])
    with pytest.raises(ValueError, match="no chain"):
        Tree(WIDE, MultiLevelActivation())
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"3 channels.*needs 4.*background, rest of whole"):
        DiceLoss(Tree(BRATS))(torch.zeros(1, 3, 4, 4), labels)
    with pytest.raises(ValueError, match=r"label 4.*names 4 labels.*0 to 3.*ignore=4"):
        DiceLoss(Tree(BRATS))(torch.zeros(1, 4, 4, 4), labels + 4)
    with pytest.raises(ValueError, match=r"skeleton map.*expected \(1, 6, 4, 4\).*each node"):
        SkeletonRecallLoss(Tree(BRATS))(torch.zeros(1, 4, 4, 4), labels, skeleton=labels)
    with pytest.raises(ValueError, match="class_weight has 4 numbers, expected 6"):
        DiceLoss(Tree(BRATS), class_weight=[1.0] * 4)(torch.zeros(1, 4, 4, 4), labels)
    with pytest.raises(ValueError, match=r"target has shape \(1, 5, 4\)"):
        DiceLoss(Tree(BRATS))(torch.zeros(1, 4, 4, 4), torch.zeros(1, 5, 4))


def test_trains_after_a_validation_in_inference_mode() -> None:
    """The first call makes tensors that are kept; training must be able to save them."""
    tree = LabelTree({"validated": {"before": None}})
    space = LabelSpace(tree, {"data": {0: "others", 1: "before"}})
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(2, (1, 4, 4))
    for loss in (SquaredDiceLoss(Tree(tree)), ExclusionLoss(LabelSets(space))):
        with torch.inference_mode():
            expected = loss(logits, labels)
        found = loss(logits.requires_grad_(), labels)
        found.backward()
        assert_close(found.detach(), expected.clone())


def test_what_is_no_tree_is_named() -> None:
    nested: Any = {"liver": None}
    of_class: Any = LeafSoftmax
    for make, word in (
        (lambda: Tree(nested), "tree"),
        (lambda: Tree(LabelTree(nested), of_class), "activation"),
        (lambda: LabelSets(nested), "space"),
    ):
        with pytest.raises(TypeError, match=word):
            make()


def test_thresholds_may_be_a_list() -> None:
    tree, depth = LabelTree({"a": {"b": None}}), torch.randn(1, 1, 4, 4)
    listed, fixed = ([-1.0, 1.0], (-1.0, 1.0))
    of_list, of_tuple = (Tree(tree, MultiLevelActivation(thresholds=x)) for x in (listed, fixed))
    assert of_list == of_tuple
    assert_close(of_list.probabilities(depth), of_tuple.probabilities(depth))
