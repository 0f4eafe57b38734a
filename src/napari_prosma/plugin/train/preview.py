"""The layers that follow a training run: one validation image, its labels, and what the model says now."""

from __future__ import annotations

from functools import partial
from typing import Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer

from napari_prosma.events import Preview
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.adding import insert_layer, make_controls
from napari_prosma.plugin.shared.job import Job
from napari_prosma.plugin.shared.layers import (
    IS_PREVIEW,
    class_colours,
    placement,
    put_away_tools,
    remove_layers,
)

IMAGE, TRUTH, PREDICTION = "preview: image", "preview: label", "preview: prediction"
NAMES = {IMAGE, TRUTH, PREDICTION}
_SHOWN_PERCENTILES = (0.5, 99.5)


class PreviewLayers:
    """Made by the first preview of a run, then changed in place; what the user removes stays away.

    Each is added, and then shown, in a turn of the event loop of its own, while the events of the job wait.
    """

    def __init__(self, viewer: napari.Viewer, job: Job) -> None:
        self._viewer, self._job = viewer, job
        self._layers: dict[str, Layer] = {}
        self._places: dict[str, Geometry] = {}
        self._image: np.ndarray | None = None

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
        self._image = preview.image
        names = (PREDICTION,) if same else (IMAGE, PREDICTION, TRUTH)
        self._job.in_turns(*(partial(self._draw, name, preview) for name in names))

    def _draw(self, name: str, preview: Preview) -> None:
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
            if preview.geometry != self._places.get(name):  # each of them draws the layer anew
                layer.scale, layer.translate, layer.units = place["scale"], place["translate"], place["units"]
            if name == IMAGE and not layer.rgb:
                layer.contrast_limits = _contrast(data)
        self._places[name] = preview.geometry

    def _add(self, layer: Layer) -> None:
        is_first = not self._viewer.layers
        layer.visible = False
        insert_layer(self._viewer, layer)
        steps = [partial(setattr, layer, "visible", True)]
        if is_first:  # to be selected, before there is anything that this would draw anew
            steps[:0] = [partial(make_controls, self._viewer, layer), partial(self._select, layer)]
        self._job.in_turns(*steps)

    def _select(self, layer: Layer) -> None:
        if layer in self._viewer.layers and not self._viewer.layers.selection:
            self._viewer.layers.selection.active = layer

    def _remove(self) -> None:
        remove_layers(self._viewer, *self._layers.values())
        self._layers.clear()
        self._places.clear()
        self._image = None


def _new_layer(name: str, data: np.ndarray, **attributes: Any) -> Layer:
    if name == IMAGE:
        image = ImageLayer(data, name=name, rgb=data.ndim == 3, **attributes)
        if not image.rgb:
            image.contrast_limits = _contrast(data)
        return image
    is_prediction = name == PREDICTION
    colours = class_colours() if is_prediction else class_colours("white")
    layer = LabelsLayer(
        data, name=name, colormap=colours, opacity=0.5 if is_prediction else 0.9, **attributes
    )
    layer.contour = 0 if is_prediction else 1
    layer.editable = False
    put_away_tools(layer)
    return layer


def _contrast(plane: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(plane, _SHOWN_PERCENTILES)
    return low, max(high, low + 1e-6)


def _picture(image: np.ndarray) -> np.ndarray:
    """Plane (y, x) of the first channel, or RGB (y, x, 3) uint8 of three, of a normalised image (C, y, x)."""
    if len(image) != 3:
        return image[0]
    low, high = np.percentile(image, _SHOWN_PERCENTILES)
    scaled = (image - low) / max(high - low, 1e-6)
    return np.moveaxis((scaled.clip(0, 1) * 255).astype(np.uint8), 0, -1)
