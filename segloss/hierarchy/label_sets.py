"""Partial labels as encodings: data sets that label different things, in one batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from segloss.activation import Outcomes, Sigmoid, Softmax
from segloss.encoding import (
    Encoded,
    Encoding,
    checked_logits,
    expect_shape,
    flat_weight,
    maker,
    numbered,
)
from segloss.engine.block import check_labels
from segloss.hierarchy.activations import members
from segloss.hierarchy.label_space import LabelSpace, leaves_in
from segloss.shapes import Logits, Map, Target

__all__ = ["LabelHeads", "LabelSets"]


@dataclass(frozen=True)
class _PartialLabels(Encoding):
    """What the encodings of partial labels share: labels mean what their data set says."""

    space: LabelSpace

    @property
    def channels(self) -> tuple[str, ...]:
        """What the network's channels stand for: as many as there are names."""
        return tuple(self.space.tree.names[node] for node in _channels(self.space, self._softmax))

    @property
    def first(self) -> int:
        """The first scored node."""
        return 0

    @property
    def reads(self) -> frozenset[str]:
        """``dataset``, unless there is only one."""
        return frozenset({"dataset"}) if len(self.space.names) > 1 else frozenset()

    @property
    def partial(self) -> bool:
        """A node that the data set of a sample does not label is left out of the mean."""
        return True

    @property
    def _softmax(self) -> bool:
        raise NotImplementedError

    def nodes(self, channels: int) -> int:
        """How many nodes are scored."""
        return len(_scored(self.space, self._softmax))

    def encode(self, logits: Logits, target: Target, maps: Mapping[str, Map]) -> Encoded:
        """Check the shapes and flatten them; `maps` may hold a ``weight``."""
        b, c, space = checked_logits(logits)
        names, v = self.channels, self.nodes(c)
        if c != len(names):
            raise ValueError(
                f"input has {c} channels, but {type(self).__name__} needs {len(names)} for this "
                f"tree: {', '.join(names)}"
            )
        expect_shape("target", target, (b, *space), (b, 1, *space))
        own = {name: m for name, m in maps.items() if name not in {"weight", "dataset"}}
        for name, m in own.items():
            hint = f", a channel for each node; {name} is {maker(name)}"
            expect_shape(f"{name} map", m, (b, v, *space), hint=hint)
        tables = _tables(self.space, self._softmax, numbered(logits, 1).dtype, logits.device)
        classes = numbered(logits, max(c, v, len(tables.member)))
        leaves = members(self.space.tree, classes.dtype, classes.device)
        return Encoded(
            logits=logits.flatten(2),
            target=target.reshape(b, -1),
            activation=Softmax(leaves) if self._softmax else Sigmoid(),
            ignore=None,
            weight=flat_weight(maps, (b, *space), (b, 1, *space)),
            maps={name: m.flatten(2) for name, m in own.items()},
            classes=classes,
            outcomes=_of_samples(self.space, tables, maps.get("dataset"), b),
        )
