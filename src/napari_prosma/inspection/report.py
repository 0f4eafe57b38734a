"""Pictures, tables and map files of a ``GateRecord``. Figures are made without pyplot, so in any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.labels import fullest_slice
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.names import file_stem, in_plot
from napari_prosma.data.planes import slice_axis, slice_in_words
from napari_prosma.data.preparation import cut_axis
from napari_prosma.data.texts import write_rows
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.inspection.citing import NUMBERS, of_one_image, write_numbers
from napari_prosma.inspection.maps import KINDS, MapLayer, map_layers, skip_layer
from napari_prosma.inspection.record import GateRecord, SkipRecord
from napari_prosma.nn.gate_kinds import GATES

T = TypeVar("T")

PANEL_KINDS = (
    "relative energy",
    "zeros in z",
    "without evidence",
    "psi",
    "psi dense",
    "energy kept",
    "second model",
)
EXACTNESS = (
    "Exactly zero: entries of z. Not zero: psi, which equals its floor where z is empty. There the skip "
    "passes, multiplied by the floor and, if the gate has one, by c."
)
EXACTNESS_OURS = "prosma-exact: psi is exactly zero where z is empty, so there the skip itself is cut."
NO_ZEROS = "This gate has no threshold: nothing in it is exactly zero."
BAR_LABELS = {"relative energy": "relative energy, log2"}
"""Of maps that are not drawn as they are called."""
BAR = 0.04
"""Width of a colour bar beside a map."""
OUTLINES = {"prediction": "#ff9f1c", "label": "#2ec4b6"}
"""Colours, in the order in which they are drawn."""


def gate_panel(record: GateRecord) -> Figure:
    """One picture: the image with its outlines, then a row per kind of map and a column per skip.

    In volumes the slice with the most foreground is shown, and each map at the same place.
    """
    levels = sorted(record.skips)
    kinds = [k for k in PANEL_KINDS if any(skip_layer(record, level, k) for level in levels)]
    rows, columns = max(1, len(kinds)), len(levels)
    figure = Figure(figsize=(3.9 + 2.5 * columns, 0.9 + max(2.2 * rows, 3.4)))
    ratios = [1.45, *[1] * columns, BAR]
    grid = figure.add_gridspec(rows, columns + 2, width_ratios=ratios, **room(figure, 0.1, 0.6, 0.75, 0.3))
    at = shown_slice(record)
    draw_image(figure.add_subplot(grid[: min(2, rows), 0]), record, at)
    for row, kind in enumerate(kinds):
        drawn: AxesImage | None = None
        for column, level in enumerate(levels):
            axes = figure.add_subplot(grid[row, column + 1])
            axes.set_axis_off()
            layer = skip_layer(record, level, kind)
            if layer is not None:
                drawn = draw_map(axes, layer, record, at)
            axes.set_title(_title(record, level, kind), fontsize=7.5, y=1)
        if drawn is not None:
            bar = figure.colorbar(drawn, cax=figure.add_subplot(grid[row, -1]))
            bar.ax.tick_params(labelsize=6)
            bar.set_label(BAR_LABELS.get(kind, kind), fontsize=8)
    sparse = any(skip.threshold is not None for skip in record.skips.values())
    ours = GATES[record.gate].exact_zeros
    exact = EXACTNESS_OURS if ours else EXACTNESS if sparse else NO_ZEROS
    figure.suptitle(f"{in_plot(record.name)}: what the gates let through ({record.gate})", fontsize=11)
    figure.supxlabel("\n".join(filter(None, [exact, of_which_slice(record, at)])), fontsize=7.5)
    return figure


def room(figure: Figure, left: float, right: float, top: float, bottom: float) -> dict[str, float]:
    """Where the pictures of a figure are, with margins in inches.

    Known beforehand: a layout that is searched for takes longer than all that is drawn, and so does a title
    without a ``y`` of its own.
    """
    wide, high = figure.get_size_inches()
    sides = {"left": left / wide, "right": 1 - right / wide, "bottom": bottom / high, "top": 1 - top / high}
    return {**sides, "wspace": 0.05, "hspace": 0.2}


def channel_plot(record: GateRecord) -> Figure:
    """Per skip: c of every channel, sorted, and lambda / std(u) of every latent channel, sorted."""
    levels = sorted(record.skips)
    figure = Figure(figsize=(2.4 * len(levels) + 0.6, 4.2))
    margins = {**room(figure, 0.6, 0.1, 0.6, 0.3), "wspace": 0.25, "hspace": 0.3}
    axes = figure.subplots(2, len(levels), squeeze=False, gridspec_kw=margins)
    for column, level in enumerate(levels):
        skip, (above, below) = record.skips[level], axes[:, column]
        above.set_title(f"skip {level}", fontsize=9, y=1)
        if skip.channel is not None:
            order = np.argsort(skip.channel)
            spread = None if skip.channel_spread is None else skip.channel_spread[order]
            _bars(above, skip.channel[order], "#3b6ea5")
            if spread is not None and spread.any():
                c = skip.channel[order]
                above.vlines(range(len(order)), c - spread, c + spread, color="k", linewidth=0.8)
            above.axhline(0.5, color="0.4", linewidth=0.6)
        else:
            above.text(0.5, 0.5, "no channel part", ha="center", transform=above.transAxes, fontsize=8)
        above.set_ylim(0, 1)
        if skip.threshold is not None and skip.field_spread is not None:
            relative = skip.threshold / np.where(skip.field_spread > 0, skip.field_spread, np.inf)
            order = np.argsort(relative)
            dead = _dead(skip)[order]
            _bars(below, relative[order], np.where(dead, "#c1121f", "#e09f3e"))
            below.set_ylim(0, 1.05 * float(relative.max()) or 1.0)
        else:
            below.text(0.5, 0.5, "no threshold", ha="center", transform=below.transAxes, fontsize=8)
        for each in (above, below):
            each.tick_params(labelsize=6)
    figure.supxlabel("channels, sorted", fontsize=8)
    axes[0, 0].set_ylabel("c per channel", fontsize=8)
    axes[1, 0].set_ylabel("lambda / std(u) (red: dead)", fontsize=8)
    return figure


def _bars(axes: Axes, heights: np.ndarray, colours: str | np.ndarray) -> None:
    """A bar per value, side by side, as one artist: of some hundred each by itself would take seconds."""
    shapes = [
        [(n - 0.5, 0), (n - 0.5, high), (n + 0.5, high), (n + 0.5, 0)] for n, high in enumerate(heights)
    ]
    axes.add_collection(PolyCollection(shapes, facecolors=colours))
    axes.set_xlim(-1, len(heights))


def measures_table(record: GateRecord) -> list[dict[str, str | float]]:
    """One row per skip, of the model and of the second one."""
    rows: list[dict[str, str | float]] = []
    for model, held in enumerate((record, record.second), start=1):
        if held is not None:
            known: dict[str, str | float] = {"image": record.name, "model": model, "gate": held.gate}
            known["foreground"] = held.reference
            rows += [{**known, "skip": level, **skip.measures} for level, skip in sorted(held.skips.items())]
    return rows


def channel_table(record: GateRecord) -> list[dict[str, str | float]]:
    """One row per channel and skip: c of the skip's channels; lambda, std(u), zeros of the latent ones."""
    rows: list[dict[str, str | float]] = []
    for level, skip in sorted(record.skips.items()):
        if skip.channel is not None:
            for index, value in enumerate(skip.channel):
                rows.append({"skip": level, "kind": "skip channel", "channel": index, "c": float(value)})
        if skip.threshold is None or skip.field_spread is None or skip.channel_zeros is None:
            continue
        for index, value in enumerate(skip.threshold):
            spread = float(skip.field_spread[index])
            rows.append(
                {
                    "skip": level,
                    "kind": "latent channel",
                    "channel": index,
                    "lambda": float(value),
                    "std_u": spread,
                    "lambda_over_std": float(value) / spread if spread > 0 else float("inf"),
                    "zero_fraction": float(skip.channel_zeros[index]),
                    "alive": "no" if _dead(skip)[index] else "yes",
                }
            )
    return rows


