"""JSON, YAML and CSV that anybody may have written: read within limits; CSV written safely."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.names import as_cell, from_cell
from napari_prosma.errors import DataError

MOST_BYTES = 2**28
"""Of a text that is read whole."""
DEEPEST = 100
"""Levels of JSON within each other; ours and those of the data sets we know have fewer than 10."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]], _STEPS[[ord("]"), ord("}")]] = 1, -1
_COMMA = re.compile(r"'(-?\d+(?:\.\d*)?,[^']*)'")
"""A number with a comma in the words of Python, which could not read it."""
_PARTS = ";\t\r\n"
"""Where spreadsheets of other countries part cells."""


def read_json(path: Path) -> Any:
    """The values in a JSON file.

    Raises ``DataError``: it is missing, too large or no JSON.
    """
    return parse_json(_content(path), f"'{path}'")


def parse_json(text: bytes | str, what: str) -> Any:
    """The values of JSON; ``what`` names it in an error.

    Raises ``DataError``: it is no JSON, or nested without end.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _depth(content) > DEEPEST and _depth(_STRINGS.sub(b"", content)) > DEEPEST:
        raise DataError(f"{what} is damaged (more than {DEEPEST} levels within each other); restore it")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is damaged ({error}); restore it") from error


def number_with_comma(error: BaseException | None) -> str:
    """The text with a decimal comma that caused an error; "" where another thing did."""
    while error is not None:
        found = _COMMA.search(str(error)) if isinstance(error, ValueError) else None
        if found is not None:
            return found.group(1)
        error = error.__cause__
    return ""


def parse_names(text: str) -> dict[int, str]:
    """Class names by index, as a label file of ours holds them as JSON; none where it is something else."""
    try:
        names = parse_json(text, "names")
    except DataError:
        return {}
    is_ours = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return dict(enumerate(names)) if is_ours else {}


def read_yaml(path: Path) -> Any:
    """The values in a YAML file.

    Raises ``DataError``: it is missing, too large, no YAML, or made to unfold without end.
    """
    import yaml

    text, level = _content(path), 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or level > DEEPEST:
                raise DataError(f"'{path}' repeats or nests its values without need; write them out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"'{path}' is damaged ({error}); restore it") from error


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file that :func:`write_rows` or somebody else wrote, by the names of its columns.

    Raises ``DataError``: it is missing, too large, no table, or lacks one of ``columns``.
    """
    try:
        text = _content(path).decode("utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="")
        table.fieldnames = [from_cell(name) for name in table.fieldnames or ()]
        lacking = [name for name in columns if name not in table.fieldnames]
        if lacking:
            raise DataError(f"'{path}' has no column '{lacking[0]}'; restore it or move it away")
        return [{name: from_cell(text) for name, text in row.items() if name is not None} for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' is no table ({error}); restore it or move it away") from error


def write_rows(
    path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str] = (), *, end: str = "\r\n"
) -> None:
    """Write rows, which need not have the same columns, as CSV whose cells no spreadsheet takes for formulas.

    Raises ``DataError``: the file cannot be written.
    """
    rows = list(rows)
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as temporary:
        temporary.write_bytes(_lines([dict(zip(columns, columns, strict=True)), *rows], columns, end))


def append_rows(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Put rows behind those of a CSV file that :func:`write_rows` wrote with these columns, in one step.

    Raises ``DataError``: the file cannot be written.
    """
    try:
        with path.open("ab+", buffering=0) as file:
            file.seek(-1, os.SEEK_END)
            ended = b"" if file.read(1) == b"\n" else b"\r\n"  # after an editor of texts
            file.write(ended + _lines(rows, columns, "\r\n"))
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(
            f"cannot write '{path}' ({error.strerror}); make room, or change its permissions"
        ) from error


def _lines(rows: Iterable[Mapping[str, object]], columns: Sequence[str], end: str) -> bytes:
    text = io.StringIO()
    plain = csv.writer(text, lineterminator=end)
    quoted = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)
    for row in rows:
        cells = [as_cell(row.get(name, "")) for name in columns]
        is_parted = any(isinstance(cell, str) and any(part in cell for part in _PARTS) for cell in cells)
        (quoted if is_parted else plain).writerow(cells)
    return text.getvalue().encode()


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"'{path}' is a folder, a device or a pipe where a file should be; remove it")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"'{path}' has {size:,} bytes, far too many for what it should hold; restore it")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"'{path}' does not exist; restore it") from error
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}); change its permissions") from error


def _depth(text: bytes) -> int:
    """The deepest level, brackets within strings counted too."""
    deepest = level = 0
    for start in range(0, len(text), 2**20):
        levels = np.cumsum(_STEPS[np.frombuffer(text[start : start + 2**20], np.uint8)], dtype=np.int64)
        deepest, level = max(deepest, level + int(levels.max())), level + int(levels[-1])
    return deepest
