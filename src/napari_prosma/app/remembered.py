"""What is kept between two starts of the program, and forgotten on request; imports no torch.

One JSON file of the user's, by topics. What cannot be read is forgotten, what cannot be written is not kept:
neither is worth ending anything.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.texts import read_json
from napari_prosma.errors import DataError

MOST_RECENT = 12
"""Paths that are kept of a kind."""
MODELS, RUNS = "recent models", "runs elsewhere"


def memory_file() -> Path:
    """Where it is kept."""
    return user_state_path("napari-prosma", appauthor=False) / "remembered.json"


def remembered(topic: str) -> Any:
    """What was remembered last; None = nothing."""
    return _all().get(topic)


def remember(topic: str, value: Any) -> None:
    """Keep a value of JSON; None = forget it."""
    kept = {**_all(), topic: value}
    content = {name: held for name, held in kept.items() if held is not None}
    try:
        with written_whole(memory_file(), on_disk=False) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except DataError as error:
        logging.getLogger(__name__).warning("nothing is remembered: %s", error)


def forget_all() -> bool:
    """As after the installation; whether anything was remembered."""
    was_there = memory_file().exists()
    memory_file().unlink(missing_ok=True)
    return was_there


def recent_paths(topic: str) -> list[Path]:
    """The last used first; they may be gone by now."""
    held = remembered(topic)
    return [Path(text) for text in held if isinstance(text, str)] if isinstance(held, list) else []


def remember_path(topic: str, path: Path) -> None:
    """Put a path first."""
    path = path.absolute()
    others = [other for other in recent_paths(topic) if other != path]
    remember(topic, [str(each) for each in (path, *others)][:MOST_RECENT])


def forget_path(topic: str, path: Path) -> None:
    """Take a path out."""
    remember(topic, [str(other) for other in recent_paths(topic) if other != path.absolute()])


def _all() -> dict[str, Any]:
    if not memory_file().is_file():
        return {}
    try:
        held = read_json(memory_file())
    except DataError as error:
        logging.getLogger(__name__).warning("what was remembered is lost: %s", error)
        return {}
    return held if isinstance(held, dict) else {}
