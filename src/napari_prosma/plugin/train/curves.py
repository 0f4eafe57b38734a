"""The curves of a training run, drawn in a thread while the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize
from qtpy.QtGui import QImage, QPixmap, QResizeEvent
from qtpy.QtWidgets import QLabel, QSizePolicy

from napari_prosma.data.class_colours import CLASS_COLOURS
from napari_prosma.events import EpochEnd, Event, Finished
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.strokes import single_shot

HEIGHT, LEAST_WIDTH = 240, 200
ROW_HEIGHT = 110
"""More for the gates, and where the objective has figures of its own."""
AFTER_RESIZE_MS = 150


class Curves(QLabel):
    """Loss, Dice, learning rate and, where it is wanted, what the gates do, as wide as the panel."""

    def __init__(self, theme: str) -> None:
        super().__init__()
        self._theme = theme
        self._history: Sequence[EpochEnd] = ()
        self._with_gates = False
        self.setFixedHeight(HEIGHT)
        self.setMinimumWidth(LEAST_WIDTH)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "Loss (lower is better), Dice of the validation cases (1 is perfect), and the figures of the "
            "gates and of few or noisy labels"
        )
        self.job = NewestJob(self, finished=self._drawn)
        self._resized = single_shot(self, AFTER_RESIZE_MS, self._draw)
        self.hide()

    def show_epochs(self, history: Sequence[EpochEnd]) -> None:
        """Draw these epochs, soon; without any there is nothing to see."""
        self._history = tuple(history)
        self.setVisible(bool(history))
        rows = self._with_gates + any(e.objective for e in self._history)
        self.setFixedHeight(HEIGHT + ROW_HEIGHT * rows)
        self._draw()

    def show_gates(self, wanted: bool) -> None:
        """With or without the curves of the gates."""
        self._with_gates = wanted
        self.show_epochs(self._history)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Qt's hook."""
        super().resizeEvent(event)
        self._resized.start()

    def _draw(self) -> None:
        if self._history:
            self.job.ask(self._begin, interrupt=False)

    def _begin(self) -> None:
        theme = get_theme(self._theme)
        colours = theme.background.as_hex(), theme.text.as_hex()
        history = self._history if self._with_gates else [replace(e, gates={}) for e in self._history]
        drawing = partial(_drawing, history, self.size(), self.devicePixelRatioF(), colours)
        self.job.start("ProSMA: drawing curves", drawing)

    def _drawn(self, pixels: np.ndarray) -> None:
        height, width, _ = pixels.shape
        image = QImage(pixels.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888)
        image.setDevicePixelRatio(self.devicePixelRatioF())
        self.setPixmap(QPixmap.fromImage(image))


def _drawing(
    history: Sequence[EpochEnd], size: QSize, scale: float, colours: tuple[str, str]
) -> Iterator[Event]:
    from napari_prosma.training.curves import Colours, picture_of

    background, text = colours
    yield Finished(
        picture_of(
            history, (size.width(), size.height()), scale, Colours(background, text, tuple(CLASS_COLOURS))
        )
    )
