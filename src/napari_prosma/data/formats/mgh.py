"""FreeSurfer's volumes (.mgz, .mgh), read as NIfTI is: (z, y, x) = (head, back, left), frames as channels."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_prosma.data import voxels
from napari_prosma.data.case import Header, Image
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

# nibabel is imported where it is used, as in ``nifti``.
if TYPE_CHECKING:
    from nibabel.freesurfer.mghformat import MGHHeader

SUFFIXES = (".mgz", ".mgh", ".mgh.gz")


def read_header(path: Path) -> Header:
    """Header of a volume; no voxel is read."""
    return _header(path, _stored(path))


def read(path: Path) -> Image:
    """Volume as (C, z, y, x) of the stored type."""
    stored = _stored(path)
    shape, dtype, begin = _shape(stored), stored.get_data_dtype(), stored.get_data_offset()
    if voxels.is_gzip(path):
        array = voxels.read_voxels(path, 0, shape, dtype, "deflate", begin)
    else:
        array = voxels.read_voxels(path, begin, shape, dtype)
    return voxels.image_of(array, _header(path, stored))


def read_label(path: Path) -> tuple[np.ndarray, Geometry]:
    """Label volume (z, y, x) with the type that the file holds."""
    image = read(path)
    return (image.array[0] if len(image.array) == 1 else image.array), image.geometry


def _stored(path: Path) -> MGHHeader:
    from nibabel.freesurfer.mghformat import MGHHeader

    with gzip.open(path) if voxels.is_gzip(path) else path.open("rb") as file:
        stored = MGHHeader.from_fileobj(file, check=False)
    if min(_shape(stored)) < 1:
        raise DataError(f"'{path}' is damaged (its shape is {_shape(stored)}); export it again")
    return stored


def _shape(stored: MGHHeader) -> tuple[int, ...]:
    """Stored axes, frames last."""
    return tuple(int(n) for n in stored["dims"])


def _header(path: Path, stored: MGHHeader) -> Header:
    *space, frames = _shape(stored)
    return voxels.header_of(tuple(space), frames, stored.get_affine(), path)
