"""One DICOM file -> its frames: where each lies, how its values are meant, and what tells it from others.

Files without the 128 bytes before ``DICM`` are read as every viewer does. A file that holds no image, or one
that cannot be taken for slices, is refused with its kind in words.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.data.limits import MOST_SHRINKS, require_count
from napari_prosma.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".seg.dcm", ".rtstruct.dcm", ".dcm", ".dicom", ".ima")
_MAGIC_AT, _MAGIC = 128, b"DICM"
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # of a file that begins with its data set, little-endian
_FILES_OPENED, _NAMES_LOOKED_AT = 8, 10_000
_BLOCK, _MOST_INFLATED = 2**20, 2**29
"""Bytes of a step, and of a whole deflated file, which pydicom holds twice."""
_EMPTY, _EMPTY_PACKED = 12, 36
"""Bytes of an element of pixels that holds none: its tag, and of a packed one its items."""
_DIRECTORY = "1.2.840.10008.1.3.10"
_WITHOUT_INVERSION = ("CT", "PT")  # their values are quantities, however white is stored
_MM_PER_CM = 10.0
_MS_PER_S = 1000.0
_CENTIMETRES = 3  # PhysicalUnitsXDirection of an ultrasound region
_STILLS = (
    *("US", "IVUS", "MG", "DX", "CR", "RG", "RF", "XA", "PX", "IO", "ES", "XC", "GM", "OP", "DG", "EPS"),
)
"""Modalities whose single images are views, none of them a slice unless it says where it lies."""
_NOT_IMAGES = {
    "SEG": "segmentation object (SEG)",
    "RTSTRUCT": "set of contours (RTSTRUCT)",
    "RTDOSE": "dose distribution (RTDOSE)",
}
LABEL_KINDS = (_NOT_IMAGES["SEG"], _NOT_IMAGES["RTSTRUCT"])
"""What labels a series, and is no image itself."""
_QUIET = ("PR", "SR", "KO", "RTPLAN", "REG", "DOC")
_TAGS = [
    *("SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "InstanceNumber", "Modality"),
    *("SOPClassUID", "SOPInstanceUID", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"),
    *("PhotometricInterpretation", "ImageType", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RealWorldValueMappingSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "SpacingBetweenSlices"),
    *("SliceThickness", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("PixelAspectRatio", "EstimatedRadiographicMagnificationFactor", "SequenceOfUltrasoundRegions"),
    *("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "SliceVector"),
    *("DetectorInformationSequence", "AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime"),
    *("EchoNumbers", "TriggerTime", "DiffusionBValue", "ContentTime", "AcquisitionTime"),
    *("ConvolutionKernel", "KVP", "FlipAngle", "InversionTime", "SequenceName"),
    *("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("TotalPixelMatrixRows", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
KINDS = {
    "ImageType": "image type",
    "EchoTime": "echo time",
    "EchoNumbers": "echo",
    "DiffusionBValue": "b-value",
    "ConvolutionKernel": "kernel",
    "SliceThickness": "slice thickness",
    "KVP": "tube voltage",
    "FlipAngle": "flip angle",
    "InversionTime": "inversion time",
    "SequenceName": "sequence",
    "AcquisitionNumber": "acquisition",
    "TemporalPositionIdentifier": "phase",
    "TriggerTime": "trigger time",
    "ContentTime": "time",
}
"""Fields that tell images of one place apart, and what people call them."""
NOT_OF_TIME = 10
"""So many of the first ``KINDS`` say what was measured; the others say when."""
_SEQUENCE_OF_KIND = {
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
}


@dataclass(frozen=True)
class Frame:
    """One slice: the file it lies in, which frame of it, and where in the patient it is."""

    path: Path
    index: int
    position: tuple[float, ...] | None
    number: int
    # slope, intercept: stored values to values.
    slope: float
    intercept: float
    # orientation, spacing: direction cosines of rows and columns; distance of rows and of columns in mm. None
    # where not told.
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, ...] | None = None
    span: tuple[int, int] = (0, 0)
    inverted: bool = False  # whether 0 is stored for white
    # Lowest and highest stored value that means "no image here", if any
    padding: tuple[int, int] | None = None
    kinds: tuple[str, ...] = ()  # one text per name of ``KINDS``
    location: str = ""  # along the stack, as the file tells it beside its position
    instance: str = ""
    of_frames: int = 1
    # Whether the place is told within a recording, as of 3D ultrasound, not in the patient
    in_volume: bool = False


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if (path.suffix and not path.suffix[1:].isdigit()) or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(_MAGIC_AT + len(_MAGIC))
    except OSError:  # said when it is read
        return False
    return start[_MAGIC_AT:] == _MAGIC or _is_bare_data_set(start)


def holds_series(folder: Path, nested: bool = False) -> bool:
    """Whether a folder, or one of the folders in it if ``nested``, holds DICOM files among others."""
    nameless: list[Path] = []
    for path in islice(_files_in(folder, nested), _NAMES_LOOKED_AT):
        if path.suffix.lower() in SUFFIXES:
            return True
        if not path.suffix or path.suffix[1:].isdigit():
            nameless.append(path)
            if len(nameless) <= _FILES_OPENED and is_dicom(path):
                return True
    return any(is_dicom(path) for path in nameless[-_FILES_OPENED:])


def is_directory(path: Path) -> bool:
    """Whether a file is a DICOMDIR: the table of contents of a CD."""
    header = read_header(path)
    return header is not None and _is_directory(header)


def read_header(path: Path) -> Dataset | None:
    """The header of a file as far as it matters here; None where it is damaged or no DICOM.

    Its attribute ``bytes_after`` says how many bytes follow, which the pixels should be; None where packed.

    Raises ``DataError``: it is deflated and holds more than such a file can.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    damages = (
        InvalidDicomError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        NotImplementedError,
    )
    try:
        _require_bounded(path)
        with open(path, "rb") as file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            is_deflated = header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
            header.bytes_after = None if is_deflated else path.stat().st_size - file.tell()
        return header
    except (*damages, zlib.error):
        return None


