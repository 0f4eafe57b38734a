"""Labels that do not cover everything: what they leave out, told in words before anything is learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_prosma.data.labels import IGNORE, LabelRule, Sparse
from napari_prosma.data.layouts import DataSet, find_cases, requirement
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.readers import read_header
from napari_prosma.errors import DataError
from napari_prosma.settings import Choice

LABELLED: dict[Sparse | None, Choice] = {
    None: Choice("complete", "Everything without a label (0) is background"),
    "slices": Choice(
        "only in some slices",
        "Nothing is learned from slices without any label. In slices with a label, everything without a "
        "label is background.",
    ),
    "scribbles": Choice(
        "scribbles",
        "0 is not labelled, and nothing is learned from it. The smallest value drawn (such as 1) "
        "is the background, the others are structures.",
    ),
}
"""How labels are meant; the keys are those of ``LabelRule.sparse``, None = they cover everything."""

CASES_COUNTED = 16
"""Labels that are read, at most, to tell how much is labelled."""


@dataclass(frozen=True)
class Wanted:
    """A folder to learn from, and how its labels are meant."""

    folder: Path
    labelled: Sparse | None = None  # "slices", "scribbles" or None: None = the labels are complete
    # Which stored value is which class if the labels were complete; None = as found.
    rule: LabelRule | None = None
    # images, masks: which files are what; None = as found.
    images: str | None = None
    masks: str | None = None
    labelled_only: bool = False

    def find(self, require_labels: bool = True) -> DataSet:
        """The cases of the folder, with labels that are meant so.

        Raises ``DataError``: as ``find_cases`` and ``LabelRule.sparse``; slices of images that have none.
        """
        required = require_labels and requirement(self.labelled_only)
        data = find_cases(self.folder, required, self.rule, self.images, self.masks)
        if self.labelled is None:
            return data
        _require_slices(self.labelled, data.dims, f"the images in '{self.folder}'")
        rule = data.labels.sparse(self.labelled)
        return find_cases(self.folder, required, rule, self.images, self.masks)


def sparse_rule(rule: LabelRule, labelled: Sparse | None, ndim: int, where: str) -> LabelRule:
    """The rule of a labels layer for labels that are meant so.

    Raises ``DataError``: as ``LabelRule.sparse``; slices of a picture, which has none.
    """
    if labelled is None:
        return rule
    _require_slices(labelled, ndim, where)
    return rule.sparse(labelled)


@dataclass(frozen=True)
class Coverage:
    """How many slices, or elements, are labelled of how many."""

    kind: Sparse
    done: int = 0
    total: int = 0
    cases: int = 0

    def with_label(self, label: np.ndarray, across: int = 0) -> Coverage:
        """With one more label (*spatial) of class indices, whose slices lie across an axis."""
        known = label != IGNORE
        if self.kind == "slices":
            known = known.any(axis=tuple(axis for axis in range(label.ndim) if axis != across))
        done, total = self.done + int(np.count_nonzero(known)), self.total + known.size
        return Coverage(self.kind, done, total, self.cases + 1)

    def in_words(self, of_cases: int = 1) -> str:
        """A sentence; ``of_cases`` is how many there are, of which only some may have been counted."""
        where = f"In {self.cases} of {of_cases} cases, " if self.cases < of_cases else ""
        if self.kind == "slices":
            said = f"{self.done} of {self.total} slices are labelled"
        else:
            said = f"{in_percent(self.done / max(self.total, 1), 2)} of all pixels are labelled"
        return f"{where}{said}; nothing is learned from the rest"


def coverage(data: DataSet, kind: Sparse) -> Iterator[Coverage]:
    """Coverage of a data set, label after label, of at most ``CASES_COUNTED`` evenly chosen ones."""
    found = Coverage(kind)
    chosen = np.unique(np.linspace(0, len(data.cases) - 1, CASES_COUNTED).round().astype(int))
    for number in chosen:
        case = data.cases[number]
        if case.read_label is not None:
            known = case.series or (read_header(case.files[0]) if case.files else None)
            across = 0 if known is None else slice_axis(known.geometry)
            found = found.with_label(case.read_label(), across)
            yield found


def _require_slices(labelled: Sparse, ndim: int, what: str) -> None:
    if labelled == "slices" and ndim < 3:
        raise DataError(f"{what} are pictures without slices; set 'Labels are' to complete or scribbles")
