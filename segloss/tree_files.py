"""Label trees in files: YAML, and nnU-Net's dataset.json. What they say, not yet checked as a tree."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from segloss.yaml_files import NoDuplicates

__all__ = ["nested_of_yaml", "regions_of_nnunet"]


def nested_of_yaml(path: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: If it is not YAML, names a key twice, or holds anything but a mapping.
    """
    try:
        nested = yaml.load(Path(path).read_text(encoding="utf-8"), NoDuplicates)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if isinstance(nested, dict):
        return nested
    raise ValueError(f"{path} holds {nested!r}: expected a mapping of names to children")


def regions_of_nnunet(
    dataset: str | Path | Mapping[str, Any],
) -> tuple[list[str], list[int], dict[str, str]]:
    """The nodes of a data set's regions, their parents, and the leaves that are a rest.

    Args:
        dataset: nnU-Net's ``dataset.json``: the path, or what is in it.

    Raises:
        ValueError: If the regions are no tree, or the labels not 0, 1, 2 …
    """
    content: Mapping[str, Any] = (
        dataset
        if isinstance(dataset, Mapping)
        else json.loads(Path(dataset).read_text(encoding="utf-8"))
    )
    labels = content.get("labels")
    if not isinstance(labels, Mapping) or labels.get("background") != 0:
        raise ValueError(
            f'"labels" must be like {{"background": 0, "whole": [1, 2], "core": 2}}, got {labels!r}'
        )
    regions = {name: _label_set(name, value) for name, value in labels.items() if name != "ignore"}
    every = sorted(set().union(*regions.values()))
    if every != list(range(len(every))):
        raise ValueError(f"the labels must be 0, 1, 2 ... without a gap, got {every}")
    for i, (one, inner) in enumerate(regions.items()):
        for other, outer in list(regions.items())[:i]:
            if inner == outer:
                raise ValueError(f"the regions {other!r} and {one!r} have the same labels")
            if inner & outer and not (inner < outer or outer < inner):
                raise ValueError(
                    f"the regions {other!r} and {one!r} share the labels {sorted(inner & outer)}, "
                    "but neither is part of the other: that is no tree"
                )

    def smallest(labels: frozenset[int]) -> str | None:
        around = [name for name, region in regions.items() if labels < region]
        return min(around, key=lambda name: len(regions[name]), default=None)

    inner_nodes = sorted(
        (name for name, region in regions.items() if len(region) > 1),
        key=lambda name: -len(regions[name]),
    )
    parent_of = {name: smallest(regions[name]) for name in inner_nodes}
    single = {min(region): name for name, region in regions.items() if len(region) == 1}
    left: dict[str, list[int]] = {}
    for label in every:
        region_name = smallest(frozenset({label}))
        if label not in single and region_name is not None:
            left.setdefault(region_name, []).append(label)
    rest = {name: f"rest of {name}" for name, labels in left.items() if len(labels) == 1}
    for name, own in left.items():
        single |= {label: rest.get(name, f"label {label} of {name}") for label in own}
    parent_of |= {single[label]: smallest(frozenset({label})) for label in every}
    names = list(parent_of)
    parents = [-1 if above is None else names.index(above) for above in parent_of.values()]
    return names, parents, rest


def _label_set(name: str, value: Any) -> frozenset[int]:
    several = value if isinstance(value, list | tuple) else [value]
    if not several or not all(type(each) is int and each >= 0 for each in several):
        raise ValueError(f'"labels" gives {value!r} for {name!r}, expected a label or several')
    return frozenset(several)
