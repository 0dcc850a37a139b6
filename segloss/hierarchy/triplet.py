"""Embeddings that lie as far apart as their classes do in the tree."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from segloss.arguments import not_negative, whole
from segloss.encoding import expect_shape
from segloss.engine.block import check_labels
from segloss.engine.constants import constant
from segloss.label_tree import LabelTree
from segloss.shapes import Logits, Reduced, Target

__all__ = ["TreeTripletLoss"]


@final
class TreeTripletLoss(nn.Module):
    r"""Triplets of voxels: a sibling class must be nearer than a class elsewhere in the tree.

    .. math::

        \max(0, d(a, s) - d(a, o) + m), \qquad
        m = m_0 + m_1 \frac{\psi(a, o) - \psi(a, s)}{2 D}

    with d = 1 - cosine, a an anchor, s a voxel of another leaf with the same parent, o one of a leaf
    with another parent, ψ the steps between two leaves up and down the tree, and D its depth. For
    each class at most `triplets` are drawn, by PyTorch's generator; the mean is over the classes of
    which there are any. Leaves at the top of the tree have no siblings, and are no anchors.

    A class's voxels must be spread over few embeddings, so this is for a small map of features of a
    network, with a head of its own, next to a loss of its logits. The paper raises its weight from
    0 to 0.5 by a cosine, `segloss.Cosine`.

    Args:
        tree: The classes; the target holds the numbers of its leaves.
        smallest: m₀.
        scale: m₁.
        triplets: How many to draw for a class at most.
        ignore: Label of the voxels that count for nothing.

    References:
        Li et al., "Deep hierarchical semantic segmentation", CVPR 2022. The defaults give the margin
        of its code, 0.6, for trees of depth 2.

    Example:
        >>> import torch
        >>> from segloss import LabelTree
        >>> loss = TreeTripletLoss(LabelTree({"tumour": ["oedema", "core"], "eye": None}))
        >>> embedding, labels = torch.eye(3).T[None, :, None], torch.tensor([[[1, 2, 3]]])
        >>> loss(embedding, labels)
        tensor(0.3500)
    """

    def __init__(
        self,
        tree: LabelTree,
        *,
        smallest: float = 0.1,
        scale: float = 1.0,
        triplets: int = 200,
        ignore: int | None = None,
    ) -> None:
        super().__init__()
        self.tree = tree
        self.smallest = not_negative("smallest", smallest)
        self.scale = not_negative("scale", scale)
        self.triplets = whole("triplets", triplets)
        self.ignore = ignore
        above = [set(tree.ancestors(leaf)) for leaf in tree.leaves]
        self._steps = [tuple(len(one ^ other) for other in above) for one in above]
        self._depth = max(map(len, above))
        self._parents = tuple(tree.parents[leaf] for leaf in tree.leaves)

    def forward(self, embedding: Logits, target: Target) -> Reduced:
        """The loss of a batch.

        Args:
            embedding: ``(b, e, *space)``.
            target: Labels, ``(b, *space)`` or ``(b, 1, *space)``, of the embedding's size or larger:
                they are resampled to it, each voxel taking its nearest.
        """
        b, _, *space = embedding.shape
        labels = target if target.ndim == embedding.ndim else target[:, None]
        expect_shape("target", labels, (b, 1, *labels.shape[2:]))
        if list(labels.shape[2:]) != space:
            labels = interpolate(labels.double(), size=space, mode="nearest-exact")
        count = len(self._parents)
        flat = labels.flatten()
        ignored = flat == self.ignore if self.ignore is not None else torch.zeros_like(flat).bool()
        flat = flat.masked_fill(ignored, 0)
        check_labels("the target", flat, count, f"the tree has {count} leaves")
        flat = flat.long().masked_fill(ignored, -1)
        dtype = torch.promote_types(embedding.dtype, torch.float32)
        with torch.autocast(embedding.device.type, enabled=False):
            vectors = normalize(embedding.movedim(1, -1).flatten(0, -2).to(dtype), dim=1)
            values = [self._of_class(vectors, flat, leaf) for leaf in range(count)]
        found = [value for value in values if value is not None]
        return torch.stack(found).mean() if found else vectors.sum() * 0

    def extra_repr(self) -> str:
        """The options, as the constructor takes them."""
        options = ("tree", "smallest", "scale", "triplets", "ignore")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)

    def _of_class(self, vectors: Tensor, labels: Tensor, leaf: int) -> Tensor | None:
        """The mean over the triplets whose anchors are of that leaf, if there are any.

        Ignored voxels have the label -1.
        """
        parent = self._parents[leaf]
        if parent < 0:
            return None
        anchor, counted = labels == leaf, labels >= 0
        same = constant(self._parents, labels)[labels] == parent
        masks = (anchor, same & counted & ~anchor, ~same & counted)
        groups = [mask.nonzero()[:, 0] for mask in masks]
        count = min(self.triplets, *map(len, groups))
        if count == 0:
            return None
        drawn = [x[torch.randperm(len(x), device=x.device)[:count]] for x in groups]
        this, near, far = (vectors[x] for x in drawn)
        steps = constant(self._steps[leaf], vectors)
        further = steps[labels[drawn[2]]] - steps[labels[drawn[1]]]
        margin = self.smallest + self.scale * further / (2 * self._depth)
        return ((this * far).sum(1) - (this * near).sum(1) + margin).clamp(min=0).mean()
