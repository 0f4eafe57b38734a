"""``LabelFile``: the label of a case as an array to correct, and back into the very files it came from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_prosma.data.case import Case, Geometry
from napari_prosma.data.labels import IGNORE, LabelRule
from napari_prosma.data.layouts import DataSet
from napari_prosma.data.pictures import SUFFIXES as PICTURES
from napari_prosma.data.readers import read_label
from napari_prosma.data.recognise import named_apart, recognise
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import DataError

_WHITE = 255
"""What pictures and gray masks store where they are on."""


@dataclass(frozen=True, eq=False)
class LabelFile:
    """The label files of one case as they are on disk; several are united into one label.

    Attributes
    ----------
    case : Case
    rule : LabelRule
        Which stored value is which class.
    paths : tuple of Path
    stored : per path, (*spatial)
        As read.
    geometries : per path
    shown : (*spatial)
        To be corrected: class indices, of scribbles the stored numbers.
    """

    case: Case
    rule: LabelRule
    paths: tuple[Path, ...]
    stored: tuple[np.ndarray, ...]
    geometries: tuple[Geometry, ...]
    shown: np.ndarray

    @property
    def is_scribbles(self) -> bool:
        """Whether the numbers are those of the file, because 0 is no class."""
        return self.rule.unlabelled is not None

    def save(self, corrected: np.ndarray, originals: Path) -> LabelFile:
        """Write the files whose label was corrected; what was not corrected keeps its stored value.

        Parameters
        ----------
        corrected : (*spatial)
            Takes the place of ``shown``.
        originals : Path
            Folder that a file is copied to before it is written for the first time.

        Returns
        -------
        LabelFile
            As the files are now.

        Raises
        ------
        DataError
            A value is no class, a file was changed by somebody else meanwhile, or its format cannot hold the
            label; then it is as before.
        """
        where = corrected != self.shown
        written = []
        for number, (path, stored, geometry) in enumerate(
            zip(self.paths, self.stored, self.geometries, strict=True)
        ):
            new = self._stored(stored, where, corrected, number)
            if not np.array_equal(new, stored):
                _replace(path, stored, new, geometry, originals)
            written.append(new)
        return replace(self, stored=tuple(written), shown=corrected)

    def _stored(
        self, stored: np.ndarray, where: np.ndarray, corrected: np.ndarray, number: int
    ) -> np.ndarray:
        """What is to be stored in one of the files: corrections go into the first, the others give way."""
        if self.is_scribbles and len(self.paths) == 1:
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
        new = np.where(where, wanted, stored)
        if self.rule.kind == "on" and int(new.max(initial=0)) > _WHITE:
            return np.where(new != 0, _WHITE, 0)  # white as a colour
        return new

    def _values(self, stored: np.ndarray) -> list[int]:
        """Stored value of each class, as this file has it."""
        match self.rule.kind:
            case "values":
                return list(self.rule.values)
            case "any":  # what is drawn is a further object
                return [0, int(stored.max(initial=0)) + 1]
            case "on" if stored.any():
                return [0, int(stored.max())]
            case "on" if self.paths[0].suffix.lower() not in PICTURES:
                return [0, 1]
            case _:
                return [0, _WHITE]


def open_label(data: DataSet, name: str) -> LabelFile:
    """The label of a case of a data set.

    Raises
    ------
    DataError
        There is no such case any longer, or its files cannot be read.
    """
    case = next((case for case in data.cases if case.name == name), None)
    files = next((found for found in named_apart(recognise(data.folder).found) if found.name == name), None)
    if case is None or case.read_label is None or files is None:
        raise DataError(
            f"there is no labelled case '{name}' in '{data.folder}' any longer; put it back, or train anew"
        )
    read = [read_label(path) for path in files.labels]
    stored, geometries = zip(*read, strict=True)
    label = case.read_label()
    shown = stored[0] if data.labels.unlabelled is not None else np.where(label == IGNORE, 0, label)
    return LabelFile(case, data.labels, files.labels, stored, geometries, shown)


def _replace(path: Path, before: np.ndarray, after: np.ndarray, geometry: Geometry, originals: Path) -> None:
    there, _ = read_label(path)
    if not np.array_equal(there, before):
        raise DataError(
            f"'{path}' was changed by somebody else since it was opened; click its row again to see it, then "
            f"correct that"
        )
    kept = originals / path.name
    try:
        if not kept.exists():
            originals.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept)
    except OSError as error:
        raise DataError(f"'{kept}' cannot be written ({error}), so '{path}' was left alone") from error
    write_labels(path, after, geometry)
