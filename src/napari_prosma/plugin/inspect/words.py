"""What an inspection says in plain sentences: of a skip, of what is zero exactly, of a what-if."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from napari_prosma.data.labels import is_foreground
from napari_prosma.data.metrics import in_percent
from napari_prosma.inspection.measures import MEASURES, in_digits
from napari_prosma.plugin.inspect.looking import SELECTION, SKIP

if TYPE_CHECKING:
    import numpy as np

    from napari_prosma.geometry import Geometry
    from napari_prosma.inspection.record import GateRecord, SkipRecord
    from napari_prosma.inspection.what_if import Effect
    from napari_prosma.plugin.inspect.looking import InspectionResult, Tried


FEW_ERRORS = 10
"""Positions of either kind below which an AUC is a matter of luck: its spread is then about .1 or more."""


def positions_in_words(geometry: Geometry) -> str:
    """How large the positions of a skip are, such as ``6 x 6 x 3 mm (z, y, x)``."""
    axes = [n for n, axis in enumerate(geometry.axes) if axis != "t"]
    unit = geometry.unit if geometry.unit != "pixel" else "pixels" if len(axes) == 2 else "voxels"
    named = f" ({', '.join(geometry.axes[n] for n in axes)})" if len(axes) > 2 else ""
    return f"{' x '.join(f'{geometry.spacing[n]:.3g}' for n in axes)} {unit}{named}"


def worth_in_words(tried: Mapping[str, Tried]) -> str:
    """What the spatial selection of a skip is worth, in a cell."""
    outcome = tried.get(SELECTION)
    if outcome is None:
        return "selects no positions"
    if outcome.is_empty:
        return f"none found, |dp| {outcome.moved:.3f}"
    if outcome.worth is not None:
        return f"{round(outcome.worth, 2) + 0.0:+.2f}"  # never -0.00
    return f"overlap {outcome.agreement:.2f}"


def small_in_words(value: float) -> str:
    """A share that may be tiny, to three decimals."""
    return "less than 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def sentence_of(inspected: InspectionResult, level: int) -> str:
    """What is said of a skip that was looked at."""
    record = inspected.record
    classes = len(record.segmentation.class_names) - 1
    foreground = record.segmentation.labels if record.label is None else record.label
    return skip_in_words(record.skips[level], record.reference, inspected.tried[level], classes, foreground)


def skip_in_words(
    skip: SkipRecord,
    reference: str,
    tried: Mapping[str, Tried],
    classes: int = 1,
    foreground: np.ndarray | None = None,
) -> str:
    """How much a skip selects, where, and what that is worth: one sentence each.

    ``foreground`` (*spatial) are the class indices that the skip was measured against, on the image's grid.
    """
    measures = skip.measures
    structure = "the structure" if classes <= 1 else f"the {classes} structures together"
    selected = in_percent(measures["selectivity"], 1)
    sentences = [
        f"Skip {skip.level}, positions of {positions_in_words(skip.geometry)}: selectivity {selected}; a "
        "constant per channel explains the rest of the gated skip."
    ]
    inside = measures.get("relative_energy_inside")
    if inside is not None:
        sentences.append(f"Inside {structure} ({reference}) psi passes {_relative_in_words(inside)}.")
        if reference == "prediction":
            sentences.append(
                "This is the model's own prediction, to which psi contributes, so it is not evidence."
            )
    elif skip.psi is not None:
        sentences.append(_not_compared(skip, structure, foreground))
    errors = measures.get("psi_auc_in_errors")
    if errors is not None:
        sentences.append(
            f"Among {_errors_in_words(skip)} where the model confuses {structure} and background, psi ranks "
            f"{structure} above background with an AUC of {errors:.2f} (0.5 = chance){_few_in_words(skip)}."
        )
    if "z_zero_fraction" in measures:
        silenced, empty = in_percent(measures["z_zero_fraction"]), measures["floor_pixel_fraction"]
        sentences.append(
            f"The threshold sets {silenced} of the inner signals z to zero; {in_percent(empty, 1)} of the "
            "positions are without evidence (all of z is zero)."
        )
    return " ".join([*sentences, *_tried_in_words(tried)])


def numbers_of(inspected: InspectionResult) -> dict[str, Any]:
    """What the sentences say of every skip, and the numbers of what was tried, for the JSON."""
    record = inspected.record
    return {
        "sentences": {str(level): sentence_of(inspected, level) for level in record.skips},
        "tried": {
            str(level): {
                what: {
                    name: getattr(each, name)
                    for name in ("moved", "agreement", "dice", "dice_before", "worth", "is_empty", "window")
                }
                for what, each in tried.items()
            }
            for level, tried in inspected.tried.items()
        },
        "means": {str(level): asdict(skip.means) for level, skip in record.skips.items()},
        "errors": {
            str(level): dict(zip(("missed", "added"), counts, strict=True))
            for level, skip in record.skips.items()
            if (counts := _errors(skip)) is not None
        },
    }


def exactness(record: GateRecord) -> list[str]:
    """What is exactly zero, what is not, and what prosma-exact changes: one line each."""
    from napari_prosma.nn.gate_kinds import GATES

    lines, kind = [], GATES[record.gate]
    if not kind.parts:
        lines.append("This model has no gates: every skip passes whole, so there is no mask to show.")
    elif kind.thresholds:
        lines.append("Exactly zero: z, the gate's inner signal, where its threshold cuts it (zeros in z).")
    else:
        lines.append(f"Exactly zero: nothing; the gate '{record.gate}' has no threshold.")
    floors = {level: skip.floor for level, skip in record.skips.items() if skip.floor is not None}
    if kind.exact_zeros:
        lines.append(f"{record.gate}: psi is exactly zero where z is empty, so there the skip itself is cut.")
        return lines
    if floors and kind.thresholds:
        told = ", ".join(f"{floor:.2f}" for _, floor in sorted(floors.items()))
        and_c = ", which c multiplies, too" if kind.parts > 1 else ""
        lines.append(
            "Not zero: psi, the mask that multiplies the skip; where z is empty it equals the gate floor "
            f"({told}, finest skip first){and_c}; the skip is turned down, not cut."
        )
        exact = " or ".join(name for name, kind in GATES.items() if kind.exact_zeros)
        lines.append(f"Only a model with the gate {exact} has psi exactly zero there.")
    return lines


def effect_in_words(effect: Effect, dice_before: float | None) -> str:
    """What came of a what-if: Dice against the label, or overlap with the model's own prediction."""
    dice = None if effect.dice is None else effect.dice.get("dice")
    if effect.is_empty:
        moved = small_in_words(effect.moved)
        found = f"nothing is segmented either way; the probabilities change by {moved} on average"
    elif dice is not None and dice_before is not None:
        found = f"Dice against the label {dice_before:.3f} → {dice:.3f}"
    else:
        found = f"overlap (Dice) with the unchanged prediction {effect.agreement:.3f}"
    took = f"{1000 * effect.seconds:.0f} ms" if effect.seconds < 1 else f"{effect.seconds:.0f} s"
    return f"{found} ({took})"


