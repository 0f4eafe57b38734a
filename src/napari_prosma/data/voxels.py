"""Voxels on disk -> arrays, never larger than the file can hold or the computer has room for."""

from __future__ import annotations

import bz2
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from napari_prosma.data.atomic import wanted_name
from napari_prosma.data.case import Header, Image
from napari_prosma.data.limits import require_possible
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame

_BLOCK = 1 << 18
_GZIP, _ZLIB = 31, 15
UNSIZED = "'{}' does not say how large its voxels are along every axis; 1 mm is assumed there"
_GZIP_MAGIC = b"\x1f\x8b"
Packing = Literal["none", "deflate", "bzip2"]


def read_voxels(
    path: Path,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    packing: Packing = "none",
    skip: int = 0,
) -> np.ndarray:
    """Array of ``shape``, first axis fastest, that starts at ``offset`` of a file.

    Voxels that are not packed are mapped, not read; others are unpacked into one array and no further. Before
    the voxels ``skip`` bytes, of what was packed, are passed over.

    Raises ``DataError``: when the file is too short.
    """
    count = int(np.prod(shape, dtype=object))
    offset += skip if packing == "none" else 0
    require_possible(path, count * dtype.itemsize, packing, max(path.stat().st_size - offset, 0))
    if packing == "none":
        return np.memmap(path, dtype, "r", offset, shape, order="F")
    flat = np.empty(count, dtype)
    unpack = _inflate if packing == "deflate" else _unpack_bzip2
    with open(path, "rb") as file:
        file.seek(offset)
        filled = unpack(file, flat.view(np.uint8).data, skip)
    if filled < flat.nbytes:
        raise DataError(
            f"'{path}' is cut short or damaged after {filled:,} of {flat.nbytes:,} bytes; export it again"
        )
    return flat.reshape(shape, order="F")


