"""A hook of MkDocs: writes the page of the Python names from ``napari_prosma.__all__``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import napari_prosma

PAGE, NAMES, MODULES = "api.md", "<!-- names -->", "<!-- modules -->"
FURTHER = (
    "events",
    "training.steering",
    "training.folds",
    "training.run_folder",
    "inspection.record",
    "nn.prox",
    "data.fingerprint",
)
"""Modules without a public name of their own whose classes public functions take or give."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its table of names and the modules where they live."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace(NAMES, names()).replace(MODULES, modules())


def names() -> str:
    """A row per public name: what it is, and a link to where it is described."""
    rows = ["| name | what it is |", "|---|---|"]
    for name, home in napari_prosma._HOMES.items():
        rows.append(f"| [`{name}`][{napari_prosma.__name__}.{home}.{name}] | {purpose(name, home)} |")
    return "\n".join(rows)


def modules() -> str:
    """What mkdocstrings fills in, module by module."""
    homes = dict.fromkeys((*napari_prosma._HOMES.values(), *FURTHER))
    return "\n\n".join(f"::: {napari_prosma.__name__}.{home}" for home in homes)


def purpose(name: str, home: str) -> str:
    """First line of a name's docstring, read without importing its module."""
    place = Path(napari_prosma.__file__).parent.joinpath(*home.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0].replace("``", "`").replace("|", "\\|")
    raise LookupError(f"{home} does not define {name}")
