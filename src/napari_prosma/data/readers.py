"""Files -> ``Image`` and label arrays, by suffix. Each format has its own module; this one chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from napari_prosma.data import arrays
from napari_prosma.data.atomic import restore
from napari_prosma.data.case import Header, Image, Pyramid
from napari_prosma.data.formats import dicom, image_formats, nifti, ome_zarr, pictures
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.texts import number_with_comma
from napari_prosma.errors import DataError, in_brackets
from napari_prosma.geometry import Geometry

_FORMATS = (*image_formats(), arrays)
SUFFIXES = tuple(suffix for module in _FORMATS for suffix in module.SUFFIXES)
_SUFFIXES = frozenset(SUFFIXES)
_HEADERS = {".img": (".hdr",), ".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",)}
"""Files of voxels alone, and what the header beside them is called."""
_PARTS_OF_A_SUFFIX = sorted({suffix.count(".") for suffix in SUFFIXES}, reverse=True)

# ITU-R BT.601 luma in 16-bit fixed point, as Pillow's "L": equal channels come back unchanged.
_LUMA = np.array([19595, 38470, 7471])
_LUMA_BITS = 16
_COLOURS = 3
MOST_COPIED = 2**30
"""Bytes of an image that is read although its file could be mapped."""
_LARGEST = np.iinfo(np.int32).max - 128
"""Of a label of real numbers: float32 has no number between it and the largest of int32."""
_START = 1024
_POINTERS = (
    (b"git-lfs.github.com/spec", "Git LFS", "git lfs pull"),
    (b"/annex/objects/", "git-annex", "git annex get"),
)
"""What version control keeps in the place of a large file: a mark in it, the program, its command."""
_NEARLY_WHOLE = 1e-3
"""How far labels may be from whole numbers, relative to them, after a program scaled or resampled them."""


def can_read(path: str | Path) -> bool:
    """Whether ``path`` is a file of a format that we read, by its name, or a folder with a DICOM series."""
    return _format(path if isinstance(path, Path) else Path(path)) is not None


def stem(path: str | Path) -> str:
    """Name of a file without folder and format suffix: ``ct.nii.gz`` -> ``ct``."""
    name = path.name if isinstance(path, Path) else Path(path).name
    parts = name.lower().split(".")
    for count in _PARTS_OF_A_SUFFIX:
        suffix = "." + ".".join(parts[-count:])
        if len(parts) > count and suffix in _SUFFIXES:
            return name[: -len(suffix)]
    numbered = Path(name).suffix[1:].isdigit()  # DICOM named by its UID, 1.2.840.113619.100, or IM.0001
    return name if numbered or Path(path).is_dir() else Path(name).stem


def read_header(path: str | Path) -> Header:
    """Channels, shape and geometry of an image file, without reading the image.

    Raises
    ------
    DataError
        As :func:`read_image`.
    """
    path = Path(path)
    header: Header = guarded(path, _reader(path).read_header)
    return header


def read_image(path: str | Path) -> Image:
    """Image of a file, with the channels and the type that the file holds.

    PNG, JPEG and BMP give (C, y, x); TIFF and OME-Zarr ``(C, [t,] [z,] y, x)``; AVI and MP4 (C, t, y, x).
    NIfTI, NRRD, MetaImage and the folder of a DICOM series give (C, z, y, x) with z to the head, y to the
    back and x to the patient's left, where ``geometry.source`` keeps how the file had it. NumPy files are
    taken as they are. Uncompressed voxels of more than ``MOST_COPIED`` bytes are mapped until the array is
    let go.

    Raises
    ------
    DataError
        When the file is missing, damaged, of an unknown format, or does not say where its voxels lie.
    """
    path = Path(path)
    image: Image = guarded(path, _reader(path).read)
    if 0 in image.array.shape:
        raise DataError(f"'{path}' is empty: its shape is {image.array.shape[1:]}; export it again")
    if image.array.dtype.kind == "c":
        raise DataError(f"'{path}' holds complex numbers; save their magnitude")
    return _let_go(_in_native_order(image))


def read_series(series: dicom.Series) -> Image:
    """Image of one DICOM series of several in a folder.

    Raises
    ------
    DataError
        As :func:`read_image`.
    """
    image: Image = guarded(series.files[0], lambda _: series.read())
    return _in_native_order(image)


def read_pyramid(path: str | Path) -> Pyramid:
    """Image that is read where it is looked at: the levels of an OME-Zarr, else one level.

    One level that is large is mapped where the format allows, as by :func:`read_image`.

    Raises
    ------
    DataError
        As :func:`read_image`.
    """
    path = Path(path)
    if _reader(path) is ome_zarr:
        pyramid: Pyramid = guarded(path, ome_zarr.read_pyramid)
        return pyramid
    image = read_image(path)
    return Pyramid((image.array,), ((1.0,) * image.geometry.ndim,), image.geometry, image.notices)


def read_label(path: str | Path, dims: int | None = None) -> tuple[np.ndarray, Geometry]:
    """Label of a file as whole numbers (*spatial), as stored: 0/255 stays 0/255.

    Palette images give their indices, colours become ``0xRRGGBB``, JPEG masks their brightness. Masks of
    real numbers from 0 to 1 are cut at 0.5, nearly whole ones are rounded, one-hot channels become the number
    of the channel: from 1, or from 0 where one of them is on everywhere. ``dims`` are the axes of the image;
    with one more the first may hold channels.

    Raises
    ------
    DataError
        As :func:`read_image`, and when the values are no whole numbers.
    """
    stored, geometry, _ = read_label_with_note(path, dims)
    return stored, geometry


def read_label_with_note(path: str | Path, dims: int | None = None) -> tuple[np.ndarray, Geometry, str]:
    """The same, with what was done to make whole numbers of it; an empty note where nothing was."""
    path = Path(path)
    module = _reader(path)
    if module is pictures:
        return guarded(path, pictures.read_label), Geometry.pixels(2), ""
    label, geometry = _stored_label(path, module)
    channels = label if label.ndim > geometry.ndim else label[None]
    has_one_more = geometry.ndim == (dims or 0) + 1 and may_hold_channels(len(channels), geometry)
    if has_one_more and _is_one_hot(channels[0]):
        channels, geometry = channels[0], geometry.still()
    stored, note = _whole_numbers(path, _one_channel(path, channels))
    return np.array(stored), geometry, note  # never mapped, for the reasons of _let_go


def label_names(path: str | Path) -> dict[int, str]:
    """Stored value -> class name, where the label file tells names; empty where it does not."""
    path = Path(path)
    module = _format(path)
    if module is None or not hasattr(module, "label_names"):
        return {}
    try:
        found: dict[int, str] = guarded(path, module.label_names)
    except DataError:  # said when the label itself is read
        return {}
    return found


def as_channels(image: Image, channels: int) -> Image:
    """The same image with 1 channel (ITU-R 601 luma of RGB) or with 3 (gray repeated).

    Of a series of so many volumes, or of so many pages that lie nowhere in space, each is a channel: headers
    often call an axis time or depth that holds sequences or stains. So are elements of a last axis of that
    length.

    Raises
    ------
    DataError
        When the image has neither that number of channels nor 1 or 3.
    """
    array = image.array
    if len(array) == channels:
        return image
    if may_hold_channels(len(array), image.geometry, array.shape[1]) and array.shape[1] == channels:
        kept = tuple(notice for notice in image.notices if not notice.startswith("a clip of"))
        pages = () if image.geometry.axes[0] == "t" else (f"the {channels} pages are read as channels",)
        return Image(array[0], of_pages(image.geometry), (*kept, *pages))
    if may_hold_channels(len(array), image.geometry) and array.ndim == 4 and array.shape[-1] == channels:
        said = f"the {channels} elements of the last axis are read as channels"
        return Image(np.moveaxis(array[0], -1, 0), Geometry.pixels(2), (*image.notices, said))
    if len(array) == 1 and channels == 3:
        return replace(image, array=np.broadcast_to(array, (3, *array.shape[1:])))
    if len(array) == 3 and channels == 1:
        return replace(image, array=_luma(array)[None])
    raise DataError(
        f"found an image with {len(array)} channels where {channels} are expected; "
        "give images of one kind, or convert this one"
    )


def geometry_as_channels(header: Header, channels: int) -> Geometry:
    """Geometry that :func:`as_channels` gives the image of a header; its own where that would refuse it."""
    geometry, shape = header.geometry, header.shape
    if header.channels == channels:
        return geometry
    if may_hold_channels(header.channels, geometry, shape[0]) and shape[0] == channels:
        return of_pages(geometry)
    if may_hold_channels(header.channels, geometry) and len(shape) == 3 and shape[-1] == channels:
        return Geometry.pixels(2)
    return geometry


def may_hold_channels(channels: int, geometry: Geometry, pages: int = 0) -> bool:
    """Whether the first axis of an image is time before volumes, or pages that do not lie in space.

    Three pages of a header that was left as a program makes it may be colours, too.
    """
    if channels != 1 or geometry.ndim not in (3, 4):
        return False
    if geometry.ndim == 4:
        return geometry.axes[0] == "t"
    source = geometry.source
    return source is None or (pages == _COLOURS and np.array_equal(np.abs(source.affine), np.eye(4)))


def of_pages(geometry: Geometry) -> Geometry:
    """Geometry of one of the volumes or pages that are taken for channels."""
    return geometry.still() if geometry.ndim == 4 else replace(geometry.still(), source=None)


def guarded(path: Path, read: Callable[[Path], Any]) -> Any:
    """``read(path)``, with whatever a library says of damaged bytes as an error that names the file.

    Libraries raise nearly anything on such bytes (TypeError, ZeroDivisionError, AssertionError, ...); the
    first error stays attached.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"'{path}' is a device or a pipe, which may never end; give a file")
    try:
        return read(path)
    except PermissionError as error:
        raise DataError(f"'{path}' may not be opened ({error.strerror}); change its permissions") from error
    except Exception as error:
        if what := _what_it_is(path):
            raise DataError(f"'{path}' {what}") from error
        if text := number_with_comma(error):
            raise DataError(
                f"'{path}' has commas in the numbers of its header ('{text}'); write decimal points, with "
                "blanks between numbers, or export it again in English"
            ) from error
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"'{path}' is damaged or not what its name says{in_brackets(error)}; export it again"
        ) from error


