"""The losses of trees against their definitions in float64, and against each other."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.testing import assert_close

import segloss
from segloss import (
    ConditionalSigmoid,
    CrossEntropyLoss,
    DiceLoss,
    GeneralizedWassersteinDiceLoss,
    HierarchicalCrossEntropyLoss,
    HierarchicalDiceCELoss,
    LabelTree,
    LeafSoftmax,
    MaxConstraint,
    MaxConstraintLoss,
    Multiclass,
    MultiLevelActivation,
    Tree,
    TreeMinLoss,
)
from tests.hierarchy.test_activations import defined
from tests.hierarchy.test_encoding import ENCODINGS, check, named, spelt_out
from tests.hierarchy.trees import BRATS, WIDE, tree_batch
from tests.losses.checks import value_and_gradient
from tests.reference import trees as reference
from tests.test_contract import DYNAMO

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=named)
JOINT = [e for e in ENCODINGS if e.joint]
CONSTRAINED = [e for e in ENCODINGS if e.activation == MaxConstraint("max")]


def weights(encoding: Any) -> list[float]:
    return [0.5 + v % 3 for v in range(len(encoding.tree))]


@each_encoding
@pytest.mark.parametrize("weighted", [False, True])
def test_dice_and_marginal_cross_entropy(encoding: Any, weighted: bool) -> None:
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    alpha = weights(encoding) if weighted else None
    loss = HierarchicalDiceCELoss(
        encoding, cross_entropy="marginal", lambda_ce=0.5, class_weight=alpha, group="batch"
    )
    p, true, weight, _, _ = spelt_out(encoding, z, batch.target, batch.weight)
    share = torch.tensor(alpha or [1.0] * len(encoding.tree), dtype=torch.float64)
    joined = [x.movedim(1, 0).flatten(1)[None] for x in (p, true, weight)]  # one long sample
    scores = reference.node_dice(joined[0], joined[1], joined[2])
    dice = (scores * share).sum() / share.sum()
    entropy = -(true * p.log() + (1 - true) * (1 - p).log())
    of_nodes = weight * share.view(1, -1, 1, 1)
    expected = dice + 0.5 * (of_nodes * entropy).sum() / of_nodes.sum()
    # The plain 1 - p has few digits left where the difference of two levels is close to 1.
    check(loss(z, batch.target, weight=batch.weight), expected, z, relative=1e-5)


@pytest.mark.parametrize("encoding", JOINT, ids=named)
def test_conditional_cross_entropy_is_that_of_the_label(encoding: Any) -> None:
    """All steps together are the way to the label."""
    batch = tree_batch(encoding)
    loss = HierarchicalDiceCELoss(encoding, lambda_dice=0, group="batch")
    same = CrossEntropyLoss(encoding), HierarchicalCrossEntropyLoss(encoding, alpha=0)
    found = value_and_gradient(loss, batch.logits, batch.target)
    for other in same:
        assert_close(found, value_and_gradient(other, batch.logits, batch.target))
    both = loss + DiceLoss(encoding, group="batch")
    together = HierarchicalDiceCELoss(encoding, group="batch")
    assert_close(
        value_and_gradient(both, batch.logits, batch.target),
        value_and_gradient(together, batch.logits, batch.target),
    )


@pytest.mark.parametrize(
    "encoding", [e for e in JOINT if not isinstance(e.activation, ConditionalSigmoid)], ids=named
)
def test_steps_weighted_by_height(encoding: Any) -> None:
    tree, batch = encoding.tree, tree_batch(encoding)
    z = batch.logits.requires_grad_()
    heights = [0] * len(tree)
    for leaf in tree.leaves:
        for up, node in enumerate(tree.ancestors(leaf)):
            heights[node] = max(heights[node], up)
    given = weights(encoding)
    steps = [a * math.exp(-0.7 * h) for a, h in zip(given, heights, strict=True)]
    loss = HierarchicalCrossEntropyLoss(encoding, alpha=0.7, class_weight=given)
    p, true, _, counts, _ = spelt_out(encoding, z, batch.target, batch.weight)
    voxels = reference.step_cross_entropy(p, tree.parents, true, steps)
    expected = (counts * voxels).sum() / counts.sum()
    check(loss(z, batch.target, weight=batch.weight), expected, z)


def test_a_chain_of_conditional_sigmoids_is_masked_binary_cross_entropy() -> None:
    """Each head's binary cross entropy, only where its parent is, over all voxels."""
    encoding = Tree(BRATS, ConditionalSigmoid())
    batch = tree_batch(encoding)
    total = torch.zeros((), dtype=torch.float64)
    for level in range(3):
        inside = batch.target >= level
        right = (batch.target > level).double()
        z = batch.logits[:, level]
        total += binary_cross_entropy_with_logits(z[inside], right[inside], reduction="sum")
    expected = total / batch.target.numel()
    assert_close(CrossEntropyLoss(encoding)(batch.logits, batch.target), expected)
    p = defined(encoding.activation, batch.logits, BRATS)
    of_label = reference.label_cross_entropy(p, list(encoding.named), batch.target).mean()
    assert_close(expected, of_label)


