"""MetaImage (.mha, .mhd): text header and raw or deflated voxels, read and written digit for digit.

Written here rather than left to SimpleITK, which keeps two copies while it reads and reads no part of a file;
what is rare (slices in a list of files) is refused with a way out.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_prosma.data import voxels
from napari_prosma.data.atomic import wanted_name
from napari_prosma.data.case import Header, Image
from napari_prosma.data.limits import require_inside
from napari_prosma.data.texts import parse_names
from napari_prosma.data.units import length
from napari_prosma.errors import DataError, in_brackets
from napari_prosma.geometry import Geometry

SUFFIXES = (".mha", ".mhd")
_TYPES = {
    "MET_UCHAR": np.uint8,
    "MET_CHAR": np.int8,
    "MET_USHORT": np.uint16,
    "MET_SHORT": np.int16,
    "MET_UINT": np.uint32,
    "MET_INT": np.int32,
    "MET_ULONG": np.uint32,
    "MET_LONG": np.int32,
    "MET_ULONG_LONG": np.uint64,
    "MET_LONG_LONG": np.int64,
    "MET_FLOAT": np.float32,
    "MET_DOUBLE": np.float64,
}
_NAMES = {np.dtype(kind): name for name, kind in reversed(_TYPES.items())}
_LONGEST_HEADER = 1 << 16
_UM_PER_MM = 1000.0
_FROM = {
    "R": (1.0, 0.0, 0.0),
    "L": (-1.0, 0.0, 0.0),
    "A": (0.0, 1.0, 0.0),
    "P": (0.0, -1.0, 0.0),
    "I": (0.0, 0.0, 1.0),
    "S": (0.0, 0.0, -1.0),
}
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


@dataclass(frozen=True)
class _Stored:
    """What the text says: stored axes, where the voxels begin, and the header in our terms."""

    shape: tuple[int, ...]
    dtype: np.dtype
    data: Path
    offset: int
    packing: voxels.Packing
    header: Header
    as_text: bool
    slope: float
    shift: float


def read_header(path: Path) -> Header:
    """Header of a MetaImage; no voxel is read."""
    return _stored(path).header


def read(path: Path) -> Image:
    """MetaImage as (C, z, y, x) or (C, y, x); uncompressed voxels are mapped, not read."""
    stored = _stored(path)
    channels = stored.header.channels
    shape = (channels, *stored.shape)
    if stored.as_text:
        array = voxels.read_numbers(stored.data, stored.offset, shape, stored.dtype)
    else:
        array = voxels.read_voxels(stored.data, stored.offset, shape, stored.dtype, stored.packing)
    if (stored.slope, stored.shift) != (1.0, 0.0):
        array = (array * stored.slope + stored.shift).astype(np.float32)
    return voxels.image_of(np.moveaxis(array, 0, -1), stored.header)


def label_names(path: Path) -> dict[int, str]:
    """Class names in the comment, as :func:`write` puts them there: JSON, in older files ``0: a; 1: b``."""
    comment = _fields(path)[0].get("Comment", "")
    pairs = [item.partition(": ") for item in comment.split("; ")]
    return parse_names(comment) or {
        int(value): name for value, _, name in pairs if value.isdecimal() and name
    }


def write(path: Path, array: np.ndarray, geometry: Geometry, class_names: tuple[str, ...] = ()) -> None:
    """Array (*spatial) or (C, *spatial) as one deflated .mha; the numbers of a source .mha are kept."""
    voxels.require_no_time(path, geometry)
    if path.suffix.lower() == ".mhd":
        raise DataError(f"'{wanted_name(path)}': results are written as one file; use .mha")
    stored, affine = voxels.stored_of(array, geometry)
    ndim = geometry.ndim
    spacing, direction, origin = _parts(geometry, affine, ndim)
    body = zlib.compress(np.ascontiguousarray(_channels_fastest(stored, ndim)).tobytes(), 4)
    lines = [
        "ObjectType = Image",
        f"NDims = {ndim}",
        *([f"Comment = {json.dumps(class_names, ensure_ascii=False)}"] if class_names else []),
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {len(body)}",
        f"TransformMatrix = {_row(direction)}",
        f"Offset = {_row(origin)}",
        f"CenterOfRotation = {_row((0,) * ndim)}",
        f"ElementSpacing = {_row(spacing)}",
        f"DimSize = {_row(stored.shape[:ndim])}",
        *([f"ElementNumberOfChannels = {stored.shape[ndim]}"] if stored.ndim > ndim else []),
        f"ElementType = {_NAMES[stored.dtype]}",
        "ElementDataFile = LOCAL",
    ]
    path.write_bytes(("\n".join(lines) + "\n").encode() + body)


def _channels_fastest(stored: np.ndarray, ndim: int) -> np.ndarray:
    """Stored (i, j, k, C) in the order of the file: k slowest, then j, i and the channel."""
    return np.transpose(stored, (*range(ndim - 1, -1, -1), *range(ndim, stored.ndim)))


def _parts(
    geometry: Geometry, affine: np.ndarray, ndim: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Spacing, direction and origin (LPS): those of the source file, or taken from the affine."""
    if geometry.source is not None and geometry.source.metaimage:
        numbers = geometry.source.metaimage
        return numbers[:3], numbers[3:12], numbers[12:]
    lps = _LPS_TO_RAS @ affine
    columns = lps[:ndim, :ndim]
    spacing = np.linalg.norm(lps[:3, :ndim], axis=0)
    direction = (columns / spacing).T
    return (
        tuple(spacing.tolist()),
        tuple((direction + 0.0).ravel().tolist()),
        tuple((lps[:ndim, 3] + 0.0).tolist()),
    )


