"""Contours of an RTSTRUCT <-> masks on the slices of its series.

A pixel belongs to a contour if its centre lies inside. What lies inside another contour of its slice is a
hole in it, unless a keyhole says so already.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
"""Of the slice distance: a point farther from its slice lies between slices, or across them."""
_INSIDE = 0.5
"""Between a mask's 0 and 1: contours run half-way between the centres of two pixels."""
_CONTOUR_DATA = 0x30060050
_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"


def regions(data: Dataset) -> Iterator[tuple[Dataset, tuple[int, int, int] | None]]:
    """The regions of interest of an RTSTRUCT, with their colours."""
    colours = {}
    for item in data.get("ROIContourSequence") or ():
        colour = item.get("ROIDisplayColor")
        if colour and len(colour) == 3:
            colours[int(item.ReferencedROINumber)] = (int(colour[0]), int(colour[1]), int(colour[2]))
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

    What is no closed contour on a slice is left out with a notice.

    Raises
    ------
    DataError
        The series does not say where it lies, or no contour of the object lies on it.
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
        number = int(region.get("ReferencedROINumber") or -1)
        if number not in titles:
            continue
        on_slice: dict[int, list[np.ndarray]] = defaultdict(list)
        left: Counter[str] = Counter()
        for contour in region.get("ContourSequence") or ():
            kind = str(contour.get("ContourGeometricType", "")) or "untyped"
            points = _numbers(contour)
            if kind not in _CLOSED or len(points) < 9 or len(points) % 3 or not np.isfinite(points).all():
                left["points" if kind == "POINT" else "open or damaged contours"] += 1
                continue
            place, flat = _on_slice(points.reshape(-1, 3), source)
            if place is None:
                left["contours between slices or across them"] += 1
            else:
                on_slice[place].append(flat)
        name = titles[number]
        if on_slice or left:
            without.discard(number)
        for what, count in left.items():
            notices.append(f"{count} {what} of '{name}' in '{path.name}' are left out")
        kinds.update(left)
        for place, polygons in sorted(on_slice.items()):
            used += 1
            yield number, place, _filled(polygons, shape)
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


def _on_slice(points: np.ndarray, source: Source) -> tuple[int | None, np.ndarray]:
    """The slice that points (n, 3) in mm lie on, None if on none, and their rows and columns there."""
    rows, columns, normal = source.directions
    across = points @ normal
    nearest = int(np.abs(source.origins @ normal - across.mean()).argmin())
    apart = points - source.origins[nearest]
    flat = np.column_stack([apart @ columns / source.spacing[0], apart @ rows / source.spacing[1]])
    is_on = np.abs(apart @ normal).max() <= _BETWEEN * source.slice_distance
    return (nearest if is_on else None), flat


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

    Raises
    ------
    DataError
        The series does not say where it lies, or its file is no longer there.
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
