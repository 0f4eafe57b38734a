"""NIfTI 1 and 2, Analyze 7.5: volumes as (z, y, x) = (head, back, left), results written exactly over them.

A fourth axis is time where the header says so; else it holds channels, as segmentation tools use it.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.data import voxels
from napari_prosma.data.atomic import wanted_name
from napari_prosma.data.case import Header, Image
from napari_prosma.data.limits import require_possible
from napari_prosma.data.texts import parse_json
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame

# nibabel is imported where it is used: with pydicom it takes 0.15 s, which every panel would wait for.
if TYPE_CHECKING:
    from nibabel.analyze import AnalyzeImage
    from nibabel.nifti1 import Nifti1Header, Nifti1Pair

SUFFIXES = (".nii", ".nii.gz", ".hdr")
"""A header ``.hdr`` has its voxels in ``.img`` beside it."""
_LONGEST_FIXED_HEADER, _MOST_EXTENSIONS = 540, 2**26
"""Bytes of the header of NIfTI-2; bytes of notes behind a header."""
_SECOND, _MOST_NOTES = 540, 2**20
"""The number that NIfTI-2 begins with; header and notes of a misnamed file."""
_COMMENT, _TIME_SERIES = 6, 2001
"""Codes of NIfTI: of an extension, of an intent."""
_SAID = "said"
_AS_STANDARD = (
    "it does not say how the patient lies; taken as its standard has it, left and right may be exchanged"
)
_X, _Y, _Z = 0, 1, 2
_ANALYZE_AXES = (
    ((_X, -1), (_Y, 1), (_Z, 1)),
    ((_X, -1), (_Z, 1), (_Y, 1)),
    ((_Y, 1), (_Z, 1), (_X, -1)),
    ((_X, -1), (_Y, -1), (_Z, 1)),
    ((_X, -1), (_Z, -1), (_Y, 1)),
    ((_Y, 1), (_Z, 1), (_X, 1)),
)
"""Of each orientation of Analyze the axis in space, and which way, of each stored axis."""
_CLIP = ("t", "y", "x")
_SAME_PLACE = 0.05  # of the smallest spacing
_MAX_NIFTI1_AXIS = 32767
_MOST_CHANNELS = 8  # ITK states seconds and a step of 1 of every fourth axis; beyond these it is time anyway
_UNWRITTEN_STEPS = (0.0, 1.0)
_TIMES = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_SPECTRA = ("hz", "ppm", "rads")
_TABLE_ENTRY = re.compile(r'<Label\b[^>]*\bKey="(\d+)"[^>]*>([^<]*)</Label>')


def read_header(path: Path) -> Header:
    """Header of a NIfTI file; no voxel is read."""
    with _opened(path) as stored:
        return _header(path, stored)


def read(path: Path) -> Image:
    """Volume as (C, z, y, x) of the stored type, or a time series as (1, t, z, y, x).

    An uncompressed file without scaling is mapped, not read.
    """
    with _opened(path) as stored:
        header = _header(path, stored)
        array = _with_channels(_voxels(path, stored))
        if header.geometry.axes == _CLIP:
            array = array[:, :, 0]
        image = voxels.image_of(array, header)
        notices = (*stored.extra.get(_SAID, ()), *_said_of_time(header), *_disagreement(path, stored))
    return replace(image, notices=notices)


def read_label(path: Path) -> tuple[np.ndarray, Geometry]:
    """Label volume (z, y, x), or (C, z, y, x) for one-hot files, with the type that the file holds."""
    image = read(path)
    return (image.array[0] if len(image.array) == 1 else image.array), image.geometry


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry, class_names: tuple[str, ...]) -> None:
    """Labels (z, y, x) in the frame of the image they belong to; names go into a header extension."""
    from nibabel.nifti1 import Nifti1Extension

    header = _header_like(geometry, labels.shape)
    header.set_intent("label")
    if class_names:
        names = json.dumps({"labels": {str(n): name for n, name in enumerate(class_names)}})
        header.extensions.append(Nifti1Extension(_COMMENT, names.encode()))
    _write(path, labels, geometry, header)


def write_image(path: Path, image: Image) -> None:
    """Image (C, z, y, x) of its own type; channels become the fourth axis, one channel no axis."""
    array = image.array[0] if len(image.array) == 1 else image.array
    _write(path, array, image.geometry, _header_like(image.geometry, image.array.shape[1:]))


def write_map(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Map (C, z, y, x) or (z, y, x) as float32; channels become the fourth axis."""
    header = _header_like(geometry, array.shape[-geometry.ndim :])
    _write(path, array.astype(np.float32, copy=False), geometry, header)


