"""TIFF, ImageJ and OME-TIFF: axes as the file names them, results as ImageJ or OME-TIFF."""

from __future__ import annotations

import json
import math
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from napari_prosma.data.case import Header, Image
from napari_prosma.data.formats.pictures import mask_of_colours
from napari_prosma.data.limits import require_count, require_inside, require_possible, require_room
from napari_prosma.data.texts import number_with_comma, parse_names
from napari_prosma.data.units import common, seconds
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

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
_IMAGEJ_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
_UNDERSTOOD = (
    *(tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB),
    *(tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MASK),
)
_YCBCR = tifffile.PHOTOMETRIC.YCBCR
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_ORIENTATION = 274
_UNPACKER = "imagecodecs"
_UPRIGHT, _SIDEWAYS = 1, 5  # from 5 on, rows are stored as columns
_MIRRORED_ROWS, _MIRRORED_COLUMNS = (3, 4, 7, 8), (2, 3, 6, 7)
_CENTIMETRE, _INCH, _SCREEN_DPI = 3, 2, 72
_UM_PER_CM, _UM_PER_INCH = 1e4, 25.4e3
_USUAL_DPI = (1, 2.54, 72, 96, 100, 120, 144, 150, 180, 200, 240, 254, 300, 350, 360, 400, 600, 1200)
"""Of screens and printers, or of programs that fill in 1."""
_LINEAR, _UNCALIBRATED = 0, (20, 21)  # ImageJ's calibration functions
_GRAY_16_TO_8 = 8
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class _Stored:
    """What a file says of its first image before it is read."""

    header: Header
    spatial: str
    notices: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Header of a TIFF; no pixel is read."""
    with _opened(path) as file:
        return _stored(path, file).header


def read(path: Path) -> Image:
    """First series of the file as (C, [t,] [z,] y, x); contiguous pixels are mapped, not read.

    Values are as the file means them: white stored as 0 is turned, palettes give colours, transparency is
    dropped, ImageJ's straight-line calibration is applied.
    """
    with _opened(path) as file:
        stored = _stored(path, file)
        array = _samples(path, file, stored)
        palette = _palette(file)
    if palette is not None:
        array = np.moveaxis(palette[array[0]], -1, 0)
    header = stored.header
    return Image(
        array[: header.channels].reshape(header.channels, *header.shape), header.geometry, stored.notices
    )


def read_label(path: Path) -> tuple[np.ndarray, Geometry]:
    """Mask (*spatial) as stored, or (C, *spatial) of several channels; colours become ``0xRRGGBB``."""
    with _opened(path) as file:
        stored = _stored(path, file)
        array = _samples(path, file, stored)
        samples = file.series[0].keyframe
        alpha = array[-1] if _has_alpha(samples) else None
    values = array[:-1] if alpha is not None else array
    in_colour = (
        samples.photometric == tifffile.PHOTOMETRIC.RGB and values.dtype == np.uint8 and values.max() > 1
    )
    if in_colour or alpha is not None:
        return mask_of_colours(np.moveaxis(values, 0, -1), alpha), stored.header.geometry
    return (values[0] if len(values) == 1 else values), stored.header.geometry


def label_names(path: Path) -> dict[int, str]:
    """Names of the classes, where :func:`write_labels` wrote them: as JSON, in older OME-TIFF with commas."""
    with _opened(path) as file:
        if file.is_ome:
            found = ElementTree.fromstring(file.ome_metadata or "").find(".//{*}Image/{*}Description")
            text = (found.text or "") if found is not None else ""
            if not text.startswith("class_names: "):
                return {}
            names = text.removeprefix("class_names: ")
            return parse_names(names) or dict(enumerate(names.split(",")))
        return parse_names(str((file.imagej_metadata or {}).get("class_names", "")))


def _stored(path: Path, file: tifffile.TiffFile) -> _Stored:
    series = file.series[0]
    _require_understood(path, file)
    spatial, channels, shape = _layout(path, series.axes, series.shape)
    geometry, notices = _geometry(path, file, spatial)
    if _palette(file) is not None:
        channels = 3
    elif _has_alpha(series.keyframe):
        channels -= 1
    if _orientation(file) >= _SIDEWAYS:
        shape = (*shape[:-2], shape[-1], shape[-2])
        geometry = replace(geometry, spacing=(*geometry.spacing[:-2], *geometry.spacing[:-3:-1]))
    if len(file.series) > 1:
        notices += (f"'{path.name}' holds {len(file.series)} images; the first is read",)
    return _Stored(Header(channels, shape, geometry), spatial, notices)


def _samples(path: Path, file: tifffile.TiffFile, stored: _Stored) -> np.ndarray:
    """Samples as (channels, *spatial): upright, with white above black, calibrated."""
    series = file.series[0]
    if series.dataoffset is not None:
        kind = np.dtype(series.dtype).newbyteorder(file.byteorder)
        array: np.ndarray = np.memmap(path, kind, "r", series.dataoffset, series.shape)
    else:
        _require_plausible(path, series)
        array = series.asarray()
    kept = [n for n, axis in enumerate(series.axes) if axis in _CHANNEL_AXES]
    order = kept + [n for n, axis in enumerate(series.axes) if n not in kept and axis in stored.spatial]
    array = np.transpose(array, order)
    array = array.reshape(-1, *array.shape[len(kept) :])
    if _stores_white_as_0(file, series.keyframe):
        array = _turned(path, array, series.keyframe.bitspersample)
    orientation = _orientation(file)
    if orientation >= _SIDEWAYS:
        array = np.swapaxes(array, -1, -2)
    if orientation in _MIRRORED_ROWS:
        array = array[..., ::-1, :]
    if orientation in _MIRRORED_COLUMNS:
        array = array[..., ::-1]
    return _calibrated(path, file, array)


def _require_understood(path: Path, file: tifffile.TiffFile) -> None:
    page = file.series[0].keyframe
    unpacked = (
        page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    )
    if page.photometric not in _UNDERSTOOD and not unpacked:
        name = getattr(page.photometric, "name", page.photometric)
        raise DataError(f"'{path}' is stored as {name}; save it as gray or RGB")


def _turned(path: Path, array: np.ndarray, bits: int) -> np.ndarray:
    """Values of a file in which 0 is white; not asked of ImageJ, which turns the look and not the values."""
    if array.dtype == bool:
        return ~array
    if array.dtype.kind != "u":
        raise DataError(f"'{path}' stores white as 0 in {array.dtype}; save it with black as 0")
    return array.dtype.type((1 << bits) - 1) - array


def _palette(file: tifffile.TiffFile) -> np.ndarray | None:
    """Colours (n, 3) of a palette that is meant; ImageJ's are a way to look at gray values."""
    page = file.series[0].keyframe
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or file.is_imagej or page.colormap is None:
        return None
    return (page.colormap.T >> _GRAY_16_TO_8).astype(np.uint8)


