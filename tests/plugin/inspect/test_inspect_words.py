"""What the panel says of a skip and of a what-if: for each kind of numbers the sentence that is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_prosma.geometry import Geometry
from napari_prosma.inspection.faithfulness import TESTS
from napari_prosma.inspection.measures import MEASURES
from napari_prosma.inspection.one_image import SELECTION, SKIP, Tried, sentence_of, skip_in_words
from napari_prosma.inspection.readout import Readout
from napari_prosma.inspection.record import Means, SkipRecord
from napari_prosma.plugin.inspect.pointer import in_words
from napari_prosma.plugin.inspect.trials import TRIALS
from napari_prosma.plugin.inspect.words import (
    effect_in_words,
    exactness,
    worth_in_words,
)

MAP = np.ones((4, 4), np.float32)
WHERE = "32 x 48 x 32 of 33 x 53 x 37"


def skip(psi: bool = True, factor: int = 1, **measures: float) -> SkipRecord:
    kept = Means(0.5 if psi else None, None, (0.0,))
    return SkipRecord(
        level=1,
        factor=factor,
        geometry=Geometry.pixels(2),
        energy=MAP,
        energy_kept=MAP,
        selectivity=0.0,
        means=kept,
        psi=MAP if psi else None,
        channel=MAP[0],
        measures={"selectivity": 0.0, **measures},
    )


def tried(moved: float = 0.2, empty: bool = False, window: str = "", **dice: float) -> Tried:
    return Tried(moved * MAP, Geometry.pixels(2), 0.9, empty, **dice, window=window)


SELECTS = (
    "Skip 1, positions of 1 x 1 pixels: selectivity 0.0 %; a constant per channel explains the rest of the "
    "gated skip."
)

SAID: list[tuple[str, SkipRecord, str, dict[str, Tried], str]] = [
    (
        "a gate that only scales has no mask to compare",
        skip(psi=False),
        "label",
        {},
        f"{SELECTS}",
    ),
    (
        "a skip without a gate",
        replace(skip(psi=False), channel=None),
        "label",
        {},
        "Skip 1, positions of 1 x 1 pixels: no gate, so the whole skip passes.",
    ),
    (
        "a mask without a structure",
        skip(factor=2),
        "prediction",
        {},
        f"{SELECTS} There is no structure to compare psi with.",
    ),
    (
        "a structure that fills the image",
        replace(skip(), inside=MAP > 0, outside=MAP < 0),
        "label",
        {},
        f"{SELECTS} There is no background to compare psi with.",
    ),
    (
        "a structure in which the skip is zero",
        replace(skip(), inside=np.eye(4) > 0, outside=np.eye(4) == 0),
        "label",
        {},
        f"{SELECTS} The skip is zero in the structure, so there is nothing to compare psi with.",
    ),
    (
        "about as on average",
        skip(relative_energy_inside=0.96),
        "label",
        {},
        f"{SELECTS} Inside the structure (label) psi passes as much as on average.",
    ),
    (
        "a label is no agreement with itself",
        skip(relative_energy_inside=2.04, psi_auc_in_errors=0.314),
        "label",
        {},
        f"{SELECTS} Inside the structure (label) psi passes 2.0 x as much as on "
        "average. Among the positions where the model confuses the structure and background, psi ranks "
        "the structure above background with an AUC of 0.31 (0.5 = chance).",
    ),
    (
        "an AUC of a few positions",
        replace(skip(psi_auc_in_errors=0.0), inside=MAP > 0, wrong=MAP > 0),
        "label",
        {},
        f"{SELECTS} There is no background to compare psi with. Among the 16 "
        "positions (16 missed, 0 added) where the model confuses the structure and background, psi ranks the "
        "structure above background with an AUC of 0.00 (0.5 = chance); so few positions say little.",
    ),
    (
        "a prediction is",
        skip(relative_energy_inside=0.071),
        "prediction",
        {},
        f"{SELECTS} Inside the structure (prediction) psi passes 0.071 x what it "
        "passes on average. This is the model's own prediction, to which psi contributes, so it is not "
        "evidence.",
    ),
    (
        "nearly as on average",
        skip(relative_energy_inside=1.004),
        "label",
        {},
        f"{SELECTS} Inside the structure (label) psi passes as much as on average.",
    ),
    (
        "zeros of z are none of the skip",
        skip(psi=False, z_zero_fraction=0.53, floor_pixel_fraction=0.051),
        "label",
        {},
        f"{SELECTS} The threshold sets 53 % of the inner signals z to "
        "zero; 5.1 % of the positions are without evidence (all of z is zero).",
    ),
    (
        "with a label the loss is told",
        skip(psi=False),
        "label",
        {SELECTION: tried(dice=0.7, dice_before=0.812), SKIP: tried(dice=0.1, dice_before=0.812)},
        f"{SELECTS} With psi at its mean Dice changes from 0.81 to 0.70; with the "
        f"whole skip at its channel means Dice changes from 0.81 to 0.10.",
    ),
    (
        "without one only what stays, in one window of many",
        skip(psi=False),
        "prediction",
        {SKIP: tried(window=WHERE)},
        f"{SELECTS} In one window ({WHERE}), with the whole skip at its channel "
        f"means the overlap (Dice) with the unchanged prediction is 0.90.",
    ),
    (
        "nothing found either way is no overlap of 1",
        skip(psi=False),
        "label",
        {SELECTION: tried(0.0001, empty=True, dice=1.0, dice_before=1.0)},
        f"{SELECTS} With psi at its mean nothing is segmented either way; the "
        f"probabilities change by less than 0.001 on average.",
    ),
]


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        (Geometry((4.0, 4.0), (0.0, 0.0)), "4 x 4 pixels"),  # of an image that was shrunk to a quarter
        (Geometry((3.0, 6.0, 6.0), (0.0,) * 3, "mm"), "3 x 6 x 6 mm (z, y, x)"),  # a 2D network over a volume
        (Geometry((1.0, 2.0, 2.0), (0.0,) * 3, "pixel", ("t", "y", "x")), "2 x 2 pixels"),
        (Geometry((1200.0, 1200.0), (0.0, 0.0), "um"), "1200 x 1200 um"),
        (Geometry((1.0, 2.0, 2.0), (0.0,) * 3), "1 x 2 x 2 voxels (z, y, x)"),
    ],
)
def test_positions_of_a_skip_are_as_large_as_they_are_along_every_axis(geometry: Geometry, said: str) -> None:
    assert f"positions of {said}:" in skip_in_words(replace(skip(), geometry=geometry), "label", {})


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("of_the_label", [True, False])
def test_a_structure_too_small_for_the_grid_is_not_called_missing(of_the_label: bool, factor: int) -> None:
    """The image's own grid says whether there is one; a class that nobody decided (255) is none."""
    record = replace(skip(factor=factor), inside=MAP < 0, outside=MAP > 0)
    empty = np.zeros((16, 16), np.uint8)
    empty[0] = 255
    small = empty.copy()
    small[3, 3] = 1
    for foreground, right in (
        (empty, "There is no structure to compare psi with."),
        (
            small,
            "No position of this skip lies mostly in the structure, so there is nothing to compare psi with.",
        ),
    ):
        label, predicted = (foreground, 1 - foreground) if of_the_label else (None, foreground)
        inspected: Any = SimpleNamespace(
            skips={1: record},
            reference="label" if of_the_label else "prediction",
            label=label,
            segmentation=SimpleNamespace(class_names=("background", "structure"), labels=predicted),
        )
        assert sentence_of(inspected, {1: {}}, 1).endswith(f"{SELECTS} {right}")


