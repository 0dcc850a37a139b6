"""Logits and labels of the nodes of a tree, as the engine reads them."""

from collections.abc import Callable, Mapping

from torch import Tensor

from segloss.activation import Activation, Outcomes
from segloss.encoding import (
    Encoded,
    checked_logits,
    expect_shape,
    flat_weight,
    held,
    maker,
    numbered,
)
from segloss.shapes import Logits, Map, Target

__all__ = ["encoded_nodes"]


def encoded_nodes(
    logits: Logits,
    target: Target,
    maps: Mapping[str, Map],
    *,
    channels: tuple[str, ...],
    wanted_by: object,
    nodes: int,
    activation: Callable[[Tensor], Activation],
    outcomes: Outcomes,
    ignore: int | None = None,
) -> Encoded:
    """Check the shapes and flatten them.

    Args:
        logits: ``(b, c, *space)``.
        target: Labels, ``(b, *space)`` or ``(b, 1, *space)``.
        maps: Each ``(b, v, *space)``, and maybe a ``weight``.
        channels: What the channels of the logits stand for.
        wanted_by: What needs them, for an error message.
        nodes: v, how many nodes are scored.
        activation: Makes it in the type and place of a tensor.
        outcomes: What the labels say of the nodes.
        ignore: Label of the voxels that count for nothing.

    Raises:
        ValueError: If a shape is none of these.
    """
    b, c, space = checked_logits(logits)
    if c != len(channels):
        raise ValueError(
            f"input has {c} channels, but {wanted_by} needs {len(channels)} for this tree: "
            f"{', '.join(channels)}"
        )
    expect_shape("target", target, (b, *space), (b, 1, *space))
    own = {name: m for name, m in maps.items() if name != "weight"}
    for name, m in own.items():
        hint = f", a channel for each node; {name} is {maker(name)}"
        expect_shape(f"{name} map", m, (b, nodes, *space), hint=hint)
    classes = numbered(logits, max(c, nodes, len(outcomes.member)))
    return Encoded(
        logits=logits.flatten(2),
        target=target.reshape(b, -1),
        activation=activation(classes),
        ignore=held(ignore, target),
        weight=flat_weight(maps, (b, *space), (b, 1, *space)),
        maps={name: m.flatten(2) for name, m in own.items()},
        classes=classes,
        outcomes=outcomes,
    )
