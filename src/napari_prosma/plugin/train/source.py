"""What the Train panel learns from: a folder, or an image layer and the labels drawn on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QWidget,
)

from napari_prosma.data.labels import LabelRule, Sparse
from napari_prosma.data.layouts import DataSet
from napari_prosma.data.planes import slice_axis
from napari_prosma.errors import ConfigError, MissingMasksError, as_sentence
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.plugin.shared.choosers import DATA, JoinButton, LayerChooser, PathField
from napari_prosma.plugin.shared.class_name import ClassName, NewLabels
from napari_prosma.plugin.shared.fields import fold, group, in_a_row, stack
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.layers import (
    CHANNELS_FIRST,
    class_indices,
    finest,
    geometry_of,
    spatial_shape,
)
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.loading import loading
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.sparse import LABELLED, Coverage, Wanted, coverage
from napari_prosma.plugin.shared.strokes import Strokes
from napari_prosma.plugin.train.class_table import ClassTable
from napari_prosma.plugin.train.data import Data, FolderData, LayerData

if TYPE_CHECKING:
    from napari_prosma.plugin.train.check_window import CheckWindow


TAKEN = "If the slices without labels are background, set 'Labels are' to 'complete'."
GO_ON_DRAWING = "You can keep drawing during the run: corrections are learned at once."


class Source(QWidget):
    """The group *Learn from*.

    Signals
    -------
    changed()
        Another folder, other layers, or other classes.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.data_set: DataSet | None = None
        self.check_window: CheckWindow | None = None
        self._wanted: Wanted | None = None
        self._findings: list[str] = []
        self._is_told = self._takes_for_slices = self._is_kind_told = False
        self.scan = NewestJob(self, happened=self._scanned, ended=self._scan_ended)
        self.counting = NewestJob(self, finished=self._counted, failed=self._counting_failed)
        self._strokes = Strokes(viewer, self)
        self._strokes.rested.connect(self._count_drawn)
        box, self._form = group("Learn from")
        stack(self, box)
        self._add_choice()
        self._add_folder()
        self._add_layers()
        self._add_meaning()
        is_open = bool(self.labels_layer.layers()) or len(self.image_layer.layers()) == 1
        (self.from_layers if is_open else self.from_folder).setChecked(True)
        self.from_folder.toggled.connect(self._kind_changed)
        self.from_folder.clicked.connect(self._kind_told)
        self.from_layers.clicked.connect(self._kind_told)
        self._kind_changed()

    @property
    def name(self) -> str:
        """What the run is named after."""
        if self.from_folder.isChecked():
            return self.folder.path.name if self.folder.path is not None else "run"
        return self.image_layer.layer.name if self.image_layer.layer is not None else "run"

    @property
    def axes(self) -> int | None:
        """Spatial axes of the images to learn from, where they are known."""
        if self.from_folder.isChecked():
            return self.data_set.dims if self.data_set is not None else None
        layer = self.labels_layer.layer
        return layer.ndim if layer is not None else None

    def data(self, run_dir: Path) -> Data:
        """What the form says, for a run that is kept in ``run_dir``.

        Raises ``ConfigError``: something has to be chosen first. ``DataError``: the labels do not lie on the
        image.
        """
        if self.from_layers.isChecked():
            image, labels = self.image_layer.layer, self.labels_layer.layer
            if image is None:
                raise ConfigError("first open an image, or learn from a folder")
            if labels is None:
                raise ConfigError("draw labels on the image first: press 'New labels', paint the structure")
            if self._may_take_for_slices(labels):  # what was painted a moment ago may not be counted yet
                painted, slices = _painted_slices(np.asarray(labels.data), labels)
                if 0 < painted < slices:
                    self._take_for_slices()
            return LayerData(LiveCase(image, labels, self.labelled.currentData(), run_dir))
        folder, wanted = self.folder.path, self._wanted
        if folder is None:
            raise ConfigError("choose the folder of images and masks to learn from")
        if wanted is None or wanted.folder != folder:
            return FolderData(Wanted(folder, self.labelled.currentData()), None)
        return FolderData(wanted, self.data_set)

    def take_folder(self, folder: Path, labels: LabelRule | None) -> None:
        """Learn from this folder, whose complete labels mean this, or what is found."""
        self.from_folder.setChecked(True)
        self.labelled.setCurrentIndex(self.labelled.findData(None))
        self.folder.show_path(folder)
        self.classes.hide()
        self._forget_labelled_only()
        self._look_at(Wanted(folder, rule=labels))

    def _add_choice(self) -> None:
        self.from_folder = QRadioButton("a folder")
        self.from_folder.setToolTip("Many images, each with a mask that marks the structure")
        self.from_layers = QRadioButton("open layers")
        self.from_layers.setToolTip(
            "One image that is open in napari, and labels drawn on it; you can keep drawing during the run"
        )
        choice = in_a_row(self.from_folder, self.from_layers)
        self._form.addRow(choice)

    def _add_folder(self) -> None:
        self.folder = PathField(DATA, "images and masks")
        self.folder.line.setToolTip(
            "A folder with 'images' and 'masks' in it, or masks beside their images (x.png, x_mask.png), or "
            "a data set of the Medical Segmentation Decathlon"
        )
        self.folder.chosen.connect(self._folder_entered)
        self._form.addRow("Folder", self.folder)

    def _add_layers(self) -> None:
        self.image_layer = LayerChooser(self.viewer, ImageLayer)
        self.image_layer.setToolTip("The image to learn from")
        self.image_layer.currentIndexChanged.connect(self._image_opened)
        self.image_layer.currentIndexChanged.connect(self._layers_changed)
        self.labels_layer = LayerChooser(self.viewer, LabelsLayer)
        self.labels_layer.setToolTip("Labels drawn on it: 0 is background, each other number a class")
        self.labels_layer.currentIndexChanged.connect(self._layers_changed)
        self.channels_first = QCheckBox("first axis is channels")
        self.channels_first.setToolTip(
            "The first axis of the image holds channels, such as sequences or stains, and the "
            "labels are drawn on all of them"
        )
        self.channels_first.clicked.connect(self._channels_told)
        self.join_button = JoinButton(self.viewer)
        self.join_button.joined.connect(self.image_layer.choose)
        self._form.addRow("Image", self.image_layer)
        self._form.addRow("", self.join_button)
        self._form.addRow("", self.channels_first)
        self.new_labels = NewLabels(self.viewer, self._image)
        self.class_name = ClassName()
        self.class_name.changed.connect(self.changed)
        self._form.addRow("Labels", self.labels_layer)
        self._form.addRow("", self.new_labels)
        self._form.addRow("", self.class_name)

    def _add_meaning(self) -> None:
        self.labelled = QComboBox()
        for index, (kind, meant) in enumerate(LABELLED.items()):
            self.labelled.addItem(meant.words, kind)
            self.labelled.setItemData(index, meant.meaning, Qt.ItemDataRole.ToolTipRole)
        self.labelled.setToolTip(
            "Whether everything is labelled: nothing is learned from elements that are not labelled"
        )
        self.labelled.currentIndexChanged.connect(self._labelled_changed)
        self.labelled.activated.connect(self._meaning_told)
        self.summary = Message()
        self.join_button.refused.connect(self.summary.tell_error)
        self.class_table = ClassTable()
        self.class_table.changed.connect(self._classes_changed)
        self.classes = fold("Classes", self.class_table)
        self.classes.hide()
        self.images_pattern, self.masks_pattern = QLineEdit(), QLineEdit()
        for line, example in ((self.images_pattern, "images/*"), (self.masks_pattern, "masks/*")):
            line.setPlaceholderText(f"as found, or such as {example}")
            line.setToolTip("Folder and name of the files, with * for what differs from case to case")
            line.editingFinished.connect(self._patterns_entered)
        files = QWidget()
        patterns = QFormLayout(files)
        patterns.addRow("Images", self.images_pattern)
        patterns.addRow("Masks", self.masks_pattern)
        self.files = fold("Files", files)
        self.check_button = QPushButton("Check data")
        self.check_button.setToolTip("Check every case for problems before training on it")
        self.check_button.clicked.connect(self._check)
        self._form.addRow("Labels are", self.labelled)
        self.labelled_only = QCheckBox("leave out images without a mask")
        self.labelled_only.setToolTip("Learn only from images that have a mask")
        self.labelled_only.clicked.connect(self._labelled_only_told)
        self.labelled_only.hide()
        self._form.addRow(self.summary)
        self._form.addRow(self.labelled_only)
        self._form.addRow(self.files)
        self._form.addRow(self.classes)
        self._form.addRow(self.check_button)

    def _kind_changed(self) -> None:
        by_folder = self.from_folder.isChecked()
        self._form.setRowVisible(self.folder, by_folder)
        for field in (
            self.image_layer,
            self.join_button,
            self.labels_layer,
            self.new_labels,
            self.class_name,
        ):
            self._form.setRowVisible(field, not by_folder)
        self.summary.tell("")
        self.classes.setVisible(by_folder and self.data_set is not None)
        self.files.setVisible(by_folder)
        self.labelled_only.setVisible(by_folder and self.labelled_only.isChecked())
        self.check_button.setVisible(by_folder)
        if by_folder:
            self._tell_folder()
        self._layers_changed()

    def _kind_told(self) -> None:
        """By the user; from now on it does not follow what is open."""
        self._is_kind_told = True

    def _image_opened(self) -> None:
        """The only one is learned from, unless the user says otherwise or chose a folder."""
        is_only = len(self.image_layer.layers()) == 1
        if is_only and not self._is_kind_told and self.folder.path is None:
            self.from_layers.setChecked(True)

    def _image(self) -> ImageLayer | None:
        return self.image_layer.layer

    def _channels_told(self, are_first: bool) -> None:
        image = self.image_layer.layer
        if image is not None:
            image.metadata[CHANNELS_FIRST] = are_first
            self._layers_changed()

    def _show_channels(self) -> None:
        """Ask for channels where the image has an axis more than the labels."""
        image, labels = self.image_layer.layer, self.labels_layer.layer
        told = image is not None and bool(image.metadata.get(CHANNELS_FIRST))
        more = image is not None and labels is not None and len(spatial_shape(image)) == labels.ndim + 1
        self.channels_first.setChecked(told)
        self._form.setRowVisible(self.channels_first, self.from_layers.isChecked() and (more or told))

    def _layers_changed(self) -> None:
        if self._takes_for_slices and not self._is_told:  # other layers, or a folder, are looked at anew
            self._takes_for_slices = False
            self.labelled.setCurrentIndex(self.labelled.findData(None))
        self._show_channels()
        labels = self.labels_layer.layer if self.from_layers.isChecked() else None
        self._strokes.watch(labels)
        self.class_name.follow(labels)
        self._count_drawn()
        self.changed.emit()

    def _meaning_told(self) -> None:
        """By the user; from now on nothing is taken for granted."""
        self._is_told = True

    def _may_take_for_slices(self, layer: LabelsLayer) -> bool:
        """Whether they are drawn by hand, and the user did not say what they mean."""
        by_hand = layer.source.path is None and isinstance(layer.data, np.ndarray)
        return by_hand and self.labelled.currentData() is None and not self._is_told

    def _take_for_slices(self) -> None:
        """Slices that are empty beside painted ones are not labelled, unless the user says otherwise."""
        self._takes_for_slices = True
        self.labelled.setCurrentIndex(self.labelled.findData("slices"))

    def _labelled_changed(self) -> None:
        if self._wanted is not None:
            self._look_at(replace(self._wanted, labelled=self.labelled.currentData()))
        self._count_drawn()
        self.changed.emit()

    def _classes_changed(self, rule: LabelRule | None) -> None:
        if self._wanted is not None:
            self._look_at(replace(self._wanted, rule=rule))

    def _patterns_entered(self) -> None:
        """Files told by patterns, once both or none are there."""
        images, masks = (line.text().strip() or None for line in (self.images_pattern, self.masks_pattern))
        if self._wanted is None or (images is None) != (masks is None):
            return
        if (images, masks) != (self._wanted.images, self._wanted.masks):
            self._look_at(replace(self._wanted, rule=None, images=images, masks=masks))

    def _check(self) -> None:
        folder, wanted = self.folder.path, self._wanted
        if folder is None:
            self.summary.tell_error("choose the folder of images and masks to check")
            return
        if self.check_window is None:
            from napari_prosma.plugin.train.check_window import CheckWindow

            self.check_window = CheckWindow(self.viewer, self)
        if wanted is None or wanted.folder != folder:
            wanted = Wanted(folder, self.labelled.currentData())
        self.check_window.check(wanted)

    def _count_drawn(self) -> None:
        """Tell how much of the layer is labelled; counted in a thread, since a volume takes a while."""
        if self.from_folder.isChecked():
            return
        self.counting.ask(self._count)

    def _count(self) -> None:
        layer, kind = self.labels_layer.layer, self.labelled.currentData()
        if layer is None:
            self.summary.tell("")
        elif kind is None and layer.ndim < 3:
            self.summary.tell(GO_ON_DRAWING)
        else:
            self.counting.start("ProSMA: counting what is labelled", partial(_counting, layer, kind))

    def _counted(self, counted: tuple[str, int, int]) -> None:
        if not self.from_layers.isChecked():
            return
        said, painted, slices = counted
        layer = self.labels_layer.layer
        if 0 < painted < slices and layer is not None and self._may_take_for_slices(layer):
            self._take_for_slices()  # which counts anew
            return
        taken = self._takes_for_slices and not self._is_told
        self.summary.tell(f"{said}. {TAKEN} {GO_ON_DRAWING}" if taken else said)

    def _counting_failed(self, error: str) -> None:
        if self.from_layers.isChecked():
            self.summary.tell_error(error)

    def _labelled_only_told(self, wanted: bool) -> None:
        if self._wanted is not None:
            self._look_at(replace(self._wanted, labelled_only=wanted))

    def _folder_entered(self, folder: Path) -> None:
        self.classes.hide()
        self._forget_labelled_only()
        self.images_pattern.clear()
        self.masks_pattern.clear()
        self._look_at(Wanted(folder, self.labelled.currentData()))

    def _look_at(self, wanted: Wanted) -> None:
        self.data_set, self._wanted = None, wanted
        self._findings = []
        self.scan.ask_for("ProSMA: looking at a folder", partial(_looking, wanted))
        self.changed.emit()

    def _scanned(self, event: Event) -> None:
        if isinstance(event, Started) and self.data_set is None:
            self._findings = [event.message]
        elif isinstance(event, Found) and event.wanted is self._wanted:
            self.data_set = data = event.data
            kind = {1: "gray", 3: "colour"}.get(data.channels, f"{data.channels} channels")
            said = f"labels: {data.labels.in_words()}"
            notices = [as_sentence(notice) for notice in data.notices if notice != said]
            self._findings = [f"{data.summary}; {data.dims}D, {kind}", *notices, f"L{said[1:]}"]
            self.class_table.show_rule(data.labels, data.layout == "DICOM")
            self.classes.setVisible(self.from_folder.isChecked())
            self.changed.emit()
        elif isinstance(event, Notice) and self.data_set is not None:
            self._findings.append(event.message)
        self._tell_folder()

    def _tell_folder(self) -> None:
        if self.from_folder.isChecked() and self._wanted is not None and self._findings:
            self.summary.tell("\n".join(self._findings))

    def _scan_ended(self, ending: Ending) -> None:
        if ending.error is not None:
            self._findings = []
            self.summary.tell_error(str(ending.error))
            if isinstance(ending.error, MissingMasksError):
                self.labelled_only.setVisible(self.from_folder.isChecked())

    def _forget_labelled_only(self) -> None:
        self.labelled_only.setChecked(False)
        self.labelled_only.hide()


