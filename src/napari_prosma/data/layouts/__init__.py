"""A folder of images and masks -> cases, its layout recognised by looking.

``find_cases(folder)`` reads names and headers, and as many masks as it takes to know which values occur.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from napari_prosma.data.case import Case, Header, Image
from napari_prosma.data.formats import dicom, dicom_labels, nrrd, ome_zarr, pictures, polygons
from napari_prosma.data.formats.dicom import Series
from napari_prosma.data.label_doubts import (
    SAMPLED_PICTURES,
    evenly,
    guessed_rule,
    in_part,
    is_lossy,
    require_no_drawing,
    rule_of_arrays,
    slices_in_words,
)
from napari_prosma.data.labels import BINARY, IGNORE, LabelRule, is_foreground, present_values, united
from napari_prosma.data.layouts import slice_masks
from napari_prosma.data.layouts.class_tables import named_by_tables
from napari_prosma.data.layouts.dicom_studies import labelled_by
from napari_prosma.data.layouts.found import Found
from napari_prosma.data.layouts.recognise import (
    missing_masks,
    named_apart,
    pair_files,
    recognise,
    without_clips,
    without_others,
)
from napari_prosma.data.names import natural
from napari_prosma.data.placement import placed
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.preparation import filled
from napari_prosma.data.readers import (
    as_channels,
    label_names,
    may_hold_channels,
    of_pages,
    read_header,
    read_image,
    read_label,
    read_series,
    stem,
)
from napari_prosma.errors import DataError, MissingMasksError
from napari_prosma.geometry import Geometry

__all__ = [
    "DataSet",
    "case_from_files",
    "check_foreground",
    "find_cases",
    "pair_files",
    "requirement",
    "told_names",
]

_LOOKED_AT = 8
_LABELS_LOOKED_AT = 3
"""Of those whose values are told; else many more are looked at."""
_SAME_PLACE = 0.05  # of the smallest spacing: far below what shows, far above float32 rounding
_TITLES = {
    "OME-Zarr": "OME-Zarr images with labels in them",
    "Cell Tracking": "Frames and masks of the Cell Tracking Challenge",
    "folders": "Images and masks in two folders",
    "side by side": "Masks beside their images",
    "images": "Images",
    "CSV": "Pairs listed in a table",
    "names": "Images and labels paired by their names",
    "DICOM": "DICOM series and what labels them",
}


@dataclass(frozen=True)
class DataSet:
    """Cases that belong together, and what they have in common.

    Attributes
    ----------
    layout : str
        ``BUSI``, ``GlaS``, ``Kvasir-SEG``, ``Decathlon``, ``nnU-Net``, ``Cell Tracking``, ``OME-Zarr``,
        ``CSV``, ``DICOM``, ``folders`` (of images and of masks), ``side by side``, ``images``, ``names``
        (images and labels share names, whichever these are).
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


def requirement(labelled_only: bool) -> bool | Literal["some"]:
    """What ``find_cases`` requires of labels: one for every image, or for those that are not left out."""
    return "some" if labelled_only else True


