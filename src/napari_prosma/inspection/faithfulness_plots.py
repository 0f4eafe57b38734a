"""Plots of the tests of ``faithfulness``. Figures are made without pyplot, so in any thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from napari_prosma.data.names import in_plot
from napari_prosma.inspection.faithfulness import (
    ALL_SKIPS,
    ANOTHER,
    CONTROLS,
    PARTS,
    TESTS,
    Row,
    having_structure,
)
from napari_prosma.inspection.noise import IN_WORDS

_COLOURS = ("#3b6ea5", "#e09f3e", "#8a5a83", "#2a9d8f", "#c1121f", "#555555", "#8ab17d")


def table_figure(test: str, rows: Sequence[Row]) -> Figure:
    """Plot of the rows of one test (a key of ``TESTS``), of one image or of many.

    Means over images and seeds; bars and bands are standard deviations. Images in which nothing can be lost
    are drawn only where there are no others.
    """
    rows = having_structure(rows) or rows
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    _DRAWN[test](figure, rows)
    images, labelled = (len({row["image"] for row in rows if name in row}) for name in ("image", "dice"))
    number = f"{images} images, {labelled} with a label" if 0 < labelled < images else f"{images} images"
    figure.suptitle(f"{TESTS[test]} ({number})" if images > 1 else TESTS[test], fontsize=10)
    return figure


def _score_of(rows: Sequence[Row]) -> tuple[str, str]:
    """The figure that says how good a segmentation is, and its name on an axis."""
    if any("dice" in row for row in rows):
        return "dice", "Dice against the label"
    return "agreement", "Dice against the unchanged prediction"


def _gathered(rows: Sequence[Row], by: str, value: str) -> tuple[list, np.ndarray, np.ndarray]:
    """Values of ``by`` in order, with the mean and the spread of ``value`` over their rows."""
    held: dict = {}
    for row in rows:
        if value in row:
            held.setdefault(row[by], []).append(float(row[value]))
    at = sorted(held)
    return at, np.array([np.mean(held[x]) for x in at]), np.array([np.std(held[x]) for x in at])


def _line(
    axes: Axes, rows: Sequence[Row], by: str, value: str, label: str, colour: str, band: bool = True
) -> None:
    at, mean, spread = _gathered(rows, by, value)
    if at:
        axes.plot(at, mean, "o-", color=colour, label=label, markersize=3, linewidth=1.4)
        if band:
            axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)


def _finish(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


def _values(rows: Sequence[Row], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))


def _draw_leave_one_out(figure: Figure, rows: Sequence[Row]) -> None:
    left, right = figure.subplots(1, 2)
    parts = [part for part in PARTS if part in _values(rows, "part")]
    drop = "worth" if any("worth" in row for row in rows) else "agreement"
    width = 0.84 / len(parts)
    skips = sorted(_values(rows, "skip"))
    for n, part in enumerate(parts):
        own = [row for row in rows if row["part"] == part]
        for axes, value in ((left, "effect"), (right, drop)):
            at, mean, spread = _gathered(own, "skip", value)
            place = np.array(at) + (n - (len(parts) - 1) / 2) * width
            several = spread if spread.any() else None
            axes.bar(place, mean, width, yerr=several, color=_COLOURS[n], label=PARTS[part])
    for axes in (left, right):
        axes.set_xticks(skips, ["all" if k == ALL_SKIPS else f"skip {k}" for k in skips])
    _finish(left, "1 = finest", "mean change of the probabilities")
    words = "Dice lost" if drop == "worth" else "Dice against the unchanged prediction"
    _finish(right, "1 = finest", words, legend=False)
    right.axhline(0, color="0.4", linewidth=0.6)


def _draw_deletion_curve(figure: Figure, rows: Sequence[Row]) -> None:
    value, words = _score_of(rows)
    skips = sorted(_values(rows, "skip"))
    axes = figure.subplots(1, len(skips), squeeze=False, sharey=True)[0]
    labels = {"psi": "psi, lowest first", **CONTROLS}
    for place, skip in zip(axes, skips, strict=True):
        for n, (order, label) in enumerate(labels.items()):
            own = [row for row in rows if row["order"] == order and row["skip"] == skip]
            _line(place, own, "q", value, label, _COLOURS[n], band=order == "psi")
        place.set_title(f"skip {skip}", fontsize=8)
        _finish(place, "share of positions replaced", words if place is axes[0] else "", place is axes[0])


def _draw_threshold_sweep(figure: Figure, rows: Sequence[Row]) -> None:
    left, right = figure.subplots(1, 2)
    value, words = _score_of(rows)
    for n, skip in enumerate(sorted(_values(rows, "skip"))):
        own = [row for row in rows if row["skip"] == skip]
        _line(left, own, "scale", "z_zero_fraction", f"skip {skip}", _COLOURS[n % len(_COLOURS)])
    left.set_ylim(-0.02, 1.02)
    _line(right, rows, "scale", value, "", _COLOURS[0])
    for axes in (left, right):
        axes.axvline(1, color="0.6", linewidth=0.8, linestyle="--")
    _finish(left, "lambda x (dashed: as trained)", "share of exact zeros in z")
    _finish(right, "lambda x (dashed: as trained)", words, legend=False)


def _draw_sanity_check(figure: Figure, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    for n, parts in enumerate(_values(rows, "randomised")):
        own = [row for row in rows if row["randomised"] == parts and "correlation" in row]
        at = np.array([float(row["skip"]) for row in own]) + (n - 0.5) * 0.16
        heights = [float(row["correlation"]) for row in own]
        axes.plot(at, heights, "o", color=_COLOURS[n], markersize=5, alpha=0.7, label=_drawn_anew(str(parts)))
    skips = sorted(_values(rows, "skip"))
    axes.set_xticks(skips, [f"skip {k}" for k in skips])
    axes.set_ylim(-1.05, 1.05)
    axes.axhline(0, color="0.4", linewidth=0.6)
    _finish(axes, "compare with another training, not with 1", "rank correlation with the trained psi")


def _drawn_anew(parts: str) -> str:
    return parts if parts == ANOTHER else f"random {parts}"


def _draw_noise_test(figure: Figure, rows: Sequence[Row]) -> None:
    value, words = _score_of(rows)
    panels = [
        ("psi_change_relative", "mean |change of psi| / std of psi"),
        ("zero_iou", "overlap (IoU) of the exact zeros of z"),
        (value, words),
    ]
    shown = [(key, text) for key, text in panels if any(key in row for row in rows)]
    kinds = ", ".join(IN_WORDS.get(str(kind), str(kind)) for kind in _values(rows, "kind"))
    for axes, (key, text) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for n, model in enumerate(_values(rows, "model")):
            own = [row for row in rows if row["model"] == model]
            # Over the skips first: bands are spreads over images.
            averaged = _over_skips(own, key)
            _line(axes, averaged, "strength", key, in_plot(str(model)), _COLOURS[n % len(_COLOURS)])
        _finish(axes, f"strength of the noise ({kinds})", text)


def _over_skips(rows: Sequence[Row], key: str) -> list[Row]:
    held: dict[tuple, list[float]] = {}
    for row in rows:
        if key in row:
            held.setdefault((row["image"], row["kind"], row["strength"]), []).append(float(row[key]))
    return [{"strength": strength, key: float(np.mean(v))} for (_, _, strength), v in held.items()]


_DRAWN: dict[str, Callable[[Figure, Sequence[Row]], None]] = {
    "leave_one_out": _draw_leave_one_out,
    "deletion_curve": _draw_deletion_curve,
    "threshold_sweep": _draw_threshold_sweep,
    "sanity_check": _draw_sanity_check,
    "noise_test": _draw_noise_test,
}
