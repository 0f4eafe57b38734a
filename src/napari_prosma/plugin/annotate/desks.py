"""Where *Annotate next* opens what is to be annotated, and saves it: images of a folder, or one volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_prosma.app.label_place import LabelPlace, label_place
from napari_prosma.data.layouts import DataSet
from napari_prosma.data.names import file_stem
from napari_prosma.data.planes import slice_axis
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished
from napari_prosma.plugin.annotate.next_jobs import ImageOpened, Predicted, opening, saving
from napari_prosma.plugin.shared.asking import agrees
from napari_prosma.plugin.shared.class_name import values_of_classes
from napari_prosma.plugin.shared.guesses import marks_of
from napari_prosma.plugin.shared.job import Job
from napari_prosma.plugin.shared.layers import (
    CLASS_NAMES,
    add_layer,
    folder_of,
    geometry_of,
    go_to,
    hide_previews,
    keeping_selection,
    new_labels,
    remove_layers,
    spatial_shape,
    write_layer,
)
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.placing import onto_image, steps_between
from napari_prosma.plugin.shared.prediction import PREDICTION, Prediction
from napari_prosma.plugin.shared.unsaved import note_saved, unsaved_of

if TYPE_CHECKING:
    from napari_prosma.model.checkpoint import Checkpoint

PREDICTED = "prediction"
_OF = "image of a folder"
"""Key of the layers that were opened of a folder; whoever ranks it next goes on with them."""


class Desk(QObject):
    """What both kinds share.

    Signals
    -------
    message(str), failed(str)
        For the message of the list.
    saved(str)
        What is done: an image's name, or a slice's.
    """

    message = Signal(str)
    failed = Signal(str)
    saved = Signal(str)

    def __init__(self, viewer: napari.Viewer, parent: QWidget) -> None:
        super().__init__(parent)
        self.viewer, self._parent = viewer, parent
        self.saving = Job(self, notify=False, failed=self.failed)

    def _show_prediction(
        self, image: ImageLayer, labels: LabelsLayer, made: Predicted, name: str, values: np.ndarray
    ) -> Prediction:
        shown = Prediction(self.viewer, image, labels, values, name)
        shown.show((None,) * made.classes.ndim, made.classes, made.sureness)
        return shown


@dataclass(frozen=True)
class _Origin:
    """Of which folder a layer shows which image, and the classes by which its labels are numbered."""

    folder: Path
    name: str
    class_names: tuple[str, ...]


@dataclass(eq=False)
class _OpenImage:
    """An image of the folder whose labels are open."""

    image: ImageLayer | None
    labels: LabelsLayer
    prediction: Prediction | None = None
    is_outdated: bool = False  # the prediction, since it was made for an earlier list

    @property
    def has_prediction(self) -> bool:
        """It was made, and nobody closed it."""
        return self.prediction is not None and not self.is_outdated and self.prediction.outline.is_there

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by which the labels are numbered."""
        origin: _Origin = self.labels.metadata[_OF]
        return origin.class_names


