"""Panels are closed and collected as garbage without an end of the process."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import napari
import numpy as np
from napari.layers import Image
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QDialog, QWidget

from napari_prosma.events import Event, Progress
from napari_prosma.plugin.shared.choosers import LayerChooser
from napari_prosma.plugin.shared.closing import let_go_of
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.strokes import single_shot


def test_a_closed_panel_may_be_collected(viewer: napari.Viewer, qtbot: QtBot) -> None:
    """What Qt calls while it deletes must not have been cleared by the collector before."""
    for _ in range(3):
        dock, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Train")
        dock.show()
        qtbot.wait(600)
        assert panel.isVisible() == dock.isVisible()
        viewer.window.remove_dock_widget(dock)
        qtbot.wait(100)
        gc.collect()
    assert "Train" not in viewer.window.dock_widgets


def test_whatever_is_part_of_a_panel_ends_with_it(viewer: napari.Viewer, qtbot: QtBot) -> None:
    panel = QWidget()
    qtbot.addWidget(panel)
    part = QWidget(panel)
    chooser = LayerChooser(viewer, Image)
    chooser.setParent(part)
    window, job = QDialog(part), NewestJob(part)
    calls: list[int] = []
    timer = single_shot(part, 60_000, lambda: calls.append(1))

    def endless() -> Iterator[Event]:
        while True:
            time.sleep(0.01)
            yield Progress(0, 1)

    window.show()
    timer.start()
    job.ask_for("endless", endless)
    let_go_of(panel)
    viewer.add_image(np.eye(2))
    assert [window.isVisible(), timer.isActive(), job.is_running] == [False, False, False]
    assert not chooser.count()
