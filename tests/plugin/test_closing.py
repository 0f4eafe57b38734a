"""Panels are closed and collected as garbage without an end of the process."""

from __future__ import annotations

import gc

import napari
from pytestqt.qtbot import QtBot


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
