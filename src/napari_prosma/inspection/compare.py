"""Several models of one task on one image, side by side: the masks on one scale, and their numbers.

The clean test of the threshold is prox against ``dense``, which was trained with lambda = 0. What the
same weights give with lambda = 0 is a counterfactual, shown beside it and called so: those weights were never
trained for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from napari_prosma.data.case import Image
from napari_prosma.data.metrics import case_metrics
from napari_prosma.data.names import in_plot
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.faithfulness import Row
from napari_prosma.inspection.kinship import ablation_in_words
from napari_prosma.inspection.maps import skip_layer
from napari_prosma.inspection.record import GateRecord, SkipRecord
from napari_prosma.inspection.report import BAR, draw_image, draw_map, of_which_slice, room, shown_slice
from napari_prosma.inspection.trace import inspect_gates, require_label, same_classes
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.gates import Change

COUNTERFACTUAL = "{}, lambda = 0 (not retrained)"
NO_MASKS = "none of these models has a mask psi"
BINS = np.linspace(0, 1, 21)
"""Of the histograms of psi."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What several models made of one image.

    Attributes
    ----------
    name : str
    records : GateRecord by model
        In the order given; after a model with thresholds its counterfactual with lambda = 0.
    reference : "label" or "prediction"
        Foreground is the label, or what the first model predicts.
    cautions : tuple of str
        In what models differ from the first besides their gates.
    """

    name: str
    records: dict[str, GateRecord]
    reference: str
    cautions: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[int, ...]:
        """Skips that any of the models has, finest first."""
        return tuple(sorted({level for record in self.records.values() for level in record.skips}))

    def rows(self) -> list[Row]:
        """One row per model and skip; what a gate does not have is missing."""
        rows: list[Row] = []
        for model, record in self.records.items():
            known: Row = {"image": self.name, "model": model, "gate": record.gate}
            known["foreground"] = self.reference
            if record.label is not None:
                figures = case_metrics(
                    record.segmentation.labels, record.label, record.segmentation.class_names
                )
                known |= {key: float(value) for key, value in figures.items() if key.startswith("dice")}
            for level, skip in sorted(record.skips.items()):
                rows.append({**known, "skip": level, **skip.measures})
        return rows

    def psi(self, model: str, level: int) -> np.ndarray | None:
        """Mask (*grid) of a model's skip; None where it has none."""
        skip = self.records[model].skips.get(level)
        return None if skip is None else skip.psi

    def difference(self, first: str, second: str, level: int) -> tuple[np.ndarray, Geometry] | None:
        """psi of the first model minus that of the second, -1 to 1, with its place.

        None where one has no mask there, or their grids differ.
        """
        one, other = self.psi(first, level), self.psi(second, level)
        if one is None or other is None:
            return None
        place = self.records[first].skips[level].geometry
        if one.shape != other.shape or place != self.records[second].skips[level].geometry:
            return None
        return one - other, place

    def histogram(self, model: str, level: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Shares (20,) of the foreground's and of the background's psi per bin of ``BINS``.

        None without a mask; zeros where there is no foreground, or no background.
        """
        skip = self.records[model].skips.get(level)
        if skip is None or skip.psi is None or skip.inside is None or skip.outside is None:
            return None
        return _shares(skip.psi[skip.inside]), _shares(skip.psi[skip.outside])


def compare(
    checkpoints: Mapping[str, Checkpoint | Path | str],
    image: Image,
    label: np.ndarray | None = None,
    *,
    name: str = "image",
    device: str = "auto",
    counterfactual: bool = True,
) -> Iterator[Event]:
    """Inspect an image with several models; the last event is ``Finished`` with a :class:`Comparison`.

    Parameters
    ----------
    checkpoints : by the name to show
        Such as a prox model, the ``attention`` and ``dense`` models of its ablation, and ``prosma-exact``.
    image : (C, *spatial)
    label : (*spatial) class indices, optional
        Foreground for the measures; by default what the first model predicts.
    counterfactual : bool
        Also show every model that has thresholds with all its lambda = 0.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        Also where the models know different classes.
    """
    models = same_classes(checkpoints)
    require_label(label, image, name, next(iter(models.values())).plan.class_names)
    passes: list[tuple[str, Checkpoint, dict[int, Change]]] = []
    for model, checkpoint in models.items():
        passes.append((model, checkpoint, {}))
        if counterfactual and GATES[checkpoint.spec.gate].thresholds:
            off = dict.fromkeys(checkpoint.spec.gated_levels, Change(threshold=0.0))
            passes.append((COUNTERFACTUAL.format(model), checkpoint, off))
    yield Started(len(passes), f"Comparing {len(models)} models on {name}", device)
    (own, first), *others = models.items()
    cautions = tuple(filter(None, (ablation_in_words(own, first, *other) for other in others)))
    yield from map(Notice, cautions)
    records: dict[str, GateRecord] = {}
    foreground: np.ndarray | None = None
    for done, (model, checkpoint, changes) in enumerate(passes, start=1):
        events = inspect_gates(
            checkpoint,
            image,
            name=name,
            label=label,
            device=device,
            changes=changes,
            foreground=foreground,
        )
        for event in events:
            if isinstance(event, Finished):
                record = event.result
            elif isinstance(event, Progress):
                yield Progress(done - 1, len(passes), f"{model}, window {event.done} of {event.total}")
            elif isinstance(event, Notice) and not changes:
                yield Notice(f"{model}: {event.message}")
        if foreground is None:
            foreground = record.segmentation.labels
        records[model] = record
        yield Progress(done, len(passes), model)
    yield Finished(Comparison(name, records, "prediction" if label is None else "label", cautions))


# ---- the figures ------------------------------------------------------------------------------------------


def comparison_figure(comparison: Comparison) -> Figure:
    """The masks: a row per model, a column per skip, all on one scale from 0 to 1; the floor is named.

    In volumes the slice with the most foreground is shown, and each mask at the same place.
    """
    shown = {m: r for m, r in comparison.records.items() if any(s.psi is not None for s in r.skips.values())}
    without = [m for m in comparison.records if m not in shown]
    levels, first = comparison.levels, next(iter(comparison.records.values()))
    rows, columns = max(1, len(shown)), len(levels) + 1
    figure = Figure(figsize=(0.8 + 2.5 * columns, 1.0 + 2.45 * rows))
    cells = figure.add_gridspec(
        rows, columns + 1, width_ratios=[*[1] * columns, BAR], **room(figure, 0.1, 0.6, 0.8, 0.3)
    )
    grid = np.array([[figure.add_subplot(cells[r, c]) for c in range(columns)] for r in range(rows)])
    at = shown_slice(first)
    scores = {str(row["model"]): row.get("dice") for row in comparison.rows()}
    drawn = None
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (model, record) in enumerate(shown.items()):
        draw_image(grid[row, 0], record, at)
        score = scores.get(model)
        title = in_plot(model) if score is None else f"{in_plot(model)}\nDice {score:.3f}"
        grid[row, 0].set_title(title, fontsize=8, y=1)
        for column, level in enumerate(levels, start=1):
            layer = skip_layer(record, level, "psi") if level in record.skips else None
            if layer is not None:
                drawn = draw_map(grid[row, column], layer, record, at)
                grid[row, column].set_title(_title(record.skips[level]), fontsize=7.5, y=1)
    if drawn is not None:
        bar = figure.colorbar(drawn, cax=figure.add_subplot(cells[:, -1]))
        bar.set_label("psi (same scale everywhere)", fontsize=8)
        bar.ax.tick_params(labelsize=6)
    figure.suptitle(f"{in_plot(comparison.name)}: the masks side by side", fontsize=11)
    if not shown:
        figure.text(0.5, 0.5, NO_MASKS, ha="center")
    lacking = f"no mask: {', '.join(map(in_plot, without))}" if without else ""
    figure.supxlabel("\n".join(filter(None, [lacking, of_which_slice(first, at)])), fontsize=8)
    return figure


def histogram_figure(comparison: Comparison) -> Figure:
    """psi inside (filled) and outside (line) the foreground: a row per model, a column per skip."""
    models = [m for m, r in comparison.records.items() if any(s.psi is not None for s in r.skips.values())]
    levels = comparison.levels
    figure = Figure(figsize=(0.8 + 2.2 * len(levels), 0.9 + 1.6 * max(1, len(models))), layout="constrained")
    grid = figure.subplots(max(1, len(models)), len(levels), squeeze=False, sharex=True)
    middles = (BINS[1:] + BINS[:-1]) / 2
    for row, model in enumerate(models):
        for column, level in enumerate(levels):
            axes, found = grid[row, column], comparison.histogram(model, level)
            axes.tick_params(labelsize=6)
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title(f"skip {level}", fontsize=8)
            if found is None:
                axes.text(0.5, 0.5, "no mask", ha="center", transform=axes.transAxes, fontsize=7)
                continue
            axes.bar(middles, found[0], BINS[1], color="#e09f3e", alpha=0.75, label="inside")
            axes.stairs(found[1], BINS, color="#3b6ea5", linewidth=1.3, label="outside")
            floor = comparison.records[model].skips[level].floor
            if floor is not None:
                axes.axvline(floor, color="0.4", linewidth=0.8, linestyle="--", label="floor")
        grid[row, 0].set_ylabel(in_plot(model).replace(" (", "\n("), fontsize=7)
    if models:
        grid[0, 0].legend(fontsize=6, frameon=False)
    else:
        for axes in grid.flat:
            axes.set_axis_off()
        figure.text(0.5, 0.5, NO_MASKS, ha="center")
    figure.supxlabel(f"psi (foreground: {comparison.reference})", fontsize=8)
    figure.suptitle(f"{in_plot(comparison.name)}: share of positions by psi", fontsize=10)
    return figure


def _shares(values: np.ndarray) -> np.ndarray:
    counts = np.histogram(values.clip(0, 1), BINS)[0]
    return counts / max(1, values.size)


def _title(skip: SkipRecord) -> str:
    figures = skip.measures
    title = f"skip {skip.level}: mean {figures['psi_mean']:.2f}"
    if skip.floor is not None:
        title += f", floor {skip.floor:.2f}"
    if "psi_auc" in figures:
        title += f"\nAUC {figures['psi_auc']:.2f}"
    return title
