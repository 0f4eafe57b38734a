"""NRRD (.nrrd, .nhdr, .seg.nrrd): header by pynrrd, voxels mapped or inflated here, so that nothing grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_prosma.data import voxels
from napari_prosma.data.case import Geometry, Header, Image
from napari_prosma.data.limits import require_inside
from napari_prosma.errors import DataError

SUFFIXES = (".nrrd", ".nhdr")
_TO_RAS = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
_SPACE = ("domain", "space")


def read_header(path: Path) -> Header:
    """Header of an NRRD; no voxel is read."""
    fields, _ = _fields(path)
    return _header(path, fields)[0]


def read(path: Path) -> Image:
    """NRRD as (C, z, y, x) or (C, y, x); raw voxels are mapped, not read."""
    fields, end = _fields(path)
    header, channel_axes = _header(path, fields)
    sizes = tuple(int(n) for n in fields["sizes"])
    array = _voxels(path, fields, end, sizes)
    array = np.moveaxis(array, channel_axes, range(len(channel_axes)))
    spatial = array.shape[len(channel_axes) :]
    return voxels.image_of(np.moveaxis(array.reshape(-1, *spatial, order="F"), 0, -1), header)


def write(path: Path, array: np.ndarray, geometry: Geometry, class_names: tuple[str, ...] = ()) -> None:
    """Array (*spatial) or (C, *spatial), gzipped; class names as 3D Slicer's segments."""
    import nrrd

    if path.suffix.lower() != ".nrrd":
        raise DataError(f"'{path.name}': results are written as one file; use .nrrd")
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
    for index, name in enumerate(class_names[1:]):
        fields[f"Segment{index}_ID"] = f"Segment_{index + 1}"
        fields[f"Segment{index}_Name"] = name
        fields[f"Segment{index}_LabelValue"] = str(index + 1)
        fields[f"Segment{index}_Layer"] = "0"
    nrrd.write(str(path), np.asfortranarray(stored), fields, compression_level=4, index_order="F")


def _fields(path: Path) -> tuple[Mapping[str, Any], int]:
    import nrrd

    try:
        with open(path, "rb") as file:
            return nrrd.read_header(file), file.tell()
    except (nrrd.NRRDError, OSError, ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise DataError(f"'{path}' is cut short or no NRRD ({error}); export it again") from error


def _header(path: Path, fields: Mapping[str, Any]) -> tuple[Header, tuple[int, ...]]:
    """Header, and which stored axes are channels."""
    sizes = tuple(int(n) for n in fields.get("sizes", ()))
    directions = np.atleast_2d(np.asarray(fields.get("space directions", np.empty((0, 0))), dtype=float))
    kinds = list(fields.get("kinds", []))
    if directions.size:
        channel_axes = tuple(n for n, row in enumerate(directions) if not np.isfinite(row).all())
    else:
        channel_axes = tuple(n for n, kind in enumerate(kinds) if str(kind).lower() not in _SPACE)
    spatial = tuple(n for n in range(len(sizes)) if n not in channel_axes)
    if len(spatial) not in (2, 3) or min(sizes) < 1:
        raise DataError(f"'{path}' has axes of sizes {sizes}; volumes have 3 and pictures 2: export it again")
    affine = np.eye(4)
    if directions.size:
        across = directions[list(spatial)].T
        affine[: across.shape[0], : across.shape[1]] = across
    else:
        spacings = np.asarray(fields.get("spacings", np.ones(len(sizes))), dtype=float)[list(spatial)]
        affine[range(len(spatial)), range(len(spatial))] = np.where(np.isnan(spacings), 1.0, spacings)
    origin = np.asarray(fields.get("space origin", ()), dtype=float)
    affine[: len(origin), 3] = origin
    to_ras = _TO_RAS.get(str(fields.get("space", "lps")).lower(), (-1.0, -1.0, 1.0))
    channels = int(np.prod([sizes[n] for n in channel_axes], dtype=int))
    header = voxels.header_of(
        tuple(sizes[n] for n in spatial), channels, np.diag((*to_ras, 1.0)) @ affine, path
    )
    return header, channel_axes


def _voxels(path: Path, fields: Mapping[str, Any], end: int, sizes: tuple[int, ...]) -> np.ndarray:
    from nrrd.reader import _determine_datatype

    encoding = str(fields.get("encoding", "raw")).lower()
    name = fields.get("data file", fields.get("datafile"))
    data, offset = path, end
    if name is not None:
        data, offset = require_inside(path, path.parent, str(name)), 0
        if not data.is_file():
            raise DataError(f"'{path}' needs '{name}' beside it, which does not exist; copy both files")
    skips = int(fields.get("byte skip", fields.get("byteskip", 0))), int(fields.get("line skip", 0))
    if encoding not in ("raw", "gzip", "gz") or any(skips):
        raise DataError(f"'{path}' has encoding '{encoding}' or skips; save it as raw or gzip")
    return voxels.read_voxels(data, offset, sizes, np.dtype(_determine_datatype(fields)), encoding != "raw")
