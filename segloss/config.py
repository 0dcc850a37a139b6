"""Losses from plain data, as YAML files and MONAI's bundles hold it.

encoding: {multiclass: {ignore: 255}}
losses:
  dice: 1                                     # a weight
  cross_entropy: {weight: 0.5}                # or the weight and the options of the loss
  thin: {loss: skeleton_recall, smooth_nr: 0} # under a name of your own, for the log
  boundary: {weight: {linear: [0, 1, 500]}}   # a weight that follows a schedule
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from segloss.arguments import known, not_negative
from segloss.catalogue import CATALOGUE, Entry
from segloss.compose import CompoundLoss, Weight
from segloss.encoding import Encoding, Multiclass, Multilabel
from segloss.losses.base import Loss
from segloss.schedules import Constant, Cosine, Linear, Step

__all__ = ["Term", "build", "made", "read_term", "read_weight"]

_ENCODINGS: dict[str, type[Multiclass | Multilabel]] = {
    "multiclass": Multiclass,
    "multilabel": Multilabel,
}
_SCHEDULES: dict[str, Callable[..., Weight]] = {
    "constant": Constant,
    "cosine": Cosine,
    "linear": Linear,
    "step": Step,
}


@overload
def build(  # type: ignore[overload-overlap] # a string is a sequence of strings, too
    losses: str, encoding: Encoding | str | Mapping[str, Any] | None = None
) -> Loss: ...


@overload
def build(
    losses: Sequence[str | Mapping[str, Any]] | Mapping[str, Any],
    encoding: Encoding | str | Mapping[str, Any] | None = None,
) -> CompoundLoss: ...


def build(
    losses: str | Sequence[str | Mapping[str, Any]] | Mapping[str, Any],
    encoding: Encoding | str | Mapping[str, Any] | None = None,
) -> Loss | CompoundLoss:
    """A loss, or a sum of losses, from names and numbers: for YAML files and MONAI's bundles.

    Args:
        losses: One name of `segloss.list_losses` gives that loss. A mapping gives a
            `segloss.CompoundLoss`: from each term's name to its weight, or to its ``weight`` (1 if
            left out), its ``loss`` (if the term's name is your own) and the options of the loss,
            ``encoding`` among them. A list of names and of such mappings will do, too. A weight is
            a number or a schedule: an object, or ``{"linear": [0, 1, 500]}``, with the arguments of
            `segloss.Linear`, `segloss.Cosine`, `segloss.Step` or `segloss.Constant` in order or by
            name.
        encoding: Of all terms that have none of their own: an encoding, or ``"multiclass"``,
            ``"multilabel"``, ``{"multiclass": {"ignore": 255}}``. From plain data, whatever is not
            said stays as each loss has it by default, such as whether the background counts.

    Raises:
        ValueError: If a name is not known, or an option's value will not do.
        TypeError: If anything is of the wrong kind, or a loss needs an encoding that is not given.

    Example:
        >>> from segloss import build
        >>> loss = build({"dice": 1, "skeleton_recall": {"weight": 0.5, "smooth_nr": 0}})
        >>> loss.weights
        {'dice': 1.0, 'skeleton_recall': 0.5}
        >>> build("focal", encoding="multilabel").encoding
        Multilabel(ignore=None)
        >>> build({"dise": 1})
        Traceback (most recent call last):
        ValueError: dise: loss 'dise' is not known: did you mean 'dice'?
    """
    if isinstance(losses, str):
        return read_term("losses", {"loss": losses}).build(encoding)
    if isinstance(losses, Mapping):
        terms = {name: read_term(name, given) for name, given in losses.items()}
        return CompoundLoss({k: (term.weight, term.build(encoding)) for k, term in terms.items()})
    if not isinstance(losses, Sequence):
        raise TypeError(f"losses must be a name, a list or a mapping of names, got {losses!r}")
    named = [{"loss": given} if isinstance(given, str) else given for given in losses]
    for i, given in enumerate(named):
        if not isinstance(given, Mapping) or "loss" not in given:
            raise TypeError(
                f"losses[{i}] must be a name, or a mapping with the name as its loss, got {given!r}"
            )
    listed = [read_term(f"losses[{i}]", given) for i, given in enumerate(named)]
    return CompoundLoss([(term.weight, term.build(encoding)) for term in listed])


@dataclass(frozen=True)
class Term:
    """A loss with its weight and its options, before its encoding is known."""

    name: str
    entry: Entry
    weight: Weight = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, encoding: Encoding | str | Mapping[str, Any] | None) -> Loss:
        """The loss; `encoding` is for a term that has none of its own."""
        options = dict(self.options)
        given = options.pop("encoding", encoding)
        if given is not None:
            given = made(self.name, _encoding, given, self.entry.encoding)
            options["encoding"] = given
        elif self.entry.encoding is None:
            raise TypeError(
                f"{self.name}: {self.entry.loss_name} has no encoding by default: pass encoding="
            )
        loss: Loss = made(self.name, self.entry.loss, **options)
        return loss


def read_term(name: str, given: Any) -> Term:
    """A term from its weight, or a mapping; the loss is called as the term unless it says so."""
    options = dict(given) if isinstance(given, Mapping) else {"weight": given}
    weight = read_weight(f"{name}: weight", options.pop("weight", 1.0))
    entry = CATALOGUE[known(f"{name}: loss", options.pop("loss", name), tuple(CATALOGUE))]
    for option in options:
        known(f"{name}: option", option, _options(entry.loss))
    return Term(name, entry, weight, options)


def read_weight(name: str, given: Any) -> Weight:
    """A number, a schedule, or a schedule from a mapping of its name to its arguments."""
    if callable(given):
        return given  # type: ignore[no-any-return]
    if not isinstance(given, Mapping):
        return not_negative(name, given)
    kind, arguments = _single(name, given)
    schedule = _SCHEDULES[known(f"{name}: schedule", kind, tuple(_SCHEDULES))]
    if isinstance(arguments, Mapping):
        return made(name, schedule, **arguments)  # type: ignore[no-any-return]
    listed = arguments if isinstance(arguments, Sequence) else [arguments]
    return made(name, schedule, *listed)  # type: ignore[no-any-return]


def made(name: str, kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What the call makes; an error says of which entry it is."""
    try:
        return kind(*args, **options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error


def _encoding(given: Any, default: Encoding | None) -> Encoding:
    """The encoding, what is not said being as in the default."""
    if isinstance(given, Encoding):
        return given
    kind, options = (given, {}) if isinstance(given, str) else _single("encoding", given)
    encoding = _ENCODINGS[known("encoding", kind, tuple(_ENCODINGS))]
    if not isinstance(options, Mapping):
        raise TypeError(f"encoding {kind!r} must have a mapping of options, got {options!r}")
    if isinstance(default, Multiclass) and encoding is Multiclass:
        return replace(default, **options)
    return encoding(**options)


def _single(name: str, given: Any) -> tuple[Any, Any]:
    """The key and the value of a mapping that has one."""
    if not isinstance(given, Mapping) or len(given) != 1:
        raise TypeError(f"{name} must be a mapping from one name to its arguments, got {given!r}")
    ((kind, arguments),) = given.items()
    return kind, arguments


def _options(loss: type[Loss]) -> tuple[str, ...]:
    """The options of a loss, its bases' among them, which its signature does not spell out."""
    named = [inspect.signature(base).parameters.values() for base in loss.__mro__[:-1]]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(dict.fromkeys(p.name for row in named for p in row if p.kind in kinds))
