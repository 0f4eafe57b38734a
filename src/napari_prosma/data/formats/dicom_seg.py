"""DICOM SEG: labels or probabilities of a series as an object of its study, frame by frame over its slices.

highdicom writes it, from the extra ``dicom``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma import __version__
from napari_prosma.data.formats.dicom_results import MANUFACTURER, MODEL, Source
from napari_prosma.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.sr.coding import Code

    from napari_prosma.data.formats.dicom import Series

_INSTALL = 'pip install "napari-prosma[dicom]"'
_PLACEHOLDER = "1.2.826.0.1.3680043.10.1{}"
"""UID of the n-th plane until it is replaced by the instance that lies there."""
_OWN_SCHEME = "99PROSMA"
_LISTED = "cid7151"
"""DICOM's own list of what is segmented."""
_CATEGORIES = {
    "cid7191": "Tissue",
    "cid7193": "PhysicalObject",
    "cid7194": "MorphologicallyAbnormalStructure",
    "cid7195": "Function",
    "cid7196": "SpatialAndRelationalConcept",
    "cid7197": "BodySubstance",
    "cid7198": "Substance",
}
"""Categories of what stands in DICOM's other lists; the rest is anatomy."""
_FRACTIONS = 255
"""What a probability of 1 is stored as; smaller ones are rounded."""
_STACK, _IN_STACK = 0x00209056, 0x00209057
_FRAME_CONTENT = 0x00209111


@dataclass(frozen=True)
class Segment:
    """A class as an object names it."""

    name: str
    colour: tuple[int, int, int]  # red, green and blue, 0 to 255
    # What it is in a vocabulary that other programs know: a SNOMED CT term such as ``Liver``, or
    # ``CODE^SCHEME^TEXT``. Empty = tissue.
    meaning: str = ""


