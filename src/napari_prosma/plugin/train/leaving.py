"""``Leaving``: one question before closing the panel or napari ends a training run."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import QChildEvent, QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QApplication, QDialog, QDockWidget, QMainWindow, QMessageBox

from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.plugin.shared.unsaved import is_closed_by_script, unsaved_of

if TYPE_CHECKING:
    from napari_prosma.plugin.train.panel import TrainPanel

STOP, GO_ON, LEAVE = "Stop training", "Continue training", "Leave it running there"


class Leaving(QObject):
    """Watches the window of napari and the dock of a panel.

    napari itself would ask up to twice: that a worker runs, and whether the window shall be closed. Neither
    says what becomes of the training, so while a run goes on our question takes their place. Once the user
    agreed, the run ends after its step and keeps its place; only then panel or window are closed, so that
    napari answers meanwhile. A script that closes the viewer is not asked.
    """

    def __init__(self, panel: TrainPanel) -> None:
        super().__init__(panel)
        self._panel = weakref.proxy(panel)
        self._window: QMainWindow | None = None
        self._is_leaving = False

    def start(self) -> None:
        """Watch the window and the dock that the panel is in now."""
        dock = self._panel.parentWidget()
        if isinstance(dock, QDockWidget):
            self._guard(dock)
            window = dock.parentWidget()
            assert isinstance(window, QMainWindow)
            self._window = window
            self._window.installEventFilter(self)

    def stop(self) -> None:
        """Watch no longer."""
        window, self._window = self._window, None
        if window is not None and isalive(window):
            window.removeEventFilter(self)

    def stay(self) -> None:
        """Whoever wants to leave is asked again."""
        self._is_leaving = unsaved_of(self._panel.viewer).is_answered = False

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

        def close() -> None:
            closed = held()
            if closed is not None and isalive(closed):
                type(closed).destroyOnClose(closed)  # type: ignore[attr-defined]

        def close_if_agreed() -> None:
            leaving = this()
            assert leaving is not None
            if not leaving._panel.job.is_running:
                close()
            elif not leaving._is_leaving and leaving._agrees():
                leaving._is_leaving = True
                leaving._panel.stop_then(close)

        dock.destroyOnClose = close_if_agreed  # type: ignore[attr-defined]

    def _window_closes(self, event: QEvent) -> bool:
        assert self._window is not None
        if is_closed_by_script(self._window, event):
            self._panel.close_down()
            return False
        event.ignore()
        viewer = self._panel.viewer
        unsaved = unsaved_of(viewer)
        if not self._is_leaving and self._agrees(unsaved.in_words()):
            self._is_leaving = unsaved.is_answered = True
            quits = bool(getattr(self._window, "_quit_app", False))

            def close() -> None:
                viewer.close()  # by the window's own event napari would ask again
                if quits:
                    QApplication.quit()

            self._panel.stop_then(close)
        return True

    @staticmethod
    def _answer_for_napari(child: QObject | None) -> None:
        if isinstance(child, QDialog) and type(child).__name__ == "ConfirmCloseDialog":
            child.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen)
            QTimer.singleShot(0, child.accept)

    def _agrees(self, unsaved: str = "") -> bool:
        """Ask; meanwhile the training goes on."""
        box = QMessageBox(self._panel.window())
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle("Training is in progress")
        box.setText("Training is in progress.")
        said = (self._panel.what_leaving_means(), unsaved)
        box.setInformativeText(as_rich("\n\n".join(filter(None, said))))
        stop = box.addButton(STOP, QMessageBox.ButtonRole.AcceptRole)
        go_on = box.addButton(GO_ON, QMessageBox.ButtonRole.RejectRole)
        leave = box.addButton(LEAVE, QMessageBox.ButtonRole.AcceptRole) if self._panel.can_leave else None
        box.setDefaultButton(go_on)
        box.setEscapeButton(go_on)
        box.exec()
        if leave is not None and box.clickedButton() is leave:
            self._panel.leave()
            return True
        return box.clickedButton() is stop
