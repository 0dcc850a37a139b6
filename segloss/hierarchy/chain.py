"""Trees that are a chain: each node inside the one before."""

from segloss.label_tree import LabelTree

__all__ = ["levels_of"]


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
