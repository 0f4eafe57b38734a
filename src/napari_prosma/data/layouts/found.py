"""What is found in a folder before anything is read: its images, and the cases that they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from napari_prosma.data import marks
from napari_prosma.data.formats import dicom, metaimage, nifti, nrrd, ome_zarr
from napari_prosma.data.formats.dicom import Series
from napari_prosma.data.formats.dicom_labels import LabelObject
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.readers import can_read

_OF_SYSTEMS = (
    *("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "#recycle", "#snapshot", "lost+found"),
)


_VOLUMES = (*nifti.SUFFIXES, *nrrd.SUFFIXES, *metaimage.SUFFIXES)


@dataclass(frozen=True)
class Found:
    """One case before it can be read."""

    name: str
    images: tuple[Path, ...]  # one per channel, usually one
    labels: tuple[Path, ...]
    group: str = ""  # folder or class
    split: str = ""  # "train", "val", "test" or ""
    patient: str = ""  # cases with the same one belong on one side of every split
    # class numbers, by label file: where every file is the mask of one class; else empty.
    classes: tuple[int, ...] = ()
    polygons: tuple[str, ...] = ()  # class names, background first: where the labels are polygons; else empty
    is_sliced: bool = False  # whether the labels are the slices of one label
    # series, objects: what they label, and they themselves, whose paths ``labels`` holds.
    series: Series | None = None
    objects: tuple[LabelObject, ...] = ()
    # names, as they are compared: of these objects: the n-th one is stored as n, from 1 on.
    structures: tuple[str, ...] = ()

    @property
    def image(self) -> Path:
        """The first image file."""
        return self.images[0]

    @property
    def has_label_volumes(self) -> bool:
        """Whether each label file is a label array on a grid of its own."""
        return not self.polygons and not self.is_sliced and self.series is None


@dataclass(frozen=True)
class Recognised:
    """What a layout recognised in a folder."""

    layout: str
    found: tuple[Found, ...]
    labels: LabelRule | None = None
    foreground: str = "foreground"
    notices: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    """Folders beside those of images and masks, whose files could be masks too."""
    is_doubtful: bool = False
    """Whether masks are left without an image."""


_LISTED: ContextVar[dict[tuple[str, Path], list[Path]] | None] = ContextVar("listed", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """Within, every folder is walked once: nobody changes it while it is recognised."""
    token = _LISTED.set({})
    try:
        yield
    finally:
        _LISTED.reset(token)


def _kept(what: str, folder: Path, walk: Callable[[Path], Iterable[Path]]) -> list[Path]:
    listed = _LISTED.get()
    if listed is None:
        return list(walk(folder))
    if (what, folder) not in listed:
        listed[what, folder] = list(walk(folder))
    return list(listed[what, folder])


def images_in(folder: Path) -> list[Path]:
    """Images under a folder, sorted; a folder with a DICOM series and an OME-Zarr count as one image each.

    Volumes of other formats in the folder of a series are images, too: labels are often saved there.
    """
    return _kept("images", folder, _images_in)


def _images_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        whole = [
            name
            for name in folders
            if not is_hidden(name) and (ome_zarr.is_ome_zarr(here / name) or is_series(here / name))
        ]
        found += [image for name in whole for image in fields_of(here / name)]
        found += [volume for name in whole for volume in volumes_within(here / name)]
        folders[:] = [name for name in folders if not is_hidden(name) and name not in whole]
        found += [path for name in files if not is_hidden(name) and can_read(path := here / name)]
    return sorted(found)


def volumes_within(series: Path) -> list[Path]:
    """Volumes in the folder of a DICOM series that are none of its slices."""
    if ome_zarr.is_ome_zarr(series):
        return []
    return [path for path in series.iterdir() if path.name.lower().endswith(_VOLUMES) and path.is_file()]


def is_series(folder: Path) -> bool:
    """Whether a folder itself holds a series in DICOM, or several."""
    return dicom.holds_series(folder) and not dicom.holds_stills(folder)


def fields_of(image: Path) -> list[Path]:
    """The images of a plate, an OME-Zarr of many; of any other image itself."""
    return (ome_zarr.fields(image) if image.is_dir() else []) or [image]


def files_in(folder: Path) -> Iterator[Path]:
    """Every file under a folder but hidden ones, pipes, devices and links that lead nowhere."""
    return iter(_kept("files", folder, _files_in)) if _LISTED.get() is not None else _files_in(folder)


def _files_in(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        here = (Path(place) / name for name in sorted(names) if not is_hidden(name))
        yield from (path for path in here if path.is_file())


def is_hidden(name: str) -> bool:
    """Whether it is no data: ``._scan.png`` of macOS, ``Thumbs.db``, a NAS's ``@eaDir``, our marks."""
    return name.startswith(".") or name.lower().endswith(marks.SUFFIX) or name.lower() in _OF_SYSTEMS
