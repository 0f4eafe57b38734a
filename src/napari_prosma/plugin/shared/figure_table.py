"""``FigureTable``: a table to read, as those of figures, cases and problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from qtpy.QtCore import QEvent, QModelIndex, QSize, Qt
from qtpy.QtGui import QHelpEvent, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
    QToolTip,
)

from napari_prosma.plugin.shared.panel_text import as_rich

ROW_HEIGHT = 21
CELL_MARGIN = 5


class _Telling(QStyledItemDelegate):
    """Shows of names that do not fit the part that differs; the tooltip has the whole."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        """Room for the whole name, but for no more than half the table."""
        hint, table = super().sizeHint(option, index), self.parent()
        assert isinstance(table, FigureTable)
        item = table.item(index.row(), index.column())
        if item is None or index.column():
            return hint
        return QSize(min(table.room_for(item.text()), table.width() // 2), hint.height())

    def initStyleOption(self, option: QStyleOptionViewItem | None, index: QModelIndex) -> None:
        super().initStyleOption(option, index)
        assert option is not None
        option.textElideMode = Qt.TextElideMode.ElideMiddle
        table = self.parent()
        assert isinstance(table, FigureTable)
        item = table.item(index.row(), index.column())
        if item is not None and not index.column() and table.is_cut(item):
            option.text = table.telling(item.text())


class FigureTable(QTableWidget):
    """A table to read: no row numbers, as high as its first few rows."""

    def __init__(self, rows_shown: int = 4) -> None:
        super().__init__()
        self._rows_shown = rows_shown
        self._wide: int | None = None
        self._is_fitted = False
        row_header, column_header, model = self.verticalHeader(), self.horizontalHeader(), self.model()
        sideways = self.horizontalScrollBar()
        assert row_header is not None
        assert sideways is not None
        assert column_header is not None
        assert model is not None
        row_header.hide()
        row_header.setDefaultSectionSize(ROW_HEIGHT)
        self._column_header = column_header
        self._column_header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self._sideways = sideways
        self._sideways.rangeChanged.connect(self._fit_height)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setItemDelegate(_Telling(self))
        self._shared: str | None = None
        for changed in (model.dataChanged, model.rowsInserted, model.rowsRemoved, model.layoutChanged):
            changed.connect(self._texts_changed)
        self.setStyleSheet("QTableWidget { font-size: 11px; } QTableWidget::item { padding: 0 2px; }")

    def viewportEvent(self, event: QEvent | None) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            item = self.itemAt(event.pos())
            if item is not None and not item.toolTip() and self.is_cut(item):
                QToolTip.showText(event.globalPos(), as_rich(item.text()), self)
                return True
        return super().viewportEvent(event)

    def cell(self, row: int, column: int = 0) -> QTableWidgetItem:
        """One that was filled."""
        item = self.item(row, column)
        assert item is not None
        return item

    def is_cut(self, item: QTableWidgetItem) -> bool:
        """Whether the text of a cell does not fit."""
        room = self.columnWidth(item.column()) - 2 * CELL_MARGIN
        return self.fontMetrics().horizontalAdvance(item.text()) > room

    def room_for(self, text: str) -> int:
        """Width of a column that shows it."""
        return self.fontMetrics().horizontalAdvance(text) + 2 * CELL_MARGIN + 1

    def telling(self, name: str) -> str:
        """The part of a name in the first column that differs from the others."""
        shared = self.shared_beginning()
        return name.replace(shared, "…", 1) if shared else name

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        super().resizeEvent(event)
        self._give_room()

    def _give_room(self) -> None:
        """To the names of a first column that takes the rest, where the rest would not tell them apart."""
        if self._wide != 0 or not self.columnCount():
            return
        header, viewport = self._column_header, self.viewport()
        assert viewport is not None
        shown = [column for column in range(1, self.columnCount()) if not self.isColumnHidden(column)]
        rest = viewport.width() - sum(
            max(header.sectionSizeHint(c), self.sizeHintForColumn(c)) for c in shown
        )
        names = [item.text() for row in range(self.rowCount()) if (item := self.item(row, 0)) is not None]
        told = min(max((self.room_for(self.telling(name)) for name in names), default=0), self.width() // 2)
        mode = QHeaderView.ResizeMode
        header.setSectionResizeMode(0, mode.Fixed if rest < told else mode.Stretch)
        if rest < told:
            self.setColumnWidth(0, told)

    def shared_beginning(self) -> str:
        """What all texts of the first column begin with, up to where a word or a number begins."""
        if self._shared is None:
            self._shared = self._beginning()
        return self._shared

    def _texts_changed(self) -> None:
        self._shared = None

    def _beginning(self) -> str:
        items = (self.item(row, 0) for row in range(self.rowCount()))
        names = {item.text() for item in items if item is not None and item.text()}
        if len(names) < 2:
            return ""
        first, last = min(names), max(names)  # what these share, all between them share
        pairs = enumerate(zip(first, last, strict=False))
        same = next((n for n, letters in pairs if len(set(letters)) > 1), len(first) - 1)
        kinds = [(letter.isdigit(), letter.isalpha()) for letter in first]
        return first[: max((n for n in range(1, same + 1) if kinds[n - 1] != kinds[n]), default=0)]

    def head(self, titles: Iterable[str] | Mapping[str, str]) -> None:
        """Titles of the columns, with tooltips where a mapping has them."""
        named = [*titles.items()] if isinstance(titles, Mapping) else [(title, "") for title in titles]
        self.setColumnCount(len(named))
        for column, (title, meaning) in enumerate(named):
            heading = QTableWidgetItem(title)
            heading.setToolTip(meaning)
            self.setHorizontalHeaderItem(column, heading)

    def fit(self, wide: int | None = None, to_edge: bool = False) -> None:
        """Columns as wide as what is in them; one, or the last, takes the rest."""
        self._column_header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        if wide is not None:
            self._column_header.setSectionResizeMode(wide, QHeaderView.ResizeMode.Stretch)
        self._column_header.setStretchLastSection(to_edge)
        self._wide = wide
        self._give_room()

    def open_rows(self, act: Callable[[int, int], object]) -> None:
        """Whole rows are chosen, one at a time; a click or Enter calls ``act`` with row and column."""
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.cellClicked.connect(act)
        self.cellActivated.connect(act)

    def fill(self, rows: Sequence[Sequence[str | float]]) -> None:
        """Take these rows; numbers are sorted as numbers."""
        self.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, value in enumerate(row):
                item = QTableWidgetItem()
                item.setData(Qt.ItemDataRole.DisplayRole, value)
                self.setItem(number, column, item)

    def show_rows(self, rows: Sequence[Sequence[str]]) -> None:
        """Fill the table and show it, as high as its first few rows."""
        self._column_header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.clearSpans()
        self.fill(rows)
        self._is_fitted = True
        self._fit_height()
        self.show()

    def _fit_height(self) -> None:
        """As high as the first few rows, with the bar below them where columns lie beyond the edge."""
        if not self._is_fitted:
            return
        shown = min(self.rowCount(), self._rows_shown)
        bar = self._sideways.sizeHint().height() if self._sideways.maximum() > 0 else 0
        self.setFixedHeight(self.rowHeight(0) * shown + self._column_header.height() + 4 + bar)