def read_numbers(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Array of ``shape``, first axis fastest, of numbers written in words.

    Raises ``DataError``: when there are fewer or more, or words that are no numbers.
    """
    count = int(np.prod(shape, dtype=object))
    require_possible(path, count)  # a number takes a byte at least
    with open(path, "rb") as file:
        file.seek(offset)
        words = file.read().split()
    if len(words) != count:
        raise DataError(f"'{path}' holds {len(words):,} numbers instead of {count:,}; export it again")
    try:
        numbers = np.array(words).astype(np.float64 if dtype.kind == "f" else np.int64)
    except ValueError as error:
        raise DataError(f"'{path}' holds words that are no numbers ({error}); export it again") from error
    return numbers.astype(dtype.newbyteorder("=")).reshape(shape, order="F")


def read_hex(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Array of ``shape``, first axis fastest, of bytes written as two hexadecimal digits each.

    Raises
    ------
    DataError
        When there are fewer, or characters that are no digits.
    """
    promised = int(np.prod(shape, dtype=object)) * dtype.itemsize
    require_possible(path, promised)
    with open(path, "rb") as file:
        file.seek(offset)
        digits = file.read()
    try:
        content = bytes.fromhex(digits.decode("ascii"))
    except ValueError as error:
        raise DataError(f"'{path}' holds no hexadecimal digits ({error}); export it again") from error
    if len(content) < promised:
        raise DataError(f"'{path}' is cut short: {len(content):,} of {promised:,} bytes; export it again")
    return np.frombuffer(content[:promised], dtype).reshape(shape, order="F")


def require_no_time(path: Path, geometry: Geometry) -> None:
    """Refuse to write a time series into a format without an axis of time (raises ``DataError``)."""
    if "t" in geometry.axes:
        raise DataError(
            f"'{wanted_name(path)}': {path.suffix} has no axis of time; save the series as .nii.gz, "
            ".tif or .ome.zarr"
        )


def header_of(
    shape: tuple[int, ...],
    channels: int,
    affine: np.ndarray,
    path: Path,
    source_parts: tuple[float, ...] = (),
) -> Header:
    """Header of stored axes (i, j[, k]) with an affine to RAS+; two axes have no patient frame.

    Raises ``DataError``: when the affine is singular.
    """
    if len(shape) == 2:
        spacing = np.linalg.norm(affine[:3, :2], axis=0)
        if not np.all(np.isfinite(spacing) & (spacing > 0)):
            raise DataError(f"'{path}' has spacing {spacing.tolist()}; correct its header or export it again")
        return Header(channels, shape[::-1], Geometry(tuple(spacing[::-1].tolist()), (0.0, 0.0), "mm"))
    try:
        source = SourceFrame.canonical(affine, metaimage=source_parts)
    except ValueError as error:
        raise DataError(f"'{path}' does not say where its voxels lie: {error}; repair its header") from error
    ours = tuple(shape[n] for n in source.order)
    return Header(channels, ours, Geometry.patient(source, ours))


def image_of(stored: np.ndarray, header: Header) -> Image:
    """Image of stored voxels (i, j[, k], C), turned as ``header`` says; a view. C may be time."""
    geometry = header.geometry
    if geometry.source is None:
        array = np.transpose(stored, (stored.ndim - 1, *range(stored.ndim - 2, -1, -1)))
    else:
        array = np.moveaxis(geometry.source.to_array(stored), -1, 0)
    return Image(array[None] if geometry.axes[0] == "t" else array, geometry)


def stored_of(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Stored voxels (i, j, k[, t][, C]) and affine to RAS+ in mm of our array (*spatial) or (C, *spatial)."""
    return _stored(array, geometry), _affine_in_mm(geometry)


def _stored(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    if geometry.source is not None and geometry.axes[0] == "t":
        # (t, z, y, x) or (C, t, z, y, x), whose time and channels go behind space
        behind = np.moveaxis(array, range(array.ndim - 3), range(-1, -array.ndim + 2, -1))
        return geometry.source.to_stored(behind)
    spatial_first = np.moveaxis(array, 0, -1) if array.ndim > geometry.ndim else array
    if geometry.source is not None:
        return geometry.source.to_stored(spatial_first)
    space = range(geometry.ndim)
    return np.transpose(spatial_first, (*reversed(space), *range(geometry.ndim, spatial_first.ndim)))


def _affine_in_mm(geometry: Geometry) -> np.ndarray:
    affine = affine_of(geometry) if geometry.source is None else np.asarray(geometry.source.affine)
    return np.diag((1e-3, 1e-3, 1e-3, 1.0)) @ affine if geometry.unit == "um" else affine


def affine_of(geometry: Geometry) -> np.ndarray:
    """Voxel (x, y, z) to RAS+, in its own unit, of an array without a frame: its axes as head, back, left."""
    spacing = (*geometry.spacing[::-1], 1.0, 1.0)[:3]
    origin = (*geometry.origin[::-1], 0.0, 0.0)[:3]
    affine = np.diag((*spacing, 1.0))
    affine[:3, 3] = origin
    return np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _inflate(file: BinaryIO, into: memoryview, skip: int) -> int:
    """Fill ``into`` from a zlib or gzip stream after ``skip`` bytes of it; the number of bytes that came.

    isal inflates twice as fast as zlib. What follows ``into`` is only read as far as the check sum.
    """
    from isal import igzip_lib, isal_zlib

    start = file.read(2)
    file.seek(-len(start), 1)
    wrapping = _GZIP if start == _GZIP_MAGIC else _ZLIB
    inflater = isal_zlib.decompressobj(wbits=wrapping)
    filled = 0
    rest = b""
    try:
        while filled < len(into) or not inflater.eof:
            if inflater.eof:  # a gzip file may hold several streams, one after the other
                rest, inflater = inflater.unused_data, isal_zlib.decompressobj(wbits=wrapping)
            waiting = rest or inflater.unconsumed_tail or file.read(_BLOCK)
            rest = b""
            if not waiting:
                return filled if filled < len(into) else filled - 1  # the stream ends before its check sum
            block = inflater.decompress(waiting, max(1, min(_BLOCK * 4, skip + len(into) - filled)))
            dropped = min(skip, len(block))
            skip -= dropped
            kept = block[dropped : dropped + len(into) - filled] if dropped else block[: len(into) - filled]
            into[filled : filled + len(kept)] = kept
            filled += len(kept)
            if filled == len(into) and len(block) > len(kept) + dropped:
                return filled  # more voxels than the header speaks of
    except igzip_lib.IsalError:  # type: ignore[misc]  # its stub gives it no base
        return min(filled, len(into) - 1)
    return filled


def _unpack_bzip2(file: BinaryIO, into: memoryview, skip: int) -> int:
    """The same from a bzip2 stream."""
    unpacker, filled, waiting = bz2.BZ2Decompressor(), 0, b""
    try:
        while filled < len(into):
            if unpacker.eof:
                waiting, unpacker = unpacker.unused_data, bz2.BZ2Decompressor()
            if unpacker.needs_input:
                waiting = waiting or file.read(_BLOCK)
                if not waiting:
                    return filled
            block = unpacker.decompress(waiting, max(1, min(_BLOCK * 4, skip + len(into) - filled)))
            waiting = b""
            dropped = min(skip, len(block))
            skip -= dropped
            into[filled : filled + len(block) - dropped] = block[dropped:]
            filled += len(block) - dropped
    except (OSError, EOFError):
        return filled if filled < len(into) else filled - 1
    return filled