@dataclass(frozen=True)
class Found(Event):
    """What a folder holds."""

    wanted: Wanted
    data: DataSet


def _looking(wanted: Wanted) -> Iterator[Event]:
    """Recognise a folder, then load what training needs while the user reads."""
    yield Started(0, f"Reading '{wanted.folder.name}'")
    data = wanted.find()
    yield Found(wanted, data)
    if wanted.labelled is not None:
        yield Started(0, "Counting what is labelled")
        counted = deque(coverage(data, wanted.labelled), maxlen=1)
        yield from (Notice(found.in_words(len(data.cases))) for found in counted)
    yield from loading()


def _counting(layer: LabelsLayer, kind: Sparse | None) -> Iterator[Event]:
    """Words for what is labelled, and how many slices of how many hold anything."""
    drawn = np.asarray(finest(layer))
    painted, slices = _painted_slices(drawn, layer)
    if kind is None:
        said = _complete_in_words(painted, slices)
    else:
        label, _ = class_indices(drawn, layer, kind)
        said = Coverage(kind).with_label(label, slice_axis(geometry_of(layer))).in_words()
    yield Finished((said, painted, slices))


def _painted_slices(drawn: np.ndarray, layer: LabelsLayer) -> tuple[int, int]:
    """How many slices of how many hold anything; a picture has none that does."""
    if drawn.ndim < 3:
        return 0, len(drawn)
    slices = np.moveaxis(drawn, slice_axis(geometry_of(layer)), 0)
    return sum(bool(plane.any()) for plane in slices), len(slices)


def _complete_in_words(painted: int, slices: int) -> str:
    """What complete labels of a volume mean for the slices that nobody may have painted yet."""
    if not 0 < painted < slices / 2:
        return GO_ON_DRAWING
    return (
        f"Only {painted} of {slices} slices have labels: the others are learned as background. If they "
        f"are not painted yet, set 'Labels are' to '{LABELLED['slices'].words}'. {GO_ON_DRAWING}"
    )
