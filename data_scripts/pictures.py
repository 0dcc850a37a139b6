"""Drawings of a case: slices and projections, with label, skeleton and distance on them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from segloss.data_scripts.sheets import MOST, Scene, Sheet, class_bits, sheets
from segloss.data_scripts.volumes import Grid

__all__ = ["color", "draw"]

Array = npt.NDArray[Any]

# Okabe and Ito's, which people who confuse red and green tell apart, but for black.
COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
PAPER, INK, FAINT, ALARM = "#0d0f13", "#f4f4f4", "#9aa3ad", "#ffb454"
WIDTH, HEIGHT, NARROWEST = 12.0, 5.5, 1.2  # of a row, and of a panel in it; in inches
NARROW = 7.2  # a figure, so that the text has room
MARGIN, LINE = 0.2, 0.2
DOTS = (120, 240)  # per inch, at least and at most: one for each voxel if possible
COLUMNS, LISTED = 5, 15  # of a legend


def color(number: int) -> str:
    """The colour of a class, 1 for the first. From the eighth on they repeat, paler.

    Example:
        >>> color(1), color(8)
        ('#E69F00', '#f1ca73')
    """
    rounds, index = divmod(number - 1, len(COLORS))
    if not rounds:
        return COLORS[index]
    keep = 0.55 if rounds % 2 else 0.3
    parts = (int(COLORS[index][start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 - keep * (255 - part)):02x}" for part in parts)


def draw(scene: Scene) -> Figure:
    """Draw a case; ``figure.savefig(path)`` saves it.

    A volume gets a row of slices through the middle of the label and a row of maximum projections;
    an image of two axes a panel each for label, skeleton and distance. The outline of a class is a
    line in its colour, its skeleton is filled. Without an image, a projection is as bright as the
    label is thick.
    """
    bits = class_bits(scene.labels, scene.classes)
    rows = sheets(scene, bits)
    step = _step(sheet.distance for row in rows for sheet in row if sheet.distance is not None)
    legend = _legend(scene, bits)
    above = MARGIN + LINE * (2.1 + len(scene.warnings))
    below = MARGIN + LINE * (1.4 + -(-len(legend) // COLUMNS))
    widths, tall = _layout(rows[0])
    width = max(sum(widths) + MARGIN * (len(widths) + 1), NARROW)
    height = above + (tall + LINE + MARGIN) * len(rows) + below
    voxels = max(sheet.grey.shape[1] / wide for sheet, wide in zip(rows[0], widths, strict=True))
    dots = float(np.clip(voxels, *DOTS))
    figure = Figure(figsize=(width, height), dpi=dots, facecolor=PAPER)

    for number, row in enumerate(rows, start=1):
        bottom = height - above - (tall + LINE + MARGIN) * number + MARGIN
        left = MARGIN
        for sheet, wide in zip(row, widths, strict=True):
            axes = figure.add_axes((left / width, bottom / height, wide / width, tall / height))
            _show(axes, sheet, step, len(scene.classes), 72 * wide / sheet.grey.shape[1])
            left += wide + MARGIN

    def write(text: str, ink: str, points: float, y: float, **options: Any) -> None:
        options = {"color": ink, "size": points, "parse_math": False, **options}
        figure.text(MARGIN / width, y / height, text, **options)

    write(scene.name, INK, 13, height - MARGIN, va="top")
    for number, text in enumerate([_facts(scene.grid), *scene.warnings]):
        below_name = height - MARGIN - LINE * (number + 1.2)
        write(text, ALARM if number else FAINT, 9, below_name, va="top")
    if step:
        write(
            f"Filled: skeleton. Contours: {step:g}, {2 * step:g} and {3 * step:g} "
            f"{scene.distance_unit} from the nearest boundary, solid inside, dotted outside.",
            FAINT, 9, MARGIN,
        )  # fmt: skip
    figure.legend(
        handles=legend, loc="lower left", bbox_to_anchor=(MARGIN / width, (MARGIN + LINE) / height),
        ncols=COLUMNS, frameon=False, labelcolor=INK, fontsize=9, handlelength=1, handleheight=1,
        borderpad=0, borderaxespad=0,
    )  # fmt: skip
    for entry in figure.legends[0].get_texts():
        entry.set_parse_math(False)
    return figure


def _facts(grid: Grid) -> str:
    voxels = " × ".join(map(str, grid.shape)) + " voxels"
    if grid.spacing is None:
        return f"{voxels} of unknown size"
    return f"{voxels} of " + " × ".join(f"{size:.4g}" for size in grid.spacing) + f" {grid.unit}"


def _layout(sheets: Sequence[Sheet]) -> tuple[list[float], float]:
    """Widths of the columns and height of the rows, in inches; the scale is everywhere the same."""
    wide, tall = [sheet.size[0] for sheet in sheets], max(sheet.size[1] for sheet in sheets)
    scale = min((WIDTH - MARGIN * (len(wide) + 1)) / sum(wide), HEIGHT / tall)
    return [max(scale * each, NARROWEST) for each in wide], max(scale * tall, NARROWEST)


def _step(distances: Iterable[Array]) -> float:
    """A round number of which three go into the deepest place; 0 if there is no inside."""
    deepest = max(-float(distance.min()) for distance in distances)
    if not deepest > 0:
        return 0.0
    decade = 10.0 ** math.floor(math.log10(deepest / 3))
    return max(decade * part for part in (1, 2, 5) if decade * part <= deepest / 3 * (1 + 1e-6))


def _show(axes: Axes, sheet: Sheet, step: float, classes: int, pixel: float) -> None:
    """Draw a sheet; `pixel` is the width of its pixels in points."""
    rows, columns = sheet.grey.shape
    aspect = (sheet.size[1] / rows) / (sheet.size[0] / columns)
    black, white = sheet.limits
    smooth = "nearest" if pixel > 0.5 else "auto"  # the latter where pixels share a dot
    axes.imshow(
        sheet.grey, cmap="gray", vmin=black, vmax=white, aspect=aspect, interpolation=smooth
    )
    axes.set_axis_off()
    axes.set_anchor("N")
    axes.autoscale(False)
    axes.set_title(sheet.title, color=FAINT, fontsize=9, pad=3)
    if sheet.skeleton is not None:
        inks = [(0, 0, 0, 0), *(to_rgba(color(number + 1), 0.55) for number in range(classes))]
        axes.imshow(np.asarray(inks)[sheet.skeleton], aspect=aspect, interpolation="nearest")
    if sheet.distance is not None and step:
        for levels, style in (((-3, -2, -1), "solid"), ((1, 2, 3), "dotted")):
            _contours(axes, sheet.distance, [step * each for each in levels], style)
    for number in range(min(classes, MOST)):
        _outline(
            axes,
            (sheet.classes >> number) & 1,
            color(number + 1),
            float(np.clip(pixel / 2, 0.4, 0.9)),
        )
    places = ((0.01, 0.5, "left", "center"), (0.99, 0.5, "right", "center"),
              (0.5, 0.99, "center", "top"), (0.5, 0.01, "center", "bottom"))  # fmt: skip
    for letter, (x, y, side, upright) in zip(sheet.ends, places, strict=False):
        axes.text(
            x, y, letter, transform=axes.transAxes, color=INK, size=8, ha=side, va=upright,
            path_effects=[withStroke(linewidth=2, foreground=PAPER)],
        )  # fmt: skip


def _contours(axes: Axes, plane: Array, levels: Sequence[float], style: str) -> None:
    within = [level for level in levels if plane.min() < level < plane.max()]
    if within and min(plane.shape) > 1:  # or Matplotlib warns (before 3.11), or fails
        axes.contour(plane, within, colors=INK, linewidths=0.5, linestyles=style)


def _outline(axes: Axes, mask: Array, ink: str, width: float) -> None:
    """Draw along the sides of pixels; a contour would cut their corners, however large they are."""
    sides = []
    for axis in (0, 1):
        before = [(0, 0), (0, 0)]
        before[axis] = (1, 1)
        start = np.argwhere(np.diff(np.pad(mask, before), axis=axis)) - 0.5
        sides.append(np.stack([start, start + np.eye(2)[1 - axis], start * np.nan], axis=1))
    rows, columns = np.concatenate(sides).reshape(-1, 2).T  # NaN lifts the pen
    axes.plot(columns, rows, color=ink, linewidth=width, solid_capstyle="projecting")


def _legend(scene: Scene, bits: Array) -> list[Patch]:
    names = list(scene.classes)
    one = bits.dtype.type(1)
    entries = [
        Patch(
            color=color(number + 1),
            label=f"{name}: {np.count_nonzero(bits & (one << bits.dtype.type(number))):,} voxels",
        )
        for number, name in enumerate(names[:LISTED])
    ]
    more = len(names) - LISTED
    return entries + [Patch(alpha=0, label=f"and {more} more classes")] * (more > 0)
