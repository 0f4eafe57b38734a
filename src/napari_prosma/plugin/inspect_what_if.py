"""``WhatIfPart``: sliders and switches of the gates; segmentation and maps follow while they are moved."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledDoubleSlider

from napari_prosma.events import Event, Finished
from napari_prosma.plugin.inspect_looking import Looked, Region, opened
from napari_prosma.plugin.inspect_words import effect_in_words
from napari_prosma.plugin.job import Ending, Job, spare_threads
from napari_prosma.plugin.panel import Message

if TYPE_CHECKING:
    from napari_prosma.inspection.what_if import Effect, WhatIf
    from napari_prosma.nn.gates import Change

MOST = 4.0
"""Largest factor on lambda (method, section 5: the threshold sweep goes from 0 to 4)."""
PARTS = {
    "psi": "The spatial mask; off: it counts as 1 everywhere",
    "c": "The weights of the channels; off: they count as 1",
    "whole": "The whole skip; off: the decoder gets nothing from it",
}


class WhatIfPart(QWidget):
    """A slider and three switches per skip; the newest setting wins.

    Signals
    -------
    followed(Effect)
        What comes of the setting, or of the newest one while it was still worked on.
    back()
        The model is as it was trained.
    """

    followed = Signal(object)
    back = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._looked: Looked | None = None
        self._what_if: WhatIf | None = None
        self._region: Region | None = None
        self._again = False
        self.job = Job(self, notify=False)
        self.job.happened.connect(self._happened)
        self.job.ended.connect(self._ended)
        self.sliders: dict[int, QLabeledDoubleSlider] = {}
        self.switches: dict[int, dict[str, QCheckBox]] = {}
        self.zeros: dict[int, QLabel] = {}
        self._grid = QGridLayout()
        self._grid.setColumnStretch(1, 1)
        self.back_button = QPushButton("Back to the model")
        self.back_button.setToolTip("All thresholds x 1 and all parts on, as it was trained")
        self.back_button.clicked.connect(self.reset)
        self.here_button = QPushButton("Try it here")
        self.here_button.setToolTip(
            "Try changes in a window around the middle of the screen; by default around the structure. The "
            "window is as large as the patches that the model was trained on"
        )
        self.told = Message()
        buttons = QHBoxLayout()
        buttons.addWidget(self.back_button)
        buttons.addWidget(self.here_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 0, 0, 0)
        layout.addLayout(self._grid)
        layout.addLayout(buttons)
        layout.addWidget(self.told)

    def show_looked(self, looked: Looked) -> None:
        """Offer the skips of a model, all as trained."""
        self.job.close()
        self._looked, self._what_if, self._again = looked, looked.what_if, False
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = None if item is None else item.widget()
            if widget is not None:
                widget.deleteLater()
        self.sliders, self.switches, self.zeros = {}, {}, {}
        for column, title in enumerate(("skip", "threshold x", "zeros", *PARTS)):
            self._grid.addWidget(QLabel(title), 0, column)
        for row, (level, skip) in enumerate(sorted(looked.record.skips.items()), start=1):
            self._grid.addWidget(QLabel(str(level)), row, 0)
            self._add_skip(row, level, skip.threshold is not None)
        self._show_zeros(looked.what_if.unchanged)
        self.told.tell(
            "Move a slider: the support of that skip only shrinks as its threshold rises (theorem 1). Finer "
            "skips see other signals then, so theirs may grow."
        )

    def changes(self) -> dict[int, Change]:
        """What the sliders and switches say."""
        from napari_prosma.nn.gates import Change

        return {
            level: Change(
                threshold=slider.value(),
                spatial=self.switches[level]["psi"].isChecked(),
                channel=self.switches[level]["c"].isChecked(),
                whole=self.switches[level]["whole"].isChecked(),
            )
            for level, slider in self.sliders.items()
        }

    @property
    def is_unchanged(self) -> bool:
        """Everything is as it was trained."""
        return all(slider.value() == 1 for slider in self.sliders.values()) and all(
            box.isChecked() for boxes in self.switches.values() for box in boxes.values()
        )

    def reset(self) -> None:
        """As it was trained."""
        for level, slider in self.sliders.items():
            for field in (slider, *self.switches[level].values()):
                field.blockSignals(True)
            slider.setValue(1.0)
            for box in self.switches[level].values():
                box.setChecked(True)
            for field in (slider, *self.switches[level].values()):
                field.blockSignals(False)
        self._apply()

    def look_at(self, region: Region) -> None:
        """Put the window around another place."""
        self._region = region
        self._what_if = None
        self._apply()

    def close_down(self) -> None:
        """Follow no longer."""
        self.job.close()

    def _add_skip(self, row: int, level: int, has_threshold: bool) -> None:
        slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        slider.setRange(0.0, MOST)
        slider.setDecimals(2)
        slider.setSingleStep(0.1)  # type: ignore[arg-type]
        slider.setValue(1.0)
        slider.setEnabled(has_threshold)
        slider.setToolTip(
            f"Multiplies the thresholds lambda of skip {level}: 0 = no threshold, 1 = as trained"
            if has_threshold
            else "This gate has no threshold"
        )
        for number in slider.findChildren(QLineEdit):
            number.setToolTip(slider.toolTip())
        slider.valueChanged.connect(self._apply)
        self.sliders[level] = slider
        self._grid.addWidget(slider, row, 1)
        self.zeros[level] = QLabel()
        self.zeros[level].setToolTip("Share of exact zeros in z, in the window")
        self._grid.addWidget(self.zeros[level], row, 2)
        self.switches[level] = {}
        for column, (part, tip) in enumerate(PARTS.items(), start=3):
            box = QCheckBox()
            box.setChecked(True)
            box.setToolTip(tip)
            box.toggled.connect(self._apply)
            self.switches[level][part] = box
            self._grid.addWidget(box, row, column)

    def _apply(self) -> None:
        if self._looked is None:
            return
        if self.job.is_running:
            self._again = True
            return
        follow = partial(_following, self._looked, self._what_if, self._region, self.changes())
        self.job.start("ProSMA: what if", follow)

    def _happened(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._what_if, effect = event.result
            self._show_zeros(effect)
            if self.is_unchanged:
                self.told.tell("As it was trained")
                self.back.emit()
            else:
                self.told.tell(effect_in_words(effect, self._what_if.unchanged))
                self.followed.emit(effect)

    def _ended(self, ending: Ending) -> None:
        if ending.error is not None:
            self.told.tell_error(str(ending.error))
        if self._again:
            self._again = False
            self._apply()

    def _show_zeros(self, effect: Effect) -> None:
        for level, label in self.zeros.items():
            share = effect.record.skips[level].measures.get("z_zero_fraction")
            label.setText("" if share is None else f"{share:.0%}")


def _following(
    looked: Looked, what_if: WhatIf | None, region: Region | None, changes: dict[int, Change]
) -> Iterator[Event]:
    from napari_prosma.training.device import cpu_threads

    with cpu_threads(spare_threads()):
        if what_if is None:
            record = looked.record
            what_if = opened(looked.checkpoint, looked.image, record.name, looked.label, region)
        yield Finished((what_if, what_if.apply(changes)))