def find_cases(
    folder: str | Path,
    require_labels: bool | Literal["some"] = True,
    labels: Mapping[int, str] | LabelRule | None = None,
    images: str | None = None,
    masks: str | None = None,
) -> DataSet:
    """Recognise the layout of a folder and give its cases; images and labels are read when asked for.

    Parameters
    ----------
    folder : path
        Holding ``dataset.json`` (Decathlon), ``imagesTr/case_0000.nii.gz`` (nnU-Net), a folder of images
        beside a folder of masks (once, or once per split; Kvasir-SEG), masks beside their images (``x.png``,
        ``x_mask.png``; BUSI, GlaS), or a CSV with columns ``image`` and ``label``; or that CSV itself. A
        folder with a DICOM series counts as one image, but every view in it as one. Series that DICOM SEG or
        RTSTRUCT objects refer to are cases, wherever the objects lie; their classes go by name.
    require_labels : bool
        When False, images without a mask are cases without a label; with "some" they are left out.
    labels : stored value -> class name, or LabelRule, optional
        Overrides which values of the masks are which class.
    images, masks : patterns, optional
        Which files are images and which are masks, such as ``images/*`` and ``1st_manual/*``, where these are
        not the ones that were found. Pairs are those that share names.

    Raises
    ------
    DataError
        When the folder is missing or holds nothing to read.
    MissingMasksError
        An image lacks its mask.

    Notes
    -----
    Whether any mask holds foreground is told by :func:`check_foreground`, which reads masks until it
    finds some.
    """
    folder = Path(folder)
    recognised = recognise(folder, images, masks)
    kept, others = without_others(recognised.found) if require_labels else (recognised.found, ())
    kept, clips = without_clips(kept)
    _require_labels_of_slices(kept)
    bare = [found for found in kept if not found.labels]
    if bare and (require_labels is True or (require_labels and len(bare) == len(kept))):
        kind = DataError if len(bare) == len(kept) else MissingMasksError
        raise kind(missing_masks(folder, kept, bare) + _why_unreadable(bare))
    if bare and require_labels:
        others = (*others, f"{len(bare)} of {len(kept)} images have no mask and are left out")
        kept = [found for found in kept if found.labels]
    found = sorted(named_apart(kept), key=lambda case: natural(case.name))
    headers, damaged = _headers(found)
    header = next(iter(headers.values()))
    several = len(found[0].images) > 1
    channels, channel_notices = (header.channels, ()) if several else _channels(headers)
    if (axis := _axis_of_channels(header, found)) is not None:
        channels, header = header.shape[axis], _of_channels(header, header.shape[axis])
        what = "elements of the last axis" if axis else "volumes" if len(header.shape) == 3 else "pages"
        channel_notices = (
            f"the {channels} {what} of an image are read as channels, since the labels are "
            f"{'volumes' if len(header.shape) == 3 else 'planes'}",
        )
    chosen = LabelRule.of_names(labels) if isinstance(labels, Mapping) else labels
    labelled = [case for case in found if case.labels]
    drawn = next((case for case in labelled if not case.polygons), None)
    if drawn is not None and _is_picture(drawn.image) and _is_picture(drawn.labels[0]):
        require_no_drawing(drawn.image, drawn.labels[0])
    doubts: tuple[str, ...] = ()
    rule = chosen or recognised.labels
    if rule is None:
        files = [path for case in labelled for path in case.labels]
        dims = 2 if any(case.is_sliced for case in found) else len(header.shape)
        rule, doubts = guessed_rule(files, dims, recognised.foreground)
        rule = rule.with_names(told_names(files))
        rule, told = named_by_tables(rule, folder, files)
        doubts = (*doubts, *told)
    elif not rule.is_sparse and len(header.shape) == 3:
        doubts = _said_of_slices(labelled, channels, rule)
    label_notices = () if rule.kind == "on" else (f"labels: {rule.in_words()}",)
    # In a table a person says which label is that of an image.
    placed_notices = () if recognised.layout == "CSV" else _said_of_place(header, found)
    return DataSet(
        layout=recognised.layout,
        folder=folder,
        cases=tuple(_case(case, channels, rule) for case in found),
        class_names=rule.class_names,
        channels=channels,
        dims=len(header.shape),
        summary=_summary(recognised.layout, found, rule, channels),
        notices=(
            *recognised.notices,
            *others,
            *clips,
            *damaged,
            *channel_notices,
            *doubts,
            *placed_notices,
            *label_notices,
        ),
        labels=rule,
    )


def case_from_files(
    image: str | Path | Sequence[str | Path],
    label: str | Path | Sequence[str | Path] | None = None,
    channels: int | None = None,
    labels: LabelRule | None = None,
    class_names: Sequence[str] = (),
) -> Case:
    """Case of one image file, or of the files of its channels, and its label file or files.

    Parameters
    ----------
    channels : int, optional
        Read the image with that many channels (see :func:`as_channels`); None keeps what the file holds.
    labels : LabelRule, optional
        Which stored value is which class; None looks at the label when it is read.
    class_names : names, background first
        Of a model: structures of DICOM objects are its classes by name, others are left out.

    Raises
    ------
    DataError
        When a file does not exist.
    """
    images = tuple(map(Path, (image,) if isinstance(image, (str, Path)) else image))
    files = () if label is None else (label,) if isinstance(label, (str, Path)) else tuple(label)
    found = Found(stem(images[0]), images, tuple(Path(file) for file in files))
    for file in (*images, *found.labels):
        if not file.exists():
            raise DataError(f"'{file}' does not exist; check the path")
    if any(map(dicom_labels.kind_of, found.labels)):
        found, named = labelled_by(found, class_names)
        labels = labels or named
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


def _case(candidate: Found, channels: int | None, rule: LabelRule | None) -> Case:
    read = partial(_read_label, candidate, rule, channels) if candidate.labels else None
    read_filled = partial(_read_filled, candidate, channels)
    files = (*candidate.images, *candidate.labels)
    told = partial(_objects_in_words, candidate, rule) if candidate.objects and rule is not None else None
    series = candidate.series
    return Case(
        candidate.name,
        read_filled,
        read,
        files,
        candidate.group,
        candidate.split,
        candidate.patient,
        series,
        told,
    )


