"""Tables and messages of the panels: names show the part that differs, errors can be read."""

from __future__ import annotations

import napari
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QApplication, QStyleOptionViewItem

from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.message import Message


@pytest.fixture
def table(qtbot: QtBot) -> FigureTable:
    made = FigureTable()
    qtbot.addWidget(made)
    made.setColumnCount(2)
    return made


def shown(table: FigureTable, row: int) -> str:
    option = QStyleOptionViewItem()
    table.itemDelegate().initStyleOption(option, table.model().index(row, 0))
    return str(option.text)


def test_a_bar_below_the_rows_hides_none_of_them(table: FigureTable, qtbot: QtBot) -> None:
    table.setColumnCount(20)
    table.resize(200, 400)
    for count in (3, 1):
        table.show_rows([["a name", *["0.123"] * 19]] * count)
        table.fit(wide=0)
        qtbot.waitUntil(lambda: table.horizontalScrollBar().maximum() > 0)
        qtbot.waitUntil(lambda: table.verticalScrollBar().maximum() == 0)
        assert table.viewport().height() >= table.rowHeight(0) * count
    table.setColumnCount(2)
    qtbot.waitUntil(lambda: table.viewport().height() < 2 * table.rowHeight(0))


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (["hippocampus_001", "hippocampus_017"], "hippocampus_"),
        (["case 12 left", "case 12 right"], "case 12 "),
        (["case1", "case12"], "case"),
        (["a", "b"], ""),
        (["alone"], ""),
        (["same", "same"], ""),
        (["x", ""], ""),
    ],
)
def test_what_names_share_ends_where_a_word_or_number_begins(
    names: list[str], same: str, table: FigureTable
) -> None:
    table.show_rows([(name, "1") for name in names])
    assert table.shared_beginning() == same


def test_only_names_that_do_not_fit_are_shortened_and_the_text_stays_whole(table: FigureTable) -> None:
    table.show_rows([(f"hippocampus_{n:03}", "0.9") for n in (1, 17)])
    header = table.horizontalHeader()
    header.setSectionResizeMode(header.ResizeMode.Fixed)
    table.setColumnWidth(0, 300)
    assert shown(table, 1) == "hippocampus_017"
    assert not table.is_cut(table.item(1, 0))
    table.setColumnWidth(0, 50)
    assert shown(table, 1) == "…017"
    assert table.is_cut(table.item(1, 0)), "so that its tooltip tells the whole"
    assert table.item(1, 0).text() == "hippocampus_017"


def test_names_stay_whole_where_a_table_has_room(qtbot: QtBot) -> None:
    table = FigureTable()
    qtbot.addWidget(table)
    table.head(("case", "differs"))
    table.resize(120, 200)
    table.show_rows([(f"ultrasound_{n:02}", "3%") for n in range(4)])
    table.fit(to_edge=True)
    table.show()
    assert table.columnWidth(0) <= 61, "half the table, and the line of the grid"
    assert table.is_cut(table.item(0, 0))
    table.resize(600, 200)
    table.fit(to_edge=True)
    table.resizeColumnToContents(0)
    assert not any(table.is_cut(table.item(row, 0)) for row in range(4))


def test_a_word_across_columns_takes_no_room_from_the_names(qtbot: QtBot) -> None:
    table = FigureTable()
    qtbot.addWidget(table)
    table.head(("case", "Dice", "IoU"))
    table.resize(150, 200)
    table.show_rows([("hippocampus_004", "0.8", "0.7"), ("hippocampus_011", "no prediction at all", "")])
    table.setSpan(1, 1, 1, 2)
    table.fit(wide=0)
    table.show()
    assert table.columnWidth(0) >= table.room_for("…011")
    assert table.columnWidth(1) < table.room_for("no prediction at all")


def test_names_keep_the_room_that_tells_them_apart(qtbot: QtBot) -> None:
    table = FigureTable()
    qtbot.addWidget(table)
    table.head(("case", "a wide heading", "another wide heading"))
    table.show_rows([(f"hippocampus_{n:03}", "1", "2") for n in range(4)])
    table.fit(wide=0)
    table.resize(150, 200)
    table.show()
    assert table.columnWidth(0) == table.room_for("…003")
    assert table.columnWidth(1) >= table.room_for("a wide heading")
    table.resize(900, 200)
    qtbot.waitUntil(lambda: not table.is_cut(table.item(0, 0)))


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_errors_can_be_read_in_either_theme(viewer: napari.Viewer, theme: str) -> None:
    message = Message()
    viewer.window.add_dock_widget(message, name="message")
    message.tell_error("choose a model")
    assert message.plain_text() == "Choose a model"
    viewer.theme = theme
    QApplication.processEvents()
    parent = message.parentWidget()
    assert parent is not None
    shown, behind = (
        luminance(colour)
        for colour in (message.palette().windowText().color(), parent.palette().window().color())
    )
    assert (max(shown, behind) + 0.05) / (min(shown, behind) + 0.05) >= 4.5


def luminance(colour: QColor) -> float:
    """Relative luminance, as accessibility guidelines define it."""
    parts = (colour.redF(), colour.greenF(), colour.blueF())
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_room_for_names_is_found_in_one_walk_through_the_rows(
    table: FigureTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    whole = table._beginning
    monkeypatch.setattr(table, "_beginning", lambda: walks.append(1) or whole())
    table.show_rows([[f"a case with a long name {n}", "0.5"] for n in range(50)])
    table.fit(wide=0)
    assert 0 < len(walks) < 5
    table.show_rows([["another", "0.5"], ["also", "0.5"]])
    assert table.telling("another") == "another"
