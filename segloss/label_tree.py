"""Classes inside classes: the tree that says which structure is part of which.

Plain Python: the losses and the load-time transforms both read it, and neither drags the other in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segloss.tree_files import nested_of_yaml, regions_of_nnunet
from segloss.tree_nodes import (
    Rest,
    check_names,
    check_splits,
    flattened,
    meant,
    refuse_order,
    wanted_rest,
)

__all__ = ["LabelTree"]


@dataclass(frozen=True, init=False, repr=False)
class LabelTree:
    """Which class is part of which, the background among them; every voxel is in just one leaf.

    **The label of a leaf is its number among the leaves**, in the order of the nodes. A parent
    comes before its children, and otherwise the nodes keep the order in which they were given.

    A node with a single child would be the same as its child, so what the child leaves of it is a
    leaf of its own, the *rest*: of a whole tumour with a tumour core in it, the oedema. It comes
    right after its parent. Two children or more are taken to fill their parent, unless `rest` says
    that something is left.

    Args:
        nested: The children of each node by name: ``{"liver": {"tumour": None}}``. A leaf has None
            or an empty mapping; children that are all leaves may be a list of names.
        rest: What is left of a parent: the name of that leaf by the parent's. It is made, unless a
            child of that name is there. ``"auto"`` makes ``"rest of liver"`` for every node with a
            single child, None for no node.
        background: The leaf outside all other nodes, which comes first unless it is given among
            them. None: the nodes at the top fill the image.

    Attributes:
        names: Of all nodes.
        parents: The number of each node's parent, -1 at the top.
        rest: The numbers of the leaves that are a rest, the background among them.
        children: The numbers of each node's children.
        leaves: The numbers of the nodes without children.
        membership: For each node which leaves lie in it, as bools; a leaf lies in itself.

    Raises:
        TypeError: If a name is not text, or the children are neither names nor a mapping.
        ValueError: If a name comes twice or is empty, if a node equals its only child, if there is
            a cycle, or `rest` names a node that is not there.

    Example:
        >>> tree = LabelTree({"whole tumour": {"tumour core": ["enhancing tumour"]}})
        >>> print(tree)
        background = 0
        whole tumour
        ├── rest of whole tumour = 1
        └── tumour core
            ├── rest of tumour core = 2
            └── enhancing tumour = 3
        >>> tree.names[tree.parents[tree.index("enhancing tumour")]]
        'tumour core'
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    rest: tuple[int, ...]
    children: tuple[tuple[int, ...], ...] = field(compare=False)
    leaves: tuple[int, ...] = field(compare=False)
    membership: tuple[tuple[bool, ...], ...] = field(compare=False)

    def __init__(
        self,
        nested: Mapping[Any, Any],
        *,
        rest: Rest = "auto",
        background: str | None = "background",
    ) -> None:
        self._complete(flattened(nested), rest, background)

    @classmethod
    def from_parents(
        cls,
        names: Sequence[str],
        parents: Sequence[int],
        *,
        rest: Rest = "auto",
        background: str | None = "background",
    ) -> "LabelTree":
        """A tree from the number of each node's parent, -1 at the top.

        Args:
            names: Of the nodes, parents before their children.
            parents: As many numbers.
            rest: As for `LabelTree`; the leaves that it makes shift the numbers of those after.
            background: As for `LabelTree`.

        Raises:
            ValueError: As `LabelTree`; if the two differ in length, or a parent comes later.

        Example:
            >>> LabelTree.from_parents(["liver", "tumour", "spleen"], [-1, 0, -1]).names
            ('background', 'liver', 'rest of liver', 'tumour', 'spleen')
        """
        if len(names) != len(parents):
            raise ValueError(f"there are {len(names)} names but {len(parents)} parents")
        for node, parent in enumerate(parents):
            if not -1 <= parent < len(names):
                raise ValueError(
                    f"the parent of {names[node]!r} is number {parent}, expected -1 (none) to "
                    f"{len(names) - 1}"
                )
        for node, parent in enumerate(parents):
            if parent >= node:
                refuse_order(names, parents, node)
        nodes = [
            (name, None if parent < 0 else names[parent])
            for name, parent in zip(names, parents, strict=True)
        ]
        tree = cls.__new__(cls)
        tree._complete(nodes, rest, background)
        return tree

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        *,
        rest: Rest = "auto",
        background: str | None = "background",
    ) -> "LabelTree":
        """A tree from a YAML file: a mapping as `LabelTree` takes it.

        Args:
            path: Of a file such as ``hippocampus: [anterior, posterior]``.
            rest: As for `LabelTree`.
            background: As for `LabelTree`.

        Raises:
            ValueError: As `LabelTree`; if the file is not YAML, or not a mapping.

        Example:
            >>> path = Path("tree.yaml")
            >>> _ = path.write_text("hippocampus: [anterior, posterior]")
            >>> LabelTree.from_yaml(path).names
            ('background', 'hippocampus', 'anterior', 'posterior')
        """
        nested = nested_of_yaml(path)
        return cls(nested, rest=rest, background=background)

    @classmethod
    def from_nnunet(cls, dataset: str | Path | Mapping[str, Any]) -> "LabelTree":
        """The tree of a data set's regions; the labels of its leaves are the data set's own.

        A region is part of the smallest one that holds all its labels. A label that is not a region
        by itself becomes a leaf of the smallest region it belongs to. The ignore label has no node.

        Args:
            dataset: nnU-Net's ``dataset.json``: the path, or what is in it.

        Raises:
            ValueError: If two regions have the same labels, or overlap without one being part of
                the other; if the labels are not 0, 1, 2 …

        Example:
            >>> labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
            >>> print(LabelTree.from_nnunet({"labels": labels}))
            whole
            ├── core
            │   ├── rest of core = 2
            │   └── enhancing = 3
            └── rest of whole = 1
            background = 0
        """
        names, parents, rest = regions_of_nnunet(dataset)
        return cls.from_parents(names, parents, rest=rest, background="background")

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        return "\n".join(self._lines([v for v, p in enumerate(self.parents) if p < 0], None))

    def __repr__(self) -> str:
        over = {self.names[self.parents[v]]: self.names[v] for v in self.rest if not self._top(v)}
        outside = next((self.names[v] for v in self.rest if self._top(v)), None)
        return (
            f"LabelTree.from_parents({list(self.names)}, {list(self.parents)}, "
            f"rest={over or None}, background={outside!r})"
        )

    def index(self, name: str) -> int:
        """The number of the node of that name.

        Raises:
            ValueError: If there is none; says which there are.

        Example:
            >>> LabelTree({"liver": {"tumour": None}}).index("tumour")
            3
        """
        if name not in self.names:
            raise ValueError(f"there is no node {name!r} in the tree{meant(name, self.names)}")
        return self.names.index(name)

    def ancestors(self, node: int) -> tuple[int, ...]:
        """The node, its parent, and so on up to the top."""
        path = [node]
        while self.parents[path[-1]] >= 0:
            path.append(self.parents[path[-1]])
        return tuple(path)

    def descendants(self, node: int) -> tuple[int, ...]:
        """The node and all that is part of it, in the order of the nodes."""
        found = {node}
        for other in range(node + 1, len(self)):
            if self.parents[other] in found:
                found.add(other)
        return tuple(sorted(found))

    def distance_matrix(
        self, weights: Mapping[str, float] | None = None
    ) -> tuple[tuple[float, ...], ...]:
        """How far apart any two leaves are: the length of the way between them, at most 1.

        The background is at distance 1 from every other leaf, whatever its place: to take a
        structure for background is as wrong as can be.

        Args:
            weights: The length of the step from a node up to its parent, by name; 1 for the others.

        Returns:
            A row for each leaf, divided by the largest distance; 0 on the diagonal.

        Raises:
            ValueError: If a weight is not a finite number of at least 0, or of no node, or all
                leaves are at distance 0.

        Example:
            >>> tree = LabelTree({"tumour": ["oedema", "core"], "eye": None})
            >>> tree.distance_matrix()[1:]
            ((1.0, 0.0, 0.6666666666666666, 1.0), (1.0, 0.6666666666666666, 0.0, 1.0),
             (1.0, 1.0, 1.0, 0.0))
        """
        steps = [1.0] * len(self)
        for name, weight in (weights or {}).items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"weights: {name!r} has {weight!r}, expected a number from 0 on")
            steps[self.index(name)] = float(weight)
        above = [set(self.ancestors(leaf)) for leaf in self.leaves]
        matrix = [[sum(steps[v] for v in one ^ other) for other in above] for one in above]
        outside = [
            row for row, leaf in enumerate(self.leaves) if leaf in self.rest and self._top(leaf)
        ]
        inside = [row for row in range(len(matrix)) if row not in outside]
        largest = max(matrix[i][j] for i in inside for j in inside)
        if not largest and len(inside) > 1:
            raise ValueError("weights: all steps between the leaves have length 0")
        for i, row in enumerate(matrix):
            for j in range(len(row)):
                far = i != j and (i in outside or j in outside)
                row[j] = 1.0 if far else row[j] / (largest or 1)
        return tuple(map(tuple, matrix))

    def _top(self, node: int) -> bool:
        return self.parents[node] < 0

    def _complete(
        self, nodes: list[tuple[str, str | None]], rest: Rest, background: str | None
    ) -> None:
        """Check the nodes, each with the name of its parent, and add what they leave over."""
        check_names([name for name, _ in nodes])
        wanted = wanted_rest(nodes, rest)
        if background is not None:
            wanted[None] = background
        made = {parent: leaf for parent, leaf in wanted.items() if (leaf, parent) not in nodes}
        ordered: list[tuple[str, str | None]] = [(made[None], None)] if None in made else []
        for name, parent in nodes:
            ordered.append((name, parent))
            if name in made:
                ordered.append((made[name], name))
        names = [name for name, _ in ordered]
        check_names(names)
        number: dict[str | None, int] = {name: index for index, name in enumerate(names)}
        number[None] = -1
        parents = [number[parent] for _, parent in ordered]
        children: list[list[int]] = [[] for _ in names]
        for node, parent_number in enumerate(parents):
            if parent_number >= 0:
                children[parent_number].append(node)
        check_splits(names, parents, children, wanted.values())

        leaves = [node for node in range(len(names)) if not children[node]]
        inside: list[set[int]] = [set() for _ in names]
        for node in reversed(range(len(names))):
            inside[node].update([] if children[node] else [node])
            if parents[node] >= 0:
                inside[parents[node]] |= inside[node]
        values = {
            "names": tuple(names),
            "parents": tuple(parents),
            "rest": tuple(sorted(number[leaf] for leaf in wanted.values())),
            "children": tuple(map(tuple, children)),
            "leaves": tuple(leaves),
            "membership": tuple(tuple(leaf in within for leaf in leaves) for within in inside),
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    def _lines(self, nodes: Sequence[int], indent: str | None) -> list[str]:
        lines = []
        for node in nodes:
            last = node == nodes[-1]
            branch = "" if indent is None else indent + ("└── " if last else "├── ")
            below = "" if indent is None else indent + ("    " if last else "│   ")
            label = "" if self.children[node] else f" = {self.leaves.index(node)}"
            lines.append(f"{branch}{self.names[node]}{label}")
            lines += self._lines(self.children[node], below)
        return lines
