"""NRRD (.nrrd, .nhdr, .seg.nrrd): header by pynrrd, voxels mapped or inflated here, so that nothing grows."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from napari_prosma.data import voxels
from napari_prosma.data.atomic import wanted_name
from napari_prosma.data.case import Header, Image
from napari_prosma.data.class_colours import colour_of
from napari_prosma.data.limits import require_inside
from napari_prosma.data.texts import parse_json
from napari_prosma.data.units import length
from napari_prosma.data.units import seconds as seconds_of
from napari_prosma.errors import DataError, in_brackets
from napari_prosma.geometry import Geometry

SUFFIXES = (".nrrd", ".nhdr")
_TO_RAS = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
_TO_RAS |= {f"{name}{'t' if len(name) == 3 else '-time'}": signs for name, signs in _TO_RAS.items()}
_WITHOUT_PATIENT = ("scanner-xyz", "sx", "3d-right-handed", "3dr", "3d-left-handed", "3dl")
_SPACE = ("domain", "space")
_ALPHA_LAST = ("rgba-color", "4-color")
_COMPLEX = ("complex",)
_PACKINGS: dict[str, voxels.Packing] = {
    "raw": "none",
    "gzip": "deflate",
    "gz": "deflate",
    "bzip2": "bzip2",
    "bz2": "bzip2",
}
_AS_TEXT = ("ascii", "text", "txt")
_LISTS_FILES = re.compile(rb"^data ?file:\s*LIST\b", re.MULTILINE)
_MITK_LABELS = "org.mitk.multilabel.segmentation.labelgroups"
_OF_VOXELS = re.compile(
    rb"(type|endian|encoding|data ?file|line ?skip|byte ?skip)\s*:(?!=)|Segment\d+_Extent\s*:=", re.IGNORECASE
)
"""Lines of a header that say how its voxels are stored, and how far segments reach."""
_LONGEST_HEADER = 1 << 16
_SPREAD = "'{}' spreads over a list of files; save it as one .nrrd"
_UM_PER_MM = 1000.0


def read_header(path: Path) -> Header:
    """Header of an NRRD; no voxel is read."""
    fields, _ = _fields(path)
    return _header(path, fields)[0]


def read(path: Path) -> Image:
    """NRRD as (C, [t,] z, y, x) or (C, y, x); raw voxels are mapped, not read."""
    fields, end = _fields(path)
    header, axes = _header(path, fields)
    array = _voxels(path, fields, end, tuple(int(n) for n in fields["sizes"]))
    behind = (*axes.channels, *axes.time)
    array = np.moveaxis(array, behind, range(-len(behind), 0))
    spatial = array.shape[: array.ndim - len(behind)]
    flat = array.reshape(*spatial, -1, order="F")
    kept = flat if axes.time else flat[..., : header.channels]  # without transparency
    return replace(voxels.image_of(kept, header), notices=axes.notices)


def read_label(path: Path) -> tuple[np.ndarray, Geometry]:
    """Labels (*spatial); of 3D Slicer's overlapping segments, which lie in layers, the later one is on top.

    A segment in one layer keeps its value; of several layers each segment gets its number, from 1 on.
    """
    image = read(path)
    segments = _segments(_fields(path)[0])
    array = image.array
    if len(array) == 1 or not segments:
        return (array[0] if len(array) == 1 else array), image.geometry
    label = np.zeros(array.shape[1:], np.uint16)
    for number, segment in enumerate(segments, 1):
        if segment.layer >= len(array):
            raise DataError(f"'{path}' lacks the layer of its segment '{segment.name}'; save it again")
        label[array[segment.layer] == segment.value] = number
    return label, image.geometry


def label_names(path: Path) -> dict[int, str]:
    """Names of 3D Slicer's segments by the values that :func:`read_label` gives."""
    fields, _ = _fields(path)
    segments = _segments(fields)
    if not segments:
        return _names_of_mitk(fields)
    if len({segment.layer for segment in segments}) > 1:
        return {number: segment.name for number, segment in enumerate(segments, 1)}
    return {segment.value: segment.name for segment in segments}


def _names_of_mitk(fields: Mapping[str, Any]) -> dict[int, str]:
    """Names of MITK's labels, where all lie in one layer; else a value has a name in each."""
    groups = parse_json(str(fields.get(_MITK_LABELS, "[]")), "labels of MITK")
    if not isinstance(groups, list) or len(groups) != 1:
        return {}
    return {int(one["value"]): str(one["name"]) for one in groups[0]["labels"]}


