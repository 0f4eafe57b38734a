"""Every control can be named, reached and explained; panels share one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import napari
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QShortcut
from qtpy.QtWidgets import QAbstractButton, QDockWidget, QMainWindow, QWidget

from napari_prosma.plugin.shared.access import Page, controls, section_of_docs
from napari_prosma.plugin.shared.form_memory import keep_place
from napari_prosma.plugin.shared.keys import KEYS
from napari_prosma.plugin.shared.panel import Panel

PANELS = ("Train", "Annotate", "Segment", "Evaluate", "Inspect gates")
Open = Callable[[str], Panel]


@pytest.mark.parametrize("name", PANELS)
def test_every_control_has_a_name(name: str, open_panel: Open) -> None:
    panel = open_panel(name)
    found = controls(panel)
    assert len(found) > 5
    nameless = [
        each
        for each in found
        if not each.accessibleName() and not (isinstance(each, QAbstractButton) and each.text())
    ]
    assert nameless == []


@pytest.mark.parametrize("name", PANELS)
def test_the_help_button_shows_the_section_of_the_docs(
    name: str, open_panel: Open, press: Callable[[QAbstractButton], None]
) -> None:
    panel = open_panel(name)
    panel.help_button.click()
    (page,) = panel.findChildren(Page)
    text = page.text.toPlainText()
    assert text.startswith(name)
    assert len(text) > 300
    assert f"## {name}" in section_of_docs(name)


def test_a_panel_opens_where_it_stood_last(qtbot: QtBot) -> None:
    left, right = Qt.DockWidgetArea.LeftDockWidgetArea, Qt.DockWidgetArea.RightDockWidgetArea

    def opened() -> tuple[QMainWindow, QDockWidget]:
        window, dock = QMainWindow(), QDockWidget()
        qtbot.addWidget(window)
        dock.setWidget(QWidget())
        window.addDockWidget(right, dock)
        keep_place("Evaluate", dock.widget())
        return window, dock

    window, dock = opened()
    assert window.dockWidgetArea(dock) == right
    window.addDockWidget(left, dock)  # as when its title is dragged there
    window, dock = opened()
    assert window.dockWidgetArea(dock) == left
    window.addDockWidget(right, dock)
    window, dock = opened()
    assert window.dockWidgetArea(dock) == right


def test_panels_open_as_tabs_of_one_place_with_short_titles(
    viewer: napari.Viewer, open_panel: Open, qtbot: QtBot
) -> None:
    opened = []
    for name in ("Train", "Annotate", "Segment"):
        opened.append(open_panel(name))
        opened[-1]._join_tabs()  # as after the first paint
    docks: list[Any] = [panel.parentWidget() for panel in opened]
    window = docks[0].parentWidget()
    assert isinstance(window, QMainWindow)
    assert all(isinstance(dock, QDockWidget) for dock in docks)
    assert set(window.tabifiedDockWidgets(docks[0])) == set(docks[1:])
    assert [dock.windowTitle() for dock in docks] == ["Train", "Annotate", "Segment"]


def test_ctrl_return_presses_the_main_button(viewer: napari.Viewer, open_panel: Open, qtbot: QtBot) -> None:
    panel: Any = open_panel("Segment")
    assert KEYS["start"].name in panel.start_button.toolTip()
    (begin,) = panel.findChildren(QShortcut)
    assert begin.key().toString() == KEYS["start"].name
    begin.activated.emit()
    qtbot.waitUntil(lambda: "open an image" in panel.status.plain_text(), timeout=5_000)


def test_ctrl_return_does_nothing_where_no_main_button_is(open_panel: Open) -> None:
    panel: Any = open_panel("Annotate")
    (begin,) = panel.findChildren(QShortcut)
    begin.activated.emit()
    assert not panel.job.is_running