def _require_bounded(path: Path) -> None:
    """Refuse a deflated file that is far larger than it looks: pydicom inflates all of it for its header."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if path.stat().st_size * MOST_SHRINKS["deflate"] <= _MOST_INFLATED:
        return
    with open(path, "rb") as file:
        read_preamble(file, force=True)
        meta = read_dataset(file, False, True, stop_when=lambda tag, _, __: tag.group != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while waiting := inflater.unconsumed_tail or file.read(_BLOCK):
            inflated += len(inflater.decompress(waiting, _BLOCK))
            require_count(path, "bytes once inflated", inflated, _MOST_INFLATED)


def is_still(header: Dataset) -> bool:
    """Whether an image stands for itself, whatever else its series holds: a view in mammography, a photo."""
    return not _is_placed(header) and header.get("Modality") in _STILLS


def _is_placed(header: Dataset) -> bool:
    return bool(header.get("ImagePositionPatient")) or "PerFrameFunctionalGroupsSequence" in header


def holds_stills(folder: Path) -> bool:
    """Whether all that a folder holds in DICOM are images that stand for themselves.

    So do several without a position, each a series of its own.
    """
    stills, series = 0, set()
    for path in _files_in(folder, nested=False):
        header = read_header(path) if is_dicom(path) else None
        if header is None or why_no_image(header) is not None:
            continue
        if is_still(header):
            stills += 1
            continue
        uid = header.get("SeriesInstanceUID")
        if _is_placed(header) or int(header.get("NumberOfFrames") or 1) > 1 or not uid or uid in series:
            return False
        series.add(uid)
    return stills > 0 or len(series) > 1


def why_no_image(header: Dataset | None) -> str | None:
    """What a file is instead of slices, in words; "" for what needs no mention; None for an image."""
    if header is None:
        return "damaged file"
    if _is_directory(header) or header.get("Modality") in _QUIET:
        return ""
    if header.get("Modality") in _NOT_IMAGES:
        return _NOT_IMAGES[header.Modality]
    if not header.get("Rows") or not header.get("Columns"):
        return "" if "SOPClassUID" in header else "damaged file"
    if header.get("TotalPixelMatrixRows"):
        return "whole-slide image in tiles"
    if "MOSAIC" in (header.get("ImageType") or ()):
        return "mosaic that holds its slices side by side"
    if int(header.get("SamplesPerPixel") or 1) not in (1, 3):
        return f"picture of {header.SamplesPerPixel} samples per pixel"
    return None


def promised_bytes(header: Dataset) -> int:
    """How large the pixels are once they are unpacked, as the header has it."""
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    bits = frames * samples * int(header.Rows) * int(header.Columns) * int(header.get("BitsAllocated") or 1)
    is_halved = header.get("PhotometricInterpretation") == "YBR_FULL_422"  # two pixels share their colours
    return bits // 8 * 2 // 3 if is_halved and not is_packed(header) else bits // 8


def is_packed(header: Dataset) -> bool:
    """Whether the pixels are compressed."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    return syntax is not None and syntax.is_compressed


