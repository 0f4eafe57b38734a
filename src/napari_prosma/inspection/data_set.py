"""``inspect_cases``: the gates of a model, and of others, over many cases; what is unusual comes first."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from napari_prosma.data.case import Case, Image
from napari_prosma.data.check import Checked, near_duplicates, seen
from napari_prosma.data.labels import is_foreground
from napari_prosma.data.metrics import case_metrics
from napari_prosma.data.readers import as_channels
from napari_prosma.errors import CheckpointError, DataError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started, result_of
from napari_prosma.inspection.kept import KeptCases
from napari_prosma.inspection.kinship import noting_gray
from napari_prosma.inspection.measures import MEASURES
from napari_prosma.inspection.record import GateRecord
from napari_prosma.inspection.statistics import FEWEST, by_unit, units_in_words, unusual_from
from napari_prosma.inspection.trace import cautions, inspect_gates, same_classes
from napari_prosma.model.checkpoint import Checkpoint

Call = Callable[..., Iterator[Event]]
On = Callable[[Call], Call]
COMPARED = (
    "selectivity",
    "z_zero_fraction",
    "floor_pixel_fraction",
    "psi_mean",
    "psi_std",
    "retained_energy",
    "channel_mean",
)
"""Measures by which cases are called unusual: those that no label has a part in."""
PARTS = ("training", "validation", "unseen", "unknown")
"""Unknown: the model began as another one, whose cases are not on record."""
_LEAST_SPREAD = 0.01
"""The measures lie within 0 and 1: less than a hundredth apart is nothing to point at."""


@dataclass(frozen=True)
class SkipNumbers:
    """One skip in one case: its measures, and per latent channel the share of z that is zero (C_a,)."""

    measures: dict[str, float]
    channel_zeros: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelNumbers:
    """One model on one case: its skips by level, and Dice and IoU where there is a label."""

    skips: dict[int, SkipNumbers]
    overlap: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseNumbers:
    """What is kept of one case."""

    name: str
    group: str
    part: str  # what the case was to the first model: one of ``PARTS``
    reference: str  # "label" or "prediction": what inside and outside mean; of the first model for all
    models: dict[str, ModelNumbers]  # by name, the first one first
    # Hashes of the models, and the image's and label's files with size and time: what the numbers hang on.
    of: dict[str, str]
    digest: str = ""  # hash of the image
    thumbnail: tuple[float, ...] = ()  # by which near-duplicates are found; empty for volumes
    notices: tuple[str, ...] = ()  # on its image and label: what was decided, and what is unlike training
    empty: bool = False  # the label shows no structure, so Dice is 1 or 0

    @property
    def first(self) -> ModelNumbers:
        return next(iter(self.models.values()))


@dataclass(frozen=True)
class Deviation:
    """The measure of a case that lies farthest from the median of all cases."""

    level: int
    measure: str
    value: float
    median: float
    score: float  # ``(value - median) / max(1.4826 MAD, 0.01)``: robust standard deviations, with its sign

    def in_words(self) -> str:
        """One plain sentence."""
        measure = MEASURES[self.measure]
        side = "above" if self.score > 0 else "below"
        return (
            f"Skip {self.level}: {measure.name} {measure.in_words(self.value)}, {abs(self.score):.1f} robust "
            f"standard deviations {side} the median of all cases ({measure.in_words(self.median)})."
        )


@dataclass(frozen=True)
class Association:
    """Whether unusual gating goes with low Dice: Spearman's rho over the independent cases with a structure.

    ``low`` and ``high`` bound its 95 % interval (Fieller, Hartley and Pearson 1957); all three are NaN where
    there are too few cases, or nothing varies.
    """

    cases: int
    rho: float
    low: float
    high: float

    def in_words(self) -> str:
        """What may be said, and no more."""
        if not np.isfinite(self.rho):
            cases = units_in_words(self.cases)
            return f"Whether unusual gating goes with low Dice cannot be judged from {cases}."
        figures = f"Spearman's rho {self.rho:.2f}, 95 % interval {self.low:.2f} to {self.high:.2f}"
        over = f"Over {units_in_words(self.cases)} with a structure in the label"
        if self.high < 0:
            return f"{over}, unusual gating goes with lower Dice ({figures}). This does not show why."
        if self.low > 0:
            return f"{over}, unusual gating goes with higher Dice ({figures}): here it is no warning."
        return f"{over}, no association of unusual gating with Dice is shown ({figures})."


@dataclass(frozen=True)
class Spread:
    """A measure of one skip over the cases: the number of cases, mean, standard deviation, median."""

    cases: int
    mean: float
    deviation: float
    median: float


@dataclass(frozen=True, eq=False)
class DataSetInspection:
    """The gates of one or several models over many cases."""

    checkpoints: dict[str, Checkpoint]  # models by name, the inspected one first
    cases: tuple[CaseNumbers, ...]  # unusual ones first
    # By name of case; empty where there are too few cases to say what is usual.
    deviations: dict[str, Deviation]
    failed: dict[str, str]  # why a case could not be inspected, by its name
    # By name of case, for those that are near-duplicates or of one patient: the first of them. Together they
    # are one independent case.
    units: dict[str, str] = field(default_factory=dict)
    # Robust standard deviations from which on a case is called unusual (``statistics.unusual_from``).
    unusual_from: float = np.inf

    @property
    def model(self) -> str:
        """Name of the first model."""
        return next(iter(self.checkpoints))

    def levels(self, model: str) -> list[int]:
        return sorted({level for case in self.cases for level in case.models[model].skips})

    def values(self, model: str, level: int, measure: str) -> np.ndarray:
        """A measure of a skip over the cases that have it (n,)."""
        return np.array([*self.by_case(model, level, measure).values()])

    def by_case(self, model: str, level: int, measure: str) -> dict[str, float]:
        """A measure of a skip by the name of the case, where the case has it."""
        skips = {case.name: case.models[model].skips.get(level) for case in self.cases}
        return {n: s.measures[measure] for n, s in skips.items() if s is not None and measure in s.measures}

    def notices(self) -> dict[str, list[str]]:
        """What was decided about images and labels, or is unlike training, in which cases; the most first."""
        found: dict[str, list[str]] = {}
        for case in self.cases:
            for notice in case.notices:
                found.setdefault(notice, []).append(case.name)
        return dict(sorted(found.items(), key=lambda each: -len(each[1])))

    def is_unusual(self, case: str) -> bool:
        """A measure of the case lies farther from the median than chance would have it."""
        return case in self.deviations and abs(self.deviations[case].score) > self.unusual_from

    def spread(self, model: str, level: int, measure: str) -> Spread | None:
        """None where no case has the measure."""
        values = self.values(model, level, measure)
        if not values.size:
            return None
        deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
        return Spread(values.size, float(values.mean()), deviation, float(np.median(values)))

    def overlaps(self, model: str, empty: bool = False) -> dict[str, float]:
        """Dice by case, where the label shows a structure; or where there is an ``empty`` label."""
        found = {case.name: case.models[model].overlap for case in self.cases if case.empty == empty}
        return {name: figures["dice"] for name, figures in found.items() if "dice" in figures}

    def channel_zeros(self, model: str, level: int) -> np.ndarray:
        """Share of zeros in z per case and latent channel (n, C_a); (0, 0) where the gate has no z.

        A channel is dead over the set where all are 1, always open where all are 0.
        """
        skips = [case.models[model].skips.get(level) for case in self.cases]
        kept = [s.channel_zeros for s in skips if s is not None and s.channel_zeros]
        return np.array(kept) if kept else np.zeros((0, 0))

    def association(self) -> Association:
        """Of the size of the largest deviation with the first model's Dice."""
        dice = {n: d for n, d in self.overlaps(self.model).items() if n in self.deviations}
        far = by_unit({name: abs(self.deviations[name].score) for name in dice}, self.units)
        both = [(far[unit], value) for unit, value in by_unit(dice, self.units).items()]
        scores, values = np.array(both).reshape(-1, 2).T
        nothing = Association(len(both), np.nan, np.nan, np.nan)
        if len(both) < FEWEST or np.ptp(scores) == 0 or np.ptp(values) == 0:
            return nothing
        rho = float(spearmanr(scores, values).statistic)
        reach = 1.96 * np.sqrt(1.06 / (len(both) - 3))
        centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
        return Association(len(both), rho, float(np.tanh(centre - reach)), float(np.tanh(centre + reach)))


