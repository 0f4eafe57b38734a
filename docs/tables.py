"""A hook of MkDocs: writes the tables of settings, gates and measures from what these say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from napari_prosma.inspection.measures import MEASURES
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.segmentation.measures import MEASURES as EVALUATED
from napari_prosma.settings import Entry, entries_of
from napari_prosma.training.config import grouped_settings
from napari_prosma.training.objectives import OBJECTIVES

MARK = re.compile(r"<!-- table of (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with a table in the place of each mark."""
    return MARK.sub(lambda mark: TABLES[mark[1]](), markdown)


def settings() -> str:
    """A table per group of settings of a run."""
    groups = groupby(grouped_settings(), key=lambda entry: entry.setting.group)
    return "\n\n".join(
        f"### {group}\n\n{rows_of(entries, 'option', within=False)}" for group, entries in groups
    )


def objectives() -> str:
    """A table per objective of what it leaves to choose."""
    chosen = {name: entries_of(kind.options).values() for name, kind in OBJECTIVES.items()}
    return "\n\n".join(
        f"### `{name}`: {OBJECTIVES[name].choice.words.lower()}\n\n"
        f"{rows_of(entries, '`--objective-option`', within=True)}"
        for name, entries in chosen.items()
        if entries
    )


def gates() -> str:
    """Every gate with its words."""
    rows = [
        f"| `{name}` | {kind.choice.words} | {_cell(kind.make.__doc__)} |" for name, kind in GATES.items()
    ]
    return "\n".join(["| name | in the panel | what it is |", "|---|---|---|", *rows])


def measures() -> str:
    """Every number of a skip, as a column of a table."""
    rows = [
        f"| `{name}` | {_cell(each.meaning)} | {_bounds(each.limits)} |" for name, each in MEASURES.items()
    ]
    return "\n".join(["| column | meaning | from, to |", "|---|---|---|", *rows])


def evaluation() -> str:
    """Every number of an evaluation, as a column of a table."""
    rows = [
        f"| `{name.replace('_', ' ')}{each.suffix('mm', 1)}` | "
        f"{_cell(each.meaning.format(tolerance='the tolerance'))} |"
        for name, each in EVALUATED.items()
    ]
    return "\n".join(["| column | meaning |", "|---|---|", *rows])


def rows_of(entries: Iterable[Entry], title: str, within: bool) -> str:
    """A table with a row per setting, or per NAME= ``within`` one: what holds without it, what it does."""
    rows = [f"| {title} | without it | what it does |", "|---|---|---|"]
    for entry in entries:
        name = f"{entry.name}=" if within else entry.option
        usual = str(entry.default) if within and entry.kind is bool else entry.default_text
        rows.append(f"| `{name}` | {usual} | {_cell(entry.help)} |")
    return "\n".join(rows)


def _bounds(limits: tuple[float | None, float | None]) -> str:
    return ", ".join("" if limit is None else f"{limit:g}" for limit in limits).strip(", ")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


TABLES = {
    "settings": settings,
    "objectives": objectives,
    "gates": gates,
    "measures": measures,
    "evaluation": evaluation,
}
