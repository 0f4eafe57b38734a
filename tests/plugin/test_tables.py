"""Tables of the panels: names that do not fit show the part that differs."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QStyleOptionViewItem

from napari_prosma.plugin.shared.panel import FigureTable


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
