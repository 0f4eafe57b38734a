"""Which prediction belongs to which truth: pairs of label files, by their names."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from napari_prosma.data.case import Case
from napari_prosma.data.class_names import places_by_name, plain, taken_for
from napari_prosma.data.formats.dicom import Series
from napari_prosma.data.formats.dicom_labels import LabelObject, describe, kind_of
from napari_prosma.data.formats.dicom_labels import read_label as read_objects
from napari_prosma.data.label_doubts import guessed_rule, is_lossy
from napari_prosma.data.labels import IGNORE, VALUES_SHOWN, LabelRule, present_values
from napari_prosma.data.layouts import case_from_files, find_cases, told_names
from napari_prosma.data.layouts.by_names import READINGS_TRIED
from napari_prosma.data.layouts.class_tables import named_by_tables
from napari_prosma.data.layouts.dicom_studies import holds_objects
from napari_prosma.data.layouts.found import files_in, is_hidden
from napari_prosma.data.layouts.image_sets import CHANNEL
from napari_prosma.data.layouts.pairing import readings
from napari_prosma.data.layouts.recognise import IMAGE_SUFFIX, MASK_SUFFIX
from napari_prosma.data.limits import real
from napari_prosma.data.readers import can_read, read_header, read_label, stem
from napari_prosma.errors import DataError

NO_PREDICTION, NO_REFERENCE = "no prediction", "no reference"
"""What a case lacks, and what a file of predictions does."""
_NUMBER = re.compile(r"[ _-]?\d+$")
_MAP = re.compile(r"_(probabilities|uncertainty)$")


Naming = Callable[[Path], str]
"""The case that a file belongs to, by its name."""


@dataclass(frozen=True)
class Pair:
    """A prediction and the truth of one case; either may be files or arrays (``Case.from_arrays``)."""

    name: str
    predicted: Case
    truth: Case


@dataclass(frozen=True)
class Pairs:
    """What to evaluate; both cases of a pair give indices into ``class_names``, background first.

    ``unpaired`` says of what has no partner, by its name, what it lacks.
    """

    pairs: tuple[Pair, ...]
    class_names: tuple[str, ...]
    notices: tuple[str, ...] = ()
    unpaired: dict[str, str] = field(default_factory=dict)


def find_pairs(
    predicted: str | Path, truth: str | Path, labels: Mapping[int, str] | LabelRule | None = None
) -> Pairs:
    """Pair predictions with the truth by their names: ``scan_labels.nii.gz`` with ``scan.nii.gz``.

    Parameters
    ----------
    predicted : folder of label files, or one file
        Class indices as we write them, or the values that the truth uses.
    truth : folder of label files, one file, or a data set as ``find_cases`` knows it
        Several label files of one case are united, unless each has a prediction of its own.
    labels : stored value -> class name, or LabelRule, optional
        Which value of the truth is which class; by default found by looking at all of it.

    Raises
    ------
    DataError
        A folder is missing or holds no labels, or no name occurs in both, or one occurs twice.
    """
    predicted, truth = Path(predicted), Path(truth)
    objects = _without_maps([path for path in _files_below(predicted) if kind_of(path)])
    if objects and holds_objects(truth):
        return _by_reference(objects, truth, labels)
    predictions = _without_maps(_label_files(predicted))
    notices: list[str] = []
    cases, rule, naming = _truths(truth, predictions, labels, notices)
    notices += [] if rule.kind == "on" else [f"labels: {rule.in_words()}"]
    of_file = cache(_values)

    def values() -> set[int]:
        return set().union(*map(of_file, predictions))

    told = {number: name for _, table in told_names(predictions) for number, name in table.items()}
    ours, said = _named_alike(_rule_of_files(rule, predictions, values, told), told)
    notices += [said] if said else []
    notices += [] if told else said_of_order(ours, rule, values)
    if labels is None:
        notices += said_of_one_class(rule, map(of_file, predictions))
    unpaired: dict[str, str] = {}
    if len(predictions) == len(cases) == 1 and predicted in predictions:
        matched = [(cases[0], predictions[0])]
    else:
        matched = _matched(predicted, truth, cases, predictions, naming)
        used = {file for _, file in matched} | {case.name for case, _ in matched}
        extra = [path.name for path in predictions if path not in used]
        missing = [case.name for case in cases if case.name not in used]
        notices += _left_out(extra, "prediction", "reference") + _left_out(missing, "case", "prediction")
        unpaired = dict.fromkeys(missing, NO_PREDICTION) | dict.fromkeys(extra, NO_REFERENCE)
    pairs = tuple(Pair(case.name, case_from_files(file, file, labels=ours), case) for case, file in matched)
    return Pairs(pairs, rule.class_names, tuple(notices), unpaired)


def _by_reference(
    objects: Sequence[Path], truth: Path, labels: Mapping[int, str] | LabelRule | None
) -> Pairs:
    """Pairs of DICOM objects with the labels of the series that they refer to; classes go by name."""
    data = find_cases(truth, require_labels=False, labels=labels)
    notices = [*data.notices]
    missing, extra = [], []
    described: dict[str, list[LabelObject]] = defaultdict(list)
    for path in objects:
        one = describe(path)
        fitting = [case for case in data.cases if case.series is not None and one.is_of(case.series)]
        if path in {file for case in fitting for file in case.files}:
            continue  # the truth itself, of which predictions lie in a folder below
        if not fitting:
            extra.append(path.name)
        for case in fitting[:1]:
            described[case.name].append(one)
    values = {plain(name): number for number, name in enumerate(data.class_names) if number}
    rule = LabelRule.of_names(dict(enumerate(data.class_names)))
    pairs = []
    for case in data.cases:
        theirs = described.get(case.name, [])
        if case.series is None or not theirs:
            missing.append(case.name)
            continue
        named = {plain(structure.name) for one in theirs for structure in one.structures}
        if not named & set(values):
            raise DataError(
                f"'{theirs[0].path}' holds {', '.join(sorted(named))}, none of which is a class of the "
                f"reference ({', '.join(data.class_names[1:])}); give both the same names"
            )
        read = partial(_read_objects, tuple(theirs), case.series, values, rule)
        ours = replace(case, read_label=read, files=tuple(one.path for one in theirs))
        pairs.append(Pair(case.name, ours, case))
    if not pairs:
        raise DataError(f"no prediction refers to a series of '{truth}'; give those that were made of it")
    notices += _left_out(extra, "prediction", "reference") + _left_out(missing, "case", "prediction")
    unpaired = dict.fromkeys(missing, NO_PREDICTION) | dict.fromkeys(extra, NO_REFERENCE)
    return Pairs(tuple(pairs), data.class_names, tuple(notices), unpaired)


def _read_objects(
    objects: Sequence[LabelObject], series: Series, values: Mapping[str, int], rule: LabelRule
) -> np.ndarray:
    label, _ = read_objects(objects, series, values)
    return rule.apply(label, objects[0].path)


def _files_below(place: Path) -> list[Path]:
    return [place] if place.is_file() else list(files_in(place))


def _label_files(place: Path) -> list[Path]:
    """The file itself, or those in the folder."""
    if not place.exists():
        raise DataError(f"'{place}' does not exist; give a folder of label files")
    if can_read(place):
        return [place]
    inside = place.iterdir() if place.is_dir() else ()
    files = sorted(path for path in inside if can_read(path) and not is_hidden(path.name))
    if not files:
        raise DataError(f"'{place}' holds no label file; give the folder that 'prosma segment' wrote to")
    return files


def _without_maps(files: Sequence[Path]) -> list[Path]:
    """Less the maps that ``segment_file`` writes beside the labels of an image."""
    labelled = {stem(path).removesuffix("_labels") for path in files if stem(path).endswith("_labels")}
    return [path for path in files if not (_MAP.search(stem(path)) and _MAP.sub("", stem(path)) in labelled)]


def _truths(
    truth: Path,
    predictions: Sequence[Path],
    labels: Mapping[int, str] | LabelRule | None,
    notices: list[str],
) -> tuple[list[Case], LabelRule, Naming]:
    """Cases with a label, the rule they share, and how files are named after cases.

    What is to be known of them goes to ``notices``.
    """
    if holds_objects(truth) or not _holds_labels_only(truth):
        data = find_cases(truth, require_labels=False, labels=labels)
        labelled = [case for case in data.cases if case.read_label is not None]
        if not labelled:
            raise DataError(f"'{truth}' holds images but no labels; give the folder of the reference labels")
        return labelled, data.labels, _case_name
    references = _label_files(truth)
    naming = _naming(references, predictions)
    by_name = _by_name(references, naming)
    several = [files for files in by_name.values() if len(files) > 1]
    if several:
        first, second, *_ = several[0]
        are = "1 reference is" if len(several) == 1 else f"{len(several)} references are"
        notices.append(f"{are} united from several files, the first from '{first.name}' and '{second.name}'")
    rule = LabelRule.of_names(labels) if isinstance(labels, Mapping) else labels
    if rule is None:
        files = [path for several in by_name.values() for path in several]
        rule, doubts = guessed_rule(files, _axes_of(files))
        rule = rule.with_names(told_names(files))
        rule, told = named_by_tables(rule, truth, files)
        notices.extend((*doubts, *told))
    cases = [
        replace(case_from_files(files[0], files, labels=rule), name=name) for name, files in by_name.items()
    ]
    return cases, rule, naming


def _naming(references: Sequence[Path], predictions: Sequence[Path]) -> Naming:
    """How files are named after cases: the way in which most names have a single prediction."""

    def paired(naming: Naming) -> int:
        theirs = _by_name(predictions, naming)
        return sum(len(_labels_of(theirs.get(name, []))) == 1 for name in set(map(naming, references)))

    return max((_case_name, stem, _numbered_name), key=paired)


def _by_name(files: Sequence[Path], naming: Naming) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        found[naming(path)].append(path)
    return found


def _labels_of(files: list[Path]) -> list[Path]:
    """The label files of one name: beside 'scan_labels.png' a copy of the image 'scan.png' may lie."""
    return [path for path in files if MASK_SUFFIX.search(stem(path))] or files


def _holds_labels_only(truth: Path) -> bool:
    """A label file, or a folder of files whose names all end like a mask's, or none of them."""
    if truth.suffix.lower() == ".csv" or (truth.is_dir() and any(truth.glob("*.csv"))):
        return False
    if not truth.is_dir() or can_read(truth):
        return True
    endings = {
        bool(MASK_SUFFIX.search(stem(path)))
        for path in truth.iterdir()
        if can_read(path) and not is_hidden(path.name)
    }
    return len(endings) == 1


