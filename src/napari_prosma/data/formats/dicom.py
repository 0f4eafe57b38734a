"""DICOM: a folder becomes its series, a series a volume sorted by where its slices lie, not by name.

Series that share a folder are told apart, values are as the header means them (rescaling, tables, white as
0, padding), missing and repeated slices are reported. Multi-frame files become volumes (enhanced CT and MR)
or clips over time (ultrasound), and so do frames of one place.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.data.case import Header, Image
from napari_prosma.data.formats.dicom_frames import (
    KINDS,
    LABEL_KINDS,
    NOT_OF_TIME,
    SUFFIXES,
    Frame,
    aspect,
    frames_of,
    holds_series,
    holds_stills,
    is_dicom,
    is_directory,
    is_packed,
    is_still,
    pixel_notices,
    promised_bytes,
    require_even,
    seconds_per_frame,
    why_no_image,
    why_no_pixels,
)
from napari_prosma.data.formats.dicom_frames import (
    read_header as read_file_header,
)
from napari_prosma.data.formats.dicom_stacks import (
    beside_line,
    even_places,
    frames_beyond,
    normal_of,
    stacks_of,
    why_no_volume,
)
from napari_prosma.data.limits import require_count, require_possible
from napari_prosma.data.texts import number_with_comma
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "SUFFIXES",
    "Frame",
    "Series",
    "find_series",
    "holds_series",
    "holds_stills",
    "is_dicom",
    "read",
    "read_header",
]

_LEAST_BYTES_OF_A_FRAME = 8
"""Of a compressed one: the tag of its item and its length."""
_SAME_DIRECTION = 1e-3  # of direction cosines: half a voxel over 500 of them
_SAME_SPACING = 1e-3  # of the spacing
_SKEWED = 1e-2  # cosine of the angle between rows and columns
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
_MS_PER_S = 1000
_LISTED = 6
_ONE_PER_SERIES = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID")
"""A UID alone does not do: anonymisers give several series the same."""
_COMMAS = "file with decimal commas"
_UNUSABLE = ("damaged file", _COMMAS, "file without pixels", "file that is cut short")
_INT16 = np.iinfo(np.int16)
_CONVERT = {
    **dict.fromkeys(LABEL_KINDS, "it labels a series: give a folder that holds both"),
    "dose distribution (RTDOSE)": "convert it to .nii.gz with 3D Slicer",
    "whole-slide image in tiles": "convert it to OME-TIFF or OME-Zarr with Bio-Formats",
    _COMMAS: "write the numbers of its header with decimal points, as the standard requires",
    "mosaic that holds its slices side by side": "convert it to .nii.gz with dcm2niix",
}


@dataclass(frozen=True)
class Series:
    """Frames that make one image, sorted by place."""

    uid: str
    description: str
    modality: str
    frames: tuple[Frame | None, ...]  # one per slice of the regular grid; None where a slice is missing
    channels: int
    shape: tuple[int, ...]
    geometry: Geometry
    notices: tuple[str, ...] = field(default=())
    is_localizer: bool = False
    number: str = ""
    study: str = ""
    frame_of_reference: str = ""
    patient: str = ""  # what tells this patient from others, without the name
    why_none: str = ""  # why its frames make no image, if they do not

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the series, each once."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames if frame is not None))

    def read(self) -> Image:
        """The image of the series, in Hounsfield units where the series is a CT; read slice by slice.

        What the header calls padding, and slices that are missing, get the lowest value. Where white is
        stored as 0 the values are mirrored within the range that the headers of all slices allow together,
        so that equal values stay equal; CT and PET hold quantities, which are never mirrored.

        Raises ``DataError``: its frames make no image, or the pixels of a file cannot be decoded.
        """
        self.require_whole()
        channels = [self.array_of(planes) for planes in self._stacked()]
        array = channels[0][None] if len(channels) == 1 else np.stack(channels)
        return Image(array, self.geometry, self.notices, self)

    def require_whole(self) -> None:
        """Refuse frames that make no image (raises ``DataError``)."""
        if self.why_none:
            raise DataError(
                f"'{self.files[0].parent}' holds no volume: slices of '{self.description or self.uid}' "
                f"{self.why_none}"
            )

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of its planes: (n, rows, columns)."""
        return self.planes_of(np.broadcast_to(False, self.shape)).shape

    def array_of(self, planes: np.ndarray) -> np.ndarray:
        """Planes (n, rows, columns), one per frame, as an array (*spatial) on the grid of the image."""
        source = self.geometry.source
        array = planes if source is None else source.to_array(planes.transpose(2, 1, 0))
        return array.reshape(self.shape)

    def planes_of(self, array: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`array_of`: what lies on each frame, as its rows and columns have it."""
        source = self.geometry.source
        planes = array if source is None else source.to_stored(array).transpose(2, 1, 0)
        return planes if planes.ndim == 3 else planes[None]

    def _stacked(self) -> np.ndarray:
        """(C, n, rows, columns)"""
        volume: np.ndarray | None = None
        decoded: tuple[Path, np.ndarray] | None = None
        empty: list[int] = []
        padded: dict[int, np.ndarray] = {}
        mirror = _mirror(self.frames)
        for place, frame in enumerate(self.frames):
            if frame is None:
                empty.append(place)
                continue
            if decoded is None or decoded[0] != frame.path:
                decoded = (frame.path, _pixels(frame.path))
            stored = decoded[1][frame.index]
            if frame.padding is not None:
                outside = (stored >= frame.padding[0]) & (stored <= frame.padding[1])
                if outside.any():
                    padded[place] = outside
            plane = _rescaled(stored, frame)
            if frame.inverted:
                plane = _fitting(mirror - plane.astype(np.result_type(plane, np.int64)), plane.dtype)
            if volume is None:
                volume = np.zeros((len(plane), len(self.frames), *plane.shape[1:]), plane.dtype)
            elif volume.shape[0] != len(plane) or volume.shape[2:] != plane.shape[1:]:
                raise DataError(f"'{frame.path}' has another size than its header says; export it again")
            elif np.result_type(volume, plane) != volume.dtype:
                volume = volume.astype(np.result_type(volume, plane))
            volume[:, place] = plane
        assert volume is not None
        if empty or padded:
            _fill(volume, empty, padded)
        return volume


def find_series(folder: str | Path) -> tuple[Series, ...]:
    """The image series of a folder and its subfolders, from their headers.

    Raises ``DataError``: when there is none; what was found instead is named.
    """
    folder = Path(folder)
    if folder.is_file() and is_directory(folder):
        folder = folder.parent
    files = (
        [folder]
        if folder.is_file()
        else sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    )
    groups: dict[tuple[Any, ...], list[_Group]] = defaultdict(list)
    left_out: dict[str, list[Path]] = defaultdict(list)
    without_pixels: list[tuple[tuple[Any, ...], Frame]] = []
    refused: list[DataError] = []
    seen: set[tuple[Any, ...]] = set()
    for path in files:
        if not is_dicom(path):
            continue
        try:
            header = read_file_header(path)
            why = why_no_image(header)
            if why is not None or header is None:
                left_out[why or ""].append(path)
                continue
            _require_plausible(path, header)
            frames = frames_of(path, header)
            bare = why_no_pixels(header)
        except DataError as error:
            refused.append(error)
            left_out["damaged file"].append(path)
            continue
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            left_out[_COMMAS if number_with_comma(error) else "damaged file"].append(path)
            continue
        if bare is not None:
            left_out[bare].append(path)
            without_pixels += [(_key(header, frame), frame) for frame in frames]
            continue
        first = frames[0]
        copy = (first.instance, first.position, first.number)
        if first.instance and copy in seen:
            left_out["copy of another file"].append(path)
            continue
        seen.add(copy)
        for frame in frames:
            alike = groups[_key(header, frame)]
            fitting = next((group for group in alike if group.takes(frame)), None)
            if fitting is None:
                alike.append(_Group(header, [frame]))
            else:
                fitting.frames.append(frame)
    left_out.pop("", None)
    unusable = [path for why in _UNUSABLE for path in left_out.get(why, ())]
    if not groups and refused:
        raise refused[0]
    if not groups:
        raise DataError(_nothing_found(folder, left_out))
    notice = tuple(
        f"left out as {why}: {_listed(paths)}" for why, paths in left_out.items() if why not in LABEL_KINDS
    )
    found: list[Series] = []
    for key, group in ((key, group) for key, alike in groups.items() for group in alike):
        unread = [frame for of, frame in without_pixels if of == key and group.takes(frame)]
        found += [_without_ends(one, unread) for one in _series(group, notice)]
    unplaced = [one for one in found if len(one.frames) == 1 and not one.is_localizer]
    return tuple(_with_suspects(one, unusable, unplaced) for one in found)


def _without_ends(series: Series, unread: Sequence[Frame]) -> Series:
    """Refused where frames that cannot be read continue its grid: a series of which a part was loaded."""
    beyond = frames_beyond([frame for frame in series.frames if frame is not None], unread)
    if not beyond or series.why_none:
        return series
    why = f"continue in {_listed(sorted({frame.path for frame in beyond}))}, which cannot be read"
    return replace(series, why_none=f"{why}; download or export the series again")


def _with_suspects(series: Series, unusable: Sequence[Path], unplaced: Sequence[Series]) -> Series:
    """Refused where slices are missing and files lie there that may be these, but cannot be used."""
    missing = series.frames.count(None)
    if not missing or series.why_none:
        return series
    folders = {path.parent for path in series.files}
    slices = [
        one.files[0]
        for one in unplaced
        if (one.uid, one.modality) == (series.uid, series.modality) and one.shape == series.stored_shape[1:]
    ]
    suspects = sorted({path for path in unusable if path.parent in folders} | set(slices))
    if not suspects:
        return series
    why = (
        f"are missing ({missing} of {len(series.frames)}), and {_listed(suspects)} cannot be used in their "
        "place; export the series again"
    )
    return replace(series, why_none=why)


@dataclass
class _Group:
    """Frames of one series that share size, orientation and spacing."""

    header: Dataset
    frames: list[Frame]

    def takes(self, frame: Frame) -> bool:
        """Whether a frame belongs here: directions and spacing are compared with a tolerance."""
        first = self.frames[0]
        return _close(first.orientation, frame.orientation, _SAME_DIRECTION, 0) and _close(
            first.spacing, frame.spacing, 0, _SAME_SPACING
        )


def _key(header: Dataset, frame: Frame) -> tuple[Any, ...]:
    """What frames of one image have in common to the letter; a clip or a view never goes beyond its file."""
    is_clip = frame.position is None and int(header.get("NumberOfFrames") or 1) > 1
    is_alone = is_clip or is_still(header)
    return (
        *(str(header.get(name) or "") for name in _ONE_PER_SERIES),
        "" if header.get("SeriesInstanceUID") else str(header.get("SeriesNumber") or ""),
        *(int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel") or 1)),
        _is_localizer(header),
        frame.position is None,
        frame.path if is_alone else None,
    )


def _close(
    one: tuple[float, ...] | None, other: tuple[float, ...] | None, absolute: float, relative: float
) -> bool:
    if one is None or other is None:
        return one is other
    return all(abs(a - b) <= absolute + relative * abs(a) for a, b in zip(one, other, strict=True))


def _is_localizer(header: Dataset) -> bool:
    return "LOCALIZER" in (header.get("ImageType") or ())


def _listed(paths: Sequence[Path]) -> str:
    return f"'{paths[0].name}'" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _nothing_found(folder: Path, left_out: Mapping[str, Sequence[Path]]) -> str:
    if not left_out:
        return f"'{folder}' holds no DICOM image; give the folder of a CT, MR or ultrasound series"
    why = next(iter(left_out))
    remedy = _CONVERT.get(why, "give the folder of a CT, MR or ultrasound series")
    if left_out[why][0] == folder:
        return f"'{folder}' is no DICOM image but a {why}; {remedy}"
    told = ", ".join(f"{why} ({_listed(paths)})" for why, paths in left_out.items())
    return f"'{folder}' holds no DICOM image but {told}; {remedy}"


def read_header(path: Path) -> Header:
    """Header of the one series of a folder, or of one file."""
    return header_of(series_of(path))


def header_of(series: Series) -> Header:
    """What a series says of its image."""
    return Header(series.channels, series.shape, series.geometry)


def read(path: Path) -> Image:
    """The one series of a folder as (C, z, y, x), or one file: (C, y, x), a clip (C, t, y, x), a volume.

    Single images beside a stack, such as its localizer, are left out with a notice.

    Raises ``DataError``: when the folder holds several series; they are named.
    """
    return series_of(path).read()


def series_of(path: Path) -> Series:
    """The one series of a folder, or of one file; see :func:`read`."""
    found = find_series(path)
    stacks = [one for one in found if len(one.frames) > 1 and not one.is_localizer]
    if len(found) > 1 and len(stacks) == 1:
        others = [path for one in found if one is not stacks[0] for path in one.files]
        said = f"left out beside the series: {_listed(others)}"
        stacks[0].require_whole()
        return replace(stacks[0], notices=(*stacks[0].notices, said))
    if len(found) > 1:
        listed = "; ".join(
            f"{one.description or one.uid} ({len(one.frames)} slice{'s' * (len(one.frames) > 1)} in "
            f"{one.files[0].parent.name}/, the first is '{one.files[0].name}')"
            for one in found[:_LISTED]
        )
        listed += f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise DataError(
            f"'{path}' holds {len(found)} series: {listed}. "
            "Move the files of one into a folder of their own and give that, or open all in napari"
        )
    found[0].require_whole()
    return found[0]


def _series(group: _Group, notices: tuple[str, ...]) -> list[Series]:
    """The series of frames that share orientation and size; several where places repeat."""
    header, frames = group.header, group.frames
    first = frames[0]
    require_even(first.path, first.spacing)
    spacing = first.spacing or aspect(header) or (1.0, 1.0)
    unit = "mm" if first.spacing else "pixel"
    palette = _is_palette(header)
    notices = (*notices, *pixel_notices(header))
    common: dict[str, Any] = {
        "uid": str(header.get("SeriesInstanceUID", "")),
        "description": str(header.get("SeriesDescription", "")),
        "modality": str(header.get("Modality", "")),
        "channels": 3 if int(header.get("SamplesPerPixel") or 1) == 3 or palette else 1,
        "is_localizer": _is_localizer(header),
        "number": str(header.get("SeriesNumber") or ""),
        "study": str(header.get("StudyInstanceUID", "")),
        "frame_of_reference": str(header.get("FrameOfReferenceUID", "")),
        "patient": _pseudonym(header),
    }
    plane = (int(header.Rows), int(header.Columns))
    in_one_file = int(header.get("NumberOfFrames") or 1) > 1
    if len(frames) == 1 and not in_one_file:
        geometry = Geometry(spacing, (0.0, 0.0), unit)
        return [Series(**common, frames=tuple(frames), shape=plane, geometry=geometry, notices=notices)]
    if first.orientation is None or first.position is None or _are_of_no_place(frames):
        ordered, step, said = _by_number(frames, header)
        axis = "t" if in_one_file else "z"
        seconds = seconds_per_frame(header) if in_one_file else 0.0
        if seconds:
            said = (f"a clip of {len(frames)} frames, {seconds * _MS_PER_S:g} ms each",)
        geometry = Geometry((step, *spacing), (0.0,) * 3, unit, (axis, "y", "x"), frame_seconds=seconds)
        shape = (len(ordered), *plane)
        return [Series(**common, frames=ordered, shape=shape, geometry=geometry, notices=(*notices, *said))]
    if abs(np.dot(first.orientation[:3], first.orientation[3:])) > _SKEWED:
        raise DataError(
            f"'{first.path}' has rows and columns that are not at right angles; export the series again"
        )
    stacks = stacks_of(frames)
    one_kind = len({frame.kinds[:NOT_OF_TIME] for frame in frames}) == 1
    if one_kind and len(stacks) > 1 and {len(stack.frames) for stack in stacks} == {1}:
        return [_over_time([stack.frames[0] for stack in stacks], common, spacing, plane, notices)]
    result = []
    for number, stack in enumerate(stacks, 1):
        grid, affine, said = _grid(stack.frames, spacing, header)
        source = SourceFrame.canonical(affine)
        stored = (plane[1], plane[0], len(grid))
        volume = tuple(stored[n] for n in source.order)
        described = dict(common)
        if len(stacks) > 1:
            which = ", ".join(filter(None, (f"{number} of {len(stacks)}", stack.of)))
            described["description"] = f"{common['description']} ({which})"
        result.append(
            Series(
                **described,
                frames=grid,
                shape=volume,
                geometry=Geometry.patient(source, volume),
                notices=(*notices, *([stack.notice] if stack.notice else []), *said),
                why_none=stack.why_none or why_no_volume(stack.frames),
            )
        )
    return result


def _are_of_no_place(frames: Sequence[Frame]) -> bool:
    """Whether slices lost their positions: all have one, but different places along the stack."""
    return (
        len({frame.position for frame in frames}) == 1
        and len({frame.location for frame in frames}) == len(frames)
        and len({frame.path for frame in frames}) == len(frames)
    )


def _by_number(frames: Sequence[Frame], header: Dataset) -> tuple[tuple[Frame, ...], float, tuple[str, ...]]:
    """Frames that do not say where they lie, in the order of their numbers, and their distance."""
    ordered = tuple(sorted(frames, key=lambda frame: frame.number))
    if int(header.get("NumberOfFrames") or 1) > 1:
        return ordered, 1.0, ()
    said = "the slices do not say where they lie; they are in the order of their numbers"
    step = abs(float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1))
    return ordered, step, (said,)


def _over_time(
    frames: Sequence[Frame],
    common: Mapping[str, Any],
    spacing: tuple[float, ...],
    plane: tuple[int, int],
    notices: tuple[str, ...],
) -> Series:
    """Frames of one place: a clip, in the order of their times."""
    trigger = list(KINDS).index("TriggerTime")
    times = [frame.kinds[trigger] for frame in frames]
    seconds = 0.0
    if all(times) and len(set(times)) == len(times):
        frames = sorted(frames, key=lambda frame: float(frame.kinds[trigger]))
        seconds = float(np.median(np.diff(sorted(map(float, times))))) / _MS_PER_S
    each = f", {seconds * _MS_PER_S:g} ms each" if seconds else ""
    geometry = Geometry((1.0, *spacing), (0.0,) * 3, "mm", ("t", "y", "x"), frame_seconds=seconds)
    return Series(
        **common,
        frames=tuple(frames),
        shape=(len(frames), *plane),
        geometry=geometry,
        notices=(*notices, f"a clip of {len(frames)} frames of one place{each}"),
    )


def _grid(
    stack: Sequence[Frame],
    spacing: tuple[float, ...],
    header: Dataset,
) -> tuple[tuple[Frame | None, ...], np.ndarray, tuple[str, ...]]:
    """The stack on an even grid, its affine (column, row, slice) to RAS+, and what is to be said of it."""
    orientation, normal = stack[0].orientation, normal_of(stack[0])
    assert orientation is not None
    positions = np.array([frame.position for frame in stack])
    grid: tuple[Frame | None, ...] = tuple(stack)
    said: tuple[str, ...] = ()
    if len(stack) > 1:
        along = (positions - positions[0]) @ normal
        places = even_places(along)
        if places is None:
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
        beside = beside_line(stack).max()
        if beside > max(spacing):
            said += (
                f"slices lie up to {beside:.3g} mm beside each other; they are shown in a straight line",
            )
        between = (positions[-1] - positions[0]) / (len(grid) - 1)
    else:
        thickness = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1)
        between = normal * thickness
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * spacing[1]
    affine[:3, 1] = np.array(orientation[3:]) * spacing[0]
    affine[:3, 2] = between
    affine[:3, 3] = positions[0]
    return grid, _LPS_TO_RAS @ affine, said


def _mirror(frames: Iterable[Frame | None]) -> int | float:
    """What a value and its mirror image add up to, over the values that all the frames allow together."""
    ends = [
        end * frame.slope + frame.intercept for frame in frames if frame is not None for end in frame.span
    ]
    both = min(ends) + max(ends)
    return int(both) if both == int(both) else both


def _fitting(array: np.ndarray, kind: np.dtype) -> np.ndarray:
    """``array`` of the type ``kind`` where that holds its values."""
    if kind.kind == "f":
        return array.astype(kind)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return array.astype(kind) if array.min() >= low and array.max() <= high else array


def _fill(volume: np.ndarray, empty: Sequence[int], padded: Mapping[int, np.ndarray]) -> None:
    """Give missing slices and padding the lowest value of all the others."""
    lowest = [
        np.min(volume[:, place], where=~padded[place], initial=volume.max())
        if place in padded
        else volume[:, place].min()
        for place in range(volume.shape[1])
        if place not in empty
    ]
    for place, outside in padded.items():
        volume[:, place][outside] = min(lowest)
    volume[:, list(empty)] = min(lowest)


def _pixels(path: Path) -> np.ndarray:
    """Stored values of a file, (frames, C, rows, columns), after the header's tables."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    from napari_prosma.data.formats import dicom_codecs

    dicom_codecs.register()
    try:
        data = dcmread(path, force=True)
        _complete(data)
        _require_plausible(path, data)
        unused = _unused_low_bits(data)
        array = data.pixel_array >> unused if unused else data.pixel_array
        if _is_palette(data):
            array = apply_color_lut(array, data)
        elif data.get("ModalityLUTSequence"):
            array = apply_modality_lut(array, data)
    except (NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"'{path}' is damaged or packed in a way that is not known ({_packing(data)}); "
            "export it uncompressed"
        ) from error
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"'{path}' is cut short or damaged ({error}); export the series again") from error
    in_colour = array.ndim >= 3 and array.shape[-1] == 3 and (_is_palette(data) or data.SamplesPerPixel == 3)
    array = np.moveaxis(array, -1, -3) if in_colour else array[..., None, :, :]
    return array if array.ndim == 4 else array[None]