class FolderDesk(Desk):
    """Images of a folder, one at a time, with their predictions."""

    def __init__(self, viewer: napari.Viewer, parent: QWidget, checkpoint: Checkpoint, data: DataSet) -> None:
        super().__init__(viewer, parent)
        self._checkpoint, self._data = checkpoint, data
        self._names: tuple[str, ...] = checkpoint.plan.class_names
        self._opened = self._left_open()
        self._saved: dict[str, LabelPlace] = {}
        self._may_write = self._is_proved = False
        self._empty = ""
        self._under_way: tuple[str, np.ndarray] | None = None
        self.opening = NewestJob(self, happened=self._happened, failed=self.failed)
        self.saving.finished.connect(self._written)

    def take_over(self, earlier: FolderDesk) -> None:
        """Know what an earlier desk saved, if it was of the same folder and the same classes."""
        if (earlier._data.folder, earlier._names) == (self._data.folder, self._names):
            self._saved = dict(earlier._saved)

    def open(self, name: str) -> None:
        """Show an image, its labels and what is predicted; what is open and saved makes way."""
        hide_previews(self.viewer)
        for other, each in list(self._opened.items()):
            if other != name or each.class_names != self._names:
                self._make_way(other, each)
        if self._has_other_classes(name):
            return
        held = self._opened.get(name)
        if held is not None and {held.image, held.labels} <= set(self.viewer.layers) and held.has_prediction:
            assert held.image is not None
            assert held.prediction is not None
            for layer in (held.image, held.labels, held.prediction.outline.layer):
                layer.visible = True
            self.viewer.layers.selection.active = held.labels
            self.message.emit(self._hint(name))
            return
        self.message.emit(f"Opening '{name}'")
        case = next(case for case in self._data.cases if case.name == name)
        reading = partial(opening, self._checkpoint, case, self._saved.get(name))
        self.opening.ask_for(f"ProSMA: opening {name}", reading)

    def save(self, name: str) -> None:
        """Write the labels of an image where they belong; asks once per folder."""
        held = self._opened.get(name)
        if held is None or held.labels not in self.viewer.layers:
            self.failed.emit(f"the labels of '{name}' are not open; click its row to open it")
            return
        if self._has_other_classes(name):
            return
        if self.saving.is_running:
            self.message.emit("The previous labels are still being saved; press again in a moment")
            return
        labels = np.array(held.labels.data)
        if not labels.any() and self._empty != name:
            self._empty = name
            self.message.emit(
                f"Nothing is drawn or accepted on '{name}'. If that is right, press Done, next again: it is "
                "saved as empty"
            )
            return
        case = next(case for case in self._data.cases if case.name == name)
        try:
            place = label_place(self._data, case, self._names)
        except DataError as error:
            if held.labels in unsaved_of(self.viewer).layers() or not labels.any():
                self.failed.emit(str(error))
            else:  # saved by hand meanwhile
                self.saved.emit(name)
            return
        if not self._may_write and not self._agrees(place):
            self.message.emit("Nothing was saved")
            return
        self._may_write = True
        self._under_way = name, labels
        geometry = geometry_of(held.labels)
        marks, replaces = marks_of(held.labels, labels), name in self._saved
        self.saving.start(
            f"ProSMA: saving the labels of {name}",
            partial(saving, place, labels, geometry, self._names, marks, replaces, self._is_proved),
        )

    def _happened(self, event: Event) -> None:
        if isinstance(event, ImageOpened):
            held = self._opened.get(event.name)
            if held is not None and held.prediction is not None:
                held.prediction.remove()
            # What the user closed of it is opened again, the rest is there.
            image, labels = (
                kept if kept in self.viewer.layers else add_layer(self.viewer, made)
                for kept, made in (
                    (None if held is None else held.image, event.image),
                    (None if held is None else held.labels, event.labels),
                )
            )
            assert isinstance(image, ImageLayer)
            assert isinstance(labels, LabelsLayer)
            self.viewer.layers.move(self.viewer.layers.index(labels), len(self.viewer.layers))
            image.visible = labels.visible = True
            image.metadata[_OF] = labels.metadata[_OF] = self._origin_of(event.name)
            self._opened[event.name] = _OpenImage(image, labels)
            self.viewer.reset_view()
            self.viewer.layers.selection.active = labels
            self.message.emit(f"'{event.name}' is open; its prediction follows")
        elif isinstance(event, Predicted):
            held = self._opened.get(event.name)
            if held is not None and {held.image, held.labels} <= set(self.viewer.layers):
                assert held.image is not None
                values = np.arange(len(self._names))
                made = self._show_prediction(
                    held.image, held.labels, event, f"{event.name} {PREDICTED}", values
                )
                held.prediction = made
                self.message.emit(self._hint(event.name))

    def _origin_of(self, name: str) -> _Origin:
        return _Origin(self._data.folder.resolve(), name, self._names)

    def _left_open(self) -> dict[str, _OpenImage]:
        """Images of the folder that are open since an earlier list, also that of a panel that was closed."""
        layers = list(self.viewer.layers)
        predictions = [shown for layer in layers if (shown := layer.metadata.get(PREDICTION)) is not None]
        found: dict[str, _OpenImage] = {}
        for labels in layers:
            origin: _Origin | None = labels.metadata.get(_OF)
            if not isinstance(labels, LabelsLayer) or origin is None or origin.name in found:
                continue
            if origin.folder == self._data.folder.resolve():
                images = [x for x in layers if isinstance(x, ImageLayer) and x.metadata.get(_OF) == origin]
                shown = [each for each in predictions if each.drawn is labels]
                found[origin.name] = _OpenImage(
                    images[0] if images else None, labels, shown[-1] if shown else None, is_outdated=True
                )
        return found

    def _has_other_classes(self, name: str) -> bool:
        """Whether labels of an image are open that are numbered by the classes of another model; told."""
        held = self._opened.get(name)
        if held is None or held.labels not in self.viewer.layers or held.class_names == self._names:
            return False
        theirs, ours = (", ".join(names[1:]) for names in (held.class_names, self._names))
        self.failed.emit(
            f"'{held.labels.name}' was drawn with the classes {theirs}, but those of this model are {ours}; "
            "save it by File > Save Selected Layers or close it, then click its row again"
        )
        return True

    def _hint(self, name: str) -> str:
        return f"'{name}': accept what is right, draw what is missing, then Done, next"

    def _written(self, place: LabelPlace) -> None:
        assert self._under_way is not None
        (name, labels), self._under_way = self._under_way, None
        self._saved[name], self._is_proved = place, True
        held = self._opened.get(name)
        if held is not None and np.array_equal(held.labels.data, labels):
            note_saved(held.labels.data)
        self.saved.emit(name)
        self.message.emit(f"Saved '{place.path.name}'")

    def _make_way(self, name: str, held: _OpenImage) -> None:
        """Close what is saved or was not touched; hide what is not saved."""
        shown = (held.image, held.labels)
        open_layers = [layer for layer in shown if layer is not None and layer in self.viewer.layers]
        if held.labels in unsaved_of(self.viewer).layers():
            for layer in open_layers:
                layer.visible = False
            if held.prediction is not None:
                held.prediction.outline.layer.visible = False
            return
        if held.prediction is not None:
            held.prediction.remove()
        remove_layers(self.viewer, *open_layers)
        del self._opened[name]

    def _agrees(self, place: LabelPlace) -> bool:
        question = f"Save the labels as '{place.path.name}'?"
        stored = ", ".join(f"{name} = {value}" for name, value in zip(self._names, place.values, strict=True))
        told = (
            f"{place.path}\n\nStored as {stored}. The labels of further images in this folder are named "
            "in the same way; you are asked once. Files of others are never overwritten."
        )
        return agrees(
            self._parent, question, told, "Save", leave="Not now", title="Save labels", is_default=True
        )


