"""Errors that a user can act on: what was found, where, and what to do. The shell exits 2 on each.

Their texts begin in lower case, since they may follow ``error:`` or the name of a file; where one stands
alone, it is shown :func:`as_sentence`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PLAIN_WORD = re.compile(r"(?!(?:napari|prosma|psi|lambda|[b-z])\b)[a-z][a-z'-]*(?=[ ,])")
_NAMED = 5


def as_sentence(text: str) -> str:
    """Each line with a capital, unless it begins with a name, a number or an option."""
    lines = []
    for line in text.split("\n"):
        begins = _PLAIN_WORD.match(line)
        lines.append(line[0].upper() + line[1:] if begins else line)
    return "\n".join(lines)


def first_of(names: Sequence[str]) -> str:
    """The first names, of which a message shows no more than five."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def in_brackets(error: Exception) -> str:
    """What a library says of its error, behind a blank; "" where it says nothing that a user could read."""
    said = next(iter(str(error).splitlines()), "").strip()
    if isinstance(error, KeyError):
        said = f"{said} is missing"
    return f" ({said})" if said else ""


class ProsmaError(Exception):
    """Base of every error whose text is meant for the user, word for word."""


class DataError(ProsmaError):
    """An image, a label or a folder cannot be used as it is."""


class MissingMasksError(DataError):
    """Some images have a mask, others have none; which may be meant so while a folder is being annotated."""


class CheckpointError(ProsmaError):
    """A checkpoint is missing, damaged, not ours, or made for another task."""


class ConfigError(ProsmaError):
    """A setting, or a combination of settings, makes no sense."""


class DataMovedError(ConfigError):
    """The data of a run are no longer where they were; it goes on once it is told where they are."""
