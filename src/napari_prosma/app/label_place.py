"""Where the label of an image without one belongs in its folder, so that it is found there as its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_prosma.data.atomic import require_new
from napari_prosma.data.case import Case
from napari_prosma.data.formats import pictures, tiff
from napari_prosma.data.labels import IGNORE, LabelRule
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.readers import read_label, stem
from napari_prosma.data.writers import SUFFIXES, write_labels
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

_WHITE = 255
_TRIED = 5
"""Labels of the folder that the place of another one has to explain."""
_LISTED = ("CSV", "Decathlon", "DICOM")
"""Layouts in which a table or an object says what belongs to what, not a name."""
SAVE_YOURSELF = "save the layer by File > Save Selected Layers, then continue"


@dataclass(frozen=True)
class LabelPlace:
    """The file that the label of an image would have."""

    folder: Path  # of the data set
    # image, path: of the image, and of its label.
    image: Path
    path: Path
    values: tuple[int, ...]  # how each class is stored, background first

    def write(
        self, labels: np.ndarray, geometry: Geometry, class_names: Sequence[str], replaces: bool = False
    ) -> None:
        """Write class indices (*spatial) there; ``replaces`` what the same person wrote there before.

        Raises ``DataError``: something else is there, or it cannot be written.
        """
        if not replaces:
            require_new([self.path], "move it away if it is no label of this image")
        highest = int(labels.max(initial=0))
        if highest >= len(self.values):
            known = ", ".join(f"{k} = {name}" for k, name in enumerate(class_names))
            raise DataError(f"the value {highest} in the labels of '{self.image.name}' is none of {known}")
        in_order = self.values == tuple(range(len(self.values)))
        write_labels(self.path, np.array(self.values)[labels], geometry, class_names if in_order else ())

    def read(self) -> np.ndarray:
        """Class indices (*spatial) of what was written there (raises ``DataError``)."""
        stored, _ = read_label(self.path)
        labels = np.zeros(stored.shape, np.uint8)
        for k, value in enumerate(self.values):
            labels[stored == value] = k
        return labels

    def require_found(self, labels: np.ndarray) -> None:
        """Refuse what was written if the folder does not take it for the label of the image; it is removed.

        Raises ``DataError``.
        """
        try:
            data = find_cases(self.folder, require_labels=False)
            case = next(case for case in data.cases if case.files[0] == self.image)
            found = None if case.read_label is None else case.read_label()
        except (DataError, StopIteration):
            found = None
        if found is None or not np.array_equal(np.where(found == IGNORE, 0, found), labels):
            self.path.unlink(missing_ok=True)
            raise DataError(
                f"in '{self.folder}' the file '{self.path.name}' would not be taken for the label of "
                f"'{self.image.name}', so it was not kept; {SAVE_YOURSELF}"
            )


def label_place(data: DataSet, case: Case, class_names: Sequence[str]) -> LabelPlace:
    """Where, and with which values, the label of a case without one belongs.

    It is named as the labels of the folder are; where there is none yet it lies beside its image, called
    ``NAME_mask``.

    Parameters
    ----------
    case : one of its cases, without a label
    class_names : names, background first
        Of what is to be written.

    Raises
    ------
    DataError
        The labels of the folder are of a kind that is not written image by image, or have other classes.
    """
    image = case.files[0]
    several = len(case.files)
    labelled = [each for each in data.cases if each.read_label is not None]
    if case.series is not None or data.layout in _LISTED:
        raise DataError(
            f"in '{data.folder}' a table or a DICOM object says which label is that of an image, and it is "
            f"not changed; {SAVE_YOURSELF}"
        )
    if not labelled:
        path = image.with_name(f"{stem(image)}_mask{_usual_suffix(image, data.dims)}")
        return LabelPlace(data.folder, image, path, _usual_values(path, class_names))
    pairs = [(each.files[0], each.files[several]) for each in labelled if len(each.files) == several + 1]
    pairs.sort(key=lambda pair: pair[0].parent != image.parent)
    for example in pairs[:_TRIED]:
        if all(_like(example, other) == label for other, label in pairs[:_TRIED]):
            path = _like(example, image)
            break
    else:
        raise DataError(
            f"the names of the labels in '{data.folder}' do not tell what that of '{image.name}' would be "
            f"called, or a label has several files; {SAVE_YOURSELF}"
        )
    if not path.name.lower().endswith(SUFFIXES) or path == image:
        raise DataError(f"labels are not written as '{path.name}'; {SAVE_YOURSELF}")
    return LabelPlace(data.folder, image, path, _values(data.labels, path, class_names))


def _like(example: tuple[Path, Path], image: Path) -> Path:
    """The label of ``image`` if it is called after it as that of the example's image is."""
    (known, label), name = example, stem(image)
    folders = list(label.parent.parts)
    if len(known.parent.parts) == len(image.parent.parts):
        for depth, (here, there) in enumerate(zip(known.parent.parts, image.parent.parts, strict=True)):
            if depth < len(folders) and folders[depth] == here:
                folders[depth] = there
    own = stem(known)
    while own and own not in label.name and "_" in own:  # case_0000 of case: the number of a channel
        own, name = own.rpartition("_")[0], name.rpartition("_")[0]
    changed = label.name.replace(own, name, 1) if own and own in label.name else label.name
    return Path(*folders, changed)


def _usual_suffix(image: Path, dims: int) -> str:
    if dims == 2:
        return ".png"
    return ".tif" if image.name.lower().endswith(tiff.SUFFIXES) else ".nii.gz"


def _usual_values(path: Path, class_names: Sequence[str]) -> tuple[int, ...]:
    """Class numbers; of one structure in a picture 255, which other programs show white."""
    if len(class_names) == 2 and path.name.lower().endswith(pictures.SUFFIXES):
        return (0, _WHITE)
    return tuple(range(len(class_names)))


def _values(rule: LabelRule, path: Path, class_names: Sequence[str]) -> tuple[int, ...]:
    if len(rule.class_names) == len(class_names):
        if rule.kind != "values":
            return _usual_values(path, class_names)
        by_name = dict(zip(rule.class_names, rule.values, strict=True))
        if set(by_name) == set(class_names):
            return tuple(by_name[name] for name in class_names)
        if len(class_names) == 2:
            return tuple(rule.values)
    raise DataError(
        f"the labels of this folder are {', '.join(rule.class_names[1:])}, those drawn are "
        f"{', '.join(class_names[1:])}; {SAVE_YOURSELF}"
    )