def why_no_pixels(header: Dataset) -> str | None:
    """What an image file is that lacks its pixels, or some of them; None where they seem to be there."""
    if header.bytes_after is None:
        return None
    if header.bytes_after <= (_EMPTY_PACKED if is_packed(header) else _EMPTY):
        return "file without pixels"
    is_short = not is_packed(header) and header.bytes_after < promised_bytes(header)
    return "file that is cut short" if is_short else None


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """The frames of a file; per frame where the file says so, else as the whole file."""
    count = int(header.get("NumberOfFrames") or 1)
    if count > path.stat().st_size:  # a frame takes a byte at least
        raise DataError(f"'{path}' promises {count:,} frames, more than it can hold; download it again")
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    each = header.get("PerFrameFunctionalGroupsSequence") or [None] * count
    span = _span(header)
    inverted = header.get("Modality") not in _WITHOUT_INVERSION and (
        header.get("PhotometricInterpretation") == "MONOCHROME1"
        or header.get("PresentationLUTShape") == "INVERSE"
    )
    fixed: dict[str, Any] = {
        "span": span,
        "inverted": inverted,
        "padding": _padding(header, span, inverted),
        "instance": str(header.get("SOPInstanceUID", "")),
        "of_frames": count,
    }
    of_file = ultrasound_spacing(header) or _flat_spacing(header)
    positions = _of_detectors(header, count)
    result = []
    for index in range(count):
        groups = [
            group for group in (each[index] if index < len(each) else None, shared) if group is not None
        ]
        sought = partial(_sought, header, groups)
        slope, intercept = _rescaling(header, sought)
        orientation = _numbers(
            sought("PlaneOrientationSequence", "ImageOrientationPatient")
            or sought("PlaneOrientationVolumeSequence", "ImageOrientationVolume"),
            6,
        )
        in_patient = sought("PlanePositionSequence", "ImagePositionPatient")
        in_volume = sought("PlanePositionVolumeSequence", "ImagePositionVolume")
        position = _numbers(in_patient or in_volume, 3)
        if positions is not None and position is None:
            orientation, position = positions[0], positions[1][index]
        result.append(
            Frame(
                path,
                index,
                position,
                int(header.get("InstanceNumber") or 0) * (count if count > 1 else 1) + index,
                slope,
                intercept,
                orientation if orientation and any(orientation) else None,
                _numbers(sought("PixelMeasuresSequence", "PixelSpacing"), 2) or of_file,
                kinds=tuple(
                    _text(number, sought(*_SEQUENCE_OF_KIND.get(kind, ("", ""))) or header.get(kind, ""))
                    for number, kind in enumerate(KINDS)
                ),
                location=str(header.get("SliceLocation") or ""),
                in_volume=not in_patient and bool(in_volume),
                **fixed,
            )
        )
    return result


def seconds_per_frame(header: Dataset) -> float:
    """How long a frame of a clip is shown; 0 where the file does not say."""
    times = [float(time) for time in _several(header.get("FrameTimeVector"))][1:]
    if header.get("FrameTime"):
        return float(header.FrameTime) / _MS_PER_S
    if times:
        return float(np.mean(times)) / _MS_PER_S
    rate = float(header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 0)
    return 1 / rate if rate > 0 else 0.0


def pixel_notices(header: Dataset) -> tuple[str, ...]:
    """What is to be said of where the size of a pixel comes from."""
    if header.get("PixelSpacing") or "PerFrameFunctionalGroupsSequence" in header:
        return ()
    regions = {_in_mm(region) for region in _flat_regions(header)}
    if len(regions) > 1:
        return (f"its {len(regions)} ultrasound regions have pixels of different sizes: sizes are in pixels",)
    if header.get("ImagerPixelSpacing") and not header.get("EstimatedRadiographicMagnificationFactor"):
        return ("pixels are as large as on the detector; structures in front of it are smaller than stated",)
    return ()


def ultrasound_spacing(header: Dataset) -> tuple[float, ...] | None:
    """Distance of rows and columns of an ultrasound image in mm, if all its regions agree on it."""
    found = {_in_mm(region) for region in _flat_regions(header)}
    return found.pop() if len(found) == 1 else None


def _files_in(folder: Path, nested: bool) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(place, name)
        if not nested:
            return


def _is_bare_data_set(start: bytes) -> bool:
    """Whether bytes are a first element of group 2 or 8 with its value representation or a small length."""
    if start[:2] not in _FIRST_GROUPS or len(start) < 8 or start[3] != 0:
        return False
    return (start[4:6].isalpha() and start[4:6].isupper()) or start[6:8] == b"\0\0"


def _is_directory(header: Dataset) -> bool:
    meta = getattr(header, "file_meta", None)
    return str(meta.get("MediaStorageSOPClassUID", "") if meta else "") == _DIRECTORY


def _sought(header: Dataset, groups: Sequence[Dataset], sequence: str, name: str) -> Any:
    """The value of a frame, else of all frames, else of the file."""
    for group in groups:
        if sequence and group.get(sequence):
            return group[sequence].value[0].get(name)
    return header.get(name) if name else None


