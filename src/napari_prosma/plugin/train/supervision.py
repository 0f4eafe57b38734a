"""What the labels are like: all there and right, few, or doubtful; and what learning does about it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QWidget
from superqt import QCollapsible

from napari_prosma.data.labels import BINARY
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.limits import real
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.shared.access import name_controls
from napari_prosma.plugin.shared.choosers import PathField
from napari_prosma.plugin.shared.fields import combo, folded_form, group, stack
from napari_prosma.plugin.shared.form import Form
from napari_prosma.plugin.shared.layer_ticks import LayerTicks
from napari_prosma.plugin.shared.layers import spatial_shape
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.settings import entries_of
from napari_prosma.training.config import SETTINGS
from napari_prosma.training.objectives import OBJECTIVES, ObjectiveKind


class Supervision(QWidget):
    """One choice, and below it only what the choice asks for.

    Attributes
    ----------
    options, folds : dict of Form, of QCollapsible
        What an objective leaves to choose, and the fold with it, by its name; made once it is chosen.

    Signals
    -------
    changed()
        Something was set.
    look_first()
        The list of doubted labels of an earlier run shall be opened.
    """

    changed = Signal()
    look_first = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._image: ImageLayer | None = None
        self._labelled: DataSet | None = None
        self._found: DataSet | None = None
        self._from_layers = False
        box, self._form = group("Label quality")
        stack(self, box)
        entry = SETTINGS["objective"]
        self.objective = combo(entry.choices, entry.default, "How complete and how reliable the labels are")
        self.sentence = Message()
        self.folder = PathField("Choose the folder of unlabelled images", "unlabelled images")
        self.folder.line.setToolTip(
            "A folder of more images of the same kind, such as all unlabelled ones, or images from "
            "another scanner that the model should work on. Labels in the folder are not read"
        )
        self.layers = LayerTicks(viewer, self._is_alike)
        self.layers.list.setToolTip("Tick the unlabelled images to learn from")
        self.found = Message()
        self.scan = NewestJob(
            self, happened=self._tell_looking, finished=self._scanned, failed=self.found.tell_error
        )
        self.look_button = QPushButton("Suspicious labels…")
        self.look_button.setToolTip("Choose the folder of an earlier run to see its suspicious labels")
        self.look_button.clicked.connect(self.look_first)
        self._form.addRow(self.objective)
        self._form.addRow(self.sentence)
        self._form.addRow("Unlabelled", self.folder)
        self._form.addRow("Unlabelled layers", self.layers)
        self._form.addRow(self.found)
        self.options: dict[str, Form] = {}
        self.folds: dict[str, QCollapsible] = {}
        self._form.addRow(self.look_button)
        self._show()
        self.objective.currentIndexChanged.connect(self._show)
        self.folder.chosen.connect(self._look_at)
        self.folder.line.textChanged.connect(self._folder_typed)
        self.layers.changed.connect(self._tell_found)
        self._tell_changes()

    def values(self) -> dict[str, Any]:
        """What is chosen, as settings of ``TrainConfig``; ticked layers are told by :meth:`ticked`.

        Raises ``ConfigError``: scales that are not understood.
        """
        name = self.objective.currentData()
        settings: dict[str, Any] = {"objective": name}
        if self.options[name]:
            settings["objective_options"] = self.options[name].settings()
        if self._kind.takes_unlabelled and not self._from_layers and self.folder.path is not None:
            settings["unlabelled"] = real(self.folder.path)
        return settings

    @property
    def _kind(self) -> ObjectiveKind:
        return OBJECTIVES[self.objective.currentData()]

    def ticked(self) -> tuple[ImageLayer, ...]:
        """Image layers to learn from without labels."""
        few = self._kind.takes_unlabelled and self._from_layers
        return tuple(self.layers.ticked()) if few else ()

    def learn_from(self, from_layers: bool, image: ImageLayer | None, labelled: DataSet | None) -> None:
        """What is labelled: this image layer, or this data set where it is known."""
        was, self._from_layers = self._from_layers, from_layers
        self._image, self._labelled = image, labelled
        self.layers.leave_out(image)
        if was != from_layers:
            self._show()
        else:
            self._tell_found()

    def _is_alike(self, layer: ImageLayer) -> bool:
        return self._image is None or len(spatial_shape(layer)) == len(spatial_shape(self._image))

    def _show(self) -> None:
        """Only the rows that the choice asks for."""
        self._add_options(self.objective.currentData())
        name, few = self.objective.currentData(), self._kind.takes_unlabelled
        self.sentence.tell("" if name == SETTINGS["objective"].default else self._kind.choice.meaning)
        self._form.setRowVisible(self.folder, few and not self._from_layers)
        self._form.setRowVisible(self.layers, few and self._from_layers)
        self._form.setRowVisible(self.look_button, self._kind.doubts_labels)
        for each, folded in self.folds.items():
            self._form.setRowVisible(folded, each == name)
        self._tell_found()

    def _add_options(self, name: str) -> None:
        """Ask for what an objective leaves to choose, above the button; most users never choose another."""
        if name in self.options:
            return
        self.options[name] = fields = Form(entries_of(OBJECTIVES[name].options).values())
        if not fields:
            return
        self.folds[name], form = folded_form("Advanced")
        fields.add_to(form)
        fields.on_change(self._tell)
        name_controls(self.folds[name])
        self._form.insertRow(self._form.rowCount() - 1, self.folds[name])
        # Made late, they would come last.
        chain = [
            self.layers.list,
            self.folds[name].toggleButton(),
            *(each.native for each in fields.values()),
        ]
        for before, after in pairwise(chain):
            QWidget.setTabOrder(before, after)

    def _tell_found(self) -> None:
        """How many unlabelled images there are, and whether the network can take them."""
        if not self._kind.takes_unlabelled:
            self.found.tell("")
        elif self._from_layers:
            self.found.tell(_counted(len(self.layers.ticked())))
        elif self.folder.path is None:
            self.found.tell(_counted(0))
        elif self._found is not None:
            wrong = _misfit(self._found, self._labelled)
            if wrong:
                self.found.tell_error(wrong)
            else:
                self.found.tell(_counted(len(self._found.cases)))

    def _folder_typed(self) -> None:
        self._found = None
        self._tell_found()

    def _look_at(self, folder: Path) -> None:
        self._found = None
        looking = partial(_looking, folder)
        self.scan.ask_for("ProSMA: looking at unlabelled images", looking)

    def _tell_looking(self, event: Event) -> None:
        if isinstance(event, Started):
            self.found.tell(event.message)

    def _scanned(self, found: DataSet) -> None:
        if found.folder == self.folder.path:
            self._found = found
            self._tell_found()

    def _tell_changes(self) -> None:
        self.objective.currentIndexChanged.connect(self._tell)
        self.folder.line.textChanged.connect(self._tell)
        self.layers.changed.connect(self._tell)

    def _tell(self, *_: object) -> None:
        self.changed.emit()


# ---- the unlabelled images --------------------------------------------------------------------------------


def _looking(folder: Path) -> Iterator[Event]:
    yield Started(0, f"Reading '{folder.name}'")
    yield Finished(find_cases(folder, require_labels=False, labels=BINARY))  # labels are not read


def _counted(number: int) -> str:
    if not number:
        return "No unlabelled images chosen yet: the network learns from the labels alone"
    return f"{number} unlabelled image{'s' * (number != 1)} to learn from"


def _misfit(found: DataSet, labelled: DataSet | None) -> str:
    """Why the network of the labelled images cannot take these; empty = it can, as far as is known."""
    if labelled is None or (found.dims, found.channels) == (labelled.dims, labelled.channels):
        return ""
    of_found, of_labelled = (
        f"{data.dims}D with {data.channels} channel{'s' * (data.channels != 1)}" for data in (found, labelled)
    )
    return (
        f"the images in '{found.folder}' are {of_found}, but the labelled ones {of_labelled}; choose "
        f"images like those"
    )