def table_of_measures(records: Mapping[str, GateRecord]) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and what each row means: a row per measure, with its neutral value, then each skip."""
    from napari_prosma.nn.gate_kinds import GATES

    gates = {record.gate for record in records.values()}
    kind = GATES[gates.pop()] if len(gates) == 1 else None
    columns = [
        (f"{level} {name}".strip(), skip.measures)
        for name, record in records.items()
        for level, skip in sorted(record.skips.items())
    ]
    known = [name for name in MEASURES if any(name in measures for _, measures in columns)]
    rows = []
    for name in known:
        measure = MEASURES[name]
        neutral = "" if kind is None else _in_cell(name, measure.neutral(kind))
        rows.append([measure.label, neutral, *(_in_cell(name, m.get(name)) for _, m in columns)])
    header = ["skip", "neutral", *(title for title, _ in columns)]
    return header, rows, [MEASURES[name].meaning for name in known]


def _in_cell(name: str, value: float | None) -> str:
    return "" if value is None else MEASURES[name].text(value)


def _relative_in_words(ratio: float) -> str:
    if in_digits(ratio) == "1.0":
        return "as much as on average"
    return f"{in_digits(ratio)} x {'as much as' if ratio > 1 else 'what it passes'} on average"


def _not_compared(skip: SkipRecord, structure: str, foreground: np.ndarray | None) -> str:
    """Why psi inside the structure is not compared with what it is elsewhere."""
    if skip.inside is None or not skip.inside.any():
        if foreground is None or not is_foreground(foreground).any():
            return "There is no structure to compare psi with."
        return (
            f"No position of this skip lies mostly in {structure}, so there is nothing to compare psi with."
        )
    if skip.outside is None or not skip.outside.any():
        return "There is no background to compare psi with."
    return f"The skip is zero in {structure}, so there is nothing to compare psi with."


def _errors_in_words(skip: SkipRecord) -> str:
    """The positions of an AUC among errors, counted: of a few it says little."""
    counts = _errors(skip)
    if counts is None:
        return "the positions"
    missed, added = counts
    return f"the {missed + added} positions ({missed} missed, {added} added)"


def _few_in_words(skip: SkipRecord) -> str:
    counts = _errors(skip)
    return "" if counts is None or min(counts) >= FEW_ERRORS else "; so few positions say little"


def _errors(skip: SkipRecord) -> tuple[int, int] | None:
    """Positions of the structure that are missed, and others that are added; None without a label."""
    if skip.wrong is None or skip.inside is None:
        return None
    return int((skip.wrong & skip.inside).sum()), int((skip.wrong & ~skip.inside).sum())


_AT_ITS_MEAN = {SELECTION: "psi at its mean", SKIP: "the whole skip at its channel means"}


def _tried_in_words(tried: Mapping[str, Tried]) -> list[str]:
    """How the prediction changes with means in place of what is selected, and where that was tried."""
    if not tried:
        return []
    place = next(iter(tried.values())).window
    found = []
    for what, outcome in tried.items():
        if outcome.is_empty:
            moved = small_in_words(outcome.moved)
            told = f"nothing is segmented either way; the probabilities change by {moved} on average"
        elif outcome.dice is not None and outcome.dice_before is not None:
            told = f"Dice changes from {outcome.dice_before:.2f} to {outcome.dice:.2f}"
        else:
            told = f"the overlap (Dice) with the unchanged prediction is {outcome.agreement:.2f}"
        found.append(f"with {_AT_ITS_MEAN[what]} {told}")
    words = "; ".join(found)
    words = f"In one window ({place}), {words}." if place else f"{words[0].upper()}{words[1:]}."
    return [words, "One image proves nothing about others."]
