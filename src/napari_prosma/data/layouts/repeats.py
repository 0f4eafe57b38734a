"""Cases that are copies of others: ``1 (copy).png`` of ``1.png``, or ``TIF/1.tif`` of ``PNG/1.png``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_prosma.data.fingerprint import hash_of_file
from napari_prosma.data.label_doubts import evenly, is_lossy
from napari_prosma.data.layouts.found import Found
from napari_prosma.data.names import normal
from napari_prosma.data.readers import read_image, stem
from napari_prosma.errors import DataError

_COPY = re.compile(
    r"\W*(?:copy|kopie|copie|copia|c[óo]pia|kopia|kopi|копия|副本|のコピー|コピー|복사본)"
    r"(?:\W*(?:of|von|de|di|van|av|af))?\W*\d*\W*|\s*\(\d+\)",
)
_END = 4096
"""Bytes by which files of one size are told apart before they are read whole."""
_COMPARED = 3
_ALIKE = 0.2
"""Of the standard deviation of the values: as far as JPEG may take them from where they were."""
_HEADERS = (".hdr", ".mhd", ".nhdr")
"""Their voxels lie in another file."""


def without_repeats(folder: Path, candidates: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Cases without those that a file manager called copies, and a notice of these.

    Copies of other names are told when they are learned from, and by a check.
    """
    groups = [[case for case in candidates if not case.polygons and all(map(_holds_itself, _files(case)))]]
    for look in (_size, _end, hash_of_file):
        groups = [same for group in groups for same in _alike(group, look)]
    original: dict[int, Found] = {}
    for group in groups:
        first, *rest = sorted(group, key=lambda case: len(case.image.name))
        original |= {id(case): first for case in rest if _is_called_a_copy(case.image, first.image)}
    if not original:
        return list(candidates), ()
    copy = next(case for case in candidates if id(case) in original)
    one, of = (case.image.relative_to(folder).as_posix() for case in (copy, original[id(copy)]))
    return [case for case in candidates if id(case) not in original], (
        f"{len(original)} cases are copies of others, byte for byte, such as '{one}' of '{of}'; each is used "
        "once",
    )


def without_other_formats(folder: Path, candidates: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Cases without those that show the pictures of others of the same names in another format, and a notice.

    A case and its copy would fall on two sides of a split.
    """
    of_format: dict[str, dict[str, Found]] = defaultdict(dict)
    if len({case.image.suffix for case in candidates}) < 2:
        return list(candidates), ()
    for case in candidates:
        if len(case.images) > 1 or case.polygons or normal(stem(case.image)) in of_format[case.image.suffix]:
            return list(candidates), ()
        of_format[case.image.suffix][normal(stem(case.image))] = case
    kept = min(of_format, key=lambda suffix: (is_lossy(Path(f"x{suffix}")), suffix), default="")
    same = [
        suffix
        for suffix, cases in of_format.items()
        if suffix != kept
        and cases.keys() == of_format[kept].keys()
        and _show_the_same(cases, of_format[kept])
    ]
    if not same:
        return list(candidates), ()
    name = next(iter(of_format[kept]))
    one, of = (of_format[suffix][name].image.relative_to(folder).as_posix() for suffix in (same[0], kept))
    return [case for case in candidates if case.image.suffix not in same], (
        f"{sum(len(of_format[suffix]) for suffix in same)} cases are others in another format, such as "
        f"'{one}' of '{of}'; each is used once",
    )


def _show_the_same(cases: Mapping[str, Found], others: Mapping[str, Found]) -> bool:
    """Whether images of the same names look alike and have equal labels, by a few of them."""
    for image in evenly([case.image for case in cases.values()], _COMPARED):
        name = normal(stem(image))
        one, other = _files(cases[name]), _files(others[name])
        if len(one) != len(other) or not cases[name].labels:
            return False
        try:
            pairs = [(read_image(a).array, read_image(b).array) for a, b in zip(one, other, strict=True)]
        except DataError:  # said when its case is read
            return False
        if not _look_alike(*pairs[0]) or not all(np.array_equal(a, b) for a, b in pairs[1:]):
            return False
    return True


def _look_alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two pictures differ by far less than each varies."""
    if ours.shape != theirs.shape:
        return False
    apart = np.sqrt(np.mean((ours.astype(float) - theirs.astype(float)) ** 2))
    return bool(apart <= _ALIKE * theirs.std())


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