def _what_it_is(path: Path) -> str:
    """What a file that cannot be read is instead of an image, and what to do; "" where nothing tells."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        start = file.read(_START).lstrip().lower()
    if not start:
        return "is empty; download or export it again"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, as after a download that failed; download the file again"
    return next(
        (
            f"is a pointer of {program}, not the file itself; get it with '{command}'"
            for mark, program, command in _POINTERS
            if mark in start
        ),
        "",
    )


def _in_native_order(image: Image) -> Image:
    kind = image.array.dtype
    return image if kind.isnative else replace(image, array=image.array.astype(kind.newbyteorder("=")))


def _let_go(image: Image) -> Image:
    """The same image, its file let go of unless it is large.

    Windows lets nobody replace a file that is mapped, and whoever cuts it short would end this process.
    """
    base: object = image.array
    while isinstance(base, np.ndarray):
        base = base.base
    is_copied = isinstance(base, mmap) and image.array.nbytes <= MOST_COPIED
    return replace(image, array=np.array(image.array)) if is_copied else image


def _stored_label(path: Path, module: ModuleType) -> tuple[np.ndarray, Geometry]:
    """(*spatial) or (C, *spatial) as a format's own reader of labels has it, else as an image."""
    if not hasattr(module, "read_label"):
        image = read_image(path)
        return image.array, image.geometry
    label, geometry = guarded(path, module.read_label)
    if 0 in label.shape:
        raise DataError(f"'{path}' is empty: its shape is {label.shape}; export it again")
    return label.astype(label.dtype.newbyteorder("="), copy=False), geometry