def label_names(path: Path) -> dict[int, str]:
    """Names of the classes: ours, or the table that Connectome Workbench and TotalSegmentator write."""
    names = dict(_ours(path).get("labels", {}))
    with _opened(path) as stored:
        for extension in stored.header.extensions:
            names |= dict(_TABLE_ENTRY.findall(_text(extension)))
    return {int(value): str(name) for value, name in names.items()}


def as_ours(stored: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Stored labels (i, j, k[, t]) as (*spatial) of ``geometry``; a view."""
    if geometry.source is not None:
        array = geometry.source.to_array(stored)
        return np.moveaxis(array, -1, 0) if geometry.axes[0] == "t" else array
    return stored[:, :, 0].T if geometry.axes == _CLIP else stored.T


def _header(path: Path, stored: Nifti1Pair) -> Header:
    shape = (*stored.shape, 1, 1)[:3]
    if stored.get_data_dtype().kind == "c":
        raise DataError(f"'{path}' holds complex numbers; save their magnitude")
    if stored.ndim > 4 and stored.shape[3] > 1 and max(stored.shape[4:]) > 1:
        told = " x ".join(map(str, stored.shape[3:]))
        raise DataError(f"'{path}' holds {told} values for each voxel; save one volume, or one series, of it")
    unit, factor = {"micron": ("um", 1.0), "meter": ("mm", 1000.0)}.get(
        stored.header.get_xyzt_units()[0], ("mm", 1.0)
    )
    raw = bytes(stored.header.binaryblock)
    affine = stored.affine if factor == 1 else np.diag((factor, factor, factor, 1.0)) @ stored.affine
    try:
        source = SourceFrame.canonical(affine, raw)
    except ValueError as error:
        raise DataError(f"'{path}' does not say where its voxels lie: {error}; repair its header") from error
    frames, seconds, kept = _time(path, stored)
    ours = (*((frames,) if frames else ()), *(shape[n] for n in source.order))
    geometry = replace(Geometry.patient(source, ours, unit), frame_seconds=seconds)
    if kept == _CLIP and shape[2] == 1:
        known = unit if stored.header.get_xyzt_units()[0] != "unknown" else "pixel"
        spacing = (1.0, *(geometry.spacing[-2:] if known != "pixel" else (1.0, 1.0)))
        geometry = Geometry(spacing, (0.0,) * 3, known, _CLIP, frame_seconds=seconds)
        ours = (frames, shape[1], shape[0])
    behind = 1 if frames else int(np.prod(stored.shape[3:], dtype=int))
    in_voxel = len(stored.get_data_dtype().fields or "1")
    return Header(min(behind * in_voxel, 3) if in_voxel > 1 else behind, ours, geometry)


def _time(path: Path, stored: Nifti1Pair) -> tuple[int, float, tuple[str, ...]]:
    """Frames of a time series (0 where there is no time), seconds between them, axes as we wrote them."""
    axes = tuple(_ours_of(stored).get("axes", ()))
    shape, unit = (*stored.shape, 1, 1), str(stored.header.get_xyzt_units()[1])
    if stored.ndim < 4 or any(n > 1 for n in stored.shape[4:]) or not (shape[3] > 1 or axes):
        return 0, 0.0, axes
    if unit in _SPECTRA:
        raise DataError(f"'{path}' has a fourth axis in {unit}, a spectrum; give one volume of it")
    step = float(stored.header["pixdim"][4])
    told = unit in _TIMES and (step not in _UNWRITTEN_STEPS or shape[3] > _MOST_CHANNELS)
    told |= int(stored.header["intent_code"]) == _TIME_SERIES
    if not told and "t" not in axes:
        return 0, 0.0, axes
    return shape[3], abs(step) * _TIMES.get(unit, 0.0), axes


def _said_of_time(header: Header) -> tuple[str, ...]:
    geometry = header.geometry
    if geometry.axes[0] != "t":
        return ()
    each = f", {geometry.frame_seconds:g} s each" if geometry.frame_seconds else ""
    return (f"a clip of {header.shape[0]} {'frames' if geometry.ndim == 3 else 'volumes'}{each}",)


def _ours(path: Path) -> dict[str, Any]:
    with _opened(path) as stored:
        return _ours_of(stored)


def _ours_of(stored: Nifti1Pair) -> dict[str, Any]:
    """What :func:`write_labels` and its like wrote beside the header."""
    found: dict[str, Any] = {}
    for extension in stored.header.extensions:
        if extension.get_code() == _COMMENT:
            try:
                content = parse_json(_text(extension), "a comment")
            except DataError:  # of another program
                continue
            found |= content if isinstance(content, dict) else {}
    return found


def _text(extension: Any) -> str:
    content = extension.get_content()
    return content if isinstance(content, str) else bytes(content).rstrip(b"\0").decode("utf-8", "replace")


def _disagreement(path: Path, stored: Nifti1Pair) -> tuple[str, ...]:
    """What to say when the file's two affines differ: the standard prefers the sform where it has a code."""
    sform = stored.header.get_sform(coded=True)[0]
    try:
        qform = stored.header.get_qform(coded=True)[0]
    except ValueError as error:  # no rotation at all; nibabel has checked it where it is the one in use
        return (f"'{path.name}': its qform is damaged ({error}); the sform is used",)
    if sform is None and qform is None:
        said = (
            f"'{path.name}' does not say how the patient lies (its sform and qform codes are 0); "
            "left and right may be exchanged",
        )
        return (*said, voxels.UNSIZED.format(path.name)) if _lacks_sizes(path) else said
    if sform is None or qform is None:
        return ()
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in (*stored.shape, 1, 1)[:3]], [1])).reshape(
        4, -1
    )
    apart = float(np.linalg.norm((sform - qform) @ corners, axis=0).max())
    smallest = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    if apart <= _SAME_PLACE * smallest:
        return ()
    return (
        f"'{path.name}': sform and qform lie up to {apart:.3g} mm apart; the sform is used, as NIfTI rules",
    )


