"""``Answer``: a row per skip that says how much it selects, where, and what that is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractItemView, QWidget
from superqt.utils import signals_blocked

from napari_prosma.inspection.measures import MEASURES
from napari_prosma.inspection.one_image import ALONE, sentence_of
from napari_prosma.plugin.inspect.looking import InspectionResult
from napari_prosma.plugin.inspect.words import worth_in_words
from napari_prosma.plugin.shared.fields import stack
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.message import Message

if TYPE_CHECKING:
    from napari_prosma.inspection.record import SkipRecord

COLUMNS = {
    "skip": "Finest first; click a row to see its maps",
    "selectivity": MEASURES["selectivity"].meaning,
    "rel. energy": MEASURES["relative_energy_inside"].meaning,
    "in / out": MEASURES["retained_energy_ratio"].meaning,
    "worth": "What the spatial selection is worth: the Dice lost when psi is set to its mean, in the window "
    "around the structure; without a label, the overlap (Dice) with the unchanged prediction. None found: "
    "nothing is segmented either way; |dp| is the mean change of the probabilities",
}
SHOWN = ("selectivity", "relative_energy_inside", "retained_energy_ratio")


class Answer(QWidget):
    """The first thing to read: how much each gate selects, where, and what that is worth.

    Signals
    -------
    chosen(int)
        The level of the row that was clicked.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._inspected: InspectionResult | None = None
        self.table = FigureTable()
        self.table.head(COLUMNS)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.itemSelectionChanged.connect(self._selected)
        self.sentence = Message()
        stack(self, self.table, self.sentence)

    @property
    def levels(self) -> list[int]:
        """Of the rows."""
        return [] if self._inspected is None else sorted(self._inspected.record.skips)

    def show_inspected(self, inspected: InspectionResult) -> None:
        """Fill the table and choose the finest skip; nobody is told."""
        self._inspected = inspected
        rows = []
        for level, skip in sorted(inspected.record.skips.items()):
            cells = [level_text(skip, name) for name in SHOWN]
            rows.append([str(level), *cells, worth_in_words(inspected.tried[level])])
        with signals_blocked(self.table):
            self.table.show_rows(rows)
            self.table.fit(wide=len(COLUMNS) - 1)
            self.table.selectRow(0)
        self._tell()

    def _selected(self) -> None:
        self._tell()
        row = self.table.currentRow()
        if self._inspected is not None and 0 <= row < len(self.levels):
            self.chosen.emit(self.levels[row])

    def _tell(self) -> None:
        row = self.table.currentRow()
        if self._inspected is None or not 0 <= row < len(self.levels):
            return
        inspected = self._inspected
        sentence = sentence_of(inspected.record, inspected.tried, self.levels[row])
        self.sentence.tell(f"{sentence} {ALONE}")


def level_text(skip: SkipRecord, measure: str) -> str:
    """A measure of a skip in a cell, with its unit; empty where there is none."""
    value = skip.measures.get(measure)
    return "" if value is None else MEASURES[measure].in_words(value)