def _stores_white_as_0(file: tifffile.TiffFile, page: tifffile.TiffPage) -> bool:
    """As the header says, but for ImageJ and for what tifffile makes of Boolean arrays: these are values."""
    is_boolean = page.bitspersample == 1 and page.software.startswith("tifffile")
    is_said = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    return is_said and not file.is_imagej and not is_boolean


def _has_alpha(page: tifffile.TiffPage) -> bool:
    return page.samplesperpixel in (2, 4) and any(extra in _ALPHA for extra in page.extrasamples)


def _orientation(file: tifffile.TiffFile) -> int:
    """How the file is to be turned to stand upright; programs of microscopy pay no heed to it."""
    tag = file.pages.first.tags.get(_ORIENTATION)
    return _UPRIGHT if tag is None or file.is_ome or file.is_imagej else int(tag.value)


def _calibrated(path: Path, file: tifffile.TiffFile, array: np.ndarray) -> np.ndarray:
    """ImageJ's calibration of values: a straight line, as it stores signed images and Hounsfield units."""
    said = file.imagej_metadata or {} if file.is_imagej else {}
    function = int(said.get("cf", _UNCALIBRATED[0]))
    if function in _UNCALIBRATED:
        return array
    if function != _LINEAR:
        raise DataError(
            f"'{path}' has a curved calibration (ImageJ's function {function}); remove it in ImageJ"
        )
    shift, slope = float(said.get("c0", 0.0)), float(said.get("c1", 1.0))
    if (shift, slope) == (0.0, 1.0):
        return array
    if shift == int(shift) and slope == int(slope) and array.dtype.kind in "ui":
        whole = array.astype(np.int64) * int(slope) + int(shift)
        fits = whole.min() >= _INT16.min and whole.max() <= _INT16.max
        return whole.astype(np.int16 if fits else np.int32)
    return (array * slope + shift).astype(np.float32)


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
    stored = max(series.nbytes, tile)
    if packing == "none":  # less than a byte for each value, such as a bit
        stored = math.ceil(stored * page.bitspersample / (8 * page.dtype.itemsize)) if page.dtype else stored
    require_possible(path, stored, packing, held)
    require_room(path, series.nbytes)


