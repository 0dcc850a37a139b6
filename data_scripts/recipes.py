"""Which maps to make, and how: the options of each, from the command line or a YAML file."""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import yaml

from segloss.transforms.arrays import (
    Convention,
    LabelMap,
    Regions,
    WeightKind,
    one_of,
    positive,
    whole,
)
from segloss.transforms.channels import (
    Channels,
    band_channels,
    distance_channels,
    distance_count,
    instance_channels,
    skeleton_channels,
    weight_channels,
)
from segloss.yaml_files import NoDuplicates

__all__ = ["RECIPES", "Config", "Distance", "Label", "Recipe", "RecipeError", "Skeleton"]

Array = npt.NDArray[Any]


class RecipeError(ValueError):
    """The maps asked for cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Label:
    """A label as the recipes see it."""

    channels: Channels
    """One channel of class ids, or a region each."""
    num_classes: int | None
    """With background; None for regions, or if no map needs it."""
    ignore: int | None
    spacing: tuple[float, ...] | None
    centrelines: Sequence[LabelMap]
    """Of each channel, as `Skeleton` wants it."""


class Recipe(ABC):
    """How a kind of map is made. The fields of a subclass are its options in the YAML file."""

    def step(self, label: Label) -> float | None:
        """The step in which lengths are stored, or None for what is stored as it is."""
        return None

    def count(self, label: Label) -> int:
        """How many channels the map has."""
        return len(label.channels)

    @abstractmethod
    def dtype(self, label: Label) -> npt.DTypeLike:
        """What the map is stored as if not in steps."""

    @abstractmethod
    def make(self, label: Label) -> Iterator[Array]:
        """The map, channel after channel."""


@dataclass(frozen=True)
class Skeleton(Recipe):
    """See `segloss.transforms.TubedSkeleton`."""

    radius: int = 2
    per_class: bool = False

    def __post_init__(self) -> None:
        whole("radius", self.radius, least=0)

    def dtype(self, label: Label) -> npt.DTypeLike:
        return np.uint8 if len(label.channels) > 1 else label.channels[0].dtype

    def make(self, label: Label) -> Iterator[Array]:
        return skeleton_channels(
            label.channels,
            radius=self.radius,
            per_class=self.per_class,
            ignore=label.ignore,
            dtype=self.dtype(label),
            centrelines=label.centrelines,
        )


@dataclass(frozen=True)
class Distance(Recipe):
    """See `segloss.transforms.SignedDistance`."""

    background: bool = False
    convention: str = "face"
    clip: float | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        one_of("convention", self.convention, Convention)
        if self.clip is not None:
            positive("clip", self.clip)

    @property
    def exact(self) -> bool:
        """Whether the map holds the distances themselves."""
        return self.convention == "face" and self.clip is None and not self.normalize

    def step(self, label: Label) -> float | None:
        """A 64th of a mm or voxel; less where voxels are small, so that a voxel is 16 steps."""
        if self.normalize:
            return 2.0**-14
        smallest = min(label.spacing or (1.0,))
        return 2.0 ** min(-6, math.floor(math.log2(smallest / 16)))

    def count(self, label: Label) -> int:
        return distance_count(
            label.channels, num_classes=label.num_classes, background=self.background
        )

    def dtype(self, label: Label) -> npt.DTypeLike:
        return np.float32

    def make(self, label: Label) -> Iterator[Array]:
        return distance_channels(
            label.channels,
            num_classes=label.num_classes,
            background=self.background,
            spacing=label.spacing,
            ignore=label.ignore,
            convention=self.convention,
            clip=self.clip,
            normalize=self.normalize,
        )


@dataclass(frozen=True)
class Instances(Recipe):
    """See `segloss.transforms.InstanceRegions`."""

    regions: str = "components"
    connectivity: int | None = None

    def __post_init__(self) -> None:
        one_of("regions", self.regions, Regions)
        if self.connectivity is not None:
            whole("connectivity", self.connectivity, least=1)

    def dtype(self, label: Label) -> npt.DTypeLike:
        return np.int32

    def make(self, label: Label) -> Iterator[Array]:
        return instance_channels(
            label.channels,
            regions=self.regions,
            connectivity=self.connectivity,
            spacing=label.spacing,
            ignore=label.ignore,
        )


@dataclass(frozen=True)
class Band(Recipe):
    """See `segloss.transforms.BoundaryBand`."""

    width: float = 2.0

    def __post_init__(self) -> None:
        positive("width", self.width)

    def dtype(self, label: Label) -> npt.DTypeLike:
        return np.uint8

    def make(self, label: Label) -> Iterator[Array]:
        return band_channels(
            label.channels, width=self.width, spacing=label.spacing, ignore=label.ignore
        )


@dataclass(frozen=True)
class Weight(Recipe):
    """See `segloss.transforms.BoundaryWeight`."""

    kind: str = "distance"
    strength: float = 10.0
    sigma: float = 5.0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, WeightKind)
        positive("strength", self.strength)
        positive("sigma", self.sigma)

    def dtype(self, label: Label) -> npt.DTypeLike:
        return np.float32

    def make(self, label: Label) -> Iterator[Array]:
        return weight_channels(
            label.channels,
            kind=self.kind,
            strength=self.strength,
            sigma=self.sigma,
            spacing=label.spacing,
            ignore=label.ignore,
        )


RECIPES: Mapping[str, type[Recipe]] = {
    "skeleton": Skeleton,
    "distance": Distance,
    "instances": Instances,
    "band": Band,
    "weight": Weight,
}


@dataclass(frozen=True)
class Config:
    """What a YAML file may say, all of it optional.

    Example:
        >>> Config.of({"maps": {"skeleton": {"radius": 3}}}).recipes("skeleton,band")
        {'skeleton': Skeleton(radius=3, per_class=False), 'band': Band(width=2.0)}
    """

    maps: Mapping[str, Mapping[str, Any]]
    """Options of each map."""
    classes: int | None = None
    """Number of classes, with background."""
    ignore: int | None = None
    """The label of unknown voxels."""

    @classmethod
    def read(cls, path: Path) -> "Config":
        """What a file says.

        Raises:
            RecipeError: If it cannot be read, is no YAML, or says something unknown.
        """
        try:
            return cls.of(yaml.load(path.read_text(encoding="utf-8"), NoDuplicates) or {})
        except OSError as error:
            raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error

    @classmethod
    def of(cls, content: Any) -> "Config":
        """What the content of a file says; see `read`."""
        _table("the file", content)
        _known("the file", content, [each.name for each in fields(cls)])
        maps = content.get("maps", {})
        if isinstance(maps, list):
            maps = dict.fromkeys(maps)
        _table("maps", maps)
        for name in ("classes", "ignore"):
            _check_type(name, content.get(name), int | None)
        _known("maps", maps, RECIPES)
        for name, options in maps.items():
            _table(name, options or {})
        return cls(**{**content, "maps": {name: maps[name] or {} for name in maps}})

    def recipes(self, names: str | None = None) -> dict[str, Recipe]:
        """The recipes of the maps named, with this file's options.

        Args:
            names: Joined by commas. Otherwise those the file names, or skeleton and distance.

        Raises:
            RecipeError: If a map or an option is unknown, or an option is not what it should be.
        """
        if names is None:
            wanted = list(self.maps) or ["skeleton", "distance"]
        else:
            wanted = [name.strip() for name in names.split(",")]
        _known("--maps", wanted, RECIPES)
        found = {}
        for name in wanted:
            options, kind = self.maps.get(name, {}), RECIPES[name]
            expected = get_type_hints(kind)
            _known(name, options, expected)
            for option, value in options.items():
                _check_type(f"{name}: {option}", value, expected[option])
            try:
                found[name] = kind(**options)
            except ValueError as error:
                raise RecipeError(f"{name}: {error}") from error
        return found


def _table(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{name} must be a table of names and values, got {value!r}")


def _known(place: str, names: Iterable[Any], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise RecipeError(f"{place}: {name!r} is unknown; {hint}known: {', '.join(known)}")


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    NoneType: "null",
}


def _check_type(name: str, value: Any, expected: Any) -> None:
    """Raise unless a value of the file is of the type that a field is annotated with."""
    kinds = get_args(expected) or (expected,)
    kind = float if type(value) is int and float in kinds else type(value)
    if kind not in kinds:
        words = " or ".join(_WORDS[kind] for kind in kinds)
        raise RecipeError(f"{name} must be {words}, got {value!r}")
