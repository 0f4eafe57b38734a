"""Splits and patients told in files beside the images: ``train.txt``, JSON by split, tables with a column."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from napari_prosma.data.layouts.found import Found, files_in
from napari_prosma.data.layouts.pairing import split_in
from napari_prosma.data.names import normal
from napari_prosma.data.readers import stem
from napari_prosma.data.texts import parse_json
from napari_prosma.errors import DataError

_LISTS, _TABLES = (".txt", ".lst", ".list", ".json"), (".csv", ".tsv")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id")
_COLUMN = re.compile(r"[,;\t]")
_MOST_BYTES = 1 << 24
_WORDS_SHOWN = 3
_KNOWN = 0.5
"""Share of the names of a list that have to be cases here."""


def with_listed(folder: Path, candidates: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Cases with the splits and the patients that files in ``folder`` tell of them, and notices of which."""
    files = [
        path
        for path in files_in(folder)
        if path.suffix.lower() in (*_TABLES, *_LISTS)
        and (path.suffix.lower() in _TABLES or "split" in path.stem.lower() or split_in(path.stem))
        and path.stat().st_size <= _MOST_BYTES
    ]
    if len(candidates) < 2 or not files:
        return list(candidates), ()
    own = {stem(path) for case in candidates for path in (*case.images, *case.labels)}
    files = [path for path in files if stem(path) not in own]
    cases_of: dict[str, set[int]] = defaultdict(set)
    for number, case in enumerate(candidates):
        for name in _names(folder, case):
            cases_of[name].add(number)
    told, splits_told = _with_splits(folder, candidates, files, cases_of)
    splits_told += _said_of_other_words(folder, files, cases_of)
    told, patients_told = _with_patients(folder, told, files, cases_of)
    return told, (*splits_told, *patients_told)


def _with_splits(
    folder: Path, candidates: Sequence[Found], files: Sequence[Path], cases_of: Mapping[str, set[int]]
) -> tuple[list[Found], tuple[str, ...]]:
    """The longest lists count before others; as long ones that contradict each other, of folds, do not."""
    by_place: dict[Path, dict[Path, dict[int, set[str]]]] = defaultdict(dict)
    for path in files if any(not case.split for case in candidates) else ():
        splits = _splits_in(path, cases_of)
        if splits:
            by_place[path.parent][path] = splits
    if not by_place:
        return list(candidates), ()
    # ImageSets/Segmentation of Pascal VOC lies beside ImageSets/Main, which is of another task.
    of_task = [place for place in by_place if "seg" in place.name.lower()] or list(by_place)
    united = {place: _united(by_place[place].values()) for place in of_task}
    place = max(of_task, key=lambda place: len(united[place]))
    first = next(iter(by_place[place])).relative_to(folder).as_posix()
    splits = _united(united.values())
    if sum(len(other) == len(united[place]) for other in united.values()) == 1:
        splits |= united[place]
    twice = next((number for number, several in splits.items() if len(several) > 1), None)
    if twice is not None:
        # What every list that names it calls a test case is one, whatever the folds are.
        tests = {number for number, several in splits.items() if several == {"test"}}
        told = [replace(c, split=c.split or "test") if n in tests else c for n, c in enumerate(candidates)]
        kept = f" but for the {len(tests)} cases that are test in all of them" if tests else ""
        return told, (
            f"lists such as '{first}' put '{candidates[twice].name}' into several splits and are not "
            f"used{kept}; a column 'split' in a CSV of pairs says which counts",
        )
    told = [
        case if case.split or number not in splits else replace(case, split=next(iter(splits[number])))
        for number, case in enumerate(candidates)
    ]
    counts = Counter(case.split or "in none" for case in told)
    said = ", ".join(f"{counts[part]} {part}" for part in ("train", "val", "test", "in none") if counts[part])
    return told, (f"splits are those of lists such as '{first}': {said}",)


def _said_of_other_words(
    folder: Path, files: Sequence[Path], cases_of: Mapping[str, set[int]]
) -> tuple[str, ...]:
    """What to say of a column ``split`` with words that name no split."""
    for path in files:
        try:
            text = path.read_text(encoding="utf-8-sig") if path.suffix.lower() in _TABLES else ""
            rows = [(name, word) for name, word in _rows(text, SPLIT_COLUMNS[:1]) if _cases(name, cases_of)]
        except (OSError, ValueError, csv.Error):  # no table, whatever else it is
            continue
        others = sorted({word for _, word in rows if word and not split_in(word)})
        if others:
            shown = ", ".join(f"'{word}'" for word in others[:_WORDS_SHOWN])
            return (
                f"'{path.relative_to(folder).as_posix()}' has {shown} in the column 'split', which is none "
                "of train, val and test: these cases are split at random",
            )
    return ()


