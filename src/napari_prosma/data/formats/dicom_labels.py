"""DICOM SEG and RTSTRUCT as labels of the series that they refer to, on its own slices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.data.class_names import plain
from napari_prosma.data.formats import contours, dicom_frames
from napari_prosma.data.formats.dicom_results import Source
from napari_prosma.data.limits import require_count
from napari_prosma.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

    from napari_prosma.data.formats.dicom import Series


class OverlapError(DataError):
    """Structures overlap, and nothing says which one counts."""


KINDS = {"SEG": "DICOM SEG", "RTSTRUCT": "RTSTRUCT"}
_STORED_AS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",  # as a label map
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
_ON_PLANE = 0.05
"""Of the distance of neighbouring elements: so far may a frame lie from where the series has one."""
_HALF = 0.5
_SAME_DIRECTION, _SAME_SPACING = 1e-3, 1e-3
_OTHER_GRID = "lies on another grid than the series and is resampled to it by its nearest element"


@dataclass(frozen=True)
class Structure:
    """A segment or a region of interest: what it is called, and its number in the object."""

    number: int
    name: str
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class LabelObject:
    """What a DICOM SEG or RTSTRUCT says of itself before its masks are read."""

    path: Path
    kind: str  # "SEG" or "RTSTRUCT"
    series: frozenset[str]
    instances: frozenset[str]
    frame_of_reference: str  # UID, "" where none is told
    structures: tuple[Structure, ...]  # what it holds, in its order

    def is_of(self, series: Series) -> bool:
        """Whether it refers to a series, or to images of it."""
        if series.uid and series.uid in self.series:
            return True
        return self.names_images_of(series)

    def names_images_of(self, series: Series) -> bool:
        """Whether it refers to single images of a series."""
        return any(frame.instance in self.instances for frame in series.frames if frame and frame.instance)


def kind_of(path: Path) -> str:
    """ "SEG", "RTSTRUCT", or "" for any other file."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info

    if not path.is_file() or not dicom_frames.is_dicom(path):
        return ""
    try:  # the first bytes are enough, of thousands of slices
        storage = str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except (InvalidDicomError, OSError, EOFError, ValueError):
        storage = ""
    if storage:
        return _STORED_AS.get(storage, "")
    header = dicom_frames.read_header(path)
    modality = "" if header is None else str(header.get("Modality", ""))
    return modality if modality in KINDS else ""


def describe(path: Path) -> LabelObject:
    """The header of an object.

    Raises ``DataError``: it is damaged or holds no structure.
    """
    data = _read(path)
    kind = str(data.get("Modality", ""))
    if kind not in KINDS:
        raise DataError(f"'{path}' is neither a DICOM SEG nor an RTSTRUCT; give the object with the labels")
    series, instances = _references(data)
    if kind == "SEG":
        structures = tuple(
            Structure(
                int(item.SegmentNumber),
                _named(item.get("SegmentLabel"), "segment", item.SegmentNumber),
                _rgb(item),
            )
            for item in data.get("SegmentSequence") or ()
        )
    else:
        structures = tuple(
            Structure(int(item.ROINumber), _named(item.get("ROIName"), "ROI", item.ROINumber), colour)
            for item, colour in contours.regions(data)
        )
    if not structures:
        raise DataError(f"'{path}' is {_a(kind)} without any structure; export it again")
    frame = str(data.get("FrameOfReferenceUID") or contours.frame_of_reference(data))
    return LabelObject(path, kind, frozenset(series), frozenset(instances), frame, structures)


