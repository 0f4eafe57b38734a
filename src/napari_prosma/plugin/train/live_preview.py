"""``LiveLoop``: what is drawn goes to the run, what it predicts comes back onto the slice on screen."""

from __future__ import annotations

from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QObject, Qt
from qtpy.QtWidgets import QApplication

from napari_prosma.data.labels import LabelRule, present_values
from napari_prosma.events import LivePreview
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.placing import plane_on_screen
from napari_prosma.plugin.shared.prediction import Prediction
from napari_prosma.plugin.shared.strokes import Strokes, single_shot
from napari_prosma.training.steering import Steering, View

LIVE, SOON = "prediction (live)", "prediction (to come)"
LOOK_MS = 100
"""The slider rests so long before the run is told of another slice."""
BUSY_HAND_MS = 60
"""A preview waits so long and again while a mouse button is down."""


class LiveLoop(QObject):
    """Between the layers of one run and its ``Steering``; all in the main thread.

    What the user removes stays away until the next run.
    """

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._case: LiveCase | None = None
        self._steering: Steering | None = None
        self._shown: Prediction | None = None
        self._next: LivePreview | None = None
        self._strokes = Strokes(viewer, self)
        self._strokes.rested.connect(self._relabel)
        self._look = single_shot(self, LOOK_MS, self.look)
        self._draw = single_shot(self, 0, self._draw_next)
        self._insert = single_shot(self, 0, self._insert_shown)

    def start(self, case: LiveCase, steering: Steering) -> None:
        """A run on these layers begins."""
        self.stop()
        self._case, self._steering = case, steering
        if self._shown is not None and not (self._shown.outline.is_there and self._fits(self._shown, case)):
            self._shown.remove()
            self._shown = None
        if self._shown is None and {case.image, case.labels} <= set(self._viewer.layers):
            drawn = case.labels.data
            values = np.union1d(0, present_values(drawn) if isinstance(drawn, np.ndarray) else [])
            self._shown = Prediction(
                self._viewer,
                case.image,
                case.labels,
                values.astype(int),
                SOON,
                at_once=False,
                case=case.name,
            )
            # Before anybody draws on: napari takes long to add a layer, and as long to give it other colours.
            self._insert.start()
        self._strokes.watch(case.labels)
        self._viewer.dims.events.connect(self._dims_changed)
        self._viewer.layers.events.removed.connect(self._removed)
        self.look()

    def stop(self) -> None:
        """The run is over; its last prediction stays."""
        if self._case is None:
            return
        self._draw_next()
        if self._shown is not None and self._shown.is_empty:
            self._shown.remove()
            self._shown = None
        self._strokes.watch(None)
        self._viewer.dims.events.disconnect(self._dims_changed)
        self._viewer.layers.events.removed.disconnect(self._removed)
        for timer in (self._look, self._draw, self._insert):
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

    def _insert_shown(self) -> None:
        if self._shown is not None and self._shown.drawn in self._viewer.layers:
            self._shown.outline.insert()

    def _draw_next(self) -> None:
        if self._case is None or self._next is None or self._case.is_closed:
            return
        if QApplication.mouseButtons() != Qt.MouseButton.NoButton:
            self._draw.start(BUSY_HAND_MS)
            return
        preview, self._next = self._next, None
        assert self._case.rule is not None
        if self._shown is None or not self._shown.outline.is_there:
            return
        self._shown.take_values(drawn_values(self._case.rule))
        self._shown.outline.layer.name = LIVE
        self._shown.show(preview.at, preview.labels, preview.sureness)

    @staticmethod
    def _fits(shown: Prediction, case: LiveCase) -> bool:
        layer = shown.outline.layer
        return (
            shown.drawn is case.labels
            and shown.outline.shape == case.shape
            and layer.metadata["case"] == case.name
        )


def drawn_values(rule: LabelRule) -> np.ndarray:
    """The value that is drawn for each class, (K,), so that a prediction has the colours of the labels."""
    if rule.kind == "values":
        return np.array([0, *rule.values[1:]])
    return np.arange(len(rule.class_names))