def test_several_classes_are_one_foreground_here() -> None:
    said = skip_in_words(skip(relative_energy_inside=2.0), "label", {}, classes=2)
    assert "Inside the 2 structures together (label) psi passes 2.0 x" in said


@pytest.mark.parametrize(
    ("record", "reference", "means", "right"), [s[1:] for s in SAID], ids=[s[0] for s in SAID]
)
def test_the_sentence_of_a_skip_is_right(
    record: SkipRecord, reference: str, means: dict[str, Tried], right: str
) -> None:
    assert skip_in_words(record, reference, means) == right


@pytest.mark.parametrize(
    ("means", "right"),
    [
        ({}, "selects no positions"),
        ({SELECTION: tried(0.0304, empty=True)}, "none found, |dp| 0.030"),
        ({SELECTION: tried(dice=0.7, dice_before=0.8)}, "+0.10"),
        ({SELECTION: tried(dice=0.8, dice_before=0.7)}, "-0.10"),
        ({SELECTION: tried(dice=0.804, dice_before=0.803)}, "+0.00"),  # never -0.00
        ({SELECTION: tried()}, "overlap 0.90"),
    ],
)
def test_what_selecting_is_worth_fits_a_cell(means: dict[str, Tried], right: str) -> None:
    assert worth_in_words(means) == right


