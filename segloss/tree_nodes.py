"""The nodes of a label tree as they are given: named, in order, and with nothing left over."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, NoReturn

__all__ = [
    "Rest",
    "check_names",
    "check_splits",
    "flattened",
    "meant",
    "refuse_order",
    "wanted_rest",
]

Rest = Mapping[str, str] | Literal["auto"] | None


def flattened(nested: Any) -> list[tuple[str, str | None]]:
    """All nodes of nested mappings, each with the name of its parent, parents first."""
    if not isinstance(nested, Mapping):
        raise TypeError(f"a tree is a mapping of names to children, got {nested!r}")
    nodes: list[tuple[str, str | None]] = []

    def visit(children: Any, parent: str | None, above: tuple[str, ...]) -> None:
        for name, below in _by_name(children, parent).items():
            if name in above:
                raise ValueError(f"{name!r} is part of itself: {' > '.join([*above, name])}")
            nodes.append((name, parent))
            visit(below, name, (*above, name))

    visit(nested, None, ())
    return nodes


def _by_name(children: Any, parent: str | None) -> Mapping[Any, Any]:
    """The children of a node, however they are given, each with its own."""
    if isinstance(children, str) or not isinstance(children, Mapping | Sequence | None):
        raise TypeError(
            f"{parent!r} has {children!r}, expected a mapping or a list of its children's names, "
            "or None"
        )
    names = list(children or ())
    check_names(names)
    return children if isinstance(children, Mapping) else dict.fromkeys(names)


def check_names(names: Sequence[Any]) -> None:
    """Raise unless each is a text of its own."""
    seen = set()
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"the name of a node must be text, got {name!r}: quote a name; children that have "
                "children of their own are a mapping"
            )
        if not name.strip():
            raise ValueError(f"the name of a node is empty: {name!r}")
        if name in seen:
            raise ValueError(f"the name {name!r} comes twice: every node has a name of its own")
        seen.add(name)


def wanted_rest(nodes: list[tuple[str, str | None]], rest: Rest) -> dict[str | None, str]:
    """The name of what is left of each parent of which something is."""
    counts = Counter(parent for _, parent in nodes)
    if rest == "auto":
        single = (name for name, _ in nodes if counts[name] == 1)
        made: dict[str | None, str] = {name: f"rest of {name}" for name in single}
        return made
    if rest is not None and not isinstance(rest, Mapping):
        raise TypeError(f"rest must be 'auto', None, or names by their parents', got {rest!r}")
    names = [name for name, _ in nodes]
    for parent in rest or {}:
        if parent not in names:
            raise ValueError(f"rest: there is no node {parent!r} in the tree{meant(parent, names)}")
        if parent not in counts:
            raise ValueError(f"rest: {parent!r} is a leaf, of which nothing is left")
    return dict((rest or {}).items())


def check_splits(
    names: list[str], parents: list[int], children: list[list[int]], rest: Iterable[str]
) -> None:
    """Raise unless every parent, and the whole, has two parts or more, and each rest is a leaf."""
    for name in rest:
        if children[names.index(name)]:
            raise ValueError(
                f"{name!r} is to hold what is left over, but has children of its own: name another "
                "leaf, or None if nothing is left over"
            )
    for node, below in enumerate(children):
        if len(below) == 1:
            raise ValueError(
                f"{names[node]!r} has a single child, {names[below[0]]!r}, and would be the same: "
                f"name what else it holds, rest={{{names[node]!r}: ...}}, or say rest='auto'"
            )
    top = [names[node] for node, parent in enumerate(parents) if parent < 0]
    if len(top) < 2:
        raise ValueError(
            f"the tree has {top or 'no nodes'} at its top: expected two nodes or more, which "
            "exclude each other, or one and a background"
        )


def refuse_order(names: Sequence[str], parents: Sequence[int], node: int) -> NoReturn:
    """Say whether a node whose parent comes later is in a cycle, or just comes too early."""
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
        if path[-1] == node:
            way = " < ".join(repr(names[v]) for v in path)
            raise ValueError(f"{names[node]!r} is part of itself: {way}")
        if path.count(path[-1]) > 1:
            break  # a cycle further up, which has a message of its own
    raise ValueError(
        f"the parent of {names[node]!r}, {names[parents[node]]!r}, comes after it: put parents "
        "before their children"
    )


def meant(name: str, names: Sequence[str]) -> str:
    """The end of an error message: the name that was probably meant, or all that there are."""
    close = get_close_matches(str(name), names, n=1)
    return f": did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
