"""What lies in a folder: which files are images, which are their masks. Names only; nothing is opened.

One function per layout, each giving what it recognised or None; :func:`recognise` asks them in turn.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_prosma.data import dicom, ome_zarr
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.names import from_cell
from napari_prosma.data.readers import can_read, stem
from napari_prosma.data.texts import read_json
from napari_prosma.errors import DataError

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagestr", "inputs", "input", "scans", "volumes")
_MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "labelstr", "segmentations", "segmentation", "segs", "seg"),
    *("annotations", "annotation", "ground_truth", "groundtruth", "gt", "targets", "target", "labelcol"),
)
_MASK_SUFFIX = re.compile(
    r"[ _.-](?:masks?|labels?|seg|segmentation|gt|groundtruth|ground_truth|anno|annotation)(?:[ _-]?\d+)?$",
    re.IGNORECASE,
)
_IMAGE_SUFFIX = re.compile(r"[ _.-](?:image|img)$", re.IGNORECASE)
_BUSI_IMAGE = re.compile(r"(?:benign|malignant|normal) \(\d+\)", re.IGNORECASE)
_GLAS_IMAGE = re.compile(r"(train|testA|testB)_\d+")
_KVASIR_BOXES = ("kavsir_bboxes.json", "kvasir_bboxes.json")
_NNUNET_CHANNEL = re.compile(r"_(\d{4})$")
_CSV_IMAGE = ("image", "images", "img", "image_path", "image_file")
_CSV_LABEL = ("label", "labels", "mask", "masks", "seg", "segmentation", "label_path", "mask_path")
_CSV_GROUP = ("group", "split", "fold", "set", "class")
_CSV_NAME = ("name", "case", "id")


@dataclass(frozen=True)
class Found:
    """One case before it can be read: image files (one per channel, usually one), label files, group."""

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    group: str = ""

    @property
    def image(self) -> Path:
        """The first image file."""
        return self.images[0]


@dataclass(frozen=True)
class Recognised:
    """What a layout recognised in a folder."""

    layout: str
    found: tuple[Found, ...]
    labels: LabelRule | None = None
    foreground: str = "foreground"
    notices: tuple[str, ...] = ()


def recognise(folder: Path) -> Recognised:
    """The layout of a folder, or of a table (CSV) of pairs.

    Raises
    ------
    DataError
        When it is missing, empty, or holds no image that can be read.
    """
    if folder.is_file() and folder.suffix.lower() == ".csv":
        return _csv(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"'{folder}' {what}; give the folder that holds the images and their masks")
    inner = _unpacked_within(folder)
    if inner is not None:
        return recognise(inner)
    layouts: tuple[Callable[[Path], Recognised | None], ...]
    layouts = (_nnunet, _decathlon, _folder_pairs, _csv_inside, _side_by_side)
    for layout in layouts:
        recognised = layout(folder)
        if recognised is not None:
            return recognised
    raise DataError(_nothing_found(folder))


def pair_files(
    images: Iterable[str | Path], labels: Iterable[str | Path]
) -> list[tuple[Path, tuple[Path, ...]]]:
    """Each image with the label files that carry its name, plus a suffix such as ``_mask`` or ``_seg_2``."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for label in labels:
        by_name[_MASK_SUFFIX.sub("", stem(label))].append(Path(label))
    return [(Path(image), tuple(sorted(by_name[_IMAGE_SUFFIX.sub("", stem(image))]))) for image in images]


def named_apart(found: Sequence[Found]) -> list[Found]:
    """Cases with unique names: the group goes before a name that occurs twice, then the format after it."""
    for rename in (
        lambda case: f"{case.group.replace('/', '_')}_{case.name}" if case.group else case.name,
        lambda case: case.image.name,
        lambda case: "_".join(case.image.parts[-3:]),
    ):
        counts: dict[str, int] = defaultdict(int)
        for case in found:
            counts[case.name] += 1
        found = [replace(case, name=rename(case)) if counts[case.name] > 1 else case for case in found]
    return list(found)


