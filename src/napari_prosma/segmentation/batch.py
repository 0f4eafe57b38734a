"""A batch of image files into one folder: what will be written, whose it is, and what stays."""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_prosma.data.fingerprint import HASH_BYTES
from napari_prosma.data.names import as_cell, fitting_name
from napari_prosma.data.readers import read_header, stem
from napari_prosma.data.texts import read_rows, write_rows
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.segmentation.files import Wanted, outputs

SEGMENTED, REGIONS = ".segmented.csv", "regions.csv"
"""Which labels came from which image, a line each; the regions of all images."""
_COLUMNS = ("file", "source", "fingerprint")
_SAMPLE, _SAMPLES = 2**24, 3
"""Bytes and parts by which a large file is known; a smaller one by all of it."""


@dataclass(frozen=True)
class Planned:
    """An image file and all that will be written of it, its labels first; none if it cannot be read."""

    image: Path
    files: tuple[Path, ...]


def plan_batch(images: Sequence[Path], folder: Path, wanted: Wanted, in_parts: bool) -> list[Planned]:
    """What will be written of each image; one that is given twice is segmented once.

    Raises
    ------
    ConfigError
        Files of two images would have the same name.
    """
    found: dict[Path, Planned] = {}
    takes: dict[str, Path] = {}
    for image in images:
        planned = Planned(image, _files(image, folder, wanted, in_parts))
        if found.setdefault(image.resolve(), planned) is not planned:
            continue
        for path in planned.files:
            other = takes.setdefault(_on_every_system(path.name), image)
            if other != image:
                raise ConfigError(
                    f"'{other}' and '{image}' would both be written as '{path}'; segment them into different "
                    f"folders, or rename one of them"
                )
    return list(found.values())


class Record:
    """``.segmented.csv`` of a folder: which file was made of which image.

    Raises
    ------
    DataError
        There is another table of this name.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SEGMENTED
        rows = read_rows(self._path, _COLUMNS) if self._path.exists() else []
        self._known = {row["file"]: row for row in rows}

    def require_of(self, planned: Planned) -> None:
        """Refuse labels that were made of another image; those that nothing is known of are let pass.

        Raises
        ------
        DataError
        """
        labels = planned.files[0]
        known = self._known.get(labels.name)
        if known is not None and known["fingerprint"] != fingerprint(planned.image):
            same = Path(known["source"]) == planned.image.absolute()
            of = "as it was before it changed" if same else f"'{known['source']}'"
            raise DataError(
                f"'{labels}' holds the labels of {of}, not of '{planned.image}'; choose another folder, or "
                f"overwrite them"
            )

    def add(self, planned: Planned) -> None:
        """The labels of this image are written."""
        cells = (planned.files[0].name, str(planned.image.absolute()), fingerprint(planned.image))
        row = dict(zip(_COLUMNS, cells, strict=True))
        self._known[row["file"]] = row
        try:
            is_new = not self._path.exists()
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([_COLUMNS] * is_new + [tuple(map(as_cell, cells))])
        except OSError as error:
            raise DataError(
                f"cannot write '{self._path}' ({error.strerror}); make room on the disk"
            ) from error


def read_regions(folder: Path) -> dict[str, list[dict[str, str | float]]]:
    """Rows of the table of regions that earlier batches wrote, by case.

    Raises
    ------
    DataError
        There is another table of this name.
    """
    found: dict[str, list[dict[str, str | float]]] = {}
    if (folder / REGIONS).exists():
        for row in read_rows(folder / REGIONS, ("case", "class", "elements")):
            found.setdefault(row["case"], []).append({**row})
    return found


def write_regions(folder: Path, found: Mapping[str, Sequence[Mapping[str, str | float]]]) -> Path:
    """Write the regions of all cases; their path."""
    write_rows(folder / REGIONS, [row for rows in found.values() for row in rows])
    return folder / REGIONS


def fingerprint(image: Path) -> str:
    """Hash by which an image file is known again wherever it lies: of its bytes, of a folder of its files."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    files = [image] if image.is_file() else sorted(path for path in image.rglob("*") if path.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(image).as_posix()} {size}\n".encode("utf-8", "surrogateescape"))
        with file.open("rb") as stored:
            if len(files) > 1:  # slices differ in their headers
                digest.update(stored.read(_SAMPLE // len(files) + 1))
            elif size <= _SAMPLES * _SAMPLE:
                digest.update(stored.read())
            else:
                for part in range(_SAMPLES):
                    stored.seek(part * (size - _SAMPLE) // (_SAMPLES - 1))
                    digest.update(stored.read(_SAMPLE))
    return digest.hexdigest()


def _files(image: Path, folder: Path, wanted: Wanted, in_parts: bool) -> tuple[Path, ...]:
    if in_parts:
        return (folder / fitting_name(stem(image), "_labels.ome.zarr"),)
    try:
        return outputs(image, read_header(image).geometry, folder, wanted)
    except DataError:  # told when it is its turn
        return ()


def _on_every_system(name: str) -> str:
    """Windows and macOS take upper for lower case, and composed for decomposed letters."""
    return unicodedata.normalize("NFC", name).casefold()
