"""TIFF, ImageJ and OME-TIFF: axes as the file names them, results as ImageJ or OME-TIFF."""

from __future__ import annotations

import json
import math
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from napari_prosma.data.case import Geometry, Header, Image
from napari_prosma.data.limits import require_count, require_inside, require_possible, require_room
from napari_prosma.errors import DataError

SUFFIXES = (".tif", ".tiff")
_PACKINGS = {
    tifffile.COMPRESSION.NONE: "none",
    tifffile.COMPRESSION.PACKBITS: "rle",
    tifffile.COMPRESSION.ADOBE_DEFLATE: "deflate",
    tifffile.COMPRESSION.DEFLATE: "deflate",
    tifffile.COMPRESSION.LZW: "lzw",
    tifffile.COMPRESSION.JPEG: "jpeg",
}
_LEAST_BYTES_OF_A_PAGE = 6
"""Two for the number of its tags, four for the place of the next one."""
_COUNTS = ("IFD", "PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT")
_CHANNEL_AXES = "CS"
_TIME_AXES = "T"
_STACK_AXES = "ZIQ"
_UNITS = {
    "nm": ("um", 1e-3),
    "µm": ("um", 1.0),
    "um": ("um", 1.0),
    "micron": ("um", 1.0),
    "mm": ("mm", 1.0),
    "cm": ("mm", 10.0),
    "m": ("mm", 1000.0),
}
_IMAGEJ_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def read_header(path: Path) -> Header:
    """Header of a TIFF; no pixel is read."""
    with _opened(path) as file:
        series = file.series[0]
        order, channels, shape = _layout(path, series.axes, series.shape)
        return Header(channels, shape, _geometry(file, order))


def read(path: Path) -> Image:
    """First series of the file as (C, [t,] [z,] y, x); contiguous pixels are mapped, not read."""
    with _opened(path) as file:
        series = file.series[0]
        spatial, channels, shape = _layout(path, series.axes, series.shape)
        geometry = _geometry(file, spatial)
        if series.dataoffset is not None:
            kind = np.dtype(series.dtype).newbyteorder(file.byteorder)
            array: np.ndarray = np.memmap(path, kind, "r", series.dataoffset, series.shape)
        else:
            _require_plausible(path, series)
            array = series.asarray()
    kept = [n for n, axis in enumerate(series.axes) if axis in _CHANNEL_AXES]
    order = kept + [n for n, axis in enumerate(series.axes) if n not in kept and axis in spatial]
    array = np.transpose(array, order).reshape(channels, *shape)
    return Image(array, geometry)


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry, class_names: tuple[str, ...]) -> None:
    """Labels as ImageJ TIFF with pixel size, or OME-TIFF where the type or the name asks for it."""
    _write(path, labels, geometry, class_names)


def write_map(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Map (C, *spatial) or (*spatial) as float32."""
    _write(path, array.astype(np.float32, copy=False), geometry, ())


def _require_plausible(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Refuse pages larger than what they are packed in can hold, or than memory."""
    page = series.keyframe
    packing = _PACKINGS.get(tifffile.COMPRESSION(page.compression), "other")
    tile = math.prod(page.chunks) * page.dtype.itemsize if page.dtype is not None else 0
    files = {path, *(Path(one.parent.filehandle.path) for one in series.pages if one is not None)}
    held = sum(file.stat().st_size for file in files)
    require_possible(path, max(series.nbytes, tile), packing, held)
    require_room(path, series.nbytes)


def _require_sound_ome(path: Path, xml: str) -> None:
    """Refuse OME-XML that names files elsewhere, or more planes than its files have room for."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return  # read as a plain TIFF
    names = {element.get("FileName", "") for element in root.iterfind(".//{*}UUID")} - {""}
    files = {path, *(require_inside(path, path.parent, name) for name in names)}
    most = sum(file.stat().st_size for file in files if file.is_file()) // _LEAST_BYTES_OF_A_PAGE
    for pixels in root.iterfind(".//{*}Pixels"):
        planes = math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT")
        require_count(path, "planes", planes, most)
        for data in pixels.iterfind("{*}TiffData"):
            numbers = (int(value) for name, value in data.items() if name in _COUNTS)
            require_count(path, "planes", max(numbers, default=0), most)


def _layout(path: Path, axes: str, shape: tuple[int, ...]) -> tuple[str, int, tuple[int, ...]]:
    """Our spatial axes as the file's letters, the number of channels, the spatial shape."""
    sizes = dict(zip(axes, shape, strict=True))
    spatial = "".join(axis for axis in axes if axis not in _CHANNEL_AXES)
    if not spatial.endswith("YX") or len(spatial) > 4:
        raise DataError(f"'{path}' has axes {axes}, which are not understood; save it with axes TCZYX")
    channels = int(np.prod([size for axis, size in sizes.items() if axis in _CHANNEL_AXES], dtype=int))
    return spatial, channels, tuple(sizes[axis] for axis in spatial)


def _geometry(file: tifffile.TiffFile, spatial: str) -> Geometry:
    """Pixel size from OME or ImageJ metadata; dots per inch of other files say nothing of the object."""
    names = tuple("t" if axis in _TIME_AXES else axis.lower() if axis in "YX" else "z" for axis in spatial)
    sizes, unit = _ome_sizes(file) if file.is_ome else _imagej_sizes(file) if file.is_imagej else ({}, "")
    ours, factor = _UNITS.get(unit, ("pixel", 1.0))
    found = {axis: size * factor for axis, size in sizes.items() if np.isfinite(size) and size > 0}
    if ours == "pixel":
        found = {}
    spacing = tuple(1.0 if axis == "t" else found.get(axis, 1.0) for axis in names)
    return Geometry(spacing, (0.0,) * len(names), ours, names)


def _ome_sizes(file: tifffile.TiffFile) -> tuple[dict[str, float], str]:
    try:
        pixels = next(iter(ElementTree.fromstring(file.ome_metadata or "").iterfind(".//{*}Pixels")))
        sizes = {axis: float(pixels.get(f"PhysicalSize{axis.upper()}", "nan")) for axis in "zyx"}
    except (ElementTree.ParseError, StopIteration, ValueError):
        return {}, ""  # pixels without a size, as in a plain TIFF
    return sizes, pixels.get("PhysicalSizeXUnit", "µm")


def _imagej_sizes(file: tifffile.TiffFile) -> tuple[dict[str, float], str]:
    metadata, tags = file.imagej_metadata or {}, file.pages.first.tags
    sizes = {"z": float(metadata.get("spacing", 1.0))}
    for axis, name in (("y", "YResolution"), ("x", "XResolution")):
        if name in tags and tags[name].value[0]:
            sizes[axis] = tags[name].value[1] / tags[name].value[0]
    return sizes, str(metadata.get("unit", "")).replace("\\u00B5", "µ")


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
            if file.is_ome:
                _require_sound_ome(path, file.ome_metadata or "")
            yield file
    except FileNotFoundError:
        raise
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"'{path}' is cut short or no TIFF image ({error}); export it again") from error