def missing_masks(folder: Path, found: Sequence[Found], bare: Sequence[Found]) -> str:
    """What to say of images without a mask."""
    if len(bare) == len(found):
        return (
            f"'{folder}' holds {len(bare)} images but no masks, the first is '{bare[0].image.name}'; "
            "put masks of the same names in a folder 'masks' beside a folder 'images'"
        )
    image = bare[0].image
    shown = image.relative_to(folder) if image.is_relative_to(folder) else image
    return (
        f"{len(bare)} of {len(found)} images in '{folder}' have no mask, the first is '{shown}'; add a mask "
        f"'{bare[0].name}.png' or '{bare[0].name}_mask.png', or take the image away"
    )


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
    content = _json(table)
    try:
        names = {int(value): str(name) for value, name in content["labels"].items()}
        pairs = [(str(entry["image"]), str(entry["label"])) for entry in content["training"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"'{table}' is no Decathlon table ({type(error).__name__}: {error}); it needs 'labels' "
            '{"0": "background", ...} and \'training\' [{"image": ..., "label": ...}, ...]'
        ) from error
    found = []
    for image, label in pairs:
        paths = [_inside(folder, table, name) for name in (image, label)]
        found.append(Found(stem(image), (paths[0],), (paths[1],)))
    _require_files(table, found)
    return Recognised("Decathlon", tuple(found), LabelRule.of_names(names))


def _nnunet(folder: Path) -> Recognised | None:
    """``imagesTr/case_0000.nii.gz``, one file per channel, and ``labelsTr/case.nii.gz``."""
    images, masks, table = folder / "imagesTr", folder / "labelsTr", folder / "dataset.json"
    if not images.is_dir():
        return None
    by_case: dict[str, list[Path]] = defaultdict(list)
    for path in _readable(images):
        match = _NNUNET_CHANNEL.search(stem(path))
        if match is None:
            return None
        by_case[stem(path)[: match.start()]].append(path)
    labels = {stem(path): path for path in _readable(masks)} if masks.is_dir() else {}
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
    names, notices = _nnunet_labels(table, _json(table).get("labels", {}))
    ignored = names.pop("ignore", None)
    rule = LabelRule.of_names({value: name for name, value in names.items()}) if names else None
    if rule is not None and ignored is not None:
        rule = replace(rule, unlabelled=ignored)
    return Recognised("nnU-Net", tuple(found), rule, notices=notices)


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


def _folder_pairs(folder: Path) -> Recognised | None:
    """``images/`` and ``masks/`` under whatever name, in the folder itself or in each of its splits."""
    pairs = []
    for parent in (folder, *_subfolders(folder)):
        named = {child.name.lower(): child for child in _subfolders(parent)}
        images = next((named[name] for name in _IMAGE_FOLDERS if name in named), None)
        masks = next((named[name] for name in _MASK_FOLDERS if name in named), None)
        if images is not None and masks is not None:
            pairs.append(("" if parent == folder else parent.name, images, masks))
    found: list[Found] = []
    orphans: list[Path] = []
    for split, image_folder, mask_folder in pairs:
        images_of = {path: path.relative_to(image_folder).parent for path in _readable(image_folder)}
        masks_of = {path: path.relative_to(mask_folder).parent for path in _readable(mask_folder)}
        flat = len(set(masks_of.values())) == 1  # masks may lie flat though images lie in groups
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
    return Recognised("folders", tuple(found), notices=_orphan_notices(orphans))


def _side_by_side(folder: Path) -> Recognised | None:
    """``x.png`` with ``x_mask.png`` (and ``x_mask_1.png``), in the folder and its subfolders; BUSI, GlaS."""
    by_place: dict[Path, list[Path]] = defaultdict(list)
    for path in _readable(folder):
        by_place[path.parent].append(path)
    found: list[Found] = []
    orphans: list[Path] = []
    for place, files in sorted(by_place.items()):
        masks = [path for path in files if _MASK_SUFFIX.search(stem(path))]
        images = [path for path in files if path not in set(masks)]
        group = place.relative_to(folder).as_posix() if place != folder else ""
        pairs = pair_files(images, masks)
        found += [Found(stem(image), (image,), labels, group) for image, labels in pairs]
        used = {label for _, labels in pairs for label in labels}
        orphans += [path for path in masks if path not in used]
    if not found:
        if orphans:
            raise DataError(
                f"'{folder}' holds {len(orphans)} masks but no image, the first is '{orphans[0].name}'; "
                f"put the images beside them, without '{_mask_ending(orphans[0])}' in their names"
            )
        return None
    notices = _orphan_notices(orphans)
    if all(_BUSI_IMAGE.fullmatch(case.name) for case in found):
        return Recognised("BUSI", tuple(found), foreground="lesion", notices=notices)
    parts = [_GLAS_IMAGE.fullmatch(case.name) for case in found]
    if all(parts):
        grouped = [
            replace(case, group=part.group(1)) for case, part in zip(found, parts, strict=True) if part
        ]
        return Recognised("GlaS", tuple(grouped), LabelRule.instances("gland"), notices=notices)
    layout = "side by side" if any(case.labels for case in found) else "images"
    return Recognised(layout, tuple(found), notices=notices)


def _csv_inside(folder: Path) -> Recognised | None:
    """A folder's only table that has a column of images and one of labels."""
    tables = [table for table in sorted(folder.glob("*.csv")) if _csv_columns(table) is not None]
    return _csv(tables[0], folder) if len(tables) == 1 else None


def _csv(table: Path, within: Path | None = None) -> Recognised:
    """Pairs listed in a table; paths count from the table, and stay in the folder where it was found."""
    columns = _csv_columns(table)
    if columns is None:
        raise DataError(f"'{table}' has no columns 'image' and 'label'; name them in its first line")
    found = []
    with open(table, newline="", encoding="utf-8-sig") as file:
        for line, row in enumerate(csv.DictReader(file, delimiter=columns["delimiter"]), 2):
            image, label = (from_cell(row.get(columns[kind]) or "").strip() for kind in ("image", "label"))
            if not image:
                raise DataError(f"'{table}' names no image in line {line}; fill it in or delete the line")
            paths = [
                _inside(within, table, name) if within is not None else table.parent / name
                for name in (image, label)
                if name
            ]
            name = from_cell(row.get(columns["name"]) or "").strip() if columns["name"] else ""
            group = from_cell(row.get(columns["group"]) or "").strip() if columns["group"] else ""
            found.append(Found(name or stem(image), (paths[0],), tuple(paths[1:]), group))
    _require_files(table, found)
    return Recognised("CSV", tuple(found))


def _csv_columns(table: Path) -> dict[str, str] | None:
    """The table's own names of our columns, and its delimiter; None without images and labels."""
    try:
        with open(table, encoding="utf-8-sig") as file:
            first = file.readline().strip()
    except (OSError, UnicodeDecodeError):
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
        "delimiter": delimiter,
    }
    return columns if columns["image"] and columns["label"] else None


