"""The Inspect gates panel: what every gate selects, where, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from qtpy.QtWidgets import (
    QFileDialog,
    QPushButton,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.app.models import ImageKind
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.inspection.maps import channel_layers, z_layer
from napari_prosma.inspection.one_image import numbers_of
from napari_prosma.plugin.inspect.answer import Answer
from napari_prosma.plugin.inspect.channels import ChannelsPart, reading_channel
from napari_prosma.plugin.inspect.choice import SHOWN_AT_FIRST, MapChoice
from napari_prosma.plugin.inspect.compare import ComparePart, comparing, drawing
from napari_prosma.plugin.inspect.layers import InspectLayers
from napari_prosma.plugin.inspect.looking import InspectionResult, drawn_label, looking
from napari_prosma.plugin.inspect.pointer import PointerPart
from napari_prosma.plugin.inspect.trials import TRIALS, Drawn, OutcomeWindow, TrialsPart, trying
from napari_prosma.plugin.inspect.view import region_on_screen
from napari_prosma.plugin.inspect.what_if import Followed, WhatIfPart
from napari_prosma.plugin.inspect.words import exactness, table_of_measures
from napari_prosma.plugin.shared.asking import chosen_folder
from napari_prosma.plugin.shared.choosers import LayerChooser
from napari_prosma.plugin.shared.fields import fold, in_a_row
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.layers import hide_previews, image_kind
from napari_prosma.plugin.shared.loading import INSPECTION
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.model_chooser import ModelChooser, ModelFacts
from napari_prosma.plugin.shared.panel import Panel
from napari_prosma.plugin.shared.run_on import RunOn
from napari_prosma.plugin.shared.starting import usual_model

if TYPE_CHECKING:
    from napari_prosma.inspection.compare import Comparison
    from napari_prosma.inspection.record import ChannelMaps, GateRecord

__all__ = ["SHOWN_AT_FIRST", "InspectPanel"]


class InspectPanel(Panel):
    """Show what the gates of a model did to an image."""

    needs = INSPECTION
    page = "Inspect gates"

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, "Inspect")
        self.start_button.setToolTip("Segment the image and record what every gate does")
        self.inspected: InspectionResult | None = None
        self._shown_record: GateRecord | None = None
        self._latent: list[tuple[int, int]] = []
        self._channels: dict[tuple[int, int], ChannelMaps] = {}  # as trained, of the whole image
        self.layers = InspectLayers(napari_viewer)
        self.outcomes = OutcomeWindow(self)
        form = self.add_group("Model")
        self.model = ModelChooser()
        self.model.described.connect(self._described)
        form.addRow(self.model)
        form = self.add_group("Image")
        self.image_layer = LayerChooser(napari_viewer, ImageLayer)
        self.image_layer.setToolTip("The open image to inspect")
        self.label_layer = LayerChooser(napari_viewer, LabelsLayer, none="the model's own prediction")
        self.label_layer.setToolTip("What counts as structure in the measures")
        self.model.image = self._image_to_inspect
        self.image_layer.currentIndexChanged.connect(self._image_changed)
        form.addRow("Layer", self.image_layer)
        form.addRow("Structure", self.label_layer)
        self.run_on = RunOn("inspect")
        self.form.addWidget(self.run_on)
        self._add_result()
        self.form.addStretch(1)
        self.lay_out()
        usual = usual_model()
        if usual is not None:
            self.model.show_path(usual)

    @property
    def record(self) -> GateRecord | None:
        """Of the image that was inspected last."""
        return None if self.inspected is None else self.inspected.record

    def begin(self) -> tuple[str, Callable[[], Iterator[Event]]]:
        path, layer = self.model.required_path(), self.image_layer.layer
        if not isinstance(layer, ImageLayer):
            raise ConfigError("first open an image")
        drawn = self.label_layer.layer
        channels = 0 if self.model.facts is None else self.model.facts.known.channels
        label = drawn_label(drawn, layer, channels) if isinstance(drawn, LabelsLayer) else None
        region = None if label is not None else region_on_screen(self.viewer, layer)
        return "ProSMA: inspection", partial(looking, path, layer, label, region, self.run_on.used())

    def happened(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.status.tell(event.message)
        elif isinstance(event, Finished) and isinstance(event.result, list):
            files = "1 file" if len(event.result) == 1 else f"{len(event.result)} files"
            self.status.tell(f"Saved {files} in {event.result[0].parent}")
        elif isinstance(event, Finished):
            self._show_result(event.result)

    def prepared(self) -> None:
        self.model.read()

    def close_down(self) -> None:
        super().close_down()
        self.layers.let_go()

    def save(self, folder: Path) -> None:
        """Write pictures, tables, maps and every number into ``folder``, in the background."""
        assert self.inspected is not None
        inspected = self.inspected
        further = {
            "label_notices": [*filter(None, [inspected.taken_for])],
            **numbers_of(inspected.record, inspected.tried),
            "tests": self.outcomes.numbers(inspected),
        }
        self.run("ProSMA: saving", partial(_saving, inspected.record, folder, further))

    def save_tables(self, folder: Path) -> None:
        """Write the measures and the channels as CSV files into ``folder``, in the background."""
        assert self.record is not None
        self.run("ProSMA: saving", partial(_saving_tables, self.record, folder))

    def _add_result(self) -> None:
        self.result = QWidget()
        layout = QVBoxLayout(self.result)
        layout.setContentsMargins(0, 0, 0, 0)
        self.cautions = Message()
        layout.addWidget(self.cautions)
        self.answer = Answer()
        self.answer.chosen.connect(self._look_at)
        layout.addWidget(self.answer)
        self.choice = MapChoice()
        self.choice.changed.connect(self._update_layers)
        layout.addWidget(fold("Maps as layers", self.choice))
        self.what_if = WhatIfPart(self.viewer)
        self.what_if.followed.connect(self._show_followed)
        self.what_if.back.connect(self._show_as_trained)
        layout.addWidget(fold("What if", self.what_if))
        self.pointer = PointerPart(self.viewer)
        layout.addWidget(fold("Values at cursor", self.pointer))
        self.channels = ChannelsPart()
        self.channels.channel_chosen.connect(self._open_channel)
        self.channels.latent_chosen.connect(self._open_latent)
        layout.addWidget(fold("Channels", self.channels))
        self.compare = ComparePart(self.viewer)
        self.compare.wanted.connect(self._compare)
        self.compare.figures_wanted.connect(self._draw_comparison)
        layout.addWidget(fold("Side by side", self.compare))
        self.trials = TrialsPart()
        self.trials.wanted.connect(self._try)
        layout.addWidget(fold("Faithfulness tests", self.trials))
        layout.addWidget(fold("All numbers", self._numbers()))
        self.result.hide()
        self.form.addWidget(self.result)

    def _numbers(self) -> QWidget:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        self.facts = Message()
        self.table = FigureTable(rows_shown=8)
        self.csv_button = QPushButton("Save tables…")
        self.csv_button.setToolTip("Save measures and channels of every skip as two CSV files")
        self.csv_button.clicked.connect(self._save_tables)
        self.report_button = QPushButton("Save all…")
        self.report_button.setToolTip(
            "Save images, tables, labels, maps and one JSON file with every number to a folder"
        )
        self.report_button.clicked.connect(self._save_all)
        self.figure_button = QPushButton("Figure…")
        self.figure_button.setToolTip(
            "One figure for a journal, two columns wide, as SVG, PDF or PNG: the image with its gates, or "
            "the models side by side where they were compared"
        )
        self.figure_button.clicked.connect(self._save_figure)
        row = in_a_row(self.csv_button, self.figure_button, self.report_button)
        layout.addWidget(self.facts)
        layout.addWidget(self.table)
        layout.addLayout(row)
        return content

    def _image_to_inspect(self) -> ImageKind | None:
        layer = self.image_layer.layer
        return image_kind(layer) if isinstance(layer, ImageLayer) else None

    def _image_changed(self) -> None:
        self.model.show_doubts()

    def _described(self, facts: ModelFacts | None) -> None:
        if facts is not None:
            self.choice.offer(facts.levels)

    def _show_result(self, result: Any) -> None:
        if isinstance(result, InspectionResult):
            self._show_inspected(result)
        elif isinstance(result, Drawn):
            self._open(result)
            self.status.tell(f"{result.short_title}: done, see the window")
        elif isinstance(result, tuple):
            for drawn in result:
                self._open(drawn)
            self.status.tell(f"{len(result)} figures: done, see the window")
        elif hasattr(result, "records"):
            assert self.inspected is not None
            self.compare.show_compared(result, self.inspected.source)
            self.status.tell(f"{len(result.records)} masks side by side")
        else:
            self.layers.add(channel_layers(result))
            self._channels[result.level, result.channel] = result
            self.what_if.follow_channels(list(self._channels))
            self.status.tell(f"Channel {result.channel} of skip {result.level}, before and after the gate")

    def _show_inspected(self, inspected: InspectionResult) -> None:
        self.inspected = inspected
        record = inspected.record
        hide_previews(self.viewer)
        self.compare.forget()
        self.layers.start(inspected.source)
        self._latent, self._channels, self._shown_record = [], {}, record
        self.choice.offer(tuple(sorted(record.skips)))
        self._update_layers()
        self.layers.outline(record.segmentation)
        self.answer.show_inspected(inspected)
        self.what_if.show_inspected(inspected)
        self.channels.show_inspected(inspected)
        self.pointer.show_record(record, inspected.source, inspected.image.geometry)
        self.cautions.tell_error("\n".join(cautions_in_words(inspected)))
        self.facts.tell("\n".join(_facts(record, self.model.facts)))
        self._fill_table(record)
        self.result.show()
        self.status.tell(f"Inspected {record.name}: {len(record.skips)} skips, gate {record.gate}")
        if self.answer.levels:
            self._look_at(self.answer.levels[0])

    def _show_maps(self, record: GateRecord) -> None:
        """The maps, the outline and the readout are those of another record of the same image."""
        assert self.inspected is not None
        self._shown_record = record
        self.layers.show(self.choice.wanted(record, self.inspected.tried))
        for level, channel in self._latent:
            self._refill_latent(record, level, channel)
        self.layers.outline(record.segmentation)
        self.pointer.show_record(record, self.inspected.source, self.inspected.image.geometry)

    def _refill_latent(self, record: GateRecord, level: int, channel: int) -> None:
        try:
            self.layers.refill(z_layer(record, level, channel))
        except ValueError:
            # z of a window may be kept where that of the whole image would be too large.
            self.layers.drop(f"skip {level} z channel {channel}")

    def _show_followed(self, followed: Followed) -> None:
        self._show_maps(followed.effect.record)
        self._refill_channels(followed.channels)
        self.layers.mark(followed.changed)

    def _show_as_trained(self) -> None:
        if self.inspected is not None:
            self._show_maps(self.inspected.record)
            self._refill_channels(self._channels.values())
            self.layers.mark("")

    def _refill_channels(self, channels: Iterable[ChannelMaps]) -> None:
        for maps in channels:
            for drawn in channel_layers(maps):
                self.layers.refill(drawn)

    def _open_channel(self, level: int, channel: int) -> None:
        assert self.inspected is not None
        self._begin_further("ProSMA: a channel", partial(reading_channel, self.inspected, level, channel))

    def _open_latent(self, level: int, channel: int) -> None:
        assert self._shown_record is not None
        try:
            self.layers.add([z_layer(self._shown_record, level, channel)])
        except ValueError:
            self.status.tell_error(
                f"z of skip {level} is too large to keep for this image; inspect a smaller part of it"
            )
        else:
            self._latent.append((level, channel))

    def _compare(self) -> None:
        beside = self.compare.beside()
        if self.inspected is None or not beside:
            self.status.tell_error("choose at least one other model for the comparison")
            return
        self._begin_further("ProSMA: comparing", partial(comparing, self.inspected, beside))

    def _draw_comparison(self, compared: Comparison) -> None:
        self._begin_further("ProSMA: figures", partial(drawing, compared, self.compare.message.plain_text()))

    def _try(self, test: str) -> None:
        assert self.inspected is not None
        events = partial(trying, test, self.inspected, self.compare.beside(), self.trials.noise)
        self._begin_further(f"ProSMA: {TRIALS[test][0]}", events)

    def _begin_further(self, title: str, make_events: Callable[[], Iterator[Event]]) -> None:
        """A run on what was looked at; one at a time."""
        if self.job.is_running:
            self.status.tell("Another task is running: wait for it, or press Stop")
        else:
            self.run(title, make_events)

    def _open(self, drawn: Drawn) -> None:
        assert self.inspected is not None
        self.outcomes.add(drawn, self.inspected)

    def _look_at(self, level: int) -> None:
        """Show the maps of one skip, its mask on top."""
        self.choice.tick(level)
        seen = f"skip {level} psi"
        names = self.layers.names()
        self.layers.see_only([seen] if seen in names else [f"skip {level} energy kept"])

    def _update_layers(self) -> None:
        """Add the maps that are ticked and missing, take away those that are not ticked."""
        if self.inspected is None:
            return
        assert self._shown_record is not None
        wanted = self.choice.wanted(self._shown_record, self.inspected.tried)
        new = [drawn.name for drawn in wanted if drawn.name not in self.layers.names()]
        self.layers.show(wanted, seen=new[-1:] if self.layers.names() else ())

    def _fill_table(self, record: GateRecord) -> None:
        header, rows, meanings = table_of_measures({"": record})
        self.table.head(header)
        self.table.show_rows(rows)
        self.table.fit()
        for row, meaning in enumerate(meanings):
            for column in range(len(header)):
                item = self.table.item(row, column)
                assert isinstance(item, QTableWidgetItem)
                item.setToolTip(meaning)

    def _save_tables(self) -> None:
        folder = chosen_folder(self, "Save the tables in")
        if folder is not None:
            self.save_tables(folder)

    def save_figure(self, path: Path) -> None:
        """Draw and write the figure, in the background."""
        assert self.record is not None
        compared = self.compare.compared
        self.run("ProSMA: saving", partial(_saving_figure, self.record, compared, path))

    def _save_figure(self) -> None:
        chosen, _ = QFileDialog.getSaveFileName(
            self, "Save the figure", str(Path.home() / "gates.pdf"), "*.pdf;;*.svg;;*.png"
        )
        if chosen:
            self.save_figure(Path(chosen))

    def _save_all(self) -> None:
        folder = chosen_folder(self, "Save everything in")
        if folder is not None:
            self.save(folder)


def cautions_in_words(inspected: InspectionResult) -> tuple[str, ...]:
    """What has to be known of the model and of the image before the gates are read."""
    from napari_prosma.inspection.trace import cautions

    return (*cautions(inspected.checkpoint, inspected.image), *filter(None, [inspected.taken_for]))


def _facts(record: GateRecord, model: ModelFacts | None) -> list[str]:
    """What has to be known of the numbers, one plain line each."""
    lines = []
    if model is not None and model.epoch == 0:
        lines.append("This model is not trained: its gates mean nothing yet.")
    lines += exactness(record)
    if any(skip.psi_dense is not None for skip in record.skips.values()):
        lines.append("psi dense is a counterfactual: the same weights without threshold, not retrained.")
    return [*lines, f"Structure in the measures: the {record.reference}."]


def _saving(record: GateRecord, folder: Path, further: Mapping[str, Any]) -> Iterator[Event]:
    yield Started(0, "Saving")
    from napari_prosma.data.atomic import require_new
    from napari_prosma.inspection.report import report_files, write_report

    require_new(report_files(record, folder), "choose another folder")
    yield Finished(write_report(record, folder, further))


def _saving_figure(record: GateRecord, compared: Comparison | None, path: Path) -> Iterator[Event]:
    yield Started(0, "Drawing the figure")
    from napari_prosma.inspection.figure import gates_figure, models_figure, save_figure

    figure = gates_figure(record) if compared is None else models_figure(compared)
    yield Finished([save_figure(figure, path)])


def _saving_tables(record: GateRecord, folder: Path) -> Iterator[Event]:
    yield Started(0, "Saving")
    from napari_prosma.data.atomic import require_new
    from napari_prosma.inspection.report import report_files, write_tables

    require_new(report_files(record, folder)[2:4], "choose another folder")
    yield Finished(write_tables(record, folder))
