"""What the panel says besides the sentences of every skip: cells, what is zero exactly, a what-if."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_prosma.inspection.measures import MEASURES
from napari_prosma.inspection.one_image import SELECTION, Tried, small_in_words

if TYPE_CHECKING:
    from napari_prosma.inspection.record import GateRecord
    from napari_prosma.inspection.what_if import Effect


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
        and_c = ", times c" if kind.parts > 1 else ""
        lines.append(
            "Not zero: psi, the mask that multiplies the skip; where z is empty it equals the gate floor "
            f"({told}, finest skip first){and_c}, so the skip is attenuated, not cut."
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
