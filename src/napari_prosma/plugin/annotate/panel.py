"""The Annotate panel: draw a part, let the program fill or predict the rest, and take over what is right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import napari
from napari.layers import Labels as LabelsLayer

from napari_prosma.plugin.annotate.accept_box import AcceptBox
from napari_prosma.plugin.annotate.fill_box import FillBox
from napari_prosma.plugin.annotate.next_box import NextBox
from napari_prosma.plugin.annotate.view_box import CT_WINDOWS, ViewBox
from napari_prosma.plugin.shared.choosers import LayerChooser
from napari_prosma.plugin.shared.class_name import ClassName, NewLabels
from napari_prosma.plugin.shared.fields import group
from napari_prosma.plugin.shared.keys import bind, release
from napari_prosma.plugin.shared.layers import spatial_shape
from napari_prosma.plugin.shared.panel import Panel


class AnnotatePanel(Panel):
    """Draw less: fill between slices, accept and reject what a model predicts, be told what comes next."""

    page = "Annotate"

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer)
        self.labels = LayerChooser(napari_viewer, LabelsLayer)
        self.labels.setToolTip("The labels to draw on, and to fill between slices")
        self.view_box = ViewBox(napari_viewer)
        self.new_labels = NewLabels(napari_viewer, lambda: self.view_box.image)
        self.class_name = ClassName()
        self.fill_box = FillBox(napari_viewer, self._chosen)
        self.accept_box = AcceptBox(napari_viewer)
        form = self.add_group("Draw")
        form.addRow("Labels", self.labels)
        form.addRow(self.new_labels)
        form.addRow(self.class_name)
        self._filling, form = group("Fill between slices")
        form.addRow(self.fill_box)
        self.form.addWidget(self._filling)
        self.add_group("Accept what is predicted").addRow(self.accept_box)
        self.next_box = NextBox(napari_viewer, self._chosen)
        self.add_group("Annotate next").addRow(self.next_box)
        self.add_group("View and scale").addRow(self.view_box)
        self.form.addStretch(1)
        self.lay_out()
        self.labels.currentIndexChanged.connect(self._labels_chosen)
        self.viewer.layers.selection.events.active.connect(self._layer_selected)
        self._keys: dict[str, Callable[[], None]] = {
            "fill": self.fill_box.fill,
            "fill to here": self.fill_box.fill_to_here,
            "accept slice": self.accept_box.accept_slice,
            "accept region": self.accept_box.accept_at_cursor,
            "accept surer": self.accept_box.accept_surer,
            "done, next": self.next_box.done,
            "reject region": self.accept_box.reject_at_cursor,
            **{name: partial(self.view_box.set_window, name) for name in CT_WINDOWS},
        }
        bind(napari_viewer, self._keys)
        self._labels_chosen()

    def close_down(self) -> None:
        super().close_down()
        release(self.viewer, self._keys)
        self.viewer.layers.selection.events.active.disconnect(self._layer_selected)

    def _chosen(self) -> LabelsLayer | None:
        return self.labels.layer

    def _labels_chosen(self) -> None:
        chosen = self._chosen()
        self.class_name.follow(chosen)
        self.accept_box.message.tell("")
        self._show_filling()
        self.fill_box.layer_changed()

    def _show_filling(self) -> None:
        """Where there are slices; a picture has none."""
        shown = self._chosen() or self.view_box.image
        self._filling.setVisible(shown is None or len(spatial_shape(shown)) > 2)

    def _layer_selected(self) -> None:
        self._show_filling()
        layer = self.viewer.layers.selection.active
        if layer in self.labels.layers():
            self.labels.choose(layer)
