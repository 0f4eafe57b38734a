"""*Reproduce*: the shell line and the Python lines of what the form is about to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QApplication,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QWidget,
)

from napari_prosma.errors import ProsmaError
from napari_prosma.events import Event, Finished
from napari_prosma.plugin.shared.fields import fold, in_a_row, stack
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.run_on import RunOn
from napari_prosma.plugin.shared.strokes import single_shot
from napari_prosma.plugin.train.data import Data

FOLLOW_MS = 300
HEIGHT = 84


class Repeat(QWidget):
    """A fold with the lines, kept up with the form while it is open.

    Parameters
    ----------
    planned : () -> (settings of TrainConfig, Data)
        What the form says; raises a ``ProsmaError`` where something is missing.
    run_on : RunOn
        Where the run is computed.
    """

    def __init__(self, planned: Callable[[], tuple[dict[str, Any], Data]], run_on: RunOn) -> None:
        super().__init__()
        self._planned, self._run_on = planned, run_on
        self.job = NewestJob(self, finished=self._told, failed=self._refuse)
        self.message = Message()
        self.shell, shell_row = _lines("In a shell", "Copy the line for a shell")
        self.python, python_row = _lines("In Python", "Copy the lines for Python")
        content = QWidget()
        stack(content, self.message, shell_row, python_row, margins=(6, 0, 0, 0))
        self.fold = fold("Reproduce", content)
        self.fold.toggled.connect(self.form_changed)
        stack(self, self.fold)
        self._later = single_shot(self, FOLLOW_MS, self._ask)

    def form_changed(self) -> None:
        """Say anew, soon, what the form does."""
        if self.fold.isExpanded():
            self._later.start()

    def _ask(self) -> None:
        self.job.ask(self._tell)

    def _tell(self) -> None:
        try:
            settings, data = self._planned()
        except ProsmaError as error:
            self._refuse(str(error))
            return
        self.job.start(
            "ProSMA: writing down the run", partial(_telling, settings, data, self._run_on.scheduler)
        )

    def _told(self, lines: tuple[str, str]) -> None:
        self.message.tell("")
        self._show(*lines)

    def _refuse(self, why: str) -> None:
        self._show("", "")
        self.message.tell_error(why)

    def _show(self, shell: str, python: str) -> None:
        self.shell.setPlainText(shell)
        self.python.setPlainText(python)


def _lines(title: str, tip: str) -> tuple[QPlainTextEdit, QWidget]:
    text = QPlainTextEdit()
    text.setAccessibleName(title)
    text.setReadOnly(True)
    text.setMaximumHeight(HEIGHT)
    text.setTabChangesFocus(True)
    text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
    button = QPushButton("Copy")
    button.setToolTip(tip)
    button.clicked.connect(lambda: _copy(text.toPlainText()))
    head = in_a_row(QLabel(title), None, button)
    row = QWidget()
    stack(row, head, text)
    return text, row


def _copy(text: str) -> None:
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    clipboard.setText(text)


def _telling(settings: dict[str, Any], data: Data, scheduler: str | None) -> Iterator[Event]:
    from napari_prosma.training.config import TrainConfig
    from napari_prosma.training.lines import python_lines, shell_line

    config = TrainConfig.of(**settings).model_copy(update=data.look().settings)
    yield Finished((shell_line(config, None, scheduler), python_lines(config, None, scheduler)))