def _rule_of_files(
    truth: LabelRule, predictions: Sequence[Path], values: Callable[[], set[int]], told: Mapping[int, str]
) -> LabelRule:
    """As :func:`rule_of_predictions`, of files: JPEG is cut at half, and names of class numbers settle it."""
    numbers = tuple(range(len(truth.class_names)))
    if truth.kind in ("on", "above") and all(map(is_lossy, predictions)):
        return LabelRule("above", truth.class_names)
    if truth.kind == "values" and told.keys() | {0} == {*numbers}:
        return LabelRule("values", truth.class_names, numbers)
    return rule_of_predictions(truth, values)


def rule_of_predictions(truth: LabelRule, values: Callable[[], set[int]]) -> LabelRule:
    """How predictions store the classes: by the truth's values where they use only these, else by index.

    ``values`` finds all that they hold, and is asked only where it matters.
    """
    names = truth.class_names
    if truth.kind == "any":
        return truth
    if truth.kind != "values":
        return LabelRule("on", names)
    indices = tuple(range(len(names)))
    undecided = None if truth.unlabelled in indices else truth.unlabelled
    if len(names) == 2 and undecided == IGNORE and values() <= {0, IGNORE}:
        return LabelRule("on", names)
    if (truth.values != indices or truth.merged) and values() <= {*truth.stored, undecided}:
        return LabelRule("values", names, truth.values, unlabelled=undecided, merged=truth.merged)
    return LabelRule("values", names, indices, unlabelled=undecided)


