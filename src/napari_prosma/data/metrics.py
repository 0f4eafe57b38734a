"""Overlap of a predicted label with the annotated one, per image and class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from napari_prosma.data.labels import IGNORE

_ROUNDING_ERROR = 1e-6
"""In percent: less is no share that somebody counted."""


@dataclass(frozen=True)
class Overlap:
    """One class in one case, in elements of the case's grid that somebody labelled."""

    case: str
    class_name: str
    there: int  # elements of the class in the label
    found: int  # in the prediction
    both: int

    @property
    def dice(self) -> float:
        """NaN where the class is neither in the label nor in the prediction."""
        return 2 * self.both / (self.there + self.found) if self.there + self.found else math.nan

    @property
    def iou(self) -> float:
        """As :attr:`dice`."""
        either = self.there + self.found - self.both
        return self.both / either if either else math.nan


def overlaps_of(
    case: str, predicted: np.ndarray, label: np.ndarray, class_names: Sequence[str]
) -> list[Overlap]:
    """One per foreground class, of index arrays (*grid); none of a case without any label."""
    counted = label != IGNORE
    predicted, label = predicted[counted], label[counted]
    if not label.size:
        return []
    return [_overlap(case, name, predicted == k, label == k) for k, name in enumerate(class_names) if k > 0]


def _overlap(case: str, name: str, found: np.ndarray, there: np.ndarray) -> Overlap:
    """Of two masks."""
    counts = (np.count_nonzero(mask) for mask in (there, found, there & found))
    return Overlap(case, name, *map(int, counts))


def dice_and_iou(predicted: np.ndarray, truth: np.ndarray, label: int) -> tuple[float, float]:
    """Dice and IoU of class ``label`` in two index arrays of one shape; 1 where the class is in neither."""
    return _or_right(_overlap("", "", predicted == label, truth == label))


def _or_right(overlap: Overlap) -> tuple[float, float]:
    return (overlap.dice, overlap.iou) if overlap.there + overlap.found else (1.0, 1.0)


def in_percent(share: float, digits: int = 0) -> str:
    """A share as percent, such as ``14.9 %``; with more digits where little would read as 0 % or 100 %."""
    percent = 100 * share
    rest = min(abs(percent), abs(100 - percent))
    while _ROUNDING_ERROR < rest < 0.5 * 10.0**-digits:
        digits += 1
    return f"{percent:.{digits}f} %"


def dice_in_words(dice: float) -> str:
    """A mean Dice of validation cases; NaN is one of cases none of which holds a structure."""
    return "unknown (no validation case holds a structure)" if math.isnan(dice) else f"{dice:.3f}"


def case_metrics(predicted: np.ndarray, truth: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """``dice`` and ``iou`` of one case: means over its foreground classes, then each as ``dice/<class>``.

    What is ``IGNORE`` in ``truth`` is not counted; nothing is said of a case without any label. A class that
    is in neither is right and has no part in the means, unless there is no other: it would hide what the
    others lose. An evaluation counts it as 1 in its mean instead (``CaseMeasures.dice``).
    """
    found = overlaps_of("", predicted, truth, class_names)
    if not found:
        return {}
    of_class = {each.class_name: _or_right(each) for each in found}
    there = [of_class[each.class_name] for each in found if each.there + each.found]
    dice, iou = zip(*(there or of_class.values()), strict=True)
    figures = {"dice": fmean(dice), "iou": fmean(iou)}
    for name in of_class:
        figures[f"dice/{name}"], figures[f"iou/{name}"] = of_class[name]
    return figures