def effect(**values: Any) -> Any:
    return SimpleNamespace(
        **{"dice": None, "is_empty": False, "moved": 0.0, "agreement": 0.5, "seconds": 0.2} | values
    )


@pytest.mark.parametrize(
    ("came", "before", "right"),
    [
        (effect(dice={"dice": 0.4}), 0.8, "Dice against the label 0.800 → 0.400 (200 ms)"),
        (effect(), None, "overlap (Dice) with the unchanged prediction 0.500 (200 ms)"),
        (
            effect(dice={}),
            0.8,
            "overlap (Dice) with the unchanged prediction 0.500 (200 ms)",
        ),  # nothing labelled
        (
            effect(is_empty=True, dice={"dice": 1.0}, moved=0.25, seconds=3.2),
            1.0,
            "nothing is segmented either way; the probabilities change by 0.250 on average (3 s)",
        ),
    ],
)
def test_what_came_of_a_what_if_is_told_against_what_it_is_measured(
    came: Any, before: float | None, right: str
) -> None:
    assert effect_in_words(came, before) == right


@pytest.mark.parametrize("name", list(MEASURES))
@pytest.mark.parametrize("value", [0.0, 0.0004, 0.5, 1.0])
def test_no_measure_is_told_as_nothing_but_zero_itself(name: str, value: float) -> None:
    """A ratio of 0.0004 is not ``0.0 x``."""
    if MEASURES[name].unit == "x":
        assert (float(MEASURES[name].text(value)) == 0) == (value == 0)


def test_a_faithfulness_test_has_the_same_name_on_its_button_its_plot_and_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "inspect.md").read_text(encoding="utf-8")
    assert TRIALS.keys() == TESTS.keys()
    for test, title in TESTS.items():
        name = test.replace("_", " ")
        assert TRIALS[test][0].lower() == name
        assert title.lower().startswith(f"{name}: ")
        assert f"| {name} |" in page


@pytest.mark.parametrize(
    ("gate", "floored"),
    [
        (
            "prosma",
            "equals the gate floor (0.45, finest skip first), times c, so the skip is attenuated, not cut.",
        ),
        ("spatial", "equals the gate floor (0.45, finest skip first), so the skip is attenuated, not cut."),
    ],
)
def test_what_passes_at_the_floor_is_not_the_floor_alone(gate: str, floored: str) -> None:
    record: Any = SimpleNamespace(gate=gate, skips={1: replace(skip(), floor=0.45)})
    assert floored in " ".join(exactness(record))


@pytest.mark.parametrize(
    ("psi", "empty", "said"),
    [
        (0.61, True, "psi 0.61 = gate floor, no evidence,"),
        (0.64, True, "psi 0.64, no evidence,"),  # as What if puts it
        (0.61, False, "psi 0.61,"),
    ],
)
def test_a_floor_is_told_only_where_psi_stands_at_it(psi: float, empty: bool, said: str) -> None:
    found = Readout(1, (0, 0), 0.1, psi=psi, floor=0.61, without_evidence=empty)
    assert f"skip 1: {said} energy kept" in in_words(found)
