"""Names of files, cases and classes are data: nothing in them steers a terminal, a page or a spreadsheet."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

LONGEST_NAME = 255
"""Bytes of a file's name on the file systems of Linux, macOS and Windows."""
_TAIL = 4
"""Bytes of the hash that tells two shortened names apart."""
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")
"""Control characters, changes of the writing direction, and bytes of a name that are no UTF-8."""
_STEERING_A_CELL = re.compile(rf"(?![\t\n\r]){_STEERING.pattern}")
_ESCAPED = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
"""What :func:`printable` writes."""
_FORMULA = re.compile(r"'*\s*[=+\-@\uff0b\uff0d\uff1d\uff20\t\r\n]")
"""What a spreadsheet takes for the start of a formula, perhaps after apostrophes of ours."""
_REFUSED = re.compile(r'[\\/:*?"<>|\s\x00-\x1f\x7f]+')
"""What names of files may not hold on every system, and blanks."""
DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[\d¹²³])\s*(?:\..*)?", re.IGNORECASE)
"""Names that Windows gives to devices."""
_LONGEST_ENDING = 80
"""Bytes that are kept for what is put behind the name of a case."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf|nan)", re.IGNORECASE)


def printable(text: str) -> str:
    """The text on one line, with ``\\x1b`` in place of a character that would steer a terminal or a page."""
    return _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def in_plot(text: str) -> str:
    """The text as matplotlib draws it word for word: dollars begin no formula there."""
    return printable(text).replace("$", r"\$")


def as_cell(value: object) -> object:
    """A value as a cell of a table: text begins no formula for a spreadsheet and steers no terminal."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    begun = "'" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else ""
    text = _ESCAPED.sub(lambda found: f"\\x5c{found.group()[1:]}", text)
    return begun + _STEERING_A_CELL.sub(lambda found: printable(found.group()), text)


def from_cell(text: str) -> str:
    """Inverse of :func:`as_cell`."""
    return from_typed_cell(_ESCAPED.sub(lambda found: chr(int(found.group()[2:], 16)), text))


def from_typed_cell(text: str) -> str:
    """The same of a table that a person may have written, to whom ``images\\x12.png`` is a path."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def fitting_name(stem: str, ending: str = "", spare: int = 0) -> str:
    """``stem + ending`` as the name of a file; a stem that is too long keeps its start and gets a hash.

    ``spare`` bytes are left for what is put behind it.
    """
    room = LONGEST_NAME - spare - len(ending.encode("utf-8", "surrogateescape"))
    whole = stem.encode("utf-8", "surrogateescape")
    if len(whole) <= room:
        return stem + ending
    tail = f"~{_hash(stem)}"
    return whole[: room - len(tail)].decode("utf-8", "ignore") + tail + ending


def file_stem(name: str) -> str:
    """A name as part of a file's name on every system: no separators, no reserved characters, no blanks."""
    safe = _REFUSED.sub("_", name.replace(" - ", " minus ")).strip(".") or "image"
    return fitting_name(f"{'_' * bool(DEVICES.fullmatch(safe))}{safe}", spare=_LONGEST_ENDING)


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """:func:`file_stem` of each name; those that would be one file on some system get a hash behind them."""
    stems = {name: file_stem(name) for name in names}
    number = Counter(map(normal, stems.values()))
    return {
        name: stem if number[normal(stem)] == 1 else f"{stem}~{_hash(name)}" for name, stem in stems.items()
    }


def normal(name: str) -> str:
    """The name as people, Windows and macOS compare it: composed letters, without case."""
    return unicodedata.normalize("NFC", name).casefold()


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``image 2`` before ``image 10``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=_TAIL).hexdigest()