def chosen_cases(
    checkpoint: Checkpoint, cases: Sequence[Case], held_out: bool = False, limit: int | None = None
) -> tuple[Case, ...]:
    """Those that training held out, or all; at most ``limit`` of them, evenly chosen in their order.

    Raises ``DataError``: None of the cases was held out.
    """
    names = set(checkpoint.split.get("validation", ()))
    chosen = [case for case in cases if case.name in names or not held_out]
    if not chosen:
        raise DataError(
            f"none of the {len(cases)} cases is among the {len(names)} that the model's training held out; "
            f"give the data it was trained on, or leave out --held-out"
        )
    return tuple(chosen if limit is None else evenly(chosen, limit))


def evenly(cases: Sequence[Case], number: int) -> list[Case]:
    """At most so many of the cases, evenly chosen in their order."""
    if len(cases) <= number:
        return list(cases)
    return [cases[k] for k in np.linspace(0, len(cases) - 1, number).round().astype(int)]


def here(function: Call) -> Call:
    """The function as it is, computed by this process."""
    return function


def inspect_cases(
    checkpoint: Checkpoint,
    cases: Sequence[Case],
    folder: Path,
    *,
    name: str = "model",
    others: Mapping[str, Checkpoint] | None = None,
    device: str = "auto",
    on: On = here,
) -> Iterator[Event]:
    """Inspect every case; the last event is ``Finished`` with a :class:`DataSetInspection`.

    A case that cannot be read or does not fit is told in a notice and left out.

    Parameters
    ----------
    cases : with or without labels
        A label is measured with the model's class indices.
    folder : Path
        Keeps a file per finished case under ``cases``; those that are there and still true are not
        inspected again.
    name : str
        Of the model, in tables and plots.
    others : name -> Checkpoint, optional
        Models of the same classes to be measured against the same foreground.
    on : function of events -> function of events
        Where each image is computed.

    Raises
    ------
    CheckpointError
        A model is an ensemble, or a network of another paper.
    DataError
        Another model knows other classes, there is no case, or none could be inspected.
    """
    checkpoints = {name: checkpoint, **(others or {})}
    _require_comparable(checkpoints)
    if not cases:
        raise DataError("there is no case to inspect; give a folder of images")
    kept = KeptCases(CaseNumbers, folder / "cases", cases, checkpoints)
    found: list[CaseNumbers] = []
    failed: dict[str, str] = {}
    said: set[str] = set()
    number, models = len(cases), len(checkpoints)
    named = f"{number} case{'s' * (number != 1)} with {models} model{'s' * (models != 1)}"
    yield Started(number, f"Inspecting {named}")
    for number, case in enumerate(cases, start=1):
        of = kept.of(case)
        numbers = kept.read(case, of)
        if numbers is None:
            try:
                numbers = yield from _case(case, checkpoints, of, device, said, on)
            except (ProsmaError, MemoryError) as error:
                failed[case.name] = str(error).removeprefix(f"'{case.name}': ") or "memory ran out"
                yield Notice(f"'{case.name}' is left out: {failed[case.name]}")
            else:
                kept.write(case, numbers)
        if numbers is not None:
            yield from _once(numbers.notices, said)
            found.append(numbers)
        yield Progress(number, len(cases), case.name)
    if not found:
        raise DataError(
            f"none of the {len(cases)} cases could be inspected; the first: {next(iter(failed.values()))}"
        )
    deviations = deviations_of(found)
    found.sort(key=lambda case: -abs(deviations[case.name].score) if deviations else 0)
    measures = sum(len(set(COMPARED) & skip.measures.keys()) for skip in found[0].first.skips.values())
    bound = unusual_from(len(found), max(1, measures)) if deviations else np.inf
    units = units_of(found, {case.name: case.patient for case in cases if case.patient})
    yield Finished(DataSetInspection(checkpoints, tuple(found), deviations, failed, units, bound))


