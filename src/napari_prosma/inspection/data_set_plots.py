"""Plots of a ``DataSetInspection``. Figures are made without pyplot, so in any thread."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from napari_prosma.data.names import in_plot
from napari_prosma.inspection.data_set import DataSetInspection
from napari_prosma.inspection.measures import LEAST_RATIO, MEASURES, in_digits
from napari_prosma.inspection.report import room
from napari_prosma.nn.gate_kinds import GATES

COLOURS = ("#3b6ea5", "#e09f3e", "#5c946e", "#9e4770", "#7d7d7d", "#c1121f")
"""Of the models, in order; told apart with every common kind of colour blindness by place as well."""
SIZE = (5.6, 3.4)


def colour_of(inspection: DataSetInspection, model: str) -> str:
    return COLOURS[list(inspection.checkpoints).index(model) % len(COLOURS)]


def distribution(inspection: DataSetInspection, measure: str) -> Figure | None:
    """A box per skip and model, a dot per case; None where no gate has the measure."""
    what = MEASURES[measure]
    models = [
        model
        for model in inspection.checkpoints
        if any(inspection.values(model, level, measure).size for level in inspection.levels(model))
    ]
    if not models:
        return None
    levels = sorted({level for model in models for level in inspection.levels(model)})
    figure, axes = _empty()
    width, lowest = 0.8 / len(models), 1.0
    for number, model in enumerate(models):
        for level in levels:
            place = level + (number - (len(models) - 1) / 2) * width
            values = inspection.values(model, level, measure)
            if what.unit == "x":
                lowest = min(lowest, float(values.min(initial=1)))
                values = np.maximum(values, LEAST_RATIO)
            _box(axes, place, values, 0.8 * width, colour_of(inspection, model))
    neutral = what.neutral(GATES[inspection.checkpoints[inspection.model].spec.gate])
    if neutral is not None:
        axes.axhline(neutral, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_title(what.name, fontsize=10, y=1)
    if what.unit == "x":
        axes.set_yscale("log", base=2)
        if lowest <= LEAST_RATIO:
            least, most = np.log2(LEAST_RATIO), np.ceil(np.log2(axes.dataLim.y1))
            axes.set_yticks(2.0 ** np.arange(least, max(most, 0) + 2, 2))
        axes.yaxis.set_major_formatter(FuncFormatter(_factor))
    elif measure == "selectivity":
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(levels, [f"skip {level}" for level in levels])
    axes.set_xlim(levels[0] - 0.5, levels[-1] + 0.5)
    _legend(axes, inspection, models)
    return figure


def _factor(value: float, place: object = None) -> str:
    """A factor at a logarithmic axis, whose lowest place holds all that is lower."""
    return f"≤ {value:.1g} x" if value <= LEAST_RATIO else f"{in_digits(value)} x"


def overlap(inspection: DataSetInspection) -> Figure | None:
    """Dice of every model, the cases joined by lines; None without labels."""
    dice = {model: inspection.overlaps(model) for model in inspection.checkpoints}
    if not dice[inspection.model]:
        return None
    figure, axes = _empty()
    models = list(dice)
    for case in dice[inspection.model]:
        axes.plot(range(len(models)), [dice[m][case] for m in models], color="0.8", linewidth=0.6, zorder=0)
    for place, model in enumerate(models):
        _box(axes, place, np.array([*dice[model].values()]), 0.4, colour_of(inspection, model))
    axes.set_xticks(range(len(models)), list(map(in_plot, models)))
    axes.set_xlim(-0.5, len(models) - 0.5)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("Dice of each case", fontsize=10, y=1)
    return figure


def unusual_against_dice(inspection: DataSetInspection) -> Figure | None:
    """How far a case's most unusual measure lies from the median, against its Dice; None without either."""
    dice = inspection.overlaps(inspection.model)
    both = [(name, value) for name, value in dice.items() if name in inspection.deviations]
    if not both:
        return None
    figure, axes = _empty()
    groups = {case.name: case.group for case in inspection.cases}
    for number, group in enumerate(sorted({groups[name] for name, _ in both})):
        here = [
            (abs(inspection.deviations[name].score), value) for name, value in both if groups[name] == group
        ]
        axes.plot(*np.array(here).T, "o", color=COLOURS[number % len(COLOURS)], markersize=4, alpha=0.75,
                  label=in_plot(group) or None)  # fmt: skip
    axes.axvline(inspection.unusual_from, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_xlabel("largest deviation from the median, robust standard deviations", fontsize=8)
    axes.set_ylabel("Dice", fontsize=8)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("unusual gating against Dice", fontsize=10, y=1)
    if any(groups[name] for name, _ in both):
        axes.legend(fontsize=7)
    axes.tick_params(labelsize=8)
    return figure


def channel_states(inspection: DataSetInspection) -> Figure | None:
    """Latent channels of the first model per skip: dead, open and in between over all cases."""
    states = {
        level: inspection.channel_zeros(inspection.model, level)
        for level in inspection.levels(inspection.model)
    }
    states = {level: zeros for level, zeros in states.items() if zeros.size}
    if not states:
        return None
    figure, axes = _empty()
    for level, zeros in states.items():
        mean = np.sort(zeros.mean(axis=0))
        order = np.argsort(zeros.mean(axis=0))
        dead, always = (zeros == 1).all(axis=0)[order], (zeros == 0).all(axis=0)[order]
        colours = np.where(dead, "#c1121f", np.where(always, "#5c946e", "#3b6ea5"))
        place = level - 0.4 + 0.8 * (np.arange(len(mean)) + 0.5) / len(mean)
        # An open channel has no bar, a sliver says that it is there.
        axes.bar(place, np.maximum(mean, 0.012), width=0.8 / len(mean), color=colours)
    axes.set_xticks(list(states), [f"skip {level}" for level in states])
    axes.set_ylim(0, 1.2)  # room for the legend
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_title("zeros of every latent channel, mean over the cases, sorted", fontsize=10, y=1)
    names = {"dead in every case": "#c1121f", "always open": "#5c946e", "in between": "#3b6ea5"}
    handles = [Patch(color=colour, label=name) for name, colour in names.items()]
    axes.legend(handles=handles, fontsize=7, loc="upper center", ncols=3)
    axes.tick_params(labelsize=8)
    return figure


def _empty() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE)
    return figure, figure.subplots(gridspec_kw=room(figure, 0.75, 0.1, 0.3, 0.5))


def _box(axes: Axes, place: float, values: np.ndarray, width: float, colour: str) -> None:
    if not values.size:
        return
    axes.boxplot(
        values,
        positions=[place],
        widths=width,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour},
        medianprops={"color": colour, "linewidth": 1.6},
        whiskerprops={"color": colour},
        capprops={"color": colour},
    )
    # Spread evenly in the order of the cases: the same picture every time.
    across = np.linspace(-0.3, 0.3, values.size) * width if values.size > 1 else np.zeros(1)
    axes.plot(place + across, values, ".", color=colour, markersize=3, alpha=0.7)


def _legend(axes: Axes, inspection: DataSetInspection, models: list[str]) -> None:
    if len(models) > 1:
        handles = [
            Patch(color=colour_of(inspection, model), label=in_plot(model), alpha=0.6) for model in models
        ]
        axes.legend(handles=handles, fontsize=7)
    axes.tick_params(labelsize=8)
