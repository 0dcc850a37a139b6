"""The rows by ordinary autograd, over one block as large as the batch: for second derivatives."""

import torch
from torch import Tensor

from segloss.activation import Affine, Sigmoid, Softmax
from segloss.encoding import Encoded, numbered
from segloss.engine.block import Block
from segloss.engine.kernels.batch import Batch
from segloss.engine.sums import Request, dense_sums
from segloss.engine.voxel import CrossEntropy, Phi, phi_of

__all__ = ["PHIS", "dense_rows"]

PHIS: dict[str, Phi] = {"cross entropy": CrossEntropy()}
"""The functions φ that were asked for, by name: equal names are equal functions."""


def dense_rows(batch: Batch) -> Tensor:
    """The sums of the rows, ``(b, rows, c)``."""
    encoded = Encoded(
        logits=batch.logits,
        target=batch.target,
        activation=Softmax() if batch.softmax else Sigmoid(),
        ignore=batch.ignore,
        weight=batch.weight,
        maps={str(i): x for i, x in enumerate(batch.maps)},
        classes=numbered(batch.logits),
        affine=Affine(*batch.affine) if batch.affine else None,
    )
    with torch.autocast(batch.logits.device.type, enabled=False):
        return torch.stack([_row(encoded, row) for row in batch.rows.split("; ")], 1)


def _row(encoded: Encoded, row: str) -> Tensor:
    if row.startswith("wrong"):
        return encoded.classes.new_zeros(len(encoded.logits), len(encoded.classes))
    if not row.startswith(("yes ", "no ", "label ")):
        return dense_sums(encoded, Request((row,)))[0][row]
    answer, _, phi = row.partition(" ")
    block = Block(encoded)
    if answer == "label":
        return block.weighted(block.pred * block.true[:, int(phi), None]).sum(2)
    if isinstance(encoded.activation, Softmax):
        m = block.cross_entropy
    else:
        m = -block.answers[0 if answer == "yes" else 1]
    said = block.true if answer == "yes" else 1 - block.true
    return block.weighted(said * phi_of(PHIS[phi], m)).sum(2)
