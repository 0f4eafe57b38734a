"""NumPy files (.npy, .npz): mapped, never unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from napari_prosma.data.case import Header, Image
from napari_prosma.data.limits import require_possible
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

SUFFIXES = (".npy", ".npz")
_COLOURS = (3, 4)
_IMAGES, _LABELS = ("image", "img", "data"), ("label", "labels", "mask", "seg", "gt")


def read_header(path: Path) -> Header:
    """Header of a NumPy file."""
    image = read(path)
    return Header(len(image.array), image.array.shape[1:], image.geometry)


def read(path: Path) -> Image:
    """(y, x), (z, y, x) and (C, z, y, x) as they are; (y, x, 3) of bytes is colour.

    An archive gives its only array, or the one called ``image``.
    """
    return _image(path, _array(path, (*_IMAGES, *_LABELS, "arr_0")))


def read_label(path: Path) -> tuple[np.ndarray, Geometry]:
    """The same of what is called ``label``, beside the image in an archive or alone."""
    image = _image(path, _array(path, (*_LABELS, *_IMAGES, "arr_0")))
    return image.array, image.geometry


def holds_pair(path: Path) -> bool:
    """Whether an archive holds an image and its label."""
    if path.suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {Path(name).stem for name in archive.namelist()}
    return not names.isdisjoint(_IMAGES) and not names.isdisjoint(_LABELS)


def _image(path: Path, array: np.ndarray) -> Image:
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3, 4):
        raise DataError(
            f"'{path}' holds {array.dtype} of shape {array.shape}; "
            "save numbers with axes (y, x), (z, y, x) or (channel, z, y, x)"
        )
    if array.ndim == 3 and array.shape[-1] in _COLOURS and array.dtype == np.uint8:
        array = np.moveaxis(array[..., :3], -1, 0)
    elif array.ndim < 4:
        array = array[None]
    return Image(array, Geometry.pixels(array.ndim - 1))


def _require_plausible(path: Path) -> None:
    """Refuse arrays that are larger than what they are packed in can hold."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            require_possible(path, entry.file_size, "deflate", entry.compress_size)
            with archive.open(entry) as file:
                if np.lib.format.read_magic(file) == (1, 0):  # what NumPy writes for any plain array
                    shape, _, kind = np.lib.format.read_array_header_1_0(file)
                    require_possible(path, math.prod(shape) * kind.itemsize, held=entry.file_size)


def _require_numbers(path: Path, file: BinaryIO) -> None:
    """Refuse Python objects, which are programs: Cellpose keeps its masks in such a file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if read(file)[2].hasobject:
        raise DataError(
            f"'{path}' holds Python objects, which may run programs; export what is in it as .png or .tif "
            "(in Cellpose: File > Save masks)"
        )


def _array(path: Path, preferred: Sequence[str]) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                _require_numbers(path, file)
            return np.load(path, mmap_mode="r", allow_pickle=False)
        _require_plausible(path)
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            chosen = names[0] if len(names) == 1 else next((n for n in preferred if n in names), None)
            if chosen is None:
                listed = ", ".join(f"'{name}'" for name in names)
                raise DataError(
                    f"'{path}' holds the arrays {listed}, and nothing tells which is meant; save it again "
                    "with the image called 'image' and its label 'label'"
                )
            return archive[chosen]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"'{path}' is cut short or no NumPy file of numbers ({error}); save it again"
        ) from error
