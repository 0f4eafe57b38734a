"""TIFF, ImageJ and OME-TIFF: axes as the file names them, results as ImageJ or OME-TIFF."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from napari_prosma.data.case import Geometry, Header, Image
from napari_prosma.errors import DataError

SUFFIXES = (".tif", ".tiff")
_CHANNEL_AXES = "CS"
_TIME_AXES = "T"
_STACK_AXES = "ZIQ"
_IMAGEJ_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def read_header(path: Path) -> Header:
    """Header of a TIFF; no pixel is read."""
    with _opened(path) as file:
        series = file.series[0]
        order, channels, shape = _layout(path, series.axes, series.shape)
        return Header(channels, shape, _geometry(order))


def read(path: Path) -> Image:
    """First series of the file as (C, [t,] [z,] y, x)."""
    with _opened(path) as file:
        series = file.series[0]
        spatial, channels, shape = _layout(path, series.axes, series.shape)
        array = series.asarray()
    kept = [n for n, axis in enumerate(series.axes) if axis in _CHANNEL_AXES]
    order = kept + [n for n, axis in enumerate(series.axes) if n not in kept and axis in spatial]
    array = np.transpose(array, order).reshape(channels, *shape)
    return Image(array, _geometry(spatial))


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry, class_names: tuple[str, ...]) -> None:
    """Labels as ImageJ TIFF with pixel size, or OME-TIFF where the type or the name asks for it."""
    _write(path, labels, geometry, class_names)


def write_map(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Map (C, *spatial) or (*spatial) as float32."""
    _write(path, array.astype(np.float32, copy=False), geometry, ())


def _layout(path: Path, axes: str, shape: tuple[int, ...]) -> tuple[str, int, tuple[int, ...]]:
    """Our spatial axes as the file's letters, the number of channels, the spatial shape."""
    sizes = dict(zip(axes, shape, strict=True))
    spatial = "".join(axis for axis in axes if axis not in _CHANNEL_AXES)
    if not spatial.endswith("YX") or len(spatial) > 4:
        raise DataError(f"'{path}' has axes {axes}, which are not understood; save it with axes TCZYX")
    channels = int(np.prod([size for axis, size in sizes.items() if axis in _CHANNEL_AXES], dtype=int))
    return spatial, channels, tuple(sizes[axis] for axis in spatial)


def _geometry(spatial: str) -> Geometry:
    names = tuple("t" if axis in _TIME_AXES else axis.lower() if axis in "YX" else "z" for axis in spatial)
    return Geometry((1.0,) * len(spatial), (0.0,) * len(spatial), "pixel", names)


def _write(path: Path, array: np.ndarray, geometry: Geometry, class_names: tuple[str, ...]) -> None:
    axes = "".join(geometry.axes).upper()
    if array.ndim > geometry.ndim:
        array = np.moveaxis(array, 0, -3)
        axes = f"{axes[:-2]}C{axes[-2:]}"
    as_imagej = array.dtype in _IMAGEJ_TYPES and not path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    unit = {"mm": "mm", "um": "µm"}.get(geometry.unit, "pixel")
    metadata: dict[str, object] = {"axes": axes}
    if as_imagej:
        metadata["unit"] = unit.replace("µm", "um")
        if len(geometry.spacing) > 2:
            metadata["spacing"] = geometry.spacing[-3]
        if class_names:
            metadata["class_names"] = json.dumps(class_names)  # ASCII, as ImageJ wants it
    else:
        for axis, size in zip(geometry.axes, geometry.spacing, strict=True):
            if axis in "zyx" and geometry.unit != "pixel":
                metadata[f"PhysicalSize{axis.upper()}"] = size
                metadata[f"PhysicalSize{axis.upper()}Unit"] = unit
        if class_names:
            metadata["Description"] = "class_names: " + ",".join(class_names)
    tifffile.imwrite(
        path,
        array,
        imagej=as_imagej,
        ome=not as_imagej,
        photometric="minisblack",
        compression=None if as_imagej else "zlib",
        resolution=(1 / geometry.spacing[-1], 1 / geometry.spacing[-2]),
        metadata=metadata,
    )


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except FileNotFoundError:
        raise
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"'{path}' is cut short or no TIFF image ({error}); export it again") from error
