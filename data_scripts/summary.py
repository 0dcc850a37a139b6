"""What a preprocessed data set looks like as a whole: ranges, histograms, and who lies outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segloss.data_scripts.manifest import Record

__all__ = ["MEASURES", "ClassSummary", "Range", "outlying", "summarise"]

MEASURES = ("voxels", "components", "centreline_length", "thinnest_radius")
"""What a record says of each class."""

JUDGED = ("voxels", "centreline_length")
"""Measures in which a case may lie far from the others."""

FAR = 3.5  # the cut-off that Iglewicz and Hoaglin recommend for this score
FEWEST = 8  # cases to tell what is usual from
BINS = 20


@dataclass(frozen=True)
class Range:
    """One measure of one class over all cases that have the class."""

    low: float
    median: float
    high: float
    bins: Sequence[int]
    """How many cases lie in each of equal parts of the range."""


@dataclass
class ClassSummary:
    """A class over all cases."""

    key: str
    name: str
    cases: int = 0
    """Those in which it has voxels."""
    ranges: dict[str, Range] = field(default_factory=dict)
    """Of each measure, unless no case has the class."""
    outliers: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each judged measure: the cases that lie outside, and how many times the median they have."""


def summarise(records: Sequence[Record]) -> list[ClassSummary]:
    """Each class that any record has."""
    found: dict[str, ClassSummary] = {}
    for record in records:
        for key, entry in record.classes.items():
            found.setdefault(key, ClassSummary(key, entry["name"]))
    for key, summary in found.items():
        present = {
            record.case: record.classes[key]
            for record in records
            if key in record.classes and record.classes[key]["voxels"]
        }
        summary.cases = len(present)
        for measure in MEASURES:
            values = _values(present, measure)
            if values:
                summary.ranges[measure] = _range(list(values.values()))
            if measure in JUDGED:
                summary.outliers[measure] = outlying(values)
    return sorted(found.values(), key=lambda each: int(each.key))


def outlying(values: Mapping[str, float]) -> dict[str, float]:
    """The values far from the others, and how many times the median they are.

    A value is far if its logarithm is more than 3.5 standard deviations from the median, where the
    standard deviation is 1.4826 times the median absolute deviation, which outliers do not change.
    Of fewer than 8 values, and if most are the same, none is.

    References:
        Iglewicz and Hoaglin, "How to detect and handle outliers", ASQC Quality Press, 1993.

    Example:
        >>> outlying({**{str(n): 100.0 + n for n in range(20)}, "huge": 900.0})
        {'huge': 8.181818181818182}
    """
    positive = {name: value for name, value in values.items() if value > 0}
    if len(positive) < FEWEST:
        return {}
    logarithms = np.log(list(positive.values()))
    away = logarithms - np.median(logarithms)
    deviation = 1.4826 * float(np.median(np.abs(away)))
    if deviation == 0:
        return {}
    middle = float(np.median(list(positive.values())))
    return {
        name: value / middle
        for (name, value), far in zip(positive.items(), np.abs(away), strict=True)
        if far > FAR * deviation
    }


def _values(entries: Mapping[str, Mapping[str, Any]], measure: str) -> dict[str, float]:
    return {
        case: float(entry[measure]) for case, entry in entries.items() if entry[measure] is not None
    }


def _range(values: Sequence[float]) -> Range:
    low, high = min(values), max(values)
    bins, _ = np.histogram(values, BINS, (low, high) if high > low else (low - 1, high + 1))
    return Range(low, float(np.median(values)), high, bins.tolist())
