"""What the labels of a data set mean, and whether a label keeps to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from segloss.data_scripts.grids import BadVolume

__all__ = ["Classes", "SourceError", "declared_by_monai", "declared_by_nnunet"]

BLOCK = 2**24


class SourceError(ValueError):
    """A source that is no data set; the message says what was found and what to do."""


@dataclass(frozen=True)
class Classes:
    """What the labels mean, as far as the source says."""

    names: Mapping[str, tuple[int, ...]]
    """The labels of each class, by its name: one, or several for a region; empty if unknown."""
    count: int | None
    """Number of classes with background, one above the largest; None if unknown, and for regions."""
    regions: tuple[tuple[int, ...], ...] | None
    """The labels of each region, in the order of the channels; None for classes that exclude each
    other."""
    ignore: int | None
    """The label of voxels that no one knows about."""
    values: frozenset[int] | None
    """Every value that a label may hold, `ignore` included; None if unknown."""

    def channels(self, labels: np.ndarray) -> Sequence[np.ndarray]:
        """The label as maps are made of it.

        Returns:
            The label itself, or a channel of 0 and 1 for each region, in which unknown voxels keep
            their label. Such a channel is computed whenever it is asked for.
        """
        return [labels] if self.regions is None else _Regions(labels, self.regions, self.ignore)

    def check(self, labels: np.ndarray, name: str) -> None:
        """Raise if the label holds a value that is not declared.

        Args:
            labels: Unsigned integers, as `read_label` returns them.
            name: The file's name, for the message.

        Raises:
            BadVolume: If it does; says which and how often.
        """
        if self.values is None or labels.max() < self._consecutive():
            return
        wrong: dict[int, int] = {}
        flat = labels.reshape(-1)
        values = np.array(sorted(self.values), np.int64)
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            if labels.itemsize <= 2:
                allowed = np.zeros(np.iinfo(labels.dtype).max + 1, np.bool_)
                allowed[values[values < allowed.size]] = True
                known = allowed[block]
            else:
                known = np.isin(block, values)
            if not known.all():
                found, counts = np.unique(block[~known], return_counts=True)
                for value, count in zip(found.tolist(), counts.tolist(), strict=True):
                    wrong[value] = wrong.get(value, 0) + count
        if wrong:
            held = [
                f"{value} ({wrong[value]} voxel{'s' * (wrong[value] > 1)})"
                for value in sorted(wrong)
            ]
            raise BadVolume(
                f"{name}: holds labels that are not declared: {_some(held)}; expected "
                f"{_some([str(value) for value in sorted(self.values)])}. Correct the label, or "
                f"declare what it holds."
            )

    def stated(self, count: int | None, ignore: int | None) -> "Classes":
        """The classes with what the user says about them.

        Raises:
            SourceError: If it contradicts what the source says.
        """
        result = self
        if ignore is not None:
            if ignore < 1:
                raise SourceError(
                    f"the ignore label must be 1 or more, got {ignore}; 0 is background."
                )
            if self.ignore not in {None, ignore}:
                raise SourceError(
                    f"the source says that {self.ignore} is the ignore label, not {ignore}. Leave "
                    f"it out, or correct the source."
                )
            if self.regions is not None and self.ignore is None:
                raise SourceError(
                    f'the source has regions but no ignore label: add "ignore": {ignore} to its '
                    f'"labels".'
                )
            names = {name: labels for name, labels in self.names.items() if labels != (ignore,)}
            values = None if self.values is None else self.values | {ignore}
            ids = None if values is None else values - {ignore}
            result = replace(
                self,
                names=names,
                ignore=ignore,
                values=values,
                count=self.count if ids is None or self.regions else max(ids, default=0) + 1,
            )
        if count is None:
            return result
        if count < 2:
            raise SourceError(f"there are 2 classes or more, background included; got {count}.")
        if result.regions is not None:
            raise SourceError(
                f"the source has {len(result.regions)} regions, so a number of classes ({count}) "
                f"means nothing. Leave it out."
            )
        if result.count not in {None, count}:
            raise SourceError(
                f"the source declares {result.count} classes, background included, not {count}. "
                f"Leave the number out, or correct the source."
            )
        if result.ignore is not None and result.ignore < count:
            raise SourceError(
                f"the ignore label {result.ignore} is one of the {count} classes 0 to {count - 1}; "
                f"expected a label above them."
            )
        own = frozenset() if result.ignore is None else frozenset({result.ignore})
        values = frozenset(range(count)) | own if result.values is None else result.values
        return replace(result, count=count, values=values)

    def _consecutive(self) -> int:
        """The first value from 0 on that is not declared."""
        value = 0
        while self.values is not None and value in self.values:
            value += 1
        return value


UNKNOWN = Classes({}, None, None, None, None)


class _Regions(Sequence[np.ndarray]):
    """Channels of a label, one at a time."""

    def __init__(
        self, labels: np.ndarray, regions: Sequence[tuple[int, ...]], ignore: int | None
    ) -> None:
        self.labels, self.regions, self.ignore = labels, regions, ignore

    def __len__(self) -> int:
        return len(self.regions)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "_Regions": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | _Regions":
        if isinstance(index, slice):
            return _Regions(self.labels, self.regions[index], self.ignore)
        inside = np.zeros(self.labels.shape, np.bool_)
        for value in self.regions[index]:
            inside |= self.labels == value
        channel: np.ndarray = inside.view(np.uint8)
        if self.ignore is None:
            return channel
        channel = channel.astype(np.min_scalar_type(self.ignore), copy=False)
        channel[self.labels == self.ignore] = self.ignore
        return channel

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


def declared_by_monai(datalist: Mapping[str, Any], where: str) -> Classes:
    """Read "labels" of a datalist: ``{"0": "background", "1": "vessel"}``, or a list of names.

    What a list has kept from nnU-Net's dataset.json is read as nnU-Net reads it.

    Raises:
        SourceError: If it is none of that.
    """
    labels = datalist.get("labels")
    if not labels:
        return UNKNOWN
    if isinstance(labels, dict) and "background" in labels:
        return declared_by_nnunet(datalist, where)
    if isinstance(labels, list):
        labels = {str(value): name for value, name in enumerate(labels)}
    if not isinstance(labels, dict) or not all(
        isinstance(name, str) and value.isdecimal() for value, name in labels.items()
    ):
        raise SourceError(
            f'{where}: "labels" must be like {{"0": "background", "1": "vessel"}}, got {labels!r}.'
        )
    names: dict[str, tuple[int, ...]] = {}
    for value, name in labels.items():
        names[name] = (*names.get(name, ()), int(value))
    values = frozenset(map(int, labels)) | {0}
    return Classes(names, max(values) + 1, None, None, values)


def declared_by_nnunet(dataset: Mapping[str, Any], where: str) -> Classes:
    """Read "labels" and "regions_class_order" of nnU-Net's dataset.json.

    As soon as one entry lists several labels, all of them are regions: a channel each but for the
    background, in the order in which they stand there. ("regions_class_order" says how channels
    become labels again, which is of no concern here.)

    Raises:
        SourceError: If nnU-Net would refuse it.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise SourceError(
            f'{where}: "labels" must be like {{"background": 0, "vessel": 1}}, got {labels!r}.'
        )
    entries = {name: _values(value, name, where) for name, value in labels.items()}
    ignore = None
    if "ignore" in entries:
        (ignore,) = entries.pop("ignore")
    classes = frozenset(value for values in entries.values() for value in values)
    largest = max(classes)
    if ignore not in {None, largest + 1}:
        raise SourceError(
            f'{where}: "ignore" must be one above the largest label, {largest + 1}, got {ignore}.'
        )
    every = classes if ignore is None else classes | {ignore}
    if all(len(values) == 1 for values in entries.values()):
        return Classes(entries, largest + 1, None, ignore, every)
    regions = tuple(values for values in entries.values() if set(values) != {0})
    order = dataset.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(regions):
        raise SourceError(
            f'{where}: has {len(regions)} regions, so "regions_class_order" must list as many '
            f"labels, got {order!r}."
        )
    return Classes(entries, None, regions, ignore, every)


def _values(value: Any, name: str, where: str) -> tuple[int, ...]:
    """The labels of one entry."""
    several = value if isinstance(value, list) and name not in {"background", "ignore"} else [value]
    if not several or not all(type(each) is int and each >= 0 for each in several):
        kind = "one label" if name in {"background", "ignore"} else "a label or a list of them"
        raise SourceError(f'{where}: "labels" gives {value!r} for "{name}"; expected {kind}.')
    return tuple(several)


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:20]) + (f" and {len(items) - 20} more" if len(items) > 20 else "")
