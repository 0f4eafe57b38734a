"""Tables and pictures of an ``Evaluation``. Figures are made without pyplot, so in any thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.names import in_plot
from napari_prosma.data.texts import write_rows
from napari_prosma.segmentation.evaluate import CaseMeasures, Evaluation

_COLOUR, _DOT = "#4ea8de", "#1d3557"


def measure_rows(evaluation: Evaluation) -> list[dict[str, str | float]]:
    """A row per case and class, worst cases first, then what was not measured, and why."""
    rows: list[dict[str, str | float]] = []
    for case in evaluation.cases:
        unit = _unit_in_words(case)
        for name, each in case.classes.items():
            rows.append(
                {
                    "case": case.pair.name,
                    "class": name,
                    "dice": each.dice,
                    "iou": each.iou,
                    f"surface dice ({evaluation.tolerance:g} {unit})": each.surface_dice,
                    f"hd95 ({unit})": each.hd95,
                    "prediction": str(case.pair.predicted.files[0]) if case.pair.predicted.files else "",
                    "truth": str(case.pair.truth.files[-1]) if case.pair.truth.files else "",
                }
            )
    return rows + [{"case": name, "error": why} for name, why in evaluation.left_out.items()]


def summary_rows(evaluation: Evaluation) -> list[dict[str, str | float]]:
    """A row per class: means over the cases, the median of HD95, and in how many cases it is infinite."""
    rows: list[dict[str, str | float]] = []
    for name in evaluation.class_names:
        each = [case.classes[name] for case in evaluation.cases]
        hd95 = np.array([m.hd95 for m in each])
        units = " or ".join(sorted({_unit_in_words(case) for case in evaluation.cases}))
        rows.append(
            {
                "class": name,
                "cases": len(each),
                "mean dice": float(np.mean([m.dice for m in each])),
                "median dice": float(np.median([m.dice for m in each])),
                "lowest dice": min(m.dice for m in each),
                "mean iou": float(np.mean([m.iou for m in each])),
                "mean surface dice": _mean_of_numbers([m.surface_dice for m in each]),
                f"median hd95 ({units})": _median_of_numbers(hd95),
                "in one only": int(np.isinf(hd95).sum()),
            }
        )
    return rows


FILES = ("measures.csv", "summary.csv", "boxes.png")
"""What :func:`write_evaluation` writes."""


def box_plots(evaluation: Evaluation) -> Figure:
    """A box per class for each of the four measures, a dot per case; infinite distances are counted above."""
    units = " or ".join(sorted({_unit_in_words(case) for case in evaluation.cases}))
    panels = {
        "dice": "Dice",
        "iou": "IoU",
        "surface_dice": f"surface Dice ({evaluation.tolerance:g} {units})",
        "hd95": f"HD95 ({units})",
    }
    names = evaluation.class_names
    figure = Figure(figsize=(2.2 + 4 * max(1.6, 0.55 * len(names)), 3.6), layout="constrained")
    for axes, (measure_name, title) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        values = [[getattr(case.classes[name], measure_name) for case in evaluation.cases] for name in names]
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
        if measure_name == "hd95":
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


def _mean_of_numbers(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _median_of_numbers(values: np.ndarray) -> float:
    known = np.sort(values[~np.isnan(values)])
    # The lower of the two in the middle: between a number and infinity there is no mean.
    return float(known[(len(known) - 1) // 2]) if len(known) else float("nan")
