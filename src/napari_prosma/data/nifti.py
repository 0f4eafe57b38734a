"""NIfTI 1 and 2: volumes turned to (z, y, x) = (head, back, left), results written exactly over them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.data import voxels
from napari_prosma.data.case import Geometry, Header, Image, SourceFrame
from napari_prosma.errors import DataError

# nibabel is imported where it is used: with pydicom it takes 0.15 s, which every panel would wait for.
if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header, Nifti1Pair

SUFFIXES = (".nii", ".nii.gz")
_COMMENT = 6
_SAME_PLACE = 0.05  # of the smallest spacing
_MAX_NIFTI1_AXIS = 32767


def read_header(path: Path) -> Header:
    """Header of a NIfTI file; no voxel is read."""
    with _opened(path) as stored:
        return _header(path, stored)


def read(path: Path) -> Image:
    """Volume as (C, z, y, x) of the stored type; a fourth axis of the file becomes the channels.

    An uncompressed file without scaling is mapped, not read.
    """
    with _opened(path) as stored:
        header = _header(path, stored)
        image = voxels.image_of(_with_channels(_voxels(path, stored)), header)
    return replace(image, notices=_disagreement(path, stored))


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


def _header(path: Path, stored: Nifti1Pair) -> Header:
    shape = (*stored.shape, 1, 1)[:3]
    unit, factor = {"micron": ("um", 1.0), "meter": ("mm", 1000.0)}.get(
        stored.header.get_xyzt_units()[0], ("mm", 1.0)
    )
    raw = bytes(stored.header.binaryblock)
    try:
        source = SourceFrame.canonical(stored.affine, raw)
    except ValueError as error:
        raise DataError(f"'{path}' does not say where its voxels lie: {error}; repair its header") from error
    ours = tuple(shape[n] for n in source.order)
    geometry = Geometry.patient(source, ours, unit)
    if factor != 1:
        spacing = tuple(factor * s for s in geometry.spacing)
        geometry = replace(geometry, spacing=spacing, origin=tuple(factor * o for o in geometry.origin))
    behind = int(np.prod(stored.shape[3:], dtype=int))
    in_voxel = len(stored.get_data_dtype().fields or "1")
    return Header(min(behind * in_voxel, 3) if in_voxel > 1 else behind, ours, geometry)


def _disagreement(path: Path, stored: Nifti1Pair) -> tuple[str, ...]:
    """What to say when the file's two affines differ: the standard prefers the sform where it has a code."""
    sform = stored.header.get_sform(coded=True)[0]
    try:
        qform = stored.header.get_qform(coded=True)[0]
    except ValueError as error:  # no rotation at all; nibabel has checked it where it is the one in use
        return (f"'{path.name}': its qform is damaged ({error}); the sform is used",)
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


def _voxels(path: Path, stored: Nifti1Pair) -> np.ndarray:
    """Stored voxels (i, j, k, ...), scaled as the header says: to float32 where that is exact enough."""
    proxy: Any = stored.dataobj  # an ArrayProxy, whose numbers nibabel leaves untyped
    if path.suffix.lower() == ".gz":
        raw = voxels.read_voxels(path, 0, proxy.shape, proxy.dtype, True, skip=proxy.offset)
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
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if geometry.source is not None and geometry.source.nifti_header:
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
    header = (Nifti2Header if max(shape) > _MAX_NIFTI1_AXIS else Nifti1Header)()
    affine = np.asarray(geometry.source.affine) if geometry.source else voxels.affine_of(geometry)
    header.set_xyzt_units("micron" if geometry.unit == "um" else "mm" if geometry.unit == "mm" else "unknown")
    stored = geometry.source.to_stored(np.empty(shape, bool)).shape if geometry.source else shape[::-1]
    header.set_data_shape((*stored, 1, 1)[: max(3, len(stored))])
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner", strip_shears=True)
    return header


def _write(path: Path, array: np.ndarray, geometry: Geometry, header: Nifti1Header) -> None:
    import nibabel

    stored, _ = voxels.stored_of(array, geometry)
    shape = header.get_data_shape() + stored.shape[geometry.ndim :]
    header.set_data_dtype(stored.dtype)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    kind(stored.reshape(shape), None, header).to_filename(path)


@contextmanager
def _opened(path: Path) -> Iterator[Nifti1Pair]:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.nifti1 import Nifti1Pair
    from nibabel.spatialimages import HeaderDataError

    try:
        stored = nibabel.load(path)
        if not isinstance(stored, Nifti1Pair):
            raise ImageFileError(f"it is {type(stored).__name__}")
        if 0 in stored.shape:
            raise DataError(f"'{path}' is empty: its shape is {stored.shape}; export it again")
        promised = int(np.prod(stored.shape, dtype=object)) * stored.get_data_dtype().itemsize
        voxels.require_possible(path, promised, path.suffix.lower() == ".gz")
        yield stored
    except FileNotFoundError:
        raise
    except (ImageFileError, HeaderDataError, OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"'{path}' is cut short or no NIfTI volume ({error}); download or export it again"
        ) from error