def _require_an_end(path: Path, file: tifffile.TiffFile) -> None:
    """Refuse pages of which one leads back to an earlier one: tifffile would read them for ever."""
    handle, kind = file.filehandle, file.tiff
    order: Literal["little", "big"] = "little" if file.byteorder == "<" else "big"
    place, seen = file.pages.first.offset, set[int]()
    while 0 < place < handle.size:
        if place in seen:
            raise DataError(f"'{path}' has a page that leads back to an earlier one; export it again")
        seen.add(place)
        handle.seek(place)
        tags = int.from_bytes(handle.read(kind.tagnosize), order)
        handle.seek(place + kind.tagnosize + tags * kind.tagsize)
        place = int.from_bytes(handle.read(kind.offsetsize), order)


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
    spatial = "".join(
        axis
        for axis in axes
        if axis not in _CHANNEL_AXES and (sizes[axis] > 1 or axis in "YX" + _STACK_AXES + _TIME_AXES)
    )
    leading = spatial.removesuffix("YX")
    understood = spatial.endswith("YX") and set(leading) <= set(_STACK_AXES + _TIME_AXES)
    if not understood or sum(axis in _STACK_AXES for axis in leading) > 1 or leading.count("T") > 1:
        raise DataError(f"'{path}' has axes {axes}, which are not understood; save it with axes TCZYX")
    channels = int(np.prod([size for axis, size in sizes.items() if axis in _CHANNEL_AXES], dtype=int))
    return spatial, channels, tuple(sizes[axis] for axis in spatial)


def _geometry(path: Path, file: tifffile.TiffFile, spatial: str) -> tuple[Geometry, tuple[str, ...]]:
    """Pixel size from OME or ImageJ metadata, or from dots per centimetre.

    Dots per inch of other files say nothing of the object, nor do those of a screen or a printer.
    """
    names = tuple("t" if axis in _TIME_AXES else axis.lower() if axis in "YX" else "z" for axis in spatial)
    sizes, units, seconds = (
        _ome_sizes(file) if file.is_ome else _imagej_sizes(file) if file.is_imagej else _plain_sizes(file)
    )
    sizes = {axis: abs(size) for axis, size in sizes.items() if np.isfinite(size) and size and axis in names}
    found = common({axis: units[axis] for axis in sizes})
    notices: tuple[str, ...] = ()
    if found is None:
        told = ", ".join(dict.fromkeys(f"'{units[axis]}'" for axis in sizes))
        notices = (f"'{path.name}' has pixel sizes in {told}, which is not understood; given in pixels",)
    unit, factors = found or ("pixel", {})
    if unit == "pixel":
        sizes = {}
    spacing = tuple(sizes[axis] * factors[axis] if axis in sizes else 1.0 for axis in names)
    missing = [axis for axis in names if axis not in sizes and axis != "t"]
    if sizes and missing:
        notices = (f"'{path.name}' has no size along {', '.join(missing)}; taken as 1 {unit}",)
    seconds = seconds if "t" in names else 0.0
    return Geometry(spacing, (0.0,) * len(names), unit, names, frame_seconds=seconds), notices


