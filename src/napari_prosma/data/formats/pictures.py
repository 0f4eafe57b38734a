"""PNG, JPEG, JPEG 2000, BMP, GIF, WebP, PNM: images (C, y, x), masks in every mode that tools write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
from PIL.PngImagePlugin import PngInfo

from napari_prosma.data.atomic import wanted_name
from napari_prosma.data.case import Header, Image
from napari_prosma.data.class_colours import colour_of
from napari_prosma.data.limits import require_possible
from napari_prosma.data.texts import parse_names
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm"),
    *(".jp2", ".j2k", ".jpx", ".j2c", ".jpf"),
)
_GRAY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "F"}
_PACKINGS = {"PNG": "deflate", "JPEG": "jpeg", "BMP": "rle"}
_SIDEWAYS = {5, 6, 7, 8}
_EXIF_ORIENTATION = 0x0112
Shown = Literal["numbers", "white", "colours"]
"""How labels are stored in a PNG: as class numbers, which look black in other programs; 255 for the one
structure; or as class numbers with a palette, which programs for pictures show in colours."""
_HIGHEST_IN_PALETTE = 255
_MAX_16_BIT = 65535
_OPAQUE = 255
_MOST_COLOURS = 64
_ROUNDED = 0.02
"""Of the brightest colour: as far as rounding takes one that was multiplied by its transparency."""
_SOFT_EDGE = 2
"""So many pixels of a soft edge are more opaque than not; what lies farther away is an area of its own."""
_JPEG = ("JPEG", "MPO")  # MPO: the same from a telephone, with further pictures behind it
_JPEG_2000 = "JPEG2000"


def read_header(path: Path) -> Header:
    """Header of a picture; nothing is decoded."""
    with _opened(path) as picture:
        width, height = picture.size
        if _may_be_turned(picture) and picture.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS:
            width, height = height, width
        channels = 1 if picture.mode in _GRAY_MODES else 3
    return Header(channels, (height, width), Geometry.pixels(2))


def read(path: Path) -> Image:
    """Picture as (C, y, x): 1 channel for gray modes, else 3; transparency is dropped."""
    with _opened(path) as picture:
        if picture.format == _JPEG_2000:
            samples, _ = _of_jpeg_2000(path)
            return Image(np.ascontiguousarray(np.moveaxis(samples, -1, 0)), Geometry.pixels(2))
        if _is_deep(picture):
            samples, _ = _of_deep_png(path)
            return Image(np.ascontiguousarray(np.moveaxis(samples, -1, 0)), Geometry.pixels(2))
        upright = _upright(picture)
        if upright.mode in ("1", "LA", "La"):
            upright = upright.convert("L")
        elif upright.mode not in _GRAY_MODES:
            upright = upright.convert("RGB")
        array = _native(np.asarray(upright))
        count = getattr(picture, "n_frames", 1) if picture.format not in _JPEG else 1
    array = array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
    notices = (f"'{path.name}' is animated; the first of its {count} pictures is read",) if count > 1 else ()
    return Image(array, Geometry.pixels(2), notices)


def read_label(path: Path) -> np.ndarray:
    """Mask as (y, x) integers: 0/1 for one-bit, palette indices, gray values, ``0xRRGGBB`` for colour.

    JPEG has no exact values, so a JPEG mask is its brightest channel whatever its mode. Of a mask that was
    drawn on a transparent layer see :func:`mask_of_colours`.
    """
    with _opened(path) as picture:
        if picture.format == _JPEG_2000:
            return mask_of_colours(*_of_jpeg_2000(path))
        if _is_deep(picture):
            return mask_of_colours(*_of_deep_png(path))
        upright = _upright(picture)
        alpha = _native(np.asarray(upright.getchannel("A"))) if "A" in upright.getbands() else None
        if picture.format in _JPEG and upright.mode != "L":
            return np.asarray(upright.convert("RGB")).max(axis=-1)
        if upright.mode in ("LA", "La"):
            upright = upright.convert("L")
        elif upright.mode == "PA":
            upright = upright.convert("P")
        elif upright.mode not in _GRAY_MODES and upright.mode != "P":
            upright = upright.convert("RGB")
        array = _native(np.asarray(upright))
    if alpha is not None or array.ndim == 3:
        return mask_of_colours(array if array.ndim == 3 else array[..., None], alpha)
    return array.astype(np.uint8) if array.dtype == bool else array


def mask_of_colours(colours: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Values of a mask in colour: ``0xRRGGBB`` of three samples, the value of one.

    Where ``alpha`` differs from place to place, nothing was drawn where it is transparent, whatever colour
    lies below; what was drawn in black alone is 255, for its shape is all that it says. Soft edges that were
    multiplied by their transparency are of the colour beside them.

    Parameters
    ----------
    colours : (*spatial, 1 or 3) integers
    alpha : (*spatial), optional
    """
    values = colours[..., 0]
    if colours.shape[-1] == 3:
        to_bytes = 8 * (colours.dtype.itemsize - 1)
        red, green, blue = np.moveaxis((colours >> to_bytes).astype(np.uint32), -1, 0)
        values = (red << 16) | (green << 8) | blue
    if alpha is None or alpha.min() == alpha.max():
        return values
    drawn = alpha > alpha.max() // 2
    if not values[drawn].any():
        return np.where(drawn, np.uint8(_OPAQUE), np.uint8(0))
    return np.where(drawn, _unmultiplied(values, colours, alpha, drawn), values.dtype.type(0))


