"""The Inspect gates panel: what every gated skip connection let through, as layers and as numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.inspection.maps import KINDS, map_layers
from napari_prosma.plugin.choices import newest_run
from napari_prosma.plugin.choosers import LayerChooser
from napari_prosma.plugin.job import Ending, spare_threads
from napari_prosma.plugin.layers import (
    add_layer,
    class_indices,
    fitting_image,
    hide_previews,
    image_of,
    map_layer,
    result_layers,
)
from napari_prosma.plugin.model_chooser import ModelChooser, ModelFacts
from napari_prosma.plugin.panel import FigureTable, Message, Panel

if TYPE_CHECKING:
    from napari_prosma.inspection.trace import GateRecord

SHOWN_AT_FIRST = ("zeros in z", "psi", "psi dense")
LEVELS_AT_FIRST = 2
USUAL_LEVELS = (1, 2, 3, 4)

MEASURES = {
    "z_zero_fraction": ("zeros in z, %", 100, "Share of the gate's inner signals z that are exactly zero"),
    "floor_pixel_fraction": (
        "without evidence, %",
        100,
        "Share of the positions where z is zero in every channel: the mask stands at the gate floor there",
    ),
    "gate_floor": ("gate floor", 1, "Value of the mask psi where z is zero in every channel"),
    "psi_mean": ("psi, mean", 1, "Mean of the mask that multiplies the skip, from 0 to 1"),
    "psi_std": ("psi, spread", 1, "How much the mask varies over the image"),
    "psi_auc": (
        "psi finds structure",
        1,
        "Chance that a position inside the structure has a higher mask than one outside; 0.5 = no better "
        "than chance",
    ),
    "psi_fg_bg_ratio": ("psi inside/outside", 1, "Mean mask inside the structure over that outside"),
    "retained_energy": (
        "energy kept, %",
        100,
        "Share of the skip's squared values that reaches the decoder, channel weights included",
    ),
    "dead_channel_fraction": (
        "silent channels, %",
        100,
        "Share of the inner channels that are zero everywhere in this image",
    ),
    "lambda_over_std_mean": (
        "threshold / spread",
        1,
        "Mean of the thresholds lambda, each relative to the spread of the signal that it cuts",
    ),
}
"""Measures of a skip in a user's words: name, factor, meaning."""


