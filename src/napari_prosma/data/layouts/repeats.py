"""Cases that are copies of others by their names and byte for byte, as ``1 (copy).png`` beside ``1.png``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from napari_prosma.data.fingerprint import hash_of_file
from napari_prosma.data.layouts.found import Found
from napari_prosma.data.names import normal
from napari_prosma.data.readers import stem

_COPY = re.compile(
    r"\W*(?:copy|kopie|copie|copia|c[óo]pia|kopia|kopi|копия|副本|のコピー|コピー|복사본)"
    r"(?:\W*(?:of|von|de|di|van|av|af))?\W*\d*\W*|\s*\(\d+\)",
)
_END = 4096
"""Bytes by which files of one size are told apart before they are read whole."""
_HEADERS = (".hdr", ".mhd", ".nhdr")
"""Their voxels lie in another file."""


def without_repeats(folder: Path, found: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Cases without those that a file manager called copies, and a notice of these.

    Copies of other names are told when they are learned from, and by a check.
    """
    groups = [[case for case in found if not case.polygons and all(map(_holds_itself, _files(case)))]]
    for look in (_size, _end, hash_of_file):
        groups = [same for group in groups for same in _alike(group, look)]
    original: dict[int, Found] = {}
    for group in groups:
        first, *rest = sorted(group, key=lambda case: len(case.image.name))
        original |= {id(case): first for case in rest if _is_called_a_copy(case.image, first.image)}
    if not original:
        return list(found), ()
    copy = next(case for case in found if id(case) in original)
    one, of = (case.image.relative_to(folder).as_posix() for case in (copy, original[id(copy)]))
    return [case for case in found if id(case) not in original], (
        f"{len(original)} cases are copies of others, byte for byte, such as '{one}' of '{of}'; each is used "
        "once",
    )


def _is_called_a_copy(image: Path, first: Path) -> bool:
    """Whether a name is another one with what systems add: ``1 (copy)``, ``1 - Kopie``, ``1 (2)``."""
    name, original = normal(stem(image)), normal(stem(first))
    return original in name and _COPY.fullmatch(name.replace(original, "", 1)) is not None


def _alike(cases: Sequence[Found], look: Callable[[Path], object]) -> list[list[Found]]:
    """Groups of several cases whose files all look the same."""
    groups: dict[object, list[Found]] = defaultdict(list)
    for case in cases:
        groups[tuple(map(look, _files(case)))].append(case)
    return [group for group in groups.values() if len(group) > 1]


def _files(case: Found) -> tuple[Path, ...]:
    return (*case.images, *case.labels)


def _holds_itself(path: Path) -> bool:
    return path.is_file() and not path.name.lower().endswith(_HEADERS)


def _size(path: Path) -> int:
    return path.stat().st_size


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(_END, _size(path)), 2)
        return file.read()