def _unmultiplied(
    values: np.ndarray, colours: np.ndarray, alpha: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """``values`` where a colour divided by its transparency is one that is drawn opaque beside it."""
    from scipy import ndimage

    solid = drawn & (alpha == alpha.max())
    known, where = np.unique(values[solid], return_index=True)
    soft = drawn & ~solid & ~np.isin(values, known)
    if not soft.any() or not 0 < len(known) <= _MOST_COLOURS:
        return values
    opaque = colours[solid][where].astype(float)
    whole = colours[soft] * (float(alpha.max()) / alpha[soft][:, None])
    apart = np.abs(whole[:, None] - opaque).max(axis=-1) / max(1.0, opaque.max())
    nearest, alike = known[apart.argmin(axis=1)], apart.min(axis=1) <= _ROUNDED
    restored = values.copy()
    size = 2 * _SOFT_EDGE + 1
    beside = np.ones((1,) * (values.ndim - 2) + (size, size))
    for colour in np.unique(nearest[alike]):
        near = ndimage.binary_dilation(solid & (values == colour), beside)
        found = np.zeros(values.shape, bool)
        found[soft] = alike & (nearest == colour)
        restored[near & found] = colour
    return restored


def label_names(path: Path) -> dict[int, str]:
    """Names of the classes, where :func:`write_labels` wrote them."""
    with _opened(path) as picture:
        return parse_names(str(picture.info.get("class_names", "")))


def palette(path: Path) -> dict[int, int]:
    """Stored value -> ``0xRRGGBB`` that a mask with a palette shows it in; empty for other pictures."""
    with _opened(path) as picture:
        colours = (picture.getpalette() or []) if picture.mode == "P" else []
    return {
        n: (red << 16) | (green << 8) | blue
        for n, (red, green, blue) in enumerate(zip(*(colours[k::3] for k in range(3)), strict=True))
    }


def write_labels(
    path: Path, labels: np.ndarray, class_names: tuple[str, ...], shown: Shown = "numbers"
) -> None:
    """Class indices (y, x) as PNG values, the names as text under ``class_names``; see ``Shown``."""
    _require_plane(path, labels)
    highest = int(labels.max(initial=0))
    if shown == "white" and highest > 1:
        raise DataError(
            f"'{wanted_name(path)}': 255 stands for one structure, but the labels run up to {highest}; save "
            "it in colours or as class numbers"
        )
    if shown == "colours" and highest > _HIGHEST_IN_PALETTE:
        raise DataError(
            f"'{wanted_name(path)}': a palette has 256 colours, but the labels run up to {highest}; save it "
            "as class numbers"
        )
    text = PngInfo()
    if class_names:
        text.add_itxt("class_names", json.dumps(list(class_names), ensure_ascii=False))
    picture = PIL.Image.fromarray(labels * np.uint8(255) if shown == "white" else labels)
    if shown == "colours":
        picture.putpalette([0, 0, 0, *(part for k in range(1, highest + 1) for part in colour_of(k))])
    picture.save(path, format="PNG", pnginfo=text)


def write_map(path: Path, array: np.ndarray) -> None:
    """Map (y, x) with values from 0 to 1 as a 16-bit gray PNG, 65535 = 1."""
    _require_plane(path, array)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"PNG holds maps from 0 to 1, but this one runs from {low:g} to {high:g}; use .tif or .nii.gz"
        )
    PIL.Image.fromarray(np.round(array * _MAX_16_BIT).astype(np.uint16)).save(path, format="PNG")


