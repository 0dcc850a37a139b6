# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Time and memory of a loss step over a tree of classes, against the flat Dice + cross entropy.

    python benchmarks/hierarchy.py [--shape 2 5 96 96 96] [--repeats 15] [--only Softmax]

The trees have as many leaves as the logits have channels. All candidates run in this process, in
turn, on the same logits; the medians and their ratio to the flat loss of the same logits are
printed. Memory is the peak of what is allocated during the step, gradient included, as a multiple of
the logits.
"""

import torch
from loss_step import Candidate, compare
from torch import Tensor
from torch.nn.functional import cross_entropy

from segloss import (
    CrossEntropyLoss,
    DiceLoss,
    HierarchicalDiceCELoss,
    LabelTree,
    Tree,
)

FLAT = "flat Dice + CE"


def halved(leaves: int) -> LabelTree:
    """A tree that splits its leaves in two, and these again: as many inner nodes as can be."""
    names = iter(range(10**6))

    def split(count: int) -> dict[str, object] | None:
        if count == 1:
            return None
        first = count // 2
        parts = (first, count - first)
        return {f"n{next(names)}": split(part) for part in parts}

    nested = split(leaves)
    assert nested is not None
    return LabelTree(nested, rest=None, background=None)


def dense(logits: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    """Dice of every node + cross entropy as one would write them in PyTorch."""
    space = tuple(range(2, logits.ndim))
    pred = torch.einsum("vl,bl...->bv...", members, logits.softmax(1))
    true = members.T[labels[:, 0]].movedim(-1, 1)
    both = pred.sum(space) + true.sum(space) + 1e-5
    score = (2 * (pred * true).sum(space) + 1e-5) / both
    return (1 - score).mean() + cross_entropy(logits, labels[:, 0])


def candidates(shape: tuple[int, ...], device: str) -> tuple[Tensor, dict[str, Candidate]]:
    """Logits, and every loss as a function of them."""
    rng = torch.Generator(device).manual_seed(0)
    logits = torch.randn(shape, generator=rng, device=device)
    b, c, *space = shape
    labels = torch.randint(c, (b, 1, *space), generator=rng, device=device)
    tree = halved(c)
    members = torch.tensor(tree.membership, dtype=torch.float32, device=device)
    flat = DiceLoss() + CrossEntropyLoss()
    inner = [v for v in range(len(tree)) if v not in tree.leaves]
    coarse = Tree(tree, labels=[tree.names[v] for v in (*tree.leaves[:-1], inner[0])])
    losses: dict[str, Candidate] = {FLAT: lambda z: flat(z, labels)}
    name = f"LeafSoftmax, {len(tree)} nodes, "
    for title, loss in {
        "Dice + CE": DiceLoss(Tree(tree)) + CrossEntropyLoss(Tree(tree)),
        "HierarchicalDiceCELoss": HierarchicalDiceCELoss(Tree(tree)),
        "with labels of inner nodes": HierarchicalDiceCELoss(coarse),
        "marginal CE": HierarchicalDiceCELoss(Tree(tree), cross_entropy="marginal"),
    }.items():
        losses[name + title] = lambda z, loss=loss: loss(z, labels)
    losses["dense torch, Dice of every node + CE"] = lambda z: dense(z, labels, members)
    return logits, losses


if __name__ == "__main__":
    compare(candidates, reference=FLAT, shape=[2, 5, 96, 96, 96], doc=__doc__)