def read_fitting_case(case: Case, checkpoint: Checkpoint) -> tuple[Image, np.ndarray | None]:
    """Image with the channels that the model knows, and label, None without one."""
    given = case.read_image()
    try:
        image = noting_gray(as_channels(given, checkpoint.plan.channels), given)
    except DataError as error:
        raise DataError(f"'{case.name}': {error}") from error
    return image, None if case.read_label is None else case.read_label()


def record_of(
    checkpoint: Checkpoint,
    image: Image,
    name: str,
    label: np.ndarray | None,
    device: str = "auto",
    foreground: np.ndarray | None = None,
    on: On = here,
) -> Generator[Notice, None, GateRecord]:
    """The ``GateRecord`` of one image; only the notices of the run are passed on."""
    events = on(inspect_gates)(
        checkpoint, image, name=name, label=label, device=device, foreground=foreground
    )
    return (yield from result_of(events, Notice))


def units_of(cases: Sequence[CaseNumbers], patients: Mapping[str, str]) -> dict[str, str]:
    """By name of a case that has near-duplicates, or others of its patient: the first of them all.

    ``patients`` by name of case, where they are known.
    """
    looked_at = [
        Checked(
            Case(case.name, read_image=_not_read),
            (),
            case.digest,
            np.array(case.thumbnail) if case.thumbnail else None,
        )
        for case in sorted(cases, key=lambda case: case.name)
    ]
    of_patients: dict[str, set[str]] = {}
    for case in cases:
        if case.name in patients:
            of_patients.setdefault(patients[case.name], set()).add(case.name)
    units: list[set[str]] = []
    for names in (*map(set, near_duplicates(looked_at)), *of_patients.values()):
        touched = [unit for unit in units if unit & names]
        units = [*(unit for unit in units if not unit & names), names.union(*touched)]
    return {name: min(unit) for unit in units if len(unit) > 1 for name in unit}


