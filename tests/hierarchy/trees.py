"""Some label trees, and batches for them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segloss import (
    ConditionalSigmoid,
    LabelTree,
    LeafSoftmax,
    MaxConstraint,
    Tree,
)

BRATS = LabelTree({"whole": {"core": {"enhancing": None}}})
SEVEN = LabelTree({"fat": None, "organ": {"liver": {"tumour": None}}}, background="air")
WIDE = LabelTree({"a": ["b", "c", "d"], "e": {"f": ["g", "h"], "i": None}})
BARE = LabelTree({"a": {"b": {"c": None}}, "d": ["e", "f"]}, background=None)
NESTED = (LeafSoftmax(), ConditionalSigmoid(), MaxConstraint("max"), MaxConstraint("min"))


@dataclass
class TreeBatch:
    logits: Tensor
    target: Tensor
    weight: Tensor


def tree_batch(
    encoding: Tree,
    *,
    space: tuple[int, ...] = (6, 5),
    b: int = 2,
    scale: float = 2.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TreeBatch:
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(
        b, len(encoding.channels), *space, generator=rng, dtype=torch.float64
    )
    target = torch.randint(len(encoding.named), (b, *space), generator=rng)
    weight = 2 * torch.rand(b, *space, generator=rng, dtype=torch.float64)
    if encoding.ignore is not None:
        target[torch.rand(b, *space, generator=rng) < 0.2] = encoding.ignore
    return TreeBatch(logits.to(dtype), target, weight.to(dtype))


def with_inner_labels(tree: LabelTree) -> tuple[str, ...]:
    """Every leaf's name, then every inner node's."""
    inner = [v for v in range(len(tree)) if v not in tree.leaves]
    return tuple(tree.names[v] for v in (*tree.leaves, *inner))
