"""DICOM: a folder becomes its series, a series a volume sorted by where its slices lie, not by name.

Series that share a folder are told apart, rescale slope and intercept are applied, missing and repeated
slices are reported. Multi-frame files become volumes (enhanced CT and MR) or clips over time (ultrasound).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.data.case import Geometry, Header, Image, SourceFrame
from napari_prosma.data.voxels import require_possible, require_room
from napari_prosma.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom", ".ima")
_MAGIC_AT, _MAGIC = 128, b"DICM"
_NOT_OF_IMAGES = ("PR", "SR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "SEG", "REG", "DOC")
_HEADER_TAGS = [
    *("SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "InstanceNumber", "Modality", "SOPClassUID"),
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "BitsStored"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("SpacingBetweenSlices", "SliceThickness", "SequenceOfUltrasoundRegions", "FrameTime", "ImageType"),
    *(
        "RescaleSlope",
        "RescaleIntercept",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
    ),
]
_FILES_TO_JUDGE_BY = 3
_UNEVEN = 0.1  # of the slice distance: more, and a slice is not where an even grid has it
_SAME_POSITION_MM = 1e-3
_MM_PER_CM = 10.0
_CENTIMETRES = 3  # PhysicalUnitsXDirection of an ultrasound region
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Frame:
    """One slice: the file it lies in, which frame of it, and where in the patient it is."""

    path: Path
    index: int
    position: tuple[float, ...] | None
    number: int
    slope: float
    intercept: float


@dataclass(frozen=True)
class Series:
    """Frames that make one image, sorted by place.

    Attributes
    ----------
    uid, description, modality : str
    frames : one per slice of the regular grid; None where a slice is missing
    channels, shape : as the image will be
    geometry : Geometry
    notices : what is wrong or was decided
    """

    uid: str
    description: str
    modality: str
    frames: tuple[Frame | None, ...]
    channels: int
    shape: tuple[int, ...]
    geometry: Geometry
    notices: tuple[str, ...] = field(default=())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the series, each once."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames if frame is not None))

    def read(self) -> Image:
        """The image of the series, in Hounsfield units where the series is a CT; read slice by slice.

        Raises
        ------
        DataError
            When the pixels of a file cannot be decoded.
        """
        volume = self._stacked()
        source = self.geometry.source
        if source is not None:
            volume = np.moveaxis(source.to_array(np.moveaxis(volume, 0, -1).transpose(2, 1, 0, 3)), -1, 0)
        return Image(volume.reshape(self.channels, *self.shape), self.geometry, self.notices)

    def _stacked(self) -> np.ndarray:
        """(C, n, rows, columns)"""
        volume: np.ndarray | None = None
        decoded: tuple[Path, np.ndarray] | None = None
        empty: list[int] = []
        for place, frame in enumerate(self.frames):
            if frame is None:
                empty.append(place)
                continue
            if decoded is None or decoded[0] != frame.path:
                decoded = (frame.path, _pixels(frame.path))
            plane = _rescaled(decoded[1][frame.index], frame)
            if volume is None:
                volume = np.zeros((len(plane), len(self.frames), *plane.shape[1:]), plane.dtype)
            elif volume.shape[0] != len(plane) or volume.shape[2:] != plane.shape[1:]:
                raise DataError(f"'{frame.path}' has another size than its header says; export it again")
            elif np.result_type(volume, plane) != volume.dtype:
                volume = volume.astype(np.result_type(volume, plane))
            volume[:, place] = plane
        assert volume is not None
        if empty:
            volume[:, empty] = volume.min()
        return volume


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    with open(path, "rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


def holds_series(folder: Path, nested: bool = False) -> bool:
    """Whether one of the first files of a folder, or of the folders in it if ``nested``, is DICOM."""
    paths = folder.rglob("*") if nested else iter(sorted(folder.iterdir()))
    files = (path for path in paths if path.is_file() and not path.name.startswith("."))
    return any(is_dicom(path) for path in islice(files, _FILES_TO_JUDGE_BY))


def find_series(folder: str | Path) -> tuple[Series, ...]:
    """The image series of a folder and its subfolders, from their headers.

    Raises
    ------
    DataError
        When there is none.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    by_key: dict[tuple[Any, ...], list[Frame]] = defaultdict(list)
    headers: dict[tuple[Any, ...], Dataset] = {}
    damaged: list[Path] = []
    for path in files:
        if not is_dicom(path):
            continue
        header = _header(path)
        if header is None or "Rows" not in header or not header.Rows or not header.Columns:
            damaged += [path] if header is None or "SOPClassUID" not in header else []
            continue
        if header.get("Modality") in _NOT_OF_IMAGES:
            continue
        try:
            frames = _frames(path, header)
        except (ValueError, TypeError, AttributeError, IndexError):
            damaged.append(path)
            continue
        for frame, orientation, spacing in frames:
            key = (
                str(header.get("SeriesInstanceUID", "")),
                *(int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel", 1))),
                tuple(round(value, 3) for value in orientation or ()),
                tuple(round(value, 4) for value in spacing or ()),
            )
            by_key[key].append(frame)
            headers.setdefault(key, header)
    if not by_key:
        raise DataError(
            f"'{folder}' holds no DICOM image"
            + (f" ({len(damaged)} files are damaged, the first is '{damaged[0].name}')" if damaged else "")
            + "; give the folder of a CT, MR or ultrasound series"
        )
    notice = (
        (f"{len(damaged)} damaged files were left out, the first is '{damaged[0].name}'",) if damaged else ()
    )
    found: list[Series] = []
    for key, of_series in by_key.items():
        found += _series(headers[key], of_series, notice)
    return tuple(found)


def read_header(path: Path) -> Header:
    """Header of the one series of a folder, or of one file."""
    series = _only_series(path)
    return Header(series.channels, series.shape, series.geometry)


def read(path: Path) -> Image:
    """The one series of a folder as (C, z, y, x), or one file: (C, y, x), a clip (C, t, y, x), a volume.

    Raises
    ------
    DataError
        When the folder holds several series; they are named.
    """
    return _only_series(path).read()


def _only_series(path: Path) -> Series:
    found = find_series(path)
    if len(found) > 1:
        listed = "; ".join(
            f"{one.description or one.uid} ({len(one.frames)} slices in {one.files[0].parent.name}/)"
            for one in found
        )
        raise DataError(
            f"'{path}' holds {len(found)} series: {listed}. Give a folder with one of them, or open all"
        )
    return found[0]


def _header(path: Path) -> Dataset | None:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError):
        return None