def write_table(path: Path, rows: Sequence[dict[str, str | float]]) -> Path:
    """CSV of rows that need not have the same columns."""
    write_rows(path, rows)
    return path


def write_tables(record: GateRecord, folder: Path) -> list[Path]:
    """The measures and the channels of one image as CSV into ``folder``."""
    tables = {"measures": measures_table(record), "channels": channel_table(record)}
    stem = file_stem(record.name)
    return [write_table(folder / f"{stem}_{name}.csv", rows) for name, rows in tables.items()]


def write_report(record: GateRecord, folder: Path, further: Mapping[str, Any] | None = None) -> list[Path]:
    """Everything about one image into ``folder``: pictures, tables, one JSON, labels and maps.

    Maps are NIfTI where the image knows a physical size in three axes, else TIFF; each on its own grid.
    ``further`` stands in the JSON too, such as sentences and what they were made from.
    """
    found, files = record.segmentation, report_files(record, folder)
    pictures, numbers, labels, maps = files[:2], files[4], files[5], files[6:]
    for path, figure in zip(pictures, (gate_panel(record), channel_plot(record)), strict=True):
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")
    write_tables(record, folder)
    write_numbers(of_one_image(record, further or {}), numbers)
    write_labels(labels, found.labels, found.geometry, found.class_names)
    for path, layer in zip(maps, map_layers(record, kinds=KINDS), strict=True):
        write_map(path, np.asarray(layer.data, np.float32), layer.geometry)
    return files


