"""Which rows the sums of a request are made of, and how they are put together again."""

from dataclasses import MISSING, fields
from typing import Any

import torch
from torch import Tensor

from segloss.activation import Affine, Outcomes, Sigmoid, Softmax
from segloss.encoding import Encoded
from segloss.engine import confusion
from segloss.engine.block import check_labels
from segloss.engine.kernels import phi
from segloss.engine.kernels.batch import WIDEST, named_numbers
from segloss.engine.kernels.dense import PHIS
from segloss.engine.kernels.operators import row_sums
from segloss.engine.logit_cost import CostSum
from segloss.engine.sums import Request, Sums, map_of
from segloss.engine.voxel import VoxelSum, label_weight

__all__ = ["sums", "supports"]

_OF_PREDICTIONS = frozenset({"count", "pred", "pred_squared"})
_OF_TARGETS = frozenset({"true", "overlap", "true_squared", "alarm", "miss", "rejected"}).union(
    {"pred_squared_true", "pred_squared_rest"}
)
_LEAVES = 16  # of a tree: each brings as many sums as there are channels
_FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_WHOLE = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def _but(kind: Any, *names: str) -> tuple[tuple[str, object], ...]:
    """The other fields of a dataclass, with their defaults."""
    return tuple((x.name, x.default) for x in fields(kind) if x.name not in names)


# What the kernels know nothing of, and so must be as if it were not there.
_FURTHER_IN = {
    Encoded: _but(
        Encoded,
        *("logits", "target", "activation", "outcomes", "ignore", "weight", "maps", "classes"),
        "affine",
    ),
    Affine: _but(Affine, "slope", "shift", "margin"),
    Outcomes: _but(Outcomes, "member", "named", "described", "sets", "single", "plain"),
    Request: _but(Request, "regions", "voxels"),
    VoxelSum: _but(VoxelSum, "phi", "class_weight", "of", "no"),
}
assert all(default is not MISSING for rest in _FURTHER_IN.values() for _, default in rest)


def supports(encoded: Encoded, request: Request) -> bool:
    """Whether the kernels can compute all that is asked for; it is asked for with every batch."""
    softmax = isinstance(encoded.activation, Softmax)
    return (
        _is_plain(encoded, Encoded)
        and _is_plain(request, Request)
        and (encoded.affine is None or _is_plain(encoded.affine, Affine))
        and (_is_flat(encoded) or _names_leaves(encoded, request))
        and encoded.logits.shape[1] <= WIDEST
        and encoded.logits.dtype in _FLOATING
        and all(
            x is None or x.dtype in _FLOATING or x.dtype in _WHOLE
            for x in (encoded.target, encoded.weight, *encoded.maps.values())
        )
        and bool(request.regions or request.voxels)
        and all(_has_row(name, encoded) for name in request.regions)
        and all(_has_rows(term, softmax) for term in request.voxels)
    )


def sums(encoded: Encoded, request: Request) -> tuple[Sums, Tensor]:
    """What `segloss.engine.sums.one_pass` returns, differentiable as often."""
    softmax, affine = isinstance(encoded.activation, Softmax), encoded.affine
    given = () if affine is None else (affine.slope, affine.shift, affine.margin)
    affine_of = [x for x in given if x is not None]
    nodes = encoded.outcomes is not None and bool(request.regions)
    leaves = [f"label {i}" for i in range(encoded.logits.shape[1])] if nodes else []
    regions = {} if nodes else {name: _row(name, encoded) for name in request.regions}
    answers = [_answers(term, softmax) for term in request.voxels]
    norm = "true" if softmax else "count"
    wanted = [*regions.values(), *(row for own in answers for row in (*own, norm))]
    wanted += [*leaves, "true"] if nodes else []
    checks = _checks(encoded, _reads_target(encoded, request))
    rows = list(dict.fromkeys([*wanted, *checks]))
    packed: Tensor = row_sums(
        encoded.logits,
        encoded.target,
        encoded.weight,
        affine_of,
        list(encoded.maps.values()),
        "; ".join(rows),
        softmax,
        encoded.ignore,
    )
    found = dict(zip(rows, packed.unbind(1), strict=True))
    for row, (name, labels) in checks.items():
        _require_classes(found[row].detach()[:, 0] == 0, name, labels, encoded)
    voxels = [packed.new_empty(0, 2, len(packed))]
    for term, own in zip(request.voxels, answers, strict=True):
        both = torch.stack((torch.stack([found[row] for row in own]).sum(0), found[norm]))
        if term.class_weight is not None:
            both = both * label_weight(term.class_weight, encoded.outcomes, both)
        voxels.append(both.sum(2)[None])
    if nodes:
        found = _node_sums(found, leaves, encoded)
        regions = {name: name for name in request.regions}
    return {name: found[row] for name, row in regions.items()}, torch.cat(voxels)


