"""What lies in a folder: which files are images, which are their masks.

One function per known layout, each giving what it recognised or None by names alone; :func:`recognise` asks
them in turn. What they cannot explain goes by what names share (``by_names``).
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from napari_prosma.data import arrays
from napari_prosma.data.formats import ome_zarr, polygons
from napari_prosma.data.label_doubts import is_lossy
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts.by_names import by_annotation_file, by_names, by_patterns
from napari_prosma.data.layouts.dicom_studies import dicom_studies
from napari_prosma.data.layouts.found import (
    Found,
    Recognised,
    files_in,
    images_in,
    is_hidden,
    is_series,
    listed_once,
    volumes_within,
)
from napari_prosma.data.layouts.judging import Judge
from napari_prosma.data.layouts.pairing import split_in
from napari_prosma.data.layouts.repeats import without_other_formats, without_repeats
from napari_prosma.data.layouts.slice_masks import by_slices
from napari_prosma.data.layouts.split_lists import PATIENT_COLUMNS, SPLIT_COLUMNS, with_listed
from napari_prosma.data.limits import real
from napari_prosma.data.names import from_typed_cell, printable
from napari_prosma.data.readers import can_read, read_header, stem
from napari_prosma.data.texts import read_json
from napari_prosma.errors import DataError, in_brackets

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagestr", "inputs", "input", "scans", "volumes")
_MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "labelstr", "segmentations", "segmentation", "segs", "seg"),
    *("annotations", "annotation", "ground_truth", "groundtruth", "gt", "targets", "target", "labelcol"),
)
MASK_SUFFIX = re.compile(
    r"[ _.-](?:masks?|labels?|seg|segmentation|gt|groundtruth|ground_truth|anno|annotation)(?:[ _-]?\d+)?$",
    re.IGNORECASE,
)
IMAGE_SUFFIX = re.compile(r"[ _.-](?:image|img)$", re.IGNORECASE)
_BUSI_IMAGE = re.compile(r"(?:benign|malignant|normal) \(\d+\)", re.IGNORECASE)
_GLAS_IMAGE = re.compile(r"(train|testA|testB)_\d+")
_KVASIR_BOXES = ("kavsir_bboxes.json", "kvasir_bboxes.json")
_NNUNET_CHANNEL = re.compile(r"_(\d{4})$")
_CSV_IMAGE = ("image", "images", "img", "image_path", "image_file")
_CSV_LABEL = ("label", "labels", "mask", "masks", "seg", "segmentation", "label_path", "mask_path")
_CSV_GROUP = ("group", "split", "fold", "set", "class")
_CSV_NAME = ("name", "case", "id")
_CSV_PATIENT = (*PATIENT_COLUMNS, "group")
_WORDS = re.compile(r"[\W_]*[^\W_]+")
_SEPARATORS = re.compile(r"[\W_\d]+")
_SEPARATOR = re.compile(r"\Asep=.(?:\r?\n)?", re.IGNORECASE)
"""What Excel puts before the heading."""
_LONGEST_HEADING = 1 << 16
_RUN_LENGTHS = re.compile(r"encoded_?pixels|(?<![a-z])rle(?![a-z])", re.IGNORECASE)
_ARCHIVES = (".mrb", ".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_DEEPEST_SPLIT = 2
"""So many folders may lie above those of images and masks, as in ``TestDataset/CVC-300/images``."""
_MOST_KINDS = 8
"""Endings of names that tell kinds of images, as ``ED`` and ``ES`` do; more are numbers or names."""
_LOOKED_AT = 8
"""Files that are opened to say what a folder holds."""
_MOST_CLASSES = 3
"""A column ``group`` of no more values than this names classes, such as benign and malignant."""
_BY_TABLE = ("nnU-Net", "Decathlon", "CSV", "DICOM", "Cell Tracking", "OME-Zarr")
"""Layouts that say themselves which label is that of which image."""


def recognise(folder: Path, images: str | None = None, masks: str | None = None) -> Recognised:
    """The layout of a folder, or of a table (CSV) of pairs.

    Parameters
    ----------
    images, masks : patterns such as ``images/*``, optional
        Which files are what, where the user says so.

    Raises
    ------
    DataError
        When it is missing, empty, or holds no image that can be read.
    """
    with listed_once():
        return _recognised(folder, images, masks)


def _recognised(folder: Path, images: str | None, masks: str | None) -> Recognised:
    if folder.is_file() and folder.suffix.lower() == ".csv":
        return _csv(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"'{folder}' {what}; give the folder that holds the images and their masks")
    if images is not None or masks is not None:
        if images is None or masks is None:
            raise DataError("the patterns of images and masks belong together; give both, or neither")
        return _finished(folder, by_patterns(folder, images, masks), [])
    if (series := _series_with_label(folder)) is not None:
        return _finished(folder, series, [])
    inner = _unpacked_within(folder)
    if inner is not None:
        return _recognised(inner, None, None)
    passed_over: list[str] = []
    errors: list[DataError] = []
    partly: Recognised | None = None
    for layout in _LAYOUTS:
        try:
            recognised = layout(folder)
        except _NotThisLayout as error:
            passed_over += [error.said] if error.said else []
            errors.append(error)
            continue
        if recognised is None:
            continue
        if recognised.layout in _BY_TABLE or not _leaves_questions(folder, recognised):
            return _finished(folder, recognised, passed_over)
        partly = recognised
        break
    better = (
        _zarr_labels(folder)
        or _pairs_in_archives(folder)
        or by_slices(folder)
        or by_names(folder, partly)
        or by_annotation_file(folder)
    )
    if better is not None:
        return _finished(folder, better, passed_over)
    if partly is not None and any(case.labels for case in partly.found):
        unused = [name for name in partly.beside if "/" not in name and images_in(folder / name)]
        passed_over += [f"the folder '{name}' is not used" for name in unused]
        return _finished(folder, partly, passed_over)
    if errors:
        raise errors[0]
    if partly is not None:
        return _finished(folder, partly, passed_over)
    raise DataError(_nothing_found(folder))


class _NotThisLayout(DataError):
    """A table that happens to have the name of a known layout's; ``said`` is a notice that it is not used."""

    def __init__(self, text: str, said: str) -> None:
        super().__init__(text)
        self.said = said


def _finished(folder: Path, recognised: Recognised, passed_over: Sequence[str]) -> Recognised:
    """With splits told from folders and lists, and no picture twice."""
    found, twice = _without_copies(recognised)
    splits = {group: split_in(*group.split("/")) for group in {case.group for case in found}}
    if any(splits.values()):
        found = [case if case.split else replace(case, split=splits[case.group]) for case in found]
    found, named = _with_splits_of_names(found)
    found = [replace(case, name=printable(case.name)) for case in found]
    found, listed = with_listed(folder, found)
    shared = () if recognised.layout in _BY_TABLE else _shared_masks(folder, found)
    if recognised.layout != "CSV":  # where a person says what counts twice
        for without in (without_repeats, without_other_formats):
            found, repeated = without(folder, found)
            twice = (*twice, *repeated)
    notices = (*dict.fromkeys(passed_over), *recognised.notices, *twice, *shared, *named, *listed)
    return replace(recognised, found=tuple(found), notices=notices)


def _with_splits_of_names(candidates: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Cases with the splits that the first or the last word of every name tells, as ``test_07`` does."""
    if any(case.split for case in candidates):
        return list(candidates), ()
    for place in (0, -1):
        words = ([word for word in _SEPARATORS.split(case.name) if word] or [""] for case in candidates)
        splits = list(takewhile(bool, (split_in(several[place]) for several in words)))
        if len(splits) == len(candidates) and len({*splits}) > 1:
            counts = Counter(splits)
            said = ", ".join(
                f"{counts[split]} {split}" for split in ("train", "val", "test") if counts[split]
            )
            if not counts["train"]:
                said = f"the names tell {said}, but none to train on, so the split is drawn at random"
                return list(candidates), (
                    f"{said}; to set it, list the cases in a table with a column 'split'",
                )
            told = [replace(case, split=split) for case, split in zip(candidates, splits, strict=True)]
            first = next(case.name for case in told if case.split != "train")
            return told, (f"splits are those of the names, such as '{first}': {said}",)
    return list(candidates), ()


def _shared_masks(folder: Path, candidates: Sequence[Found]) -> tuple[str, ...]:
    """What to say of masks that several images have: of one name in several folders, say."""
    images_of: dict[Path, list[Path]] = defaultdict(list)
    for case in candidates:
        for label in () if case.polygons else case.labels:
            images_of[label].append(case.image)
    several = {label: images for label, images in images_of.items() if len(images) > 1}
    if not several:
        return ()
    label, images = next(iter(several.items()))
    shown = " and ".join(f"'{image.relative_to(folder).as_posix()}'" for image in images[:2])
    return (f"{len(several)} masks serve several images, such as '{label.name}' that of {shown}",)


def _without_copies(recognised: Recognised) -> tuple[list[Found], tuple[str, ...]]:
    """Of images with one name, one place and one mask in two formats the one that lost nothing."""
    of_mask = Counter(case.labels for case in recognised.found if case.labels)
    if recognised.layout in _BY_TABLE or len(of_mask) == of_mask.total():
        return list(recognised.found), ()
    same: dict[tuple[object, ...], list[Found]] = defaultdict(list)
    for case in recognised.found:
        alone = (case.image,) if not case.labels or len(case.images) > 1 else ()
        same[(case.image.parent, stem(case.image), case.labels, *alone)].append(case)
    kept = [min(cases, key=lambda case: (is_lossy(case.image), case.image)) for cases in same.values()]
    if len(kept) == len(recognised.found):
        return kept, ()
    first = next(cases for cases in same.values() if len(cases) > 1)
    names = " and ".join(f"'{case.image.name}'" for case in first)
    return kept, (
        f"{len(recognised.found) - len(kept)} images lie there twice with one mask, such as {names}; one of "
        "each is used",
    )


def _leaves_questions(folder: Path, recognised: Recognised) -> bool:
    """Whether images without a mask, masks without an image or another folder of masks are left."""
    if recognised.is_doubtful or any(not case.labels for case in recognised.found):
        return True
    return any((folder / name).is_dir() for name in recognised.beside)


def pair_files(
    images: Iterable[str | Path], labels: Iterable[str | Path]
) -> list[tuple[Path, tuple[Path, ...]]]:
    """Each image with the label files that carry its name, plus a suffix such as ``_mask`` or ``_seg_2``."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for label in labels:
        by_name[_composed(MASK_SUFFIX.sub("", stem(label)))].append(Path(label))
    return [
        (Path(image), tuple(sorted(by_name[_composed(IMAGE_SUFFIX.sub("", stem(image)))])))
        for image in images
    ]


def _composed(name: str) -> str:
    """The name with every accent as part of its letter; macOS writes the two apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def named_apart(candidates: Sequence[Found]) -> list[Found]:
    """Cases with unique names: the group goes before a name that occurs twice, then the format after it."""
    for rename in (
        lambda case: f"{case.group.replace('/', '_')}_{case.name}" if case.group else case.name,
        lambda case: case.image.name,
        lambda case: "_".join(case.image.parts[-2:]),
        lambda case: "_".join(case.image.parts[-3:]),
    ):
        counts: dict[str, int] = defaultdict(int)
        for case in candidates:
            counts[case.name] += 1
        candidates = [
            replace(case, name=rename(case)) if counts[case.name] > 1 else case for case in candidates
        ]
    return list(candidates)


def without_others(candidates: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Cases without images that nobody meant to label, and notices of these.

    So are a test set in which no image has a mask, and files whose names go on where those of a labelled
    image end otherwise: the clip ``p1_sequence`` beside the frame ``p1_ed``.
    """
    kept, notices = list(candidates), []
    if not any(case.split == "test" and case.labels for case in candidates):
        tests = [case for case in kept if case.split == "test"]
        if tests and len(tests) < len(kept):
            kept = [case for case in kept if case.split != "test"]
            notices.append(f"{len(tests)} test images have no masks and are not used")
    words = {case.image: _WORDS.findall(stem(case.image)) or [""] for case in kept}
    endings = {words[case.image][-1] for case in kept if case.labels}
    begun = {
        (case.image.parent, start) for case in kept if case.labels for start in accumulate(words[case.image])
    }
    others: dict[str, list[Found]] = defaultdict(list)
    for case in kept:
        *start, ending = words[case.image]
        is_other = ending not in endings and not ending.strip("_-. ").isdecimal()
        if not case.labels and is_other and (case.image.parent, "".join(start)) in begun:
            others[ending].append(case)
    left_out = [case for cases in others.values() for case in cases]
    kept = [case for case in kept if case not in left_out]
    kinds = [f"{len(cases)} files '*{ending}'" for ending, cases in others.items()]
    if len(kinds) > _MOST_KINDS:  # such as a number in brackets
        kinds = [f"{len(left_out)} files, such as '{left_out[0].image.name}',"]
    notices += [f"{kind} lie beside labelled images, without masks, and are not used" for kind in kinds]
    return kept, tuple(notices)


def without_clips(candidates: Sequence[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Cases without the stacks that labelled single slices were taken from, and notices of these.

    So is the clip ``p1_half_sequence`` beside ``p1_ED`` and ``p1_ES``, whose frames would count twice.
    """
    starts: dict[str, dict[Path, list[tuple[Path, str]]]] = defaultdict(dict)
    for case in candidates:
        *start, ending = _WORDS.findall(stem(case.image)) or [""]
        starts[ending][case.image] = [(case.image.parent, name) for name in accumulate(start)]
    if not 1 < len(starts) <= _MOST_KINDS:
        return list(candidates), ()
    slices = {ending: _slices(next(iter(images))) for ending, images in starts.items()}
    single = {
        name
        for ending, images in starts.items()
        if slices[ending] == 1
        for names in images.values()
        for name in names
    }
    kept, notices = list(candidates), []
    for ending, images in starts.items():
        shared = [
            next((name for name in reversed(names) if name in single), None) for names in images.values()
        ]
        if slices[ending] > 1 and None not in shared and 1 < len(shared) == len({*shared}):
            kept = [case for case in kept if case.image not in images]
            notices.append(
                f"{len(images)} files '*{ending}' hold several slices beside labelled single ones of the "
                "same name, which would count twice, and are not used; to learn from them, give them in a "
                "folder of their own"
            )
    return kept, tuple(notices)


def _slices(image: Path) -> int:
    """How many slices a volume has; 0 for what is none, or cannot be read."""
    try:
        shape = read_header(image).shape
    except DataError:
        return 0
    return 0 if len(shape) != 3 else 1 if min(shape) == 1 else max(shape)


def missing_masks(folder: Path, candidates: Sequence[Found], unlabelled: Sequence[Found]) -> str:
    """What to say of images without a mask."""
    if len(unlabelled) == len(candidates):
        return (
            f"'{folder}' holds {len(unlabelled)} images but no masks, the first is "
            f"'{unlabelled[0].image.name}'{_not_used(folder, candidates)}{_seen_beside(folder)}; "
            "put masks of the same names in a folder 'masks' beside a folder 'images'"
        )
    image = unlabelled[0].image
    shown = image.relative_to(folder) if image.is_relative_to(folder) else image
    return (
        f"{len(unlabelled)} of {len(candidates)} images in '{folder}' have no mask, the first is '{shown}'; "
        f"add a mask '{unlabelled[0].name}.png' or '{unlabelled[0].name}_mask.png', remove the image, or "
        "leave out all without a mask (--labelled-only)"
    )


def _not_used(folder: Path, candidates: Sequence[Found]) -> str:
    """What could be masks but fits no image, such as a mask per slice of a series."""
    images = {path for case in candidates for path in case.images}
    left = [path for path in images_in(folder) if path not in images]
    if not left:
        return ""
    return f" ({len(left)} more that fit none of them, such as '{left[0].relative_to(folder).as_posix()}')"


def _seen_beside(folder: Path) -> str:
    """What else lies there and is no mask: annotations with what is wrong with them, other files by kind."""
    others: dict[str, list[Path]] = defaultdict(list)
    for path in files_in(folder):
        if not can_read(path):
            others[path.suffix.lower() or "without suffix"].append(path)
    if not others:
        return ""
    kinds = ", ".join(
        f"{len(paths)} {kind}" for kind, paths in sorted(others.items(), key=lambda one: -len(one[1]))[:4]
    )
    packed = [paths[0].name for kind, paths in others.items() if kind in _ARCHIVES]
    if ".mat" in others:
        kinds += "; save what MATLAB's hold, such as inst_map, as .npy or .tif"
    runs = next((path.name for path in others.get(".csv", ()) if _holds_run_lengths(path)), None)
    if runs is not None:
        kinds += f"; masks written as run lengths, as in '{runs}', are not read: save them as PNG"
    if packed:
        kinds += f"; unpack archives such as '{packed[0]}' if the masks are in them"
    for paths in sorted(others.values(), key=len, reverse=True):
        if polygons.may_be(paths[0]):
            try:
                polygons.read(paths[0])
            except DataError as error:
                if len(paths) > 1 or polygons.UNREADABLE not in str(error):
                    return f" (beside them: {kinds}; of these {error})".replace("; ", ", ")
    return f" (beside them: {kinds})"


def _holds_run_lengths(table: Path) -> bool:
    """Whether a column of a table holds masks as Kaggle has them: ``EncodedPixels``, ``rle``."""
    try:
        with table.open(encoding=_encoding(table), errors="replace") as file:
            heading = file.readline(_LONGEST_HEADING)
    except OSError:
        return False
    return _RUN_LENGTHS.search(heading) is not None


def _series_with_label(folder: Path) -> Recognised | None:
    """A folder that is one DICOM series itself and holds the only label volume of it."""
    labels = volumes_within(folder) if is_series(folder) else []
    judge = Judge()
    labels = [path for path in labels if judge.look(path).kind in ("label", "empty")]
    if len(labels) != 1:
        return None
    said = f"'{labels[0].name}' labels the series in whose folder it lies"
    return Recognised("names", (Found(real(folder).name, (folder,), (labels[0],)),), notices=(said,))


def _unpacked_within(folder: Path) -> Path | None:
    """The only subfolder, where that is what an archive was unpacked to: ``Task09/Task09/dataset.json``."""
    subfolders = _subfolders(folder)
    if len(subfolders) != 1 or (folder / "dataset.json").exists() or subfolders[0].name == "imagesTr":
        return None
    inner = subfolders[0]
    is_data_set = (inner / "dataset.json").is_file() or (inner / "imagesTr").is_dir()
    return inner if is_data_set else None


def _decathlon(folder: Path) -> Recognised | None:
    table = folder / "dataset.json"
    if not table.is_file():
        return None
    content = _content(table)
    try:
        labels = content.get("labels", {}).items()  # MONAI lists files only
        if all(isinstance(value, int) for _, value in labels):  # as nnU-Net has them
            labels = [(value, name) for name, value in labels]
        names = {int(value): str(name) for value, name in labels}
        cases = [
            (entry["image"] if isinstance(entry["image"], list) else [entry["image"]], entry["label"], split)
            for part, split in (("training", ""), ("validation", "val"))
            for entry in (content[part] if part == "training" else content.get(part, ()))
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _NotThisLayout(
            f"'{table}' is no Decathlon table{in_brackets(error)}; it needs 'labels' "
            '{"0": "background", ...} and \'training\' [{"image": ..., "label": ...}, ...]',
            f"'{table.name}' is no Decathlon table and is not used",
        ) from error
    found = []
    for images, label, split in cases:
        channels = tuple(_inside(folder, table, str(name)) for name in images)
        found.append(Found(stem(channels[0]), channels, (_inside(folder, table, str(label)),), split=split))
    _require_files(table, found)
    return Recognised("Decathlon", tuple(found), LabelRule.of_names(names) if names else None)


def _nnunet(folder: Path) -> Recognised | None:
    """``imagesTr/case_0000.nii.gz``, one file per channel, and ``labelsTr/case.nii.gz``."""
    images, masks, table = folder / "imagesTr", folder / "labelsTr", folder / "dataset.json"
    if not images.is_dir():
        return None
    by_case: dict[str, list[Path]] = defaultdict(list)
    for path in images_in(images):
        match = _NNUNET_CHANNEL.search(stem(path))
        if match is None:
            return None
        by_case[stem(path)[: match.start()]].append(path)
    labels = {stem(path): path for path in images_in(masks)} if masks.is_dir() else {}
    if not by_case or (labels and not labels.keys() & by_case.keys()):
        return None
    found = [
        Found(name, tuple(files), (labels[name],) if name in labels else ())
        for name, files in sorted(by_case.items())
    ]
    counts = {len(case.images) for case in found}
    if len(counts) > 1:
        fewest = min(found, key=lambda case: len(case.images))
        raise DataError(
            f"'{fewest.name}' in '{images}' has {len(fewest.images)} channel files where others have "
            f"{max(counts)}; add the missing '{fewest.name}_0001...' or take the case away"
        )
    if not table.is_file():
        return Recognised("nnU-Net", tuple(found))
    return _with_nnunet_labels(table, found)


def _nnunet_listed(folder: Path) -> Recognised | None:
    """nnU-Net's ``dataset.json`` whose ``dataset`` names the channel files and the label of every case."""
    table = folder / "dataset.json"
    content = _content(table) if table.is_file() else {}
    listed = content.get("dataset") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        return None
    found = []
    try:
        for name, entry in sorted(listed.items()):
            images = tuple(_inside(folder, table, str(path)) for path in entry["images"])
            found.append(Found(str(name), images, (_inside(folder, table, str(entry["label"])),)))
        counts = {len(case.images) for case in found}
    except (KeyError, TypeError) as error:
        raise _NotThisLayout(
            f"'{table}' has a damaged 'dataset'{in_brackets(error)}; it maps cases to 'images' and 'label'",
            f"the 'dataset' of '{table.name}' lists no images and labels and is not used",
        ) from error
    if len(counts) > 1 or 0 in counts:
        raise DataError(
            f"'{table}' lists cases of {' and '.join(map(str, sorted(counts)))} channel files; give "
            "all the same number"
        )
    _require_files(table, found)
    return _with_nnunet_labels(table, found)


def _with_nnunet_labels(table: Path, candidates: Sequence[Found]) -> Recognised:
    names, notices = _nnunet_labels(table, _json(table).get("labels", {}))
    ignored = names.pop("ignore", None)
    rule = LabelRule.of_names({value: name for name, value in names.items()}) if names else None
    if rule is not None and ignored is not None:
        rule = replace(rule, unlabelled=ignored)
    return Recognised("nnU-Net", tuple(candidates), rule, notices=notices)


def _nnunet_labels(table: Path, labels: Any) -> tuple[dict[str, int], tuple[str, ...]]:
    """Name -> value; of regions (lists of values) each value becomes a class of its own."""
    names: dict[str, int] = {}
    regions = 0
    try:
        for name, value in labels.items():
            if isinstance(value, str):  # nnU-Net 1: value -> name
                name, value = value, int(name)
            if isinstance(value, (list, tuple)):
                regions += 1
                for one in value:
                    if int(one) not in names.values():
                        names[f"label {int(one)}"] = int(one)
            else:
                names[str(name)] = int(value)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"'{table}' has damaged 'labels' ({error}); they map names to whole numbers"
        ) from error
    said = f"{regions} regions of '{table.name}' are not used; each value is a class of its own"
    return names, ((said,) if regions else ())


def _cell_tracking(folder: Path) -> Recognised | None:
    """``01/t007.tif`` with ``01_GT/SEG/man_seg007.tif``, or ``01_ST/SEG`` where that is all that there is."""
    found: list[Found] = []
    beside: set[str] = set()
    sliced: set[str] = set()
    for images in _subfolders(folder):
        drawn = [folder / f"{images.name}_{kind}" / "SEG" for kind in ("GT", "ST")]
        drawn = [masks for masks in drawn if masks.is_dir()]
        if not drawn:
            continue
        beside |= {f"{masks.parent.name}/{masks.name}" for masks in drawn[1:]}
        beside |= {f"{masks.parent.name}/TRA" for masks in drawn if (masks.parent / "TRA").is_dir()}
        masks_of = {_number(path): path for path in images_in(drawn[0])}
        sliced |= {path.name for number, path in masks_of.items() if len(number) > 1}
        for path in images_in(images):
            mask = masks_of.get(_number(path))
            found.append(Found(stem(path), (path,), () if mask is None else (mask,), images.name))
    if sliced and not any(case.labels for case in found):
        raise DataError(
            f"masks in '{folder}' such as '{min(sliced)}' mark one slice of a volume each, which is not "
            "read; save the label of a volume as one file, or take the folders '*_ST'"
        )
    if not any(case.labels for case in found):
        return None
    frames = sum(not case.labels for case in found)
    said = [f"{frames} frames without a mask are not used"] if frames else []
    said += [f"'{name}' marks cells in another way and is not used" for name in sorted(beside)]
    kept = tuple(case for case in found if case.labels)
    return Recognised("Cell Tracking", kept, LabelRule.instances("cell"), notices=tuple(said))


def _zarr_labels(folder: Path) -> Recognised | None:
    """OME-Zarr images that hold their labels themselves: ``a.ome.zarr`` with ``a.ome.zarr/labels/cells``."""
    labels_of = {}
    for image in images_in(folder):
        if image.is_dir() and ome_zarr.is_ome_zarr(image) and (image / "labels").is_dir():
            inside = [path for path in _subfolders(image / "labels") if ome_zarr.is_ome_zarr(path)]
            labels_of[image] = {path.name: path for path in inside}
    names = Counter(name for labels in labels_of.values() for name in labels)
    if not names:
        return None
    (chosen, number), *others = names.most_common()
    if others and others[0][1] == number:
        raise DataError(
            f"the images in '{folder}' hold several labels ({', '.join(sorted(names))}), and nothing tells "
            "which are meant; list the pairs in a table with the columns 'image' and 'label'"
        )
    found = tuple(
        Found(stem(image), (image,), (labels[chosen],) if chosen in labels else ())
        for image, labels in labels_of.items()
    )
    said = f"labels are those that the images call '{chosen}'"
    unused = sorted(name for name, _ in others)
    return Recognised(
        "OME-Zarr", found, notices=(said, *(f"labels '{name}' are not used" for name in unused))
    )


def _pairs_in_archives(folder: Path) -> Recognised | None:
    """NumPy's archives that hold an image and its label each, as slices of Synapse are kept."""
    files = images_in(folder)
    if not files or not all(map(arrays.holds_pair, (files[0], files[-1]))):
        return None
    found = tuple(Found(stem(path), (path,), (path,)) for path in files if arrays.holds_pair(path))
    other = len(files) - len(found)
    said = f"{len(found)} archives hold an image and its label each"
    return Recognised("names", found, notices=(said + (f"; {other} other files are not used" * bool(other)),))


def _number(path: Path) -> tuple[int, ...]:
    """The numbers in a name, whatever stands around them: (7,) of ``t007`` and of ``man_seg007``."""
    return tuple(map(int, re.findall(r"\d+", stem(path))))


def _folder_pairs(folder: Path) -> Recognised | None:
    """``images/`` and ``masks/`` under whatever name, in the folder itself or in each of its splits."""
    pairs = []
    beside: list[str] = []
    parents = [folder]
    for parent in parents:
        named = {child.name.lower(): child for child in _subfolders(parent)}
        images = next((named[name] for name in _IMAGE_FOLDERS if name in named), None)
        masks = next((named[name] for name in _MASK_FOLDERS if name in named), None)
        if images is not None and masks is not None:
            pairs.append(("" if parent == folder else parent.relative_to(folder).as_posix(), images, masks))
            others = (child for child in named.values() if child not in (images, masks))
            beside += [child.relative_to(folder).as_posix() for child in others]
        elif parent == folder or len(parent.relative_to(folder).parts) < _DEEPEST_SPLIT:
            parents += named.values()
    found: list[Found] = []
    orphans: list[Path] = []
    for split, image_folder, mask_folder in pairs:
        images_of = {path: path.relative_to(image_folder).parent for path in images_in(image_folder)}
        masks_of = {path: path.relative_to(mask_folder).parent for path in images_in(mask_folder)}
        places = set(masks_of.values())
        # Masks may lie flat though images lie in groups, but those of one group are not of another.
        flat = len(places) == 1 and places.isdisjoint(images_of.values())
        used: set[Path] = set()
        for group in sorted(set(images_of.values())):
            grouped = [path for path, place in images_of.items() if place == group]
            fitting = [path for path, place in masks_of.items() if flat or place == group]
            name = "/".join(part for part in (split, *group.parts) if part)
            for image, labels in pair_files(grouped, fitting):
                used.update(labels)
                found.append(Found(stem(image), (image,), labels, name))
        orphans += [path for path in masks_of if path not in used]
    if not found:
        return None
    if any((folder / name).is_file() for name in _KVASIR_BOXES):
        return Recognised("Kvasir-SEG", tuple(found), foreground="polyp", notices=_orphan_notices(orphans))
    return Recognised(
        "folders",
        tuple(found),
        notices=_orphan_notices(orphans),
        beside=tuple(beside),
        is_doubtful=bool(orphans),
    )


def _side_by_side(folder: Path) -> Recognised | None:
    """``x.png`` with ``x_mask.png`` (and ``x_mask_1.png``), in the folder and its subfolders; BUSI, GlaS."""
    by_place: dict[Path, list[Path]] = defaultdict(list)
    for path in images_in(folder):
        by_place[path.parent].append(path)
    found: list[Found] = []
    orphans: list[Path] = []
    for place, files in sorted(by_place.items()):
        masks = [path for path in files if MASK_SUFFIX.search(stem(path))]
        images = [path for path in files if not MASK_SUFFIX.search(stem(path))]
        group = place.relative_to(folder).as_posix() if place != folder else ""
        pairs = pair_files(images, masks)
        found += [Found(stem(image), (image,), labels, group) for image, labels in pairs]
        used = {label for _, labels in pairs for label in labels}
        orphans += [path for path in masks if path not in used]
    if not found:
        if orphans:
            raise _NotThisLayout(
                f"'{folder}' holds {len(orphans)} masks but no image, the first is '{orphans[0].name}'; "
                f"put the images beside them, without '{_mask_ending(orphans[0])}' in their names",
                "",
            )
        return None
    notices = _orphan_notices(orphans)
    if all(_BUSI_IMAGE.fullmatch(case.name) for case in found):
        return Recognised("BUSI", tuple(found), foreground="lesion", notices=notices)
    parts = [_GLAS_IMAGE.fullmatch(case.name) for case in found]
    if all(parts):
        grouped = [
            replace(case, group=part.group(1), split=part.group(1).rstrip("AB"))
            for case, part in zip(found, parts, strict=True)
            if part
        ]
        return Recognised("GlaS", tuple(grouped), LabelRule.instances("gland"), notices=notices)
    layout = "side by side" if any(case.labels for case in found) else "images"
    return Recognised(layout, tuple(found), notices=notices, is_doubtful=bool(orphans))


def _csv_inside(folder: Path) -> Recognised | None:
    """A folder's only table that has a column of images and one of labels."""
    tables = [table for table in sorted(folder.glob("*.csv")) if _csv_columns(table) is not None]
    if len(tables) != 1:
        return None
    try:
        lists_files = _lists_files(tables[0])
    except DataError as error:
        raise _NotThisLayout(
            str(error), f"'{tables[0].name}' cannot be read as CSV and is not used"
        ) from error
    if not lists_files:
        raise _NotThisLayout(
            f"'{tables[0]}' has a column of labels, but none of them is a file; name files of masks in it",
            f"'{tables[0].name}' lists no files of masks and is not used",
        )
    return _csv(tables[0], folder)


def _lists_files(table: Path) -> bool:
    """Whether a label of the table is a file, or at least named like one; diagnoses are not."""
    columns = _csv_columns(table)
    assert columns is not None
    labels = [(row[columns["label"]] or "").strip() for row in _rows_of(table, columns["delimiter"])]
    return not any(labels) or any(
        Path(name).suffix or (table.parent / _slashed(name)).exists() for name in labels if name
    )


def _rows_of(table: Path, delimiter: str) -> list[dict[str, str]]:
    """Rows by the names of the columns, without the blanks around these."""
    try:
        text = _SEPARATOR.sub("", table.read_text(encoding=_encoding(table)))
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows.fieldnames = [name.strip().strip('"') for name in rows.fieldnames or ()]
        return list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{table}' is no table ({error}); save it as CSV in UTF-8") from error


def _encoding(table: Path) -> str:
    """UTF-8, but for what Excel calls Unicode text."""
    with table.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _slashed(name: str) -> str:
    """A relative path written on Windows, as every system reads it."""
    return name.replace("\\", "/")


def _csv(table: Path, within: Path | None = None) -> Recognised:
    """Pairs listed in a table; paths count from the table, and stay in the folder where it was found."""
    columns = _csv_columns(table)
    if columns is None:
        raise DataError(f"'{table}' has no columns 'image' and 'label'; name them in its first line")
    found = []
    for line, row in enumerate(_rows_of(table, columns["delimiter"]), 2):
        image, label = (
            _slashed(from_typed_cell(row.get(columns[kind]) or "").strip()) for kind in ("image", "label")
        )
        if not image:
            raise DataError(f"'{table}' names no image in line {line}; fill it in or delete the line")
        paths = [
            _inside(within, table, name) if within is not None else table.parent / name
            for name in (image, label)
            if name
        ]
        told = {
            kind: from_typed_cell(row.get(columns[kind]) or "").strip() if columns[kind] else ""
            for kind in ("name", "group", "split", "patient")
        }
        split = split_in(told["split"])
        if told["split"] and not split and columns["split"].lower() == "split":
            raise DataError(
                f"'{table}' puts line {line} into the split '{told['split']}'; write train, val or test"
            )
        patient = "" if split_in(told["patient"]) else told["patient"]
        found.append(
            Found(told["name"] or stem(image), (paths[0],), tuple(paths[1:]), told["group"], split, patient)
        )
    _require_files(table, found)
    groups = sorted({case.patient for case in found} - {""})
    if columns["patient"].lower() != "group" or not groups or len(groups) > _MOST_CLASSES:
        return Recognised("CSV", tuple(found))
    said = (
        f"the column '{columns['patient']}' holds {', '.join(groups)}, taken for classes; if these are "
        "patients, call it 'patient', and each stays on one side of every split"
    )
    return Recognised("CSV", tuple(replace(case, patient="") for case in found), notices=(said,))


def _csv_columns(table: Path) -> dict[str, str] | None:
    """The table's own names of our columns, and its delimiter; None without images and labels."""
    try:
        with open(table, encoding=_encoding(table), errors="replace") as file:
            first = file.readline(_LONGEST_HEADING).strip()
            first = file.readline(_LONGEST_HEADING).strip() if _SEPARATOR.fullmatch(first) else first
    except OSError:
        return None
    delimiter = max(",;\t", key=first.count)
    names = {name.strip().strip('"').lower(): name.strip().strip('"') for name in first.split(delimiter)}

    def column(candidates: tuple[str, ...]) -> str:
        return next((names[name] for name in candidates if name in names), "")

    columns = {
        "image": column(_CSV_IMAGE),
        "label": column(_CSV_LABEL),
        "group": column(_CSV_GROUP),
        "name": column(_CSV_NAME),
        "split": column(SPLIT_COLUMNS),
        "patient": column(_CSV_PATIENT),
        "delimiter": delimiter,
    }
    return columns if columns["image"] and columns["label"] else None


def _content(table: Path) -> Any:
    """What stands in JSON that may be of any program, or be damaged."""
    try:
        return read_json(table)
    except DataError as error:
        raise _NotThisLayout(str(error), f"'{table.name}' cannot be read and is not used") from error


def _json(table: Path) -> Mapping[str, Any]:
    content = read_json(table)
    if not isinstance(content, dict):
        raise DataError(f"'{table}' holds no table of names; download it again")
    return content


def _inside(folder: Path, table: Path, name: str) -> Path:
    path = folder / name
    if "\0" in name or not real(path).is_relative_to(real(folder)):
        raise DataError(f"'{table}' points outside its folder ('{name}'); give paths within '{folder}'")
    return path


def _require_files(table: Path, candidates: Sequence[Found]) -> None:
    missing = [path for case in candidates for path in (*case.images, *case.labels) if not path.exists()]
    if missing:
        raise DataError(
            f"'{table}' lists {len(missing)} files that do not exist, the first is '{missing[0]}'; "
            "complete the data set or take the entries out"
        )
    if not candidates:
        raise DataError(f"'{table}' lists no case; add entries")


def _orphan_notices(orphans: Sequence[Path]) -> tuple[str, ...]:
    if not orphans:
        return ()
    return (f"{len(orphans)} masks have no image and are left out, the first is '{orphans[0].name}'",)


def _mask_ending(path: Path) -> str:
    match = MASK_SUFFIX.search(stem(path))
    return match.group() if match else ""


def _nothing_found(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        return f"'{folder}' is empty; put images in '{folder}/images' and their masks in '{folder}/masks'"
    if any(polygons.may_be(path) and polygons.is_annotation(path) for path in files[:_LOOKED_AT]):
        return f"'{folder}' holds annotations without their images; give the folder that holds both"
    packed = [path for path in files if path.name.lower().endswith(_ARCHIVES)]
    if packed:
        return f"'{folder}' holds archives, such as '{packed[0].name}', and no image; unpack them"
    counts: dict[str, int] = defaultdict(int)
    for path in files:
        counts[path.suffix.lower() or "without suffix"] += 1
    kinds = ", ".join(
        f"{number} {kind}" for kind, number in sorted(counts.items(), key=lambda kind: -kind[1])[:4]
    )
    return f"'{folder}' holds no image that can be read (found: {kinds}); give a folder of images and masks"


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


_LAYOUTS = (
    _nnunet_listed,
    _nnunet,
    _decathlon,
    dicom_studies,
    _cell_tracking,
    _folder_pairs,
    _csv_inside,
    _side_by_side,
)
"""Asked in this order."""
