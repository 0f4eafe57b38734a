"""What was annotated in layers, kept as files, so that a run that learns from it can be gone on with.

``folder`` holds ``cases.csv``, which ``find_cases`` reads, ``NAME.ome.zarr`` with the image, bit for bit, and
``NAME_label.tif`` with the labels as they were drawn.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import tifffile

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Image
from napari_prosma.data.names import DEVICES
from napari_prosma.data.readers import as_channels, read_header, read_image
from napari_prosma.data.texts import read_rows, write_rows
from napari_prosma.data.writers import write_image
from napari_prosma.errors import DataError

TABLE = "cases.csv"
_COLUMNS = ("name", "image", "label")
_UNSAFE = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]+')
_LONGEST_NAME = 48
"""In characters, of which each may take four of the 255 bytes that a file's name has."""
_AXES = "TZYX"
_QUICK = 1
"""Level of zlib; labels compress well at any."""


def keep_case(
    folder: Path,
    name: str,
    image: Image,
    stored: np.ndarray,
    file: Path | None = None,
    beside: Collection[str] = (),
) -> tuple[Path, Path]:
    """Keep an image and its labels, so that ``find_cases(folder / TABLE)`` gives the same arrays.

    Parameters
    ----------
    folder : Path
        Made if missing.
    name : str
        Of the case, which is then called ``safe_name(name)``.
    image : Image
        Its type, channels and geometry are kept.
    stored : (*spatial)
        Labels as they were drawn, of any type of whole numbers.
    file : Path, optional
        Where the image was opened from. It is not copied if that is still this very image, but then the
        table must be given to ``find_cases`` itself, and not its folder.
    beside : names
        Cases that were kept here before and stay in the table; others leave it, and their files stay.

    Returns
    -------
    tuple of Path
        Files of the image and of the labels.

    Raises
    ------
    DataError
        The image has an axis of one element that its file would not keep, or the folder cannot be written to.
    """
    name = safe_name(name)
    own = folder / f"{name}.ome.zarr"
    path = next((path for path in (file, own) if path is not None and _holds(path, image)), None)
    if path is None:
        path = write_image(own, image)
        _require_kept(path, name, image)
    label = _label_path(folder, name)
    _write_label(label, stored)
    image_entry = str(path.absolute()) if path == file else path.name
    others = {safe_name(other) for other in beside} - {name}
    kept = [row for row in _rows(folder) if row["name"] in others] if others else []
    row = {"name": name, "image": image_entry, "label": label.name}
    write_rows(folder / TABLE, [*kept, row], _COLUMNS)
    return path, label


def keep_label(folder: Path, name: str, stored: np.ndarray) -> Path:
    """Keep the labels of a case as they are drawn now; its image stays.

    Raises ``DataError``: the case is not kept here, as when the folder was moved, or the folder cannot be
    written to.
    """
    path = _label_path(folder, safe_name(name))
    if not path.is_file():
        raise DataError(
            f"'{path}' is no longer there: the folder was moved, renamed or deleted; put it back, or start a "
            f"new run"
        )
    _write_label(path, stored)
    return path


def safe_name(name: str) -> str:
    """The name of a layer as that of a case and its files, on every system."""
    name = _UNSAFE.sub("_", " ".join(name.split())).strip(". ") or "case"
    return f"{'_' * bool(DEVICES.fullmatch(name))}{name}"[:_LONGEST_NAME].rstrip(". ")


def _label_path(folder: Path, name: str) -> Path:
    return folder / f"{name}_label.tif"


def _write_label(path: Path, stored: np.ndarray) -> None:
    with written_whole(path) as temporary:
        tifffile.imwrite(
            temporary,
            stored.astype(np.uint8) if stored.dtype == bool else stored,
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": _QUICK},
            metadata={"axes": _AXES[-stored.ndim :]},
        )


def _holds(path: Path, image: Image) -> bool:
    """Whether the file at ``path`` is this very image."""
    try:
        there = as_channels(read_image(path), len(image.array))
    except DataError:
        return False
    if (there.geometry, there.array.dtype, there.array.shape) != (
        image.geometry,
        image.array.dtype,
        image.array.shape,
    ):
        return False
    planes = np.ndindex(image.array.shape[:-2])
    return all(np.array_equal(there.array[plane], image.array[plane]) for plane in planes)


def _require_kept(path: Path, name: str, image: Image) -> None:
    header = read_header(path)
    if (header.channels, header.shape) != (len(image.array), image.array.shape[1:]):
        raise DataError(
            f"the image '{name}' of shape {image.array.shape[1:]} cannot be kept with the run, because an "
            f"axis has a single element; take the one slice out of image and labels, and train on that"
        )


def _rows(folder: Path) -> list[dict[str, str]]:
    table = folder / TABLE
    return read_rows(table, _COLUMNS) if table.exists() else []