def _with_patients(
    folder: Path, candidates: Sequence[Found], files: Sequence[Path], cases_of: Mapping[str, set[int]]
) -> tuple[list[Found], tuple[str, ...]]:
    if any(case.patient for case in candidates):
        return list(candidates), ()
    for path in files:
        if path.suffix.lower() not in _TABLES:
            continue
        try:
            rows = _rows(path.read_text(encoding="utf-8-sig"), PATIENT_COLUMNS)
        except (OSError, ValueError, csv.Error):  # no table, whatever else it is
            continue
        patients = {n: patient for name, patient in rows for n in _cases(name, cases_of) if patient}
        known = sum(bool(_cases(name, cases_of)) for name, _ in rows)
        if rows and known >= _KNOWN * len(rows):
            told = [replace(case, patient=patients.get(n, "")) for n, case in enumerate(candidates)]
            where, number = path.relative_to(folder).as_posix(), len(set(patients.values()))
            return told, (f"patients are those of '{where}': {number} of {len(patients)} cases",)
    return list(candidates), ()


def _cases(name: str, cases_of: Mapping[str, set[int]]) -> set[int]:
    return next((cases_of[key] for key in _keys(name) if key in cases_of), set())


def _names(folder: Path, case: Found) -> set[str]:
    """What a list may call a case: its name, its files with or without folders, or a folder of its own."""
    names = {case.name}
    for path in (case.image, *case.labels[:1]):
        inside = path.relative_to(folder) if path.is_relative_to(folder) else path
        names |= {stem(path), (inside.parent / stem(path)).as_posix(), *inside.parts[:-1]}
    return {normal(name) for name in names}


def _united(lists: Iterable[Mapping[int, set[str]]]) -> dict[int, set[str]]:
    united: dict[int, set[str]] = defaultdict(set)
    for splits in lists:
        for number, several in splits.items():
            united[number] |= several
    return dict(united)


def _splits_in(path: Path, cases_of: Mapping[str, set[int]]) -> dict[int, set[str]]:
    """Splits of cases, by their number, that a file tells; none where it is no such list."""
    try:
        entries = list(_entries(path))
    except (OSError, ValueError, DataError, csv.Error):  # whatever it is, it lists no splits
        return {}
    splits: dict[int, set[str]] = defaultdict(set)
    known = 0
    for name, split in entries:
        numbers = _cases(name, cases_of)
        known += bool(numbers)
        for number in numbers:
            splits[number].add(split)
    return dict(splits) if entries and known >= _KNOWN * len(entries) else {}


def _keys(entry: str) -> Iterator[str]:
    """What an entry may call a case: all of it, for names may hold blanks, else what stands first in it."""
    for name in dict.fromkeys((entry, _COLUMN.split(entry)[0], entry.split()[0] if entry.split() else "")):
        path = Path(normal(name.strip().strip('"').replace("\\", "/")).removeprefix("./"))
        yield path.as_posix()
        yield (path.parent / stem(path)).as_posix()
        yield stem(path)
        yield path.name


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Name and split, entry by entry."""
    split = split_in(path.stem)
    if path.suffix.lower() == ".json":
        content = parse_json(path.read_text(encoding="utf-8-sig"), path.name)
        for key, names in content.items() if isinstance(content, dict) else [(path.stem, content)]:
            for entry in names if split_in(str(key)) and isinstance(names, list) else ():
                name = entry.get("image") if isinstance(entry, dict) else entry
                if isinstance(name, str):
                    yield name, split_in(str(key))
        return
    text = path.read_text(encoding="utf-8-sig")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [(name, split_in(told)) for name, told in _rows(text, SPLIT_COLUMNS)]
    if rows:
        yield from ((name, told) for name, told in rows if told)
    elif split:
        for line in lines:
            yield line, split


def _rows(text: str, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Of a table with a column of these names: in every line the name of a case, and what the column says."""
    lines = [line for line in text.splitlines() if line.strip()]
    heading = lines[0] if lines else ""
    delimiter = max(",;\t", key=heading.count)
    columns = [name.strip().strip('"') for name in heading.split(delimiter)]
    told = next((name for name in columns if name.lower() in wanted), None)
    if told is None or len(columns) < 2:
        return []
    rows = list(csv.DictReader(lines[1:], columns, delimiter=delimiter))
    others = [name for name in columns if name != told]
    named = max(others, key=lambda name: len({row[name] for row in rows}))
    return [((row[named] or "").strip(), (row[told] or "").strip()) for row in rows]
