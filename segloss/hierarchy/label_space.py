"""What the labels of several data sets say of the classes of one network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segloss.label_tree import LabelTree

__all__ = ["LabelSpace"]

IGNORE, OTHERS = "ignore", "others"
LARGEST_LABEL = 2**16 - 1

Meaning = str | Sequence[str]
LeafSet = frozenset[int]


@dataclass(frozen=True, init=False, repr=False)
class LabelSpace:
    """Data sets that label different things, in terms of one tree of classes.

    Every label value of every data set stands for a set of leaves, the ones that its voxels may
    belong to. So all kinds of partial labels are one kind: a class labelled in full is a single
    leaf, a class labelled without its parts is all its leaves, a background into which unlabelled
    organs have gone is the background and the leaves of these organs, and an unknown voxel may be
    anything.

    Args:
        tree: All classes of all data sets.
        datasets: By the data sets' names, what each label value stands for: the name of a node, a
            list of names for any of these, ``"others"`` for all leaves that no other value of this
            data set stands for, or ``"ignore"`` for all leaves.

    Attributes:
        tree: As given.
        names: Of the data sets.
        values: For each data set its label values, and for each of them the names and the leaves
            that it stands for.

    Raises:
        TypeError: If a label value is not an integer.
        ValueError: If a name is not in the tree, a label value is negative or stands for no leaf,
            or a data set tells nothing.

    Example:
        >>> tree = LabelTree({"liver": {"tumour": None}, "spleen": None})
        >>> space = LabelSpace(tree, {
        ...     "tumours": {0: "others", 1: "rest of liver", 2: "tumour"},
        ...     "organs": {0: "background", 1: "liver", 2: "spleen", 255: "ignore"},
        ... })
        >>> [tree.names[tree.leaves[leaf]] for leaf in sorted(space.leaves("tumours")[0])]
        ['background', 'spleen']
    """

    tree: LabelTree
    names: tuple[str, ...]
    values: tuple[tuple[tuple[int, tuple[str, ...], LeafSet], ...], ...]

    def __init__(self, tree: LabelTree, datasets: Mapping[str, Mapping[int, Meaning]]) -> None:
        if not datasets:
            raise ValueError("datasets is empty: expected label values for one data set or more")
        for word in (IGNORE, OTHERS):
            if word in tree.names:
                raise ValueError(f"the tree has a node {word!r}, which means something else here")
        values = tuple(_values(tree, name, given) for name, given in datasets.items())
        attributes = {"tree": tree, "names": tuple(datasets), "values": values}
        for attribute, value in attributes.items():
            object.__setattr__(self, attribute, value)

    def __repr__(self) -> str:
        labels = [{value: list(names) for value, names, _ in given} for given in self.values]
        return f"LabelSpace({self.tree!r}, {dict(zip(self.names, labels, strict=True))})"

    def number(self, dataset: str) -> int:
        """The number of a data set, which each of its samples carries.

        Raises:
            ValueError: If there is none of that name.
        """
        if dataset not in self.names:
            raise ValueError(f"there is no data set {dataset!r}; there are {', '.join(self.names)}")
        return self.names.index(dataset)

    def leaves(self, dataset: str) -> dict[int, LeafSet]:
        """The numbers of the leaves that each label value of a data set stands for."""
        return {value: leaves for value, _, leaves in self.values[self.number(dataset)]}

    def labelled(self, dataset: str) -> frozenset[int]:
        """The nodes that a data set labels: the labels that lie in one make up all of it."""
        sets = self.leaves(dataset).values()
        found = []
        for node in range(len(self.tree)):
            within = leaves_in(self.tree, node)
            told = [leaves for leaves in sets if leaves <= within]
            if within == frozenset().union(*told):
                found.append(node)
        return frozenset(found)


def leaves_in(tree: LabelTree, node: int) -> LeafSet:
    """The numbers of the leaves in a node."""
    return frozenset(leaf for leaf, within in enumerate(tree.membership[node]) if within)


def _values(
    tree: LabelTree, dataset: str, given: Mapping[int, Meaning]
) -> tuple[tuple[int, tuple[str, ...], LeafSet], ...]:
    """The label values of a data set, each with the names and the leaves it stands for."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{dataset}: expected a mapping from label values to names, got {given!r}")
    every = frozenset(range(len(tree.leaves)))
    named: dict[int, tuple[str, ...]] = {}
    for value, meaning in given.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{dataset}: a label value is an integer, got {value!r}")
        if not 0 <= value <= LARGEST_LABEL:
            raise ValueError(f"{dataset}: label {value} is not from 0 to {LARGEST_LABEL}")
        named[value] = (meaning,) if isinstance(meaning, str) else tuple(meaning)
        if not named[value]:
            raise ValueError(f"{dataset}: label {value} stands for nothing: the list is empty")
    sets: dict[int, LeafSet] = {}
    for value, names in named.items():
        if names == (IGNORE,):
            sets[value] = every
        elif names != (OTHERS,):
            sets[value] = frozenset().union(*_each(tree, dataset, value, names))
    told = frozenset().union(*(leaves for leaves in sets.values() if leaves != every))
    for value, names in named.items():
        if names == (OTHERS,):
            sets[value] = every - told
            if not sets[value]:
                raise ValueError(
                    f"{dataset}: label {value} stands for all others, but the other labels stand "
                    "for every leaf of the tree already"
                )
    if all(leaves == every for leaves in sets.values()):
        raise ValueError(f"{dataset}: no label tells anything, got {dict(given)}")
    nodes = {
        value: tuple(tree.names[tree.leaves[leaf]] for leaf in sorted(sets[value]))
        if names in ((IGNORE,), (OTHERS,))
        else names
        for value, names in named.items()
    }
    return tuple((value, nodes[value], sets[value]) for value in sorted(sets))


def _each(tree: LabelTree, dataset: str, value: int, names: Sequence[str]) -> list[LeafSet]:
    found = []
    for name in names:
        if name in (IGNORE, OTHERS):
            raise ValueError(f"{dataset}: label {value}: {name!r} cannot be one of several names")
        try:
            found.append(leaves_in(tree, tree.index(name)))
        except ValueError as error:
            raise ValueError(f"{dataset}: label {value}: {error}") from error
    return found
