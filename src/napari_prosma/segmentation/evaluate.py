"""Predictions against the truth: overlap and distance of surfaces per case and class, worst cases first.

``evaluate(find_pairs("labels", "truth"))`` is a run like any other; ``evaluation_report`` shows its result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from napari_prosma.data.case import Case
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.readers import read_header
from napari_prosma.errors import DataError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.segmentation.measures import MEASURES, TOLERANCE_MM, Comparison
from napari_prosma.segmentation.pairs import Pair, Pairs

SAME_PLACE = 0.05
"""Grids are the same if no corner lies farther apart than this share of the smallest spacing."""
_UM_PER_MM = 1000.0


@dataclass(frozen=True)
class CaseMeasures:
    """All foreground classes of one case, by name; ``unit`` of distances and tolerance: "mm" or "pixel".

    Of each class the figures by the names of ``MEASURES``. Where a class is neither predicted nor true all is
    perfect: 1, 1, 1 and 0. Where it is in one of the two only: 0, 0, 0 and infinite. What needs surfaces is
    NaN where the truth leaves elements unlabelled.
    """

    pair: Pair
    unit: str
    classes: dict[str, dict[str, float]]
    held_by: dict[str, int] = field(default_factory=dict)  # how many of the two have a class
    extent: float = math.inf  # longest side of the image, in its unit

    @property
    def dice(self) -> float:
        """Mean over the classes."""
        return float(np.mean([figures["dice"] for figures in self.classes.values()]))


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    cases: tuple[CaseMeasures, ...]  # lowest mean Dice first
    class_names: tuple[str, ...]  # of the foreground
    tolerance: float  # in mm, or in pixels where a case knows no physical size
    failed: dict[str, str] = field(default_factory=dict)  # case -> why: pairs that could not be measured
    # name -> what it lacks: predictions without a reference, cases without a prediction.
    unpaired: dict[str, str] = field(default_factory=dict)

    def in_neither(self, class_name: str) -> int:
        """In how many cases a class is neither predicted nor true."""
        return sum(case.held_by.get(class_name) == 0 for case in self.cases)

    @property
    def left_out(self) -> dict[str, str]:
        """All that was not measured, by name, and why."""
        return self.failed | self.unpaired


def evaluate(pairs: Pairs, tolerance_mm: float = TOLERANCE_MM) -> Iterator[Event]:
    """Measure every pair; the last event is ``Finished`` with an :class:`Evaluation`.

    A pair that cannot be measured is told by a ``Notice`` and kept in ``failed``. Where neither the truth
    nor the prediction knows a physical size, distances and the tolerance count in pixels.

    Raises ``DataError``: no pair can be measured.
    """
    count = len(pairs.pairs)
    yield Started(count, f"Evaluating {count} cases")
    yield from map(Notice, pairs.notices)
    found: list[CaseMeasures] = []
    failed: dict[str, str] = {}
    for done, pair in enumerate(pairs.pairs, 1):
        try:
            found.append(measure(pair, pairs.class_names, tolerance_mm))
            said = f"{pair.name}: Dice {found[-1].dice:.3f}"
        except ProsmaError as error:
            failed[pair.name] = str(error)
            said = f"{pair.name} is left out"
            yield Notice(f"{said}: {error}")
        yield Progress(done, count, said)
    if not found:
        raise DataError(
            f"none of the {count} pairs can be measured; the first: {next(iter(failed.values()))}"
        )
    unitless = sum(case.unit == "pixel" for case in found)
    if unitless:
        yield Notice(
            f"{unitless} of {len(found)} cases do not say how large their pixels are: their distances and "
            f"the tolerance of {tolerance_mm:g} count in pixels"
        )
    small = sum(case.extent <= tolerance_mm for case in found)
    if small:
        yield Notice(
            f"the tolerance of {tolerance_mm:g} is larger than the whole image in {small} of {len(found)} "
            "cases, so their surface Dice says nothing; choose a smaller one"
        )
    worst_first = sorted(found, key=lambda case: (case.dice, case.pair.name))
    yield Finished(
        Evaluation(tuple(worst_first), pairs.class_names[1:], tolerance_mm, failed, pairs.unpaired)
    )


def measure(pair: Pair, class_names: Sequence[str], tolerance_mm: float = TOLERANCE_MM) -> CaseMeasures:
    """Measures of one pair, for every foreground class.

    Raises ``DataError``: a file cannot be read, the two lie on different grids, or nothing is labelled in the
    truth.
    """
    assert pair.predicted.read_label is not None
    assert pair.truth.read_label is not None
    predicted, truth = pair.predicted.read_label(), pair.truth.read_label()
    shape = truth.shape
    geometry = _common_geometry(pair, predicted.shape, shape)
    counted = truth != IGNORE
    if not counted.any():
        raise DataError(
            f"nothing is labelled in the reference of '{pair.name}', so there is nothing to measure"
        )
    complete = bool(counted.all())
    if not complete:
        predicted, truth = predicted[counted], truth[counted]
    classes, held_by = {}, {}
    for label, name in list(enumerate(class_names))[1:]:
        place = geometry if complete else None
        masks = Comparison(predicted == label, truth == label, place, tolerance_mm)
        classes[name] = {key: float(each.of(masks)) for key, each in MEASURES.items()}
        held_by[name] = int(masks.predicted.any()) + int(masks.truth.any())
    sides = zip(geometry.axes, shape, geometry.spacing, strict=True)
    extent = max((n * spacing for axis, n, spacing in sides if axis != "t" and n > 1), default=math.inf)
    return CaseMeasures(pair, geometry.unit, classes, held_by, extent)


def _common_geometry(pair: Pair, predicted: tuple[int, ...], truth: tuple[int, ...]) -> Geometry:
    """Geometry in mm, or in pixels where neither file knows a physical size.

    Raises ``DataError``: the two lie on different grids.
    """
    names = [case.files[-1].name if case.files else case.name for case in (pair.predicted, pair.truth)]
    two = f"the prediction '{names[0]}' and the reference '{names[1]}'"
    if predicted != truth:
        raise DataError(
            f"{two} have different shapes, {predicted} and {truth}; segment the image that the reference "
            f"was drawn on, or resample one of them"
        )
    placed = [_geometry(pair.predicted), _geometry(pair.truth)]
    sources = [geometry.source for geometry in placed if geometry.source is not None]
    in_files = bool(pair.predicted.files and pair.truth.files)  # layers are turned alike
    if in_files and len(sources) == 1 and sources[0].is_turned:
        raise DataError(
            f"{two} may be mirrored: only one says where it lies, and its header turns it against the order "
            "in which it is stored; save both in one format"
        )
    ours, theirs = map(_in_mm, placed)
    if ours.unit == theirs.unit == "mm":
        distance = _apart(ours, theirs, truth)
        if distance > SAME_PLACE * min(theirs.spacing):
            raise DataError(
                f"{two} lie {distance:.3g} mm apart (spacing {_spaced(ours)} and {_spaced(theirs)}); export "
                f"both over the same image"
            )
    return theirs if theirs.unit == "mm" else ours


def _geometry(case: Case) -> Geometry:
    if case.series is not None:
        return case.series.geometry
    return read_header(case.files[0]).geometry if case.files else case.read_image().geometry


def _in_mm(geometry: Geometry) -> Geometry:
    if geometry.unit != "um":
        return geometry
    spacing = tuple(value / _UM_PER_MM for value in geometry.spacing)
    origin = tuple(value / _UM_PER_MM for value in geometry.origin)
    return Geometry(spacing, origin, "mm", geometry.axes)


def _apart(one: Geometry, other: Geometry, shape: tuple[int, ...]) -> float:
    """Largest distance between the corners of two grids of ``shape``; by size alone without a frame."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(len(shape), -1)
    if one.source is not None and other.source is not None:
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        shift = (one.source.array_affine(shape) - other.source.array_affine(shape)) @ corners
    else:
        shift = np.subtract(one.spacing, other.spacing)[:, None] * corners
    return float(np.linalg.norm(shift, axis=0).max())


def _spaced(geometry: Geometry) -> str:
    return " x ".join(f"{s:.4g}" for s in geometry.spacing)