def _lacks_sizes(path: Path) -> bool:
    """Whether a size of the voxels is 0 in the file, which nibabel takes for 1."""
    with gzip.open(path) if voxels.is_gzip(path) else path.open("rb") as file:
        start = file.read(_LONGEST_FIXED_HEADER)
    for order in "<>":
        size = struct.unpack(f"{order}i", start[:4])[0]
        if place := {348: (f"{order}3f", 80), _SECOND: (f"{order}3d", 112)}.get(size):
            return 0 in struct.unpack_from(place[0], start, place[1])
    return False


def _voxels(path: Path, stored: Nifti1Pair) -> np.ndarray:
    """Stored voxels (i, j, k, ...), scaled as the header says: to float32 where that is exact enough."""
    proxy: Any = stored.dataobj  # an ArrayProxy, whose numbers nibabel leaves untyped
    if voxels.is_gzip(path):
        raw = voxels.read_voxels(path, 0, proxy.shape, proxy.dtype, "deflate", proxy.offset)
    else:
        raw = np.asanyarray(proxy.get_unscaled())
    if (proxy.slope, proxy.inter) == (1.0, 0.0) or raw.dtype.fields:
        return raw
    scaled: np.ndarray = raw.astype(
        np.float32 if raw.dtype.itemsize <= 2 or raw.dtype.kind == "f" else np.float64
    )
    np.multiply(scaled, proxy.slope, out=scaled)
    return np.add(scaled, proxy.inter, out=scaled)


