"""Tables and the picture of an evaluation."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_prosma.data.case import Case
from napari_prosma.segmentation.evaluate import CaseMeasures, Evaluation
from napari_prosma.segmentation.evaluation_report import (
    box_plots,
    measure_rows,
    summary_rows,
    write_evaluation,
)
from napari_prosma.segmentation.measures import MEASURES
from napari_prosma.segmentation.pairs import Pair

NAN, INF = math.nan, math.inf


def figures(*values: float) -> dict[str, float]:
    return dict(zip(MEASURES, values, strict=True))


def case(name: str, unit: str = "mm", **classes: dict[str, float]) -> CaseMeasures:
    array = np.zeros((1, 2, 2))
    held = Case.from_arrays(name, array, array[0])
    files = Case(name, held.read_image, held.read_label, (Path("image.png"), Path("true.png")))
    return CaseMeasures(Pair(name, held, files), unit, classes)


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        cases=(
            case("worst", a=figures(0, 0, 0, INF), b=figures(0.5, 0.4, NAN, NAN)),
            case("best", a=figures(1, 1, 1, 0), b=figures(0.9, 0.8, 0.7, 2)),
        ),
        class_names=("a", "b"),
        tolerance=1.5,
        failed={"broken": "its file is damaged"},
        unpaired={"missing": "no prediction"},
    )


def test_a_row_per_case_and_class_then_what_failed(evaluation: Evaluation) -> None:
    rows = measure_rows(evaluation)
    assert [(row["case"], row.get("class")) for row in rows] == [
        ("worst", "a"),
        ("worst", "b"),
        ("best", "a"),
        ("best", "b"),
        ("broken", None),
        ("missing", None),
    ]
    assert rows[3] == {
        "case": "best",
        "class": "b",
        "dice": 0.9,
        "iou": 0.8,
        "surface dice (1.5 mm)": 0.7,
        "hd95 (mm)": 2,
        "prediction": "",
        "truth": "true.png",
    }
    assert rows[4] == {"case": "broken", "error": "its file is damaged"}


def test_a_summary_per_class_leaves_out_nan_and_counts_the_infinite(evaluation: Evaluation) -> None:
    first, second = summary_rows(evaluation)
    assert first == {
        "class": "a",
        "cases": 2,
        "mean dice": 0.5,
        "median dice": 0.5,
        "lowest dice": 0,
        "mean iou": 0.5,
        "mean surface dice": 0.5,
        "median hd95 (mm)": 0,
        "in one only": 1,
    }
    assert (second["mean surface dice"], second["median hd95 (mm)"], second["in one only"]) == (0.7, 2, 0)
    unknown = [case(f"sparse {n}", a=figures(1, 1, NAN, NAN)) for n in range(3)]
    (only,) = summary_rows(Evaluation((evaluation.cases[1], *unknown), ("a",), 1.0))
    assert (only["mean surface dice"], only["median hd95 (mm)"]) == (1, 0)
    (none,) = summary_rows(Evaluation(tuple(unknown), ("a",), 1.0))
    assert math.isnan(none["median hd95 (mm)"])


def test_cases_without_the_class_are_counted_where_there_are_any(evaluation: Evaluation) -> None:
    absent = replace(case("absent", a=figures(1, 1, 1, 0)), held_by={"a": 0})
    missed = replace(case("missed", a=figures(0, 0, NAN, NAN)), held_by={"a": 1})  # partly unlabelled
    (row,) = summary_rows(Evaluation((evaluation.cases[1], absent, missed), ("a",), 1.0))
    assert (row["in one only"], row["in neither"]) == (1, 1)
    assert "in neither" not in summary_rows(evaluation)[0]


def test_small_distances_keep_their_digits() -> None:
    distance = MEASURES["hd95"]
    assert [distance.text(v) for v in (0.0, 0.0061, 0.25, 3.05, INF)] == ["0.0", "0.0061", "0.25", "3.0", "∞"]


def test_pixels_are_not_called_mm() -> None:
    measures = figures(1, 1, 1, 0)
    mixed = Evaluation((case("x", a=measures), case("y", "pixel", a=measures)), ("a",), 1.0)
    assert "hd95 (pixels)" in measure_rows(mixed)[1]
    assert "median hd95 (mm or pixels)" in summary_rows(mixed)[0]


def test_the_picture_has_a_box_per_class_and_a_dot_per_finite_value(evaluation: Evaluation) -> None:
    panels = box_plots(evaluation).axes
    assert [axes.get_title() for axes in panels] == [
        "Dice",
        "IoU",
        "surface Dice (1.5 mm)",
        "HD95 (mm)\n1 infinite",
    ]
    for axes in panels:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
        assert len(axes.patches) == 2
    dots = [[line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "."] for axes in panels]
    assert dots[0] == [[0, 1], [0.5, 0.9]]
    assert dots[3] == [[0], [2]]


def test_a_class_without_any_finite_distance_is_still_drawn() -> None:
    missed = Evaluation((case("x", a=figures(0, 0, 0, INF)),), ("a",), 1.0)
    last = box_plots(missed).axes[3]
    assert last.get_title().endswith("1 infinite")
    assert [label.get_text() for label in last.get_xticklabels()] == ["a"]


def test_everything_is_written(evaluation: Evaluation, tmp_path: Path) -> None:
    written = write_evaluation(evaluation, tmp_path / "out")
    assert [path.name for path in written] == ["measures.csv", "summary.csv", "boxes.png"]
    with open(written[0], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["hd95 (mm)"] == "inf"
    assert [row["error"] for row in rows[-2:]] == ["its file is damaged", "no prediction"]
    assert written[2].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in written)
