"""Which series of a folder are opened: a table of patients, studies, series and labels to tick."""

from __future__ import annotations

import napari
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLabel

from napari_prosma.data.layouts.dicom_studies import Studies
from napari_prosma.plugin.shared.fields import stack
from napari_prosma.plugin.shared.figure_table import FigureTable

MOST_OPENED = 3
"""So many series are opened without a question."""
_ROWS_SHOWN = 12


class SeriesChooser(QDialog):
    """Ticks series; those with labels are ticked at first, or all where none has any."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()
        self.setWindowTitle("Open DICOM series")
        rows = studies.rows()
        self.table = FigureTable(_ROWS_SHOWN)
        self.table.head(name.capitalize() for name in rows[0])
        self.table.show_rows([[str(cell) for cell in row.values()] for row in rows])
        self.table.fit(to_edge=True)
        labelled = [bool(one.objects) for one in studies.series]
        for number, ticked in enumerate(labelled if any(labelled) else [True] * len(labelled)):
            item = self.table.cell(number)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel
        )
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        stack(
            self,
            QLabel("Tick the series to open; labels open with the series that they refer to."),
            self.table,
            self.buttons,
            margins=None,
        )
        self.resize(820, self.sizeHint().height())

    def ticked(self) -> list[int]:
        """Numbers of the chosen series."""
        rows = range(self.table.rowCount())
        return [number for number in rows if self.table.cell(number).checkState() == Qt.CheckState.Checked]


def chosen_of(studies: Studies) -> list[int]:
    """Which series to open: all of a few, else those that are ticked, if there is a window to ask in."""
    every = list(range(len(studies.series)))
    if len(every) <= MOST_OPENED or napari.current_viewer() is None:
        return every
    chooser = SeriesChooser(studies)
    return chooser.ticked() if chooser.exec() == QDialog.DialogCode.Accepted else []