def report_files(record: GateRecord, folder: Path) -> list[Path]:
    """The files of :func:`write_report`: two pictures, two tables, the JSON, the labels, then the maps."""
    is_volume = record.image.geometry.ndim == 3 and record.image.geometry.unit == "mm"
    suffix = ".nii.gz" if is_volume else ".tif"
    endings = ["gates.png", "channels.png", "measures.csv", "channels.csv", NUMBERS]
    endings.append(f"labels{suffix}")
    endings += [f"{file_stem(layer.name)}{suffix}" for layer in map_layers(record, kinds=KINDS)]
    return [folder / f"{file_stem(record.name)}_{ending}" for ending in endings]


def numbers_file(name: str, folder: Path) -> Path:
    """The JSON of an image of that name, one of :func:`report_files`."""
    return folder / f"{file_stem(name)}_{NUMBERS}"


def _dead(skip: SkipRecord) -> np.ndarray:
    assert skip.threshold is not None
    assert skip.field_peak is not None
    return skip.field_peak <= skip.threshold


def shown_slice(record: GateRecord) -> tuple[int | slice, ...]:
    """Index of the slice with the most foreground, in the plane that the network sees.

    A network of volumes has none of its own: then in that in which the volume was acquired.
    """
    label = record.segmentation.labels if record.label is None else record.label
    plan, geometry = record.checkpoint.plan, record.image.geometry
    return fullest_slice(label, cut_axis(plan, geometry) if plan.dims == 2 else slice_axis(geometry))


def of_which_slice(record: GateRecord, at: tuple[int | slice, ...]) -> str:
    """That pictures show a slice, but numbers are of all; empty for a picture."""
    place = slice_in_words(record.image.geometry.axes, at)
    return f"Pictures: {place}; numbers: the whole image." if place else ""


def in_plane(values: Sequence[T], at: tuple[int | slice, ...]) -> tuple[T, ...]:
    """What belongs to the two axes of the shown slice."""
    return tuple(value for value, index in zip(values, at, strict=True) if isinstance(index, slice))


