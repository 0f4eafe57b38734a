"""``AcceptBox``: takes over what a model predicts: a slice, a region, all that is sure; or rejects it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QSlider, QWidget

from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.guesses import guesses_of
from napari_prosma.plugin.shared.keys import tip
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.placing import plane_on_screen
from napari_prosma.plugin.shared.prediction import Plane, Prediction, prediction_in

USUAL_SURE = 90
"""Percent."""
_Elements = Callable[[Prediction], tuple[np.ndarray, ...]]
"""Those of the labels layer that something is to be done with."""


class AcceptBox(QWidget):
    """For the prediction that is on screen: the topmost visible one."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._mode_before: tuple[Any, str] | None = None
        self.slice_button = QPushButton("Accept slice")
        self.slice_button.setToolTip(
            tip("Accept the prediction on the slice on screen; what you drew stays", "accept slice")
        )
        self.slice_button.clicked.connect(self.accept_slice)
        self.region_button = QPushButton("Accept region")
        self.region_button.setToolTip(
            tip(
                "Click predicted regions to accept them, or press the key with the cursor on one",
                "accept region",
            )
        )
        self.reject_button = QPushButton("Reject region")
        self.reject_button.setToolTip(
            tip(
                "Click predicted regions that are wrong, or press the key with the cursor on one: they are "
                "hidden, and anything accepted there is erased",
                "reject region",
            )
        )
        for button in (self.region_button, self.reject_button):
            button.setCheckable(True)
        self.region_button.clicked.connect(self._accepting_switched)
        self.reject_button.clicked.connect(self._rejecting_switched)
        self.sure = QSlider(Qt.Orientation.Horizontal)
        self.sure.setRange(50, 100)
        self.sure.setValue(USUAL_SURE)
        self.sure.setToolTip("Lowest confidence to accept: the model's probability of the class")
        self.sure.setAccessibleName("least confidence in percent")
        self.sure_label = QLabel()
        self.sure.valueChanged.connect(self._show_share)
        self.sure_button = QPushButton("Accept confident")
        self.sure_button.setToolTip(
            tip("Accept all predictions with at least the confidence below", "accept surer")
        )
        self.sure_button.clicked.connect(self.accept_surer)
        self.message = Message()
        buttons = QGridLayout()
        for place, button in enumerate(
            (self.slice_button, self.sure_button, self.region_button, self.reject_button)
        ):
            buttons.addWidget(button, *divmod(place, 2))
        row = in_a_row(QLabel("confidence from"), self.sure, self.sure_label, wide=self.sure)
        stack(self, buttons, row, self.message)
        self._show_share()

    def accept_slice(self) -> None:
        """Take over the prediction for the slice on screen."""
        self._accept(lambda shown: shown.of_slice(self._slice(shown)), "on this slice")

    def accept_surer(self) -> None:
        """Take over all of which the model is surer than the slider says."""
        share = self.sure.value()
        self._accept(lambda shown: shown.surer_than(share / 100), f"with a confidence of {share} % or more")

    def accept_at_cursor(self) -> None:
        """Take over the region under the cursor."""
        self._accept(self._region(self._viewer.cursor.position), "under the cursor")

    def reject_at_cursor(self) -> None:
        """Reject the region under the cursor."""
        self._reject(self._region(self._viewer.cursor.position), "under the cursor")

    def let_go(self) -> None:
        """Let go of the viewer."""
        for button in (self.region_button, self.reject_button):
            button.setChecked(False)
        self._listen()

    def _accept(self, elements: _Elements, where: str) -> None:
        self._act(elements, _accepted, where)

    def _reject(self, elements: _Elements, where: str) -> None:
        self._act(elements, _rejected, where)

    def _act(
        self, elements: _Elements, act: Callable[[Prediction, tuple[np.ndarray, ...]], str], where: str
    ) -> None:
        try:
            shown = self._required()
            said = act(shown, elements(shown))
        except DataError as error:
            self.message.tell_error(str(error))
            return
        self._viewer.layers.selection.active = shown.drawn
        self.message.tell(f"{said}; Ctrl+Z undoes it" if said else f"There is nothing left to accept {where}")

    def _required(self) -> Prediction:
        shown = prediction_in(self._viewer)
        if shown is None:
            raise DataError(
                "no prediction is on screen; train on open layers, or open an image from the list below with "
                "a model"
            )
        guesses_of(shown.drawn)  # or it says why not
        return shown

    def _slice(self, shown: Prediction) -> Plane:
        at = plane_on_screen(self._viewer.dims, shown.image, shown.outline.shape)
        if at is None:
            raise DataError("no single slice is on screen; switch from 3D to 2D, then accept it")
        return at

    def _region(self, position: Any) -> _Elements:
        def region(shown: Prediction) -> tuple[np.ndarray, ...]:
            at = self._slice(shown)
            image = shown.image
            point = np.round(image.world_to_data(position[-image.ndim :])).astype(int)
            return shown.of_region(point[-len(at) :].tolist(), at)

        return region

    def _show_share(self) -> None:
        self.sure_label.setText(f"{self.sure.value()} %")

    # ---- clicks -------------------------------------------------------------------------------------------

    def _accepting_switched(self) -> None:
        self.reject_button.setChecked(False)
        self._listen()

    def _rejecting_switched(self) -> None:
        self.region_button.setChecked(False)
        self._listen()

    def _listen(self) -> None:
        """Clicks on the canvas accept or reject while one of the two buttons is down; they paint no more."""
        callbacks = self._viewer.mouse_drag_callbacks
        if self._clicked in callbacks:
            callbacks.remove(self._clicked)
        if self._mode_before is not None:
            layer, mode = self._mode_before
            layer.mode, self._mode_before = mode, None
        if not (self.region_button.isChecked() or self.reject_button.isChecked()):
            return
        callbacks.append(self._clicked)
        shown = prediction_in(self._viewer)
        if shown is not None:
            self._mode_before = shown.drawn, str(shown.drawn.mode)
            shown.drawn.mode = "pan_zoom"

    def _clicked(self, viewer: napari.Viewer, event: Any) -> Iterator[None]:
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        if dragged:
            return
        act = self._accept if self.region_button.isChecked() else self._reject
        act(self._region(event.position), "there")


def _accepted(shown: Prediction, indices: tuple[np.ndarray, ...]) -> str:
    """What was done, in words; empty where there was nothing to do."""
    free = shown.drawn.data[indices] == 0
    open_ones = tuple(at[free] for at in indices)
    count = guesses_of(shown.drawn).write("accepted", open_ones, shown.values_at(open_ones))
    return f"Accepted {_counted(count, indices)}" if count else ""


def _rejected(shown: Prediction, indices: tuple[np.ndarray, ...]) -> str:
    guesses = guesses_of(shown.drawn)
    if not len(indices[0]):
        return ""
    guesses.reject(indices)
    return f"Rejected {_counted(len(indices[0]), indices)}"


def _counted(count: int, indices: tuple[np.ndarray, ...]) -> str:
    return f"{count:,} {'pixels' if len(indices) == 2 else 'voxels'}"
