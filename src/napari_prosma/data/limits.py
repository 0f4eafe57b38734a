"""What a file promises is compared with what it can hold before anything is allocated, in every format."""

from __future__ import annotations

import os
from pathlib import Path

from napari_prosma.errors import DataError

MOST_SHRINKS = {
    "none": 1,
    "rle": 128,
    "deflate": 1032,
    "lzw": 1370,
    "bzip2": 1_500_000,
    "jpeg": 2_500,
    "other": 25_000,
}
"""Bytes that one byte of a packed file can become: by the format for RLE (BMP: 255 of 2), deflate, LZW and
bzip2; JPEG codes a block of 64 values in a bit at least; others (JPEG 2000, Zstandard) have no bound."""
MOST_CHUNKS = 2_000_000
"""Parts of an image that is read piece by piece; each is an entry of a graph in memory."""
MOST_OF_A_CHUNK = 2**30
"""Bytes of such a part. A chunk that no file holds is legal, so that nothing says how large it may be."""


def require_possible(path: Path, promised: int, packing: str = "none", held: int | None = None) -> None:
    """Refuse a header that promises more bytes than its file can hold, or than there is memory for.

    Parameters
    ----------
    promised : int
        Bytes when unpacked.
    packing : key of ``MOST_SHRINKS``
    held : int, optional
        Packed bytes; by default those of the file.

    Raises
    ------
    DataError
    """
    most = (path.stat().st_size if held is None else held) * MOST_SHRINKS[packing]
    if promised > most:
        raise DataError(
            f"'{path}' promises {promised:,} bytes of voxels but can hold {most:,} at most; "
            "it is damaged or was made to do harm: download it again or remove it"
        )
    if packing != "none":  # what is not packed is mapped
        require_room(path, promised)


def require_count(path: Path, what: str, promised: int, most: int) -> None:
    """Refuse a header that promises more ``what`` (frames, levels, ...) than its file can hold.

    Raises ``DataError``.
    """
    if promised > most:
        raise DataError(
            f"'{path}' promises {promised:,} {what} but can hold {most:,} at most; "
            "it is damaged or was made to do harm: download it again or remove it"
        )


def require_room(path: Path, promised: int) -> None:
    """Refuse an image that must be read whole and does not fit into memory (raises ``DataError``)."""
    import psutil

    room = psutil.virtual_memory().available
    if promised > room:
        raise DataError(
            f"'{path}' needs {promised / 2**30:.0f} GiB of memory but {room / 2**30:.0f} GiB are free; "
            "crop it, or save it as OME-Zarr, which is read in parts"
        )


def real(path: Path) -> Path:
    """Where a path leads, links followed; one that leads back to itself stays as it is."""
    return Path(os.path.realpath(path))


def require_inside(path: Path, folder: Path, name: str) -> Path:
    """The file ``name`` that ``path`` points to, if it lies in ``folder``.

    Names of drives, shares and other folders are refused on every system, before the disk or the network is
    asked.

    Raises ``DataError``.
    """
    plain = name.replace("\\", "/")
    is_elsewhere = plain.startswith("/") or ":" in plain or ".." in plain.split("/") or "\0" in plain
    if is_elsewhere or not real(folder / plain).is_relative_to(real(folder)):
        raise DataError(f"'{path}' points outside its folder ('{name}'); put both files into one folder")
    return folder / plain
