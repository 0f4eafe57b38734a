"""One figure for a journal: an image with its gates, or several models side by side; SVG, PDF or PNG."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.names import in_plot
from napari_prosma.errors import ConfigError
from napari_prosma.inspection.compare import Comparison
from napari_prosma.inspection.maps import MOST_DOUBLINGS, skip_layer
from napari_prosma.inspection.record import GateRecord
from napari_prosma.inspection.report import OUTLINES, draw_image, draw_map, in_plane, shown_slice

WIDTHS = {"single": 89.0, "one and a half": 120.0, "double": 183.0}
"""Columns of a journal, in mm (those of Nature; others differ by a few)."""
FORMATS = (".svg", ".pdf", ".png")
DPI = 600
KINDS = {
    "psi": "psi",
    "relative energy": "relative energy, log2",
    "second model": "psi, second model",
}
"""What a figure of one image shows of every skip, with the name of its row."""
_TICKS = {"relative energy": (-MOST_DOUBLINGS, 0.0, MOST_DOUBLINGS)}
_MM = 1 / 25.4
_LETTERS = {"single": 5.0, "one and a half": 6.0, "double": 7.0}  # points
_LETTER = 0.6 / 72  # width of a letter of one point, in inches
_GAP, _OUTLINE = 1.0, 0.6  # mm between pictures, points of an outline


def gates_figure(record: GateRecord, width: str = "double") -> Figure:
    """An image with its outlines, and per skip psi and its relative energy; with a second model its psi."""
    kinds = [k for k in KINDS if any(skip_layer(record, n, k) for n in record.skips)]
    rows = {KINDS[kind]: (kind, record) for kind in kinds} or {"": ("psi", record)}
    return _figure(rows, record, sorted(record.skips), width)


def models_figure(comparison: Comparison, width: str = "double") -> Figure:
    """psi of several models at the same place, a row each, all from 0 to 1."""
    first = next(iter(comparison.records.values()))
    rows = {
        model: ("psi", record)
        for model, record in comparison.records.items()
        if any(skip.psi is not None for skip in record.skips.values())
    }
    return _figure(rows or {"": ("psi", first)}, first, list(comparison.levels), width)


def require_drawable(path: Path, width: str = "double") -> None:
    """Refuse a file that no figure can be written to, or a width that no journal has.

    Raises ``ConfigError``.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"'{path.name}' should end in {', '.join(FORMATS)}; choose such a name")
    _require_width(width)


def _require_width(width: str) -> None:
    if width not in WIDTHS:
        raise ConfigError(f"a figure is {', '.join(WIDTHS)} columns wide, found {width!r}")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as what its name ends in, with its letters in it.

    Raises ``ConfigError``: the name ends in something else. ``DataError``: the file cannot be written.
    """
    require_drawable(path)
    kind = path.suffix.lower()
    # Fonts go into a PDF as TrueType, so that an editor can change its text; an SVG can only hold shapes.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}[kind]
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}), written_whole(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=kind[1:], metadata=metadata)
    return path


def _figure(
    rows: dict[str, tuple[str, GateRecord]], first: GateRecord, levels: list[int], width: str
) -> Figure:
    """The image, then a picture per skip, for every row; all places are known beforehand."""
    _require_width(width)
    letters, wide, gap = _LETTERS[width], WIDTHS[width] * _MM, _GAP * _MM
    line = 1.6 * letters / 72
    at = shown_slice(first)
    (height, breadth), spacing = (
        in_plane(first.image.array.shape[1:], at),
        in_plane(first.image.geometry.spacing, at),
    )
    left, bar = 3 * line, 4 * line
    cell = (wide - left - bar) / (1 + len(levels)) - gap
    high = cell * height * spacing[0] / (breadth * spacing[1])
    total = line + len(rows) * (high + gap) + line
    figure = Figure(figsize=(wide, total))

    def placed(column: int, row: int, breadth: float = cell, rows: int = 1) -> Axes:
        x, y = (
            left + column * (cell + gap),
            total - line - row * (high + gap) - rows * high - (rows - 1) * gap,
        )
        return figure.add_axes(
            (x / wide, y / total, breadth / wide, (rows * high + (rows - 1) * gap) / total)
        )

    kinds: dict[str, tuple[int, int, AxesImage]] = {}
    for row, (name, (kind, record)) in enumerate(rows.items()):
        axes = placed(0, row)
        draw_image(axes, record, at)
        if axes.legend_ is not None:
            axes.legend_.remove()
        title = axes.get_title() if row == 0 else ""
        axes.set_title(title, fontsize=letters, y=1, pad=2)
        for outline in axes.collections:
            outline.set_linewidth(_OUTLINE)
        words = textwrap.fill(in_plot(name), max(8, int(high / (_LETTER * letters))))
        axes.text(
            -2 * gap / cell,
            0.5,
            words,
            fontsize=letters,
            rotation=90,
            ha="right",
            va="center",
            transform=axes.transAxes,
        )
        for column, level in enumerate(levels, start=1):
            layer = skip_layer(record, level, kind) if level in record.skips else None
            axes = placed(column, row)
            axes.set_axis_off()
            axes.set_title(f"skip {level}" if row == 0 else "", fontsize=letters, y=1, pad=2)
            if layer is not None:
                drawn = draw_map(axes, layer, record, at)
                kinds[kind] = (kinds.get(kind, (row,))[0], row, drawn)
    for kind, (start, end, drawn) in kinds.items():
        axes = placed(1 + len(levels), start, line / 2, end - start + 1)
        box = axes.get_position()  # shorter by a letter, so that numbers of two bars do not meet
        axes.set_position((box.x0, box.y0 + line / 4 / total, box.width, box.height - line / 2 / total))
        figure.colorbar(drawn, cax=axes, ticks=_TICKS.get(kind, (0.0, 0.5, 1.0)))
        axes.tick_params(labelsize=letters, length=2, pad=1)
    shown = [kind for kind in OUTLINES if kind == "prediction" or first.label is not None]
    figure.legend(
        [Line2D([], [], color=OUTLINES[kind]) for kind in shown],
        shown,
        loc="lower left",
        bbox_to_anchor=(left / wide, 0),
        ncols=2,
        fontsize=letters,
        frameon=False,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=1,
    )
    return figure
