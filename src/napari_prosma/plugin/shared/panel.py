"""``Panel``: what the panels share: a scrolling form, the buttons of a run, and a clean end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import napari
from npe2 import PluginManager
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QDockWidget,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.errors import ProsmaError, as_sentence
from napari_prosma.events import Event, Progress, Started
from napari_prosma.plugin.shared.access import Page, name_controls
from napari_prosma.plugin.shared.closing import let_go_of
from napari_prosma.plugin.shared.fields import group, thin_bar
from napari_prosma.plugin.shared.form_memory import keep_place, recall_form, remember_form
from napari_prosma.plugin.shared.job import Ending, Job
from napari_prosma.plugin.shared.keys import KEYS, tip
from napari_prosma.plugin.shared.loading import loading
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.run_folders import ModelDrops, open_runs_unasked
from napari_prosma.plugin.shared.thumbnails import keep_thumbnails
from napari_prosma.plugin.shared.unsaved import BringBack, unsaved_of

PANEL_WIDTH = 350


def open_panel(viewer: napari.Viewer, name: str) -> QWidget:
    """One of our panels by its display name, in front of those that share its place."""
    dock, widget = viewer.window.add_plugin_dock_widget("napari-prosma", name, tabify=True)
    dock.show()
    dock.raise_()
    return widget


def has_left_its_dock(widget: QWidget, event: QEvent | None) -> bool:
    """napari's close button takes a widget out of its dock without closing it."""
    return event is not None and event.type() == QEvent.Type.ParentChange and widget.parent() is None


def from_manifest(command: str, *arguments: Any) -> Any:
    """What a command of our manifest makes; so one room opens what another holds without knowing it."""
    return PluginManager.instance().commands.execute(f"napari-prosma.{command}", arguments)


def epochs_in_words(epochs: int) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{epochs} epoch{'s' * (epochs != 1)}"