def _complete(data: Dataset) -> None:
    """Say how the pixels are packed where the file lacks its first part, which would."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _unused_low_bits(data: Dataset) -> int:
    """How far values lie above the lowest bit of their words; pydicom is told to keep the bits up to them."""
    stored = int(data.get("BitsStored") or 0)
    high = int(data.get("HighBit") or 0)
    packed = data.file_meta.TransferSyntaxUID.is_encapsulated
    if packed or not stored or not stored <= high < int(data.BitsAllocated):
        return 0
    data.BitsStored = high + 1
    return high + 1 - stored


def _require_plausible(path: Path, data: Dataset) -> None:
    """Refuse a header that promises more frames than its file can hold, or than memory."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit, RLELossless

    promised = promised_bytes(data)
    if not is_packed(data):
        require_possible(path, promised)
    else:
        frames = int(data.get("NumberOfFrames") or 1)
        require_count(path, "frames", frames, path.stat().st_size // _LEAST_BYTES_OF_A_FRAME)
        packings = {RLELossless: "rle", DeflatedExplicitVRLittleEndian: "deflate"}
        packings |= dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit), "jpeg")
        syntax = data.file_meta.TransferSyntaxUID
        require_possible(path, promised, packings.get(syntax, "other"))


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


def _pseudonym(header: Dataset) -> str:
    """A hash of what names the patient; "" where nothing does."""
    named = f"{header.get('PatientID') or ''}\n{header.get('PatientName') or ''}".strip()
    return hashlib.blake2b(named.encode(), digest_size=8).hexdigest() if named else ""


def _is_palette(header: Dataset) -> bool:
    return str(header.get("PhotometricInterpretation", "")) == "PALETTE COLOR"