def literal(encoding: Any, z: Tensor, true: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """For each node p where it is true, and p where it is false, by the papers' definitions."""
    tree = encoding.tree
    heads = [v for v in range(len(tree)) if v not in tree.rest]
    h = {v: z[:, i].sigmoid() for i, v in enumerate(heads)}
    yes, no = [], []
    for v in range(len(tree)):
        if v in tree.rest:
            yes.append(torch.full_like(z[:, 0], 0.5))
            no.append(torch.full_like(z[:, 0], 0.5))
            continue
        below = [u for u in tree.descendants(v) if u in heads]
        no.append(torch.stack([h[u] for u in below]).amax(0))
        if kind == "min":
            yes.append(torch.stack([h[u] for u in tree.ancestors(v)]).amin(0))
        else:  # y_v max over the true ones
            yes.append(torch.stack([h[u] * true[:, u] for u in below]).amax(0))
    return torch.stack(yes, 1), torch.stack(no, 1)


def mean_over_heads(encoding: Any, voxels: Tensor, weight: Tensor, alpha: list[float]) -> Tensor:
    share = torch.tensor(
        [0.0 if v in encoding.tree.rest else a for v, a in enumerate(alpha)], dtype=torch.float64
    )
    weight = weight * share.view(1, -1, 1, 1)
    return (weight * voxels).sum() / weight.sum()


@pytest.mark.parametrize("encoding", CONSTRAINED, ids=named)
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_tree_min_loss(encoding: Any, gamma: float) -> None:
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    _, true, weight, _, _ = spelt_out(encoding, z, batch.target, batch.weight)
    yes, no = literal(encoding, z, true, "min")
    voxels = -true * (1 - yes) ** gamma * yes.log() - (1 - true) * no**gamma * (1 - no).log()
    alpha = weights(encoding)
    loss = TreeMinLoss(encoding, gamma=gamma, class_weight=alpha)
    expected = mean_over_heads(encoding, voxels, weight, alpha)
    check(loss(z, batch.target, weight=batch.weight), expected, z)


@pytest.mark.parametrize("encoding", CONSTRAINED, ids=named)
def test_max_constraint_loss(encoding: Any) -> None:
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    _, true, weight, _, _ = spelt_out(encoding, z, batch.target, batch.weight)
    yes, no = literal(encoding, z, true, "max")
    voxels = torch.where(true == 1, -yes.clamp(min=1e-300).log(), -(1 - no).log())
    expected = mean_over_heads(encoding, voxels, weight, [1.0] * len(encoding.tree))
    check(MaxConstraintLoss(encoding)(z, batch.target, weight=batch.weight), expected, z)


@pytest.mark.parametrize("weighting", ["foreground", "volume"])
@pytest.mark.parametrize("group", ["sample", "batch"])
def test_wasserstein_dice(weighting: Any, group: Any) -> None:
    encoding = Tree(WIDE, ignore=255)
    batch = tree_batch(encoding)
    z = batch.logits.requires_grad_()
    loss = GeneralizedWassersteinDiceLoss(
        encoding, weighting=weighting, group=group, reduction="none"
    )
    matrix = torch.tensor(WIDE.distance_matrix(), dtype=torch.float64)
    weight = torch.where(batch.target == 255, 0.0, batch.weight)
    labels = batch.target.masked_fill(batch.target == 255, 0)
    wrong = torch.einsum("bhwl,blhw->bhw", matrix[labels], z.softmax(1))
    axes = (1, 2) if group == "sample" else (0, 1, 2)
    if weighting == "foreground":
        alpha = (labels != 0).double()
        right, errors = (weight * alpha * (1 - wrong)).sum(axes), (weight * wrong).sum(axes)
    else:
        volume = torch.stack([(weight * (labels == t)).sum(axes) for t in range(len(matrix))], -1)
        share = 1 / (volume + 1)
        alpha = (
            share[labels]
            if group == "batch"
            else torch.stack([s[y] for s, y in zip(share, labels, strict=True)])
        )
        right = (weight * alpha * (1 - wrong)).sum(axes)
        errors = (weight * alpha * wrong).sum(axes)
    expected = 1 - (2 * right + 1e-5) / (2 * right + errors + 1e-5)
    check(loss(z, batch.target, weight=batch.weight), expected.reshape(-1), z)


def test_wasserstein_dice_of_nothing_is_nothing() -> None:
    encoding = Tree(WIDE, ignore=255)
    batch = tree_batch(encoding)
    batch.target[0] = 255
    loss = GeneralizedWassersteinDiceLoss(encoding, smooth_nr=0, reduction="none")
    value, gradient = value_and_gradient(loss, batch.logits, batch.target)
    assert value[0] == 0 and not gradient[0].any()
    assert value[1] > 0 and gradient[1].any()


def test_wasserstein_dice_with_class_weights() -> None:
    """As if the voxels of a class were there so many times."""
    encoding = Tree(WIDE)
    batch = tree_batch(encoding)
    alpha = weights(encoding)
    times = torch.tensor(alpha, dtype=torch.float64)[torch.tensor(encoding.named)[batch.target]]
    weighted = GeneralizedWassersteinDiceLoss(encoding, class_weight=alpha)
    expected = GeneralizedWassersteinDiceLoss(encoding)(batch.logits, batch.target, weight=times)
    assert_close(weighted(batch.logits, batch.target), expected)


def test_wasserstein_dice_with_distances_0_and_1_is_dice() -> None:
    encoding = Tree(LabelTree({"organ": None}))
    batch = tree_batch(encoding)
    found = GeneralizedWassersteinDiceLoss(encoding, smooth_nr=0)(batch.logits, batch.target)
    dice = DiceLoss(Multiclass(background=False), smooth_nr=0)(batch.logits, batch.target)
    assert_close(found, dice)


@pytest.mark.parametrize("weighting", ["foreground", "volume"])
def test_wasserstein_dice_is_monais(weighting: Any) -> None:
    from monai.losses import GeneralizedWassersteinDiceLoss as MonaiLoss

    encoding = Tree(WIDE)
    batch = tree_batch(encoding)
    matrix = torch.tensor(WIDE.distance_matrix(), dtype=torch.float64)
    mode = "default" if weighting == "foreground" else "GDL"
    monai = MonaiLoss(matrix.numpy(), weighting_mode=mode, smooth_nr=1e-5, smooth_dr=1e-5)
    found = GeneralizedWassersteinDiceLoss(encoding, weighting=weighting)(
        batch.logits, batch.target
    )
    assert_close(found.float(), monai(batch.logits.float(), batch.target[:, None]).float())


def some_losses() -> list[Any]:
    soft, sigmoids, constrained = (
        Tree(WIDE, activation)
        for activation in (LeafSoftmax(), ConditionalSigmoid(), MaxConstraint())
    )
    return [
        HierarchicalDiceCELoss(soft),
        HierarchicalDiceCELoss(sigmoids, class_weight=weights(soft), group="batch"),
        HierarchicalDiceCELoss(constrained, cross_entropy="marginal"),
        HierarchicalCrossEntropyLoss(soft, alpha=0.3),
        HierarchicalCrossEntropyLoss(sigmoids, alpha=0.3),
        GeneralizedWassersteinDiceLoss(soft, class_weight=weights(soft)),
        TreeMinLoss(constrained),
        MaxConstraintLoss(constrained),
    ]


each_loss = pytest.mark.parametrize("loss", some_losses(), ids=lambda x: type(x).__name__)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_finite_far_out(loss: Any, dtype: torch.dtype) -> None:
    batch = tree_batch(loss.encoding, scale=1e4, dtype=dtype)
    value, gradient = value_and_gradient(loss, batch.logits, batch.target)
    assert value.dtype == torch.float32 and value.isfinite()
    assert gradient.dtype == dtype and gradient.isfinite().all()


@each_loss
def test_comes_back_from_repr_pickle_and_copy(loss: Any) -> None:
    public = {name: getattr(segloss, name) for name in segloss.__all__}
    batch = tree_batch(loss.encoding)
    expected = loss(batch.logits, batch.target)
    for twin in (eval(repr(loss), public), pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert repr(twin) == repr(loss)
        assert_close(twin(batch.logits, batch.target), expected)


@each_loss
def test_adds_up(loss: Any) -> None:
    batch = tree_batch(loss.encoding)
    other = DiceLoss(loss.encoding)
    expected = loss(batch.logits, batch.target) + 2 * other(batch.logits, batch.target)
    assert_close((loss + 2 * other)(batch.logits, batch.target), expected)


@each_loss
def test_the_gradient_is_that_of_finite_differences_twice(loss: Any) -> None:
    batch = tree_batch(loss.encoding, space=(1, 2), b=1)
    z = batch.logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, batch.target), (z,))
    assert torch.autograd.gradgradcheck(lambda x: loss(x, batch.target), (z,))