def _with_channels(stored: np.ndarray) -> np.ndarray:
    """Stored voxels as (i, j, k, C)."""
    if stored.dtype.fields:
        stored = np.stack([stored[name] for name in ("R", "G", "B")], axis=-1)
    while stored.ndim < 3:
        stored = stored[..., None]
    return stored.reshape(*stored.shape[:3], -1, order="F")


def _header_like(geometry: Geometry, shape: tuple[int, ...]) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Extension

    header = _header_of_source(geometry) or _new_header(geometry, shape)
    if geometry.frame_seconds:
        header["pixdim"][4] = geometry.frame_seconds / _TIMES.get(header.get_xyzt_units()[1], 1.0)
    if "t" in geometry.axes:
        axes = json.dumps({"axes": "".join(geometry.axes)})
        header.extensions.append(Nifti1Extension(_COMMENT, axes.encode()))
    return header


def _header_of_source(geometry: Geometry) -> Nifti1Header | None:
    """The header of the file that an image came from, without what belonged to its voxels alone."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if geometry.source is None or not geometry.source.nifti_header:
        return None
    raw = geometry.source.nifti_header
    kind = Nifti1Header if len(raw) == Nifti1Header.sizeof_hdr else Nifti2Header
    header = kind.from_fileobj(BytesIO(raw), check=False)
    like = kind(endianness=header.endianness)
    for name in ("pixdim", "qform_code", "sform_code", "xyzt_units"):
        like[name] = header[name]
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        like[name] = header[name]
    for name in ("srow_x", "srow_y", "srow_z"):
        like[name] = header[name]
    like.set_data_shape(header.get_data_shape()[:3])
    return like


def _new_header(geometry: Geometry, shape: tuple[int, ...]) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    header = (Nifti2Header if max(shape) > _MAX_NIFTI1_AXIS else Nifti1Header)()
    source = geometry.source
    space = tuple(n for n, axis in enumerate(geometry.axes) if axis != "t")
    flat = Geometry(tuple(geometry.spacing[n] for n in space), tuple(geometry.origin[n] for n in space))
    affine = np.asarray(source.affine) if source else voxels.affine_of(flat)
    lengths = {"um": "micron", "mm": "mm"}
    header.set_xyzt_units(
        lengths.get(geometry.unit, "unknown"), "sec" if geometry.frame_seconds else "unknown"
    )
    ours = tuple(shape[n] for n in space)
    stored = source.to_stored(np.empty(ours, bool)).shape if source else ours[::-1]
    header.set_data_shape((*stored, 1, 1)[: max(3, len(stored))])
    header.set_sform(affine, code="scanner")
    # A qform holds no shear; where it has a code, ITK takes it for the place all the same.
    code = "unknown" if source is not None and source.is_sheared else "scanner"
    header.set_qform(affine, code=code, strip_shears=True)
    return header


def _write(path: Path, array: np.ndarray, geometry: Geometry, header: Nifti1Header) -> None:
    import nibabel

    if path.suffix.lower() == ".hdr":
        raise DataError(f"'{wanted_name(path)}': results are written as one file; use .nii.gz")
    stored, _ = voxels.stored_of(array, geometry)
    if geometry.axes == _CLIP:
        stored = stored[:, :, None]
    space = geometry.ndim if "t" not in geometry.axes else 3
    shape = header.get_data_shape() + stored.shape[space:]
    header.set_data_dtype(stored.dtype)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    kind(stored.reshape(shape), None, header).to_filename(path)


def _require_short_extensions(path: Path) -> None:
    """Refuse a gzipped file whose header says that gigabytes lie before the voxels: nibabel reads them."""
    with gzip.open(path) as file:
        start = file.read(_LONGEST_FIXED_HEADER)
    for order in "<>":
        size = struct.unpack(f"{order}i", start[:4])[0] if len(start) == _LONGEST_FIXED_HEADER else 0
        offset = {348: (f"{order}f", 108), 540: (f"{order}q", 168)}.get(size)
        if offset is not None:
            (begin,) = struct.unpack_from(offset[0], start, offset[1])
            if not begin <= _MOST_EXTENSIONS:
                raise DataError(f"'{path}' has no voxels where its header says ({begin:g}); export it again")


def _loaded(path: Path, is_packed: bool) -> Any:
    """As nibabel has it, which goes by the name; of a file that is packed against its name by its content."""
    import nibabel

    if is_packed == (path.suffix.lower() == ".gz") or path.suffix.lower() == ".hdr":
        return nibabel.load(path)
    if is_packed:  # whose voxels are not read by nibabel
        with gzip.open(path) as file:
            content = file.read(_MOST_NOTES)
    else:
        content = path.read_bytes()
    is_second = _SECOND in (struct.unpack("<i", content[:4])[0], struct.unpack(">i", content[:4])[0])
    kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
    return kind.from_stream(BytesIO(content))


def _of_analyze(path: Path, stored: AnalyzeImage) -> Nifti1Pair:
    """Analyze 7.5 as NIfTI; SPM says in a ``.mat`` where the voxels lie, others only which way they run."""
    from nibabel.nifti1 import Nifti1Pair, Nifti1PairHeader

    told = bytes(stored.header["orient"])[:1].strip(b"\0")
    code = (told[0] - ord("0") if told in b"012345" else told[0]) if told else 0
    if path.with_suffix(".mat").is_file():
        affine, said = stored.affine, "its place is that of the .mat beside it"
    elif code == 0:
        affine, said = stored.affine, _AS_STANDARD
    elif code < len(_ANALYZE_AXES):
        affine, said = np.zeros((4, 4)), _AS_STANDARD
        affine[3, 3] = 1
        for axis, (world, sign) in enumerate(_ANALYZE_AXES[code]):
            affine[world, axis] = sign * stored.header.get_zooms()[axis]
    else:
        raise DataError(
            f"'{path}' is a volume of Analyze of the orientation {code}, which is not known; convert it to "
            "NIfTI with the program that wrote it"
        )
    header = Nifti1PairHeader.from_header(stored.header)
    return Nifti1Pair(stored.dataobj, affine, header, extra={_SAID: (f"'{path.name}' is Analyze: {said}",)})


@contextmanager
def _opened(path: Path) -> Iterator[Nifti1Pair]:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.nifti1 import Nifti1Pair
    from nibabel.spatialimages import HeaderDataError

    try:
        is_packed = voxels.is_gzip(path)
        if is_packed:
            _require_short_extensions(path)
        stored = _loaded(path, is_packed)
        if isinstance(stored, nibabel.AnalyzeImage) and not isinstance(stored, Nifti1Pair):
            stored = _of_analyze(path, stored)
        if not isinstance(stored, Nifti1Pair):
            raise DataError(f"'{path}' is no NIfTI volume ({type(stored).__name__}); export it again")
        if 0 in stored.shape:
            raise DataError(f"'{path}' is empty: its shape is {stored.shape}; export it again")
        proxy: Any = stored.dataobj
        begin = proxy.offset
        if isinstance(stored, nibabel.Nifti1Image) and begin < stored.header.sizeof_hdr:
            raise DataError(
                f"'{path}' says that its voxels begin within its header, at byte {begin}; export it again"
            )
        promised = int(np.prod(stored.shape, dtype=object)) * stored.get_data_dtype().itemsize
        held = path.with_suffix(".img").stat().st_size if path.suffix.lower() == ".hdr" else None
        require_possible(path, promised, "deflate" if is_packed else "none", held)
        yield stored
    except FileNotFoundError:
        raise
    except (ImageFileError, HeaderDataError, OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is cut short or no NIfTI volume; download or export it again") from error
