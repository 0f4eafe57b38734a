"""The list of suspicious labels of a run, in a dock below the image, opened where a run first has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QPushButton

from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.panel import from_manifest


class SuspiciousLabels(QObject):
    """Shows and keeps up the list.

    Signals
    -------
    corrected(run_dir, case)
        A label of the list was corrected and saved.
    """

    corrected = Signal(object, str)

    def __init__(self, viewer: napari.Viewer, button: QPushButton, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._button = viewer, button
        self.dock: Any = None

    def show(self, run_dir: Path, live: LiveCase | None) -> None:
        """Open the list of a run, which learns from these layers if they are open."""
        if self.dock is None:
            self.dock = from_manifest("suspicious_labels", self._viewer)
            self.dock.corrected.connect(self.corrected)
        if self.dock.parent() is None:  # closed, it still knows what was corrected
            self._viewer.window.add_dock_widget(self.dock, name=self.dock.TITLE, area="bottom")
        self.dock.show_run(run_dir, live)

    def follow(self, run_dir: Path, live: LiveCase | None) -> None:
        """Open the list, and show its button, when a run has one for the first time; then keep it up."""
        from napari_prosma.training.doubt import LABEL_CONFIDENCE

        if not (run_dir / LABEL_CONFIDENCE).is_file():
            return
        is_first = self._button.isHidden()
        self._button.show()
        dock = self.dock
        is_up = dock is not None and dock.parent() is not None and dock.run_dir == run_dir
        if is_up or (is_first and not (dock is not None and dock.corrections())):
            self.show(run_dir, live)

    def let_go(self) -> None:
        """Read nothing any longer."""
        if self.dock is not None:
            self.dock.close_down()
