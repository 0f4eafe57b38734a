"""Names of classes in tables beside the masks: by colour (CVAT), by value (Roboflow), by both (ITK-SNAP)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from napari_prosma.data.class_names import is_void
from napari_prosma.data.formats import pictures
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts.found import files_in
from napari_prosma.data.texts import parse_json
from napari_prosma.errors import DataError

_FILE = re.compile(
    r".*(?:label|class|colou?r|categor|codes|names|obj_).*\.(?:txt|csv|tsv|json|label|ctbl|names|lut)",
    re.IGNORECASE,
)
"""Names of files that may tell classes: ``labelmap.txt``, ``class_dict.csv``, ``_classes.csv``."""
_OF_IMAGES = re.compile(r"image|file|pixels|case|patient", re.IGNORECASE)
"""In the heading of a table that tells something of images, not of classes."""
_MOST_BYTES, _TABLES_READ = 1 << 20, 32
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_BACKGROUND = ("background", "bg", "backgr", "unlabeled", "unlabelled", "clear label", "none", "unknown")
_TOP = 255


@dataclass(frozen=True)
class ClassTable:
    """Names by stored value, by colour (``0xRRGGBB``), and in their order."""

    path: Path
    by_value: dict[int, str] = field(default_factory=dict)
    by_colour: dict[int, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def name_of(self, value: int, colour: int | None, most: int) -> str | None:
        """Name of a stored value with the colour that its mask shows it in; ``most`` is the largest value."""
        shown = value if colour is None and most > _TOP else colour
        if shown in self.by_colour:
            return self.by_colour[shown]
        if self.by_value:
            return self.by_value.get(value)
        first = 0 if self.names and _is(self.names[0], _BACKGROUND) else 1
        fits = first == 0 or len(self.names) == most
        return self.names[value - first] if fits and 0 < value < len(self.names) + first else None


def named_by_tables(
    rule: LabelRule, folder: Path, masks: Sequence[Path]
) -> tuple[LabelRule, tuple[str, ...]]:
    """The rule with names of a table in ``folder`` that names all its classes, and a notice of which."""
    if rule.kind not in ("on", "values") or not masks or not folder.is_dir():
        return rule, ()
    values = rule.values[1:] or (1,)
    colours = _palette(masks[0])
    for table in islice(_tables(folder, {*masks}), _TABLES_READ):
        names = {value: table.name_of(value, colours.get(value), max(values)) for value in values}
        if not any(names.values()) and len(values) == 1:  # 1, 255 or white alone: the only class there is
            others = [name for name in dict.fromkeys(table.names) if not _is(name, _BACKGROUND)]
            names = dict.fromkeys(values, others[0] if len(others) == 1 else None)
        named = {value: name for value, name in names.items() if name is not None}
        if len(named) < len(names) or len(set(named.values())) < len(named):
            continue
        where = table.path.relative_to(folder).as_posix()
        said = (f"names of the classes are those in '{where}'",)
        void = [value for value, name in named.items() if is_void(name)]
        if void and rule.unlabelled is None and len(named) > 1 and rule.kind == "values":
            rule = replace(rule, unlabelled=void[0])
        else:
            void = []
        order = sorted(
            (value for value in named if value not in void), key=lambda v: table.names.index(named[v])
        )
        if rule.kind == "values":
            rule = replace(rule, values=(rule.values[0], *order))
        return replace(rule, class_names=("background", *(named[value] for value in order))), said
    return rule, ()


def _palette(mask: Path) -> dict[int, int]:
    try:
        return pictures.palette(mask) if mask.name.lower().endswith(pictures.SUFFIXES) else {}
    except DataError:  # said when its case is read
        return {}


def _tables(folder: Path, masks: Collection[Path]) -> Iterator[ClassTable]:
    for path in files_in(folder):
        if path not in masks and _FILE.fullmatch(path.name) and path.stat().st_size <= _MOST_BYTES:
            table = _read(path)
            if table is not None:
                yield table


def _read(path: Path) -> ClassTable | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return _of_entries(path, _json_entries(parse_json(text, path.name)))
        rows = [_cells(line) for line in text.splitlines() if line.strip() and line.lstrip()[0] not in "#/"]
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, DataError):  # whatever else it is
        return None
    if len({bool(numbers) for _, numbers, _ in rows[1:]}) > 1:
        return None
    has_heading = len(rows) > 1 and not rows[0][1] and bool(rows[1][1])
    if has_heading and _OF_IMAGES.search(rows[0][0]):
        return None
    return _of_entries(path, [_entry(*row) for row in rows[has_heading:]])


def _cells(line: str) -> tuple[str, list[int], int]:
    """The words of a line as a name, its numbers, and how many of these stand before the name."""
    splitter = shlex.shlex(line, posix=True)
    splitter.whitespace, splitter.whitespace_split, splitter.commenters = " \t,;:=", True, ""
    splitter.quotes = '"'
    words: list[str] = []
    numbers: list[int] = []
    before = 0
    for cell in splitter:
        if _NUMBER.fullmatch(cell):
            numbers.append(int(float(cell)))
        elif _HEX.fullmatch(cell):
            numbers += bytes.fromhex(cell[1:])
        else:
            before = len(numbers) if not words else before
            words.append(cell)
    return " ".join(words), numbers, before


def _entry(name: str, numbers: list[int], before: int) -> tuple[str, int | None, int | None]:
    """Name, value and colour: ``1 255 0 0 name``, ``1 name 255 0 0``, ``name 255 0 0``, ``1 name``."""
    has_value = before > 0 and len(numbers) != 3
    value, rest = (numbers[0], numbers[1:]) if has_value else (None, numbers)
    colour = rest[:3] if len(rest) >= 3 and all(0 <= n <= _TOP for n in rest[:3]) else None
    if colour is None and value is None and len(rest) == 1:
        value = rest[0]
    return name, value, None if colour is None else (colour[0] << 16) | (colour[1] << 8) | colour[2]


def _json_entries(content: Any) -> list[tuple[str, int | None, int | None]]:
    """``{"1": "liver"}``, ``{"liver": 1}``, ``{"liver": [255, 0, 0]}`` or a list of names or of objects."""
    if (
        isinstance(content, dict)
        and len(content) == 1
        and isinstance(next(iter(content.values())), (dict, list))
    ):
        (content,) = content.values()
    entries: list[tuple[str, int | None, int | None]] = []
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, str) and _NUMBER.fullmatch(key):
                entries.append((value, int(float(key)), None))
            else:
                entries.append(_entry(key, _numbers_of(value), 0))
        return entries
    for number, one in enumerate(content if isinstance(content, list) else ()):
        if isinstance(one, str):
            entries.append((one, number, None) if _is(content[0], _BACKGROUND) else (one, None, None))
        elif isinstance(one, dict) and isinstance(one.get("name"), str):
            value = one.get("id", one.get("value"))
            colour = one.get("color", one.get("colour"))
            numbers = _numbers_of(colour) if colour else []
            shown = _entry("", numbers, 0)[2] if len(numbers) >= 3 else None
            entries.append((one["name"], value if isinstance(value, int) else None, shown))
    return entries


def _numbers_of(value: Any) -> list[int]:
    """A value, or a colour as a list or as ``#800000``."""
    if isinstance(value, str) and _HEX.fullmatch(value):
        return list(bytes.fromhex(value[1:]))
    return [int(n) for n in (value if isinstance(value, list) else [value])]


def _of_entries(path: Path, entries: Sequence[tuple[str, int | None, int | None]]) -> ClassTable | None:
    if entries and entries[0][0].strip("_").casefold() == "ignore" and entries[0][1] is None:
        entries = entries[1:]  # LabelMe's first name, which is no value
    entries = [(name.strip().strip("_") or name, value, colour) for name, value, colour in entries]
    if len(entries) < 1 or not all(any(letter.isalpha() for letter in name) for name, _, _ in entries):
        return None
    values = [value for _, value, _ in entries if value is not None]
    if len(set(values)) < len(values):  # of images, say, and the class that each shows
        return None
    return ClassTable(
        path,
        {value: name for name, value, _ in entries if value is not None},
        {colour: name for name, _, colour in entries if colour is not None},
        tuple(name for name, _, _ in entries),
    )


def _is(name: str, words: Sequence[str]) -> bool:
    return name.strip(" _").casefold() in words
