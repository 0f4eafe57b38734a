"""What is wrong with a data set, case by case, with remedies, before minutes are lost on training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import content_hash
from napari_prosma.data.labels import count_classes
from napari_prosma.data.layouts import DataSet
from napari_prosma.data.layouts.pairing import split_in
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.texts import write_rows
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

# Chosen on BUSI (finds the 202 known pairs of copies and 2 more) and Kvasir-SEG (its 4 pairs, none more).
_THUMBNAIL_SIDE = 32
_NEARLY_SAME = 0.97
_FEWEST_CASES = 5
_ODD_SPACING = 3.0
_TINY = 1e-5
_LUMA = (0.299, 0.587, 0.114)
_Tell = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Problem:
    """A row of the table."""

    case: str  # name of the case, or "" where the whole data set is meant
    # "error", "warning" or "note": ``error``: the case cannot be used. ``warning``: it can, but something is
    # off. ``note``: to be known.
    severity: str
    # found, remedy: what was found, and what to do.
    found: str
    remedy: str


@dataclass(frozen=True)
class Checked:
    """One case that was looked at, and what :func:`compare` needs of it."""

    case: Case
    problems: tuple[Problem, ...]
    digest: str = ""
    thumbnail: np.ndarray | None = None
    geometry: Geometry | None = None
    classes: tuple[int, ...] = ()


def check_cases(data: DataSet) -> tuple[Problem, ...]:
    """Every problem of a data set: of its cases in their order, then of the set as a whole.

    Reads every image and label once; use :func:`check_each` and :func:`compare` to show progress.
    """
    checked = tuple(check_each(data))
    return (*(problem for one in checked for problem in one.problems), *compare(data, checked))


def check_each(data: DataSet) -> Iterator[Checked]:
    """Look at one case after the other."""
    for case in data.cases:
        yield _check(case, data)


def compare(data: DataSet, checked: Sequence[Checked]) -> tuple[Problem, ...]:
    """Problems that only show between cases: copies, leaks between splits, odd spacing, absent classes."""
    return (*_copies(checked), *_odd_spacing(checked), *_absent_classes(data, checked))


def near_duplicates(checked: Sequence[Checked]) -> tuple[tuple[str, ...], ...]:
    """Names of cases whose images are copies or nearly so, cluster by cluster; to keep them on one side.

    Two pictures are near when their thumbnails of 32 x 32 correlate by more than 0.97. Volumes of one organ
    are alike without being copies, so that only equal voxels count.
    """
    cluster = list(range(len(checked)))

    def root(n: int) -> int:
        while cluster[n] != n:
            cluster[n] = cluster[cluster[n]]
            n = cluster[n]
        return n

    pictures = [n for n, one in enumerate(checked) if one.thumbnail is not None]
    thumbnails = np.array([checked[n].thumbnail for n in pictures])
    for row, n in enumerate(pictures):
        alike = thumbnails[row + 1 :] @ thumbnails[row] > _NEARLY_SAME
        for near in np.flatnonzero(alike):
            cluster[root(pictures[row + 1 + int(near)])] = root(n)
    for same in _by_digest(checked).values():
        for other in same[1:]:
            cluster[root(other)] = root(same[0])
    members: dict[int, list[str]] = defaultdict(list)
    for n, one in enumerate(checked):
        members[root(n)].append(one.case.name)
    return tuple(tuple(names) for names in members.values() if len(names) > 1)


def check_image(case: Case) -> Checked:
    """What :func:`near_duplicates` needs of a case, from its image alone."""
    return seen(case, case.read_image())


def _check(case: Case, data: DataSet) -> Checked:
    problems: list[Problem] = []

    def tell(severity: str, found: str, remedy: str) -> None:
        problems.append(Problem(case.name, severity, found, remedy))

    try:
        image = case.read_image()
    except DataError as error:
        tell("error", *_in_two(error))
        return Checked(case, tuple(problems))
    _check_image(image, data, tell)
    classes: tuple[int, ...] = ()
    if case.read_label is None:
        tell("warning", "there is no label", "label it, or leave it out of training")
    else:
        try:
            label = case.read_label()
        except DataError as error:
            tell("error", *_in_two(error))
        else:
            classes = _check_label(label, data, tell)
            for notice in () if case.label_notices is None else case.label_notices():
                tell("warning", notice, "check the label before using it")
    return replace(seen(case, image), problems=tuple(problems), classes=classes)


def seen(case: Case, image: Image) -> Checked:
    """What tells near-duplicates, of a case whose image is at hand."""
    return Checked(case, (), content_hash(image.array), _thumbnail(image), image.geometry)


def _check_image(image: Image, data: DataSet, tell: _Tell) -> None:
    array = image.array
    if len(array) != data.channels:
        tell("error", f"{len(array)} channels instead of {data.channels}", "export all images alike")
    if image.geometry.ndim != data.dims:
        tell("error", f"{image.geometry.ndim} axes instead of {data.dims}", "export all images alike")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        share = 1 - float(np.isfinite(array).mean())
        tell(
            "error",
            f"{in_percent(share, 2)} of the image is NaN or infinite",
            "fill or crop them",
        )
    elif array.min() == array.max():
        tell("error", f"the image is {array.flat[0]:g} everywhere", "export it again or leave it out")
    for notice in image.notices:
        tell("note" if notice.startswith("a clip") else "warning", notice, "check the image before using it")


def _check_label(label: np.ndarray, data: DataSet, tell: _Tell) -> tuple[int, ...]:
    counts = count_classes(label)
    labelled = int(counts.sum())
    if labelled == 0:
        tell("warning", "no element is labelled", "label some slices, or leave it out")
        return ()
    present = tuple(int(n) for n in np.flatnonzero(counts[: len(data.class_names)]))
    foreground = int(counts[1 : len(data.class_names)].sum())
    if foreground == 0:
        tell("note", "the label is empty", "fine if there is nothing to find; otherwise label it")
    elif foreground / labelled < _TINY:
        tell("warning", f"only {foreground} of {labelled} elements are foreground", "check the label")
    elif foreground == labelled and len(present) == 1:
        tell(
            "warning", f"the label is {data.class_names[present[0]]} everywhere", "check that 0 is background"
        )
    return present


def _copies(checked: Sequence[Checked]) -> Iterator[Problem]:
    splits = {
        one.case.name: one.case.split or split_in(*one.case.group.split("/")) or None for one in checked
    }
    exact = [tuple(checked[n].case.name for n in same) for same in _by_digest(checked).values()]
    for names in exact:
        yield Problem(names[0], "warning", f"the same image as {_listed(names[1:])}", "keep one of them")
    for names in near_duplicates(checked):
        if names not in exact:
            yield Problem(
                names[0],
                "warning",
                f"nearly the same image as {_listed(names[1:])}",
                "keep them in one fold: --together copies, or a column 'patient' in a table",
            )
        sides = {splits[name] for name in names} - {None}
        if len(sides) > 1:
            yield Problem(
                names[0],
                "error",
                f"{_listed(names)} are copies in {' and '.join(sorted(str(side) for side in sides))}",
                "move them to one side, or the validation is meaningless",
            )


def _by_digest(checked: Sequence[Checked]) -> dict[str, list[int]]:
    same: dict[str, list[int]] = defaultdict(list)
    for n, one in enumerate(checked):
        if one.digest:
            same[one.digest].append(n)
    return {digest: members for digest, members in same.items() if len(members) > 1}


def _odd_spacing(checked: Sequence[Checked]) -> Iterator[Problem]:
    known = [one for one in checked if one.geometry is not None and one.geometry.unit != "pixel"]
    if len({one.geometry.ndim for one in known if one.geometry}) != 1:
        return
    spacings = np.array([one.geometry.spacing for one in known if one.geometry])
    usual = np.median(spacings, axis=0)
    for one, ratio in zip(known, spacings / usual, strict=True):
        if ratio.max() > _ODD_SPACING or ratio.min() < 1 / _ODD_SPACING:
            assert one.geometry is not None
            shown = " x ".join(f"{s:.3g}" for s in one.geometry.spacing)
            often = " x ".join(f"{s:.3g}" for s in usual)
            yield Problem(
                one.case.name,
                "warning",
                f"spacing {shown} {one.geometry.unit} where {often} is usual",
                "check the header",
            )


def _absent_classes(data: DataSet, checked: Sequence[Checked]) -> Iterator[Problem]:
    seen = Counter(n for one in checked for n in one.classes)
    for index, name in enumerate(data.class_names[1:], 1):
        if not seen[index] and any(one.classes for one in checked):
            yield Problem("", "error", f"no label holds the class {name}", "label some, or remove the class")
    if len(checked) < _FEWEST_CASES:
        yield Problem("", "warning", f"only {len(checked)} cases", "add cases; results will not generalise")


def _thumbnail(image: Image) -> np.ndarray | None:
    """Gray picture on a 32 x 32 grid with mean 0 and norm 1; None for volumes and flat pictures."""
    from PIL import Image as Picture

    if image.geometry.ndim != 2:
        return None
    array = np.nan_to_num(image.array.astype(np.float32), posinf=0, neginf=0)
    plane = np.tensordot(_LUMA, array, axes=1) if len(array) == len(_LUMA) else array[0]
    low, high = np.percentile(plane, (0.5, 99.5))
    clipped = np.clip(plane, low, high).astype(np.float32)
    side = (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    cells = np.asarray(Picture.fromarray(clipped).resize(side, Picture.Resampling.BOX)).ravel()
    cells = cells - cells.mean()
    norm = float(np.linalg.norm(cells))
    return cells / norm if norm > 0 else None


def _in_two(error: DataError) -> tuple[str, str]:
    """What was found and the remedy of an error that says both, parted by a semicolon."""
    found, _, remedy = str(error).rpartition("; ")
    return (found, remedy) if found else (str(error), "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def write_table(problems: Sequence[Problem], path: str | Path) -> None:
    """Write the table as CSV."""
    columns = ("case", "severity", "found", "remedy")
    write_rows(Path(path), ({name: getattr(row, name) for name in columns} for row in problems), columns)
