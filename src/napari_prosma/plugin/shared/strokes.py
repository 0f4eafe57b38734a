"""``Strokes``: tells when the hand that draws on a labels layer rests."""

from __future__ import annotations

from typing import Any

import napari
from napari.layers import Labels as LabelsLayer
from qtpy.QtCore import QObject, QTimer, Signal

REST_MS = 400
"""So long without a change counts as rest."""


def single_shot(parent: QObject, interval: int, call: Any) -> QTimer:
    """A timer that calls once, so many ms after it was started last."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(interval)
    timer.timeout.connect(call)
    return timer


class Strokes(QObject):
    """Follows one labels layer: brush, fill, eraser, polygon, undo, redo, and arrays that were changed.

    Signals
    -------
    rested()
        The labels changed, and have not changed since for a moment.
    """

    rested = Signal()

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: LabelsLayer | None = None
        self._seen: tuple[object, ...] = ()
        self._rest = single_shot(self, REST_MS, self.rested)

    def watch(self, layer: LabelsLayer | None) -> None:
        """Follow this layer instead; None = none."""
        self._rest.stop()
        if self._layer is not None:
            events = self._layer.events
            for drawn in (events.paint, events.labels_update, events.data):
                drawn.disconnect(self._changed)
            events.set_data.disconnect(self._drawn_anew)
        self._layer = layer
        if layer is not None:
            for drawn in (layer.events.paint, layer.events.labels_update, layer.events.data):
                drawn.connect(self._changed)
            layer.events.set_data.connect(self._drawn_anew)
            self._seen = self._view()

    def let_go(self) -> None:
        """Follow no layer any more."""
        self.watch(None)

    def _changed(self, event: object = None) -> None:
        self._rest.start()

    def _drawn_anew(self, event: object = None) -> None:
        # Undo, redo and scripts only make the layer draw itself again, which it also does for another slice.
        view = self._view()
        if view == self._seen:
            self._changed()
        self._seen = view

    def _view(self) -> tuple[object, ...]:
        dims = self._viewer.dims
        return dims.point, dims.order, dims.ndisplay