def _luma(array: np.ndarray) -> np.ndarray:
    if np.issubdtype(array.dtype, np.integer):
        weighted = np.tensordot(_LUMA, array.astype(np.int64), axes=1)
        return ((weighted + (1 << (_LUMA_BITS - 1))) >> _LUMA_BITS).astype(array.dtype)
    return np.tensordot(_LUMA / 2**_LUMA_BITS, array, axes=1).astype(array.dtype)


def _one_channel(path: Path, array: np.ndarray) -> np.ndarray:
    if len(array) == 1:
        return array[0]
    if _is_one_hot(array):
        on = array != 0
        first = 0 if on.any(axis=0).all() else 1
        return np.where(on.any(axis=0), on.argmax(axis=0) + first, 0)
    many = ", or each image as a file of its own where it holds several" * (path.suffix in arrays.SUFFIXES)
    if path.name.lower().endswith(nifti.SUFFIXES):
        many = ", or give the fourth axis a unit of time in the header of image and labels where it is time"
    raise DataError(
        f"labels '{path}' have {len(array)} channels that are not one-hot; save one channel of class "
        f"numbers{many}"
    )


def _is_one_hot(array: np.ndarray) -> bool:
    """Whether (C, *spatial) holds 0 and one other value, which at most one channel has in a place."""
    on = array != 0
    return bool((array[on] == array.max()).all() and (on.sum(axis=0) <= 1).all() and array.max() in (1, 255))


