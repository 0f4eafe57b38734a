"""A batch of image files into one folder: what will be written, whose it is, and what stays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_prosma.data.fingerprint import HASH_BYTES
from napari_prosma.data.layouts.image_sets import ImageSet, image_sets
from napari_prosma.data.limits import real
from napari_prosma.data.names import fitting_name, normal
from napari_prosma.data.readers import geometry_as_channels, read_header, stem
from napari_prosma.data.texts import append_rows, read_rows, write_rows
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.segmentation.files import Wanted, outputs

SEGMENTED, REGIONS = ".segmented.csv", "regions.csv"
"""Which labels came from which image, a line each; the regions of all images."""
_OF_REGIONS = dict.fromkeys(("case", "class", "elements"))
"""Columns that every table of regions has."""
_COLUMNS = ("file", "source", "fingerprint")
_SAMPLE, _SAMPLES = 2**24, 3
"""Bytes and parts by which a large file is known; a smaller one by all of it."""


@dataclass(frozen=True)
class Planned:
    """An image and all that will be written of it, its labels first; none if it cannot be read.

    ``image`` is what it is called, ``sources`` the file of it, or those of its channels.
    """

    image: Path
    sources: tuple[Path, ...]
    files: tuple[Path, ...]


def plan_batch(
    images: Sequence[Path],
    channels: int,
    folder: Path,
    wanted: Wanted,
    in_parts: bool,
    named_apart: bool = False,
) -> list[Planned]:
    """What will be written of each image of ``channels``; one that is given twice is segmented once.

    With ``named_apart``, as for all images of a folder, equal names of several folders are called after their
    folder too.

    Raises ``DataError``: files of an image's channels are missing. ``ConfigError``: files of two images would
    have the same name.
    """
    files = {real(image): image for image in reversed(images)}
    planned = [
        Planned(one.named, one.files, _files(one, channels, folder, wanted, in_parts))
        for one in image_sets([*reversed(files.values())], channels, named_apart)
    ]
    takes: dict[str, Planned] = {}
    for each in planned:
        for path in each.files:
            other = takes.setdefault(normal(path.name), each)
            if other is not each:
                raise ConfigError(
                    f"'{other.sources[0]}' and '{each.sources[0]}' would both be written as '{path}'; "
                    f"segment them into different folders, rename one of them, or give the folder of both"
                )
    return planned


class Record:
    """``.segmented.csv`` of a folder: which file was made of which image.

    Raises ``DataError``: there is another table of this name.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SEGMENTED
        self._known = self._read()

    def _read(self) -> dict[str, dict[str, str]]:
        rows = read_rows(self._path, _COLUMNS) if self._path.exists() else []
        return {row["file"]: row for row in rows}

    def require_of(self, planned: Planned) -> None:
        """Refuse labels that were made of another image; those that nothing is known of are let pass.

        Raises ``DataError``.
        """
        labels = planned.files[0]
        known = self._known.get(labels.name)
        source = planned.sources[0]
        if known is not None and known["fingerprint"] != fingerprint(*planned.sources):
            same = Path(known["source"]) == source.absolute()
            of = "as it was before it changed" if same else f"'{known['source']}'"
            raise DataError(
                f"'{labels}' holds the labels of {of}, not of '{source}'; choose another folder, or "
                f"overwrite them"
            )

    def add(self, planned: Planned) -> None:
        """The labels of this image are written."""
        source = str(planned.sources[0].absolute())
        cells = (planned.files[0].name, source, fingerprint(*planned.sources))
        row = dict(zip(_COLUMNS, cells, strict=True))
        self._known = self._read() | {row["file"]: row}  # another process may write here, too
        write_rows(self._path, self._known.values(), _COLUMNS)


class RegionTable:
    """``regions.csv`` of a folder, complete after every image, since a process may be killed at any time.

    Raises ``DataError``: there is another table of this name.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REGIONS
        self._found = self._read()
        self._columns = self._names()

    def add(self, case: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """The regions of an image, in place of those it had; before its labels are written.

        So nothing has labels without its regions, and ``--skip-done`` may leave it out.
        """
        is_new = case not in self._found and self.path.exists()
        if is_new and all(row.keys() <= self._columns.keys() for row in rows):
            self._found[case] = rows
            append_rows(self.path, rows, [*self._columns])
            return
        self._found = self._read() | {case: rows}  # another process may write here, too
        self._columns = self._names()
        write_rows(self.path, [row for several in self._found.values() for row in several], [*self._columns])

    def _read(self) -> dict[str, Sequence[Mapping[str, str | float]]]:
        found: dict[str, list[dict[str, str | float]]] = {}
        for row in read_rows(self.path, [*_OF_REGIONS]) if self.path.exists() else ():
            found.setdefault(row["case"], []).append({**row})
        return {**found}

    def _names(self) -> dict[str, None]:
        names = dict.fromkeys(name for rows in self._found.values() for row in rows for name in row)
        return names or _OF_REGIONS


def fingerprint(*images: Path) -> str:
    """Hash by which an image is known again wherever it lies: of its files, of a folder of all in it."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    files = [
        (file, image)
        for image in images
        for file in ([image] if image.is_file() else sorted(p for p in image.rglob("*") if p.is_file()))
    ]
    for file, image in files:
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


def _files(one: ImageSet, channels: int, folder: Path, wanted: Wanted, in_parts: bool) -> tuple[Path, ...]:
    if in_parts:
        return (folder / fitting_name(stem(one.named), "_labels.ome.zarr"),)
    try:
        header = read_header(one.files[0])
        is_whole = len(one.files) == 1
        geometry = geometry_as_channels(header, channels) if is_whole else header.geometry
        return outputs(one.named, geometry, folder, wanted)
    except DataError:  # told when it is its turn
        return ()
