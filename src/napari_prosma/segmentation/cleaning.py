"""Cleaning a segmentation after the network: class by class, in physical units, quick enough to watch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from napari_prosma.data.labels import present_values
from napari_prosma.errors import ConfigError
from napari_prosma.geometry import Geometry
from napari_prosma.segmentation.regions import element_size, touching

# The median of |x| for x ~ N(0, 1) in as many dimensions: a disk (2) or ball (3) whose radius is this many
# spreads keeps half of the Gaussian's weight at its centre.
_MEDIAN_RADIUS = {2: 1.1774100225154747, 3: 1.5381722544550522}
_ROUNDING = 1e-9
EVERY_CLASS = "*"
_SETTINGS = {"threshold": "threshold", "smooth": "smoothing", "min": "minimum_size"}
_SWITCHES = {"largest": "largest_only", "holes": "fill_holes"}
"""What a shell calls them."""


@dataclass(frozen=True)
class Cleaning:
    """What is done to one class; the default leaves it as it is."""

    # Least probability of the class, above 0, at most 1; below 0.5 finds more, above 0.5 less. None: it must
    # be more probable than the background.
    threshold: float | None = None
    # Radius in mm, um or pixels, as the image has it: a disk or ball smaller than this vanishes, and so do
    # notches. Its probability is blurred by a Gaussian.
    smoothing: float = 0.0
    # Smallest region that stays, in the unit of ``regions.element_size``: ml, mm^2, pixels, ...
    minimum_size: float = 0.0
    largest_only: bool = False  # only the largest region stays
    fill_holes: bool = False  # background that the class encloses on all sides becomes the class

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"a threshold lies above 0 and at most at 1, found {self.threshold:g}")
        for name in ("smoothing", "minimum_size"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name.replace('_', ' ')} must be 0 or more, found {value:g}")


def cleaned(found: np.ndarray, geometry: Geometry, cleanings: Mapping[int, Cleaning]) -> np.ndarray:
    """Labels after cleaning each class; no element ever belongs to two classes.

    1. *Smoothing*: the probabilities of the smoothed classes are blurred; the background's is what they and
       the others leave of 1. 2. *Threshold*: of the classes that reach their threshold (or, without one, are
       more probable than the background), the most probable takes the element; a tie goes to the lower
       index. 3. *Regions*: those that are too small, and all but the largest, become background. 4. *Holes*,
       class after class: only background is filled.

    Regions are connected through corners too. In a time series each moment is cleaned by itself.

    Parameters
    ----------
    found : (K, *spatial) probabilities, background first, or (*spatial) class indices
        Class indices count as probabilities of 0 and 1.
    geometry : Geometry
        Of the spatial axes.
    cleanings : class index -> Cleaning
        Classes that are missing are left as they are.

    Returns
    -------
    (*spatial)
        New array: uint8 for probabilities, else of the type of the labels.
    """
    given_labels = found.ndim == geometry.ndim
    if "t" in geometry.axes:
        time = geometry.axes.index("t")
        moments = np.moveaxis(found, time if given_labels else time + 1, 0)
        still = _without(geometry, time)
        return np.stack([cleaned(moment, still, cleanings) for moment in moments], axis=time)
    labels = _decided(found, geometry, cleanings, given_labels)
    element, _ = element_size(geometry)
    near = touching(geometry)
    boxes = ndimage.find_objects(labels)
    there = {k: boxes[k - 1] for k in sorted(cleanings) if k <= len(boxes) and boxes[k - 1] is not None}
    for k, box in there.items():
        least = cleanings[k].minimum_size / element
        if least or cleanings[k].largest_only:
            _remove_regions(labels[box], k, near, least * (1 - _ROUNDING), cleanings[k].largest_only)
    for k, box in there.items():
        if cleanings[k].fill_holes:
            part = labels[box]
            part[ndimage.binary_fill_holes(part == k) & (part == 0)] = k
    return labels


def _without(geometry: Geometry, axis: int) -> Geometry:
    def rest(values: tuple) -> tuple:
        return values[:axis] + values[axis + 1 :]

    return Geometry(rest(geometry.spacing), rest(geometry.origin), geometry.unit, rest(geometry.axes))


def _decided(
    found: np.ndarray, geometry: Geometry, cleanings: Mapping[int, Cleaning], given_labels: bool
) -> np.ndarray:
    """Which class takes each element."""
    smoothed = [k for k, cleaning in cleanings.items() if cleaning.smoothing]
    if given_labels and not smoothed:
        return found.copy()
    if given_labels:
        scores = {int(k): (found == k).astype(np.float32) for k in present_values(found) if k}
    else:
        scores = dict(enumerate(found[1:], 1))
    for k in scores.keys() & smoothed:
        spread = cleanings[k].smoothing / _MEDIAN_RADIUS[geometry.ndim]
        scores[k] = ndimage.gaussian_filter(scores[k], [spread / s for s in geometry.spacing], mode="nearest")
    shape = found.shape[-geometry.ndim :]
    background = 1 - sum(scores.values(), np.zeros(shape, np.float32)) if smoothed else found[0]
    labels = np.zeros(shape, found.dtype if given_labels else np.uint8)
    best = np.zeros(shape, np.float32)
    for k, score in scores.items():
        threshold = cleanings[k].threshold if k in cleanings else None
        reached = score > background if threshold is None else score >= threshold
        reached &= score > best
        labels[reached] = k
        best[reached] = score[reached]
    return labels


def _remove_regions(labels: np.ndarray, k: int, near: np.ndarray, least: float, largest_only: bool) -> None:
    """Make background of regions of class ``k`` with under ``least`` elements, or of all but the largest."""
    pieces, _ = ndimage.label(labels == k, near)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    goes = sizes < least
    if largest_only:
        goes |= np.arange(len(sizes)) != sizes.argmax()
    goes[0] = False
    labels[goes[pieces]] = 0


# ---- as text ----------------------------------------------------------------------------------------------


def cleaning_as_text(class_name: str, cleaning: Cleaning) -> str:
    """The cleaning of a class as :func:`cleanings_from_text` reads it; empty where it does nothing."""
    numbers = {word: getattr(cleaning, name) for word, name in _SETTINGS.items()}
    words = [f"{word}={value:.12g}" for word, value in numbers.items() if value]
    words += [word for word, name in _SWITCHES.items() if getattr(cleaning, name)]
    return f"{class_name}:{' '.join(words)}" if words else ""


def cleanings_from_text(texts: Sequence[str], class_names: Sequence[str]) -> dict[int, Cleaning]:
    """Cleanings by class of texts such as ``liver:largest,holes`` or ``*:min=0.5,smooth=1,threshold=0.4``.

    Raises ``ConfigError``: a class that the model does not know, or a word that is not understood.
    """
    found: dict[int, Cleaning] = {}
    for text in texts:
        name, colon, words = text.rpartition(":")
        name = name if colon else EVERY_CLASS
        chosen = [k for k, known in enumerate(class_names) if k and name in (EVERY_CLASS, known)]
        if not chosen:
            raise ConfigError(
                f"the model knows no class '{name}'; clean one of {', '.join(class_names[1:])}, or "
                f"'{EVERY_CLASS}' for all"
            )
        settings: dict[str, float | bool] = {}
        for word in filter(None, re.split(r"[,\s]+", words)):
            setting, equals, value = word.partition("=")
            try:
                if equals:
                    settings[_SETTINGS[setting]] = float(value)
                else:
                    settings[_SWITCHES[setting]] = True
            except (KeyError, ValueError) as error:
                raise ConfigError(
                    f"'{word}' is not understood; write largest, holes, min=SIZE, smooth=RADIUS, threshold=P"
                ) from error
        for k in chosen:
            found[k] = replace(found.get(k, Cleaning()), **settings)  # type: ignore[arg-type]
    return found