def _read_filled(candidate: Found, channels: int | None) -> Image:
    return filled(_read_image(candidate, channels))


def _read_image(candidate: Found, channels: int | None) -> Image:
    images = (
        [read_image(path) for path in candidate.images]
        if candidate.series is None
        else [read_series(candidate.series)]
    )
    if len(images) > 1:
        first = images[0]
        header = Header(1, first.array.shape[1:], first.geometry)
        for path, image in zip(candidate.images[1:], images[1:], strict=True):
            _require_same_grid(candidate.image, header, path, image.array.shape[1:], image.geometry)
        return Image(np.concatenate([image.array for image in images]), first.geometry, first.notices)
    if channels is None:
        return images[0]
    try:
        return as_channels(images[0], channels)
    except DataError as error:
        raise DataError(f"'{candidate.image}': {error}") from error


def _read_label(candidate: Found, rule: LabelRule | None, channels: int | None) -> np.ndarray:
    """Class indices of a case, its label files united; where they overlap the higher class wins."""
    if candidate.series is not None:
        assert rule is not None
        return _read_objects(candidate, candidate.series, rule)
    header = _of_channels(read_header(candidate.image), channels)
    label: np.ndarray | None = None
    if candidate.is_sliced:
        stored, geometry = slice_masks.read_label(candidate)
        return (rule or _guessed(stored, candidate.labels[0])).apply(
            stored, candidate.labels[0], slice_axis(geometry)
        )
    for number, path in enumerate(candidate.labels):
        stored = _stored_label(candidate, header, path)
        if candidate.classes:
            marked = _guessed(stored, path).apply(stored, path) > 0
            label = np.zeros(stored.shape, np.uint8) if label is None else label
            label[marked] = candidate.classes[number]
            continue
        across = slice_axis(header.geometry)
        indices = (rule or _guessed(stored, path)).apply(stored, path, across)
        label = indices if label is None else united(label, indices)
    assert label is not None
    if rule is None or not candidate.classes:
        return label
    return rule.apply(label, candidate.labels[0], slice_axis(header.geometry))


def _objects_in_words(candidate: Found, rule: LabelRule) -> tuple[str, ...]:
    assert candidate.series is not None
    return _stored_objects(candidate, candidate.series, rule)[1]


def _read_objects(candidate: Found, series: Series, rule: LabelRule) -> np.ndarray:
    label, _ = _stored_objects(candidate, series, rule)
    return rule.apply(label, candidate.labels[0], slice_axis(series.geometry))


