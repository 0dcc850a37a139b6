"""The YAML file that says which losses `nnUNetTrainerSegLoss` adds, and how.

    fused: true            # nnU-Net's Dice and cross entropy in one pass with the terms
    base_weight: 1         # of nnU-Net's own loss
    terms:
      skeleton_recall: 1
      boundary: {weight: {linear: [0, 1, 500]}}
      lesions: {loss: tversky, weight: 0.5, alpha: 0.3, background: false}
    maps:
      skeleton: {radius: 2, per_class: true}
      distance: {clip: 20, normalize: true}

Only ``terms`` is needed, or ``fused``. Terms are as `segloss.build` takes them, but what the channels
mean follows from the dataset: ``background``, true or false, says whether the background counts.
"""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from segloss.catalogue import CATALOGUE
from segloss.compose import CompoundLoss, Weight
from segloss.config import made, read_term, read_weight
from segloss.encoding import Multiclass
from segloss.engine.groups import Group
from segloss.losses.base import Loss, VoxelLoss
from segloss.nnunet.labels import Labels
from segloss.nnunet.maps import DistanceMap, SkeletonMap, TargetMap
from segloss.yaml_files import NoDuplicates

__all__ = ["CONFIG", "Recipe", "Term", "config_path", "read_recipe"]

CONFIG = "SEGLOSS_NNUNET_CONFIG"
"""The environment variable that names the file."""

_MAPS: dict[str, type[SkeletonMap] | type[DistanceMap]] = {
    "skeleton": SkeletonMap,
    "distance": DistanceMap,
}


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
        background = default.first == 0 if self.background is None else self.background
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
        given = yaml.load(path.read_text(encoding="utf-8"), NoDuplicates)
        found = _known("the file", given, {"terms", "maps", "fused", "base_weight"})
        terms = _typed("terms", found.get("terms", {}), dict)
        fused = _typed("fused", found.get("fused", False), bool)
        if not terms and not fused:
            raise ValueError("there are no terms, and fused is not true: nothing to do")
        maps = _known("maps", found.get("maps", {}), set(_MAPS))
        return Recipe(
            {str(name): _term(name, entry) for name, entry in terms.items()},
            {name: _map(name, options) for name, options in maps.items()},
            fused,
            read_weight("base_weight", found.get("base_weight", 1.0)),
        )
    except (OSError, UnicodeError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def losses() -> dict[str, type[Loss]]:
    """The losses that a term can name.

    They take nnU-Net's labels and the maps that its workers can make, and learn nothing themselves:
    nnU-Net's optimizer knows the network alone.
    """
    return {
        name: entry.loss
        for name, entry in CATALOGUE.items()
        if entry.encoding is not None and _MAPS.keys() >= set(entry.maps) and not entry.learns
    }


def _term(name: str, given: Any) -> Term:
    options = dict(given) if isinstance(given, Mapping) else {"weight": given}
    background = options.pop("background", None)
    if background is not None:
        _typed(f"{name}: background", background, bool)
    for taken in sorted({"encoding", "reduction"} & options.keys()):
        raise ValueError(f"{name}: {taken} follows from the dataset, leave it out")
    found, offered = read_term(name, options), losses()
    if found.entry.name not in offered:
        raise ValueError(f"{name}: loss {found.entry.name!r} is none of {', '.join(offered)}")
    term = Term(found.entry.loss, found.weight, background, found.options)
    regions = not issubclass(Multiclass, term.loss.takes)
    loss = made(name, term.build, Labels(1, regions), "sample")  # complains about its options
    CompoundLoss({name: loss})  # and its name
    return term


def _map(name: str, options: Any) -> TargetMap:
    label = f"maps: {name}"
    kind, given = _MAPS[name], _typed(label, options, dict)
    for option in fields(kind):
        if option.type is bool:
            _typed(f"{label}: {option.name}", given.get(option.name, option.default), bool)
    made_map: TargetMap = made(label, kind, **given)
    return made_map


def _known(name: str, given: Any, keys: set[str]) -> dict[str, Any]:
    for key in sorted(map(str, _typed(name, given, dict).keys() - keys)):
        raise ValueError(f"{name} has a key {key!r}, expected {', '.join(sorted(keys))}")
    return given  # type: ignore[no-any-return]


def _typed(name: str, given: Any, kind: type) -> Any:
    if not isinstance(given, kind):
        raise TypeError(f"{name} is {given!r}, expected a {kind.__name__}")
    return given
