"""``ModelList``: the models that are known, those that fit the image first, to search and choose from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from qtpy.QtCore import QPoint, Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from napari_prosma.app.models import RECENT, ImageKind, KnownModel, known_models, runs_folder
from napari_prosma.app.remembered import MODELS, forget_path, recent_paths
from napari_prosma.events import Event, Finished
from napari_prosma.plugin.shared.fields import stack
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel_text import as_rich

WIDTH, HEIGHT = 800, 360
WIDEST, BUTTON_WIDTH = 170, 90
"""Of a column but the last, which says why a model does not fit; of a button, at least."""
COLUMNS = ("Model", "Finds", "Images", "Dice", "Date", "Remark")
NO_IMAGE, FIT, DOUBT, REFUSED = "Models", "Fit", "Trained on other images", "Cannot be used"
_SOURCES = {RECENT: "used recently", "run": "a run", "": ""}


class ModelList(QWidget):
    """A window that opens below a button and closes at a click elsewhere.

    Signals
    -------
    chosen(Path or None)
        A model; None = none.
    """

    chosen = Signal(object)

    def __init__(self, parent: QWidget, none: str) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.models: list[KnownModel] = []
        self._image: ImageKind | None = None
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search, or enter a path")
        self.search.setToolTip("Search by name, structure or modality; or type a path and press Enter")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._filter)
        self.search.returnPressed.connect(self._entered)
        self.tree = QTreeWidget()
        self.tree.setHeaderLabels(COLUMNS)
        self.tree.setRootIsDecorated(False)
        self.tree.setUniformRowHeights(True)
        self.tree.setAllColumnsShowFocus(True)
        self.tree.itemActivated.connect(self._activated)
        self.tree.itemClicked.connect(self._activated)
        header = self.tree.header()
        assert header is not None
        header.setStretchLastSection(True)
        self.reading = NewestJob(self, finished=self._list)
        row = QHBoxLayout()
        for text, tip, act in (
            ("File…", "Choose a .safetensors file in another folder", self._choose_file),
            ("Folder…", "Choose a run folder in another place", self._choose_folder),
            (none, "Choose no model", self._choose_none),
        ):
            if text:
                button = QPushButton(text)
                button.setToolTip(tip)
                button.setMinimumWidth(BUTTON_WIDTH)
                button.clicked.connect(act)
                row.addWidget(button)
        row.addStretch(1)
        stack(self, self.search, self.tree, row, wide=self.tree, margins=(6, 6, 6, 6))
        self.resize(WIDTH, HEIGHT)

    def open_below(self, button: QWidget, image: ImageKind | None) -> None:
        """Show what is known now, within the screen."""
        self._image = image
        self.search.clear()
        place = button.mapToGlobal(QPoint(0, button.height()))
        screen = button.screen()
        if screen is not None:
            free = screen.availableGeometry()
            place.setX(max(free.left(), min(place.x(), free.right() - self.width())))
            place.setY(max(free.top(), min(place.y(), free.bottom() - self.height())))
        self.move(place)
        self.show()
        self.search.setFocus()
        self.reading.ask_for("ProSMA: looking for models", _listing)

    def _list(self, models: list[KnownModel]) -> None:
        self.models = models
        self.tree.clear()
        for title, listed in _sorted(models, self._image):
            if not listed:
                continue
            top = QTreeWidgetItem(self.tree, [title])
            top.setFlags(Qt.ItemFlag.ItemIsEnabled)
            top.setFirstColumnSpanned(True)
            font = top.font(0)
            font.setBold(True)
            top.setFont(0, font)
            for model, why in listed:
                top.addChild(_row(model, why))
            top.setExpanded(True)
        for column in range(len(COLUMNS) - 1):
            self.tree.resizeColumnToContents(column)
            self.tree.setColumnWidth(column, min(WIDEST, self.tree.columnWidth(column)))
        self._filter(self.search.text())

    def _filter(self, text: str) -> None:
        words = text.casefold().split()
        for top in _children(self.tree.invisibleRootItem()):
            shown = 0
            for item in _children(top):
                said = " ".join(item.text(n) for n in range(len(COLUMNS))).casefold()
                item.setHidden(not all(word in said for word in words))
                shown += not item.isHidden()
            top.setHidden(not shown)

    def _entered(self) -> None:
        """A path that exists, or the only model that is left."""
        path = Path(self.search.text().strip().strip("\"'")).expanduser()
        left = [
            i for top in _children(self.tree.invisibleRootItem()) for i in _children(top) if not i.isHidden()
        ]
        if self.search.text().strip() and path.exists():
            self._choose(path)
        elif len(left) == 1 or (left and self.search.text().strip()):
            self._activated(left[0])

    def _activated(self, item: QTreeWidgetItem) -> None:
        model = item.data(0, Qt.ItemDataRole.UserRole)
        if isinstance(model, KnownModel):
            if model.trouble and model.origin == RECENT and not model.path.exists():
                forget_path(MODELS, model.path)
            self._choose(model.path)

    def _choose_file(self) -> None:
        self.hide()
        found, _ = QFileDialog.getOpenFileName(
            self.parentWidget(), "Choose a trained model", self._start(), "Trained model (*.safetensors)"
        )
        if found:
            self._choose(Path(found))

    def _choose_folder(self) -> None:
        self.hide()
        found = QFileDialog.getExistingDirectory(
            self.parentWidget(), "Choose the folder of a run", self._start()
        )
        if found:
            self._choose(Path(found))

    def _choose_none(self) -> None:
        self.hide()
        self.chosen.emit(None)

    def _choose(self, path: Path) -> None:
        self.hide()
        self.chosen.emit(path)

    @staticmethod
    def _start() -> str:
        """Beside the model that was used last."""
        folders = [path.parent for path in recent_paths(MODELS) if path.parent.is_dir()]
        return str(next(iter([*folders, *([runs_folder()] if runs_folder().is_dir() else [])]), Path.home()))


def _listing() -> Iterator[Event]:
    yield Finished(list(known_models(runs_folder(), recent_paths(MODELS))))


def _sorted(
    models: Sequence[KnownModel], image: ImageKind | None
) -> list[tuple[str, list[tuple[KnownModel, str]]]]:
    """Models with why they are not to be used, in sections."""
    sound = [model for model in models if not model.trouble]
    broken = [(model, model.trouble) for model in models if model.trouble]
    if image is None:
        return [(NO_IMAGE, [(model, "") for model in sound]), (REFUSED, broken)]
    refused = [(model, why) for model in sound if (why := model.refusal(image))]
    left = [model for model in sound if not model.refusal(image)]
    return [
        (FIT, [(model, "") for model in left if not model.doubt(image)]),
        (DOUBT, [(model, model.doubt(image)) for model in left if model.doubt(image)]),
        (REFUSED, [*refused, *broken]),
    ]


def _row(model: KnownModel, why: str) -> QTreeWidgetItem:
    short = why  # of a file the reason is to be seen, not the folder, which the tip tells
    for folder in (model.path, model.path.parent):
        short = short.replace(f"{folder}{os.sep}", "")
    item = QTreeWidgetItem(
        [
            model.name,
            ", ".join(model.finds),
            model.images if model.dims else "",
            f"{model.dice:.2f}" if model.dice is not None else "",
            model.day.isoformat() if model.day is not None else "",
            short or _SOURCES.get(model.origin, "shipped with ProSMA"),
        ]
    )
    item.setData(0, Qt.ItemDataRole.UserRole, model)
    tip = as_rich("\n".join(filter(None, (str(model.path), why))))
    for column in range(len(COLUMNS)):
        item.setToolTip(column, tip)
    return item


def _children(item: QTreeWidgetItem | None) -> list[QTreeWidgetItem]:
    assert item is not None
    found = (item.child(n) for n in range(item.childCount()))
    return [child for child in found if child is not None]
