"""The curves of a run, as small pictures side by side: loss, Dice, learning rate, gates and objective.

Drawn with matplotlib into any figure, of a window or of a file; nothing here knows of windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from napari_prosma.data.atomic import written_whole
from napari_prosma.errors import DataError
from napari_prosma.events import EpochEnd
from napari_prosma.training.run_folder import write_metrics

SMOOTHING = 0.6
"""Weight of the past in the smoothed loss, as in TensorBoard; more would lag behind a loss that falls."""
MOST_POINTS = 300
"""More epochs than this are drawn as means of neighbours, or the lines would be bands."""
_PICTURES, _TABLE = (".png", ".svg"), ".csv"
_SAVED_INCHES, _SAVED_DPI = (9.0, 5.0), 150
_ASPECT = 1.5
"""Width of a panel by its height that columns are chosen for."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.44, 0.16, 0.24, 0.3
"""Room around a panel's axes, in inches: tick labels, title, the word epoch."""
_LEGEND = 1.35
"""Inches beside the axes of the objective for the names of its figures."""
_FONT = 7
_DOTS_UP_TO = 40
"""Epochs up to which each one is a dot on its line; a single one would not be seen otherwise."""
_NAMED = 6
"""Up to so many classes are named in the picture; all of them are drawn."""
_LONGEST_NAME = 14
_SKIP_NAMED_FROM = 1.2
"""Inches of a panel's axes from which the word skip stands beside the title, and not on it."""
_SHARES = (0.0, 0.5, 1.0)
_ARE_SHARES = ("confidence", "divergence share", "fuzzy", "teacher share", "teacher sure")
"""Figures of objectives that lie between 0 and 1; the others are drawn relative to their largest value."""


@dataclass(frozen=True)
class Colours:
    """Colours of the curves; the defaults are for paper."""

    # background, text: as matplotlib takes them.
    background: str = "white"
    text: str = "#333333"
    # Of the foreground classes in order, over and over; by default Okabe and Ito's, which the colour-blind
    # tell apart.
    classes: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")

    def skips(self, number: int) -> list[str]:
        """A colour per skip, from the finest on: an order, so shades of one map."""
        dark = float(np.mean(to_rgb(self.background))) < 0.5
        shades = np.linspace(0.95, 0.45, number) if dark else np.linspace(0.05, 0.7, number)
        return [to_hex(colormaps["viridis"](shade)) for shade in shades]


PAPER = Colours()
_Panel = Callable[[Axes, Sequence[EpochEnd], Colours], None]


def draw_curves(figure: Figure, history: Sequence[EpochEnd], colours: Colours = PAPER) -> None:
    """Draw the curves of these epochs, in as many columns as the figure's shape has room for.

    What the epochs say nothing of, such as lambda of a gate without one, has no panel.

    Parameters
    ----------
    figure : Figure
        Cleared first; legible from 3.5 x 3.6 inches on.
    """
    figure.clear()
    figure.set_facecolor(colours.background)
    if not history:
        figure.text(0.5, 0.5, "no epoch is over yet", color=colours.text, ha="center", fontsize=_FONT + 2)
        return
    panels: list[_Panel] = [_loss, _dice, _learning_rate]
    if _skips(history, "lambda_mean"):
        panels.append(_thresholds)
    if _skips(history, "z_zero_fraction"):
        panels.append(_zeros)
    with_objective = any(e.objective for e in history)
    places = _places(figure, len(panels), with_objective)
    if with_objective:
        panels.append(_objective)
    for panel, place in zip(panels, places, strict=True):
        axes = figure.add_axes(place, facecolor=colours.background)
        _frame(axes, history, colours)
        panel(axes, history, colours)


