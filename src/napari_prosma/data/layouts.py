"""A folder of images and masks -> cases, its layout recognised by looking.

``find_cases(folder)`` reads names and headers, and as many masks as it takes to know which values occur.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from napari_prosma.data import pictures
from napari_prosma.data.case import Case, Geometry, Header, Image
from napari_prosma.data.labels import BINARY, LabelRule, present_values
from napari_prosma.data.readers import as_channels, can_read, read_header, read_image, read_label, stem
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
_LOSSY = (".jpg", ".jpeg")

_SAMPLED_PICTURES = 32
_SAMPLED_VOLUMES = 8
_SAME_PLACE = 0.05  # of the smallest spacing: far below what shows, far above float32 rounding


@dataclass(frozen=True)
class DataSet:
    """Cases that belong together, and what they have in common.

    Attributes
    ----------
    layout : str
        ``BUSI``, ``Decathlon``, ``folders`` (of images and of masks), ``side by side``, ``images``.
    folder : Path
    cases : tuple of Case
        Sorted by name; every image has ``channels`` channels, every label indices into ``class_names``.
    class_names : names
        ``background`` first.
    channels, dims : int
        Channels and spatial axes of every image.
    summary : str
        What was found, in one sentence.
    notices : sentences
        What was decided on the user's behalf, such as colour read as gray.
    labels : LabelRule
        Which stored value is which class.
    """

    layout: str
    folder: Path
    cases: tuple[Case, ...]
    class_names: tuple[str, ...]
    channels: int
    dims: int
    summary: str
    notices: tuple[str, ...] = ()
    labels: LabelRule = BINARY

    @property
    def num_classes(self) -> int:
        """Number of classes, the background among them."""
        return len(self.class_names)


@dataclass(frozen=True)
class _Found:
    """One case before it can be read: its name, its image file, its label files, its group."""

    name: str
    image: Path
    labels: tuple[Path, ...]
    group: str = ""


@dataclass(frozen=True)
class _Folder:
    """What a layout recognised in a folder."""

    layout: str
    found: tuple[_Found, ...]
    labels: LabelRule | None = None
    notices: tuple[str, ...] = ()


def find_cases(
    folder: str | Path, require_labels: bool = True, labels: Mapping[int, str] | None = None
) -> DataSet:
    """Recognise the layout of a folder and give its cases; images and labels are read when asked for.

    Parameters
    ----------
    folder : path
        Holding ``dataset.json`` (Decathlon), a folder of images beside a folder of masks (once, or once per
        split), or masks beside their images (``x.png``, ``x_mask.png``; BUSI).
    require_labels : bool
        When False, images without a mask are cases without a label.
    labels : stored value -> class name, optional
        Overrides which values of the masks are which class.

    Raises
    ------
    DataError
        When the folder is missing, holds nothing to read, or an image lacks its mask.

    Notes
    -----
    Whether any mask holds foreground is told by :func:`check_foreground`, which reads masks until it
    finds some.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"'{folder}' {what}; give the folder that holds the images and their masks")
    recognised = _decathlon(folder) or _folder_pairs(folder) or _side_by_side(folder)
    if recognised is None:
        raise DataError(_nothing_found(folder))
    bare = [found for found in recognised.found if not found.labels]
    if bare and require_labels:
        raise DataError(_missing_masks(folder, recognised, bare))
    return _data_set(folder, recognised, None if labels is None else LabelRule.of_names(labels))


def case_from_files(
    image: str | Path,
    label: str | Path | Sequence[str | Path] | None = None,
    channels: int | None = None,
    labels: LabelRule | None = None,
) -> Case:
    """Case of one image file and its label file or files.

    Parameters
    ----------
    channels : int, optional
        Read the image with that many channels (see :func:`as_channels`); None keeps what the file holds.
    labels : LabelRule, optional
        Which stored value is which class; None looks at the label when it is read.

    Raises
    ------
    DataError
        When a file does not exist.
    """
    image = Path(image)
    files = () if label is None else (label,) if isinstance(label, (str, Path)) else tuple(label)
    found = _Found(stem(image), image, tuple(Path(file) for file in files))
    for file in (image, *found.labels):
        if not file.exists():
            raise DataError(f"'{file}' does not exist; check the path")
    return _case(found, channels, labels)


