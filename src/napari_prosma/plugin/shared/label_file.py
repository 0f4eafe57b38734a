"""``LabelFile``: the label of a case as an array to correct, and back into the very files it came from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
from PIL.PngImagePlugin import PngInfo

from napari_prosma.data import voxels
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.formats import nifti, nrrd, pictures
from napari_prosma.data.labels import IGNORE, LabelRule
from napari_prosma.data.layouts import DataSet
from napari_prosma.data.layouts.recognise import named_apart, recognise
from napari_prosma.data.readers import label_names, read_header, read_label
from napari_prosma.data.writers import SUFFIXES, write_labels
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

_WHITE = 255
"""What pictures and gray masks store where they are on."""
_HIGHEST = np.iinfo(np.uint8).max
"""The highest value that a picture of 8 bits holds."""
_MOST_NAMED = np.iinfo(np.uint16).max
"""The highest value whose name is kept in formats that name values from 0 on."""
_WHITE_COLOUR = 0xFFFFFF
_KEPT_MODES = ("1", "L", "P", "RGB", "I", "I;16")
"""Modes of a PNG that are written as they were read: one bit, gray, palette, colour, 16 bits."""


@dataclass(frozen=True, eq=False)
class LabelFile:
    """The label files of one case as they are on disk; several are united into one label."""

    case: Case
    rule: LabelRule  # which stored value is which class
    paths: tuple[Path, ...]
    stored: tuple[np.ndarray, ...]  # per path, (*spatial): as read
    geometries: tuple[Geometry, ...]
    shown: np.ndarray  # (*spatial): to be corrected: class indices, of scribbles the stored numbers
    fixed: str = ""  # why it can be looked at, but not saved; empty where it can

    @property
    def is_scribbles(self) -> bool:
        """Whether the numbers are those of the file, because 0 is no class."""
        return self.rule.unlabelled is not None

    def save(self, corrected: np.ndarray, originals: Path) -> LabelFile:
        """Write the files whose label was corrected, all or none; the rest keeps its stored value.

        Parameters
        ----------
        corrected : (*spatial)
            Takes the place of ``shown``.
        originals : Path
            Folder that each file is copied to before it is written; copies there stay, later ones are
            numbered.

        Returns
        -------
        LabelFile
            As the files are now.

        Raises
        ------
        DataError
            The label is ``fixed``, a value is no class, a file was changed by somebody else meanwhile, it
            cannot hold the label, or the files would be read as another one; then all files are as before.
        """
        if self.fixed:
            raise DataError(self.fixed)
        where = corrected != self.shown
        new = tuple(
            self._stored(stored, where, corrected, number) for number, stored in enumerate(self.stored)
        )
        changed = [n for n in range(len(new)) if not np.array_equal(new[n], self.stored[n])]
        for n in changed:
            _require_as_opened(self.paths[n], self.stored[n])
        kept = [(self.paths[n], _keep(self.paths[n], originals)) for n in changed]
        written = list(self.stored)
        try:
            for n in changed:
                written[n] = self._write(self.paths[n], new[n], self.geometries[n])
            self._require_meant(corrected, written)
        except Exception:
            for path, copy in kept:
                _copy(copy, path)
            raise
        return replace(self, stored=tuple(written), shown=corrected)

    def _require_meant(self, corrected: np.ndarray, written: list[np.ndarray]) -> None:
        """Refuse files of which a run would read another label than the corrected one."""
        assert self.case.read_label is not None
        label = written[0] if self.is_scribbles else self.case.read_label()
        if not np.array_equal(label if self.is_scribbles else np.where(label == IGNORE, 0, label), corrected):
            raise DataError(
                f"the label files of '{self.case.name}' would be read as another label than the corrected "
                "one, so they are unchanged; save the layer with File > Save Selected Layers"
            )

    def _write(self, path: Path, new: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Write a file with what other programs read from it: names, a picture's mode, a volume's header.

        Gives what it holds then: one bit has no 255.
        """
        name = path.name.lower()
        with written_whole(path) as temporary:
            if name.endswith(pictures.SUFFIXES):
                picture, texts = _picture_like(path, new)
                picture.save(temporary, format="PNG", pnginfo=texts)
            elif name.endswith(nifti.SUFFIXES):
                _volume_like(path, new, geometry).to_filename(temporary)
            elif name.endswith(nrrd.SUFFIXES):
                nrrd.write_like(temporary, path, new, geometry, self.rule.names)
            else:
                told = label_names(path)
                names = [
                    told.get(n, f"label {n}") for n in range(min(max(told, default=-1), _MOST_NAMED) + 1)
                ]
                write_labels(temporary, new, geometry, names)
            there = np.array(read_label(temporary)[0])
            if not np.array_equal(self.rule.apply(there, path), self.rule.apply(new, path)):
                raise DataError(
                    f"'{path}' cannot hold the value {int(new.max())}, so the file is unchanged; save the "
                    f"labels in a format that can, then open them again"
                )
        return there

    def _stored(
        self, stored: np.ndarray, where: np.ndarray, corrected: np.ndarray, number: int
    ) -> np.ndarray:
        """What is to be stored in one of the files: corrections go into the first, the others give way."""
        if self.is_scribbles:
            self.rule.apply(corrected, self.paths[0])
            return np.where(where, corrected, stored)
        values = np.array(self._values(stored))
        highest = int(corrected.max(initial=0))
        if highest >= len(values):
            raise DataError(
                f"the value {highest} in the labels of '{self.case.name}' is no class; the classes are "
                + ", ".join(f"{k} = {name}" for k, name in enumerate(self.rule.class_names))
            )
        wanted = values[corrected] if number == 0 else values[0]
        return np.where(where, wanted, stored)

    def _values(self, stored: np.ndarray) -> list[int]:
        """Stored value of each class, as this file has it."""
        match self.rule.kind:
            case "values":
                return list(self.rule.values)
            case "any":  # what is drawn is a further object
                return [0, int(stored.max(initial=0)) + 1]
            case "on" if stored.any():
                return [0, int(stored.max())]
            case "on" if self.paths[0].suffix.lower() not in pictures.SUFFIXES:
                return [0, 1]
            case "on" if stored.dtype == np.uint32:  # only colours are read as such from pictures
                return [0, _WHITE_COLOUR]
            case _:
                return [0, _WHITE]