def label_colours(path: Path) -> dict[int, tuple[int, int, int]]:
    """Colours of 3D Slicer's segments, 0 to 255, by the values that :func:`read_label` gives."""
    fields, _ = _fields(path)
    colours = {}
    for number, (value, _) in enumerate(label_names(path).items()):
        parts = str(fields.get(f"Segment{number}_Color", "")).split()
        if len(parts) == 3:
            red, green, blue = (round(255 * float(part)) for part in parts)
            colours[value] = (red, green, blue)
    return colours


def write(path: Path, array: np.ndarray, geometry: Geometry, class_names: tuple[str, ...] = ()) -> None:
    """Array (*spatial) or (C, *spatial), gzipped; classes as 3D Slicer's segments with their colours."""
    import nrrd

    voxels.require_no_time(path, geometry)
    if path.suffix.lower() != ".nrrd":
        raise DataError(f"'{wanted_name(path)}': results are written as one file; use .nrrd")
    stored, affine = voxels.stored_of(array, geometry)
    ndim = geometry.ndim
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine
    directions = (lps[:ndim, :ndim].T + 0.0).tolist()
    kinds = ["domain"] * ndim
    if stored.ndim > ndim:
        stored = np.moveaxis(stored, -1, 0)
        directions, kinds = [[np.nan] * ndim, *directions], ["list", *kinds]
    fields: dict[str, Any] = {
        **({"space": "left-posterior-superior"} if ndim == 3 else {"space dimension": ndim}),
        "space directions": np.array(directions),
        "space origin": lps[:ndim, 3] + 0.0,
        "kinds": kinds,
        "encoding": "gzip",
    }
    texts: dict[str, str] = {}
    for value, name in enumerate(class_names[1:], 1):
        texts |= _segment_texts(value - 1, f"Segment_{value}", name, value, stored.shape[-ndim:])
    nrrd.write(str(path), np.asfortranarray(stored), fields, compression_level=4, index_order="F")
    _add_texts(path, texts)


def write_like(
    path: Path, before: Path, labels: np.ndarray, geometry: Geometry, names: Mapping[int, str]
) -> None:
    """Labels (*spatial) with the header of those at ``before``, gzipped.

    Every segment stays as it is; where there are segments, values without one get one, named by ``names``.
    """
    from nrrd.reader import _determine_datatype

    fields, end = _fields(before)
    stored, _ = voxels.stored_of(labels, geometry)
    kind = np.dtype(_determine_datatype(fields)).newbyteorder("=")
    low, high = int(stored.min(initial=0)), int(stored.max(initial=0))
    if not np.issubdtype(kind, np.integer) or low < np.iinfo(kind).min or high > np.iinfo(kind).max:
        kind = np.result_type(np.min_scalar_type(low), np.min_scalar_type(high))
    with open(before, "rb") as file:
        lines = file.read(end).rstrip().split(b"\n")
    kept = [line.rstrip(b"\r") for line in lines if not _OF_VOXELS.match(line)]
    described = [f"type: {kind.name}", "endian: little", "encoding: gzip"]
    body = gzip.compress(stored.astype(kind.newbyteorder("<")).tobytes(order="F"), 4, mtime=0)
    path.write_bytes(b"\n".join((*kept, *(line.encode() for line in described), b"", body)))
    segments, texts = _segments(fields), {}
    for number in range(len(segments)):
        texts[f"Segment{number}_Extent"] = _extent(stored.shape)
    used = {str(fields[f"Segment{number}_ID"]) for number in range(len(segments))}
    known = {0, *(segment.value for segment in segments)}
    unnamed = [int(value) for value in np.unique(stored) if value not in known] if segments else []
    for number, value in enumerate(unnamed, len(segments)):
        identity = next(free for n in count(value) if (free := f"Segment_{n}") not in used)
        used.add(identity)
        name = names.get(value, f"label {value}")
        texts |= _segment_texts(number, identity, name, value, stored.shape)
    _add_texts(path, texts)


def _segment_texts(
    number: int, identity: str, name: str, value: int, sizes: tuple[int, ...]
) -> dict[str, str]:
    """What 3D Slicer wants to know of a segment."""
    return {
        f"Segment{number}_ID": identity,
        f"Segment{number}_Name": name,
        f"Segment{number}_LabelValue": str(value),
        f"Segment{number}_Layer": "0",
        f"Segment{number}_Color": " ".join(f"{part / 255:.6g}" for part in colour_of(value)),
        f"Segment{number}_Extent": _extent(sizes),
    }


def _extent(sizes: tuple[int, ...]) -> str:
    return " ".join(f"0 {size - 1}" for size in sizes)


