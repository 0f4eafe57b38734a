"""The layers that follow a training run: one validation image, its labels, and what the model says now."""

from __future__ import annotations

import napari
import numpy as np
from napari.layers import Layer

from napari_prosma.events import Preview
from napari_prosma.plugin.layers import IS_PREVIEW, class_colours, placement

IMAGE, TRUTH, PREDICTION = "preview: image", "preview: truth", "preview: prediction"
_SHOWN_PERCENTILES = (0.5, 99.5)


class PreviewLayers:
    """Made by the first preview of a run, then changed in place; what the user removes stays away."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._layers: dict[str, Layer] = {}
        self._image: np.ndarray | None = None

    def start(self) -> None:
        """A new run begins: layers that were removed may come back, those of another kind go."""
        self._image = None
        self._layers = {name: layer for name, layer in self._layers.items() if layer in self._viewer.layers}

    def show(self, preview: Preview) -> None:
        """Draw the current state."""
        active = self._viewer.layers.selection.active
        first = not self._viewer.layers
        picture = _picture(preview.image)
        kept = self._layers.get(IMAGE)
        if kept is not None and kept.rgb != (picture.ndim == 3):
            self._remove()
        if self._image is None or not np.array_equal(self._image, preview.image):
            self._draw(IMAGE, picture, preview)
            self._draw(PREDICTION, preview.labels, preview)
            self._draw(TRUTH, preview.truth, preview)
            self._image = preview.image
        else:
            self._draw(PREDICTION, preview.labels, preview)
        if first:
            self._viewer.reset_view()
        if active is not None:
            self._viewer.layers.selection.active = active

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
        for layer in self._layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._layers.clear()
        self._image = None


def _picture(image: np.ndarray) -> np.ndarray:
    """Plane (y, x) of the first channel, or RGB (y, x, 3) uint8 of three, of a normalised image (C, y, x)."""
    if len(image) != 3:
        return image[0]
    low, high = np.percentile(image, _SHOWN_PERCENTILES)
    scaled = (image - low) / max(high - low, 1e-6)
    return np.moveaxis((scaled.clip(0, 1) * 255).astype(np.uint8), 0, -1)