def open_label(data: DataSet, name: str) -> LabelFile:
    """The label of a case of a data set.

    Raises ``DataError``: there is no such case any longer, or its files cannot be read.
    """
    case = next((case for case in data.cases if case.name == name), None)
    files = next((found for found in named_apart(recognise(data.folder).found) if found.name == name), None)
    if case is None or case.read_label is None or files is None:
        raise DataError(
            f"there is no labelled case '{name}' in '{data.folder}' any longer; put it back, or start a new "
            "run"
        )
    if files.series is not None:
        label = case.read_label()
        said = (
            f"the labels of '{name}' are DICOM objects, which are not changed; correct them in the program "
            "that made them"
        )
        return LabelFile(case, data.labels, files.labels[:1], (label,), (files.series.geometry,), label, said)
    read = [read_label(path) for path in files.labels]
    stored = tuple(array for array, _ in read)
    label, is_scribbles = case.read_label(), data.labels.unlabelled is not None
    apart = next((n for n, array in enumerate(stored) if array.shape != label.shape), None)
    shown = stored[0] if is_scribbles and apart is None else np.where(label == IGNORE, 0, label)
    fixed = next((said for said in map(_why_fixed, files.labels) if said), "")
    if apart is not None:
        fixed = (
            f"'{files.labels[apart]}' has shape {stored[apart].shape} but its image has {label.shape}; save "
            "the labels on the grid of the image to correct them"
        )
    if data.labels.filled:
        fixed = f"the labels of '{name}' are outlines, which are filled when read; correct the outlines"
    if files.classes:
        fixed = f"each structure of '{name}' has a file of its own; correct them one by one"
    if files.is_sliced:
        fixed = f"the label of '{name}' lies in {len(stored)} pictures, a slice each; save it as one volume"
    if is_scribbles and apart is None and len(stored) > 1:
        shown = np.maximum.reduce(stored)
        fixed = (
            f"the scribbles of '{name}' lie in {len(stored)} files; put them into one to correct them here"
        )
    return LabelFile(case, data.labels, files.labels, stored, tuple(where for _, where in read), shown, fixed)


def _why_fixed(path: Path) -> str:
    """Why a file cannot be written as other programs know it; empty = it can."""
    if not path.name.lower().endswith(SUFFIXES):
        return (
            f"'{path}': labels are not written as {path.suffix}; save it as .png or .tif, or a volume as "
            ".nii.gz, to correct it"
        )
    if path.suffix.lower() == ".png":
        with PIL.Image.open(path) as picture:
            has_more = picture.mode not in _KEPT_MODES
    else:
        has_more = read_header(path).channels > 1
    return (
        f"'{path}' holds transparency or channels; save it as gray values to correct it" if has_more else ""
    )


def _require_as_opened(path: Path, stored: np.ndarray) -> None:
    there, _ = read_label(path)
    if not np.array_equal(there, stored):
        raise DataError(
            f"'{path}' was changed by somebody else since it was opened; remove its layer and click its row "
            f"again to see it, then correct that"
        )


def _keep(path: Path, originals: Path) -> Path:
    """Copy a file to where none is yet."""
    kept, number = originals / path.name, 1
    while kept.exists():
        number += 1
        kept = originals / f"{number}-{path.name}"
    _copy(path, kept)
    return kept


def _copy(path: Path, to: Path) -> None:
    with written_whole(to) as temporary:
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, temporary)


def _picture_like(path: Path, new: np.ndarray) -> tuple[PIL.Image.Image, PngInfo]:
    """Values (y, x) as a picture of the mode, and with the palette, of the one that is there; its texts."""
    highest = int(new.max(initial=0))
    with PIL.Image.open(path) as before:
        mode, clear = before.mode, before.info.get("transparency")
        palette = before.getpalette() if mode == "P" else None
        texts = PngInfo()
        for key, text in getattr(before, "text", {}).items():
            texts.add_text(key, text)
    if mode == "RGB":
        return PIL.Image.fromarray(np.stack([new >> 16, new >> 8, new], axis=-1).astype(np.uint8)), texts
    kind = np.uint16 if mode.startswith("I") or highest > _HIGHEST else np.uint8
    picture = PIL.Image.fromarray(new.astype(kind))
    if mode == "1":
        return picture.point(lambda value: _WHITE * bool(value)).convert("1"), texts
    if palette is not None and highest <= _HIGHEST:
        picture.putpalette(palette + [0] * (3 * (highest + 1) - len(palette)))
    if clear is not None:
        picture.info["transparency"] = clear
    return picture, texts


def _volume_like(path: Path, new: np.ndarray, geometry: Geometry) -> Any:
    """Values (z, y, x) as a NIfTI volume with the header of the one that is there, its class names too."""
    before: Any = nibabel.load(path)
    array, _ = voxels.stored_of(new, geometry)
    header = before.header.copy()
    kind = header.get_data_dtype()
    if not np.issubdtype(kind, np.integer) or new.max(initial=0) > np.iinfo(kind).max:
        header.set_data_dtype(np.min_scalar_type(int(new.max(initial=0))))
    header.set_slope_inter(1, 0)
    return type(before)(array.reshape(before.shape), None, header)
