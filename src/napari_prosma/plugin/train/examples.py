"""*Show examples*: patches of an image as the network will see them, before time is spent on training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QImage, QPixmap
from qtpy.QtWidgets import QDialog, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_prosma.data.class_colours import CLASS_COLOURS
from napari_prosma.errors import ProsmaError
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.train.data import Data

CASES_READ = 4
"""Of a folder so many cases are read: enough to choose the size of the patches as training will, roughly."""
COUNT, COLUMNS, SHOWN_SIDE = 8, 4, 190
_SHOWN_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class Strip:
    """Pictures (y, x, 3) uint8, the first unchanged, and why the others are changed as they are."""

    pictures: tuple[np.ndarray, ...]
    meaning: str


class Examples(QDialog):
    """The window with the pictures.

    Parameters
    ----------
    planned : () -> (settings of TrainConfig, Data)
        What the form says; raises a ``ProsmaError`` where something is missing.
    """

    def __init__(self, planned: Callable[[], tuple[dict[str, Any], Data]], parent: QWidget) -> None:
        super().__init__(parent)
        self._planned = planned
        self._draws = 0
        self.setWindowTitle("What the network will see")
        self.message = Message()
        self.job = NewestJob(
            self, happened=self._happened, finished=self._show_strip, failed=self.message.tell_error
        )
        self.again_button = QPushButton("Others")
        self.again_button.setToolTip("Show other random patches")
        self.again_button.clicked.connect(self.draw)
        self.pictures = QGridLayout()
        layout = QVBoxLayout(self)
        layout.addWidget(self.message)
        layout.addLayout(self.pictures)
        layout.addWidget(self.again_button, 0, Qt.AlignmentFlag.AlignRight)

    def draw(self) -> None:
        """Draw patches of a case, another one each time, by what the form says then."""
        self.show()
        self.raise_()
        self.job.ask(self._begin)

    def _begin(self) -> None:
        try:
            settings, data = self._planned()
        except ProsmaError as error:
            self.message.tell_error(str(error))
            return
        self._draws += 1
        self.job.start("ProSMA: drawing examples", partial(_drawing, settings, data, self._draws))

    def _happened(self, event: Event) -> None:
        if isinstance(event, Started | Progress):
            self.message.tell(event.message)

    def _show_strip(self, strip: Strip) -> None:
        while (item := self.pictures.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.deleteLater()
        for place, picture in enumerate(strip.pictures):
            row, column = divmod(place, COLUMNS)
            shown = QLabel()
            shown.setPixmap(_pixmap(picture))
            caption = QLabel("unchanged" if place == 0 else "varied")
            caption.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            self.pictures.addWidget(shown, 2 * row, column)
            self.pictures.addWidget(caption, 2 * row + 1, column)
        self.message.tell(strip.meaning)
        self.adjustSize()


def _pixmap(picture: np.ndarray) -> QPixmap:
    height, width, _ = picture.shape
    image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image).scaled(SHOWN_SIDE, SHOWN_SIDE, Qt.AspectRatioMode.KeepAspectRatio)


def _drawing(settings: dict[str, Any], data: Data, seed: int) -> Iterator[Event]:
    yield Started(0, "Reading")
    from napari_prosma.data.fingerprint import read_facts
    from napari_prosma.model.augment import recipe_of
    from napari_prosma.training.batches import PreparedCases, example_patches
    from napari_prosma.training.config import TrainConfig
    from napari_prosma.training.planning import plan_for

    config = TrainConfig.of(**settings)
    opened = data.look()
    cases = opened.cases[:CASES_READ]
    facts = []
    for fact in read_facts(cases):
        facts.append(fact)
        yield Progress(len(facts), len(cases), f"Reading {fact.name}")
    plan, _ = plan_for(config, facts, opened.class_names)
    recipe = recipe_of(config.modality, plan)
    images, labels = example_patches(
        PreparedCases(cases, plan), (seed - 1) % len(cases), plan, recipe, seed, COUNT
    )
    limits = np.percentile(images[0], _SHOWN_PERCENTILES)
    both = zip(np.asarray(images), np.asarray(labels), strict=True)
    yield Finished(Strip(tuple(picture(image, label, limits) for image, label in both), recipe.why))


def picture(image: np.ndarray, label: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """A patch (C, *patch) with the outline of its label, (y, x, 3) uint8; of a volume its fullest slice."""
    from scipy import ndimage

    from napari_prosma.data.labels import fullest_slice, is_foreground

    at = fullest_slice(label)
    whole: tuple[int | slice, ...] = (slice(None), *at)
    plane, drawn = image[whole], label[at]
    scaled = ((plane - limits[0]) / max(limits[1] - limits[0], 1e-6)).clip(0, 1) * 255
    channels = scaled if len(scaled) == 3 else np.repeat(scaled[:1], 3, axis=0)
    shown = np.ascontiguousarray(np.moveaxis(channels, 0, -1).astype(np.uint8))
    outline = is_foreground(drawn) & (ndimage.grey_erosion(drawn, size=3) != drawn)
    for k in np.unique(drawn[outline]):
        colour = QColor(CLASS_COLOURS[(int(k) - 1) % len(CLASS_COLOURS)])
        shown[outline & (drawn == k)] = colour.red(), colour.green(), colour.blue()
    return shown