def read_label(
    objects: Sequence[LabelObject],
    series: Series,
    values: Mapping[str, int],
    overlap: str = "",
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The structures of objects as one label of a series, and what is to be said of it.

    Parameters
    ----------
    values : name as :func:`plain` has it -> value of the label, from 1 on
        In the order in which the structures are drawn; names of one value are one, others are left out.
    overlap : "last", "first" or ""
        Which one counts where two structures overlap; "" refuses it.

    Returns
    -------
    (*spatial) uint16, notices

    Raises
    ------
    DataError
        Structures overlap, or an object does not lie on the series.
    """
    label = np.zeros(series.stored_shape, np.uint16)
    notices: list[str] = []
    names = {values.get(plain(s.name), 0): s.name for one in objects for s in one.structures}
    order = list(dict.fromkeys(values.values()))
    rank = np.zeros(max(order, default=0) + 1, np.int64)
    rank[order] = np.arange(1, len(order) + 1) if overlap != "first" else np.arange(len(order), 0, -1)
    for one in objects:
        titles = {s.number: s.name for s in one.structures if plain(s.name) in values}
        for structure, place, mask in _masks(one, series, titles, notices):
            value = values[plain(titles[structure])]
            there = label[place]
            taken = mask & (there != 0) & (there != value)
            if taken.any() and not overlap:
                raise OverlapError(_overlap_in_words(one.path, names, int(there[taken][0]), value))
            there[mask & (rank[value] > rank[there])] = value
    return series.array_of(label), tuple(dict.fromkeys(notices))


def _overlap_in_words(path: Path, names: Mapping[int, str], one: int, other: int) -> str:
    return (
        f"'{names[one]}' and '{names[other]}' overlap in '{path}', and a voxel has one class; say which one "
        f"counts there, with the classes 0=background,{one}={names[one]},{other}={names[other]},overlap=last "
        "(the later one, or overlap=first), or leave one out"
    )


def _masks(
    one: LabelObject, series: Series, titles: Mapping[int, str], notices: list[str]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Number of the structure, index of the plane, and mask (rows, columns), in the order of the object."""
    if one.kind == "RTSTRUCT":
        yield from contours.masks(one.path, _read(one.path), Source(series), titles, notices)
        return
    data = _read(one.path)
    unknown = {number for number in _numbers_used(data) if number not in {s.number for s in one.structures}}
    if unknown:
        notices.append(f"'{one.path.name}' has frames of {len(unknown)} segments that it does not describe")
    frames = _frames(data)
    grid = _Grid(series, data)
    elsewhere: dict[int, list[tuple[_SegFrame, np.ndarray]]] = defaultdict(list)
    for frame, pixels in zip(frames, _pixels(one.path, data, len(frames)), strict=True):
        numbers = [frame.segment]
        if frame.segment == 0:  # a label map has all of them in one frame
            numbers = [int(number) for number in np.unique(pixels) if number]
        for number in numbers:
            if number not in titles:
                continue
            mask = pixels == number if frame.segment == 0 else pixels > grid.half
            place = grid.plane_of(frame, mask.shape)
            if place is not None:
                yield number, place, mask
            elif mask.any():
                elsewhere[number].append((frame, mask))
    if elsewhere:
        notices.append(f"'{one.path.name}' {_OTHER_GRID}")
    for number, parts in elsewhere.items():
        volume = grid.resampled(one.path, parts)
        for slice_number in np.flatnonzero(volume.any(axis=(1, 2))).tolist():
            yield number, slice_number, volume[slice_number]


@dataclass(frozen=True)
class _SegFrame:
    """A frame of a SEG; ``segment`` is 0 in a label map, whose pixels are numbers of segments."""

    segment: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    distance: float
    """Of neighbouring frames as the object tells it; 0 where it does not."""
    images: tuple[tuple[str, int], ...]
    """Instances, and their frames from 1, that it was derived from."""


class _Grid:
    """The slices of a series, as a SEG finds its place among them."""

    def __init__(self, series: Series, data: Dataset) -> None:
        self.source = source = Source(series)
        self.shape = series.stored_shape[1:]
        self.half = 0.0
        if data.get("SegmentationType") == "FRACTIONAL":
            self.half = _HALF * float(data.get("MaximumFractionalValue") or 255)
        self.rows, self.columns, self.normal = source.directions
        self.origins = source.origins
        self.along = self.origins @ self.normal
        self.of_image = {
            (plane.instance, plane.frame_number or 1): n
            for n, plane in enumerate(source.planes)
            if plane.instance
        }

    def plane_of(self, frame: _SegFrame, shape: tuple[int, ...]) -> int | None:
        """Which slice has the grid of a frame, element for element; None where none has."""
        referred = next((self.of_image[image] for image in frame.images if image in self.of_image), None)
        position, orientation = frame.position, frame.orientation
        if position is None or orientation is None or not self.source.lies_in_patient:
            return referred if shape == self.shape else None
        same_directions = np.abs(np.subtract(orientation, self.source.orientation)).max() <= _SAME_DIRECTION
        spacing = np.array(self.source.spacing)
        same_spacing = frame.spacing is None or np.all(
            np.abs(np.subtract(frame.spacing, spacing)) <= _SAME_SPACING * spacing
        )
        if shape != self.shape or not same_directions or not same_spacing:
            return None
        here = np.array(position)
        nearest = int(np.abs(self.along - here @ self.normal).argmin())
        apart = here - self.origins[nearest]
        within = np.abs([apart @ self.columns, apart @ self.rows]) <= _ON_PLANE * spacing
        across = abs(apart @ self.normal) <= _ON_PLANE * self.source.slice_distance
        return nearest if within.all() and across else None

    def resampled(self, path: Path, parts: Sequence[tuple[_SegFrame, np.ndarray]]) -> np.ndarray:
        """Masks on another grid, by their nearest element on the slices (n, rows, columns).

        Raises ``DataError``: they do not say where they lie, or the series does not, or they lie side by side
        with it.
        """
        from scipy import ndimage

        first = parts[0][0]
        if not self.source.lies_in_patient or first.position is None or first.orientation is None:
            raise DataError(
                f"'{path}' has frames of another size than the series, or of images that are missing, and "
                "does not say where they lie; export it again over its series"
            )
        if first.spacing is None:
            raise DataError(
                f"'{path}' lies on another grid than the series but has no PixelMeasures, so that the size "
                "of its elements is not known; export it again"
            )
        rows, columns = np.split(np.array(first.orientation), 2)
        normal = np.cross(rows, columns)
        origins = np.array([frame.position for frame, _ in parts])
        along = origins @ normal
        order = np.argsort(along)
        gaps = np.diff(along[order])
        real = gaps[gaps > 1e-3]
        step = first.distance or (float(real.min()) if len(real) else self.source.slice_distance)
        if len(real):
            step = min(step, float(real.min()))
        places = np.round((along - along.min()) / step).astype(int)
        require_count(path, "slices", int(places.max()) + 1, 100 * len(parts) + 1000)
        lowest = origins[order[0]]
        volume = np.zeros((places.max() + 1, *parts[0][1].shape), bool)
        for place, (_, mask) in zip(places, parts, strict=True):
            volume[place] |= mask
        to_seg = np.eye(4)
        across = (origins[order[-1]] - lowest) / max(1, places.max()) if places.max() else normal * step
        to_seg[:3, :3] = np.column_stack([across, columns * first.spacing[0], rows * first.spacing[1]])
        to_seg[:3, 3] = lowest
        inverse = np.linalg.inv(to_seg)
        found = np.zeros((len(self.origins), *self.shape), bool)
        down, right = (np.arange(n) for n in self.shape)
        for number, origin in enumerate(self.origins):
            world = (
                origin[:, None, None]
                + self.columns[:, None, None] * (down * self.source.spacing[0])[None, :, None]
                + self.rows[:, None, None] * (right * self.source.spacing[1])[None, None, :]
            )
            index = np.einsum("ij,jkl->ikl", inverse[:3, :3], world) + inverse[:3, 3, None, None]
            found[number] = ndimage.map_coordinates(
                volume.view(np.uint8), index, order=0, mode="grid-constant"
            )
        return found


def _read(path: Path) -> Dataset:
    """All of an object but its pixels, which pydicom leaves in the file until they are asked for."""
    from pydicom import config, dcmread

    try:
        # Warnings of pydicom repeat the values, and with them the patient's name.
        with config.disable_value_validation():
            return dcmread(path, force=True, defer_size=1 << 16)
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        raise DataError(f"'{path}' is cut short or no DICOM; export it again") from error


def _references(data: Dataset) -> tuple[set[str], set[str]]:
    """UIDs of the series and of the images that are referred to, wherever in the object."""
    series, instances = set(contours.series_of(data)), set(contours.instances_of(data))
    for item in data.get("ReferencedSeriesSequence") or ():
        series.add(str(item.get("SeriesInstanceUID", "")))
        for image in item.get("ReferencedInstanceSequence") or ():
            instances.add(str(image.get("ReferencedSOPInstanceUID", "")))
    for image in data.get("SourceImageSequence") or ():
        instances.add(str(image.get("ReferencedSOPInstanceUID", "")))
    for frame in data.get("PerFrameFunctionalGroupsSequence") or ():
        instances |= {instance for instance, _ in _derived_from(frame)}
    return series - {""}, instances - {""}


def _derived_from(frame: Dataset) -> Iterator[tuple[str, int]]:
    for derivation in frame.get("DerivationImageSequence") or ():
        for image in derivation.get("SourceImageSequence") or ():
            numbers = image.get("ReferencedFrameNumber") or 1
            several = numbers if isinstance(numbers, Iterable) and not isinstance(numbers, str) else [numbers]
            for number in several:
                yield str(image.get("ReferencedSOPInstanceUID", "")), int(number)


def _frames(data: Dataset) -> list[_SegFrame]:
    shared = (data.get("SharedFunctionalGroupsSequence") or [None])[0]
    is_map = data.get("SegmentationType") == "LABELMAP"
    found = []
    for frame in data.get("PerFrameFunctionalGroupsSequence") or ():
        groups = [group for group in (frame, shared) if group is not None]

        def said(sequence: str, groups: Sequence[Dataset] = groups) -> Any:
            return next((group[sequence].value[0] for group in groups if group.get(sequence)), {})

        measures = said("PixelMeasuresSequence")
        distance = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0
        found.append(
            _SegFrame(
                0
                if is_map
                else int(said("SegmentIdentificationSequence").get("ReferencedSegmentNumber") or -1),
                _numbers(said("PlanePositionSequence").get("ImagePositionPatient")),
                _numbers(said("PlaneOrientationSequence").get("ImageOrientationPatient")),
                _numbers(measures.get("PixelSpacing")),
                abs(float(distance)),
                tuple(_derived_from(frame)),
            )
        )
    return found


def _numbers_used(data: Dataset) -> set[int]:
    return {frame.segment for frame in _frames(data)} - {0}


def _pixels(path: Path, data: Dataset, count: int) -> Iterator[np.ndarray]:
    """Frame by frame: all segments of a body would not fit into memory."""
    from pydicom.pixels import iter_pixels

    from napari_prosma.data.formats import dicom_codecs

    dicom_codecs.register()
    try:
        held = 0
        for frame in iter_pixels(data):
            held += 1
            if held <= count:
                yield frame
    except DataError:
        raise
    except Exception as error:  # as pydicom and the decoders say it
        syntax = data.file_meta.get("TransferSyntaxUID")
        raise DataError(
            f"the frames of '{path}' cannot be read ({getattr(syntax, 'name', 'no transfer syntax')}); "
            "export it uncompressed"
        ) from error
    if held != count:
        raise DataError(f"'{path}' describes {count} frames but holds {held}; export it again")


def _numbers(value: Any) -> tuple[float, ...] | None:
    return tuple(float(number) for number in value) if value else None


def _named(name: Any, what: str, number: Any) -> str:
    return str(name).strip() if name and str(name).strip() else f"{what} {number}"


def _rgb(item: Dataset) -> tuple[int, int, int] | None:
    """The recommended colour of a segment, from CIELab as DICOM stores it."""
    from skimage.color import lab2rgb

    stored = item.get("RecommendedDisplayCIELabValue")
    if not stored or len(stored) != 3:
        return None
    light, a, b = (float(value) for value in stored)
    lab = np.array([light / 65535 * 100, a / 257 - 128, b / 257 - 128])
    red, green, blue = (int(value) for value in np.round(lab2rgb(lab) * 255))
    return red, green, blue


def _a(kind: str) -> str:
    return "an RTSTRUCT" if kind == "RTSTRUCT" else "a DICOM SEG"
