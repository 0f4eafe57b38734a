"""What is said of one image, in panel and shell: of every skip, and what its selection is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_prosma.data.labels import is_foreground
from napari_prosma.data.metrics import in_percent
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.measures import in_digits
from napari_prosma.inspection.record import OF_THE_FIRST

if TYPE_CHECKING:
    from napari_prosma.inspection.record import GateRecord, SkipRecord
    from napari_prosma.inspection.what_if import WhatIf

SELECTION, SKIP = "selection", "skip"
_NO_EVIDENCE = {
    "prediction": "This is the model's own prediction, to which psi contributes, so it is not evidence.",
    OF_THE_FIRST: "So this is agreement with another model, not evidence.",
}
"""What has to be known where the structure is a prediction, by whose it is."""
ALONE = "One image proves nothing about others."
FEW_ERRORS = 10
"""Positions of either kind below which an AUC is a matter of luck: its spread is then about .1 or more."""


@dataclass(frozen=True, eq=False)
class Tried:
    """The window with a mean in place of what one skip selects, or of the whole skip."""

    difference: np.ndarray  # (*window) in [0, 1]: how far the probabilities moved
    geometry: Geometry  # of the window
    agreement: float  # Dice of the result with and without it
    is_empty: bool  # no structure is found in the window, with it or without
    # dice, dice_before: against the label, without and with it, where it shows a structure.
    dice: float | None = None
    dice_before: float | None = None
    window: str = ""  # which part of the image that is, empty for all of it

    @property
    def moved(self) -> float:
        """Mean of ``difference``."""
        return float(self.difference.mean())

    @property
    def worth(self) -> float | None:
        """Dice that is lost with the mean; None without a structure in a label."""
        return None if self.dice is None or self.dice_before is None else self.dice_before - self.dice


def try_means(what_if: WhatIf, record: GateRecord) -> Iterator[Event]:
    """The spatial selection of each skip at its mean, then the whole skip; the means are the image's.

    Ends in ``Finished`` with what was tried, by level and kind (``SELECTION``, ``SKIP``).
    """
    from napari_prosma.nn.gates import Change  # what panels import is there before torch

    window = what_if.window
    before = (what_if.unchanged.dice or {}).get("dice")
    tried: dict[int, dict[str, Tried]] = {}
    yield Started(len(record.skips), "Trying what the selection is worth")
    for level, skip in record.skips.items():
        changes = {SKIP: Change(skip=skip.means.skip)}
        if skip.means.psi is not None:
            changes = {SELECTION: Change(psi=skip.means.psi), **changes}
        tried[level] = {}
        for what, change in changes.items():
            effect = what_if.apply({level: change})
            tried[level][what] = Tried(
                effect.difference,
                effect.record.image.geometry,
                effect.agreement,
                effect.is_empty,
                (effect.dice or {}).get("dice"),
                before,
                "" if window.covers_image else window.in_words(),
            )
        yield Progress(len(tried), len(record.skips), f"skip {level}")
    what_if.apply({})
    yield Finished(tried)


def sentence_of(
    record: GateRecord,
    tried: Mapping[int, Mapping[str, Tried]],
    level: int,
    first: GateRecord | None = None,
) -> str:
    """What is said of a skip that was inspected, of a model that may stand beside a ``first`` one."""
    classes = len(record.segmentation.class_names) - 1
    # Without a label both were measured against what the first one predicts.
    predicted = (record if first is None else first).segmentation.labels
    foreground = predicted if record.label is None else record.label
    return skip_in_words(record.skips[level], record.reference, tried[level], classes, foreground)


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
    has_gate = skip.psi is not None or skip.channel is not None
    selects = (
        f"selectivity {selected}; a constant per channel explains the rest of the gated skip"
        if has_gate
        else "no gate, so the whole skip passes"
    )
    sentences = [f"Skip {skip.level}, positions of {positions_in_words(skip.geometry)}: {selects}."]
    inside = measures.get("relative_energy_inside")
    if inside is not None:
        sentences.append(f"Inside {structure} ({reference}) psi passes {_relative_in_words(inside)}.")
        if reference in _NO_EVIDENCE:
            sentences.append(_NO_EVIDENCE[reference])
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
    return " ".join([*sentences, _tried_in_words(tried)] if tried else sentences)


def numbers_of(
    record: GateRecord, tried: Mapping[int, Mapping[str, Tried]], first: GateRecord | None = None
) -> dict[str, Any]:
    """What the sentences say of every skip, and the numbers of what was tried, for the JSON."""
    return {
        "sentences": {str(level): sentence_of(record, tried, level, first) for level in record.skips},
        "tried": {
            str(level): {
                what: {
                    name: getattr(each, name)
                    for name in ("moved", "agreement", "dice", "dice_before", "worth", "is_empty", "window")
                }
                for what, each in of_skip.items()
            }
            for level, of_skip in tried.items()
        },
        "means": {str(level): asdict(skip.means) for level, skip in record.skips.items()},
        "errors": {
            str(level): dict(zip(("missed", "added"), counts, strict=True))
            for level, skip in record.skips.items()
            if (counts := _errors(skip)) is not None
        },
    }


def positions_in_words(geometry: Geometry) -> str:
    """How large the positions of a skip are, such as ``6 x 6 x 3 mm (z, y, x)``."""
    axes = [n for n, axis in enumerate(geometry.axes) if axis != "t"]
    unit = geometry.unit if geometry.unit != "pixel" else "pixels" if len(axes) == 2 else "voxels"
    named = f" ({', '.join(geometry.axes[n] for n in axes)})" if len(axes) > 2 else ""
    return f"{' x '.join(f'{geometry.spacing[n]:.4g}' for n in axes)} {unit}{named}"


def small_in_words(value: float) -> str:
    """A share that may be tiny, to three decimals."""
    return "less than 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


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


def _tried_in_words(tried: Mapping[str, Tried]) -> str:
    """How the prediction changes with means in place of what is selected, and where that was tried."""
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
    return f"In one window ({place}), {words}." if place else f"{words[0].upper()}{words[1:]}."