def _row(numbers: tuple[float, ...]) -> str:
    return " ".join(repr(float(n)) if isinstance(n, float) and n != int(n) else str(int(n)) for n in numbers)


def _stored(path: Path) -> _Stored:
    fields, end = _fields(path)
    try:
        ndim = int(fields["NDims"])
        shape = tuple(int(n) for n in fields["DimSize"].split())
        kind = np.dtype(_TYPES[fields["ElementType"].removesuffix("_ARRAY")])
        spacing = _floats(fields.get("ElementSpacing", fields.get("ElementSize", "1 " * ndim)))
        direction = _floats(
            fields.get("TransformMatrix")
            or fields.get("Rotation")
            or fields.get("Orientation")
            or _anatomical(fields.get("AnatomicalOrientation", ""), ndim)
        )
        origin = _floats(
            fields.get("Offset") or fields.get("Position") or fields.get("Origin") or "0 " * ndim
        )
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        skipped = int(fields.get("HeaderSize", "0"))
        slope = float(fields.get("ElementToIntensityFunctionSlope", "1"))
        shift = float(fields.get("ElementToIntensityFunctionOffset", "0"))
        data_file = fields["ElementDataFile"]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"'{path}' is no MetaImage that can be read{in_brackets(error)}; export it again"
        ) from error
    if int(fields.get("HeaderSizePerSlice", "0")) > 0:
        raise DataError(f"'{path}' has a header before every slice (HeaderSizePerSlice); save it as one .mha")
    if ndim == 4:
        raise DataError(
            f"'{path}' has 4 axes, and MetaImage does not say what the fourth is; save a time series as "
            ".nii.gz, or channels as ElementNumberOfChannels"
        )
    lengths = (len(shape), len(spacing), len(origin), len(direction) // max(ndim, 1))
    if ndim not in (2, 3) or set(lengths) != {ndim} or min(shape, default=0) < 1 or channels < 1:
        raise DataError(
            f"'{path}' has {ndim} axes of sizes {shape}; volumes have 3 and pictures 2: export it again"
        )
    if min(spacing) <= 0:
        raise DataError(f"'{path}' has spacing {spacing}; correct ElementSpacing or export it again")
    affine = np.eye(4)
    affine[:ndim, :ndim] = np.array(direction).reshape(ndim, ndim).T * spacing
    affine[:ndim, 3] = origin
    unit = length(fields.get("DistanceUnits", "mm"))  # "?" where nobody said: millimetres, as in ITK
    if unit is None:
        raise DataError(f"'{path}' has DistanceUnits '{fields['DistanceUnits']}', not known; save it in mm")
    to_mm = unit[1] / (_UM_PER_MM if unit[0] == "um" else 1.0)
    affine[:3] *= to_mm
    affine[ndim:, ndim:] = np.eye(4 - ndim)
    parts = (*spacing, *direction, *origin) if ndim == 3 and to_mm == 1 else ()
    header = voxels.header_of(shape, channels, _LPS_TO_RAS @ affine, path, parts)
    data, offset = _data(path, data_file, end)
    big = _is_true(fields.get("BinaryDataByteOrderMSB")) or _is_true(fields.get("ElementByteOrderMSB"))
    packing: voxels.Packing = "deflate" if _is_true(fields.get("CompressedData")) else "none"
    as_text = not _is_true(fields.get("BinaryData", "True"))
    if skipped == -1:
        offset = data.stat().st_size - int(np.prod(shape, dtype=object)) * channels * kind.itemsize
    else:
        offset += skipped
    kind = kind.newbyteorder(">" if big else "<")
    return _Stored(shape, kind, data, max(offset, 0), packing, header, as_text, slope, shift)


def _is_true(text: str | None) -> bool:
    """As MetaIO reads truth: by the first letter."""
    return (text or "")[:1] in ("T", "t", "1")


def _anatomical(letters: str, ndim: int) -> str:
    """Direction cosines of letters that say where each axis comes from; ``RAI`` is the identity."""
    direction = np.eye(ndim)
    if ndim == len(letters) == 3 and set(letters) <= set(_FROM):
        direction = np.array([_FROM[letter] for letter in letters])
    return " ".join(str(n) for n in direction.ravel())


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The ``key = value`` lines and where they end."""
    with open(path, "rb") as file:
        start = file.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    end = 0
    while "ElementDataFile" not in fields:
        stop = start.find(b"\n", end)
        key, equals, value = _text(start[end : stop if stop >= 0 else None]).partition("=")
        if not equals:
            raise DataError(f"'{path}' is cut short or no MetaImage; export it again")
        fields[key.strip()] = value.strip()
        end = stop + 1 if stop >= 0 else len(start)
    return fields, end


def _text(line: bytes) -> str:
    """A line in UTF-8, or else in Latin-1, as older programs write it."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _data(path: Path, name: str, end: int) -> tuple[Path, int]:
    if name.upper() in ("LOCAL", ""):
        return path, end
    if name.upper().startswith("LIST") or "%" in name:
        raise DataError(f"'{path}' spreads over a list of files; save it as one .mha")
    data = require_inside(path, path.parent, name)
    if not data.is_file():
        raise DataError(f"'{path}' needs '{name}' beside it, which does not exist; copy both files")
    return data, 0


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split())
