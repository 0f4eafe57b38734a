"""The layers that follow a training run: one validation image, its labels, and what the model says now."""

from __future__ import annotations

import napari
import numpy as np
from napari.layers import Layer
from qtpy.QtCore import QObject

from napari_prosma.events import Preview
from napari_prosma.plugin.shared.layers import IS_PREVIEW, class_colours, placement, remove_layers
from napari_prosma.plugin.shared.strokes import single_shot

IMAGE, TRUTH, PREDICTION = "preview: image", "preview: label", "preview: prediction"
NAMES = {IMAGE, TRUTH, PREDICTION}
_SHOWN_PERCENTILES = (0.5, 99.5)


class PreviewLayers(QObject):
    """Made by the first preview of a run, then changed in place; what the user removes stays away.

    One layer is drawn per turn of the event loop, since napari takes a tenth of a second to add one.
    """

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layers: dict[str, Layer] = {}
        self._image: np.ndarray | None = None
        self._preview: Preview | None = None
        self._due: list[str] = []
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

    def _draw_next(self) -> None:
        assert self._preview is not None
        active = self._viewer.layers.selection.active
        first = not self._viewer.layers
        name = self._due.pop(0)
        data = {
            IMAGE: lambda preview: _picture(preview.image),
            PREDICTION: lambda preview: preview.labels,
            TRUTH: lambda preview: preview.truth,
        }[name](self._preview)
        self._draw(name, data, self._preview)
        if first:
            self._viewer.reset_view()
        if active is not None:
            self._viewer.layers.selection.active = active
        if self._due:
            self._next.start(0)

    def _draw(self, name: str, data: np.ndarray, preview: Preview) -> None:
        place = placement(preview.geometry)
        layer = self._layers.get(name)
        if layer is None:
            metadata = {IS_PREVIEW: True, "case": preview.case}
            if name == IMAGE:
                made = self._viewer.add_image(data, name=name, metadata=metadata, rgb=data.ndim == 3, **place)
            else:
                colours = class_colours() if name == PREDICTION else class_colours("white")
                made = self._viewer.add_labels(data, name=name, metadata=metadata, colormap=colours, **place)
                made.opacity = 0.5 if name == PREDICTION else 0.9
                made.contour = 0 if name == PREDICTION else 1
                made.editable = False
            self._layers[name] = made
        elif layer in self._viewer.layers:
            layer.data = data
            layer.metadata["case"] = preview.case
            layer.scale, layer.translate, layer.units = place["scale"], place["translate"], place["units"]
        if name == IMAGE and data.ndim == 2:
            low, high = np.percentile(data, _SHOWN_PERCENTILES)
            self._layers[name].contrast_limits = (low, max(high, low + 1e-6))

    def _remove(self) -> None:
        remove_layers(self._viewer, *self._layers.values())
        self._layers.clear()
        self._image = None


def _picture(image: np.ndarray) -> np.ndarray:
    """Plane (y, x) of the first channel, or RGB (y, x, 3) uint8 of three, of a normalised image (C, y, x)."""
    if len(image) != 3:
        return image[0]
    low, high = np.percentile(image, _SHOWN_PERCENTILES)
    scaled = (image - low) / max(high - low, 1e-6)
    return np.moveaxis((scaled.clip(0, 1) * 255).astype(np.uint8), 0, -1)
