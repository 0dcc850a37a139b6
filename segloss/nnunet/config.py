"""The YAML file that says which losses `nnUNetTrainerSegLoss` adds, and how.

    fused: true            # nnU-Net's Dice and cross entropy in one pass with the terms
    base_weight: 1         # of nnU-Net's own loss
    terms:
      skeleton_recall: {loss: SkeletonRecallLoss, weight: 1}
      boundary:
        loss: BoundaryLoss
        weight: {schedule: Linear, start: 0, end: 1, steps: 500}
    maps:
      skeleton: {radius: 2, per_class: true}
      distance: {clip: 20, normalize: true}

Only ``terms`` is needed, or ``fused``. Terms have names of your choice, for the log; their other
keys are the options of the loss, and ``background: true`` scores the background, too.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import segloss
from segloss.arguments import not_negative
from segloss.compose import Weight
from segloss.encoding import Multiclass
from segloss.engine.groups import Group
from segloss.losses.base import Loss, VoxelLoss
from segloss.nnunet.labels import Labels
from segloss.nnunet.maps import DistanceMap, SkeletonMap, TargetMap
from segloss.schedules import Constant, Cosine, Linear, Step

__all__ = ["CONFIG", "Recipe", "Term", "config_path", "read_recipe"]

CONFIG = "SEGLOSS_NNUNET_CONFIG"
"""The environment variable that names the file."""

_SCHEDULES = {schedule.__name__: schedule for schedule in (Constant, Cosine, Linear, Step)}
_MAPS: dict[str, Callable[..., TargetMap]] = {"skeleton": SkeletonMap, "distance": DistanceMap}


@dataclass(frozen=True)
class Term:
    """A loss with its weight, before the labels of a dataset are known."""

    loss: type[Loss]
    weight: Weight = 1.0
    background: bool | None = None
    """Whether the background is scored; None: as the loss does by default."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, labels: Labels, group: Group) -> Loss:
        """The loss for a dataset; `group` is that of nnU-Net's Dice, for losses that have sums."""
        default = inspect.signature(self.loss).parameters["encoding"].default
        background = default.background if self.background is None else self.background
        pooled = {} if issubclass(self.loss, VoxelLoss) else {"group": group}
        return self.loss(labels.encoding(background), **{**pooled, **self.options})


@dataclass(frozen=True)
class Recipe:
    """What a trainer adds to nnU-Net's loss; see `segloss.nnunet.config`."""

    terms: Mapping[str, Term]
    maps: Mapping[str, TargetMap] = field(default_factory=dict)
    fused: bool = False
    base_weight: Weight = 1.0


def config_path() -> Path:
    """The file that the environment names.

    Raises:
        ValueError: If it names none.
    """
    if not os.environ.get(CONFIG):
        raise ValueError(
            f"nnUNetTrainerSegLoss reads its losses from a YAML file: export {CONFIG}=/path/to/it"
        )
    return Path(os.environ[CONFIG])


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        ValueError: If it cannot be read, or holds anything that is not understood.
    """
    try:
        given = yaml.safe_load(path.read_text())
        found = _known("the file", given, {"terms", "maps", "fused", "base_weight"})
        terms = _typed("terms", found.get("terms", {}), dict)
        fused = _typed("fused", found.get("fused", False), bool)
        if not terms and not fused:
            raise ValueError("there are no terms, and fused is not true: nothing to do")
        maps = _known("maps", found.get("maps", {}), set(_MAPS))
        return Recipe(
            {str(name): _term(name, entry) for name, entry in terms.items()},
            {name: _made(f"maps: {name}", _MAPS[name], options) for name, options in maps.items()},
            fused,
            _weight("base_weight", found.get("base_weight", 1.0)),
        )
    except (OSError, UnicodeError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def losses() -> dict[str, type[Loss]]:
    """The losses that a term can name.

    They take nnU-Net's labels and the maps that its workers can make, and learn nothing themselves:
    nnU-Net's optimizer knows the network alone.
    """
    public = [getattr(segloss, name) for name in segloss.__all__]
    kinds: list[Any] = [
        each
        for each in public
        if inspect.isclass(each)
        and issubclass(each, Loss)
        and not inspect.isabstract(each)
        and isinstance(inspect.signature(each).parameters["encoding"].default, Multiclass)
    ]
    made: list[Loss] = [kind() for kind in kinds]
    return {
        type(loss).__name__: type(loss)
        for loss in made
        if loss.request.maps | loss.reads <= _MAPS.keys() and not list(loss.parameters())
    }


def _term(name: str, given: Any) -> Term:
    options, known = dict(_typed(name, given, dict)), losses()
    loss = options.pop("loss", None)
    if loss not in known:
        raise ValueError(f"{name}: loss {loss!r} is none of {', '.join(known)}")
    weight = _weight(f"{name}: weight", options.pop("weight", 1.0))
    background = options.pop("background", None)
    if background is not None:
        _typed(f"{name}: background", background, bool)
    for taken in sorted({"encoding", "reduction"} & options.keys()):
        raise ValueError(f"{name}: {taken} follows from the dataset, leave it out")
    term = Term(known[loss], weight, background, options)
    _made(name, lambda **_: term.build(Labels(1), "sample"), {})  # complains about its options
    return term


def _weight(name: str, given: Any) -> Weight:
    if not isinstance(given, Mapping):
        return not_negative(name, given)
    arguments = dict(given)
    schedule = arguments.pop("schedule", None)
    if schedule not in _SCHEDULES:
        raise ValueError(f"{name}: schedule {schedule!r} is none of {', '.join(_SCHEDULES)}")
    made: Weight = _made(name, _SCHEDULES[schedule], arguments)
    return made


def _made(name: str, kind: Callable[..., Any], arguments: Any) -> Any:
    options = _typed(name, arguments, dict)
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _known(name: str, given: Any, keys: set[str]) -> dict[str, Any]:
    for key in sorted(map(str, _typed(name, given, dict).keys() - keys)):
        raise ValueError(f"{name} has a key {key!r}, expected {', '.join(sorted(keys))}")
    return given  # type: ignore[no-any-return]


def _typed(name: str, given: Any, kind: type) -> Any:
    if not isinstance(given, kind):
        raise TypeError(f"{name} is {given!r}, expected a {kind.__name__}")
    return given
