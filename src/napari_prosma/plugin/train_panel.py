"""The Train panel: a folder, or layers of the viewer, becomes a trained network while the user watches."""

from __future__ import annotations

import gc
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QRadioButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts import DataSet
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Preview, Started
from napari_prosma.plugin.choices import DEVICES, GATES, INTENSITIES, WIDTHS, Choice, new_run_folder
from napari_prosma.plugin.choosers import LayerChooser, PathField
from napari_prosma.plugin.class_table import ClassTable
from napari_prosma.plugin.job import Ending, Job, spare_threads
from napari_prosma.plugin.layers import case_of, class_indices, know_units, load_layers
from napari_prosma.plugin.panel import FigureTable, Message, Panel, epochs_in_words
from napari_prosma.plugin.preview import PreviewLayers
from napari_prosma.plugin.sparse import LABELLED, Coverage, Wanted, coverage

if TYPE_CHECKING:
    from napari_prosma.data.case import Case
    from napari_prosma.plugin.check_window import CheckWindow
    from napari_prosma.plugin.curves import TrainingCurve

UNLIMITED_EPOCHS = 100_000
"""Epochs of a run that is limited by its minutes."""

BY_THE_DATA = "by the data"
COUNT_AFTER_MS = 400
"""Rest of the hand, after which what is labelled is counted again."""

SLOW_TO_IMPORT = {
    "matplotlib.figure": "the curve",
    "torch": "PyTorch",
    "lightning_fabric": "Lightning",
    "monai.transforms": "MONAI",
    "monai.losses.dice": "MONAI",
    "napari_prosma.training.run": "the training",
}
"""Modules that training needs, as the user is told of them."""

Data = tuple[tuple["Case", ...], tuple[str, ...]]


