"""The figures of a validation, made of what it found per case and class.

A case without a structure says nothing of Dice: it counts apart, as a place where nothing should be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from napari_prosma.data.metrics import Overlap

LEAST_FOR_SMALL = 6
"""The smallest third of the structures is told apart where there are so many of them."""


def validation_figures(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """Figures by name, of the classes in their order.

    ``dice/<class>`` and ``iou/<class>``: means over the cases that have the class; ``dice`` and ``iou``:
    their means over the classes, NaN where no case has any. ``dice small/<class>``: over the smallest third
    of the structures. ``empty/<class>``: share of the cases without the class where none was found.

    ``score``: by which models are chosen. The mean over the classes of the Dice over the cases where the
    class is in the label or was found: what is found where nothing is counts as 0, and where nothing is
    found in its place nothing is counted, so that neither finding nothing nor finding all of it pays.
    """
    figures: dict[str, float] = {"dice": math.nan, "iou": math.nan, "score": 0.0}
    dice, iou, score = [], [], []
    for name in dict.fromkeys(overlap.class_name for overlap in overlaps):
        of_class = [overlap for overlap in overlaps if overlap.class_name == name]
        there = sorted((o for o in of_class if o.there), key=lambda o: o.there)
        absent = [overlap for overlap in of_class if not overlap.there]
        either = [overlap.dice for overlap in of_class if overlap.there or overlap.found]
        if there:
            figures[f"dice/{name}"] = fmean(overlap.dice for overlap in there)
            figures[f"iou/{name}"] = fmean(overlap.iou for overlap in there)
            dice.append(figures[f"dice/{name}"])
            iou.append(figures[f"iou/{name}"])
            score.append(fmean(either))
        if len(there) >= LEAST_FOR_SMALL:
            figures[f"dice small/{name}"] = fmean(overlap.dice for overlap in there[: len(there) // 3])
        if absent:
            figures[f"empty/{name}"] = fmean(not overlap.found for overlap in absent)
    if dice:
        figures |= {"dice": fmean(dice), "iou": fmean(iou), "score": fmean(score)}
    return figures