def _require_plane(path: Path, array: np.ndarray) -> None:
    if path.suffix.lower() != ".png":
        raise DataError(
            f"'{wanted_name(path)}': results are not written as {path.suffix}, which loses values; use .png"
        )
    if array.ndim != 2:
        raise DataError(
            f"'{wanted_name(path)}': PNG holds one plane, but the result has shape {array.shape}; "
            "use .tif or .nii.gz"
        )


def _upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    return PIL.ImageOps.exif_transpose(picture) if _may_be_turned(picture) else picture


def _may_be_turned(picture: PIL.Image.Image) -> bool:
    """Whether the header speaks of a camera; asked first because Pillow decodes a PNG to look for EXIF."""
    return picture.format in _JPEG or "exif" in picture.info


def _is_deep(picture: PIL.Image.Image) -> bool:
    """Whether a PNG has 16 bits for each colour, of which Pillow would drop 8."""
    tiles = getattr(picture, "tile", ())
    return (
        picture.format == "PNG"
        and any(str(tile.args).endswith(";16B") for tile in tiles)
        and (picture.mode in ("RGB", "RGBA", "LA"))
    )


def _of_deep_png(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples (y, x, 1 or 3) of 16 bits, and transparency."""
    import imagecodecs

    try:
        array = np.atleast_3d(imagecodecs.png_decode(path.read_bytes()))
    except imagecodecs.PngError as error:
        raise DataError(f"'{path}' is damaged ({error}); export it again") from error
    return _without_alpha(array)


def _without_alpha(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return (array[..., :-1], array[..., -1]) if array.shape[-1] in (2, 4) else (array, None)


def _of_jpeg_2000(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples (y, x, 1 or 3) as stored, and transparency; Pillow would stretch 12 bits to 16."""
    import imagecodecs

    try:
        array = np.atleast_3d(imagecodecs.jpeg2k_decode(path.read_bytes()))
    except imagecodecs.Jpeg2kError as error:
        raise DataError(f"'{path}' is damaged ({error}); export it again") from error
    return _without_alpha(array)


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    try:
        with PIL.Image.open(path) as picture:
            bits = 1 if picture.mode in ("1", "P", "L") else 8
            packing = _PACKINGS.get(picture.format or "", "other")
            require_possible(path, picture.width * picture.height * bits // 8, packing)
            yield picture
    except FileNotFoundError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"'{path}' claims to be larger than any real picture ({error}); remove it") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        why = "" if isinstance(error, PIL.UnidentifiedImageError) else f" ({error})"
        raise DataError(
            f"'{path}' is damaged or no {path.suffix[1:].upper()} image{why}; export it again"
        ) from error
