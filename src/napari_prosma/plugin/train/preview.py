"""The layers that follow a training run: one validation image, its labels, and what the model says now."""

from __future__ import annotations

from typing import Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from qtpy.QtCore import QObject

from napari_prosma.events import Preview
from napari_prosma.plugin.shared.layers import (
    IS_PREVIEW,
    class_colours,
    keeping_selection,
    placement,
    put_away_tools,
    remove_layers,
)
from napari_prosma.plugin.shared.strokes import single_shot

IMAGE, TRUTH, PREDICTION = "preview: image", "preview: label", "preview: prediction"
NAMES = {IMAGE, TRUTH, PREDICTION}
_SHOWN_PERCENTILES = (0.5, 99.5)


class PreviewLayers(QObject):
    """Made by the first preview of a run, then changed in place; what the user removes stays away.

    Each is added, and then shown, in a turn of the event loop of its own: napari takes a tenth of a second to
    add a layer.
    """

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layers: dict[str, Layer] = {}
        self._image: np.ndarray | None = None
        self._preview: Preview | None = None
        self._due: list[str] = []
        self._added: Layer | None = None  # to be shown
        self._was_empty = False  # the viewer, before
        self._next = single_shot(self, 0, self._draw_next)

    def start(self) -> None:
        """A new run begins: layers that were removed may come back, and those of a closed panel are taken."""
        self._image = None
        self._layers = {name: layer for name, layer in self._layers.items() if layer in self._viewer.layers}
        for layer in self._viewer.layers:
            if layer.name in NAMES - self._layers.keys() and layer.metadata.get(IS_PREVIEW):
                self._layers[layer.name] = layer
                layer.visible = True

    def show(self, preview: Preview) -> None:
        """Draw the current state, soon."""
        kept = self._layers.get(IMAGE)
        if kept is not None and kept.rgb != (len(preview.image) == 3):
            self._remove()
        same = self._image is not None and np.array_equal(self._image, preview.image)
        self._due = [PREDICTION] if same and not self._due else [IMAGE, PREDICTION, TRUTH]
        self._preview, self._image = preview, preview.image
        self._next.start(0)

    def stop(self) -> None:
        """Draw no more."""
        self._next.stop()
        self._show_added()

    def _draw_next(self) -> None:
        if not self._show_added():
            self._draw(self._due.pop(0))
        if self._due or self._added is not None:
            self._next.start(0)
        elif self._was_empty:
            self._was_empty = False
            self._select()

    def _show_added(self) -> bool:
        added, self._added = self._added, None
        if added is not None:
            added.visible = True
        return added is not None

    def _draw(self, name: str) -> None:
        preview = self._preview
        assert preview is not None
        if name == IMAGE:
            data = _picture(preview.image)
        else:
            data = preview.labels if name == PREDICTION else preview.truth
        place = placement(preview.geometry)
        layer = self._layers.get(name)
        if layer is None:
            self._layers[name] = _new_layer(
                name, data, metadata={IS_PREVIEW: True, "case": preview.case}, **place
            )
            self._add(self._layers[name])
        elif layer in self._viewer.layers:
            layer.data = data
            layer.metadata["case"] = preview.case
            layer.scale, layer.translate, layer.units = place["scale"], place["translate"], place["units"]
        if name == IMAGE and data.ndim == 2:
            low, high = np.percentile(data, _SHOWN_PERCENTILES)
            self._layers[name].contrast_limits = (low, max(high, low + 1e-6))

    def _add(self, layer: Layer) -> None:
        is_first = not self._viewer.layers
        layer.visible = False
        with keeping_selection(self._viewer):
            self._viewer.add_layer(layer)
        self._added = layer
        if is_first:
            self._viewer.reset_view()
            self._was_empty = True

    def _select(self) -> None:
        layer = self._layers.get(IMAGE)
        if layer in self._viewer.layers and not self._viewer.layers.selection:
            self._viewer.layers.selection.active = layer

    def _remove(self) -> None:
        remove_layers(self._viewer, *self._layers.values())
        self._layers.clear()
        self._image = None


def _new_layer(name: str, data: np.ndarray, **attributes: Any) -> Layer:
    if name == IMAGE:
        return ImageLayer(data, name=name, rgb=data.ndim == 3, **attributes)
    is_prediction = name == PREDICTION
    colours = class_colours() if is_prediction else class_colours("white")
    layer = LabelsLayer(
        data, name=name, colormap=colours, opacity=0.5 if is_prediction else 0.9, **attributes
    )
    layer.contour = 0 if is_prediction else 1
    layer.editable = False
    put_away_tools(layer)
    return layer


def _picture(image: np.ndarray) -> np.ndarray:
    """Plane (y, x) of the first channel, or RGB (y, x, 3) uint8 of three, of a normalised image (C, y, x)."""
    if len(image) != 3:
        return image[0]
    low, high = np.percentile(image, _SHOWN_PERCENTILES)
    scaled = (image - low) / max(high - low, 1e-6)
    return np.moveaxis((scaled.clip(0, 1) * 255).astype(np.uint8), 0, -1)
