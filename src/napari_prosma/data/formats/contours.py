"""Contours of an RTSTRUCT <-> masks on the slices of its series.

A pixel belongs to a contour if its centre lies inside. What lies inside another contour of its slice is a
hole in it, unless a keyhole says so already. Contours between slices stand for a slab, as in planning
systems: slices within it take the shape between two contours, or that of the nearest one at the ends.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_prosma import __version__
from napari_prosma.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

    from napari_prosma.data.formats.dicom_results import Source
    from napari_prosma.data.formats.dicom_seg import Segment

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_BETWEEN = 0.25
"""Of the slice distance: a contour farther from its slice lies between slices, or across them."""
_SAME_LEVEL = 0.01
"""Of the slice distance: contours that lie closer are of one plane."""
_BRIDGED = 1.5
"""Of the usual distance of contours: a larger gap was left between two parts of a structure."""
_THICKEST = 10.0
"""mm: contours farther apart were not drawn on neighbouring slices of any scan."""
_INSIDE = 0.5
"""Between a mask's 0 and 1: contours run half-way between the centres of two pixels."""
_FARTHEST = 1e6
"""Coordinates in mm beyond this are damaged; NaN is, too."""
_CONTOUR_DATA = 0x30060050
_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"


def regions(data: Dataset) -> Iterator[tuple[Dataset, tuple[int, int, int] | None]]:
    """The regions of interest of an RTSTRUCT, with their colours."""
    colours = {}
    for item in data.get("ROIContourSequence") or ():
        number, colour = item.get("ReferencedROINumber"), item.get("ROIDisplayColor")
        if number is not None and colour and len(colour) == 3:
            colours[int(number)] = (int(colour[0]), int(colour[1]), int(colour[2]))
    for item in data.get("StructureSetROISequence") or ():
        yield item, colours.get(int(item.ROINumber))


def frame_of_reference(data: Dataset) -> str:
    """UID of the frame of reference, "" where none is told."""
    for item in data.get("ReferencedFrameOfReferenceSequence") or ():
        return str(item.get("FrameOfReferenceUID", ""))
    return ""


def series_of(data: Dataset) -> Iterator[str]:
    """UIDs of the series that an RTSTRUCT refers to."""
    for item in _referenced_series(data):
        yield str(item.get("SeriesInstanceUID", ""))


def instances_of(data: Dataset) -> Iterator[str]:
    """UIDs of the images that an RTSTRUCT refers to, as a whole and by its contours."""
    holders = [*_referenced_series(data)]
    for region in data.get("ROIContourSequence") or ():
        holders += region.get("ContourSequence") or ()
    for holder in holders:
        for image in holder.get("ContourImageSequence") or ():
            yield str(image.get("ReferencedSOPInstanceUID", ""))


def _referenced_series(data: Dataset) -> Iterator[Dataset]:
    for frame in data.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            yield from study.get("RTReferencedSeriesSequence") or ()