def _ome_sizes(file: tifffile.TiffFile) -> tuple[dict[str, float], dict[str, str], float]:
    """Pixel size and unit by axis, and the seconds between frames."""
    try:
        pixels = next(iter(ElementTree.fromstring(file.ome_metadata or "").iterfind(".//{*}Pixels")))
        sizes = {axis: float(pixels.get(f"PhysicalSize{axis.upper()}", "nan")) for axis in "zyx"}
        step = float(pixels.get("TimeIncrement", "0"))
    except (ElementTree.ParseError, StopIteration, ValueError) as error:
        if number_with_comma(error):
            raise
        return {}, {}, 0.0  # pixels without a size, as in a plain TIFF
    units = {axis: pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm") for axis in "zyx"}
    return sizes, units, step * (seconds(pixels.get("TimeIncrementUnit", "s")) or 0.0)


def _imagej_sizes(file: tifffile.TiffFile) -> tuple[dict[str, float], dict[str, str], float]:
    """Pixel size and unit by axis, and the seconds between frames."""
    metadata, tags = file.imagej_metadata or {}, file.pages.first.tags
    sizes = {"z": float(metadata.get("spacing", 1.0))}
    for axis, name in (("y", "YResolution"), ("x", "XResolution")):
        if name in tags and tags[name].value[0]:
            sizes[axis] = tags[name].value[1] / tags[name].value[0]
    unit = str(metadata.get("unit", "")) or _unit_of_resolution(tags, sizes.get("x", 1.0))
    units = {"x": unit, "y": str(metadata.get("yunit", unit)), "z": str(metadata.get("zunit", unit))}
    step = float(metadata.get("finterval", 0.0)) * (seconds(str(metadata.get("tunit", "s"))) or 0.0)
    rate = float(metadata.get("fps", 0.0))
    return sizes, units, step or (1 / rate if rate > 0 else 0.0)


def _plain_sizes(file: tifffile.TiffFile) -> tuple[dict[str, float], dict[str, str], float]:
    """The same of any other file, whose resolution programs of microscopy give in centimetres."""
    tags = file.pages.first.tags
    sizes = {
        axis: _UM_PER_CM * tags[name].value[1] / tags[name].value[0]
        for axis, name in (("y", "YResolution"), ("x", "XResolution"))
        if name in tags and tags[name].value[0]
    }
    tag = tags.get("ResolutionUnit")
    if tag is None or int(tag.value) != _CENTIMETRE or len(sizes) < 2:
        return {}, {}, 0.0
    dpi = _UM_PER_INCH / sizes["x"]
    if any(abs(dpi - usual) < 1 for usual in _USUAL_DPI):
        return {}, {}, 0.0
    return sizes, dict.fromkeys(sizes, "um"), 0.0


def _unit_of_resolution(tags: tifffile.TiffTags, width: float) -> str:
    """As ImageJ takes it where its own text names none: 72 dots per inch is every program's filling."""
    tag = tags.get("ResolutionUnit")
    unit = 1 if tag is None else int(tag.value)
    if unit == _CENTIMETRE:
        return "cm"
    return "inch" if unit == _INCH and round(1 / width) != _SCREEN_DPI else ""


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
        if geometry.frame_seconds:
            metadata["finterval"] = geometry.frame_seconds
        if class_names:
            metadata["class_names"] = json.dumps(class_names)  # ASCII, as ImageJ wants it
    else:
        for axis, size in zip(geometry.axes, geometry.spacing, strict=True):
            if axis in "zyx" and geometry.unit != "pixel":
                metadata[f"PhysicalSize{axis.upper()}"] = size
                metadata[f"PhysicalSize{axis.upper()}Unit"] = unit
        if geometry.frame_seconds:
            metadata |= {"TimeIncrement": geometry.frame_seconds, "TimeIncrementUnit": "s"}
        if class_names:
            metadata["Description"] = f"class_names: {json.dumps(class_names, ensure_ascii=False)}"
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
            _require_an_end(path, file)
            if file.is_ome:
                _require_sound_ome(path, file.ome_metadata or "")
            yield file
    except FileNotFoundError:
        raise
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, struct.error) as error:
        if _UNPACKER in str(error):  # tifffile names what is not installed
            raise DataError(
                f"'{path}' is packed in a way that needs {_UNPACKER}; "
                f"install it with: pip install {_UNPACKER}"
            ) from error
        raise DataError(f"'{path}' is cut short or no TIFF image ({error}); export it again") from error