def picture_of(
    history: Sequence[EpochEnd], size: tuple[int, int], scale: float = 1.0, colours: Colours = PAPER
) -> np.ndarray:
    """The curves as pixels, for a window that does not want to draw: any thread may.

    Parameters
    ----------
    size : (width, height)
        In points of the screen.
    scale : float
        Pixels per point of the screen.

    Returns
    -------
    (round(height * scale), round(width * scale), 4) uint8
        RGBA.
    """
    dpi = 100 * scale
    pixels = tuple(round(n * scale) for n in size)
    figure = Figure(figsize=(pixels[0] / dpi, pixels[1] / dpi), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    draw_curves(figure, history, colours)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def save_curves(history: Sequence[EpochEnd], path: str | Path) -> Path:
    """Write the curves as ``.png`` or ``.svg``, or every figure of every epoch as ``.csv``.

    Raises
    ------
    DataError
        Another suffix, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*_PICTURES, _TABLE):
        raise DataError(f"'{path}': curves are saved as .png, .svg or .csv; choose one of these suffixes")
    if suffix == _TABLE:
        write_metrics(path, history)
        return path
    figure = Figure(figsize=_SAVED_INCHES, dpi=_SAVED_DPI)
    draw_curves(figure, history)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format=suffix[1:])
    return path


def smoothed(values: Sequence[float], past: float = SMOOTHING) -> list[float]:
    """Exponential smoothing: weighted means of all values so far, ``past ** n`` for the one n steps ago.

    The weights always sum to 1, so that the line neither begins at 0 nor hangs on the first value. What is
    not finite has no weight; NaN before the first finite value.
    """
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = total * past, weight * past
        if math.isfinite(value):
            total, weight = total + value, weight + 1
        means.append(total / weight if weight else math.nan)
    return means


# ---- panels ---------------------------------------------------------------------------------------------


def _loss(axes: Axes, history: Sequence[EpochEnd], colours: Colours) -> None:
    at, losses = _thinned([e.epoch for e in history]), _thinned([e.loss for e in history])
    faint = 0.4 if len(history) > 1 else 1.0
    axes.plot(at, losses, ".", color=colours.classes[0], alpha=faint, markersize=4, markeredgewidth=0)
    axes.plot(at, smoothed(losses), color=colours.classes[0], linewidth=1.3)
    _title(axes, "loss", f"smoothed {SMOOTHING:g}", colours)


def _dice(axes: Axes, history: Sequence[EpochEnd], colours: Colours) -> None:
    names = list(dict.fromkeys(name for e in history for name in e.validation if name.startswith("dice/")))
    few = 1 < len(names) <= _NAMED
    for number, name in enumerate(names):
        colour = colours.classes[number % len(colours.classes)]
        label = _short(name.removeprefix("dice/")) if few else ""
        _line(axes, history, [e.validation.get(name, math.nan) for e in history], colour, label)
    means = [e.validation.get("dice", math.nan) for e in history]
    if len(names) != 1:
        _line(axes, history, means, colours.text, "mean" if few else "", width=2.0)
    _share(axes)
    best = max((dice for dice in means if math.isfinite(dice)), default=math.nan)
    title = "Dice" if len(names) <= _NAMED else f"Dice, {len(names)} classes"
    _title(axes, title, f"best {best:.3f}" if math.isfinite(best) else "", colours)
    if few:
        _legend(axes, colours, 1 if len(names) < 4 else 2)


def _learning_rate(axes: Axes, history: Sequence[EpochEnd], colours: Colours) -> None:
    _line(axes, history, [e.learning_rate for e in history], colours.classes[1])
    axes.set_ylim(bottom=0)
    _title(axes, "learning rate", "", colours)


def _thresholds(axes: Axes, history: Sequence[EpochEnd], colours: Colours) -> None:
    _per_skip(axes, history, "lambda_mean", "mean λ", colours)


def _zeros(axes: Axes, history: Sequence[EpochEnd], colours: Colours) -> None:
    _per_skip(axes, history, "z_zero_fraction", "zeros in z", colours)
    _share(axes)


def _objective(axes: Axes, history: Sequence[EpochEnd], colours: Colours) -> None:
    """Figures of the training objective on one scale; those named ``name/part`` as the range of ``name``."""
    names = list(dict.fromkeys(name for e in history for name in e.objective))
    at = _thinned([e.epoch for e in history])
    lowest = 0.0
    for number, name in enumerate(n for n in names if "/" not in n):
        colour = colours.classes[number % len(colours.classes)]
        values = [e.objective.get(name, math.nan) for e in history]
        most = max((abs(v) for v in values if math.isfinite(v)), default=1.0) or 1.0
        unit = 1.0 if name in _ARE_SHARES else most
        label = name if unit == 1.0 else f"{name}, 1 = {unit:.2g}"
        parts = [n for n in names if n == name or n.startswith(f"{name}/")]
        if len(parts) > 1:
            ranges = [[e.objective.get(n, math.nan) / unit for n in parts] for e in history]
            low, high = (_thinned([ends(range_) for range_ in ranges]) for ends in (min, max))
            axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
            label = f"{name} and range"
        _line(axes, history, [v / unit for v in values], colour, label)
        lowest = min([lowest, *(v / unit for v in values if math.isfinite(v))])
    axes.set_ylim(lowest - 0.03, 1.03)
    axes.set_yticks(_SHARES)
    _title(axes, "objective", "", colours)
    _legend(axes, colours, 1, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _per_skip(axes: Axes, history: Sequence[EpochEnd], figure: str, title: str, colours: Colours) -> None:
    skips = _skips(history, figure)
    assert isinstance(axes.figure, Figure)
    wide = axes.get_position().width * axes.figure.get_size_inches()[0] > _SKIP_NAMED_FROM
    for skip, colour in zip(skips, colours.skips(len(skips)), strict=True):
        values = [e.gates.get(skip, {}).get(figure, math.nan) for e in history]
        _line(axes, history, values, colour, f"skip {skip}" if wide and skip == skips[0] else str(skip))
    _title(axes, title, "", colours)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(skips),
        fontsize=_FONT,
        labelcolor="linecolor",
        frameon=False,
        handlelength=0,
        handletextpad=0,
        markerscale=0,
        columnspacing=0.7,
        borderpad=0,
        borderaxespad=0.15,
    )


def _skips(history: Sequence[EpochEnd], figure: str) -> list[int]:
    return sorted({skip for e in history for skip, figures in e.gates.items() if figure in figures})


# ---- what all panels have -------------------------------------------------------------------------------


def _places(
    figure: Figure, panels: int, with_legend: bool = False
) -> list[tuple[float, float, float, float]]:
    """Left, bottom, width and height of each panel's axes, in shares of the figure.

    A last row that is not full is stretched; below may be one more, with room for a legend beside it.
    """
    width, height = (max(float(n), 0.1) for n in figure.get_size_inches())

    def rows_of(columns: int) -> int:
        return math.ceil(panels / columns) + with_legend

    def misfit(columns: int) -> float:
        return abs(math.log(width / columns / (height / rows_of(columns)) / _ASPECT))

    columns = min(range(1, panels + 1), key=misfit)
    down = height / rows_of(columns)
    places = []
    for number in range(panels):
        row, column = divmod(number, columns)
        across = width / min(columns, panels - row * columns)
        places.append(
            (
                (column * across + _LEFT) / width,
                1 - ((row + 1) * down - _BOTTOM) / height,
                max(across - _LEFT - _RIGHT, 0.1) / width,
                max(down - _TOP - _BOTTOM, 0.1) / height,
            )
        )
    if with_legend:
        beside = max(width - _LEFT - _LEGEND, 0.1) / width
        places.append((_LEFT / width, _BOTTOM / height, beside, places[-1][3]))
    return places


def _frame(axes: Axes, history: Sequence[EpochEnd], colours: Colours) -> None:
    first, last = history[0].epoch, history[-1].epoch
    axes.set_xlim(first - 0.5, max(last, first + 4) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    said = f"epoch, means of {_together(history)}" if _together(history) > 1 else "epoch"
    axes.set_xlabel(said, fontsize=_FONT - 1, color=colours.text, labelpad=0.5)
    axes.tick_params(colors=colours.text, labelsize=_FONT - 1, length=2, pad=1.5, width=0.5)
    axes.grid(color=colours.text, alpha=0.15, linewidth=0.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=colours.text, linewidth=0.5)


def _title(axes: Axes, title: str, remark: str, colours: Colours) -> None:
    # With y given, matplotlib does not look for a place at every drawing, which takes it long.
    axes.set_title(title, loc="left", fontsize=_FONT + 1, color=colours.text, pad=2, y=1.0)
    axes.set_title(remark, loc="right", fontsize=_FONT - 1, color=colours.text, pad=2, y=1.0, alpha=0.8)


def _share(axes: Axes) -> None:
    """From 0 to 1, whatever the values are."""
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks(_SHARES)


def _line(
    axes: Axes,
    history: Sequence[EpochEnd],
    values: Sequence[float],
    colour: str,
    label: str = "",
    width: float = 1.2,
) -> None:
    dots = "." if len(history) <= _DOTS_UP_TO else ""
    at = _thinned([e.epoch for e in history])
    # matplotlib leaves a line out of the legend whose label begins so.
    axes.plot(
        at, _thinned(values), f"{dots}-", color=colour, linewidth=width, markersize=3, label=label or "_"
    )


def _legend(axes: Axes, colours: Colours, columns: int, **where: Any) -> None:
    axes.legend(
        **(where or {"loc": "lower right"}),
        ncols=columns,
        fontsize=_FONT - 1,
        labelcolor=colours.text,
        framealpha=0.6,
        facecolor=colours.background,
        edgecolor="none",
        handlelength=1.0,
        columnspacing=0.8,
        labelspacing=0.15,
        borderpad=0.2,
    )


def _together(values: Sequence[object]) -> int:
    return math.ceil(len(values) / MOST_POINTS)


def _thinned(values: Sequence[float]) -> list[float]:
    """Means of as many neighbours as it takes to be few enough; what is not finite does not count."""
    together = _together(values)
    groups = (values[n : n + together] for n in range(0, len(values), together))
    finite = ([value for value in group if math.isfinite(value)] for group in groups)
    return [math.fsum(group) / len(group) if group else math.nan for group in finite]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
