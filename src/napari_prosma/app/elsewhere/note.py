"""What a run folder says of a run that goes on elsewhere; imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.texts import read_json
from napari_prosma.errors import DataError

NOTE = ".elsewhere.json"


@dataclass(frozen=True)
class Note:
    """The address of a scheduler, and the name of the run there."""

    scheduler: str
    name: str


_NOTE = TypeAdapter(Note)


def note_of(folder: Path) -> Note | None:
    """Where the run in a folder goes on; None where that is nowhere else, or not known."""
    if not (folder / NOTE).is_file():
        return None
    try:
        return _NOTE.validate_python(read_json(folder / NOTE))
    except (DataError, ValidationError):
        return None


def write_note(folder: Path, note: Note) -> None:
    """Say so."""
    with written_whole(folder / NOTE) as temporary:
        temporary.write_text(json.dumps(asdict(note)), encoding="utf-8")


def forget_note(folder: Path) -> None:
    """It goes on there no longer."""
    (folder / NOTE).unlink(missing_ok=True)
