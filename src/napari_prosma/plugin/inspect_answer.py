"""``Answer``: a row per skip that says what it let through, where, and whether it mattered."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QVBoxLayout, QWidget

from napari_prosma.plugin.inspect_looking import Looked
from napari_prosma.plugin.inspect_words import matters_in_words, skip_in_words
from napari_prosma.plugin.panel import FigureTable, Message

COLUMNS = {
    "skip": "Finest first; click a row to see its maps",
    "energy kept": "Share of the skip's squared values that reaches the decoder",
    "in / out": "Energy kept inside the structure over that outside; above 1 the gate prefers it",
    "it mattered": "Whether the result changes when this skip is cut, in the window around the "
    "structure; in brackets: the change of Dice against the label. None found: there is no result with "
    "the skip or without, so see how far the probabilities move (mean |dp|)",
}


class Answer(QWidget):
    """The first thing to read: what did each skip hold back, where, and did it matter?

    Signals
    -------
    chosen(int)
        The level of the row that was clicked.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._looked: Looked | None = None
        self.table = FigureTable()
        self.table.setColumnCount(len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        for column, tip in enumerate(COLUMNS.values()):
            item = self.table.horizontalHeaderItem(column)
            assert item is not None
            item.setToolTip(tip)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.itemSelectionChanged.connect(self._selected)
        self.sentence = Message()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(self.sentence)

    @property
    def levels(self) -> list[int]:
        """Of the rows."""
        return [] if self._looked is None else sorted(self._looked.record.skips)

    def show_looked(self, looked: Looked) -> None:
        """Fill the table and choose the finest skip; nobody is told."""
        self._looked = looked
        rows = []
        for level, skip in sorted(looked.record.skips.items()):
            ratio = skip.measures.get("retained_energy_ratio")
            cut = looked.cuts[level]
            told = matters_in_words(cut)
            if cut.is_empty:
                told += f", |dp| {cut.moved:.3f}"
            elif cut.dice is not None and cut.dice_before is not None:
                told += f" ({round(cut.dice - cut.dice_before, 2) + 0.0:+.2f})"  # never -0.00
            kept = f"{skip.measures['retained_energy']:.0%}"
            rows.append([str(level), kept, "" if ratio is None else f"{ratio:.1f}", told])
        self.table.blockSignals(True)
        self.table.show_rows(rows)
        header = self.table.horizontalHeader()
        assert header is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(len(COLUMNS) - 1, QHeaderView.ResizeMode.Stretch)
        self.table.selectRow(0)
        self.table.blockSignals(False)
        self._tell()

    def _selected(self) -> None:
        self._tell()
        row = self.table.currentRow()
        if self._looked is not None and 0 <= row < len(self.levels):
            self.chosen.emit(self.levels[row])

    def _tell(self) -> None:
        row = self.table.currentRow()
        if self._looked is None or not 0 <= row < len(self.levels):
            return
        level, record = self.levels[row], self._looked.record
        self.sentence.tell(skip_in_words(record.skips[level], record.reference, self._looked.cuts[level]))