def _is_plain(x: object, kind: type) -> bool:
    return type(x) is kind and all(getattr(x, name) is like for name, like in _FURTHER_IN[kind])


def _is_flat(encoded: Encoded) -> bool:
    of_channels = getattr(encoded.activation, "members", None) is None
    return type(encoded.activation) in (Softmax, Sigmoid) and of_channels and not encoded.outcomes


def _names_leaves(encoded: Encoded, request: Request) -> bool:
    """Whether labels are leaves of a small tree, and all sums follow from their confusion."""
    return (
        isinstance(encoded.activation, Softmax)
        and encoded.outcomes is not None
        and encoded.outcomes.plain
        and _is_plain(encoded.outcomes, Outcomes)
        and encoded.affine is None
        and not encoded.maps
        and encoded.logits.shape[1] <= _LEAVES
        and set(confusion.instead_of(request.regions)) <= set(confusion.SUMS)
    )


def _node_sums(found: dict[str, Tensor], leaves: list[str], encoded: Encoded) -> Sums:
    """The sums of the nodes of a tree, from those of each label."""
    assert isinstance(encoded.activation, Softmax) and encoded.outcomes is not None
    matrix = torch.stack([found[row] for row in leaves], 2)
    sums = {"confusion": matrix, "tally": found["true"]}
    return confusion.node_sums(sums, encoded.outcomes, encoded.activation.members)


def _has_row(name: str, encoded: Encoded) -> bool:
    factor, read = _factor(name), map_of(name)
    if read is not None and read not in encoded.maps:
        return False
    if factor.startswith("error^"):
        return float(factor.removeprefix("error^")) >= 1
    return factor in _OF_PREDICTIONS or factor in _OF_TARGETS


def _factor(name: str) -> str:
    """What a region sum multiplies its map by."""
    return name if map_of(name) is None else name.rpartition("*")[0] or "count"


def _has_rows(term: VoxelSum | CostSum, softmax: bool) -> bool:
    if not isinstance(term, VoxelSum) or not _is_plain(term, VoxelSum):
        return False
    by_label = term.of == "label" or (term.of == "step" and term.class_weight is None)
    if softmax and not by_label:
        return False
    return {named_numbers(x.name)[0] for x in (term.phi, term.phi_of_no)} <= phi.NAMES


def _row(name: str, encoded: Encoded) -> str:
    """The row of a region sum: its name, with the number of the map."""
    read = map_of(name)
    if read is None:
        return name
    factor, times, values = name.rpartition("*")
    number = list(encoded.maps).index(read)
    return f"{factor}{times}{number}{values.removeprefix(read)}"


def _answers(term: VoxelSum | CostSum, softmax: bool) -> list[str]:
    """The rows of a voxel sum."""
    assert isinstance(term, VoxelSum), "`supports` said so"
    if not torch.compiler.is_compiling():
        PHIS.update({x.name: x for x in (term.phi, term.phi_of_no)})
    yes, no = f"yes {term.phi.name}", f"no {term.phi_of_no.name}"
    return [yes] if softmax else [yes, no]


def _reads_target(encoded: Encoded, request: Request) -> bool:
    margin = encoded.affine is not None and encoded.affine.margin is not None
    of_targets = any(_factor(name) not in _OF_PREDICTIONS for name in request.regions)
    return margin or of_targets or bool(request.voxels)


def _checks(encoded: Encoded, target_is_read: bool) -> dict[str, tuple[str, Tensor]]:
    """The rows that say whether labels are wrong: of what, and the labels."""
    given = {"wrong": ("target", encoded.target)} if target_is_read else {}
    for number, (name, values) in enumerate(encoded.maps.items()):
        given[f"wrong {number}"] = f"{name} map", values
    return {row: (name, x) for row, (name, x) in given.items() if x.ndim == 2}


def _require_classes(right: Tensor, name: str, labels: Tensor, encoded: Encoded) -> None:
    c, tree = encoded.logits.shape[1], encoded.outcomes
    if right.device.type != "cpu" or torch.compiler.is_compiling():
        message = f"{name} holds labels that are not integers from 0 to {c - 1}"
        torch._assert_async(right.all(), message)
    elif not right.all():  # what is wrong with them, in the words of the other engine
        if name == "target" and encoded.ignore is not None:
            labels = labels.masked_fill(labels == encoded.ignore, 0)
        given = f"the input has {c} channels"
        check_labels(name, labels, c, given if tree is None else tree.described)