def draw_image(axes: Axes, record: GateRecord, at: tuple[int | slice, ...]) -> None:
    """The slice ``at`` of the image, with the outlines of prediction and label."""
    plane = np.moveaxis(record.image.array, 0, -1)[at]
    spacing = in_plane(record.image.geometry.spacing, at)
    channels = plane.shape[-1]
    is_colour = channels in (3, 4) and plane.dtype == np.uint8
    if is_colour:
        axes.imshow(plane, aspect=spacing[0] / spacing[1])
    else:
        low, high = np.percentile(plane[..., 0], (0.5, 99.5))
        axes.imshow(plane[..., 0], cmap="gray", vmin=low, vmax=high, aspect=spacing[0] / spacing[1])
    outlines = {"prediction": record.segmentation.labels[at]}
    if record.label is not None:
        outlines["label"] = record.label[at]
    for kind, label in outlines.items():
        for index in range(1, len(record.segmentation.class_names)):
            # An outline needs two elements along either axis.
            if min(label.shape) > 1 and (label == index).any():
                axes.contour(label == index, levels=[0.5], colors=OUTLINES[kind], linewidths=1.2)
        axes.plot([], [], color=OUTLINES[kind], label=kind)
    axes.legend(loc="lower right", fontsize=7, framealpha=0.6)
    which = "" if is_colour or channels == 1 else f"first of {channels} channels"
    where = slice_in_words(record.image.geometry.axes, at)
    axes.set_title(", ".join(filter(None, ["image", which, where])), fontsize=9, y=1)
    axes.set_axis_off()


def draw_map(axes: Axes, layer: MapLayer, record: GateRecord, at: tuple[int | slice, ...]) -> AxesImage:
    """The slice of the map that covers the shown slice of the image, in the image's own proportions."""
    fine, coarse = record.image.geometry, layer.geometry
    index: list[int | slice] = []
    for n, fine_at in enumerate(at):
        if isinstance(fine_at, slice):
            index.append(fine_at)
            continue
        position = fine.origin[n] + fine_at * fine.spacing[n]
        nearest = round((position - coarse.origin[n]) / coarse.spacing[n])
        index.append(int(np.clip(nearest, 0, layer.data.shape[n] - 1)))
    plane = layer.data[tuple(index)]
    places = zip(
        *(in_plane(each, at) for each in (fine.origin, fine.spacing, coarse.origin, coarse.spacing)),
        plane.shape,
        in_plane(record.image.array.shape[1:], at),
        strict=True,
    )
    # In elements of the image: a coarse map may reach beyond it, and is cut where the image ends.
    edges, ends = [], []
    for origin, step, first, wide, number, size in places:
        start = (first - wide / 2 - origin) / step
        edges.append((start, start + number * wide / step))
        ends.append((-0.5, size - 0.5))
    (top, bottom), (left, right) = edges
    rows, columns = in_plane(fine.spacing, at)
    drawn = axes.imshow(
        plane,
        cmap=layer.colours,
        vmin=layer.limits[0],
        vmax=layer.limits[1],
        interpolation="nearest",
        aspect=rows / columns,
        extent=(left, right, bottom, top),
    )
    axes.set_xlim(*ends[1])
    axes.set_ylim(*reversed(ends[0]))
    return drawn


def _title(record: GateRecord, level: int, kind: str) -> str:
    held = record.second if kind == "second model" and record.second is not None else record
    if level not in held.skips:
        return ""
    figures = held.skips[level].measures
    if kind == "second model":
        return f"skip {level}, {held.gate}: mean {figures.get('psi_mean', float('nan')):.2f}"
    extra = {
        "zeros in z": ("z_zero_fraction", "zeros in z {1}"),
        "without evidence": ("floor_pixel_fraction", "without evidence {1}"),
        "psi": ("psi_mean", "psi mean {0:.2f}"),
        "psi dense": ("psi_mean", "same weights, lambda = 0"),
        "energy kept": ("retained_energy", "energy kept {1}"),
        "relative energy": ("selectivity", "selectivity {1}"),
    }
    name, text = extra[kind]
    value = figures.get(name, float("nan"))
    title = f"skip {level}: {text.format(value, in_percent(value))}"
    floor = held.skips[level].floor
    return f"{title}, floor {floor:.2f}" if kind == "psi" and floor is not None else title
