"""Folders as a PACS gives them: series and the objects that label them, of several patients and studies.

Which series an object belongs to is what it refers to, wherever the two lie.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from napari_prosma.data.class_names import plain
from napari_prosma.data.formats import dicom, dicom_labels
from napari_prosma.data.formats.dicom_labels import LabelObject
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts.found import Found, Recognised, files_in, images_in
from napari_prosma.data.readers import guarded
from napari_prosma.errors import DataError

T = TypeVar("T")
_NAMED = 4
"""So many names are listed, then dots."""


@dataclass(frozen=True)
class Labelled:
    """A series and the objects that refer to it."""

    series: dicom.Series
    objects: tuple[LabelObject, ...]


@dataclass(frozen=True)
class Studies:
    """What lies in a folder, in the order of patients, studies and series."""

    series: tuple[Labelled, ...]
    notices: tuple[str, ...] = ()  # what cannot be used, and why

    def rows(self) -> list[dict[str, str | float]]:
        """A row per series, for a table; patients and studies are numbered, not named."""
        patients = _numbered(one.series.patient for one in self.series)
        studies = _numbered((one.series.patient, one.series.study) for one in self.series)
        return [
            {
                "patient": patients[one.series.patient],
                "study": studies[one.series.patient, one.series.study],
                "series": one.series.description or one.series.number or one.series.files[0].name,
                "kind": one.series.modality,
                "size": " x ".join(map(str, one.series.shape)),
                "labels": ", ".join(
                    f"{dicom_labels.KINDS[o.kind]}: {', '.join(s.name for s in o.structures[:_NAMED])}"
                    + (", ..." if len(o.structures) > _NAMED else "")
                    for o in one.objects
                ),
            }
            for one in self.series
        ]


def holds_objects(folder: Path) -> bool:
    """Whether a SEG or an RTSTRUCT lies in a folder or below it."""
    return dicom.holds_series(folder, nested=True) and any(dicom_labels.kind_of(p) for p in files_in(folder))


def series_folders(folder: Path) -> list[Path]:
    """The folders below one that hold a series each, of patients and studies; none if it holds one itself."""
    if dicom.holds_series(folder) or not dicom.holds_series(folder, nested=True):
        return []
    found = [path for path in images_in(folder) if path.is_dir() and dicom.holds_series(path)]
    return [path for path in found if holds_images(path)]


def holds_images(folder: Path) -> bool:
    """Whether the folder of a series holds anything but objects that label one."""
    return any(not dicom_labels.kind_of(file) for file in files_in(folder))


def studies_in(folder: Path, objects: Iterable[Path] | None = None) -> Studies:
    """The series under a folder and what labels each: the ``objects``, or those that lie there too.

    Raises ``DataError``: no series is there.
    """
    folder = folder.parent if folder.is_file() and dicom.is_directory(folder) else folder
    series = sorted(guarded(folder, dicom.find_series), key=_in_order)
    of_series: dict[int, list[LabelObject]] = defaultdict(list)
    notices: list[str] = []
    for path in files_in(folder) if objects is None else objects:
        if not dicom_labels.kind_of(path):
            continue
        try:
            one = guarded(path, dicom_labels.describe)
            of_series[_series_of(one, series)].append(one)
            referred = [s for s in series if one.is_of(s)]
            referred = [s for s in referred if one.names_images_of(s)] or referred
            if len(referred) > 1:
                notices.append(
                    f"'{path.name}' refers to {len(referred)} series; it labels the one of which it names "
                    "most images"
                )
        except DataError as error:
            notices.append(str(error))
    return Studies(tuple(Labelled(s, tuple(of_series[n])) for n, s in enumerate(series)), tuple(notices))


def beside(path: Path) -> Studies:
    """The series that an object labels, from its own folder or from the study's above it.

    Raises ``DataError``: it is in neither.
    """
    for folder in (path.parent, path.parent.parent):
        try:
            found = studies_in(folder, [path])
        except DataError:  # no image at all
            continue
        labelled = tuple(one for one in found.series if one.objects)
        if labelled:
            return Studies(labelled)
    raise DataError(
        f"'{path}' labels a series that lies neither in its folder nor in the one above; open the folder "
        "that holds both"
    )


def _in_order(series: dicom.Series) -> tuple[object, ...]:
    """By the first file of patient, study and series, as somebody sorted them into folders."""
    number = int(series.number) if series.number.isdecimal() else 0
    return series.patient, series.study, number, series.files[0]


def _series_of(one: LabelObject, series: list[dicom.Series]) -> int:
    """Which of the series an object refers to.

    Raises ``DataError``: None of them, or one that lies in another frame of reference.
    """
    fitting = [n for n, s in enumerate(series) if one.is_of(s)]
    if not fitting and not one.series and not one.instances:
        fitting = [n for n, s in enumerate(series) if s.frame_of_reference == one.frame_of_reference != ""]
        if len(fitting) > 1:
            raise DataError(
                f"'{one.path}' refers to no series, and {len(fitting)} lie in its frame of reference; export "
                "it again over its series"
            )
    if not fitting:
        raise DataError(
            f"'{one.path}' refers to a series that is not there, and is left out; put it into the folder"
        )
    best = max(fitting, key=lambda n: sum(f.instance in one.instances for f in series[n].frames if f))
    theirs = series[best].frame_of_reference
    if one.frame_of_reference and theirs and one.frame_of_reference != theirs:
        raise DataError(
            f"'{one.path}' lies in another frame of reference than the series that it refers to, and is left "
            "out; export it again over that series"
        )
    return best


def dicom_studies(folder: Path) -> Recognised | None:
    """The layout of a folder with labels in DICOM: a case per series that an object refers to."""
    if not holds_objects(folder):
        return None
    studies = studies_in(folder)
    labelled = [one for one in studies.series if one.objects]
    if not labelled:
        raise DataError("; ".join(studies.notices) or f"'{folder}' holds no labels that can be used")
    bare = len(studies.series) - len(labelled)
    notices = list(studies.notices)
    if bare:
        notices.append(f"{bare} series that no label refers to are not used")
    titles: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for one in labelled:
        names = {plain(s.name): s.name for o in one.objects for s in o.structures}
        counts.update(names.keys())
        titles = {**names, **titles}
    structures = tuple(sorted(titles, key=lambda name: (-counts[name], name)))
    rare = [titles[name] for name in structures if counts[name] < len(labelled)]
    if rare:
        shown = ", ".join(f"'{name}'" for name in rare[:_NAMED]) + (", ..." if len(rare) > _NAMED else "")
        notices.append(f"not in all cases: {shown}; check that no class has two names")
    patients = _numbered(one.series.patient for one in labelled)
    found = [
        Found(
            _name(one.series, folder),
            (_place(one.series, studies),),
            tuple(o.path for o in one.objects),
            patient=f"patient {patients[one.series.patient]}" if one.series.patient else "",
            series=one.series,
            objects=one.objects,
            structures=structures,
        )
        for one in labelled
    ]
    rule = LabelRule.of_names({0: "background"} | {n: titles[name] for n, name in enumerate(structures, 1)})
    return Recognised("DICOM", tuple(found), rule, notices=tuple(notices))


def labelled_by(candidate: Found, class_names: Sequence[str] = ()) -> tuple[Found, LabelRule]:
    """One image with the objects that are said to be its labels, and the names of their structures.

    These are ``class_names``, background first, where any of them has one of these names.

    Raises ``DataError``: the image is no series that they refer to.
    """
    series = guarded(candidate.image, dicom.series_of)
    objects = tuple(guarded(path, dicom_labels.describe) for path in candidate.labels)
    for one in objects:
        _series_of(one, [series])
    titles = {plain(s.name): s.name for one in objects for s in one.structures}
    wanted = {plain(name): name for name in class_names[1:]}
    titles = wanted if wanted.keys() & titles.keys() else titles
    rule = LabelRule.of_names({0: "background"} | dict(enumerate(titles.values(), 1)))
    return replace(candidate, series=series, objects=objects, structures=tuple(titles)), rule


def _name(series: dicom.Series, folder: Path) -> str:
    """A name for a case: its folder, else what the series is called."""
    parent = series.files[0].parent
    if parent != folder:
        return parent.relative_to(folder).as_posix().replace("/", "_")
    return series.description or f"series {series.number or series.uid[-8:]}"


def _place(series: dicom.Series, studies: Studies) -> Path:
    """The folder of a series that lies there alone, else its first file."""
    parent = series.files[0].parent
    others = (one.series for one in studies.series if one.series is not series)
    several = any(path.parent == parent for other in others for path in other.files)
    return series.files[0] if several or len(series.files) == 1 else parent


def _numbered(keys: Iterable[T]) -> dict[T, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(keys), 1)}