def _add_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Add key/value pairs to the header, in UTF-8 as 3D Slicer does; pynrrd writes ASCII only."""
    if not texts:
        return
    fields, end, packed = path.read_bytes().partition(b"\n\n")
    lines = "".join(f"\n{key}:={' '.join(text.splitlines())}" for key, text in texts.items())
    path.write_bytes(b"".join((fields, lines.encode(), end, packed)))


def _fields(path: Path) -> tuple[Mapping[str, Any], int]:
    import nrrd

    try:
        with open(path, "rb") as file:
            if _LISTS_FILES.search(file.read(_LONGEST_HEADER)):
                raise DataError(_SPREAD.format(path))
            file.seek(0)
            lines = (line.decode("utf-8", "replace") for line in iter(file.readline, b""))
            return nrrd.read_header(lines), file.tell()
    except (nrrd.NRRDError, OSError, ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise DataError(f"'{path}' is cut short or no NRRD{in_brackets(error)}; export it again") from error


@dataclass(frozen=True)
class _Axes:
    """Which stored axes are channels and which one is time; what is to be said of the header."""

    channels: tuple[int, ...]
    time: tuple[int, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class _Segment:
    name: str
    value: int
    layer: int


def _segments(fields: Mapping[str, Any]) -> list[_Segment]:
    """3D Slicer's segments in their order; before version 4.11 each had a layer of its own, with 1 in it."""
    found: list[_Segment] = []
    while f"Segment{len(found)}_ID" in fields:
        number = len(found)
        prefix = f"Segment{number}_"
        found.append(
            _Segment(
                str(fields.get(f"{prefix}Name", fields[f"{prefix}ID"])),
                int(fields.get(f"{prefix}LabelValue", 1)),
                int(fields.get(f"{prefix}Layer", number)),
            )
        )
    return found


def _header(path: Path, fields: Mapping[str, Any]) -> tuple[Header, _Axes]:
    """Header, and which stored axes are not space."""
    sizes = tuple(int(n) for n in fields.get("sizes", ()))
    kinds = [str(kind).lower() for kind in fields.get("kinds", ["domain"] * len(sizes))]
    directions = np.atleast_2d(np.asarray(fields.get("space directions", np.empty((0, 0))), dtype=float))
    if directions.size:
        outside = [n for n, row in enumerate(directions) if not np.isfinite(row).all() or kinds[n] == "time"]
    else:
        outside = [n for n, kind in enumerate(kinds) if kind not in _SPACE and kind not in ("???", "none")]
    time = tuple(n for n in outside if kinds[n] == "time")
    channel_axes = tuple(n for n in outside if n not in time)
    spatial = tuple(n for n in range(len(sizes)) if n not in outside)
    if any(kinds[n] in _COMPLEX for n in channel_axes):
        raise DataError(f"'{path}' holds complex numbers; save their magnitude")
    if len(spatial) == 4:
        raise DataError(
            f"'{path}' has 4 axes, and its header does not say what the fourth is; name it in the field "
            "kinds (list for channels, time for a series), or save the series as .nii.gz"
        )
    if len(spatial) not in (2, 3) or min(sizes) < 1 or len(time) > (len(spatial) == 3):
        raise DataError(f"'{path}' has axes of sizes {sizes}; volumes have 3 and pictures 2: export it again")
    origin = np.asarray(fields.get("space origin", ()), dtype=float)
    space = str(fields.get("space", "lps")).lower()
    expected = int(fields.get("space dimension", 4 if space.endswith(("t", "time")) else 3))
    lengths = {len(vector) for vector in (*directions, origin) if len(vector)}
    if lengths == {len(spatial)} and not fields.keys() & {"space", "space dimension"}:
        expected = len(spatial)
    if strange := lengths - {expected}:
        raise DataError(
            f"'{path}' has vectors of {max(strange)} numbers in a space of {expected}; write numbers with "
            "decimal points, and commas only between them"
        )
    affine = np.eye(4)
    if directions.size:
        across = directions[np.ix_(spatial, range(min(directions.shape[1], 3)))].T
        affine[: across.shape[0], : across.shape[1]] = across
    else:
        sizes_told = [_spacing(fields, n) for n in spatial]
        affine[range(len(spatial)), range(len(spatial))] = [size or 1.0 for size in sizes_told]
    affine[: min(len(origin), 3), 3] = origin[:3]
    said = list(fields.get("space units", ()) or [fields["units"][n] for n in spatial if "units" in fields])
    affine[:3] *= np.array([*(_to_mm(path, unit) for unit in said[:3]), 1.0, 1.0, 1.0])[:3, None]
    notices: tuple[str, ...] = ()
    if not directions.size and None in sizes_told:
        notices = (voxels.UNSIZED.format(path.name),)
    if space in _WITHOUT_PATIENT:
        notices += (f"'{path.name}' does not say how the patient lies (its space is {space}); taken as LPS",)
    elif space not in _TO_RAS:
        raise DataError(f"'{path}' lies in the space '{space}', which is not known; save it again as LPS")
    to_ras = _TO_RAS.get(space, (-1.0, -1.0, 1.0))
    channels = int(np.prod([sizes[n] for n in channel_axes], dtype=int))
    if len(channel_axes) == 1 and kinds[channel_axes[0]] in _ALPHA_LAST:
        channels -= 1
    shape = tuple(sizes[n] for n in spatial)
    header = voxels.header_of(shape, channels, np.diag((*to_ras, 1.0)) @ affine, path)
    if time and channels > 1:
        raise DataError(f"'{path}' holds channels and time; save one channel of it")
    if time:
        seconds = (_spacing(fields, time[0]) or 1.0) * _seconds(fields, time[0])
        source = header.geometry.source
        assert source is not None
        ours = (sizes[time[0]], *header.shape)
        header = Header(1, ours, replace(Geometry.patient(source, ours), frame_seconds=seconds))
        notices += (f"a clip of {ours[0]} volumes" + (f", {seconds:g} s each" if seconds else ""),)
    return header, _Axes(channel_axes, time, notices)


