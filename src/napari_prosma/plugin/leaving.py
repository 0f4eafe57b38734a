"""``Leaving``: one question before closing the panel or napari ends a training run."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import QChildEvent, QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QDialog, QDockWidget, QMainWindow, QMessageBox, QWidget

if TYPE_CHECKING:
    from napari_prosma.plugin.train_panel import TrainPanel

STOP, GO_ON = "Stop and keep what there is", "Go on training"


class Leaving(QObject):
    """Watches the window of napari and the dock of a panel.

    napari itself would ask up to twice: that a worker runs, and whether the window shall be closed. Neither
    says what becomes of the training, so while a run goes on our question takes their place. A script that
    closes the viewer is not asked.
    """

    def __init__(self, panel: TrainPanel) -> None:
        super().__init__(panel)
        self._panel = weakref.proxy(panel)
        self._window: QWidget | None = None

    def start(self) -> None:
        """Watch the window and the dock that the panel is in now."""
        dock = self._panel.parentWidget()
        if isinstance(dock, QDockWidget):
            self._guard(dock)
            self._window = dock.parentWidget()
            assert self._window is not None
            self._window.installEventFilter(self)

    def stop(self) -> None:
        """Watch no longer."""
        window, self._window = self._window, None
        if window is not None and isalive(window):
            window.removeEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Qt's hook; True = the event goes no further."""
        if event is None or not self._panel.job.is_running:
            return False
        if event.type() == QEvent.Type.ChildPolished:
            assert isinstance(event, QChildEvent)
            self._answer_for_napari(event.child())
        elif event.type() == QEvent.Type.Close:
            return self._window_closes(event)
        return False

    def _guard(self, dock: QDockWidget) -> None:
        """The close button of napari's docks calls ``destroyOnClose``."""
        this, held = weakref.ref(self), weakref.ref(dock)

        def close_if_agreed() -> None:
            leaving, closed = this(), held()
            assert leaving is not None
            assert closed is not None
            if not leaving._panel.job.is_running or leaving._agrees():
                type(closed).destroyOnClose(closed)  # type: ignore[attr-defined]

        dock.destroyOnClose = close_if_agreed  # type: ignore[attr-defined]

    def _window_closes(self, event: QEvent) -> bool:
        if not self._is_closed_by_script(event) and not self._agrees():
            event.ignore()
            return True
        self._panel.close_down()
        if not event.spontaneous():
            return False
        event.ignore()
        QTimer.singleShot(0, self._panel.viewer.close)  # by the window's own event napari would ask again
        return True

    def _is_closed_by_script(self, event: QEvent) -> bool:
        """``Viewer.close`` hides the canvas before it closes the window."""
        assert isinstance(self._window, QMainWindow)
        centre = self._window.centralWidget()
        inside = [] if centre is None else [w for w in centre.children() if isinstance(w, QWidget)]
        return not event.spontaneous() and all(widget.isHidden() for widget in inside)

    @staticmethod
    def _answer_for_napari(child: QObject | None) -> None:
        if isinstance(child, QDialog) and type(child).__name__ == "ConfirmCloseDialog":
            child.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen)
            QTimer.singleShot(0, child.accept)

    def _agrees(self) -> bool:
        """Ask; meanwhile the training goes on."""
        box = QMessageBox(self._panel.window())
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle("Training is in progress")
        box.setText("Training is in progress.")
        box.setInformativeText(self._panel.what_leaving_means())
        stop = box.addButton(STOP, QMessageBox.ButtonRole.AcceptRole)
        go_on = box.addButton(GO_ON, QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(go_on)
        box.setEscapeButton(go_on)
        box.exec()
        return box.clickedButton() is stop