def _not_read() -> Image:
    raise DataError("an image that was inspected is not read again")


def deviations_of(cases: Sequence[CaseNumbers]) -> dict[str, Deviation]:
    """Per case the measure of the first model that lies farthest from the median; none of too few cases."""
    if len(cases) < FEWEST:
        return {}
    largest: dict[str, Deviation] = {}
    for level in sorted({level for case in cases for level in case.first.skips}):
        for measure in COMPARED:
            has = [case for case in cases if measure in case.first.skips.get(level, SkipNumbers({})).measures]
            if len(has) < FEWEST:
                continue
            values = np.array([case.first.skips[level].measures[measure] for case in has])
            median = float(np.median(values))
            scale = max(1.4826 * float(np.median(np.abs(values - median))), _LEAST_SPREAD)
            for case, value in zip(has, values.tolist(), strict=True):
                here = Deviation(level, measure, value, median, (value - median) / scale)
                if case.name not in largest or abs(here.score) > abs(largest[case.name].score):
                    largest[case.name] = here
    return largest if len(largest) == len(cases) else {}


def _case(
    case: Case,
    checkpoints: Mapping[str, Checkpoint],
    of: dict[str, str],
    device: str,
    said: set[str],
    on: On,
) -> Generator[Event, None, CaseNumbers]:
    first = next(iter(checkpoints.values()))
    image, label = read_fitting_case(case, first)
    foreground, models = None, {}
    notices = [] if label is None or case.label_notices is None else [*case.label_notices()]
    said_by: dict[str, list[str]] = {}
    for model, checkpoint in checkpoints.items():
        of_model = cautions(checkpoint)
        run = record_of(checkpoint, image, case.name, label, device, foreground, on)
        while True:
            try:
                notice = next(run)
            except StopIteration as end:
                record: GateRecord = end.value
                break
            if notice.message in of_model:
                yield from _once([f"{model}: {notice.message}"], said)
            else:
                said_by.setdefault(notice.message, []).append(model)
        predicted = record.segmentation.labels
        foreground = predicted if foreground is None else foreground
        overlap = {} if label is None else case_metrics(predicted, label, checkpoint.plan.class_names)
        models[model] = ModelNumbers(_numbers(record), overlap)
    # What holds for every model is said of the image.
    notices += [
        message if len(by) == len(checkpoints) else f"{', '.join(by)}: {message}"
        for message, by in said_by.items()
    ]
    parts = [part for part in ("training", "validation") if case.name in first.split.get(part, ())]
    reference = "prediction" if label is None else "label"
    inspected = seen(case, image)
    small = () if inspected.thumbnail is None else tuple(np.round(inspected.thumbnail, 4).tolist())
    part = (*parts, "unknown" if first.config.get("start_from") else "unseen")[0]
    return CaseNumbers(
        name=case.name,
        group=case.group,
        part=part,
        reference=reference,
        models=models,
        of=of,
        digest=inspected.digest,
        thumbnail=small,
        notices=tuple(notices),
        empty=label is not None and not is_foreground(label).any(),
    )


def _once(notices: Sequence[str], said: set[str]) -> Iterator[Notice]:
    """The same words for every case are said once."""
    for words in notices:
        if words not in said:
            said.add(words)
            yield Notice(words)


def _numbers(record: GateRecord) -> dict[int, SkipNumbers]:
    return {
        level: SkipNumbers(
            skip.measures, () if skip.channel_zeros is None else tuple(skip.channel_zeros.tolist())
        )
        for level, skip in record.skips.items()
    }


def _require_comparable(checkpoints: Mapping[str, Checkpoint]) -> None:
    first, *others = same_classes(checkpoints).values()
    for name, checkpoint in zip([*checkpoints][1:], others, strict=True):
        if checkpoint.plan.channels != first.plan.channels:
            raise CheckpointError(
                f"the model '{name}' takes images of {checkpoint.plan.channels} channels, the first model of "
                f"{first.plan.channels}; compare models trained on the same images"
            )