class VolumeDesk(Desk):
    """The slices of a volume, on one labels layer; ``names`` are the classes of the model."""

    def __init__(
        self,
        viewer: napari.Viewer,
        parent: QWidget,
        image: ImageLayer,
        labels: LabelsLayer | None,
    ) -> None:
        super().__init__(viewer, parent)
        self.image = image
        self.names: tuple[str, ...] = ()
        lies_there = labels is not None and _lies_on(labels, image)
        self.labels = labels if lies_there else None
        self._made: Predicted | None = None
        self._prediction: Prediction | None = None
        self._values: np.ndarray | None = None  # what the labels store for each class
        self._remark = ""
        self._path: Path | None = None
        self._under_way: tuple[str, np.ndarray] | None = None
        self.saving.finished.connect(self._written)
        self.saving.failed.connect(self._ask_anew)

    def drawn(self) -> LabelsLayer:
        """The labels layer; a new one where none is open that lies on the image."""
        if self.labels is not None and self.labels in self.viewer.layers:
            return self.labels
        labels = self._new_labels()
        if self._made is not None:  # for those that were closed
            self.show(self._made)
        return labels

    def labelled(self) -> np.ndarray:
        """Indices of the slices on which something is drawn."""
        if self.labels is None:
            return np.zeros(0, int)
        stored = onto_image(np.asarray(self.labels.data), self.labels, self.image)
        across = slice_axis(geometry_of(self.image))
        others = tuple(axis for axis in range(stored.ndim) if axis != across)
        return np.flatnonzero(stored.any(axis=others))

    def show(self, made: Predicted) -> None:
        """What the model makes of all slices."""
        if self.image not in self.viewer.layers:
            return
        self._made = made
        with keeping_selection(self.viewer):
            if self._prediction is not None:
                self._prediction.remove()
            labels, values = self._values_in()
            name = f"{self.image.name} {PREDICTED}"
            self._prediction = self._show_prediction(self.image, labels, made, name, values)
        self.viewer.layers.selection.active = labels

    def go_to(self, number: int) -> None:
        """Show a slice."""
        if self.image not in self.viewer.layers:
            self.failed.emit(f"the image '{self.image.name}' was closed; open it again, then rank its slices")
            return
        if self.viewer.dims.ndisplay == 3:
            self.viewer.dims.ndisplay = 2
        middle = [n // 2 for n in spatial_shape(self.image)]
        middle[slice_axis(geometry_of(self.image))] = number
        labels = self.drawn()
        if self._prediction is not None and not self._prediction.outline.is_there and self._made is not None:
            self.show(self._made)  # it was closed
        labels.visible = True
        index = np.subtract(middle, steps_between(labels, self.image) or 0)
        go_to(self.viewer, labels, index.tolist())
        self.viewer.layers.selection.active = labels
        self.message.emit(
            f"Slice {number}: accept what is right, draw what is missing, then Done, next{self._remark}"
        )

    def save(self, name: str) -> None:
        """Write the labels of the volume; where is asked once."""
        if self.labels is None or self.labels not in self.viewer.layers:
            self.failed.emit(
                f"the labels drawn on '{self.image.name}' were closed, so there is nothing to save"
            )
            return
        if self.saving.is_running:
            self.message.emit("The labels are still being saved; press again in a moment")
            return
        if self._path is None:
            folder = folder_of(self.labels if self.labels.source.path else self.image)
            start = folder / f"{file_stem(self.labels.name)}.nii.gz"
            kinds = "NIfTI (*.nii.gz *.nii);;Segments of 3D Slicer (*.seg.nrrd);;TIFF (*.tif)"
            chosen, _ = QFileDialog.getSaveFileName(self._parent, "Save the labels as", str(start), kinds)
            if not chosen:
                self.message.emit("Nothing was saved")
                return
            self._path = Path(chosen)
        labels = np.array(self.labels.data)
        self._under_way = name, labels
        writing = partial(_writing, self._path, self.labels, labels)
        self.saving.start("ProSMA: saving labels", writing)

    def _new_labels(self) -> LabelsLayer:
        labels = add_layer(self.viewer, new_labels(self.image))
        assert isinstance(labels, LabelsLayer)
        labels.metadata[CLASS_NAMES] = self.names
        self.labels, self._values = labels, np.arange(len(self.names))
        return labels

    def _values_in(self) -> tuple[LabelsLayer, np.ndarray]:
        """The labels to draw on, new ones if theirs are other classes, and what they store for each."""
        there = self.labels if self.labels in self.viewer.layers else None
        if there is not None and self._values is None:
            self._values = values_of_classes(there, self.names)
        if there is not None and self._values is not None:
            return there, self._values
        labels = self._new_labels()
        if there is not None:
            ours = ", ".join(self.names[1:])
            self._remark = (
                f". Accepted regions go to '{labels.name}': '{there.name}' has other classes than the model "
                f"({ours})"
            )
        return labels, np.arange(len(self.names))

    def _written(self, path: Path) -> None:
        assert self._under_way is not None
        assert self.labels is not None
        (name, labels), self._under_way = self._under_way, None
        if np.array_equal(self.labels.data, labels):
            note_saved(self.labels.data)
        self.saved.emit(name)
        self.message.emit(f"Saved '{path.name}'")

    def _ask_anew(self) -> None:
        """Where the labels are saved, since they cannot be there."""
        self._path = None


def _lies_on(labels: LabelsLayer, image: ImageLayer) -> bool:
    """And can be drawn on."""
    in_memory = isinstance(labels.data, np.ndarray)
    same = spatial_shape(labels) == spatial_shape(image)
    return in_memory and same and steps_between(labels, image) is not None


def _writing(path: Path, layer: LabelsLayer, labels: np.ndarray) -> Iterator[Event]:
    yield Finished(write_layer(path, layer, labels, by_hand=True))