@each_loss
def test_autocast_changes_nothing(loss: Any) -> None:
    batch = tree_batch(loss.encoding, dtype=torch.float32)
    expected = value_and_gradient(loss, batch.logits, batch.target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(value_and_gradient(loss, batch.logits, batch.target), expected)


@each_loss
def test_reductions_agree(loss: Any) -> None:
    batch = tree_batch(loss.encoding, b=3)
    results = {}
    for reduction in ("none", "mean", "sum"):
        twin = copy.deepcopy(loss)
        twin.group, twin.reduction = "sample", reduction
        results[reduction] = twin(batch.logits, batch.target)
    assert results["none"].shape == (3,)
    assert_close(results["mean"], results["none"].mean())
    assert_close(results["sum"], results["none"].sum())


def test_a_softmax_of_leaves_is_pytorchs_cross_entropy() -> None:
    batch = tree_batch(Tree(WIDE))
    loss = HierarchicalDiceCELoss(Tree(WIDE), lambda_dice=0)
    assert_close(loss(batch.logits, batch.target), cross_entropy(batch.logits, batch.target))


def test_what_does_not_fit_is_refused() -> None:
    soft, constrained = Tree(WIDE), Tree(WIDE, MaxConstraint())
    with pytest.raises(ValueError, match='say cross_entropy="marginal"'):
        HierarchicalDiceCELoss(constrained)
    with pytest.raises(ValueError, match="no probability of their own"):
        HierarchicalCrossEntropyLoss(constrained)
    for loss in (TreeMinLoss, MaxConstraintLoss):
        with pytest.raises(TypeError, match="a channel for each node that is no rest"):
            loss(soft)
    with pytest.raises(ValueError, match=r'needs MaxConstraint\("max"\)'):
        MaxConstraintLoss(Tree(WIDE, MaxConstraint("min")))
    with pytest.raises(TypeError, match="LeafSoftmax"):
        GeneralizedWassersteinDiceLoss(constrained)
    with pytest.raises(ValueError, match="label of 'core' is no leaf"):
        GeneralizedWassersteinDiceLoss(Tree(BRATS, labels=["background", "core"]))
    with pytest.raises(ValueError, match=r"2 rows, expected 4 rows and columns.*rest of whole"):
        GeneralizedWassersteinDiceLoss(Tree(BRATS), distances=[[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="distances must be from 0 to 1"):
        GeneralizedWassersteinDiceLoss(Tree(LabelTree({"a": None})), distances=[[0, 2], [2, 0]])
    with pytest.raises(ValueError, match="0 on the diagonal"):
        GeneralizedWassersteinDiceLoss(Tree(LabelTree({"a": None})), distances=[[1, 1], [1, 0]])
    # Run-time type checks, where they are on, say it before the package can.
    with pytest.raises(TypeError, match="encoding"):
        HierarchicalDiceCELoss(Multiclass())  # type: ignore[arg-type]


def test_levels_take_the_losses_of_trees_too() -> None:
    encoding = Tree(BRATS, MultiLevelActivation(5.0))
    batch = tree_batch(encoding)
    assert HierarchicalDiceCELoss(encoding)(batch.logits, batch.target).isfinite()


@DYNAMO
@pytest.mark.compiled
def test_compiles_whole() -> None:
    encoding = Tree(BRATS)
    loss, batch = (
        HierarchicalDiceCELoss(encoding, class_weight=weights(encoding)),
        tree_batch(encoding),
    )
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = value_and_gradient(compiled, batch.logits, batch.target)
    assert_close(found, value_and_gradient(loss, batch.logits, batch.target))
