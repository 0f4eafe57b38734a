"""What an inspection says in plain sentences: of a skip, of what is zero exactly, of a what-if."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_prosma.inspection.record import GateRecord, SkipRecord
    from napari_prosma.inspection.what_if import Effect
    from napari_prosma.plugin.inspect_looking import Cut

HARDLY, CLEARLY = 0.98, 0.9
"""Overlap (Dice) of the result with and without a skip, from which on it hardly and below which it clearly
mattered; ours, for the words only."""

MEASURES = {
    "z_zero_fraction": ("zeros in z, %", 100, "Share of the gate's inner signals z that are exactly zero"),
    "floor_pixel_fraction": (
        "without evidence, %",
        100,
        "Share of the positions where z is zero in every channel: the mask stands at the gate floor there",
    ),
    "gate_floor": ("gate floor", 1, "Value of the mask psi where z is zero in every channel"),
    "psi_mean": ("psi, mean", 1, "Mean of the mask that multiplies the skip, from 0 to 1"),
    "psi_std": ("psi, spread", 1, "How much the mask varies over the image"),
    "psi_auc": (
        "psi finds structure",
        1,
        "Chance that a position inside the structure has a higher mask than one outside; 0.5 = no better "
        "than chance",
    ),
    "psi_fg_bg_ratio": ("psi inside/outside", 1, "Mean mask inside the structure over that outside"),
    "retained_energy": (
        "energy kept, %",
        100,
        "Share of the skip's squared values that reaches the decoder, channel weights included",
    ),
    "retained_energy_inside": ("energy kept inside, %", 100, "The same inside the structure"),
    "retained_energy_outside": ("energy kept outside, %", 100, "The same outside the structure"),
    "dead_channel_fraction": (
        "silent channels, %",
        100,
        "Share of the inner channels that are zero everywhere in this image",
    ),
    "lambda_over_std_mean": (
        "threshold / spread",
        1,
        "Mean of the thresholds lambda, each relative to the spread of the signal that it cuts",
    ),
}
"""Measures of a skip in a user's words: name, factor, meaning."""


def level_in_words(level: int) -> str:
    """``full detail`` for the finest skip, else how much coarser its grid is."""
    return "full detail" if level == 1 else f"{2 ** (level - 1)} x coarser"


def matters_in_words(cut: Cut) -> str:
    """Whether a skip mattered, from how much the result without it overlaps the model's own."""
    if cut.is_empty:
        return "none found"
    if cut.agreement >= HARDLY:
        return "hardly"
    return "clearly" if cut.agreement < CLEARLY else "a little"


def small_in_words(value: float) -> str:
    """A share that may be tiny, to three decimals."""
    return "less than 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def skip_in_words(skip: SkipRecord, reference: str, cut: Cut | None) -> str:
    """What a skip let through, where, and whether it mattered: one sentence each."""
    measures = skip.measures
    sentences = [
        f"Skip {skip.level} ({level_in_words(skip.level)}): of its energy {measures['retained_energy']:.0%} "
        f"reaches the decoder"
    ]
    ratio = measures.get("retained_energy_ratio")
    if ratio is not None:
        sentences[0] += f", {_ratio_in_words(ratio)} the structure ({reference})."
    else:
        sentences[0] += "; there is no structure to compare with."
    if "z_zero_fraction" in measures:
        sentences.append(
            f"The threshold silenced {measures['z_zero_fraction']:.0%} of its inner signals z, and all of "
            f"them at {measures['floor_pixel_fraction']:.0%} of the positions."
        )
    if cut is not None:
        sentences.append(_cut_in_words(cut))
    return " ".join(sentences)


def exactness(record: GateRecord) -> list[str]:
    """What is exactly zero, what is not, and what prosma-exact changes: one line each."""
    lines = []
    skips = record.skips.values()
    if record.gate == "none":
        lines.append("This model has no gates: every skip passes whole, so there is no mask to show.")
    elif any(skip.zero_fraction is not None for skip in skips):
        lines.append("Exactly zero: z, the gate's inner signal, wherever its threshold cut it (zeros in z).")
    else:
        lines.append(f"Exactly zero: nothing; the gate '{record.gate}' has no threshold.")
    floors = {level: skip.floor for level, skip in record.skips.items() if skip.floor is not None}
    if record.gate == "prosma-exact":
        lines.append("prosma-exact: psi is exactly zero where z is empty, so there the skip itself is cut.")
        return lines
    if floors and record.gate != "dense":
        told = ", ".join(f"{floor:.2f}" for _, floor in sorted(floors.items()))
        lines.append(
            "Not zero: psi, the mask that multiplies the skip; where z is empty it stands at the gate floor "
            f"({told}, finest skip first) and that share passes."
        )
        lines.append("Only a model with the gate prosma-exact has psi exactly zero there.")
    return lines


def effect_in_words(effect: Effect, dice_before: float | None) -> str:
    """What came of a what-if: Dice against the label, or overlap with the model's own result."""
    dice = None if effect.dice is None else effect.dice.get("dice")
    if effect.is_empty:
        moved = small_in_words(effect.moved)
        found = f"nothing is found either way; the probabilities move by {moved} on average"
    elif dice is not None and dice_before is not None:
        found = f"Dice against the label {dice_before:.3f} → {dice:.3f}"
    else:
        found = f"overlap with the model's own result {effect.agreement:.3f}"
    took = f"{1000 * effect.seconds:.0f} ms" if effect.seconds < 1 else f"{effect.seconds:.0f} s"
    return f"{found} ({took})"


def table_of_measures(records: Mapping[str, GateRecord]) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and what each row means: a row per measure, a column per model and skip."""
    columns = [
        (f"{level} {name}".strip(), skip.measures)
        for name, record in records.items()
        for level, skip in sorted(record.skips.items())
    ]
    known = [name for name in MEASURES if any(name in measures for _, measures in columns)]
    rows = []
    for name in known:
        words, factor, _ = MEASURES[name]
        digits = 1 if factor == 100 else 2
        rows.append([words, *(f"{m[name] * factor:.{digits}f}" if name in m else "" for _, m in columns)])
    return ["skip", *(title for title, _ in columns)], rows, [MEASURES[name][2] for name in known]


def _ratio_in_words(ratio: float) -> str:
    if ratio >= 1.05:
        return f"{ratio:.1f} x as much inside as outside"
    if ratio <= 0.95:
        return f"only {ratio:.1f} x as much inside as outside"
    return "as much inside as outside"


def _cut_in_words(cut: Cut) -> str:
    if cut.is_empty:
        return (
            "Nothing is found here with this skip or without it; without it the probabilities move by "
            f"{small_in_words(cut.moved)} on average."
        )
    told = f"It mattered {matters_in_words(cut)}"
    if cut.agreement >= HARDLY:
        told = "It hardly mattered"
    if cut.dice is not None and cut.dice_before is not None:
        return f"{told}: without it Dice goes from {cut.dice_before:.2f} to {cut.dice:.2f}."
    return f"{told}: without it the result overlaps the model's own by {cut.agreement:.0%}."
