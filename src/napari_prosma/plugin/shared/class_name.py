"""``NewLabels`` makes the layer to draw on; ``ClassName`` names the class that is painted with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QLineEdit, QWidget

from napari_prosma.data.class_names import plain, says_nothing
from napari_prosma.data.labels import present_values
from napari_prosma.plugin.shared.choosers import LayersButton
from napari_prosma.plugin.shared.fields import in_a_row
from napari_prosma.plugin.shared.layers import (
    CLASS_NAMES,
    DRAWN_NAMES,
    add_layer,
    finest,
    names_of,
    new_labels,
)


class NewLabels(LayersButton):
    """Adds an empty labels layer over the image that ``chosen`` gives, with the brush in the hand."""

    def __init__(self, viewer: napari.Viewer, chosen: Callable[[], ImageLayer | None]) -> None:
        super().__init__("New labels", viewer)
        self._chosen = chosen
        self.setToolTip("Add an empty labels layer over the image, in the same place, and select the brush")
        self.clicked.connect(self._add)
        self.refresh()

    def _add(self) -> None:
        image = self._chosen()
        if image is None:  # closed a moment ago
            return
        if self._viewer.dims.ndisplay == 3:  # where nobody draws
            self._viewer.dims.ndisplay = 2
        layer = add_layer(self._viewer, new_labels(image))
        self._viewer.layers.selection.active = layer
        layer.mode = "paint"


class ClassName(QWidget):
    """The name of the class that is painted with, kept with the layer.

    Signals
    -------
    changed()
        A class has another name.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._layer: LabelsLayer | None = None
        self.number = QLabel()
        self.line = QLineEdit()
        self.line.setToolTip("Name of the class that is painted; choose another label to name its class")
        self.line.setAccessibleName("name of the class")
        self.line.editingFinished.connect(self._entered)
        in_a_row(self.number, self.line, owner=self, wide=self.line)
        self.follow(None)

    def follow(self, layer: LabelsLayer | None) -> None:
        """Name the classes of this layer."""
        if self._layer is not None:
            self._layer.events.selected_label.disconnect(self._show_name)
            self._layer.events.features.disconnect(self._named)
        self._layer = layer
        if layer is not None:
            layer.events.selected_label.connect(self._show_name)
            layer.events.features.connect(self._named)
        self.setEnabled(layer is not None)
        self._show_name()

    def let_go(self) -> None:
        """Follow no layer any more."""
        self.follow(None)

    def _show_name(self, event: object = None) -> None:
        value = 1 if self._layer is None else self._layer.selected_label
        self.number.setText(f"Class {value} is")
        self.line.setPlaceholderText("background" if value == 0 else f"class {value}")
        self.line.setReadOnly(value == 0)
        self.line.setText("" if self._layer is None else name_of(self._layer, value))

    def _entered(self) -> None:
        layer, name = self._layer, self.line.text().strip()
        if layer is None or name == name_of(layer, layer.selected_label):
            return
        give_names(layer, {layer.selected_label: name})

    def _named(self, event: object = None) -> None:
        """Here, or where else classes are named."""
        self._show_name()
        self.changed.emit()


def name_of(layer: LabelsLayer, value: int) -> str:
    """What a value of a layer is called; empty where it has no name."""
    given: dict[int, str] = layer.metadata.get(DRAWN_NAMES, {})
    names = layer.metadata.get(CLASS_NAMES, ())
    return given.get(value, names[value] if 0 < value < len(names) else "")


def give_names(layer: LabelsLayer, names: Mapping[int, str]) -> None:
    """Call values of a layer so from now on; an empty name takes that of a value away."""
    known = {value: name for value, name in enumerate(layer.metadata.get(CLASS_NAMES, ())) if value}
    given = {**known, **layer.metadata.get(DRAWN_NAMES, {}), **names}
    given = {value: name for value, name in given.items() if name}
    layer.metadata.pop(CLASS_NAMES, None)
    layer.metadata[DRAWN_NAMES] = given
    layer.features = {"index": [0, *given], "class": ["background", *given.values()]}


def values_of_classes(layer: LabelsLayer, class_names: Sequence[str]) -> np.ndarray | None:
    """What a layer stores for each class of a model (K,), by its name; None where no value means a class.

    A class that the layer does not know gets its own number, and its name there, if nothing else has it. In a
    layer whose names say nothing, the numbers are those of the model.
    """
    known = {value: name for value, name in enumerate(names_of(layer)) if value and not says_nothing(name)}
    if not known:
        return np.arange(len(class_names))
    by_name = {plain(name): value for value, name in reversed(known.items())}
    values = [0, *(by_name.get(plain(name), k) for k, name in enumerate(class_names[1:], 1))]
    new = {k: name for k, name in enumerate(class_names) if k and plain(name) not in by_name}
    new = {k: name for k, name in new.items() if not says_nothing(name)}
    taken = {*known, *present_values(np.asarray(finest(layer))).tolist()}
    if taken & new.keys() or len(set(values)) < len(values):
        return None
    if new:
        give_names(layer, new)
    return np.array(values)
