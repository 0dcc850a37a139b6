"""Trees that are a chain: each node inside the one before."""

from math import log

from torch import Tensor

from segloss.engine.constants import constant
from segloss.label_tree import LabelTree

__all__ = ["deepest", "levels_of"]


def levels_of(tree: LabelTree) -> tuple[int, ...]:
    """The nodes of a chain that are no rest, outermost first.

    Raises:
        ValueError: If the tree is no chain; says where it branches.
    """
    levels: list[int] = []
    inside = -1
    while True:
        below = [v for v, parent in enumerate(tree.parents) if parent == inside]
        if not below:
            return tuple(levels)
        parts = [v for v in below if v not in tree.rest]
        where = repr(tree.names[inside]) if inside >= 0 else "the top"
        if len(parts) != 1:
            raise ValueError(
                f"the tree is no chain: below {where} there are {', '.join(tree.names[v] for v in parts)}; "
                "if one is what the other leaves over, say so by rest="
            )
        if len(below) != 2:
            raise ValueError(f"the tree is no chain: {where} has nothing left outside its child")
        levels.append(parts[0])
        inside = parts[0]


def deepest(log_p: Tensor, tree: LabelTree) -> Tensor:
    """The label of the leaf as deep as there are levels more likely than not.

    The median of the distribution over the leaves; thresholding each level gives the same.

    Args:
        log_p: Of all nodes, ``(b, v, *space)``.
        tree: A chain.

    Returns:
        ``(b, 1, *space)`` int64.
    """
    levels = levels_of(tree)
    over = {tree.parents[leaf]: leaf for leaf in tree.leaves if leaf in tree.rest}
    leaves = [over[-1], *(over[level] for level in levels[:-1]), levels[-1]]
    depth = (log_p[:, list(levels)] > log(0.5)).sum(1, keepdim=True)
    return constant(tuple(map(tree.leaves.index, leaves)), depth)[depth]
