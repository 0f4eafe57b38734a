"""The Runs panel: every run that the program made, how it stands, and what to do with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
from qtpy.QtCore import QEvent, QFile, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHeaderView,
    QInputDialog,
    QLineEdit,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_prosma.app.models import runs_folder
from napari_prosma.app.remembered import RUNS, forget_all, recent_paths, remember_path
from napari_prosma.app.run_list import FAILED, RUNNING, KnownRun, known_runs, rename_run, require_deletable
from napari_prosma.data.limits import real
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import Event, Finished
from napari_prosma.plugin.shared.asking import agrees, chosen_folder
from napari_prosma.plugin.shared.closing import let_go_of
from napari_prosma.plugin.shared.fields import stack
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel import PANEL_WIDTH, has_left_its_dock, open_panel
from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.plugin.shared.under_way import under_way_of
from napari_prosma.training.run_claim import is_run

if TYPE_CHECKING:
    from napari_prosma.plugin.runs.curves_window import CurvesWindow

WAITING, FOR_GOOD = "waiting", "Delete for good"
COLUMNS = ("Run", "State", "Dice", "Date")


class RunsPanel(QWidget):
    """Lists runs, and opens the other panels with them."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.runs: list[KnownRun] = []
        self.curves: CurvesWindow | None = None
        self._refused = ""
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search")
        self.search.setToolTip("Search by a run's name, state or data")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._filter)
        self.tree = QTreeWidget()
        self.tree.setHeaderLabels(COLUMNS)
        self.tree.setRootIsDecorated(False)
        self.tree.setUniformRowHeights(True)
        self.tree.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.tree.itemSelectionChanged.connect(self._show_chosen)
        header = self.tree.header()
        assert header is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setStretchLastSection(False)
        self.message = Message()
        self.buttons: dict[str, QPushButton] = {}
        grid = QGridLayout()
        for place, (text, tip, act) in enumerate(self._actions()):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(act)
            self.buttons[text] = button
            grid.addWidget(button, *divmod(place, 3))
        stack(self, self.search, self.tree, self.message, grid, wide=self.tree, margins=(6, 6, 6, 6))
        self.setMinimumWidth(PANEL_WIDTH)
        self.reading = NewestJob(self, finished=self._list, failed=self.message.tell_error)
        self.under_way = under_way_of(napari_viewer)
        self.under_way.changed.connect(self.look_again)
        self.look_again()

    def chosen(self) -> list[KnownRun]:
        """The runs that are selected, in the order of the list."""
        items = sorted(self.tree.selectedItems(), key=self.tree.indexOfTopLevelItem)
        return [item.data(0, Qt.ItemDataRole.UserRole) for item in items]

    def look_again(self) -> None:
        """Read how the runs stand."""
        self.reading.ask_for("ProSMA: reading the runs", _listing)

    def event(self, event: QEvent | None) -> bool:
        """Qt's hook."""
        if has_left_its_dock(self, event):
            self.close_down()
        return super().event(event)

    def close_down(self) -> None:
        """Look no longer."""
        let_go_of(self)

    def delete(self, runs: list[KnownRun]) -> None:
        """To the trash, once the user agreed; where there is none, once he agreed to that, too."""
        kept, refused = [], []
        for run in runs:
            try:
                require_deletable(run.folder)
                if not _moved_to_trash(run.folder):
                    kept.append(run.folder)
            except ProsmaError as error:
                refused.append(str(error))
        names = "\n".join(map(str, kept))
        if kept and agrees(
            self.window(), "There is no trash for these runs. Delete them for good?", names, FOR_GOOD
        ):
            for folder in kept:
                try:
                    _delete_for_good(folder)
                except DataError as error:
                    refused.append(str(error))
        self._refused = "\n".join(refused)
        self.look_again()

    def _actions(self) -> list[tuple[str, str, Callable[[], None]]]:
        return [
            ("Segment", "Open the Segment panel with the model of this run", partial(self._open, "Segment")),
            (
                "Inspect",
                "Open the Inspect gates panel with the model of this run",
                partial(self._open, "Inspect gates"),
            ),
            ("Resume", "Continue this run in the Train panel", self._resume),
            ("Curves", "Plot the Dice of the selected runs together", self._compare),
            ("Rename…", "Rename the folder of this run", self._rename),
            ("Delete…", "Move the folders of the selected runs to the trash", self._delete),
            ("Refresh", "Read the list again", self.look_again),
            ("Add folder…", "Add a run from another folder to the list", self._add),
            ("Forget…", "Forget recent models, folders and form values", self._forget),
        ]

    def _list(self, runs: list[KnownRun]) -> None:
        names = {run.folder for run in self.chosen()}
        self.runs = runs
        with signals_blocked(self.tree):
            self.tree.clear()
            for run in runs:
                item = _row(run, run.folder in self.under_way.waiting)
                self.tree.addTopLevelItem(item)
                item.setSelected(run.folder in names)
            there = {run.folder for run in runs}
            for folder in self.under_way.waiting:
                if real(folder) not in there:
                    self.tree.addTopLevelItem(_row(KnownRun(folder, WAITING), True))
        self._filter(self.search.text())
        self._show_chosen()

    def _filter(self, text: str) -> None:
        words = text.casefold().split()
        for n in range(self.tree.topLevelItemCount()):
            item = self.tree.topLevelItem(n)
            assert item is not None
            said = f"{item.text(0)} {item.text(1)} {item.toolTip(0)}".casefold()
            item.setHidden(not all(word in said for word in words))

    def _show_chosen(self) -> None:
        runs = self.chosen()
        one = runs[0] if len(runs) == 1 else None
        self.buttons["Segment"].setEnabled(one is not None and one.has_model)
        self.buttons["Inspect"].setEnabled(one is not None and one.has_model)
        self.buttons["Resume"].setEnabled(one is not None and one.can_resume)
        self.buttons["Rename…"].setEnabled(one is not None and one.state not in (RUNNING, WAITING))
        self.buttons["Curves"].setEnabled(bool(runs))
        self.buttons["Delete…"].setEnabled(any(run.state not in (RUNNING, WAITING) for run in runs))
        if one is not None:
            (self.message.tell_error if one.state == FAILED or one.why else self.message.tell)(_in_words(one))
        elif not self.runs:
            self.message.tell(f"There are no runs in {runs_folder()} yet: train one, or add its folder")
        else:
            self.message.tell_error(self._refused)
        self._refused = ""

    def _open(self, name: str) -> None:
        widget: Any = open_panel(self.viewer, name)
        widget.model.set_path(self.chosen()[0].folder)

    def _resume(self) -> None:
        widget: Any = open_panel(self.viewer, "Train")
        widget.resume(self.chosen()[0].folder)

    def _compare(self) -> None:
        if self.curves is None:
            from napari_prosma.plugin.runs.curves_window import CurvesWindow

            self.curves = CurvesWindow(self)
        self.curves.show_runs([run.folder for run in self.chosen()], self.viewer.theme)

    def _rename(self) -> None:
        folder = self.chosen()[0].folder
        name, agreed = QInputDialog.getText(self, "Rename a run", "Name of its folder", text=folder.name)
        if agreed and name != folder.name:
            self.rename(folder, name)

    def rename(self, folder: Path, name: str) -> None:
        """Give the folder of a run another name."""
        try:
            target = rename_run(folder, name)
        except ProsmaError as error:
            self.message.tell_error(str(error))
            return
        if folder in recent_paths(RUNS):
            remember_path(RUNS, target)
        self.look_again()

    def _delete(self) -> None:
        runs = [run for run in self.chosen() if run.state not in (RUNNING, WAITING)]
        names = "\n".join(str(run.folder) for run in runs)
        count = f"{len(runs)} run{'s' * (len(runs) != 1)}"
        if agrees(self.window(), f"Move {count} to the trash?", names, "Move to trash"):
            self.delete(runs)

    def _add(self) -> None:
        folder = chosen_folder(self, "The folder of a run")
        if folder is not None:
            self.add(folder)

    def add(self, folder: Path) -> None:
        """List a run that lies elsewhere, and remember it."""
        if not is_run(folder):
            self.message.tell_error(str(ConfigError(f"'{folder}' is not the folder of a run; choose one")))
            return
        remember_path(RUNS, folder)
        self.look_again()

    def _forget(self) -> None:
        what = "Recent models and folders, form values and panel positions. Runs and models stay."
        if agrees(self.window(), "Forget what is remembered between sessions?", what, "Forget"):
            forget_all()
            self.message.tell("Everything that was remembered is deleted")


def _listing() -> Iterator[Event]:
    yield Finished(list(known_runs(runs_folder(), recent_paths(RUNS))))


def _row(run: KnownRun, waits: bool) -> QTreeWidgetItem:
    cells = (
        run.folder.name,
        WAITING if waits else run.state,
        f"{run.dice:.2f}" if run.dice is not None else "",
        f"{run.when:%Y-%m-%d}" if run.when is not None else "",
    )
    item = QTreeWidgetItem(list(cells))
    item.setData(0, Qt.ItemDataRole.UserRole, run)
    for column in range(len(COLUMNS)):
        item.setToolTip(column, as_rich(_in_words(run)))
    return item


def _in_words(run: KnownRun) -> str:
    learned = f"learned from {run.data}" if run.data else ""
    said = (", ".join(filter(None, (run.state, run.length, learned))), run.why, str(run.folder))
    return "\n".join(filter(None, said))


def _moved_to_trash(folder: Path) -> bool:
    """Whether there is a trash, and it took the folder."""
    done = QFile.moveToTrash(str(folder))
    return bool(done[0] if isinstance(done, tuple) else done)


def _delete_for_good(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be deleted ({error.strerror}); close what uses it") from error
