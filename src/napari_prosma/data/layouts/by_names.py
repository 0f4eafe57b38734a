"""Cases of a folder whose layout nobody announced: by what names share, or by one file of annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from napari_prosma.data.class_names import is_void
from napari_prosma.data.formats import pictures, polygons
from napari_prosma.data.label_doubts import evenly
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts.found import Found, Recognised, files_in, images_in
from napari_prosma.data.layouts.judging import Judge, Judged, case_name
from napari_prosma.data.layouts.pairing import Reading, Role, readings, split_in
from napari_prosma.data.names import normal
from napari_prosma.data.readers import stem
from napari_prosma.errors import DataError

READINGS_TRIED = 12
_TEXTS_OPENED = 8
_ROUNDS = 6
"""Folders that hold several sets with names of their own, such as one per split, are read so often."""


def by_names(folder: Path, known: Recognised | None) -> Recognised | None:
    """Cases by what names share, where that explains more than a known layout does."""
    files = images_in(folder)
    readable = set(files)
    files += _annotations(path for path in files_in(folder) if path not in readable)
    found = _paired(folder, files, readable, known) or _paired(folder, files, readable, known, by_format=True)
    if found is not None or (known is not None and any(case.labels for case in known.found)):
        return found
    return _paired(folder, files, readable, known, by_number=True) or _only_volumes(folder, files, readable)


def _only_volumes(folder: Path, files: Sequence[Path], readable: Collection[Path]) -> Recognised | None:
    """A volume and its label, whatever they are called, beside pictures such as a screenshot."""
    volumes = [
        path for path in files if path in readable and not path.name.lower().endswith(pictures.SUFFIXES)
    ]
    beside = [path for path in files if path in readable and path not in volumes]
    if len(volumes) != 2 or not beside:
        return None
    found = _paired(folder, volumes, readable, None)
    said = f"{len(beside)} pictures beside them are not used, the first is '{beside[0].name}'"
    return None if found is None else replace(found, notices=(*found.notices, said))


def _annotations(files: Iterable[Path]) -> list[Path]:
    """Files that could hold annotations, of the formats of which one of a few does; others lie beside."""
    of_format: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if polygons.may_be(path):
            of_format[path.suffix.lower()].append(path)
    return [
        path
        for several in of_format.values()
        if any(map(polygons.is_annotation, evenly(several, _TEXTS_OPENED)))
        for path in several
    ]


def by_patterns(folder: Path, images: str, masks: str) -> Recognised:
    """Cases of the files that the user names by patterns such as ``images/*`` and ``1st_manual/*``.

    Raises ``DataError``: no file fits a pattern, one fits both, or none of the images has the name of a mask.
    """
    readable = images_in(folder)
    there = {*readable, *(path for path in files_in(folder) if polygons.may_be(path))}
    sides = []
    for pattern in (images, masks):
        fitting = {path for path in there if _fits(path.relative_to(folder), pattern)}
        if not fitting:
            raise DataError(
                f"no file in '{folder}' fits '{pattern}'; write the folder and the name with * for what "
                f"differs, such as {_example(folder, readable)}"
            )
        sides.append(fitting)
    both = sorted(sides[0] & sides[1])
    if both:
        raise DataError(
            f"'{both[0]}' fits both '{images}' and '{masks}'; write patterns that tell them apart"
        )
    files, images_there = sorted(sides[0] | sides[1]), set(readable)
    found = _paired(folder, files, images_there, None, sides[1]) or _paired(
        folder, files, images_there, None, sides[1], by_format=True
    )
    if found is None:
        raise DataError(
            f"the {len(sides[0])} images '{images}' and the {len(sides[1])} masks '{masks}' share no names; "
            "list the pairs in a table with the columns 'image' and 'label'"
        )
    return found


def _fits(path: Path, pattern: str) -> bool:
    """Whether a path in the folder fits a pattern with or without the format behind it."""
    name = normal(path.as_posix())
    bare = name[: len(name) - len(path.name) + len(stem(path.name))]
    return any(fnmatchcase(one, normal(pattern)) for one in (name, bare))


def _example(folder: Path, files: Sequence[Path]) -> str:
    shown = files[0].relative_to(folder) if files else Path("images/1.png")
    return f"'{(shown.parent / '*').as_posix()}'"


def _paired(
    folder: Path,
    left: list[Path],
    readable: Collection[Path],
    known: Recognised | None,
    masks: Collection[Path] | None = None,
    by_format: bool = False,
    by_number: bool = False,
) -> Recognised | None:
    judge = Judge()
    rounds: list[tuple[Judged, list[Found]]] = []
    while len(rounds) < _ROUNDS:
        judged, doubt = _first_judged(judge, masks, readings(folder, left, by_format, by_number), len(left))
        if judged is None and doubt is not None and not rounds:
            if known is not None and all(case.labels for case in known.found):
                return None  # its names say what is meant
            raise doubt
        if judged is None:
            break
        found, used = _found_by_names(folder, judged, judge)
        rounds.append((judged, found))
        # What is no label of one set, such as fields of view, is none of the next.
        aside = {role.folders[-1] for role in judged.aside if role.folders}
        left = [path for path in left if path not in used and path.parent.name not in aside]
    if not rounds:
        return None
    found = _with_shared_classes([case for _, several in rounds for case in several])
    classes = rounds[0][0].classes
    other = next((judged for judged, _ in rounds if judged.classes != classes), None)
    if other is not None:
        raise DataError(
            f"'{folder}' holds sets with different classes ({', '.join(classes) or 'one'} and "
            f"{', '.join(other.classes) or 'one'}); give the folder of one of them"
        )
    if known is not None:
        # More cases with a label, then fewer without one; at par, the names of folders say what is meant.
        now, then = (
            (sum(bool(case.labels) for case in cases), -sum(not case.labels for case in cases))
            for cases in (found, known.found)
        )
        theirs = {path for case in known.found for path in case.labels}
        no_labels = {
            path for judged, _ in rounds for role in judged.aside for path in judged.reading.files(role)
        }
        same_masks = theirs & {path for case in found for path in case.labels}
        if not theirs & no_labels and (now < then or (now == then and same_masks)):
            return None
    notices = [notice for judged, _ in rounds for notice in judged.notices]
    unused = [path for path in left if path in readable]
    if unused:
        shown = unused[0].relative_to(folder).as_posix()
        notices.append(f"{len(unused)} files belong to no pair and are not used, the first is '{shown}'")
    names = classes or tuple(found[0].polygons[1:])
    return Recognised("names", tuple(found), _rule_of(names) if names else None, notices=tuple(notices))


def _rule_of(names: Sequence[str]) -> LabelRule:
    """Classes by their names; what is called void, or vague, is not labelled."""
    void = [number for number, name in enumerate(names, 1) if is_void(name)]
    used = [number for number in range(1, len(names) + 1) if len(void) != 1 or number not in void]
    return LabelRule(
        "values",
        ("background", *(names[number - 1] for number in used)),
        (0, *used),
        unlabelled=void[0] if len(used) < len(names) else None,
    )


def _with_shared_classes(candidates: Sequence[Found]) -> list[Found]:
    """Polygons of all cases numbered alike, though a set may lack a class of another."""
    names = dict.fromkeys(name for case in candidates for name in case.polygons[1:])
    return [replace(case, polygons=("background", *names)) if case.polygons else case for case in candidates]


def _first_judged(
    judge: Judge, masks: Collection[Path] | None, found: Iterable[Reading], most_left: int
) -> tuple[Judged | None, DataError | None]:
    """The likeliest reading that holds images and labels, or the doubt that a likelier one left.

    A doubt is settled by a reading that explains as many files.
    """
    doubt: DataError | None = None
    field: Judged | None = None
    for reading in islice(found, READINGS_TRIED):
        if len(reading.left) > most_left:
            continue
        try:
            judged = judge.judged(reading, masks)
        except DataError as error:
            doubt, most_left = doubt or error, min(most_left, len(reading.left))
            continue
        if judged is not None and reading.left and judge.shows_field(judged):
            field = field or judged  # among what is left may be labels of a structure
        elif judged is not None:
            return judged, None
    return field, doubt


def _found_by_names(folder: Path, judged: Judged, judge: Judge) -> tuple[list[Found], set[Path]]:
    """Cases of a reading, and the files that are explained."""
    reading, roles = judged.reading, judged.images
    used = {path for role in reading.roles for path in reading.files(role) if role not in roles}
    drawn = _polygon_names(
        [
            reading.cases[key][role]
            for key in reading.cases
            for role in judged.labels
            if role in reading.cases[key]
        ]
    )
    found: list[Found] = []
    bare: list[Found] = []
    for key, files in reading.cases.items():
        images = [files[role] for role in roles if role in files]
        if not images:
            continue
        if len(images) < len(roles):
            missing = next(role for role in roles if role not in files)
            raise DataError(
                f"'{images[0]}' has no '{missing.pattern}' beside it, a channel that other cases have; add "
                "it, or take the case away"
            )
        labels = [(files[role], n) for n, role in enumerate(judged.labels, 1) if role in files]
        name = case_name(reading, key, images[0], roles[0], len(images) > 1)
        case = Found(
            name,
            tuple(images),
            tuple(path for path, _ in labels),
            _group_of(folder, images[0], roles[0]),
            split_in(*images[0].relative_to(folder).parts[:-1]),
            classes=tuple(n for _, n in labels) if judged.classes else (),
            polygons=drawn,
        )
        (found if labels else bare).append(case)
    used |= {path for case in found for path in case.images}
    aside = {case.image for case in bare if _is_aside(case, found, judge)}
    used -= aside
    found += [case for case in bare if case.image not in aside]
    used |= {path for case in found for path in case.images}
    return found, used


def _group_of(folder: Path, image: Path, role: Role) -> str:
    """Folders of an image that are not its role's, without the one that is the case itself."""
    parts = image.relative_to(folder).parts[: len(role.folders)]
    kept = [part for part, name in zip(parts, role.folders, strict=True) if name == "*"]
    return "/".join(kept[:-1] if role.whole else kept)


def _is_aside(case: Found, labelled: Sequence[Found], judge: Judge) -> bool:
    """Whether an image without a label is of another kind than those with one: no image, or of other axes."""
    if not labelled:
        return False
    ours, theirs = judge.look(case.image), judge.look(labelled[0].image)
    is_image = ours.kind == "image" or ours.kind == theirs.kind
    return not is_image or (len(ours.shape), ours.channels) != (len(theirs.shape), theirs.channels)


def _polygon_names(labels: Sequence[Path]) -> tuple[str, ...]:
    """Classes of all polygon files, background first; none where the labels are masks."""
    if not labels or not all(polygons.may_be(path) for path in labels):
        return ()
    names: dict[str, None] = {}
    for path in labels:
        names.update(dict.fromkeys(polygons.read(path).names))
    return ("background", *names)


def by_annotation_file(folder: Path) -> Recognised | None:
    """Images whose polygons stand in one file for all of them, or for each split."""
    tables = [path for path in files_in(folder) if path.name.lower().endswith((".json", ".xml", ".csv"))]
    read = [(table, polygons.read(table)) for table in tables if polygons.is_annotation(table)]
    read = [(table, found) for table, found in read if "" not in found.shapes and found.names]
    if not read:
        return None
    names = ("background", *dict.fromkeys(name for _, found in read for name in found.names))
    found: list[Found] = []
    for image in images_in(folder):
        tables_of = [table for table, annotated in read if annotated.key_of(image) is not None]
        if len(tables_of) > 1:
            nearest = [table for table in tables_of if table.parent in (image.parent, *image.parents[1:2])]
            tables_of = [table for table in nearest if table.parent == image.parent] or nearest or tables_of
        if len(tables_of) > 1:
            raise DataError(
                f"'{image.name}' is annotated in '{tables_of[0]}' and in '{tables_of[1]}'; keep one of them"
            )
        group = image.parent.relative_to(folder).as_posix()
        found.append(
            Found(stem(image), (image,), tuple(tables_of), "" if group == "." else group, polygons=names)
        )
    found = _without_namesakes(found)
    if not any(case.labels for case in found):
        return None
    bare: list[Found] = []
    is_traced = any(annotated.frames for _, annotated in read)
    if is_traced:
        found, bare = [case for case in found if case.labels], [case for case in found if not case.labels]
    rule = LabelRule("values", names, tuple(range(len(names))), labelled_slices_only=is_traced)
    said = ", ".join(f"'{table.name}' ({annotated.program})" for table, annotated in read)
    number = sum(bool(case.labels) for case in found)
    notices = (f"{number} pairs: images and their polygons in {said}", *(one.said for _, one in read))
    if is_traced:
        notices += ("only traced frames are learned from",)
    if bare:
        notices += (
            f"{len(bare)} clips are not traced and are not used, the first is '{bare[0].image.name}'",
        )
    return Recognised("names", tuple(found), rule, notices=tuple(filter(None, notices)))


def _without_namesakes(candidates: Sequence[Found]) -> list[Found]:
    """Of images of one name in several folders only the one that the annotations mean has their polygons."""
    claims: dict[tuple[Path, str | None], list[Found]] = defaultdict(list)
    for case in candidates:
        for table in case.labels:
            claims[table, polygons.read(table).key_of(case.image)].append(case)
    left: set[Path] = set()
    for (table, _), several in claims.items():
        whole = [case.image for case in several if polygons.read(table).is_whole(case.image)]
        if len(several) > 1 and len(whole) != 1:
            raise DataError(
                f"'{table}' annotates '{several[0].image.name}', and several images have that name, such as "
                f"'{several[1].image}'; give the folder of one set of images with its annotations"
            )
        left |= {case.image for case in several} - {*whole} if len(several) > 1 else set()
    return [replace(case, labels=()) if case.image in left else case for case in candidates]
