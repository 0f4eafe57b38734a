"""The window of Check data: what is wrong with a data set, case by case, and its cases to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import napari
from qtpy.QtCore import QSize
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QDialog, QHeaderView, QPushButton, QWidget

from napari_prosma.data.case import Case
from napari_prosma.data.check import Problem, check_each, compare, write_table
from napari_prosma.data.layouts import DataSet
from napari_prosma.errors import DataError, as_sentence
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.plugin.shared.access import name_controls
from napari_prosma.plugin.shared.asking import save_as
from napari_prosma.plugin.shared.fields import UNLIMITED, in_a_row, stack
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.layers import LayerTuple, add_layer, image_layer, labels_layer
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.sparse import Wanted

WINDOW = QSize(820, 420)
_CASE, _SEVERITY = 0, 1


class CheckWindow(QDialog):
    """Looks at every case of a folder; a double click on a row opens its case as layers."""

    def __init__(self, viewer: napari.Viewer, parent: QWidget) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.problems: tuple[Problem, ...] = ()
        self._data: DataSet | None = None
        self.job = NewestJob(self, happened=self._happened, ended=self._ended)
        self.message = Message()
        self.opening = NewestJob(self, happened=self._opened, failed=self.message.tell_error)

        self.table = FigureTable()
        self.table.head(("Case", "Severity", "Found", "Remedy"))
        self.table.setWordWrap(True)
        self.table.setToolTip("Double-click a row to open the image and the label of its case")
        self.table.cellDoubleClicked.connect(self._open)
        self.save_button = QPushButton("Save table…")
        self.save_button.setToolTip("Save the table as a CSV file")
        self.save_button.clicked.connect(self._save)
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("Stop checking")
        self.stop_button.clicked.connect(self.job.stop)
        buttons = in_a_row(None, self.stop_button, self.save_button)
        stack(self, self.message, self.table, buttons, wide=self.table, margins=None)
        name_controls(self)
        self.resize(WINDOW)

    def check(self, wanted: Wanted) -> None:
        """Look at a folder whose labels are meant so."""
        self.job.ask(partial(self._begin, wanted))
        self.show()
        self.raise_()

    def _begin(self, wanted: Wanted) -> None:
        self.problems, self._data = (), None
        self.setWindowTitle(f"Check of {wanted.folder.name}")
        self._show_problems()
        self.stop_button.setEnabled(True)
        self.save_button.setEnabled(False)
        self.job.start("ProSMA: checking a data set", partial(_checking, wanted))

    def closeEvent(self, event: QCloseEvent | None) -> None:
        self.job.stop()
        super().closeEvent(event)

    def _happened(self, event: Event) -> None:
        if isinstance(event, (Started, Progress)):
            self.message.tell(event.message)
        elif isinstance(event, _Checked):
            self._data = event.data
            self.problems = (*self.problems, *event.problems)
            if event.problems:
                self._show_problems()
        elif isinstance(event, Finished):
            assert self._data is not None
            notices = map(as_sentence, self._data.notices)
            self.message.tell("\n".join([_in_words(event.result, self.problems), *notices]))

    def _ended(self, ending: Ending) -> None:
        self.stop_button.setEnabled(False)
        self.save_button.setEnabled(bool(self.problems))
        if ending.error is not None:
            self.message.tell_error(str(ending.error))
        elif ending.stopped:
            self.message.tell(f"Stopped; {_counted(self.problems)} so far")

    def _show_problems(self) -> None:
        rows = [(p.case or "all", p.severity, p.found, p.remedy) for p in self.problems]
        self.table.show_rows(rows)
        self.table.setMinimumHeight(0)
        self.table.setMaximumHeight(UNLIMITED)
        header = self.table.horizontalHeader()
        assert header is not None
        header.setSectionResizeMode(_SEVERITY, QHeaderView.ResizeMode.ResizeToContents)
        self.table.resizeRowsToContents()

    def _open(self, row: int, column: int = 0) -> None:
        name = self.problems[row].case
        case = next((case for case in self._data.cases if case.name == name), None) if self._data else None
        if case is None or self._data is None:
            return
        self.message.tell(f"Opening '{name}'")
        opening = partial(_opening, case, self._data.class_names)
        self.opening.ask_for("ProSMA: opening a case", opening)

    def _opened(self, event: Event) -> None:
        if isinstance(event, Finished):
            for made in event.result:
                add_layer(self.viewer, made)
            self.message.tell("")
        elif isinstance(event, Notice):
            self.message.tell_error(event.message)

    def _save(self) -> None:
        name = f"{self._data.folder.name if self._data else 'data'} check.csv"
        writing = partial(write_table, self.problems)
        save_as(self, "Save the table", Path.home() / name, "*.csv", writing, self.message)


@dataclass(frozen=True)
class _Checked(Event):
    """One case, or the set as a whole, was looked at."""

    data: DataSet
    problems: tuple[Problem, ...]


def _checking(wanted: Wanted) -> Iterator[Event]:
    yield Started(0, f"Reading '{wanted.folder.name}'")
    data = wanted.find(require_labels=False)
    number = len(data.cases)
    yield Started(number, f"Checking {number} cases")
    checked = []
    for one in check_each(data):
        checked.append(one)
        yield _Checked(data, one.problems)
        yield Progress(len(checked), number, f"Checked {len(checked)} of {number} cases")
    yield _Checked(data, compare(data, checked))
    yield Finished(number)


def _opening(case: Case, class_names: tuple[str, ...]) -> Iterator[Event]:
    yield Started(0, f"Opening '{case.name}'")
    image = case.read_image()
    layers: list[LayerTuple] = [image_layer(image, case.name)]
    trouble: list[Event] = []
    if case.read_label is not None:
        try:
            label = case.read_label()
        except DataError as error:
            trouble.append(Notice(str(error)))
        else:
            geometry = image.geometry
            layers.append(labels_layer(label, geometry, f"{case.name} label", class_names))
    yield Finished(layers)
    yield from trouble


def _in_words(cases: int, problems: tuple[Problem, ...]) -> str:
    if not problems:
        return f"{cases} cases checked: no problems found"
    return f"{cases} cases checked: {_counted(problems)}. Double-click a row to open its case"


def _counted(problems: tuple[Problem, ...]) -> str:
    counts = {kind: sum(p.severity == kind for p in problems) for kind in ("error", "warning", "note")}
    said = [f"{number} {kind}{'s' * (number != 1)}" for kind, number in counts.items() if number]
    return ", ".join(said) or "nothing was found"