def _spacing(fields: Mapping[str, Any], axis: int) -> float | None:
    """Distance along an axis: as told, or by where its first and last sample or their edges lie."""
    spacing = np.asarray(fields.get("spacings", ()), dtype=float)
    if axis < len(spacing) and np.isfinite(spacing[axis]):
        return float(spacing[axis])
    low, high = (np.asarray(fields.get(f"axis {end}", ()), dtype=float) for end in ("mins", "maxs"))
    if axis < min(len(low), len(high)) and np.isfinite(high[axis] - low[axis]):
        centers = fields.get("centerings", fields.get("centers", "")) or ["cell"] * len(fields["sizes"])
        centers = centers.split() if isinstance(centers, str) else list(centers)
        between = int(fields["sizes"][axis]) - (str(centers[axis]).lower() == "node")
        return float(high[axis] - low[axis]) / max(1, between)
    return None


def _to_mm(path: Path, unit: str) -> float:
    found = length(str(unit).strip('"'))
    if found is None:
        raise DataError(f"'{path}' has lengths in '{unit}', which is not understood; save it in mm")
    return found[1] / _UM_PER_MM if found[0] == "um" else found[1]


def _seconds(fields: Mapping[str, Any], axis: int) -> float:
    """Seconds per unit of an axis of time; 0 where the file does not say."""
    units = list(fields.get("units", ()))
    return (seconds_of(str(units[axis]).strip('"')) or 0.0) if axis < len(units) else 0.0


def _voxels(path: Path, fields: Mapping[str, Any], end: int, sizes: tuple[int, ...]) -> np.ndarray:
    from nrrd.reader import _determine_datatype

    kind, encoding = np.dtype(_determine_datatype(fields)), str(fields.get("encoding", "raw")).lower()
    name = fields.get("data file", fields.get("datafile"))
    data, offset = path, end
    if name is not None:
        if "%" in str(name):
            raise DataError(_SPREAD.format(path))
        data, offset = require_inside(path, path.parent, str(name)), 0
        if not data.is_file():
            raise DataError(f"'{path}' needs '{name}' beside it, which does not exist; copy both files")
    offset = _after_lines(data, offset, int(fields.get("line skip", fields.get("lineskip", 0))))
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    packing = _PACKINGS.get(encoding)
    if skip < -1 or (skip == -1 and packing != "none"):
        raise DataError(
            f"'{path}' has a byte skip of {skip} before {encoding} voxels; save it as raw or gzip"
        )
    if skip == -1:
        held = int(np.prod(sizes, dtype=object)) * kind.itemsize
        return voxels.read_voxels(data, max(data.stat().st_size - held, offset), sizes, kind)
    if packing is not None:
        return voxels.read_voxels(data, offset, sizes, kind, packing, skip)
    if encoding == "hex":
        return voxels.read_hex(data, offset + skip, sizes, kind)
    if encoding in _AS_TEXT:
        return voxels.read_numbers(data, offset + skip, sizes, kind)
    raise DataError(f"'{path}' has the encoding '{encoding}', which is not known; save it as raw or gzip")


def _after_lines(path: Path, offset: int, lines: int) -> int:
    """Where the voxels begin, or their packing, behind so many lines."""
    with open(path, "rb") as file:
        file.seek(offset)
        for _ in range(lines):
            if not file.readline():
                break
        return file.tell()
