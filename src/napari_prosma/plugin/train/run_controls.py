"""What can be changed in a run while it goes on, and the runs that wait for it to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_prosma.events import UNLIMITED_EPOCHS, Event
from napari_prosma.plugin.shared.fields import number, whole
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.plugin.train.settings import MOST_ELEMENTS
from napari_prosma.training.steering import Steering

if TYPE_CHECKING:
    from napari_prosma.training.config import TrainConfig


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A training run as the user asked for it."""

    name: str  # in words, such as ``breast, tiny, 100 epochs``
    run_dir: Path
    make_events: Callable[[Steering], Iterator[Event]]  # Steering -> events: called in the thread
    live: LiveCase | None = None  # the layers that it follows
    scheduler: str | None = None  # where it runs


class RunControls(QWidget):
    """Learning rate and length of the run that goes on; the form above is for the next one.

    Signals
    -------
    changed(str, float or int)
        A setting of ``Steering.change`` and its new value, entered whole.
    """

    changed = Signal(str, object)

    def __init__(self) -> None:
        super().__init__()
        self.rate = number(0, 1, 0, 6, 1e-4, "Learning rate of this run, from now on", least="by the steps")
        self.epochs = whole(MOST_ELEMENTS, 1, "This run ends after this many epochs", suffix=" epochs")
        self.minutes = number(0.1, 100_000, 1, 1, 1, "This run ends this many minutes after its start")
        self.minutes.setSuffix(" min")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Learning rate"))
        for name, field in (("learning_rate", self.rate), ("epochs", self.epochs), ("minutes", self.minutes)):
            # Not with every digit: on the way to 200 epochs stand 2 and 20.
            field.setKeyboardTracking(False)
            field.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            field.valueChanged.connect(partial(self.changed.emit, name))
            row.addWidget(field, 1)
        self.hide()

    def show_config(self, config: TrainConfig) -> None:
        """Show what the run began with."""
        by_time = config.minutes is not None and config.epochs >= UNLIMITED_EPOCHS
        values: list[tuple[QDoubleSpinBox | QSpinBox, float | int]] = [
            (self.rate, config.learning_rate or 0),
            (self.epochs, config.epochs),
            (self.minutes, config.minutes or 1),
        ]
        for field, value in values:
            with signals_blocked(field):
                field.setValue(value)  # type: ignore[arg-type]
        self.epochs.setVisible(not by_time)
        self.minutes.setVisible(by_time)
        self.show()


class WaitingRuns(QWidget):
    """The queue: runs that start one after the other, each with a button that takes it out.

    Signals
    -------
    changed()
        Others wait.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[PlannedRun] = []
        self._rows = QVBoxLayout(self)
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._rows.setSpacing(1)
        self.hide()

    def add(self, run: PlannedRun) -> None:
        """Put a run at the end."""
        self.runs.append(run)
        self._show_runs()

    def take_first(self) -> PlannedRun | None:
        """Take out the run that is next."""
        first = self.runs.pop(0) if self.runs else None
        self._show_runs()
        return first

    def remove(self, run: PlannedRun) -> None:
        """Take out a run."""
        self.runs.remove(run)
        self._show_runs()

    def clear(self) -> None:
        """Nothing waits any more."""
        self.runs.clear()
        self._show_runs()

    def _show_runs(self) -> None:
        while (item := self._rows.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        for place, run in enumerate(self.runs, start=1):
            row = QWidget()
            layout = QHBoxLayout(row)
            layout.setContentsMargins(0, 0, 0, 0)
            label = QLabel(f"next: {run.name}" if place == 1 else f"{place}.: {run.name}")
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setToolTip(
                as_rich(f"Starts when the run before it has ended, and is kept in {run.run_dir}")
            )
            button = QToolButton()
            button.setText("✕")
            button.setToolTip(as_rich(f"Do not run '{run.name}'"))
            button.clicked.connect(lambda _=False, run=run: self.remove(run))
            layout.addWidget(label, 1)
            layout.addWidget(button)
            self._rows.addWidget(row)
        self.setVisible(bool(self.runs))
        self.changed.emit()
