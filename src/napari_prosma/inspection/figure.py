"""One figure for a journal: an image with its gates, or several models side by side; SVG, PDF or PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.labels import fullest_slice
from napari_prosma.errors import ConfigError
from napari_prosma.inspection.compare import Comparison
from napari_prosma.inspection.maps import skip_layer
from napari_prosma.inspection.record import GateRecord
from napari_prosma.inspection.report import draw_image, draw_map

WIDTHS = {"single": 89.0, "one and a half": 120.0, "double": 183.0}
"""Columns of a journal, in mm (those of Nature; others differ by a few)."""
FORMATS = (".svg", ".pdf", ".png")
DPI = 600
KINDS = ("psi", "relative energy", "second model")
_MM = 1 / 25.4
_LETTERS = 7  # points


def gates_figure(record: GateRecord, width: str = "double") -> Figure:
    """An image with its outlines, and per skip psi and its relative energy; with a second model its psi."""
    kinds = [k for k in KINDS if any(skip_layer(record, n, k) for n in record.skips)]
    rows = {kind: (kind, record) for kind in kinds} or {"": ("psi", record)}
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


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as what its name ends in, with its letters as letters.

    Raises
    ------
    ConfigError
        The name ends in something else.
    DataError
        The file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ConfigError(f"'{path.name}' should end in {', '.join(FORMATS)}; choose such a name")
    # Fonts go into a PDF as TrueType and text in an SVG stays text, so that an editor can change it.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}[kind]
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}), written_whole(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=kind[1:], metadata=metadata)
    return path


def _figure(
    rows: dict[str, tuple[str, GateRecord]], first: GateRecord, levels: list[int], width: str
) -> Figure:
    if width not in WIDTHS:
        raise ConfigError(f"a figure is {', '.join(WIDTHS)} columns wide, found {width!r}")
    wide = WIDTHS[width] * _MM
    columns = len(levels) + 1
    at = fullest_slice(first.segmentation.labels if first.label is None else first.label)
    height, breadth = first.image.array.shape[-2:]
    spacing = first.image.geometry.spacing[-2:]
    high = wide / (columns + 0.4) * height * spacing[0] / (breadth * spacing[1])
    figure = Figure(figsize=(wide, len(rows) * (high + 0.25) + 0.1), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, (kind, record)) in enumerate(rows.items()):
        drawn = None
        draw_image(axes[row, 0], record, at)
        axes[row, 0].set_title(name, fontsize=_LETTERS)
        legend = axes[row, 0].get_legend()
        if legend is not None and row > 0:
            legend.remove()
        for place, level in zip(axes[row, 1:], levels, strict=True):
            place.set_axis_off()
            layer = skip_layer(record, level, kind) if level in record.skips else None
            if layer is not None:
                drawn = draw_map(place, layer, record, at)
                place.set_title(f"skip {level}", fontsize=_LETTERS)
        if drawn is not None:
            bar = figure.colorbar(drawn, ax=axes[row, 1:].tolist(), fraction=0.05, pad=0.01)
            bar.set_label("log2 relative energy" if kind == "relative energy" else kind, fontsize=_LETTERS)
            bar.ax.tick_params(labelsize=_LETTERS - 1)
    for text in np.ravel(axes):
        text.title.set_fontsize(_LETTERS)
    return figure