def _stored_objects(candidate: Found, series: Series, rule: LabelRule) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers of the structures of DICOM objects, less those that the rule does not name, and notices."""
    names = dict(enumerate(candidate.structures, 1))
    values = {name: value for value, name in names.items()}
    if rule.kind == "values":
        of_class = dict(zip(rule.class_names[1:], rule.values[1:], strict=True))
        stored = rule.stored.items()
        values = {
            names[value]: of_class[name] for value, name in stored if value in names and name in of_class
        }
    return dicom_labels.read_label(candidate.objects, series, values, rule.overlap)


def _why_unreadable(unlabelled: Sequence[Found]) -> str:
    """What to say of an image without a mask that cannot be read, so that nothing could be paired with it."""
    for case in unlabelled[:_LOOKED_AT]:
        try:
            read_header(case.image)
        except DataError as error:
            return f"; note that an image cannot be read: {error}"
    return ""


def _require_labels_of_slices(candidates: Sequence[Found]) -> None:
    """Refuse volumes as labels of single slices, whichever slice of them that may be."""
    case = next((case for case in candidates if case.labels and case.has_label_volumes), None)
    if case is None or case.series is not None or not _is_picture(case.image):
        return
    try:
        label = read_header(case.labels[0])
    except DataError:  # said when its case is read
        return
    if label.geometry.source is not None and len(label.shape) == 3 and min(label.shape) > 1:
        slices = label.shape[slice_axis(label.geometry)]
        raise DataError(
            f"the images, such as '{case.image}', are pictures of single slices, but the labels, such as "
            f"'{case.labels[0]}', are volumes of {slices} slices; give the volumes that they were drawn on "
            "as images, or save the labels slice by slice under the names of the images"
        )


def _axis_of_channels(header: Header, candidates: Sequence[Found]) -> Literal[0, -1] | None:
    """The axis that the first image has more than its label: before volumes or planes, or behind a plane."""
    labelled = [case for case in candidates if case.labels and case.has_label_volumes]
    if not labelled or not may_hold_channels(header.channels, header.geometry, header.shape[0]):
        return None
    label = read_header(labelled[0].labels[0]).shape
    if header.shape[0] > 1 and label == header.shape[1:]:
        return 0
    is_last = len(header.shape) == 3 and header.shape[-1] > 1 and label == header.shape[:-1]
    return -1 if is_last else None


def _said_of_place(header: Header, candidates: Sequence[Found]) -> tuple[str, ...]:
    """What to say of labels that fit volumes by their shape alone."""
    first = next((case.labels[0] for case in candidates if case.labels and case.has_label_volumes), None)
    if first is None or header.geometry.source is None:
        return ()
    try:
        label = read_header(first)
    except DataError:  # said when its case is read
        return ()
    if label.geometry.source is not None or label.shape != header.shape:
        return ()
    return (
        f"labels such as '{first.name}' do not say where they lie; their axes are taken to run to the head, "
        "to the back and to the left of the patient"
        + "; labels in the order of the image's file would be mirrored: save these in its format"
        * header.geometry.source.is_turned,
    )


def _said_of_slices(labelled: Sequence[Found], channels: int, rule: LabelRule) -> tuple[str, ...]:
    """What is doubtful about where volumes are labelled whose values are told, by a few of them."""
    found = []
    for case in evenly(labelled, _LABELS_LOOKED_AT):
        try:
            header = read_header(case.image) if case.series is None else dicom.header_of(case.series)
            drawn = is_foreground(_read_label(case, rule, channels))
        except DataError:  # said when its case is read
            continue
        if drawn.any() and drawn.ndim == 3:
            found.append(in_part(drawn, header.geometry))
    return slices_in_words(found)


def _of_channels(header: Header, channels: int | None) -> Header:
    """The header with the first or last axis read as channels, as :func:`as_channels` reads the image."""
    pages = header.shape[0]
    if channels in (1, None) or not may_hold_channels(header.channels, header.geometry, pages):
        return header
    if header.shape[0] == channels:
        return Header(header.shape[0], header.shape[1:], of_pages(header.geometry))
    if len(header.shape) == 3 and header.shape[-1] == channels:
        return Header(header.shape[-1], header.shape[:-1], Geometry.pixels(2))
    return header


def _stored_label(candidate: Found, header: Header, path: Path) -> np.ndarray:
    """Values of a label file on the image's grid; polygons are drawn on it."""
    if candidate.polygons:
        return polygons.read_label(path, candidate.image, header.shape, candidate.polygons)
    stored, geometry = read_label(path, len(header.shape))
    if {stored.ndim, len(header.shape)} == {2, 3} and 1 in (*stored.shape, *header.shape):
        stored, geometry = _of_one_slice(candidate.image, header, path, stored, geometry)
    stored, geometry = placed(stored, geometry, header.shape, header.geometry)
    _require_same_grid(candidate.image, header, path, stored.shape, geometry)
    return stored


def _of_one_slice(
    image: Path, header: Header, path: Path, stored: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, Geometry]:
    """A plane as the volume of one slice that its image is, or the reverse, where neither is turned."""
    volume = geometry if stored.ndim == 3 else header.geometry
    shape = np.squeeze(stored).shape
    if volume.source is None or shape != tuple(size for size in header.shape if size > 1):
        return stored, geometry
    if volume.source.is_turned:
        one, other = (path, image) if stored.ndim == 3 else (image, path)
        raise DataError(
            f"'{one}' is one slice that its header turns against its rows and columns, and '{other}' is a "
            "picture, which does not say where it lies; save both in one format"
        )
    return stored.reshape(header.shape), header.geometry


def _guessed(stored: np.ndarray, path: Path) -> LabelRule:
    return (
        LabelRule.of_values(present_values(stored), True) if is_lossy(path) else rule_of_arrays([stored])[0]
    )


