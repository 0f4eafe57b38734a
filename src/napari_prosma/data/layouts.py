"""A folder of images and masks -> cases, its layout recognised by looking.

``find_cases(folder)`` reads names and headers, and as many masks as it takes to know which values occur.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from napari_prosma.data import nrrd, pictures
from napari_prosma.data.case import Case, Geometry, Header, Image
from napari_prosma.data.labels import BINARY, IGNORE, LabelRule, present_values, united
from napari_prosma.data.placement import placed
from napari_prosma.data.preparation import filled
from napari_prosma.data.readers import as_channels, label_names, read_header, read_image, read_label, stem
from napari_prosma.data.recognise import Found, missing_masks, named_apart, pair_files, recognise
from napari_prosma.errors import DataError

__all__ = ["DataSet", "case_from_files", "check_foreground", "find_cases", "pair_files"]

_LOSSY = (".jpg", ".jpeg")
_SAMPLED_PICTURES = 32
_SAMPLED_VOLUMES = 8
_FEWEST_INSTANCES = 5
_SAME_PLACE = 0.05  # of the smallest spacing: far below what shows, far above float32 rounding
_TITLES = {
    "folders": "Images and masks in two folders",
    "side by side": "Masks beside their images",
    "images": "Images",
    "CSV": "Pairs listed in a table",
}


@dataclass(frozen=True)
class DataSet:
    """Cases that belong together, and what they have in common.

    Attributes
    ----------
    layout : str
        ``BUSI``, ``GlaS``, ``Kvasir-SEG``, ``Decathlon``, ``nnU-Net``, ``CSV``, ``folders`` (of images and of
        masks), ``side by side``, ``images``.
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
        Which stored value is which class; change it with ``find_cases(folder, labels=...)``.
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