def _rescaling(header: Dataset, sought: Any) -> tuple[float, float]:
    """Slope and intercept of the rescaling, else of the mapping to real-world values; 1, 0 with a table."""
    if header.get("ModalityLUTSequence"):
        return 1.0, 0.0
    slope = sought("PixelValueTransformationSequence", "RescaleSlope")
    intercept = sought("PixelValueTransformationSequence", "RescaleIntercept")
    if slope is None and intercept is None:
        slope = sought("RealWorldValueMappingSequence", "RealWorldValueSlope")
        intercept = sought("RealWorldValueMappingSequence", "RealWorldValueIntercept")
        mapping = header.get("RealWorldValueMappingSequence")
        if slope is None and mapping:
            slope, intercept = (
                mapping[0].get("RealWorldValueSlope"),
                mapping[0].get("RealWorldValueIntercept"),
            )
    found = _first(slope, 1.0), _first(intercept, 0.0)
    return found if found[0] else (1.0, 0.0)  # a slope of 0 says "do not scale", as in NIfTI


def _span(header: Dataset) -> tuple[int, int]:
    table = header.get("ModalityLUTSequence")
    if table:
        descriptor = table[0].get("LUTDescriptor") or (0, 0, 16)
        return 0, (1 << int(descriptor[2])) - 1
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 16)
    low = -(1 << (bits - 1)) if int(header.get("PixelRepresentation") or 0) else 0
    return low, low + (1 << bits) - 1


def _padding(header: Dataset, span: tuple[int, int], inverted: bool) -> tuple[int, int] | None:
    """Stored values that mean "no image"; None where that is black already."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int) or header.get("ModalityLUTSequence"):
        return None
    other = header.get("PixelPaddingRangeLimit")
    ends = sorted((value, other if isinstance(other, int) else value))
    black = span[1] if inverted else span[0]
    return None if ends == [black, black] else (ends[0], ends[1])


def _of_detectors(header: Dataset, count: int) -> tuple[tuple[float, ...], list[tuple[float, ...]]] | None:
    """Orientation, and position of every frame, of a reconstructed volume of nuclear medicine."""
    detector = (header.get("DetectorInformationSequence") or [None])[0]
    if detector is None or len(_several(header.get("SliceVector"))) != count:
        return None
    orientation = _numbers(detector.get("ImageOrientationPatient"), 6)
    first = _numbers(detector.get("ImagePositionPatient"), 3)
    step = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0)
    if orientation is None or first is None or not step:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    slices = [int(number) - 1 for number in _several(header.SliceVector)]
    return orientation, [tuple((np.array(first) + number * step * normal).tolist()) for number in slices]


def _flat_spacing(header: Dataset) -> tuple[float, ...] | None:
    """Pixel size of a projection: at the patient where the magnification is told, else at the detector."""
    spacing = _numbers(header.get("PixelSpacing"), 2)
    if spacing is not None:
        return spacing
    spacing = _numbers(header.get("ImagerPixelSpacing"), 2)
    if spacing is not None:
        factor = float(header.get("EstimatedRadiographicMagnificationFactor") or 1)
        return tuple(value / factor for value in spacing)
    return _numbers(header.get("NominalScannedPixelSpacing"), 2)


def _flat_regions(header: Dataset) -> list[Dataset]:
    """Ultrasound regions that measure both of their axes in centimetres: no spectra, no motion over time."""
    return [
        region
        for region in header.get("SequenceOfUltrasoundRegions") or ()
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES
        and region.get("PhysicalDeltaX")
        and region.get("PhysicalDeltaY")
    ]


def _in_mm(region: Dataset) -> tuple[float, float]:
    return (
        abs(float(region.PhysicalDeltaY)) * _MM_PER_CM,
        abs(float(region.PhysicalDeltaX)) * _MM_PER_CM,
    )


def aspect(header: Dataset) -> tuple[float, float] | None:
    """Height and width of a pixel where only their ratio is told, the width as 1."""
    ratio = _numbers(header.get("PixelAspectRatio"), 2)
    return (ratio[0] / ratio[1], 1.0) if ratio and min(ratio) > 0 else None


def require_even(path: Path, spacing: tuple[float, ...] | None) -> None:
    """Refuse pixels that are no larger than nothing (raises ``DataError``)."""
    if spacing is not None and not all(np.isfinite(s) and s > 0 for s in spacing):
        raise DataError(f"'{path}' has pixel spacing {spacing}; correct it or export the series again")


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) or hasattr(value, "__iter__") else [value]


def _text(kind: int, value: Any) -> str:
    """A value as text; what was measured is rounded, since the same is written in several ways."""
    return f"{value:.3g}" if kind < NOT_OF_TIME and isinstance(value, float) else str(value)


def _first(value: Any, otherwise: float) -> float:
    return otherwise if value is None or value == "" else float(value)


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if not value or len(value) != count:
        return None
    return tuple(float(number) for number in value)