def pair_files(
    images: Iterable[str | Path], labels: Iterable[str | Path]
) -> list[tuple[Path, tuple[Path, ...]]]:
    """Each image with the label files that carry its name, plus a suffix such as ``_mask`` or ``_seg_2``."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for label in labels:
        by_name[_mask_stem(Path(label))].append(Path(label))
    return [(Path(image), tuple(sorted(by_name[_image_stem(Path(image))]))) for image in images]


def check_foreground(data: DataSet) -> None:
    """Read labels until one holds foreground.

    Raises
    ------
    DataError
        When no label of the data set does, or no case has a label.
    """
    labelled = [case for case in data.cases if case.read_label is not None]
    for case in labelled:
        assert case.read_label is not None
        if case.read_label().any():
            return
    raise DataError(
        f"none of the {len(labelled)} masks in '{data.folder}' holds any foreground, so there is nothing to "
        "learn; check that the masks were exported with their values"
    )


def _decathlon(folder: Path) -> _Folder | None:
    table = folder / "dataset.json"
    if not table.is_file():
        return None
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        entries = content["training"]
        names = {int(value): str(name) for value, name in content["labels"].items()}
        pairs = [(str(entry["image"]), str(entry["label"])) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"'{table}' is no Decathlon table ({type(error).__name__}: {error}); it needs 'labels' "
            '{"0": "background", ...} and \'training\' [{"image": ..., "label": ...}, ...]'
        ) from error
    found = []
    for image, label in pairs:
        paths = [_inside(folder, table, name) for name in (image, label)]
        found.append(_Found(stem(image), paths[0], (paths[1],)))
    missing = [path for case in found for path in (case.image, *case.labels) if not path.is_file()]
    if missing:
        raise DataError(
            f"'{table}' lists {len(missing)} files that do not exist, the first is '{missing[0]}'; "
            "complete the data set or take the entries out"
        )
    if not found:
        raise DataError(f"'{table}' lists no training case; add entries to 'training'")
    return _Folder("Decathlon", tuple(found), LabelRule.of_names(names))


def _inside(folder: Path, table: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"'{table}' points outside its folder ('{name}'); give paths within '{folder}'")
    return path


def _folder_pairs(folder: Path) -> _Folder | None:
    """``images/`` and ``masks/`` under whatever name, in the folder itself or in each of its splits."""
    pairs = []
    for parent in (folder, *_subfolders(folder)):
        named = {child.name.lower(): child for child in _subfolders(parent)}
        images = next((named[name] for name in _IMAGE_FOLDERS if name in named), None)
        masks = next((named[name] for name in _MASK_FOLDERS if name in named), None)
        if images is not None and masks is not None:
            pairs.append(("" if parent == folder else parent.name, images, masks))
    found: list[_Found] = []
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
                found.append(_Found(stem(image), image, labels, name))
        orphans += [path for path in masks_of if path not in used]
    return _Folder("folders", tuple(found), notices=_orphan_notices(orphans)) if found else None


def _side_by_side(folder: Path) -> _Folder | None:
    """``x.png`` with ``x_mask.png`` (and ``x_mask_1.png``), in the folder and its subfolders; BUSI."""
    by_place: dict[Path, list[Path]] = defaultdict(list)
    for path in _readable(folder):
        by_place[path.parent].append(path)
    found: list[_Found] = []
    orphans: list[Path] = []
    for place, files in sorted(by_place.items()):
        masks = [path for path in files if _MASK_SUFFIX.search(stem(path))]
        images = [path for path in files if path not in set(masks)]
        group = place.relative_to(folder).as_posix() if place != folder else ""
        pairs = pair_files(images, masks)
        found += [_Found(stem(image), image, labels, group) for image, labels in pairs]
        used = {label for _, labels in pairs for label in labels}
        orphans += [path for path in masks if path not in used]
    if not found:
        return None
    if all(_BUSI_IMAGE.fullmatch(case.name) for case in found):
        layout = "BUSI"
    else:
        layout = "side by side" if any(case.labels for case in found) else "images"
    return _Folder(layout, tuple(found), notices=_orphan_notices(orphans))


def _data_set(folder: Path, recognised: _Folder, labels: LabelRule | None) -> DataSet:
    found = sorted(_named_apart(recognised.found), key=lambda case: _natural(case.name))
    header = read_header(found[0].image)
    channels, channel_notices = _channels(found, header)
    rule = labels or recognised.labels or _guessed_rule(found, len(header.shape))
    return DataSet(
        layout=recognised.layout,
        folder=folder,
        cases=tuple(_case(case, channels, rule) for case in found),
        class_names=rule.class_names,
        channels=channels,
        dims=len(header.shape),
        summary=_summary(recognised.layout, found, rule),
        notices=(*recognised.notices, *channel_notices),
        labels=rule,
    )


def _case(found: _Found, channels: int | None, rule: LabelRule | None) -> Case:
    read = partial(_read_case_label, found, rule) if found.labels else None
    return Case(
        found.name,
        partial(_read_case_image, found.image, channels),
        read,
        (found.image, *found.labels),
        found.group,
    )


def _read_case_image(path: Path, channels: int | None) -> Image:
    image = read_image(path)
    if channels is None:
        return image
    try:
        return as_channels(image, channels)
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error


def _read_case_label(found: _Found, rule: LabelRule | None) -> np.ndarray:
    """Class indices of a case, its label files united; where they overlap the higher class wins."""
    header = read_header(found.image)
    united: np.ndarray | None = None
    for path in found.labels:
        stored, geometry = read_label(path)
        _require_same_grid(found.image, header, path, stored.shape, geometry)
        here = rule or LabelRule.of_values(present_values(stored), _is_lossy(path))
        indices = here.apply(stored, path)
        united = indices if united is None else np.maximum(united, indices)
    assert united is not None
    return united


def _require_same_grid(
    image: Path, header: Header, label: Path, shape: tuple[int, ...], geometry: Geometry
) -> None:
    if shape != header.shape:
        raise DataError(
            f"labels '{label}' have shape {shape} but image '{image}' has {header.shape}; "
            "crop or re-export one of them"
        )
    ours, theirs = header.geometry.source, geometry.source
    if ours is None or theirs is None:
        return
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(len(shape), -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    apart = (ours.array_affine(shape) - theirs.array_affine(shape)) @ corners
    distance = float(np.linalg.norm(apart[:3], axis=0).max())
    if distance > _SAME_PLACE * min(header.geometry.spacing):
        raise DataError(
            f"labels '{label}' lie {distance:.3g} {header.geometry.unit} away from image '{image}': their "
            "affines differ; export the labels from the same image, or copy its header if you know they fit"
        )


def _channels(found: Sequence[_Found], header: Header) -> tuple[int, tuple[str, ...]]:
    """Channels for all images of a data set: gray unless most pictures are in colour."""
    if not pictures.SUFFIXES or not found[0].image.name.lower().endswith(pictures.SUFFIXES):
        return header.channels, ()
    in_colour = [case.image for case in found if read_header(case.image).channels == 3]
    sampled = _evenly(in_colour, _SAMPLED_PICTURES)
    coloured = sum(_is_coloured(path) for path in sampled)
    share = coloured / max(len(sampled), 1) * len(in_colour) / len(found)
    if share > 0.5:
        gray = len(found) - len(in_colour)
        return 3, (f"{gray} gray images are given three equal channels",) if gray else ()
    if not coloured:
        return 1, ()
    about = "" if len(sampled) == len(in_colour) else "about "
    number = round(share * len(found))
    return 1, (f"{about}{number} of {len(found)} images are in colour; read as gray (ITU-R 601 luma)",)


def _is_coloured(path: Path) -> bool:
    array = read_image(path).array
    return len(array) == 3 and not (np.array_equal(array[0], array[1]) and np.array_equal(array[1], array[2]))


def _guessed_rule(found: Sequence[_Found], dims: int) -> LabelRule:
    """Rule from a sample of the masks; from all of them where there are more than two classes."""
    masks = [path for case in found for path in case.labels]
    sampled = _evenly(masks, _SAMPLED_PICTURES if dims == 2 else _SAMPLED_VOLUMES)
    lossy = any(_is_lossy(path) for path in masks)
    values: set[int] = set()
    for path in sampled:
        values.update(present_values(read_label(path)[0]).tolist())
    rule = LabelRule.of_values(values, lossy)
    only_background = not values - {0}
    if rule.kind == "values" or only_background:
        for path in set(masks) - set(sampled):
            values.update(present_values(read_label(path)[0]).tolist())
        rule = LabelRule.of_values(values, lossy)
    return rule


def _summary(layout: str, found: Sequence[_Found], rule: LabelRule) -> str:
    titles = {
        "folders": "Images and masks in two folders",
        "side by side": "Masks beside their images",
        "images": "Images",
    }
    parts = [f"{titles.get(layout, layout)}: {len(found)} case{'s' if len(found) != 1 else ''}"]
    groups = Counter(case.group for case in found)
    if len(groups) > 1:
        parts[0] += f" in {len(groups)} folders"
    if layout == "BUSI" and groups.get("normal"):
        parts.append(f"{groups['normal']} without a lesion")
    bare = sum(not case.labels for case in found)
    if bare and layout != "images":
        parts.append(f"{bare} without a mask")
    several = sum(len(case.labels) > 1 for case in found)
    if several:
        parts.append(f"{several} with several masks")
    if len(rule.class_names) > 2:
        parts.append(f"classes {', '.join(rule.class_names[1:])}")
    return ", ".join(parts)


def _nothing_found(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        return f"'{folder}' is empty; put images in '{folder}/images' and their masks in '{folder}/masks'"
    kinds = ", ".join(f"{number} {kind or 'without suffix'}" for kind, number in _kinds(files).most_common(4))
    return f"'{folder}' holds no image that can be read (found: {kinds}); give a folder of images and masks"


def _kinds(files: Iterable[Path]) -> Counter[str]:
    return Counter(path.suffix.lower() for path in files)


def _missing_masks(folder: Path, recognised: _Folder, bare: Sequence[_Found]) -> str:
    if len(bare) == len(recognised.found):
        return (
            f"'{folder}' holds {len(bare)} images but no masks, the first is '{bare[0].image.name}'; "
            "put masks of the same names in a folder 'masks' beside a folder 'images'"
        )
    return (
        f"{len(bare)} of {len(recognised.found)} images in '{folder}' have no mask, the first is "
        f"'{bare[0].image.relative_to(folder)}'; add a mask '{stem(bare[0].image)}.png' or "
        f"'{stem(bare[0].image)}_mask.png', or take the image away"
    )


def _orphan_notices(orphans: Sequence[Path]) -> tuple[str, ...]:
    if not orphans:
        return ()
    return (f"{len(orphans)} masks have no image and are left out, the first is '{orphans[0].name}'",)


def _named_apart(found: Sequence[_Found]) -> list[_Found]:
    """Cases with unique names: the group goes before a name that occurs twice, then the format after it."""
    for rename in (
        lambda case: f"{case.group.replace('/', '_')}_{case.name}" if case.group else case.name,
        lambda case: case.image.name,
    ):
        repeated = {name for name, number in Counter(case.name for case in found).items() if number > 1}
        found = [replace(case, name=rename(case)) if case.name in repeated else case for case in found]
    return list(found)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``image 2`` before ``image 10``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _evenly(paths: Sequence[Path], number: int) -> list[Path]:
    """At most ``number`` of the paths, spread evenly, first and last among them."""
    if len(paths) <= number:
        return list(paths)
    return [paths[index] for index in np.linspace(0, len(paths) - 1, number).round().astype(int)]


def _image_stem(path: Path) -> str:
    return _IMAGE_SUFFIX.sub("", stem(path))


def _mask_stem(path: Path) -> str:
    return _MASK_SUFFIX.sub("", stem(path))


def _is_lossy(path: Path) -> bool:
    return path.suffix.lower() in _LOSSY


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _readable(folder: Path) -> list[Path]:
    hidden: Callable[[Path], bool] = lambda path: any(  # noqa: E731
        part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts
    )
    return sorted(
        path for path in folder.rglob("*") if can_read(path) and path.is_file() and not hidden(path)
    )