def _whole_numbers(path: Path, array: np.ndarray) -> tuple[np.ndarray, str]:
    if array.dtype == bool:
        return array.astype(np.uint8), ""
    if np.issubdtype(array.dtype, np.integer):
        return array, ""
    if (missing := np.isnan(array)).any() and not missing.all():
        stored, note = _whole_numbers(path, np.where(missing, array.dtype.type(0), array))
        said = f"{in_percent(missing.mean(), 2)} of the labels is NaN; taken as background"
        return stored, "; ".join(filter(None, (said, note)))
    if not np.abs(array).max() <= _LARGEST:
        raise DataError(
            f"labels '{path}' hold NaN, infinite or huge values, no class numbers; export a label map"
        )
    rounded = np.round(array)
    if np.array_equal(rounded, array):
        return rounded.astype(np.int32), ""
    if np.all(np.abs(array - rounded) <= _NEARLY_WHOLE * np.maximum(1, np.abs(rounded))):
        return rounded.astype(np.int32), "label values are nearly whole, such as 1.00002, and were rounded"
    if array.min() >= 0 and array.max() <= 1:
        return (array > 0.5).astype(np.uint8), "labels with values between 0 and 1 are cut at 0.5"
    raise DataError(
        f"labels '{path}' hold values such as {array[rounded != array].flat[0]:g}, no class numbers; "
        "export a label map, not an image or a probability"
    )


def _format(path: Path) -> ModuleType | None:
    name = path.name.lower()
    named = next((module for module in _FORMATS if name.endswith(module.SUFFIXES)), None)
    if named is not None:
        return named
    if path.is_dir():
        return (
            ome_zarr
            if ome_zarr.is_ome_zarr(path)
            else dicom
            if dicom.holds_series(path, nested=True)
            else None
        )
    return dicom if path.is_file() and dicom.is_dicom(path) else None


def _reader(path: Path) -> ModuleType:
    restore(path)
    module = _format(path)
    if not path.exists():
        raise DataError(f"'{path}' does not exist; check the path")
    headers = (path.with_suffix(suffix) for suffix in _HEADERS.get(path.suffix.lower(), ()))
    header = next((one for one in headers if one.is_file()), None)
    if module is None and header is not None:
        raise DataError(f"'{path}' holds the voxels of '{header.name}'; give that")
    if module is None:
        raise DataError(f"'{path}' is not in a supported image format; use one of {', '.join(SUFFIXES)}")
    return module