def find_cases(
    folder: str | Path,
    require_labels: bool = True,
    labels: Mapping[int, str] | LabelRule | None = None,
) -> DataSet:
    """Recognise the layout of a folder and give its cases; images and labels are read when asked for.

    Parameters
    ----------
    folder : path
        Holding ``dataset.json`` (Decathlon), ``imagesTr/case_0000.nii.gz`` (nnU-Net), a folder of images
        beside a folder of masks (once, or once per split; Kvasir-SEG), masks beside their images (``x.png``,
        ``x_mask.png``; BUSI, GlaS), or a CSV with columns ``image`` and ``label``; or that CSV itself. A
        folder with a DICOM series counts as one image.
    require_labels : bool
        When False, images without a mask are cases without a label.
    labels : stored value -> class name, or LabelRule, optional
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
    recognised = recognise(folder)
    bare = [found for found in recognised.found if not found.labels]
    if bare and require_labels:
        raise DataError(missing_masks(folder, recognised.found, bare))
    found = sorted(named_apart(recognised.found), key=lambda case: _natural(case.name))
    headers, damaged = _headers(found)
    header = next(iter(headers.values()))
    channels, channel_notices = _channels(headers)
    chosen = LabelRule.of_names(labels) if isinstance(labels, Mapping) else labels
    rule = chosen or recognised.labels or _guessed_rule(found, len(header.shape), recognised.foreground)
    if chosen is None and recognised.labels is None:
        rule = rule.with_names(_told_names(found))
    label_notices = () if rule.kind == "on" else (f"labels: {rule.in_words()}",)
    return DataSet(
        layout=recognised.layout,
        folder=folder,
        cases=tuple(_case(case, channels, rule) for case in found),
        class_names=rule.class_names,
        channels=channels,
        dims=len(header.shape),
        summary=_summary(recognised.layout, found, rule, channels),
        notices=(*recognised.notices, *damaged, *channel_notices, *label_notices),
        labels=rule,
    )


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
    found = Found(stem(image), (image,), tuple(Path(file) for file in files))
    for file in (image, *found.labels):
        if not file.exists():
            raise DataError(f"'{file}' does not exist; check the path")
    return _case(found, channels, labels)


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
        if np.any(np.isin(case.read_label(), (0, IGNORE), invert=True)):
            return
    raise DataError(
        f"none of the {len(labelled)} masks in '{data.folder}' holds any foreground, so there is nothing to "
        "learn; check that the masks were exported with their values"
    )


def _case(found: Found, channels: int | None, rule: LabelRule | None) -> Case:
    read = partial(_read_label, found, rule) if found.labels else None
    read_filled = partial(_read_filled, found, channels)
    files = (*found.images, *found.labels)
    return Case(found.name, read_filled, read, files, found.group)


def _read_filled(found: Found, channels: int | None) -> Image:
    return filled(_read_image(found, channels))


def _read_image(found: Found, channels: int | None) -> Image:
    images = [read_image(path) for path in found.images]
    if len(images) > 1:
        first = images[0]
        header = Header(1, first.array.shape[1:], first.geometry)
        for path, image in zip(found.images[1:], images[1:], strict=True):
            _require_same_grid(found.image, header, path, image.array.shape[1:], image.geometry)
        return Image(np.concatenate([image.array for image in images]), first.geometry, first.notices)
    if channels is None:
        return images[0]
    try:
        return as_channels(images[0], channels)
    except DataError as error:
        raise DataError(f"'{found.image}': {error}") from error


def _read_label(found: Found, rule: LabelRule | None) -> np.ndarray:
    """Class indices of a case, its label files united; where they overlap the higher class wins."""
    header = read_header(found.image)
    label: np.ndarray | None = None
    for path in found.labels:
        stored, geometry = placed(*read_label(path), header.shape, header.geometry)
        _require_same_grid(found.image, header, path, stored.shape, geometry)
        here = rule or LabelRule.of_values(present_values(stored), _is_lossy(path))
        indices = here.apply(stored, path)
        label = indices if label is None else united(label, indices)
    assert label is not None
    return label


def _require_same_grid(
    image: Path, header: Header, other: Path, shape: tuple[int, ...], geometry: Geometry
) -> None:
    if shape != header.shape:
        raise DataError(
            f"labels '{other}' have shape {shape} but image '{image}' has {header.shape}; "
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
            f"labels '{other}' lie {distance:.3g} {header.geometry.unit} away from image '{image}': their "
            "affines differ; export the labels from the same image, or copy its header if you know they fit"
        )


def _headers(found: Sequence[Found]) -> tuple[dict[Path, Header], tuple[str, ...]]:
    """Headers by image file, and a notice of those that cannot be read: of all pictures, of one volume.

    Raises
    ------
    DataError
        When no image can be read; the first is named.
    """
    headers: dict[Path, Header] = {}
    errors: list[DataError] = []
    for case in found:
        try:
            header = read_header(case.image)
        except DataError as error:
            errors.append(error)
            continue
        several = len(case.images) > 1
        headers[case.image] = replace(header, channels=len(case.images)) if several else header
        if several or not _is_picture(case.image):
            break
    if not headers:
        raise errors[0]
    return headers, ((f"{len(errors)} images cannot be read, the first: {errors[0]}",) if errors else ())


def _channels(headers: Mapping[Path, Header]) -> tuple[int, tuple[str, ...]]:
    """Channels for all images of a data set: gray unless most pictures are in colour."""
    first, header = next(iter(headers.items()))
    if not _is_picture(first):
        return header.channels, ()
    in_colour = [path for path, header in headers.items() if header.channels == 3]
    sampled = _evenly(in_colour, _SAMPLED_PICTURES)
    coloured = sum(_is_coloured(path) for path in sampled)
    share = coloured / max(len(sampled), 1) * len(in_colour) / len(headers)
    if share > 0.5:
        gray = len(headers) - len(in_colour)
        return 3, (f"{gray} gray images are given three equal channels",) if gray else ()
    if not coloured:
        return 1, ()
    about = "" if len(sampled) == len(in_colour) else "about "
    number = round(share * len(headers))
    return 1, (f"{about}{number} of {len(headers)} images are in colour; read as gray (ITU-R 601 luma)",)


def _is_coloured(path: Path) -> bool:
    try:
        array = read_image(path).array
    except DataError:  # said when its case is read
        return False
    return len(array) == 3 and not (np.array_equal(array[0], array[1]) and np.array_equal(array[1], array[2]))


def _guessed_rule(found: Sequence[Found], dims: int, foreground: str) -> LabelRule:
    """Rule from a sample of the masks; from all of them where there are more than two classes."""
    masks = [path for case in found for path in case.labels]
    sampled = _evenly(masks, _SAMPLED_PICTURES if dims == 2 else _SAMPLED_VOLUMES)
    lossy = any(_is_lossy(path) for path in masks)
    values = [_values(path) for path in sampled]
    if dims == 2 and not lossy and _are_instances(values):
        return LabelRule.instances(foreground)
    seen = set().union(*values)
    rule = LabelRule.of_values(seen, lossy, foreground)
    if rule.kind == "values" or not seen - {0}:
        rest = (_values(path) for path in set(masks) - set(sampled))
        rule = LabelRule.of_values(seen.union(*rest), lossy, foreground)
    return rule


def _told_names(found: Sequence[Found]) -> list[tuple[Path, dict[int, str]]]:
    """What label files call their values: all of 3D Slicer's, which a person numbered, else some."""
    files = [path for case in found for path in case.labels]
    by_hand = [path for path in files if path.name.lower().endswith(nrrd.SUFFIXES)]
    others = _evenly(sorted(set(files) - set(by_hand)), _SAMPLED_PICTURES)
    return [(path, label_names(path)) for path in (*by_hand, *others)]


