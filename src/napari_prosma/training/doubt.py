"""How much a model doubts a label, and the list of labels to look at first that a DALE run leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from napari_prosma.data.labels import IGNORE
from napari_prosma.data.texts import read_rows, write_rows
from napari_prosma.errors import CheckpointError, DataError
from napari_prosma.model.windows import labels_of

LABEL_CONFIDENCE = "label_confidence.csv"
"""In the folder of a run that learned with DALE."""


@dataclass(frozen=True)
class Disagreement:
    """A model's answer to a whole image against its label."""

    absolute_error: float  # mean of ``|p - y|`` over everything labelled (AE of section 4.2 of the method)
    # ``|P xor Y| / |P or Y|`` of the foreground that the model finds and that is labelled, 0 where there is
    # neither (ER); with several classes another class counts as disagreement.
    error_ratio: float
    worst_class: int  # foreground class with the largest such ratio
    # Index along the axis of a volume's slices where the doubt adds up to the most; 0 in an image of one
    # slice.
    slice: int


@dataclass(frozen=True)
class DoubtedLabel:
    """A line of ``label_confidence.csv``."""

    case: str
    fuzziness: float  # how far the label stands out from the others by its disagreement; above 0: fuzzy
    # absolute_error, error_ratio: see :class:`Disagreement`.
    absolute_error: float
    error_ratio: float
    confidence: float  # weight of its training loss by the last comparison, 0 to 1; 1 if not fuzzy
    worst_class: str
    # Of the plane in which the image was acquired (:func:`napari_prosma.data.planes.slice_axis`), from 0,
    # where to look first; 0 in an image of one slice.
    slice: int


def doubt(probabilities: np.ndarray, label: np.ndarray) -> np.ndarray:
    """``|p - y|``: how much probability the model gives to anything but the label.

    Parameters
    ----------
    probabilities : (K, *spatial)
        Background first.
    label : (*spatial) integers
        Class indices, ``IGNORE`` where nobody labelled.

    Returns
    -------
    (*spatial) float32
        0 = the model agrees, 1 = it is sure of something else; 0 where nothing is labelled.
    """
    known = label != IGNORE
    given = np.take_along_axis(probabilities, np.where(known, label, 0)[None].astype(np.intp), axis=0)[0]
    return np.where(known, 1 - given, 0).clip(0, 1).astype(np.float32)


def disagreement(probabilities: np.ndarray, label: np.ndarray, across: int = 0) -> Disagreement:
    """Figures of one label (*spatial) against the probabilities (K, *spatial), background first.

    The slices of a volume lie ``across`` this axis.
    """
    found, known = doubt(probabilities, label), label != IGNORE
    predicted = labels_of(probabilities)
    differ = known & (predicted != label)
    either = known & ((predicted > 0) | (label > 0))
    within = tuple(axis for axis in range(label.ndim) if axis != across)
    ratios = []
    for k in range(1, len(probabilities)):
        mine, theirs = known & (predicted == k), label == k
        ratios.append(_ratio((mine ^ theirs).sum(), (mine | theirs).sum()))
    return Disagreement(
        absolute_error=_ratio(float(found.sum(dtype=np.float64)), known.sum()),
        error_ratio=_ratio(differ.sum(), either.sum()),
        worst_class=1 + int(np.argmax(ratios)),
        slice=int(found.sum(axis=within, dtype=np.float64).argmax()) if label.ndim > 2 else 0,
    )


def write_label_confidence(run_dir: Path, rows: Sequence[DoubtedLabel]) -> Path:
    """Write ``label_confidence.csv`` whole, the most doubtful label first.

    Raises ``DataError``: the folder is full or cannot be written to.
    """
    path = run_dir / LABEL_CONFIDENCE
    columns = [field.name for field in fields(DoubtedLabel)]
    write_rows(path, map(asdict, sorted(rows, key=most_doubtful_first)), columns)
    return path


def look_first(run_dir: Path | str) -> list[DoubtedLabel]:
    """The labels of a run that learned with DALE, the most doubtful first.

    Raises ``CheckpointError``: the run has no list, or what is there is none.
    """
    path = Path(run_dir) / LABEL_CONFIDENCE
    if not path.is_file():
        raise CheckpointError(
            f"'{run_dir}' holds no {LABEL_CONFIDENCE}; train with the objective dale, or list suspicious "
            f"labels with any model: prosma suspicious"
        )
    try:
        rows = _ROWS.validate_python(read_rows(path))
    except (ValidationError, DataError) as error:
        raise CheckpointError(
            f"'{path}' is damaged ({error}); resume the run, which writes it again"
        ) from error
    return sorted(rows, key=most_doubtful_first)


def most_doubtful_first(row: DoubtedLabel) -> tuple[float, float, float, str]:
    """Sorting key: the least confident first, among equals the fuzziest, then the largest error ratio."""
    return row.confidence, -row.fuzziness, -row.error_ratio, row.case


_ROWS = TypeAdapter(list[DoubtedLabel])


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
