"""Label trees for Hypothesis to explore."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from segloss.label_tree import LabelTree


@dataclass(frozen=True)
class Sketch:
    """A tree to be: made by the test, since run-time type checks draw from `random`."""

    parents: tuple[int, ...]
    background: bool

    def tree(self) -> LabelTree:
        """The tree, a rest added to every node with a single child."""
        options: dict[str, Any] = {} if self.background else {"background": None}
        names = [f"node {v}" for v in range(len(self.parents))]
        return LabelTree.from_parents(names, self.parents, **options)


CHAINS = st.integers(1, 5).map(lambda depth: Sketch(tuple(range(-1, depth - 1)), True))


@st.composite
def sketches(draw: st.DrawFn, most: int = 10, background: bool | None = None) -> Sketch:
    """Any tree of up to that many nodes before the rests are added, chains and flat ones too."""
    count = draw(st.integers(1, most))
    parents = tuple(draw(st.integers(-1, node - 1)) for node in range(count))
    outside = draw(st.booleans()) if background is None else background
    return Sketch(parents, outside or parents.count(-1) == 1)
