"""The tables of docs/losses.md, from the catalogue: ``python docs/loss_table.py`` writes them anew."""

from pathlib import Path
from typing import get_args

from segloss.catalogue import CATALOGUE, Entry, Family

DOCS = Path(__file__).parent
PAGE = DOCS / "losses.md"
BEGIN, END = "<!-- made by docs/loss_table.py -->\n\n", "\n<!-- end -->"
HEAD = "| loss | formula | maps | pass | alone | when to use it | source |\n|---|---|---|---|---|---|---|\n"


def page(text: str) -> str:
    """The page with the tables of today."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n".join(map(table, get_args(Family))) + END + rest.split(END)[1]


def table(family: str) -> str:
    """The losses of a family, under its name."""
    rows = "".join(row(entry) for entry in CATALOGUE.values() if entry.family == family)
    return f"## {family.capitalize()}\n\n{HEAD}{rows}"


def row(entry: Entry) -> str:
    """A loss, in a line."""
    formula = entry.formula
    for sign in "|*_":  # bars would end the cell, the others be emphasis
        formula = formula.replace(sign, f"\\{sign}")
    cells = (
        f"[`{entry.loss_name}`](api/{reference(entry)}#segloss.{entry.loss_name})",
        formula,
        ", ".join(f"`{name}`" for name in entry.maps),
        "joint" if entry.one_pass else "own",
        f"no: {entry.beside}" if entry.beside else "yes",
        entry.use,
        entry.source,
    )
    return f"| {' | '.join(cells)} |\n"


def reference(entry: Entry) -> str:
    """The page of the API that describes it."""
    line = f"::: segloss.{entry.loss_name}\n"
    pages = (page.name for page in (DOCS / "api").glob("*.md") if line in page.read_text())
    return next(pages, "losses.md")  # a test of the documentation misses the entry


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