def _json(table: Path) -> Mapping[str, Any]:
    content = read_json(table)
    if not isinstance(content, dict):
        raise DataError(f"'{table}' holds no table of names; download it again")
    return content


def _inside(folder: Path, table: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"'{table}' points outside its folder ('{name}'); give paths within '{folder}'")
    return path


def _require_files(table: Path, found: Sequence[Found]) -> None:
    missing = [path for case in found for path in (*case.images, *case.labels) if not path.exists()]
    if missing:
        raise DataError(
            f"'{table}' lists {len(missing)} files that do not exist, the first is '{missing[0]}'; "
            "complete the data set or take the entries out"
        )
    if not found:
        raise DataError(f"'{table}' lists no case; add entries")


def _orphan_notices(orphans: Sequence[Path]) -> tuple[str, ...]:
    if not orphans:
        return ()
    return (f"{len(orphans)} masks have no image and are left out, the first is '{orphans[0].name}'",)


def _mask_ending(path: Path) -> str:
    match = _MASK_SUFFIX.search(stem(path))
    return match.group() if match else ""


def _nothing_found(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        return f"'{folder}' is empty; put images in '{folder}/images' and their masks in '{folder}/masks'"
    counts: dict[str, int] = defaultdict(int)
    for path in files:
        counts[path.suffix.lower() or "without suffix"] += 1
    kinds = ", ".join(
        f"{number} {kind}" for kind, number in sorted(counts.items(), key=lambda kind: -kind[1])[:4]
    )
    return f"'{folder}' holds no image that can be read (found: {kinds}); give a folder of images and masks"


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _readable(folder: Path) -> list[Path]:
    """Images under a folder, sorted; a folder with a DICOM series and an OME-Zarr count as one image each."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        whole = [
            name
            for name in folders
            if not _is_hidden(name) and (ome_zarr.is_ome_zarr(here / name) or dicom.holds_series(here / name))
        ]
        found += [here / name for name in whole]
        folders[:] = [name for name in folders if not _is_hidden(name) and name not in whole]
        found += [here / name for name in files if not _is_hidden(name) and can_read(here / name)]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
