"""Sums over the voxels of each number."""
# mypy: allow-untyped-defs, allow-untyped-calls

from segloss.compiled import compiled

__all__ = ["add_up_by_number"]


@compiled
def add_up_by_number(numbers, pred, overlap, true, out):
    """Add up Σ w p, Σ w p y and Σ w y over the voxels of each number.

    Args:
        numbers: ``(k, n)``, from 0, below the last axis of `out`.
        pred: w p, ``(k, n)``.
        overlap: w p y.
        true: w y.
        out: ``(3, k, ·)`` float64.
    """
    for node in range(len(numbers)):
        for v in range(numbers.shape[1]):
            number = numbers[node, v]
            out[0, node, number] += pred[node, v]
            out[1, node, number] += overlap[node, v]
            out[2, node, number] += true[node, v]