class InspectPanel(Panel):
    """Show what the gates of a model did to an image."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, "Inspect")
        self.start_button.setToolTip("Segment the image and keep what every gate did on the way")
        self.record: GateRecord | None = None
        self._source: Layer | None = None
        self._shown: dict[str, Layer] = {}
        self._hidden_by_user: set[str] = set()
        form = self.add_group("Model")
        self.model = ModelChooser()
        self.model.described.connect(self._described)
        self.twin = ModelChooser("optional second model")
        self.twin.field.line.setToolTip(
            "A second model of the same structures, such as one with the gate 'attention', shown beside it"
        )
        form.addRow(self.model)
        form.addRow("Compare", self.twin)
        form = self.add_group("Image")
        self.image_layer = LayerChooser(napari_viewer, ImageLayer)
        self.image_layer.setToolTip("The open image to look at")
        self.label_layer = LayerChooser(napari_viewer, LabelsLayer, none="the model's own result")
        self.label_layer.setToolTip("What counts as structure in the measures")
        form.addRow("Layer", self.image_layer)
        form.addRow("Structure", self.label_layer)
        self._add_choice()
        self.form.addStretch(1)
        self._add_outcome()
        self.lay_out()
        newest = newest_run()
        if newest is not None:
            self.model.set_path(newest)

    def begin(self) -> tuple[str, Callable[[], Iterator[Event]]]:
        path, layer = self.model.required_path(), self.image_layer.layer
        if not isinstance(layer, ImageLayer):
            raise ConfigError("open an image to look at first")
        drawn = self.label_layer.layer
        label = _label_of(drawn) if isinstance(drawn, LabelsLayer) else None
        self._source = layer
        return "ProSMA: inspection", partial(_inspecting, path, self.twin.path, layer, label)

    def happened(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.status.tell(event.message)
        elif isinstance(event, Finished) and isinstance(event.result, list):
            self.status.tell(f"Saved {len(event.result)} files in {event.result[0].parent}")
        elif isinstance(event, Finished):
            self._show_record(event.result)

    def ended(self, ending: Ending) -> None:
        self.outcome.setVisible(self.record is not None)

    def close_down(self) -> None:
        self.model.let_go()
        self.twin.let_go()
        super().close_down()
        self.image_layer.let_go()
        self.label_layer.let_go()

    def save(self, folder: Path) -> None:
        """Write pictures, tables and maps into ``folder``, in the background."""
        assert self.record is not None
        self.run("ProSMA: saving", partial(_saving, self.record, folder))

    def _add_choice(self) -> None:
        form = self.add_group("Show")
        self.level_boxes: dict[int, QCheckBox] = {}
        self.level_row = QHBoxLayout()
        self._offer_levels(USUAL_LEVELS)
        form.addRow("Skips", self.level_row)
        self.kind_boxes: dict[str, QCheckBox] = {}
        grid = QGridLayout()
        for number, (kind, meaning) in enumerate(KINDS.items()):
            box = QCheckBox(kind)
            box.setToolTip(meaning)
            box.setChecked(kind in SHOWN_AT_FIRST)
            box.toggled.connect(self._update_layers)
            self.kind_boxes[kind] = box
            grid.addWidget(box, number // 2, number % 2)
        form.addRow(grid)

    def _add_outcome(self) -> None:
        self.outcome = QWidget()
        layout = QVBoxLayout(self.outcome)
        layout.setContentsMargins(0, 0, 0, 0)
        self.facts = Message()
        self.table = FigureTable(rows_shown=6)
        self.channels_button = QPushButton("Channel plot")
        self.channels_button.setToolTip(
            "Weight c of every channel, and threshold lambda of every inner channel, skip by skip"
        )
        self.channels_button.clicked.connect(self._show_channels)
        self.csv_button = QPushButton("Save tables…")
        self.csv_button.setToolTip("Measures and channels of every skip as two CSV files")
        self.csv_button.clicked.connect(self._save_tables)
        self.report_button = QPushButton("Save all…")
        self.report_button.setToolTip("Pictures, tables, labels and maps into a folder")
        self.report_button.clicked.connect(self._save_all)
        row = QHBoxLayout()
        for button in (self.channels_button, self.csv_button, self.report_button):
            row.addWidget(button)
        layout.addWidget(self.facts)
        layout.addWidget(self.table)
        layout.addLayout(row)
        self.outcome.hide()
        self.below.addWidget(self.outcome)

    def _described(self, facts: ModelFacts | None) -> None:
        if facts is not None and facts.levels != tuple(self.level_boxes):
            self._offer_levels(facts.levels)

    def _offer_levels(self, levels: tuple[int, ...]) -> None:
        for box in self.level_boxes.values():
            self.level_row.removeWidget(box)
            box.deleteLater()
        self.level_boxes = {}
        for level in levels:
            box = QCheckBox(str(level))
            box.setToolTip(
                "finest skip: full detail" if level == 1 else f"skip on a grid {2 ** (level - 1)} x coarser"
            )
            box.setChecked(level <= LEVELS_AT_FIRST)
            box.toggled.connect(self._update_layers)
            self.level_boxes[level] = box
            self.level_row.addWidget(box)

    def _show_record(self, record: GateRecord) -> None:
        assert self._source is not None
        self.record = record
        hide_previews(self.viewer)
        for layer in self._shown.values():
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._shown = {}
        if tuple(record.skips) != tuple(self.level_boxes):
            self._offer_levels(tuple(record.skips))
        self._update_layers()
        for layer in result_layers(record.segmentation, self._source):
            outline = add_layer(self.viewer, layer)
            outline.contour = 1
            self._shown["segmentation"] = outline
        self.facts.tell("\n".join(_facts(record, self.model.facts)))
        self._fill_table(record)
        self.status.tell(f"Looked at {record.name}: {len(record.skips)} skips, gate {record.gate}")

    def _update_layers(self) -> None:
        """Add the maps that are ticked and missing, take away those that are not ticked."""
        if self.record is None or self._source is None:
            return
        levels = [level for level, box in self.level_boxes.items() if box.isChecked()]
        kinds = [kind for kind, box in self.kind_boxes.items() if box.isChecked()]
        wanted = map_layers(self.record, levels, kinds) if levels and kinds else []
        names = {drawn.name for drawn in wanted}
        for name in [name for name in self._shown if name != "segmentation" and name not in names]:
            layer = self._shown.pop(name)
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        first = not self._shown
        for drawn in wanted:
            if drawn.name not in self._shown:
                layer = add_layer(self.viewer, map_layer(drawn, self._source))
                layer.visible = not first or drawn.name == f"skip {min(levels)} psi"
                self._shown[drawn.name] = layer

    def _fill_table(self, record: GateRecord) -> None:
        columns = [
            (f"{level}" if held is record else f"{level} ({held.gate})", skip.measures)
            for held in (record, record.twin)
            if held is not None
            for level, skip in sorted(held.skips.items())
        ]
        known = [name for name in MEASURES if any(name in measures for _, measures in columns)]
        self.table.setColumnCount(len(columns) + 1)
        self.table.setHorizontalHeaderLabels(["skip", *(title for title, _ in columns)])
        rows = []
        for name in known:
            words, factor, _ = MEASURES[name]
            digits = 1 if factor == 100 else 2
            rows.append([words, *(f"{m[name] * factor:.{digits}f}" if name in m else "" for _, m in columns)])
        self.table.show_rows(rows)
        for row, name in enumerate(known):
            for column in range(len(columns) + 1):
                item = self.table.item(row, column)
                assert isinstance(item, QTableWidgetItem)
                item.setToolTip(MEASURES[name][2])

    def _show_channels(self) -> None:
        assert self.record is not None
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

        from napari_prosma.inspection.report import channel_plot

        canvas = FigureCanvasQTAgg(channel_plot(self.record))
        canvas.setMinimumHeight(320)
        self.viewer.window.add_dock_widget(canvas, name=f"Gate channels of {self.record.name}", area="bottom")

    def _save_tables(self) -> None:
        assert self.record is not None
        folder = QFileDialog.getExistingDirectory(self, "Save the tables in", str(Path.home()))
        if folder:
            self.save_tables(Path(folder))

    def save_tables(self, folder: Path) -> None:
        """Write the measures and the channels as CSV files into ``folder``, in the background."""
        assert self.record is not None
        self.run("ProSMA: saving", partial(_saving_tables, self.record, folder))

    def _save_all(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Save everything in", str(Path.home()))
        if folder:
            self.save(Path(folder))


def _label_of(layer: LabelsLayer) -> np.ndarray:
    drawn = np.array(layer.data[0] if layer.multiscale else layer.data)
    return class_indices(drawn, layer)[0]


def _facts(record: GateRecord, model: ModelFacts | None) -> list[str]:
    """What is exactly zero and what is not, one plain line each."""
    lines = []
    if model is not None and model.epoch == 0:
        lines.append("This model was not trained: its gates say nothing yet.")
    skips = record.skips.values()
    if any(skip.zero_fraction is not None for skip in skips):
        lines.append("z, the gate's inner signal, is exactly zero where its threshold cut it (zeros in z).")
    floors = {level: skip.floor for level, skip in record.skips.items() if skip.floor is not None}
    if record.gate == "prosma-exact":
        lines.append("prosma-exact: psi is exactly zero where z is empty, so those positions are removed.")
    elif floors:
        told = ", ".join(f"{floor:.2f}" for _, floor in sorted(floors.items()))
        lines.append(
            "psi, the mask that multiplies the skip, is never exactly zero: where z is empty it stands at "
            f"the gate floor ({told}, finest skip first)."
        )
    if any(skip.psi_dense is not None for skip in skips):
        lines.append("psi dense is a counterfactual: the same weights without threshold, not retrained.")
    lines.append(f"Structure in the measures: the {record.reference}.")
    return lines


def _inspecting(
    path: Path, twin: Path | None, layer: ImageLayer, label: np.ndarray | None
) -> Iterator[Event]:
    yield Started(0, "Loading the model")
    from napari_prosma import inspect_gates
    from napari_prosma.training.checkpoint import load_checkpoint
    from napari_prosma.training.device import cpu_threads

    checkpoint = load_checkpoint(path)
    second = None if twin is None else load_checkpoint(twin)
    image = fitting_image(image_of(layer), checkpoint.plan.channels, layer.name)
    with cpu_threads(spare_threads()):
        yield from inspect_gates(checkpoint, image, name=layer.name, label=label, twin=second)


def _saving(record: GateRecord, folder: Path) -> Iterator[Event]:
    yield Started(0, "Saving")
    from napari_prosma.inspection.report import write_report

    yield Finished(write_report(record, folder))


def _saving_tables(record: GateRecord, folder: Path) -> Iterator[Event]:
    yield Started(0, "Saving")
    from napari_prosma.inspection.report import write_tables

    yield Finished(write_tables(record, folder))
