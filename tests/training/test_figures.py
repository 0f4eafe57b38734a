"""Validation figures: what is counted, what is not, and that no empty or full model is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_prosma.data.labels import IGNORE
from napari_prosma.data.metrics import Overlap, overlaps_of
from napari_prosma.training.figures import validation_figures

NAMES = ("background", "liver", "tumour")


def disc(radius: int, at: int = 16) -> np.ndarray:
    y, x = np.ogrid[:32, :32]
    return ((y - at) ** 2 + (x - 16) ** 2 < radius**2).astype(np.uint8)


def figures(labels: list[np.ndarray], predictions: list[np.ndarray], names: tuple[str, ...]) -> dict:
    pairs = enumerate(zip(predictions, labels, strict=True))
    return validation_figures([o for n, (p, t) in pairs for o in overlaps_of(f"case {n}", p, t, names)])


def test_overlaps_count_what_was_labelled() -> None:
    label = np.array([1, 1, 2, 0, IGNORE, IGNORE])
    predicted = np.array([1, 2, 2, 1, 1, 2])
    assert overlaps_of("a", predicted, label, NAMES) == [
        Overlap("a", "liver", 2, 2, 1),
        Overlap("a", "tumour", 1, 2, 1),
    ]
    assert overlaps_of("a", predicted, np.full(6, IGNORE), NAMES) == []


def test_dice_is_over_the_cases_that_have_the_structure_and_the_others_count_apart() -> None:
    empty = np.zeros((32, 32), np.uint8)
    found = figures(
        [disc(8), empty, empty, empty], [disc(8), empty, empty, disc(3)], ("background", "lesion")
    )
    assert found["dice/lesion"] == found["dice"] == 1
    assert found["empty/lesion"] == pytest.approx(2 / 3)
    assert found["score"] == 0.5  # 1, and 0 for what was found where nothing is


def test_classes_count_alike_however_many_cases_hold_them() -> None:
    overlaps = [Overlap(f"{n}", "liver", 10, 10, 10) for n in range(9)] + [Overlap("0", "tumour", 4, 4, 2)]
    found = validation_figures(overlaps)
    assert (found["dice/liver"], found["dice/tumour"], found["dice"]) == (1, 0.5, 0.75)


def test_neither_a_model_that_finds_nothing_nor_one_that_finds_all_of_it_is_chosen() -> None:
    """Six cases of which three have no structure: a poor model that does find some of it must win."""
    empty, full = np.zeros((32, 32), np.uint8), np.ones((32, 32), np.uint8)
    labels = [disc(5), disc(6), disc(7), empty, empty, empty]
    poor = [disc(5, 20), disc(6, 20), disc(7, 20), empty, empty, disc(2)]
    scores = {
        name: figures(labels, predictions, ("background", "lesion"))["score"]
        for name, predictions in (("nothing", [empty] * 6), ("all", [full] * 6), ("poor", poor))
    }
    assert scores["nothing"] == 0
    assert scores["all"] < 0.1
    assert scores["poor"] > 0.25


def test_the_smallest_third_is_told_apart_where_there_are_enough() -> None:
    sizes = (5, 6, 100, 110, 120, 130)
    overlaps = [Overlap(f"{n}", "lesion", size, size, size * (size > 10)) for n, size in enumerate(sizes)]
    found = validation_figures(overlaps)
    assert found["dice small/lesion"] == 0
    assert found["dice/lesion"] == pytest.approx(4 / 6)
    assert "dice small/lesion" not in validation_figures(overlaps[:5])


def test_cases_without_any_structure_have_no_dice() -> None:
    empty = np.zeros((32, 32), np.uint8)
    found = figures([empty], [empty], ("background", "lesion"))
    assert math.isnan(found["dice"])
    assert found["score"] == 0
    assert found["empty/lesion"] == 1
