"""Tables and pictures of an ``Evaluation``. Figures are made without pyplot, so in any thread."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.names import in_plot
from napari_prosma.data.texts import write_rows
from napari_prosma.segmentation.evaluate import CaseMeasures, Evaluation
from napari_prosma.segmentation.measures import MEASURES

_COLOUR, _DOT = "#4ea8de", "#1d3557"


def measure_rows(evaluation: Evaluation) -> list[dict[str, str | float]]:
    """A row per case and class, worst cases first, then what was not measured, and why."""
    rows: list[dict[str, str | float]] = []
    for case in evaluation.cases:
        unit = _unit_in_words(case)
        columns = {
            key: _column(key) + each.suffix(unit, evaluation.tolerance) for key, each in MEASURES.items()
        }
        for name, figures in case.classes.items():
            rows.append(
                {
                    "case": case.pair.name,
                    "class": name,
                    **{columns[key]: value for key, value in figures.items()},
                    "prediction": str(case.pair.predicted.files[0]) if case.pair.predicted.files else "",
                    "truth": str(case.pair.truth.files[-1]) if case.pair.truth.files else "",
                }
            )
    return rows + [{"case": name, "error": why} for name, why in evaluation.left_out.items()]


def summary_rows(evaluation: Evaluation) -> list[dict[str, str | float]]:
    """A row per class: what each measure sums up over the cases, and in how many one file only has the class.

    In a time series that is so if it is at some moment. In how many neither file has it, which counts as
    perfect, is a column where there are any.
    """
    rows: list[dict[str, str | float]] = []
    units = _units(evaluation)
    in_neither = {name: evaluation.in_neither(name) for name in evaluation.class_names}
    for name in evaluation.class_names:
        each = [case.classes[name] for case in evaluation.cases]
        row: dict[str, str | float] = {"class": name, "cases": len(each)}
        for key, measure in MEASURES.items():
            values = np.array([figures[key] for figures in each])
            unit = f" ({units})" if measure.is_distance else ""
            for summary, summarise in measure.all_summaries.items():
                row[f"{summary} {_column(key)}{unit}"] = summarise(values)
        row["in one only"] = sum(
            case.held_by.get(name) == 1 or any(map(math.isinf, case.classes[name].values()))
            for case in evaluation.cases
        )
        if any(in_neither.values()):
            row["in neither"] = in_neither[name]
        rows.append(row)
    return rows


FILES = ("measures.csv", "summary.csv", "boxes.png")
"""What :func:`write_evaluation` writes."""


def box_plots(evaluation: Evaluation) -> Figure:
    """A box per class for each measure, a dot per case; infinite distances are counted above."""
    units = _units(evaluation)
    names = evaluation.class_names
    count = len(MEASURES)
    figure = Figure(figsize=(2.2 + count * max(1.6, 0.55 * len(names)), 3.6), layout="constrained")
    for axes, (key, measure) in zip(figure.subplots(1, count), MEASURES.items(), strict=True):
        title = measure.label + measure.suffix(units, evaluation.tolerance)
        values = [[case.classes[name][key] for case in evaluation.cases] for name in names]
        finite = [[value for value in column if np.isfinite(value)] for column in values]
        axes.boxplot(
            finite,
            tick_labels=[in_plot(name) for name in names],
            showfliers=False,
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": _COLOUR, "alpha": 0.5},
            medianprops={"color": _DOT},
        )
        for place, column in enumerate(finite, 1):
            # Spread evenly, in the order of the cases: the same picture every time.
            across = np.linspace(-0.18, 0.18, len(column)) if len(column) > 1 else np.zeros(len(column))
            axes.plot(place + across, column, ".", color=_DOT, markersize=3, alpha=0.6)
        infinite = sum(np.isinf(column).sum() for column in values)
        axes.set_title(f"{title}\n{infinite} infinite" if infinite else title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", labelrotation=30 if max(map(len, names)) > 8 or len(names) > 4 else 0)
        if measure.is_distance:
            axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
        else:
            axes.set_ylim(-0.03, 1.03)
    figure.suptitle(f"{len(evaluation.cases)} cases", fontsize=10)
    return figure


def write_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """``measures.csv`` (a row per case and class), ``summary.csv`` (a row per class) and ``boxes.png``."""
    measures, summary, boxes = (folder / name for name in FILES)
    write_rows(measures, measure_rows(evaluation))
    write_rows(summary, summary_rows(evaluation))
    with written_whole(boxes) as temporary:
        box_plots(evaluation).savefig(temporary, dpi=130, format="png")
    return [measures, summary, boxes]


def _unit_in_words(case: CaseMeasures) -> str:
    return "mm" if case.unit == "mm" else "pixels"


def _units(evaluation: Evaluation) -> str:
    return " or ".join(sorted({_unit_in_words(case) for case in evaluation.cases}))


def _column(key: str) -> str:
    return key.replace("_", " ")