def _values(path: Path) -> set[int]:
    """The values of a mask; none of one that cannot be read, which is said when its case is read."""
    try:
        return set(present_values(read_label(path)[0]).tolist())
    except DataError:
        return set()


def _are_instances(values: Sequence[set[int]]) -> bool:
    """Whether every mask counts 1, 2, ..., n with an n of its own, as instance ids do and classes do not."""
    highest = {max(found, default=0) for found in values}
    counted = all(found - {0} == set(range(1, max(found, default=0) + 1)) for found in values)
    return counted and len(highest) > 2 and max(highest) >= _FEWEST_INSTANCES


def _summary(layout: str, found: Sequence[Found], rule: LabelRule, channels: int) -> str:
    parts = [f"{_TITLES.get(layout, layout)}: {len(found)} case{'s' if len(found) != 1 else ''}"]
    groups = Counter(case.group for case in found)
    if layout == "GlaS":
        parts += [f"{number} {group}" for group, number in sorted(groups.items())]
    elif len(groups) > 1:
        parts[0] += f" in {len(groups)} " + ("groups" if layout == "CSV" else "folders")
    normal = sum(number for group, number in groups.items() if group.split("/")[-1] == "normal")
    if layout == "BUSI" and normal:
        parts.append(f"{normal} without a lesion")
    if layout == "nnU-Net" and channels > 1:
        parts.append(f"{channels} channels")
    bare = sum(not case.labels for case in found)
    if bare and layout != "images":
        parts.append(f"{bare} without a mask")
    several = sum(len(case.labels) > 1 for case in found)
    if several:
        parts.append(f"{several} with several masks")
    if len(rule.class_names) > 2:
        parts.append(f"classes {', '.join(rule.class_names[1:])}")
    return ", ".join(parts)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``image 2`` before ``image 10``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _evenly(paths: Sequence[Path], number: int) -> list[Path]:
    """At most ``number`` of the paths, spread evenly, first and last among them."""
    if len(paths) <= number:
        return list(paths)
    return [paths[index] for index in np.linspace(0, len(paths) - 1, number).round().astype(int)]


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(pictures.SUFFIXES)


def _is_lossy(path: Path) -> bool:
    return path.suffix.lower() in _LOSSY