def said_of_order(predictions: LabelRule, truth: LabelRule, values: Callable[[], set[int]]) -> list[str]:
    """What to say where the values of unnamed predictions could mean other classes than they are read as."""
    numbers = tuple(range(len(truth.class_names)))
    if truth.kind != "values" or truth.values == numbers or len(numbers) == 2:
        return []
    shown = ", ".join(f"{n} is {name}" for n, name in list(predictions.stored.items())[1:VALUES_SHOWN])
    if predictions.values != truth.values:
        return [
            f"predictions are read as class numbers ({shown}); if they hold the values of the reference, "
            "name every value that occurs in either (Classes, or --classes)"
        ]
    if not values() <= {*numbers}:  # they cannot be class numbers
        return []
    return [
        f"predictions are read by the values of the reference ({shown}); if they hold class numbers, store "
        "them by these values"
    ]


def said_of_one_class(rule: LabelRule, predictions: Iterable[set[int]]) -> list[str]:
    """What to say where every prediction holds one class at most, but the truth several that nobody named."""
    classes = len(rule.class_names) - 1
    unnamed = classes > 1 and rule.class_names == LabelRule.of_values(rule.values).class_names
    if not unnamed or any(len(values - {0}) > 1 for values in predictions):
        return []
    return [
        f"no prediction holds more than one class, but the reference is read as {classes}; if its values "
        "number objects, make them one class (Classes any=NAME, or --classes any=NAME)"
    ]