class TrainPanel(Panel):
    """Train a segmentation network on a folder, or on an image layer and its labels."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, "Start training", pausable=True)
        know_units()
        self.start_button.setToolTip("Learn from the data above; the best model is kept in the run folder")
        self.scan = Job(self, notify=False)
        self.scan.happened.connect(self._scanned)
        self.scan.ended.connect(self._scan_ended)
        self.data_set: DataSet | None = None
        self._wanted: Wanted | None = None
        self._scanning: Wanted | None = None
        self._findings: list[str] = []
        self._suggested: Path | None = None
        self._run_dir = Path()
        self._device = ""
        self._epoch: EpochEnd | None = None
        self.previews = PreviewLayers(napari_viewer, self)
        self.curve: TrainingCurve | None = None
        self.check_window: CheckWindow | None = None
        self._add_source()
        self._add_settings()
        self._add_advanced()
        self.form.addStretch(1)
        self._add_outcome()
        self.lay_out()
        self._source_changed()

    def settings(self) -> dict[str, Any]:
        """What the form says, as settings of ``TrainConfig``."""
        by_time = self.limit_unit.currentText() == "minutes"
        return {
            "run_dir": self.run_field.path,
            "widths": self.size_preset.currentData(),
            "gate": self.gate.currentData(),
            "epochs": UNLIMITED_EPOCHS if by_time else self.limit.value(),
            "minutes": float(self.limit.value()) if by_time else None,
            "dims": self.dims.currentData(),
            "side": self.side.value(),
            "spacing": sizes_of(self.spacing, "spacing", float),
            "patch": sizes_of(self.patch, "piece size", int),
            "batch": self.batch.value() or None,
            "intensity": self.intensity.currentData(),
            "learning_rate": self.rate.value(),
            "seed": self.seed.value(),
            "device": self.device.currentData(),
            "threads": spare_threads(),
        }

    def begin(self) -> tuple[str, Callable[[], Iterator[Event]]]:
        get_data = self._folder_data() if self.from_folder.isChecked() else self._layer_data()
        run_dir = self.run_field.path
        if run_dir is None:
            raise ConfigError("choose a folder to keep the run in")
        if any(run_dir.glob("*.safetensors")):
            raise ConfigError(f"'{run_dir}' already holds a trained model; choose another folder")
        settings = self.settings()
        self._require_fitting(settings)
        self._run_dir = run_dir
        self._epoch = None
        self.log.clear()
        self.log.show()
        self.table.hide()
        self.figures.tell("")
        self.next_buttons.hide()
        self.previews.start()
        if self.curve is not None:
            self.curve.clear()
        return "ProSMA: training", partial(_training, settings, get_data)

    def _require_fitting(self, settings: dict[str, Any]) -> None:
        """Refuse sizes that fit neither the images nor the network, where these are known already."""
        axes = self._axes()
        if axes is None:
            return
        dims = settings["dims"]
        for name, what, wanted, owner in (
            ("spacing", "spacing", (axes,), "images have"),
            ("patch", "piece size", (dims,) if dims else range(2, axes + 1), "network sees"),
        ):
            given = settings[name]
            if given is not None and len(given) not in wanted:
                raise ConfigError(
                    f"the {what} has {_numbers(len(given))}, but the {owner} {max(wanted)} axes; give one "
                    f"number per axis, or leave it empty"
                )

    def _axes(self) -> int | None:
        """Spatial axes of the images to learn from, where they are known."""
        if self.from_folder.isChecked():
            return self.data_set.dims if self.data_set is not None else None
        layer = self.labels_layer.layer
        return layer.ndim if layer is not None else None

    def happened(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.log.appendPlainText(event.message)
        elif isinstance(event, Started):
            self._device = event.device
            if event.total:
                self._make_curve()
        elif isinstance(event, EpochEnd):
            self._epoch = event
            self._make_curve().add(event)
            self._show_figures(event)
        elif isinstance(event, Preview):
            self.previews.show(event)
        elif isinstance(event, Finished):
            best = f"best Dice {event.result.score:.3f}, " if event.result.epochs else ""
            self.status.tell(
                f"Finished after {epochs_in_words(event.result.epochs)}, {best}kept in {event.result.run_dir}"
            )
            self.next_buttons.show()

    def ended(self, ending: Ending) -> None:
        if ending.stopped:
            kept = any(self._run_dir.glob("*.safetensors"))
            after = f" after {epochs_in_words(self._epoch.epoch)}" if self._epoch else ""
            what = f"; the model is kept in {self._run_dir}" if kept else "; nothing was written"
            self.status.tell(f"Stopped{after}{what}")
            self.next_buttons.setVisible(kept and self._epoch is not None)
        if self.run_field.path == self._suggested:
            self._suggest_run(self._data_name())

    def close_down(self) -> None:
        self.scan.close()
        if self.check_window is not None:
            self.check_window.close_down()
        self.previews.stop()
        super().close_down()
        self.image_layer.let_go()
        self.labels_layer.let_go()
        self._follow(None)
        self._count_drawn.stop()

    def _add_source(self) -> None:
        form = self.add_group("Learn from")
        self.from_folder = QRadioButton("a folder")
        self.from_folder.setToolTip("Many images, each with a mask that marks the structure")
        self.from_layers = QRadioButton("open layers")
        self.from_layers.setToolTip("One image that is open in napari, and labels drawn on it")
        self.from_folder.setChecked(True)
        self.from_folder.toggled.connect(self._source_changed)
        choice = QHBoxLayout()
        choice.addWidget(self.from_folder)
        choice.addWidget(self.from_layers)
        form.addRow(choice)
        self.folder = PathField("Choose the folder of images and masks", "images and masks")
        self.folder.line.setToolTip(
            "A folder with 'images' and 'masks' in it, or masks beside their images (x.png, x_mask.png), or "
            "a data set of the Medical Segmentation Decathlon"
        )
        self.folder.chosen.connect(self._folder_entered)
        self.labelled = QComboBox()
        for index, (kind, meant) in enumerate(LABELLED.items()):
            self.labelled.addItem(meant.words, kind)
            self.labelled.setItemData(index, meant.meaning, Qt.ItemDataRole.ToolTipRole)
        self.labelled.setToolTip(
            "Whether everything was labelled: only in what is labelled the network is told what is right"
        )
        self.labelled.currentIndexChanged.connect(self._labelled_changed)
        self.summary = Message()
        self.image_layer = LayerChooser(self.viewer, ImageLayer)
        self.image_layer.setToolTip("The image to learn from")
        self.image_layer.currentIndexChanged.connect(self._layers_changed)
        self.labels_layer = LayerChooser(self.viewer, LabelsLayer)
        self.labels_layer.setToolTip("Labels drawn on it: 0 is background, each other number a class")
        self.labels_layer.currentIndexChanged.connect(self._layers_changed)
        self._count_drawn = QTimer(self)
        self._count_drawn.setSingleShot(True)
        self._count_drawn.setInterval(COUNT_AFTER_MS)
        self._count_drawn.timeout.connect(self._tell_drawn)
        self._followed: LabelsLayer | None = None
        form.addRow("Folder", self.folder)
        form.addRow("Image", self.image_layer)
        form.addRow("Labels", self.labels_layer)
        form.addRow("Labels are", self.labelled)
        form.addRow(self.summary)
        self.class_table = ClassTable()
        self.class_table.changed.connect(self._classes_changed)
        self.classes = _fold("Classes", self.class_table)
        self.classes.hide()
        form.addRow(self.classes)
        self.check_button = QPushButton("Check data")
        self.check_button.setToolTip(
            "Look at every case for what is wrong with it, before time is lost on it"
        )
        self.check_button.clicked.connect(self._check)
        form.addRow(self.check_button)
        self._source_form = form

    def _add_settings(self) -> None:
        form = self.add_group("Network")
        self.size_preset = _combo(
            WIDTHS, "tiny", "How large the network is: larger is slower and learns more"
        )
        self.gate = _combo(
            GATES,
            "prosma",
            "What decides which details of the image reach the outline that is drawn: the gate on each skip "
            "connection (the shortcut from fine to coarse and back)",
        )
        self.limit = QSpinBox()
        self.limit.setRange(1, UNLIMITED_EPOCHS)
        self.limit.setValue(100)
        self.limit.setToolTip("How long to learn; Stop ends it earlier and keeps the model")
        self.limit_unit = QComboBox()
        self.limit_unit.addItems(["epochs", "minutes"])
        self.limit_unit.setToolTip("An epoch is one pass over all the images")
        self.limit_unit.currentTextChanged.connect(self._unit_changed)
        limit = QHBoxLayout()
        limit.addWidget(self.limit, 1)
        limit.addWidget(self.limit_unit, 1)
        self.run_field = PathField("Choose a folder for the run", "folder for the model")
        self.run_field.line.setToolTip("The best and the last model are kept here; made if missing")
        form.addRow("Size", self.size_preset)
        form.addRow("Gate", self.gate)
        form.addRow("Train for", limit)
        form.addRow("Keep in", self.run_field)

    def _add_advanced(self) -> None:
        content = QWidget()
        form = QFormLayout(content)
        form.setContentsMargins(6, 0, 0, 0)
        self.dims = QComboBox()
        for text, dims in (("as the data", None), ("2D, slice by slice", 2), ("3D", 3)):
            self.dims.addItem(text, dims)
        self.dims.setToolTip("Whether the network sees slices or volumes")
        self.rate = QDoubleSpinBox()
        self.rate.setDecimals(6)
        self.rate.setRange(1e-6, 1.0)
        self.rate.setSingleStep(1e-4)
        self.rate.setValue(1e-3)
        self.rate.setToolTip("Learning rate: how large each correction is; lower it if the loss jumps")
        self.spacing = QLineEdit()
        self.spacing.setPlaceholderText(BY_THE_DATA)
        self.spacing.setToolTip(
            "Distance between voxels that every image is brought to, in the unit of the data: one number per "
            "axis, slices first, such as 3, 1, 1. Empty: the usual one of the data"
        )
        self.patch = QLineEdit()
        self.patch.setPlaceholderText(BY_THE_DATA)
        self.patch.setToolTip(
            "Size of the pieces that the network sees at once, in voxels: one number per axis, slices first, "
            "such as 32, 128, 128. Empty: by the data and the memory"
        )
        self.intensity = QComboBox()
        for index, (rule, scaled) in enumerate(INTENSITIES.items()):
            self.intensity.addItem(scaled.words, rule)
            self.intensity.setItemData(index, scaled.meaning, Qt.ItemDataRole.ToolTipRole)
        self.intensity.setToolTip("How gray values are brought to one scale before the network sees them")
        self.batch = QSpinBox()
        self.batch.setRange(0, 256)
        self.batch.setSpecialValueText(BY_THE_DATA)
        self.batch.setToolTip("Image pieces looked at per step; fewer need less memory")
        self.side = QSpinBox()
        self.side.setRange(32, 4096)
        self.side.setValue(256)
        self.side.setSuffix(" px")
        self.side.setToolTip("2D images are shrunk so that their short side is about this; volumes are not")
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setToolTip("Chance of this run: the same number gives the same run on the same machine")
        self.device = _combo(DEVICES, "auto", "What computes")
        for text, field in (
            ("Network sees", self.dims),
            ("Learning rate", self.rate),
            ("Spacing", self.spacing),
            ("Shrink to", self.side),
            ("Gray values", self.intensity),
            ("Piece size", self.patch),
            ("Pieces per step", self.batch),
            ("Seed", self.seed),
            ("Device", self.device),
        ):
            form.addRow(text, field)
        self.advanced = _fold("Advanced", content)
        self.form.addWidget(self.advanced)

    def _add_outcome(self) -> None:
        self.curve_place = QVBoxLayout()
        self.figures = Message()
        self.table = FigureTable()
        self.table.setColumnCount(3)
        self.table.setHorizontalHeaderLabels(["Class", "Dice", "IoU"])
        self.table.setToolTip("Overlap with the true labels of the cases held out: 0 none, 1 perfect")
        self.table.hide()
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setMaximumHeight(84)
        self.log.setMaximumBlockCount(500)
        self.log.setTabChangesFocus(True)
        self.log.setToolTip("What was decided for this run, and what to watch")
        self.log.hide()
        self.next_buttons = QWidget()
        row = QHBoxLayout(self.next_buttons)
        row.setContentsMargins(0, 0, 0, 0)
        for text, panel in (("Segment with it", "Segment"), ("Look at its gates", "Inspect gates")):
            button = QPushButton(text)
            button.setToolTip(f"Open the panel '{panel}' with this model")
            button.clicked.connect(partial(self._open_next, panel))
            row.addWidget(button)
        self.next_buttons.hide()
        self.below.addLayout(self.curve_place)
        for widget in (self.figures, self.table, self.log, self.next_buttons):
            self.below.addWidget(widget)

    def _source_changed(self) -> None:
        by_folder = self.from_folder.isChecked()
        for row in range(self._source_form.rowCount()):
            field = self._source_form.itemAt(row, QFormLayout.ItemRole.FieldRole)
            widget = field.widget() if field is not None else None
            if widget in (self.image_layer, self.labels_layer):
                self._source_form.setRowVisible(row, not by_folder)
            elif widget is self.folder:
                self._source_form.setRowVisible(row, by_folder)
        self.summary.tell("")
        self.classes.setVisible(by_folder and self.data_set is not None)
        self.check_button.setVisible(by_folder)
        if by_folder:
            self._tell_folder()
        self._layers_changed()
        self._suggest_run(self._data_name())

    def _layers_changed(self) -> None:
        if self.from_layers.isChecked():
            self._suggest_run(self._data_name())
        self._follow(self.labels_layer.layer if self.from_layers.isChecked() else None)

    def _labelled_changed(self) -> None:
        if self._wanted is not None:
            self._look_at(replace(self._wanted, labelled=self.labelled.currentData()))
        self._count_drawn.start()

    def _check(self) -> None:
        folder, wanted = self.folder.path, self._wanted
        if folder is None:
            self.summary.tell_error("choose the folder of images and masks to check")
            return
        if self.check_window is None:
            from napari_prosma.plugin.check_window import CheckWindow

            self.check_window = CheckWindow(self.viewer, self)
        if wanted is None or wanted.folder != folder:
            wanted = Wanted(folder, self.labelled.currentData())
        self.check_window.check(wanted)

    def _classes_changed(self, rule: LabelRule | None) -> None:
        if self._wanted is not None:
            self._look_at(replace(self._wanted, rule=rule))

    def _follow(self, layer: Layer | None) -> None:
        """Tell how much is labelled of the layer that is drawn on, once the hand rests."""
        if self._followed is not None:
            for drawn in (self._followed.events.paint, self._followed.events.data):
                drawn.disconnect(self._drawn_on)
        self._followed = layer if isinstance(layer, LabelsLayer) else None
        if self._followed is not None:
            for drawn in (self._followed.events.paint, self._followed.events.data):
                drawn.connect(self._drawn_on)
        self._count_drawn.start()

    def _drawn_on(self, event: object = None) -> None:
        self._count_drawn.start()

    def _tell_drawn(self) -> None:
        layer, kind = self._followed, self.labelled.currentData()
        if not self.from_layers.isChecked():
            return
        self.summary.tell("")
        if layer is None or kind is None:
            return
        try:
            label, _ = class_indices(np.asarray(layer.data), layer, kind)
        except DataError as error:
            self.summary.tell_error(str(error))
        else:
            self.summary.tell(Coverage(kind).with_label(label).in_words())

    def _data_name(self) -> str:
        if self.from_folder.isChecked():
            return self.folder.path.name if self.folder.path is not None else "run"
        return self.image_layer.layer.name if self.image_layer.layer is not None else "run"

    def _suggest_run(self, name: str) -> None:
        if self.run_field.path not in (None, self._suggested):
            return
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "run"
        self._suggested = new_run_folder(safe)
        self.run_field.show_path(self._suggested)

    def _unit_changed(self, unit: str) -> None:
        self.limit.setValue(15 if unit == "minutes" else 100)

    def _folder_entered(self, folder: Path) -> None:
        self.classes.hide()
        self._suggest_run(folder.name)
        self._look_at(Wanted(folder, self.labelled.currentData()))

    def _look_at(self, wanted: Wanted) -> None:
        self.data_set, self._wanted = None, wanted
        self._findings = []
        if self.scan.is_running:
            self.scan.stop()
        else:
            self._scanning = wanted
            self.scan.start("ProSMA: looking at a folder", partial(_looking, wanted))

    def _scanned(self, event: Event) -> None:
        if isinstance(event, Started) and self.data_set is None:
            self._findings = [event.message]
        elif isinstance(event, Found) and event.wanted is self._wanted:
            self.data_set = data = event.data
            kind = {1: "gray", 3: "colour"}.get(data.channels, f"{data.channels} channels")
            said = f"labels: {data.labels.in_words()}"
            notices = [notice for notice in data.notices if notice != said]
            self._findings = [f"{data.summary}; {data.dims}D, {kind}", *notices, f"L{said[1:]}"]
            self.class_table.show_rule(data.labels)
            self.classes.setVisible(self.from_folder.isChecked())
        elif isinstance(event, Notice) and self.data_set is not None:
            self._findings.append(event.message)
        self._tell_folder()

    def _tell_folder(self) -> None:
        if self.from_folder.isChecked() and self._findings:
            self.summary.tell("\n".join(self._findings))

    def _scan_ended(self, ending: Ending) -> None:
        if self._wanted is not None and self._wanted is not self._scanning:
            self._look_at(self._wanted)
        elif ending.error is not None:
            self._findings = []
            self.summary.tell_error(str(ending.error))

    def _folder_data(self) -> Callable[[], Data]:
        folder, known = self.folder.path, self.data_set
        if folder is None:
            raise ConfigError("choose the folder of images and masks to learn from")
        wanted = self._wanted
        if wanted is None or wanted.folder != folder:
            known, wanted = None, Wanted(folder, self.labelled.currentData())

        def get() -> Data:
            data = known if known is not None else wanted.find()
            return data.cases, data.class_names

        return get

    def _layer_data(self) -> Callable[[], Data]:
        image, labels = self.image_layer.layer, self.labels_layer.layer
        if not isinstance(image, ImageLayer):
            raise ConfigError("open an image first, or learn from a folder")
        if not isinstance(labels, LabelsLayer):
            raise ConfigError("draw labels on the image first: add a labels layer and paint the structure")
        case, class_names = case_of(image, labels, self.labelled.currentData())
        return lambda: ((case,), class_names)

    def _make_curve(self) -> TrainingCurve:
        if self.curve is None:
            from napari_prosma.plugin.curves import TrainingCurve

            self.curve = TrainingCurve(self.viewer.theme)
            self.curve.setToolTip("Loss (lower is better) and Dice of the cases held out (1 is perfect)")
            self.curve_place.addWidget(self.curve)
        return self.curve

    def _show_figures(self, epoch: EpochEnd) -> None:
        number = f"Epoch {epoch.epoch}"
        if epoch.epochs < UNLIMITED_EPOCHS:
            number += f" of {epoch.epochs}"
        lines = [f"{number}: loss {epoch.loss:.3f}, {epoch.seconds:.1f} s, device: {self._device}"]
        zeros = [state["z_zero_fraction"] for state in epoch.gates.values() if "z_zero_fraction" in state]
        if zeros:
            lines.append("zeros in z, finest skip first: " + ", ".join(f"{share:.0%}" for share in zeros))
        self.figures.tell("\n".join(lines))
        self.figures.setToolTip(
            "zeros in z: share of the gate's inner signals that the threshold set to exactly zero. It is no "
            "share of the image that was removed."
        )
        classes = [name.removeprefix("dice/") for name in epoch.validation if name.startswith("dice/")]
        rows = [(name, epoch.validation[f"dice/{name}"], epoch.validation[f"iou/{name}"]) for name in classes]
        self.table.show_rows([(name, f"{dice:.3f}", f"{iou:.3f}") for name, dice, iou in rows])

    def _open_next(self, panel: str) -> None:
        _, widget = self.viewer.window.add_plugin_dock_widget("napari-prosma", panel, tabify=True)
        widget.model.set_path(self._run_dir)


@dataclass(frozen=True)
class Found(Event):
    """What a folder holds."""

    wanted: Wanted
    data: DataSet


def _looking(wanted: Wanted) -> Iterator[Event]:
    """Recognise a folder, then load what training needs while the user reads."""
    yield Started(0, f"Looking at '{wanted.folder.name}'")
    data = wanted.find()
    yield Found(wanted, data)
    if wanted.labelled is not None:
        yield Started(0, "Counting what is labelled")
        counted = deque(coverage(data, wanted.labelled), maxlen=1)
        yield from (Notice(found.in_words(len(data.cases))) for found in counted)
    yield from _loading()


def _training(settings: dict[str, Any], get_data: Callable[[], Data]) -> Iterator[Event]:
    yield from _loading()
    from napari_prosma.training.config import TrainConfig
    from napari_prosma.training.run import train

    # Python's search for garbage would go through all that napari and torch hold, with every thread halted
    # meanwhile (0.2 s and more); what is there now is left out until the run ends.
    gc.freeze()
    try:
        cases, class_names = get_data()
        yield from train(TrainConfig.of(**settings), cases, class_names)
    finally:
        gc.unfreeze()


def _loading() -> Iterator[Event]:
    """Import what is slow to import, in the thread, with a chance to stop in between."""
    gc.disable()  # a few hundred thousand new objects make Python search for garbage time and again
    try:
        for module, name in SLOW_TO_IMPORT.items():
            yield Started(0, f"Loading {name}")
            import_module(module)
        load_layers()
    finally:
        gc.enable()


def _fold(title: str, content: QWidget) -> QCollapsible:
    """A title that hides what few need."""
    fold = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    fold.setDuration(0)
    fold.setContent(content)
    fold.collapse(animate=False)
    return fold


def sizes_of(field: QLineEdit, what: str, kind: type[float]) -> tuple[float, ...] | None:
    """Positive numbers typed into a field, parted by commas, blanks or x; None where it is empty.

    Raises
    ------
    ConfigError
        Something else was typed.
    """
    text = field.text().strip()
    if not text:
        return None
    try:
        sizes = tuple(kind(part) for part in re.split(r"[\s,;x]+", text) if part)
    except ValueError:
        sizes = ()
    if not sizes or not all(0 < size < math.inf for size in sizes):
        example = "3, 1, 1" if kind is float else "32, 128, 128"
        whole = "" if kind is float else "whole "
        raise ConfigError(
            f"the {what} '{text}' is not understood; give one positive {whole}number per axis, such as "
            f"{example}, or leave it empty"
        )
    return sizes


def _numbers(count: int) -> str:
    return f"{count} number{'s' * (count != 1)}"


def _combo(choices: dict[str, Choice], default: str, tip: str) -> QComboBox:
    box = QComboBox()
    for index, (name, choice) in enumerate(choices.items()):
        box.addItem(f"{name}: {choice.words}", name)
        box.setItemData(index, choice.meaning, Qt.ItemDataRole.ToolTipRole)
    box.setCurrentIndex(box.findData(default))
    box.setMinimumContentsLength(10)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setToolTip(tip)
    return box
