"""The verdict on a model: each situation with the words that are right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from napari_prosma.data.metrics import Overlap
from napari_prosma.events import EpochEnd, Verdict
from napari_prosma.training.verdict import verdict

MANY = {"liver": 50, "tumour": 50}
LARGE = {"liver": 0.1, "tumour": 0.02}


def overlaps(name: str, *pairs: tuple[int, float]) -> list[Overlap]:
    """One case each: size of the structure, and its Dice by a prediction of the same size."""
    return [
        Overlap(f"case {n}", name, size, size, round(size * dice)) for n, (size, dice) in enumerate(pairs)
    ]


def epochs(*dice: float) -> list[EpochEnd]:
    return [EpochEnd(n, 100, 0.5, 1e-3, 60.0, {"dice": d}) for n, d in enumerate(dice, start=1)]


def said(
    found: Sequence[Overlap],
    history: Sequence[EpochEnd] = (),
    epoch: int = 6,
    steps: int = 1000,
    with_class: dict[str, int] = MANY,
    shares: dict[str, float] = LARGE,
) -> Verdict:
    return verdict(epoch, found, history, with_class, shares, steps, 50)


GOOD = [(100, 0.9)] * 8


@pytest.mark.parametrize(
    ("found", "changes", "summary", "advice"),
    [
        (
            overlaps("liver", *[(100, 0.0)] * 8),
            {"epoch": 1, "steps": 20},
            "Finds nothing yet",
            "hardly begun",
        ),
        (overlaps("liver", *[(100, 0.0)] * 8), {"steps": 90}, "Finds nothing yet", "90 steps are too few"),
        (
            overlaps("liver", *GOOD) + overlaps("tumour", *[(9, 0.0)] * 3),
            {"with_class": {"liver": 50, "tumour": 2}},
            "Never finds tumour (3 validation cases hold it); finds liver with a mean Dice of 0.90",
            "tumour is in only 2 of 50 training cases",
        ),
        (
            overlaps("liver", *GOOD) + overlaps("tumour", (9, 0.0)),
            {"with_class": {"liver": 50, "tumour": 0}},
            "Never finds tumour (1 validation case holds it)",
            "in no training case",
        ),
        (
            overlaps("liver", *GOOD) + overlaps("tumour", *[(9, 0.0)] * 8),
            {"shares": {"liver": 0.1, "tumour": 0.0002}},
            "Never finds tumour",
            "covers 0.02 % of the labelled elements: choose class weights 'balanced'",
        ),
        (
            overlaps("tumour", *[(5, 0.0)] * 3, *[(500, 0.8)] * 6),
            {},
            "misses small tumour",
            "For small structures",
        ),
        (
            overlaps("liver", *GOOD),
            {"history": epochs(0.5, 0.6, 0.7, 0.75, 0.8, 0.85)},
            "still improving, by 0.10",
            "A longer run",
        ),
        (overlaps("liver", *GOOD), {"history": epochs(0.5, 0.8, 0.9, 0.9, 0.9, 0.9)}, "steady", None),
        (
            overlaps("liver", *GOOD),
            {"history": epochs(0.5, 0.8, 0.9, 0.9, 0.9, 0.8)},
            "its Dice fell by 0.10",
            None,
        ),
        (
            overlaps("liver", *GOOD),
            {"history": epochs(0.5, 0.8, 0.9, 0.9, 0.9, 0.8), "epoch": 4},
            "Finds liver with a mean Dice of 0.90; epoch 4 of 6 is kept",
            None,
        ),
        (
            overlaps("liver", (100, 0.9), (100, 0.9)),
            {},
            "measured on only 2 cases, which says little",
            "--folds",
        ),
        (
            [Overlap(f"{n}", "liver", 0, n % 2, 0) for n in range(8)],
            {},
            "No validation case contains a structure",
            "seed",
        ),
        (
            overlaps("liver", *GOOD) + [Overlap(f"normal {n}", "liver", 0, n < 2, 0) for n in range(24)],
            {},
            "finds no liver in 22 of 24 cases without it",
            None,
        ),
    ],
)
def test_every_situation_has_its_words(
    found: list[Overlap], changes: dict, summary: str, advice: str | None
) -> None:
    result = said(found, **changes)
    assert summary in result.summary
    if advice is None:
        assert result.advice == ()
    else:
        assert advice in " ".join(result.advice)


def test_a_class_that_is_never_found_is_told_within_three_epochs() -> None:
    found = overlaps("liver", *GOOD) + overlaps("tumour", *[(9, 0.0)] * 8)
    result = said(found, epoch=3, steps=60, with_class={"liver": 50, "tumour": 1})
    assert "Never finds tumour" in result.summary
    assert any("tumour" in line for line in result.advice)


def test_a_good_model_is_not_advised() -> None:
    result = said(overlaps("liver", *GOOD), epochs(0.9, 0.9, 0.9))
    assert result.summary == "Finds liver with a mean Dice of 0.90; steady"
    assert result.advice == ()
    assert result.in_words() == result.summary


def test_where_the_data_set_names_the_validation_cases_no_other_seed_is_advised() -> None:
    none = [Overlap("a", "liver", 0, 0, 0)]
    given = verdict(5, none, (), MANY, LARGE, 1000, 50, is_split_given=True)
    assert given.advice == ("Choose the split random (--split random), or annotate more cases",)
    never = overlaps("liver", *[(100, 0.0)] * 8)
    given = verdict(5, never, (), {"liver": 0}, LARGE, 1000, 50, is_split_given=True)
    assert given.advice == (
        "liver is in no training case: annotate it in some, or choose the split random (--split random)",
    )