def _frames(
    path: Path, header: Dataset
) -> list[tuple[Frame, tuple[float, ...] | None, tuple[float, ...] | None]]:
    """Each frame of a file with its orientation and pixel spacing (row distance, column distance)."""
    count = int(header.get("NumberOfFrames") or 1)
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    each = header.get("PerFrameFunctionalGroupsSequence") or [None] * count
    result = []
    for index in range(count):
        groups = [
            group for group in (each[index] if index < len(each) else None, shared) if group is not None
        ]

        def sought(sequence: str, name: str, groups: Sequence[Dataset] = groups) -> Any:
            for group in groups:
                if group.get(sequence):
                    return group[sequence].value[0].get(name)
            return header.get(name)

        frame = Frame(
            path,
            index,
            _numbers(sought("PlanePositionSequence", "ImagePositionPatient"), 3),
            int(header.get("InstanceNumber") or 0) * (count if count > 1 else 1) + index,
            float(_first(sought("PixelValueTransformationSequence", "RescaleSlope"), 1.0)),
            float(_first(sought("PixelValueTransformationSequence", "RescaleIntercept"), 0.0)),
        )
        orientation = _numbers(sought("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        spacing = _numbers(sought("PixelMeasuresSequence", "PixelSpacing"), 2) or _numbers(
            header.get("ImagerPixelSpacing"), 2
        )
        result.append((frame, orientation, spacing or _ultrasound_spacing(header)))
    return result


def _ultrasound_spacing(header: Dataset) -> tuple[float, ...] | None:
    for region in header.get("SequenceOfUltrasoundRegions") or ():
        in_cm = region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES
        if in_cm and region.get("PhysicalDeltaX") and region.get("PhysicalDeltaY"):
            return (
                abs(float(region.PhysicalDeltaY)) * _MM_PER_CM,
                abs(float(region.PhysicalDeltaX)) * _MM_PER_CM,
            )
    return None


def _series(header: Dataset, frames: list[Frame], notices: tuple[str, ...]) -> list[Series]:
    """The series of frames that share orientation and size; several where places repeat evenly."""
    first = frames[0]
    _, orientation, spacing = _frames(first.path, header)[0]
    if spacing is not None and not all(np.isfinite(s) and s > 0 for s in spacing):
        raise DataError(f"'{first.path}' has pixel spacing {spacing}; correct it or export the series again")
    row_distance, column_distance = spacing or (1.0, 1.0)
    unit = "mm" if spacing else "pixel"
    common: dict[str, Any] = {
        "uid": str(header.get("SeriesInstanceUID", "")),
        "description": str(header.get("SeriesDescription", "")),
        "modality": str(header.get("Modality", "")),
        "channels": 3 if int(header.get("SamplesPerPixel", 1)) == 3 or _is_palette(header) else 1,
    }
    rows, columns = int(header.Rows), int(header.Columns)
    if len(frames) == 1 and not int(header.get("NumberOfFrames") or 1) > 1:
        plane = Geometry((row_distance, column_distance), (0.0, 0.0), unit)
        return [
            Series(**common, frames=tuple(frames), shape=(rows, columns), geometry=plane, notices=notices)
        ]
    if orientation is None or any(frame.position is None for frame in frames):
        ordered = sorted(frames, key=lambda frame: frame.number)
        in_time = int(header.get("NumberOfFrames") or 1) > 1
        step = (
            1.0 if in_time else float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1)
        )
        geometry = Geometry(
            (step, row_distance, column_distance), (0.0,) * 3, unit, ("t" if in_time else "z", "y", "x")
        )
        if not in_time:
            notices += ("the slices do not say where they lie; they are in the order of their numbers",)
        elif header.get("FrameTime"):
            notices += (f"a clip of {len(frames)} frames, {float(header.FrameTime):g} ms each",)
        return [
            Series(
                **common,
                frames=tuple(ordered),
                shape=(len(ordered), rows, columns),
                geometry=geometry,
                notices=notices,
            )
        ]
    stacks, repeated = _stacks(frames, orientation)
    result = []
    for number, stack in enumerate(stacks, 1):
        grid, affine, said = _grid(stack, orientation, row_distance, column_distance, header)
        source = SourceFrame.canonical(affine)
        stored = (columns, rows, len(grid))
        shape = tuple(stored[n] for n in source.order)
        described = dict(common)
        if len(stacks) > 1:
            described["description"] = f"{common['description']} ({number} of {len(stacks)})"
        result.append(
            Series(
                **described,
                frames=grid,
                shape=shape,
                geometry=Geometry.patient(source, shape),
                notices=(*notices, *repeated, *said),
            )
        )
    return result