def masks(
    path: Path, data: Dataset, source: Source, titles: Mapping[int, str], notices: list[str]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Number of the region, index of the slice, and mask (rows, columns).

    Slices beside contours that lie between slices get the shape there; what is no closed contour along the
    slices is left out. Both are told in a notice.

    Raises ``DataError``: the series does not say where it lies, or no contour of the object lies on it.
    """
    if not source.lies_in_patient:
        raise DataError(
            f"'{path}' tells places in the patient, but its series does not say where it lies; use DICOM SEG"
        )
    shape = source.series.stored_shape[1:]
    used = 0
    kinds: Counter[str] = Counter()
    without = set(titles)
    for region in data.get("ROIContourSequence") or ():
        if region.get("ReferencedROINumber") is None:
            notices.append(f"contours in '{path.name}' that do not say whose they are are left out")
            continue
        number = int(region.ReferencedROINumber)
        if number not in titles:
            continue
        levels, left, off = _levels(region, source)
        name = titles[number]
        if levels or left:
            without.discard(number)
        for what, count in left.items():
            notices.append(f"{count} {what} of '{name}' in '{path.name}' are left out")
        if off:
            notices.append(
                f"{off} contours of '{name}' in '{path.name}' lie between slices; the slices between two of "
                "them are interpolated, those at the ends take the nearest one"
            )
        kinds.update(left)
        for place, mask in _on_slices(levels, source, shape):
            used += 1
            yield number, place, mask
    for number in sorted(without):
        notices.append(f"'{titles[number]}' in '{path.name}' has no contours")
    if not used and kinds:
        said = ", ".join(f"{count} {what}" for what, count in kinds.items())
        raise DataError(
            f"'{path}' has no closed contour on a slice of its series ({said}); export closed contours on "
            "the slices, or a DICOM SEG"
        )


def _numbers(contour: Dataset) -> np.ndarray:
    """Coordinates of a contour, none where they are damaged; pydicom's own numbers take ten times as long."""
    item = contour.get_item(_CONTOUR_DATA) if _CONTOUR_DATA in contour else None
    value = None if item is None else item.value
    try:
        parts = value.decode("ascii").split("\\") if isinstance(value, bytes) else value or ()
        return np.array([float(part) for part in parts])
    except ValueError:
        return np.empty(0)


@dataclass
class _Level:
    """The contours of a region in one plane; ``place`` is the slice that it lies on, if on any."""

    height: float
    place: int | None
    contours: list[np.ndarray] = field(default_factory=list)

    def mask(self, place: int, source: Source, shape: tuple[int, ...]) -> np.ndarray:
        """What the contours enclose, straight across to the elements of a slice."""
        return _filled([_on_plane(points, place, source) for points in self.contours], shape)


def _on_plane(points: np.ndarray, place: int, source: Source) -> np.ndarray:
    """Row and column, in elements, of points in mm straight across to a slice."""
    rows, columns, _ = source.directions
    apart = points - source.origins[place]
    return np.column_stack([apart @ columns / source.spacing[0], apart @ rows / source.spacing[1]])


def _meets(points: np.ndarray, place: int, source: Source) -> bool:
    """Whether what points enclose could lie on the elements of a slice."""
    flat, shape = _on_plane(points, place, source), np.array(source.series.stored_shape[1:])
    return bool(np.all(flat.max(axis=0) > -_INSIDE) and np.all(flat.min(axis=0) < shape - _INSIDE))


def _levels(region: Dataset, source: Source) -> tuple[list[_Level], Counter[str], int]:
    """Closed contours by the planes that they lie in, upwards; what is left out; how many lie off slices."""
    normal = source.directions[2]
    slices = source.origins @ normal
    on_slice: dict[int, _Level] = {}
    others: list[tuple[float, np.ndarray]] = []
    left: Counter[str] = Counter()
    for contour in region.get("ContourSequence") or ():
        kind = str(contour.get("ContourGeometricType", "")) or "untyped"
        numbers = _numbers(contour)
        is_whole = len(numbers) >= 9 and not len(numbers) % 3 and np.abs(numbers).max() < _FARTHEST
        if kind not in _CLOSED or not is_whole:
            left["points" if kind == "POINT" else "open or damaged contours"] += 1
            continue
        points = numbers.reshape(-1, 3)
        heights = points @ normal
        nearest = int(np.abs(slices - heights.mean()).argmin())
        most = _BETWEEN * source.slice_distance
        if not _meets(points, nearest, source):
            left["contours beside the images"] += 1
        elif np.abs(heights - slices[nearest]).max() <= most:
            level = on_slice.setdefault(nearest, _Level(float(slices[nearest]), nearest))
            level.contours.append(points)
        elif np.abs(heights - heights.mean()).max() > most:
            left["contours across slices"] += 1
        elif abs(heights.mean() - slices[nearest]) > source.slice_distance / 2 * (1 + _SAME_LEVEL):
            left["contours beyond the series"] += 1
        else:
            others.append((float(heights.mean()), points))
    between: list[_Level] = []
    for height, points in sorted(others, key=lambda other: other[0]):
        if not between or height - between[-1].height > _SAME_LEVEL * source.slice_distance:
            between.append(_Level(height, None))
        between[-1].contours.append(points)
    return sorted([*on_slice.values(), *between], key=lambda level: level.height), left, len(others)


def _on_slices(
    levels: Sequence[_Level], source: Source, shape: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """Slices and their masks: of the contours that lie on them, else of those between slices beside them."""
    from napari_prosma.data.between import shape_between  # with scipy, which a reader's list must not load

    distance = source.slice_distance
    heights = [level.height for level in levels]
    gaps = [upper - lower for lower, upper in pairwise(heights)]
    usual = min(max(float(np.median(gaps)) if gaps else distance, distance), max(_THICKEST, distance))
    on_slice = {level.place: level for level in levels if level.place is not None}
    for place, height in enumerate((source.origins @ source.directions[2]).tolist()):
        if place in on_slice:
            yield place, on_slice[place].mask(place, source, shape)
            continue
        above = bisect(heights, height)
        beside = levels[max(above - 1, 0) : above + 1]
        if all(level.place is not None for level in beside):
            continue
        if 0 < above < len(levels) and heights[above] - heights[above - 1] <= _BRIDGED * usual:
            lower, upper = (level.mask(place, source, shape) for level in beside)
            share = (height - heights[above - 1]) / (heights[above] - heights[above - 1])
            yield place, shape_between(lower, upper, source.spacing, share)
            continue
        # A slab that ends at two slices takes the lower one alone.
        for level in beside:
            below, above_it = ((level.height - height + side) / distance for side in (-usual / 2, usual / 2))
            if below < _SAME_LEVEL < above_it:
                yield place, level.mask(place, source, shape)
                break


def _filled(polygons: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Mask of polygons (n, 2) of rows and columns: outer ones first, then the holes in them, and so on."""
    from skimage.draw import polygon

    found = np.zeros(shape, bool)
    for outline in sorted(polygons, key=_area, reverse=True):
        inside = polygon(outline[:, 0], outline[:, 1], shape)
        found[inside] = not (len(inside[0]) and found[inside].all())
    return found


def _area(outline: np.ndarray) -> float:
    y, x = outline.T
    return abs(float(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1)))) / 2


def write(path: Path, planes: np.ndarray, source: Source, segments: Sequence[Segment], by_hand: bool) -> None:
    """Write labels (n, rows, columns) as an RTSTRUCT: closed contours on the slices, holes by keyholes.

    Raises ``DataError``: the series does not say where it lies, or its file is no longer there.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    from scipy import ndimage

    from napari_prosma.data.formats.dicom_results import MANUFACTURER, MODEL

    if not source.lies_in_patient:
        raise DataError(
            f"'{path.name}': an RTSTRUCT tells places in the patient, but the series does not say where it "
            "lies; write a DICOM SEG, which knows its frames by their numbers"
        )
    header = source.header
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.update(header)
    for name in (
        "Rows",
        "Columns",
        "SliceThickness",
        "ReferencedSOPClassUID",
        "Modality",
        "SeriesInstanceUID",
    ):
        del made[name]
    for name in [name for name in made.dir() if name.startswith("LossyImage")]:
        delattr(made, name)
    made.SOPClassUID, made.SOPInstanceUID = _SOP_CLASS, generate_uid()
    made.SeriesInstanceUID, made.Modality = generate_uid(), "RTSTRUCT"
    made.SeriesNumber, made.InstanceNumber = 1001, 1
    made.SeriesDescription = f"{MODEL} contours"
    made.OperatorsName = ""
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, MODEL
    made.DeviceSerialNumber, made.SoftwareVersions = "0", __version__
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetDate, made.StructureSetTime = made.StudyDate, made.StudyTime
    made.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    made.ReferencedFrameOfReferenceSequence = [_referenced_frame(source)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    boxes = ndimage.find_objects(planes)
    for number, segment in enumerate(segments, 1):
        region, drawn, observed = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, segment.name[:64]
        region.ReferencedFrameOfReferenceUID = header.FrameOfReferenceUID
        region.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if by_hand else "AUTOMATIC"
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(segment.colour)
        box = boxes[number - 1] if number <= len(boxes) else None
        outlines = (
            [
                _contour(outline + [side.start for side in box[1:]], place, source)
                for place in range(box[0].start, box[0].stop)
                for outline in outlines_of(planes[(place, *box[1:])] == number)
            ]
            if box is not None
            else []
        )
        if outlines:
            drawn.ContourSequence = outlines
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType, observed.ROIInterpreter = "", ""
        made.StructureSetROISequence.append(region)
        made.ROIContourSequence.append(drawn)
        made.RTROIObservationsSequence.append(observed)
    made.save_as(path, enforce_file_format=True)


def outlines_of(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines (n, 2) of a mask, in rows and columns, each with its holes joined to it by keyholes.

    They run half-way between the centres of a pixel inside and one outside, so that the mask comes back.
    """
    from scipy import ndimage
    from skimage.measure import find_contours

    found = []
    # Pieces that only touch at a corner stay apart, as find_contours has it too.
    pieces, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        piece = np.pad((pieces[box] == number).astype(float), 1)  # so that no contour ends at an edge
        corner = [side.start - 1 for side in box]
        rings = sorted((ring[:-1] + corner for ring in find_contours(piece, _INSIDE)), key=_area)
        found.append(_straightened(_with_keyholes(rings[-1], rings[:-1])))
    return found


def _with_keyholes(ring: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """An outline that goes to each hole by its shortest way, around it, and back the same way."""
    from scipy.spatial import cKDTree

    if not holes:
        return ring
    # The sense in which a hole is gone around is against that of the outline, as find_contours has it.
    points = np.vstack(holes)
    owner = np.repeat(np.arange(len(holes)), [len(hole) for hole in holes])
    distance, gate = np.full(len(points), np.inf), np.zeros_like(points)
    newest = ring
    for _ in holes:
        apart, index = cKDTree(newest).query(points)
        nearer = apart < distance
        distance[nearer], gate[nearer] = apart[nearer], newest[index[nearer]]
        start = int(distance.argmin())
        hole = points[owner == owner[start]]
        newest = np.roll(hole, -int(np.flatnonzero(owner == owner[start]).searchsorted(start)), axis=0)
        at = int((ring == gate[start]).all(axis=1).argmax())
        ring = np.vstack([ring[: at + 1], newest, newest[:1], ring[at:]])
        left = owner != owner[start]
        points, owner, distance, gate = points[left], owner[left], distance[left], gate[left]
    return ring


def _straightened(ring: np.ndarray) -> np.ndarray:
    """The ring without the points that lie on the straight way between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    bends = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    turns_back = np.einsum("ij,ij->i", before, after) < 0
    return ring[(np.abs(bends) > 1e-9) | turns_back]


def _contour(outline: np.ndarray, place: int, source: Source) -> Dataset:
    from pydicom import Dataset

    rows, columns, _ = source.directions
    plane = source.planes[place]
    y, x = outline.T
    points = (
        source.origins[place]
        + np.outer(y * source.spacing[0], columns)
        + np.outer(x * source.spacing[1], rows)
    )
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{value:.6f}".rstrip("0").rstrip(".") for value in points.ravel()]
    if plane.instance:
        contour.ContourImageSequence = [source.reference(plane.instance, plane.frame_number)]
    return contour


def _referenced_frame(source: Source) -> Dataset:
    """Frame of reference, study, series and images of an RTSTRUCT."""
    from pydicom import Dataset

    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.header.SeriesInstanceUID
    series.ContourImageSequence = [source.reference(instance) for instance in source.instances]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # the class that studies had, kept for this place
    study.ReferencedSOPInstanceUID = source.header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame
