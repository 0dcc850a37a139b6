"""Triplets of embeddings, against the formula."""

import pytest
import torch
from torch.testing import assert_close

from segloss import LabelTree, TreeTripletLoss

TREE = LabelTree({"a": ["b", "c"], "d": {"e": ["f", "g"], "h": None}})


def test_one_voxel_of_each_class_by_hand() -> None:
    """With an embedding for each class, what is drawn does not matter."""
    torch.manual_seed(0)
    e = torch.nn.functional.normalize(torch.randn(6, 5, dtype=torch.float64), dim=1)
    tree = LabelTree({"a": ["b", "c"], "d": ["e", "f"]}, background=None)
    labels = torch.tensor([[[0, 1, 2]]])
    loss = TreeTripletLoss(tree, smallest=0.2, scale=0.5)
    distance = 1 - e @ e.T
    margin = 0.2 + 0.5 * (4 - 2) / (2 * 2)
    terms = [
        (distance[0, 1] - distance[0, 2] + margin).clamp(min=0),  # b: c against e
        (distance[1, 0] - distance[1, 2] + margin).clamp(min=0),  # c: b against e
    ]  # e has no sibling here
    found = loss(3 * e[:3].T[None, :, None], labels)
    assert_close(found, torch.stack(terms).mean())


def test_the_margin_is_that_of_the_published_code() -> None:
    """0.6 where all leaves have depth 2: alike embeddings cost just the margin."""
    tree = LabelTree({"a": ["b", "c"], "d": ["e", "f"]}, background=None)
    labels = torch.arange(4).repeat(4)[None, None]
    value = TreeTripletLoss(tree)(torch.ones(1, 8, 1, 16), labels)
    assert value.item() == pytest.approx(0.6)


def test_the_axes_of_space_are_as_good_as_one() -> None:
    labels, embedding = torch.arange(6).repeat(8), torch.randn(2, 3, 48, dtype=torch.float64)
    loss = TreeTripletLoss(TREE)
    values = []
    for space in ((6, 8), (2, 3, 8)):
        torch.manual_seed(0)
        shaped = embedding.view(2, 3, *space)
        values.append(loss(shaped, labels.expand(2, -1).reshape(2, *space)))
    assert_close(*values)


def test_deeper_trees_have_a_margin_for_each_pair() -> None:
    """From f to g are 2 steps, to h 3, to the background 4: the margin follows."""
    e = torch.ones(1, 3, 1, 3)
    near = TreeTripletLoss(TREE)(e, torch.tensor([[[3, 4, 5]]]))
    far = TreeTripletLoss(TREE)(e, torch.tensor([[[3, 4, 0]]]))
    assert near.item() == pytest.approx(0.1 + (3 - 2) / 6)
    assert far.item() == pytest.approx(0.1 + (4 - 2) / 6)


def test_embeddings_that_lie_right_cost_nothing_and_get_no_gradient() -> None:
    tree = LabelTree({"a": ["b", "c"], "d": ["e", "f"]}, background=None)
    e = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]).T[None, :, None]
    e.requires_grad_()
    value = TreeTripletLoss(tree)(e, torch.tensor([[[0, 1, 2, 3]]]))
    (gradient,) = torch.autograd.grad(value, e)
    assert value == 0 and not gradient.any()


def test_labels_are_resampled_and_ignored() -> None:
    torch.manual_seed(0)
    loss = TreeTripletLoss(TREE, ignore=255)
    small = torch.randint(6, (2, 1, 4, 4))
    embedding = torch.nn.functional.one_hot(small[:, 0], 6).movedim(-1, 1).double()
    embedding.requires_grad_()
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert loss(embedding, small) > 0
    hidden = small.clone()
    hidden[:, :, 0] = 255
    (gradient,) = torch.autograd.grad(loss(embedding, hidden), embedding)
    assert gradient.any() and not gradient[:, :, 0].any()
    torch.manual_seed(1)
    first = loss(embedding, small)
    torch.manual_seed(1)
    assert torch.equal(first, loss(embedding, large))


def test_an_ignored_leaf_is_no_anchor() -> None:
    embedding = torch.randn(1, 3, 1, 3, requires_grad=True)
    labels = torch.tensor([[[1, 2, 3]]])
    (gradient,) = torch.autograd.grad(TreeTripletLoss(TREE, ignore=1)(embedding, labels), embedding)
    assert not gradient.any()


def test_nothing_to_compare_is_0_with_a_gradient() -> None:
    embedding = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = TreeTripletLoss(TREE)(embedding, torch.zeros(1, 2, 2, dtype=torch.long))
    value.backward()
    assert value == 0 and embedding.grad is not None and not embedding.grad.any()


def test_what_does_not_fit_is_refused() -> None:
    embedding = torch.randn(1, 3, 2, 2)
    with pytest.raises(ValueError, match="label 6, but the tree has 6 leaves"):
        TreeTripletLoss(TREE)(embedding, torch.full((1, 2, 2), 6))
    with pytest.raises(ValueError, match="target holds class labels that are not integers"):
        TreeTripletLoss(TREE)(embedding, torch.full((1, 2, 2), 0.5))
    with pytest.raises(ValueError, match="triplets must be a whole number of at least 1"):
        TreeTripletLoss(TREE, triplets=0)
    with pytest.raises(ValueError, match="smallest must be"):
        TreeTripletLoss(TREE, smallest=-1)
    assert "smallest=0.1" in repr(TreeTripletLoss(TREE))
