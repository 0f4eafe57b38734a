"""A model's card as a page: HTML that needs nothing but itself, or Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from napari_prosma.app.cards import GATE_FIGURES, Card
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.names import printable
from napari_prosma.errors import ConfigError

HTML, MARKDOWN = ".html", ".md"
MEASURED = {
    "test": "test cases, used neither for training nor for choosing the epoch",
    "validation": "validation cases, on which the best epoch was chosen",
    "training": "training cases",
    "": "",
}


def as_html(card: Card) -> str:
    """The whole page, pictures within."""
    return _rendered("card.html.jinja", card, escape=True)


def as_markdown(card: Card, pictures: Mapping[str, str] | None = None) -> str:
    """The page as text; ``pictures`` are the addresses of those of the worst cases, by case."""
    return _rendered("card.md.jinja", card, escape=False, pictures=pictures or {})


def require_page(path: Path) -> None:
    """Refuse a name that says neither HTML nor Markdown (raises ``ConfigError``)."""
    if path.suffix.lower() not in (HTML, MARKDOWN):
        raise ConfigError(f"a card is written as {HTML} or {MARKDOWN}, not as '{path.name}'; choose one")


def write_page(card: Card, path: Path) -> None:
    """Write the page, as its suffix says; pictures of Markdown lie in a folder beside it.

    Raises ``ConfigError``: as :func:`require_page`. ``DataError``: the file cannot be written.
    """
    require_page(path)
    text = as_html(card) if path.suffix.lower() == HTML else as_markdown(card, _written_pictures(card, path))
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _written_pictures(card: Card, path: Path) -> dict[str, str]:
    folder, addresses = path.with_name(f"{path.stem}_pictures"), {}
    for number, worst in enumerate(card.worst, 1):
        if worst.picture:
            name = f"worst-{number}.jpg"
            with written_whole(folder / name) as temporary:
                temporary.write_bytes(base64.b64decode(worst.picture))
            addresses[worst.case] = f"{folder.name}/{name}"
    return addresses


def _rendered(template: str, card: Card, escape: bool, **further: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) and "\n" not in value else value,
    )
    return environment.get_template(template).render(
        card=card,
        measured=MEASURED[card.measured_on],
        meanings=GATE_FIGURES,
        **further,
    )