def _named_alike(rule: LabelRule, theirs: Mapping[int, str]) -> tuple[LabelRule, str]:
    """The rule of predictions by the names that their files tell, and what to say where these are others.

    Raises ``DataError``: as ``taken_for``.
    """
    known = rule.names
    values = [value for value in theirs if value in [*known][1:]]
    names = ("background", *(theirs[value] for value in values))
    places = places_by_name(names, rule.class_names)
    if places is None or len(places) < len(rule.class_names):
        return rule, taken_for({value: theirs[value] for value in values}, known, "the reference")
    if rule.kind != "values":
        return rule, ""
    stored = sorted(zip(places, (rule.values[0], *values), strict=True))
    return replace(rule, values=tuple(value for _, value in stored), merged=()), ""


def _matched(
    predicted: Path, truth: Path, cases: Sequence[Case], predictions: Sequence[Path], naming: Naming
) -> list[tuple[Case, Path]]:
    by_name = _by_name(predictions, naming)
    channels = [path for path in predictions if CHANNEL.search(naming(path))]
    of_channel = _by_name(channels, lambda path: CHANNEL.sub("", naming(path)))
    matched: list[tuple[Case, Path]] = []
    taken: dict[Path, Case] = {}
    for case in cases:
        names = (naming(case.files[0]), case.name)
        files = next(filter(None, (found.get(name) for found in (by_name, of_channel) for name in names)), [])
        files = _labels_of(files)
        if len(files) > 1:
            raise DataError(f"'{files[0]}' and '{files[1].name}' both predict '{case.name}'; keep one")
        if files and files[0] in taken:
            raise DataError(
                f"'{files[0]}' could predict '{taken[files[0]].files[0]}' or '{case.files[0]}', which have "
                f"the same name; evaluate their folders one by one"
            )
        if files:
            taken[files[0]] = case
            matched.append((case, files[0]))
    matched = matched or _matched_alike(predicted, truth, cases, predictions)
    if not matched:
        raise DataError(
            f"no prediction in '{predicted}' is named after a case in '{truth}': the first are "
            f"'{predictions[0].name}' and '{cases[0].files[-1].name}'; give them the same names"
        )
    return matched


def _matched_alike(
    predicted: Path, truth: Path, cases: Sequence[Case], predictions: Sequence[Path]
) -> list[tuple[Case, Path]]:
    """Pairs by what names share, where every prediction or every truth has one: ``pred_7`` and ``mask_7``."""
    of = {case.files[-1]: case for case in cases}
    folder = Path(os.path.commonpath([real(predicted), real(truth)]))
    files = [real(path) for path in (*of, *predictions)]
    back = dict(zip(files, (*of, *predictions), strict=True))
    for reading in islice(readings(folder, files), READINGS_TRIED):
        pairs = [
            sorted(map(back.__getitem__, found.values()), key=of.__contains__)
            for found in reading.cases.values()
        ]
        matched = [
            (of[pair[1]], pair[0]) for pair in pairs if len(pair) == 2 and pair[1] in of and pair[0] not in of
        ]
        if len(matched) == min(len(cases), len(predictions)):
            return matched
    return []


def _axes_of(files: Sequence[Path]) -> int:
    """Spatial axes of the first label that can be read."""
    for path in files:
        try:
            return len(read_header(path).shape)
        except DataError:
            continue
    return 2


def _case_name(path: Path) -> str:
    """``scan`` of ``scan_labels.nii.gz``, ``scan_mask_2.png`` and ``scan_image.png``."""
    return IMAGE_SUFFIX.sub("", MASK_SUFFIX.sub("", stem(path)))


def _numbered_name(path: Path) -> str:
    """``scan_2`` of ``scan_mask_2.png``: where the number is the case's, not that of one of its masks."""
    return MASK_SUFFIX.sub(lambda found: "".join(_NUMBER.findall(found.group())), stem(path))


def _values(path: Path) -> set[int]:
    """All stored values; a file that cannot be read is told when its pair is measured."""
    try:
        return set(present_values(read_label(path)[0]).tolist())
    except DataError:
        return set()


def _left_out(names: Sequence[str], what: str, lacking: str) -> list[str]:
    if not names:
        return []
    some = f"1 {what} has" if len(names) == 1 else f"{len(names)} {what}s have"
    return [f"{some} no {lacking} and will be left out, the first is '{names[0]}'"]