class Panel(QWidget):
    """A form above the buttons and the progress of one run.

    A panel adds its fields by ``add_group``, calls ``lay_out``, and implements ``begin`` (called by the
    start button), ``happened`` for each event and ``ended``. What its runs need is loaded behind it as soon
    as it was painted, with a busy sign; ``prepared`` is called then.
    """

    needs: ClassVar[Mapping[str, str]] = {}
    """Modules that are slow to import, by what the user is told."""
    page: ClassVar[str]
    """Heading of its section in the docs."""

    def __init__(self, viewer: napari.Viewer, start_text: str = "", pausable: bool = False) -> None:
        super().__init__()
        keep_thumbnails()
        self.viewer = viewer
        self.job = Job(self, happened=self._happened, held=self._held, ended=self._ended)
        self.unsaved = unsaved_of(viewer)
        self.bring_back = BringBack(viewer)
        self._was_painted = False
        self.preparing = Job(self, notify=False, happened=self._tell_preparing, ended=self._preparing_ended)

        self.start_button = QPushButton(start_text or "Start")
        self.pause_button = QPushButton("Pause")
        self.stop_button = QPushButton("Stop")
        self.start_button.clicked.connect(self._begin)
        self.pause_button.clicked.connect(self._pause_or_resume)
        self.stop_button.clicked.connect(self._stop)
        self.pause_button.setVisible(pausable)
        self.pause_button.setToolTip("Pause after the current step; press again to continue")
        self.stop_button.setToolTip("Stop after the current step and keep what is done")
        self.progress_bar = thin_bar()
        self.has_run = bool(start_text)
        if not self.has_run:
            for part in (self.start_button, self.pause_button, self.stop_button, self.progress_bar):
                part.hide()
        self.status = Message()
        self.preparation = Message()
        self._progress = ""

        self.scroll_area = QScrollArea()
        self.form = QVBoxLayout()
        self.form.setContentsMargins(0, 0, 4, 0)
        self.below = QVBoxLayout()

    def begin(self) -> tuple[str, Callable[[], Iterator[Event]]]:
        """Title and events of a run with the settings as they are; the events are made in the thread.

        Raises ``ProsmaError``: when something has to be chosen first.
        """
        raise NotImplementedError

    def happened(self, event: Event) -> None:
        """An event of the run, in the main thread."""

    def ended(self, ending: Ending) -> None:
        """The run is over; the panel can start another one."""

    def prepared(self) -> None:
        """What runs need is loaded, behind a panel that the user sees."""

    def close_down(self) -> None:
        """Stop what runs, wait until it is saved, and let go of the viewer."""
        self.preparing.close(0)  # an import cannot be stopped, and has nothing to save
        let_go_of(self)

    def event(self, event: QEvent | None) -> bool:
        if has_left_its_dock(self, event):
            self.close_down()
        if event is not None and event.type() == QEvent.Type.Paint and not self._was_painted:
            self._was_painted = True
            dock = self.parentWidget()
            window = dock.parentWidget() if dock is not None else None
            self.unsaved.guard(window)
            ModelDrops.watch(self.viewer, window)
            keep_place(type(self).__name__, self)
            open_runs_unasked()
            QTimer.singleShot(0, self._join_tabs)
            QTimer.singleShot(0, self._prepare)
        return super().event(event)

    def remembered_forms(self) -> Mapping[str, QWidget]:
        """Forms whose fields come back in the next session, by names; none unless a panel names some."""
        return {}

    def recall(self) -> None:
        """Fill the forms as they were when a run was last started; called when all is laid out."""
        for name, form in self.remembered_forms().items():
            recall_form(name, form)

    def run(self, title: str, make_events: Callable[[], Iterator[Event]]) -> None:
        """Run events in the panel's job, and remember with what."""
        for name, form in self.remembered_forms().items():
            remember_form(name, form)
        self.preparation.tell("")
        self.status.tell("Starting")
        self.job.start(title, make_events)
        self._show_running(True)

    def add_group(self, title: str) -> QFormLayout:
        """A titled form."""
        box, layout = group(title)
        self.form.addWidget(box)
        return layout

    def lay_out(self, buttons: Sequence[QPushButton] = ()) -> None:
        """Put everything in its place; called last, so that the tab key goes from top to bottom.

        ``buttons`` stand at the bottom, by default those of every run.
        """
        content = QWidget()
        content.setLayout(self.form)
        self.scroll_area.setWidget(content)
        self.scroll_area.setWidgetResizable(True)
        self.scroll_area.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll_area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        row = QHBoxLayout()
        self.help_button = QToolButton()
        self.help_button.setText("?")
        self.help_button.setToolTip(f"Help on {self.page}")
        self.help_button.setAccessibleName("Help")
        self.help_button.clicked.connect(self._open_page)
        for button in buttons or (self.start_button, self.pause_button, self.stop_button):
            row.addWidget(button, 1)
        if not self.has_run:
            row.addStretch(1)
        row.addWidget(self.help_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addWidget(self.bring_back)
        layout.addWidget(self.scroll_area, 1)
        layout.addLayout(self.below)
        layout.addWidget(self.status)
        layout.addWidget(self.preparation)
        layout.addWidget(self.progress_bar)
        layout.addLayout(row)  # last, so that no message that comes or goes moves a button
        self.setMinimumWidth(PANEL_WIDTH)
        begin = QShortcut(QKeySequence(KEYS["start"].name), self)
        begin.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        begin.activated.connect(self._begin_by_key)
        self.start_button.setToolTip(tip(self.start_button.toolTip(), "start"))
        name_controls(self)
        self._show_running(False)

    def _open_page(self) -> None:
        page = Page(self.page, self)
        page.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        page.show()

    def _join_tabs(self) -> None:
        """Panels of ours share one place as tabs, whichever way they were opened; tabs have short titles."""
        dock = self._dock()
        window = dock.parentWidget() if dock is not None else None
        if dock is None or not isinstance(window, QMainWindow):
            return
        dock.setWindowTitle(dock.windowTitle().split(" (")[0])
        for other in window.findChildren(Panel):
            beside = other._dock()
            if beside in (None, dock):
                continue
            if dock in window.tabifiedDockWidgets(beside):
                return
            if window.dockWidgetArea(beside) == window.dockWidgetArea(dock):
                window.tabifyDockWidget(beside, dock)
                dock.raise_()
                return

    def _dock(self) -> QDockWidget | None:
        dock = self.parentWidget()
        return dock if isinstance(dock, QDockWidget) else None

    def _prepare(self) -> None:
        self._was_painted = self.isVisible()
        if self._was_painted:  # else it was closed or hidden at once
            self.preparing.start("ProSMA: getting ready", partial(loading, self.needs))
            self._show_running(self.job.is_running)

    def _tell_preparing(self, event: Event) -> None:
        if isinstance(event, Started) and not self.job.is_running:
            self.preparation.tell(f"{event.message}…")

    def _preparing_ended(self, ending: Ending) -> None:
        self.preparation.tell("")
        if not self.job.is_running:
            self._show_running(False)
        if ending.error is None and not ending.stopped:
            self.prepared()

    def _begin_by_key(self) -> None:
        if not self.start_button.isHidden():  # a panel without a run has nothing to begin
            self.start_button.click()

    def _begin(self) -> None:
        try:
            title, make_events = self.begin()
        except ProsmaError as error:
            self.status.tell_error(str(error))
            return
        self.run(title, make_events)

    def _stop(self) -> None:
        self.job.stop()
        self.status.tell("Stopping after this step")
        self.pause_button.setEnabled(False)
        self.stop_button.setEnabled(False)

    def _pause_or_resume(self) -> None:
        self.pause_button.setEnabled(False)
        if self.is_held:
            self.job.resume()
        else:
            self.job.pause()
            self.status.tell("Pausing after this step")

    def _held(self, held: bool) -> None:
        self.is_held = held
        self.pause_button.setText("Continue" if held else "Pause")
        if not self.job.is_stopping:
            self.pause_button.setEnabled(True)
            self.status.tell("Paused" if held else "Continuing")

    def remark(self) -> str:
        """What is said beside the progress; empty = nothing."""
        return ""

    def tell_progress(self) -> None:
        """Say anew how far the run is."""
        if not self.job.is_stopping and self.stop_button.isEnabled():
            said = (self._progress, f"{left} left" if (left := self.job.time_left()) else "", self.remark())
            self.status.tell(as_sentence(", ".join(filter(None, said))))

    def _happened(self, event: Event) -> None:
        if isinstance(event, Started):
            self.progress_bar.setRange(0, event.total)
            self.progress_bar.setValue(0)
            self._progress = event.message
            self.tell_progress()
        elif isinstance(event, Progress):
            self.progress_bar.setRange(0, event.total)
            self.progress_bar.setValue(event.done)
            self._progress = event.message
            if self.pause_button.isEnabled():
                self.tell_progress()
        self.happened(event)

    def _ended(self, ending: Ending) -> None:
        self._show_running(False)
        if ending.error is not None:
            self.status.tell_error(str(ending.error) or type(ending.error).__name__)
        elif ending.stopped:
            self.status.tell("Stopped")
        self.ended(ending)

    def _show_running(self, running: bool) -> None:
        self.start_button.setEnabled(not running)
        self.pause_button.setEnabled(running)
        self.is_held = False
        self.pause_button.setText("Pause")
        self.stop_button.setEnabled(running)
        self.progress_bar.setRange(0, 0 if running or self.preparing.is_running else 1)
        self.progress_bar.setValue(0)
