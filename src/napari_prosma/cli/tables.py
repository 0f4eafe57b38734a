"""Tables in a shell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from napari_prosma.cli.follow import as_it_is, console


def table(rows: Sequence[dict[str, str | float]]) -> Table:
    """Rows that need not have the same columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table()
    for place, name in enumerate(columns):
        shown.add_column(as_it_is(name), no_wrap=place == 0)  # what a row is about is cut last
    for row in rows:
        cells = (row.get(name, "") for name in columns)
        shown.add_row(*(as_it_is(f"{cell:.4g}" if isinstance(cell, float) else str(cell)) for cell in cells))
    return shown


def print_measures(rows: list[dict[str, str | float]]) -> None:
    """A table per model, a column per skip."""
    for _, group in groupby(rows, key=lambda row: row["model"]):
        skips = list(group)
        title = f"gate {skips[0]['gate']}, measured against the {skips[0]['foreground']}"
        table = Table(title=as_it_is(title), title_justify="left")
        table.add_column(no_wrap=True)
        for row in skips:
            table.add_column(f"skip {row['skip']}")
        said = ("image", "model", "gate", "skip", "foreground")
        for name in dict.fromkeys(name for row in skips for name in row if name not in said):
            cells = (row.get(name, "") for row in skips)
            shown = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
            table.add_row(*map(as_it_is, (name, *shown)))
        console.print(table)