def require_highdicom() -> None:
    """Say how to install what writes DICOM SEG, where it is missing (raises ``ConfigError``)."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"writing DICOM SEG needs highdicom, which is not installed; install it with {_INSTALL}"
        ) from error


def write(
    path: Path, planes: np.ndarray, series: Series, segments: Sequence[Segment], by_hand: bool = False
) -> None:
    """Write labels as binary segments, or probabilities as fractional ones.

    Parameters
    ----------
    planes : (n, rows, columns) whole numbers, or (n, rows, columns, K) real ones from 0 to 1
        What lies on each frame of the series; segment ``k`` has the value ``k``, from 1 on.
    by_hand : bool
        Whether a person corrected what the model found.

    Raises
    ------
    ConfigError
        highdicom is not installed, or a meaning is not known.
    DataError
        A file of the series is no longer there, or its header cannot be taken over.
    """
    require_highdicom()
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom.uid import generate_uid

    source = Source(series)
    frames = _frames(source)
    fractional = planes.ndim == 4
    highest = planes.max(initial=0, keepdims=True)
    is_empty = not (np.round(highest * _FRACTIONS) if fractional else highest).any()
    if is_empty:  # one empty frame says it for all
        planes, frames = np.zeros_like(planes[:1]), frames[:1]
    described = [_described(number, segment, by_hand) for number, segment in enumerate(segments, 1)]
    kind = SegmentationTypeValues.FRACTIONAL if fractional else SegmentationTypeValues.BINARY
    what = "probabilities" if fractional else "segmentation"
    try:
        made = Segmentation(
            frames,
            planes,
            kind,
            described,
            series_instance_uid=generate_uid(),
            series_number=1000,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            software_versions=__version__,
            device_serial_number="0",
            max_fractional_value=_FRACTIONS,
            omit_empty_frames=not is_empty,
            content_label="SEGMENTATION",
            content_description=f"{MODEL} {what}",
            content_creator_name=f"{MANUFACTURER}^",
            series_description=f"{MODEL} {what}",
            specific_character_set=source.header.SpecificCharacterSet,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # The text of the error may repeat what the header says of the patient.
        raise DataError(
            f"the header of '{series.files[0]}' cannot be taken over into a DICOM object "
            f"({type(error).__name__}); save the result as NIfTI"
        ) from error
    _refer(made, source)
    made.save_as(path, enforce_file_format=True)


def _frames(source: Source) -> list[Dataset]:
    """A header per plane as highdicom wants it, whatever kind of file the plane lies in."""
    from pydicom import Dataset
    from pydicom.uid import CTImageStorage

    first = source.header
    frames = []
    for number, plane in enumerate(source.planes):
        frame = Dataset()
        frame.update(first)
        frame.SOPClassUID = CTImageStorage
        frame.SOPInstanceUID = _PLACEHOLDER.format(number)
        frame.ImagePositionPatient = _decimals(plane.position)
        frame.ImageOrientationPatient = _decimals(source.orientation)
        frame.PixelSpacing = _decimals(source.spacing)
        frames.append(frame)
    return frames


def _refer(made: Dataset, source: Source) -> None:
    """Put the instances and frames of the series in the place of the headers that highdicom was given."""
    numbers = {_PLACEHOLDER.format(number): number for number in range(len(source.planes))}
    references = [source.reference(instance) for instance in source.instances]
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references
    made.SourceImageSequence = references
    if not references:
        del made.ReferencedSeriesSequence, made.SourceImageSequence
    frames = made.PerFrameFunctionalGroupsSequence
    images = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in frames]
    # Looked up before any is replaced: frames of several segments share what they are derived from.
    lie_on = [numbers[image.ReferencedSOPInstanceUID] for image in images]
    for frame, image, number in zip(frames, images, lie_on, strict=True):
        plane = source.planes[number]
        if plane.instance:
            image.update(source.reference(plane.instance, plane.frame_number))
        else:
            frame.DerivationImageSequence = []
        if not source.lies_in_patient:
            del frame.PlanePositionSequence
            content = frame.FrameContentSequence[0]
            content.StackID, content.InStackPositionNumber = "1", number + 1
            content.DimensionIndexValues = [content.DimensionIndexValues[0], 1, number + 1]
    if not source.lies_in_patient:
        _take_out_of_patient(made)


def _take_out_of_patient(made: Dataset) -> None:
    """Frames of a clip, or of an image that does not say where it lies, are known by their numbers."""
    from pydicom import Dataset

    shared = made.SharedFunctionalGroupsSequence[0]
    del shared.PlaneOrientationSequence
    del made.FrameOfReferenceUID
    made.PatientOrientation = ""
    for name in ("PositionReferenceIndicator", "DimensionOrganizationType"):
        if name in made:
            delattr(made, name)
    segment_index = made.DimensionIndexSequence[0]
    indices = [segment_index]
    for pointer, label in ((_STACK, "Stack ID"), (_IN_STACK, "In-Stack Position Number")):
        index = Dataset()
        index.DimensionOrganizationUID = segment_index.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = pointer, _FRAME_CONTENT
        index.DimensionDescriptionLabel = label
        indices.append(index)
    made.DimensionIndexSequence = indices


def _described(number: int, segment: Segment, by_hand: bool) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    meaning = coded(segment.meaning) if segment.meaning else codes.SCT.Tissue
    algorithm = AlgorithmIdentificationSequence(
        MODEL, codes.DCM.ArtificialIntelligence, __version__, source=MANUFACTURER
    )
    return SegmentDescription(
        number,
        segment.name[:64],  # as much as an attribute of this kind holds
        _category(meaning),
        meaning,
        SegmentAlgorithmTypeValues.SEMIAUTOMATIC if by_hand else SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm,
        tracking_uid=None,
        display_color=CIELabColor.from_rgb(*segment.colour),
    )


def _category(meaning: Code) -> Code:
    from pydicom.sr.codedict import codes

    def has(listed: str) -> bool:
        group = getattr(codes, listed)
        return any(getattr(group, name) == meaning for name in group.dir())

    found: Code = getattr(
        codes.SCT, next((name for listed, name in _CATEGORIES.items() if has(listed)), "AnatomicalStructure")
    )
    return found


def terms() -> tuple[str, ...]:
    """SNOMED CT terms that DICOM lists for segments, in order, as :func:`coded` understands them."""
    from pydicom.sr.codedict import codes

    group = getattr(codes, _LISTED)
    found = []
    for name in group.dir():
        code = getattr(group, name)
        if code.scheme_designator == "SCT":
            found.append(code.meaning if _plain(code.meaning) == _plain(name) else name)
    return tuple(sorted(found, key=str.casefold))


def _plain(term: str) -> str:
    return "".join(letter for letter in term if letter.isalnum()).casefold()


def coded(meaning: str) -> Code:
    """A meaning as a code: ``CODE^SCHEME^TEXT`` as it is, else the SNOMED CT term that is called so.

    Raises ``ConfigError``: there is no such term; those that are similar are told.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    parts = [part.strip() for part in meaning.split("^")]
    if len(parts) == 3 and all(parts):
        return Code(*parts)
    known = {_plain(name): name for name in codes.SCT.dir()}
    sought = _plain(meaning)
    if sought in known:
        code: Code = getattr(codes.SCT, known[sought])
        return code
    similar = [known[name] for name in difflib.get_close_matches(sought, known, 3)]
    raise ConfigError(
        f"'{meaning}' is no SNOMED CT term that is known here"
        + (f" (similar: {', '.join(similar)})" if similar else "")
        + f"; write another one, or a code with its scheme and text, such as 10200004^SCT^Liver or "
        f"1^{_OWN_SCHEME}^{meaning}"
    )


def _decimals(numbers: Sequence[float]) -> list[Any]:
    """Numbers as DICOM's decimal strings, of 16 characters at most."""
    from pydicom.valuerep import DS

    return [DS(float(number), auto_format=True) for number in numbers]