def _stacks(frames: list[Frame], orientation: tuple[float, ...]) -> tuple[list[list[Frame]], tuple[str, ...]]:
    """Frames sorted along the slice normal; places that repeat evenly are stacks of their own."""
    normal = np.cross(orientation[:3], orientation[3:])
    ordered = sorted(frames, key=lambda frame: (float(normal @ np.array(frame.position)), frame.number))
    places: list[list[Frame]] = []
    for frame in ordered:
        here = float(normal @ np.array(frame.position))
        if places and here - float(normal @ np.array(places[-1][0].position)) < _SAME_POSITION_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
    counts = {len(place) for place in places}
    if len(counts) == 1:
        return [[place[n] for place in places] for n in range(counts.pop())], ()
    extra = sum(len(place) - 1 for place in places)
    return [[place[0] for place in places]], (f"{extra} slices repeat a place and were left out",)


def _grid(
    stack: list[Frame],
    orientation: tuple[float, ...],
    row_distance: float,
    column_distance: float,
    header: Dataset,
) -> tuple[tuple[Frame | None, ...], np.ndarray, tuple[str, ...]]:
    """The stack on an even grid, its affine (column, row, slice) to RAS+, and what is to be said of it."""
    positions = np.array([frame.position for frame in stack])
    grid: tuple[Frame | None, ...] = tuple(stack)
    said: tuple[str, ...] = ()
    if len(stack) > 1:
        along = (positions - positions[0]) @ np.cross(orientation[:3], orientation[3:])
        step = float(np.diff(along).min())
        places = np.round(along / step).astype(int)
        off_grid = float(np.abs(along - places * step).max())
        if off_grid > _UNEVEN * step or places[-1] >= 2 * len(stack):
            even = np.linspace(0, along[-1], len(along))
            gaps = np.diff(along)
            said = (
                f"slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart; they are shown at their mean "
                f"distance, up to {np.abs(along - even).max():.3g} mm from their place",
            )
        elif places[-1] >= len(stack):
            at = dict(zip(places.tolist(), stack, strict=True))
            grid = tuple(at.get(place) for place in range(int(places[-1]) + 1))
            missing = len(grid) - len(stack)
            said = (f"{missing} of {len(grid)} slices are missing; they are filled with the lowest value",)
        between = (positions[-1] - positions[0]) / (len(grid) - 1)
    else:
        thickness = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1)
        between = np.cross(orientation[:3], orientation[3:]) * thickness
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * column_distance
    affine[:3, 1] = np.array(orientation[3:]) * row_distance
    affine[:3, 2] = between
    affine[:3, 3] = positions[0]
    return grid, _LPS_TO_RAS @ affine, said


