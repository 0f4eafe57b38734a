"""``LiveLoop``: what is drawn goes to the run, what it predicts comes back onto the slice on screen."""

from __future__ import annotations

from colorsys import hsv_to_rgb, rgb_to_hsv
from typing import Any

import napari
import numpy as np
from napari.components import Dims
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import QApplication

from napari_prosma.data.labels import LabelRule
from napari_prosma.events import LivePreview
from napari_prosma.plugin.shared.layers import IS_PREVIEW, geometry_of, place_like
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.strokes import Strokes
from napari_prosma.training.steering import Steering, View

LIVE = "prediction (live)"
LOOK_MS = 100
"""The slider rests so long before the run is told of another slice."""
FINE = 128
"""Pixels along the shorter side of a slice, from which on an outline of one pixel is thin."""
VEIL = 0.4
"""Opacity of a prediction that is no outline."""
BUSY_HAND_MS = 60
"""A preview waits so long and again while a mouse button is down."""


class LiveLoop(QObject):
    """Between the layers of one run and its ``Steering``; all in the main thread.

    The prediction is one layer of the size of the image, of which only the plane that was predicted last is
    filled: it lies on the image however that is placed, and takes memory only where it is shown.
    What the user removes stays away until the next run.
    """

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._case: LiveCase | None = None
        self._steering: Steering | None = None
        self._layer: LabelsLayer | None = None
        self._filled: tuple[int | slice, ...] | None = None
        self._next: LivePreview | None = None
        self._strokes = Strokes(viewer, self)
        self._strokes.rested.connect(self._relabel)
        self._look = _single_shot(self, LOOK_MS, self.look)
        self._draw = _single_shot(self, 0, self._draw_next)

    def start(self, case: LiveCase, steering: Steering) -> None:
        """A run on these layers begins."""
        self.stop()
        self._case, self._steering = case, steering
        if self._layer is not None and not self._fits(self._layer, case):
            self._drop()
        if self._layer not in self._viewer.layers:
            self._layer, self._filled = None, None
        self._strokes.watch(case.labels)
        self._viewer.dims.events.connect(self._dims_changed)
        self._viewer.layers.events.removed.connect(self._removed)
        self.look()

    def stop(self) -> None:
        """The run is over; its last prediction stays."""
        if self._case is None:
            return
        self._draw_next()
        self._strokes.watch(None)
        self._viewer.dims.events.disconnect(self._dims_changed)
        self._viewer.layers.events.removed.disconnect(self._removed)
        for timer in (self._look, self._draw):
            timer.stop()
        self._case, self._steering, self._next = None, None, None

    def show(self, preview: LivePreview) -> None:
        """Draw a prediction, soon."""
        if self._case is not None and preview.case == self._case.name:
            self._next = preview
            self._draw.start(0)

    def look(self) -> None:
        """Tell the run which slice is on screen."""
        if self._case is None or self._steering is None or self._case.is_closed:
            return
        at = plane_on_screen(self._viewer.dims, self._case.image, self._case.shape)
        if at is not None:
            self._steering.look_at(View(self._case.name, at))

    def _relabel(self) -> None:
        if self._case is not None and self._steering is not None:
            self._steering.relabel(self._case.name)

    def _dims_changed(self, event: object = None) -> None:
        self._look.start()

    def _removed(self, event: Any) -> None:
        if self._case is not None and event.value in (self._case.image, self._case.labels):
            self._case.is_closed = True
            self._relabel()  # so that the run says what that means

    def _draw_next(self) -> None:
        if self._case is None or self._next is None or self._case.is_closed:
            return
        if QApplication.mouseButtons() != Qt.MouseButton.NoButton:
            self._draw.start(BUSY_HAND_MS)
            return
        preview, self._next = self._next, None
        assert self._case.rule is not None
        if self._layer is None:
            self._layer = self._add(self._case)
        elif self._layer not in self._viewer.layers:
            return
        data = self._layer.data
        if self._filled is not None:
            data[self._filled] = 0
        self._filled = tuple(slice(None) if n is None else slice(n, n + 1) for n in preview.at)
        data[self._filled] = drawn_values(self._case.rule).astype(data.dtype)[preview.labels]
        self._layer.refresh()

    def _add(self, case: LiveCase) -> LabelsLayer:
        """Fine images get an outline above what is painted, coarse ones, of few pixels, a veil below it."""
        drawn, geometry = case.labels, geometry_of(case.image)
        assert case.rule is not None
        is_fine = min(case.shape[-2:]) >= FINE
        layer = LabelsLayer(
            np.zeros(case.shape, drawn.dtype),
            name=LIVE,
            colormap=vivid(drawn, drawn_values(case.rule)),
            metadata={IS_PREVIEW: True, "case": case.name},
            opacity=1.0 if is_fine else VEIL,
            **place_like(case.image, geometry, geometry),
        )
        layer.contour = 1 if is_fine else 0
        layer.editable = False
        layers = self._viewer.layers
        active, selected = layers.selection.active, set(layers.selection)
        layers.insert(layers.index(drawn) + is_fine, layer)
        layers.selection = selected
        layers.selection.active = active
        return layer

    def _drop(self) -> None:
        if self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer, self._filled = None, None

    @staticmethod
    def _fits(layer: LabelsLayer, case: LiveCase) -> bool:
        return layer.data.shape == case.shape and layer.metadata["case"] == case.name


def plane_on_screen(
    dims: Dims, layer: ImageLayer | LabelsLayer, shape: tuple[int, ...]
) -> tuple[int | None, ...] | None:
    """The slice of a layer that the viewer shows: an index per axis of ``shape``, None along those on screen.

    ``shape`` are the layer's last axes; a first one may hold channels. None where no single plane of it is
    shown: in 3D, beyond its ends, or where one of the axes on screen is none of these.
    """
    shown = {axis - dims.ndim for axis in dims.displayed}
    if dims.ndisplay != 2 or min(shown) < -len(shape):
        return None
    point = np.round(layer.world_to_data(dims.point[-layer.ndim :])).astype(int)
    at = tuple(None if axis in shown else int(point[axis]) for axis in range(-len(shape), 0))
    inside = all(index is None or 0 <= index < n for index, n in zip(at, shape, strict=True))
    return at if inside else None


def drawn_values(rule: LabelRule) -> np.ndarray:
    """The value that is drawn for each class, (K,), so that a prediction has the colours of the labels."""
    if rule.kind == "values":
        return np.array([0, *rule.values[1:]])
    return np.arange(len(rule.class_names))


def vivid(layer: LabelsLayer, values: np.ndarray) -> DirectLabelColormap:
    """The layer's colours of some values, bright: beside what is painted, and on dark images."""
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    for value in values[1:].tolist():
        hue, saturation, _ = rgb_to_hsv(*layer.colormap.map(value)[:3].tolist())
        colours[value] = (*hsv_to_rgb(hue, min(saturation, 0.85), 1.0), 1.0)
    return DirectLabelColormap(color_dict=colours)


def _single_shot(parent: QObject, interval: int, call: Any) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(interval)
    timer.timeout.connect(call)
    return timer