def _require_same_grid(
    image: Path, header: Header, other: Path, shape: tuple[int, ...], geometry: Geometry
) -> None:
    if shape != header.shape and len(shape) == 2 and shape == header.shape[::-1]:
        raise DataError(
            f"labels '{other}' have shape {shape} but image '{image}' has {header.shape}: one is turned, as "
            "by the orientation that a camera notes in a picture; turn it back, or export it again"
        )
    if shape != header.shape:
        raise DataError(
            f"labels '{other}' have shape {shape} but image '{image}' has {header.shape}; "
            f"{_remedy_of_shapes(header, shape, geometry)}"
        )
    if header.geometry.source is None and geometry.source is not None and geometry.source.is_turned:
        raise DataError(
            f"the header of labels '{other}' turns them against the order in which they are stored, but "
            f"image '{image}' does not say where it lies, so they may be mirrored; save both in one format"
        )
    if header.geometry.source is None or geometry.source is None:
        if ome_zarr.is_ome_zarr(image) and ome_zarr.is_ome_zarr(other):
            _require_same_origin(image, header.geometry, other, geometry)
        return
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(len(shape), -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    ours, theirs = header.geometry.in_mm(shape), geometry.in_mm(shape)
    distance = float(np.linalg.norm(((ours - theirs) @ corners)[:3], axis=0).max())
    if distance > _SAME_PLACE * np.linalg.norm(ours[:3, :3], axis=0).min():
        raise DataError(
            f"labels '{other}' lie {distance:.3g} mm away from image '{image}': their "
            "affines differ; export the labels from the same image, or copy its header if you know they fit"
        )


def _remedy_of_shapes(header: Header, shape: tuple[int, ...], geometry: Geometry) -> str:
    if shape[1:] == header.shape:
        return (
            f"the {shape[0]} pages overlap or hold several values, so they are no masks of classes: save one "
            "page of class numbers"
        )
    if sorted(shape) == sorted(header.shape):
        return "their axes are in another order: save the labels in that of the image"
    both_lie_somewhere = header.geometry.source is not None and geometry.source is not None
    return "crop or re-export one of them" + ", or resample the labels to the image" * both_lie_somewhere


def _require_same_origin(image: Path, ours: Geometry, other: Path, theirs: Geometry) -> None:
    """Of two files that tell where they begin, in the same unit; labels within an image are its own."""
    if image in other.parents or ours.unit != theirs.unit:
        return
    apart = np.abs(np.subtract(ours.origin, theirs.origin))
    if np.any(apart > np.array(ours.spacing) / 2):
        raise DataError(
            f"labels '{other}' begin {apart.max():.3g} {ours.unit} away from image '{image}' of the same "
            "shape, by their translation; cut both to the same part, or write the translation of the image"
        )


def _headers(candidates: Sequence[Found]) -> tuple[dict[Path, Header], tuple[str, ...]]:
    """Headers by image file, and a notice of those that cannot be read: of all pictures, of one volume.

    Raises
    ------
    DataError
        When no image can be read; the first is named.
    """
    headers: dict[Path, Header] = {}
    errors: list[DataError] = []
    for case in candidates:
        try:
            header = read_header(case.image) if case.series is None else dicom.header_of(case.series)
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
    sampled = evenly(in_colour, SAMPLED_PICTURES)
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


def told_names(files: Sequence[Path]) -> list[tuple[Path, dict[int, str]]]:
    """What label files call their values: all of 3D Slicer's, which a person numbered, else some."""
    by_hand = [path for path in files if path.name.lower().endswith(nrrd.SUFFIXES)]
    others = evenly(sorted(set(files) - set(by_hand)), SAMPLED_PICTURES)
    return [(path, label_names(path)) for path in (*by_hand, *others)]


def _summary(layout: str, candidates: Sequence[Found], rule: LabelRule, channels: int) -> str:
    parts = [f"{_TITLES.get(layout, layout)}: {len(candidates)} case{'s' if len(candidates) != 1 else ''}"]
    groups = Counter(case.group for case in candidates)
    if layout == "GlaS":
        parts += [f"{number} {group}" for group, number in sorted(groups.items())]
    elif len(groups) > 1:
        parts[0] += f" in {len(groups)} " + ("groups" if layout == "CSV" else "folders")
    normal = sum(number for group, number in groups.items() if group.split("/")[-1] == "normal")
    if layout == "BUSI" and normal:
        parts.append(f"{normal} without a lesion")
    if layout in ("nnU-Net", "names") and len(candidates[0].images) > 1:
        parts.append(f"{channels} channels")
    bare = sum(not case.labels for case in candidates)
    if bare and layout != "images":
        parts.append(f"{bare} without a mask")
    several = sum(len(case.labels) > 1 and not case.is_sliced for case in candidates)
    if several:
        parts.append(f"{several} with several masks")
    if len(rule.class_names) > 2:
        parts.append(f"classes {', '.join(rule.class_names[1:])}")
    return ", ".join(parts)


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(pictures.SUFFIXES)
