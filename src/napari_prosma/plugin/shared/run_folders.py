"""Run folders that are dropped on napari open with this program, without a question.

napari asks which reader is to open a folder whenever several take folders, as its own does; a manifest
cannot say more. What a user would answer and tick there is an entry of napari's preferences: one for the
usual folder of runs, and one for each run that is kept elsewhere. Other runs are caught as they are dropped,
once a panel of ours was opened; before that, napari has not loaded this program and asks.
"""

from __future__ import annotations

import os
from pathlib import Path

import napari
from napari.settings import get_settings
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QWidget

from napari_prosma.app.models import runs_folder
from napari_prosma.app.remembered import remember, remembered
from napari_prosma.data.limits import real
from napari_prosma.model.header import is_model

READER = "napari-prosma"
_TOLD = "napari opens runs"


def open_runs_unasked() -> None:
    """Enter the folder of runs in napari's preferences once it is there; what the user changes stays."""
    pattern = os.path.join(os.path.realpath(runs_folder()), "*", "")
    if remembered(_TOLD) == pattern or not runs_folder().is_dir():
        return
    _open_unasked(pattern)
    remember(_TOLD, pattern)


def open_run_unasked(run_dir: Path) -> None:
    """The same of one run that is kept elsewhere."""
    if real(run_dir).parent != real(runs_folder()):
        _open_unasked(os.path.join(os.path.realpath(run_dir), ""))


def _open_unasked(pattern: str) -> None:
    plugins = get_settings().plugins
    if pattern not in plugins.extension2reader:
        plugins.extension2reader = {**plugins.extension2reader, pattern: READER}


def dropped_model(event: QDropEvent) -> Path | None:
    """The one model that is dragged or dropped."""
    data = event.mimeData()
    paths = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()] if data is not None else []
    return paths[0] if len(paths) == 1 and is_model(paths[0]) else None


class ModelDrops(QObject):
    """Opens models that are dropped on a viewer; with the Alt key napari asks for the reader as always."""

    def __init__(self, viewer: napari.Viewer, canvas: QObject) -> None:
        super().__init__(canvas)
        self._viewer = viewer
        canvas.installEventFilter(self)

    @classmethod
    def watch(cls, viewer: napari.Viewer, window: QWidget | None) -> None:
        """Begin with napari's main window, once."""
        canvas = getattr(window, "_qt_viewer", None)
        if isinstance(canvas, QObject) and canvas.findChild(cls) is None:
            cls(viewer, canvas)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Qt's hook."""
        if isinstance(event, QDropEvent) and event.type() == QEvent.Type.Drop:
            model = dropped_model(event)
            if model is not None and not event.modifiers() & Qt.KeyboardModifier.AltModifier:
                event.acceptProposedAction()
                self._viewer.open(str(model), plugin=READER)
                return True
        return super().eventFilter(watched, event)
