"""Every tensor shape in the package, by name.

``b`` is batch, ``c`` is channels, ``*space`` is two or three image axes, ``n`` is voxels (the image
axes flattened), ``g`` is groups and ``k`` the scored classes. Axes of the same name agree within
one call. The annotations cost nothing at run time; the tests turn them into checks.
"""

from typing import TypeAlias

from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = [
    "Flat",
    "GroupScores",
    "Logits",
    "Map",
    "Nodes",
    "PerGroup",
    "PerVoxel",
    "Reduced",
    "Scores",
    "Target",
    "Weights",
]

Logits: TypeAlias = Float[Tensor, "b c *space"]
"""What the network says, before softmax or sigmoid."""

Target: TypeAlias = Shaped[Tensor, "b *_"]
"""What the data loader says. The encoding decides which shapes it takes."""

Map: TypeAlias = Shaped[Tensor, "b *_"]
"""A target map made at load time, or the weight of each voxel."""

Flat: TypeAlias = Float[Tensor, "b c n"]
"""Logits, probabilities or memberships with the image axes flattened."""

Nodes: TypeAlias = Float[Tensor, "b v n"]
"""The same of the nodes of a tree, of which there may be more than channels."""

PerVoxel: TypeAlias = Float[Tensor, "b 1 n"]
"""One number for each voxel."""

Weights: TypeAlias = Float[Tensor, "b #c n"]
"""How much each voxel, or each channel of it, counts."""

Scores: TypeAlias = Float[Tensor, "g k"]
"""One number for each group and scored class."""

PerGroup: TypeAlias = Float[Tensor, "g _"]
"""Numbers for each group: one for each scored class, or a histogram for each."""

GroupScores: TypeAlias = Float[Tensor, "g 1"]
"""One number for each group, of all its classes together."""

Reduced: TypeAlias = Float[Tensor, "*_"]
"""A loss after reduction: a scalar, or one number per group and class."""
