"""What an evaluation measures: tables, plots, panel and docs read the one entry in ``MEASURES``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from napari_prosma.data.metrics import dice_and_iou
from napari_prosma.geometry import Geometry

TOLERANCE_MM = 1.0
HD_PERCENTILE = 95


@dataclass(frozen=True, eq=False)
class Comparison:
    """One class of one case, as two masks of one shape."""

    predicted: np.ndarray  # (*spatial) bool; (n,) where the reference leaves elements unlabelled
    truth: np.ndarray
    # Its spacing's unit is that of distances. None: surfaces would end where nothing is labelled, for no
    # reason, so there are none.
    geometry: Geometry | None
    tolerance: float  # in the unit of the spacing

    @cached_property
    def overlap(self) -> tuple[float, float]:
        """Dice and IoU; 1 where the class is in neither mask."""
        return dice_and_iou(self.predicted, self.truth, 1)

    @cached_property
    def distances(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Those of :func:`surface_distances`; None without a geometry."""
        if self.geometry is None:
            return None
        return surface_distances(self.predicted, self.truth, self.geometry)


Summary = Callable[[np.ndarray], float]
"""Of one measure over the cases of a class, NaN among them; NaN where nothing can be said of any."""


def _over_known(summarise: Summary) -> Summary:
    def over_known(values: np.ndarray) -> float:
        known = values[~np.isnan(values)]
        return float(summarise(known)) if len(known) else math.nan

    return over_known


def _lower_median(values: np.ndarray) -> float:
    """The lower of the two in the middle: between a number and infinity there is no mean."""
    return float(np.sort(values)[(len(values) - 1) // 2])


MEAN, MEDIAN, LOWEST = _over_known(np.mean), _over_known(np.median), _over_known(np.min)
LOWER_MEDIAN = _over_known(_lower_median)


@dataclass(frozen=True)
class Measure:
    """One number of a class in a case."""

    label: str  # on plots
    of: Callable[[Comparison], float]  # NaN: nothing can be said
    meaning: str  # one sentence; {tolerance} in it is that of the evaluation, with its unit
    heading: str = ""  # of a narrow column, by default ``label``
    is_distance: bool = False  # from 0, in the unit of the case, may be infinite; else from 0 to 1
    has_tolerance: bool = False  # it counts what lies within the tolerance
    in_brief: bool = False  # its mean stands in the one line of a class
    # Of the cases of a class, by their names; by default the median of distances, else the mean.
    summaries: Mapping[str, Summary] = field(default_factory=dict)

    @property
    def all_summaries(self) -> Mapping[str, Summary]:
        """What a row of a class says of it."""
        return self.summaries or ({"median": LOWER_MEDIAN} if self.is_distance else {"mean": MEAN})

    def text(self, value: float) -> str:
        """The value with the digits that matter; nothing where nothing can be said."""
        if math.isnan(value):
            return ""
        if math.isinf(value):
            return "∞"
        if not self.is_distance:
            return f"{value:.3f}"
        return f"{value:.2g}" if 0 < value < 1 else f"{value:.1f}"

    def suffix(self, unit: str, tolerance: float) -> str:
        """What follows its name: the unit of a distance, or the tolerance."""
        return f" ({unit})" if self.is_distance else f" ({tolerance:g} {unit})" if self.has_tolerance else ""


def surface_distances(
    predicted: np.ndarray, truth: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Distance from each surface element of one mask to the nearest of the other, both ways, as in MONAI.

    In a time series surfaces are compared moment by moment; where only one of the masks has any, its
    distances are infinite. A volume of one slice has the surfaces of an image: none across the slice.

    Parameters
    ----------
    predicted, truth : (*spatial) bool
    geometry : Geometry
        Its spacing's unit is that of the distances.

    Returns
    -------
    (n,), (m,)
        From the predicted surface, and from the true one; empty where there is none.
    """
    from scipy import ndimage

    moments = [(predicted, truth)]
    spacing = geometry.spacing
    if "t" in geometry.axes:
        time = geometry.axes.index("t")
        moments = list(zip(np.moveaxis(predicted, time, 0), np.moveaxis(truth, time, 0), strict=True))
        spacing = spacing[:time] + spacing[time + 1 :]
    shape = moments[0][0].shape if moments else ()
    if len(shape) == 3 and 1 in shape:
        across = shape.index(1)
        moments = [(p.squeeze(across), t.squeeze(across)) for p, t in moments]
        spacing = spacing[:across] + spacing[across + 1 :]
    there: list[np.ndarray] = [np.zeros(0)]
    back: list[np.ndarray] = [np.zeros(0)]
    for p, t in moments:
        (box,) = ndimage.find_objects((p | t).astype(np.uint8)) or [None]
        if box is None:
            continue
        ours, theirs = _surface(p[box]), _surface(t[box])
        if ours.any() and theirs.any():
            there.append(ndimage.distance_transform_edt(~theirs, spacing)[ours])
            back.append(ndimage.distance_transform_edt(~ours, spacing)[theirs])
        else:
            there.append(np.full(np.count_nonzero(ours), np.inf))
            back.append(np.full(np.count_nonzero(theirs), np.inf))
    return np.concatenate(there), np.concatenate(back)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Elements of a mask that have a neighbour outside it, or lie at the edge of the array."""
    from scipy import ndimage

    return mask & ~ndimage.binary_erosion(mask)


def _surface_dice(masks: Comparison) -> float:
    """Nikolov et al. 2018; a surface is the elements that have a face outside the mask, as in MONAI."""
    if masks.distances is None:
        return math.nan
    both = np.concatenate(masks.distances)
    return float(np.mean(both <= masks.tolerance)) if len(both) else 1.0


def _hd95(masks: Comparison) -> float:
    """The larger of the two directions."""
    if masks.distances is None:
        return math.nan
    found = [0.0]
    for each in masks.distances:
        if len(each):
            with np.errstate(invalid="ignore"):  # between a number and infinity NumPy interpolates to NaN
                value = float(np.percentile(each, HD_PERCENTILE))
            found.append(math.inf if math.isnan(value) else value)
    return max(found)


MEASURES: dict[str, Measure] = {
    "dice": Measure(
        "Dice",
        lambda masks: masks.overlap[0],
        "Overlap: 1 is perfect",
        in_brief=True,
        summaries={"mean": MEAN, "median": MEDIAN, "lowest": LOWEST},
    ),
    "iou": Measure(
        "IoU", lambda masks: masks.overlap[1], "Intersection over union: 1 is perfect", in_brief=True
    ),
    "surface_dice": Measure(
        "surface Dice",
        _surface_dice,
        "Surface Dice: share of both surfaces within {tolerance} of the other",
        heading="sDice",
        has_tolerance=True,
    ),
    "hd95": Measure(
        "HD95",
        _hd95,
        "Distance within which 95 % of both surfaces lie; ∞ if one of them is missing",
        is_distance=True,
    ),
}
"""What is measured, by names that tables have as columns."""