def _pixels(path: Path) -> np.ndarray:
    """Stored values of a file, (frames, C, rows, columns); compressed ones by whichever library can."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels import apply_color_lut

    from napari_prosma.data import dicom_codecs

    dicom_codecs.register()
    try:
        data = dcmread(path)
        _require_plausible(path, data)
        array = data.pixel_array
        if _is_palette(data):
            array = apply_color_lut(array, data)
    except (NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"'{path}' is damaged or packed in a way that is not known ({_packing(data)}); "
            "export it uncompressed"
        ) from error
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"'{path}' is cut short or damaged ({error}); export the series again") from error
    in_colour = array.ndim >= 3 and array.shape[-1] == 3 and (_is_palette(data) or data.SamplesPerPixel == 3)
    array = np.moveaxis(array, -1, -3) if in_colour else array[..., None, :, :]
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        array = array.max() + array.min() - array  # stored with white as 0
    return array if array.ndim == 4 else array[None]


def _require_plausible(path: Path, data: Dataset) -> None:
    """Refuse a header that promises more frames than its file can hold, or than memory."""
    frames, samples = int(data.get("NumberOfFrames") or 1), int(data.get("SamplesPerPixel", 1))
    promised = frames * samples * int(data.Rows) * int(data.Columns) * int(data.BitsAllocated) // 8
    if not data.file_meta.TransferSyntaxUID.is_compressed:
        require_possible(path, promised, compressed=False)
    require_room(path, promised)


def _packing(data: Dataset) -> str:
    syntax = data.file_meta.TransferSyntaxUID
    return f"{syntax.name}, transfer syntax {syntax}"


def _rescaled(plane: np.ndarray, frame: Frame) -> np.ndarray:
    """Stored values -> output units (Hounsfield for CT), int16 where that is exact."""
    if frame.slope == 1 and frame.intercept == 0:
        return plane
    if frame.slope == int(frame.slope) and frame.intercept == int(frame.intercept):
        exact = plane.astype(np.int32) * int(frame.slope) + int(frame.intercept)
        fits = exact.min() >= _INT16.min and exact.max() <= _INT16.max
        return exact.astype(np.int16) if fits else exact
    return (plane * np.float64(frame.slope) + frame.intercept).astype(np.float32)


def _is_palette(header: Dataset) -> bool:
    return str(header.get("PhotometricInterpretation", "")) == "PALETTE COLOR"


def _first(value: Any, otherwise: float) -> float:
    return otherwise if value is None or value == "" else float(value)


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if not value or len(value) != count:
        return None
    return tuple(float(number) for number in value)
