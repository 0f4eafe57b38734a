"""``NextBox``: a list of what to annotate next; a click opens it, *Done, next* saves it and goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import napari
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QPushButton,
    QWidget,
)

from napari_prosma.app.models import ImageKind
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.plugin.annotate.desks import FolderDesk, VolumeDesk
from napari_prosma.plugin.annotate.next_jobs import (
    LISTED,
    Predicted,
    RankingBegun,
    ranking_images,
    ranking_slices,
)
from napari_prosma.plugin.shared.choosers import LayerChooser, PathField
from napari_prosma.plugin.shared.closing import let_go_of
from napari_prosma.plugin.shared.fields import in_a_row, thin_bar
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.keys import tip
from napari_prosma.plugin.shared.layers import image_kind, image_of
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.model_chooser import ModelChooser
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel_text import as_rich

if TYPE_CHECKING:
    from napari_prosma.segmentation.informative import Candidate, Next

SLICES, IMAGES = "slices of an open volume", "images of a folder"
_ROWS_SHOWN = 8
_HEADINGS = {
    "what": "Most uncertain and least like the rows above first: a suggestion",
    "why": "How unsure the model is where a structure may be (entropy, or disagreement of mirrored passes), "
    "and on which share of the image; new: unlike the rows above",
}


class NextBox(QWidget):
    """The group *Annotate next*; ``chosen_labels`` are those of the panel."""

    def __init__(self, viewer: napari.Viewer, chosen_labels: Callable[[], LabelsLayer | None]) -> None:
        super().__init__()
        self._viewer, self._chosen_labels = viewer, chosen_labels
        self.rows: list[Next] = []
        self.desk: FolderDesk | VolumeDesk | None = None
        self._seen: list[Candidate] = []
        self._done: set[str] = set()
        self._current: Next | None = None
        self._left_out = 0
        self.ranking = NewestJob(self, happened=self._happened, ended=self._ranking_ended)
        self.model = ModelChooser(
            tip="The model whose uncertainty is used; for a run that is training, choose its folder",
            brief=True,
        )
        self.source = QComboBox()
        self.source.addItems([SLICES, IMAGES])
        self.source.setToolTip("Rank slices without a label, or images without one")
        self.source.currentIndexChanged.connect(self._show_source)
        self.image = LayerChooser(viewer, ImageLayer, volumes=True)
        self.image.setToolTip("The volume whose slices are ranked; labelled slices are left out")
        self.folder = PathField("Choose the folder of images", "a folder of images, some without a label")
        self.model.image = self._image_kind
        self.image.currentIndexChanged.connect(self.model.show_doubts)
        self.mirror = QCheckBox("compare mirrored passes")
        self.mirror.setToolTip("Rank by how much mirrored passes of the model disagree; slower")
        self.rank_button = QPushButton("List what to annotate next")
        self.rank_button.setToolTip(
            "Rank what has no label yet, in the background, also during a run. Where we measured it, a "
            "random choice did better: use the list to see where the model is unsure"
        )
        self.rank_button.clicked.connect(self.rank)
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("Stop, and list what was ranked so far")
        self.stop_button.clicked.connect(self.ranking.stop)
        self.busy = thin_bar()
        self.table = FigureTable(_ROWS_SHOWN)
        self.table.setToolTip("Click a row, or press Enter on it, to open it with its prediction")
        self.table.head(_HEADINGS)
        self.table.open_rows(self._row_chosen)
        self.done_button = QPushButton("Done, next")
        self.done_button.setToolTip(
            tip("Save the labels where they belong, and open the next row", "done, next")
        )
        self.done_button.clicked.connect(self.done)
        self.message = Message()
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.addRow("Model", self.model)
        layout.addRow("From", self.source)
        layout.addRow("Image", self.image)
        layout.addRow("Folder", self.folder)
        self._form = layout
        layout.addRow(self.mirror)
        buttons = in_a_row(self.rank_button, self.stop_button, wide=self.rank_button)
        layout.addRow(buttons)
        for row in (self.busy, self.done_button, self.message, self.table):
            layout.addRow(row)
        self.table.hide()
        self._show_source()
        self._show_buttons()

    def rank(self) -> None:
        """Begin to look at what has no label."""
        try:
            begin = self._ranking_of_folder() if self._is_folder else self._ranking_of_volume()
        except ProsmaError as error:
            self.message.tell_error(str(error))
            return
        self._seen, self._left_out = [], 0
        self.message.tell("Ranking")
        self.ranking.ask(partial(self._begin, begin))

    def open(self, row: Next) -> None:
        """Open an image with its prediction, or go to a slice."""
        self._current = row
        if isinstance(self.desk, FolderDesk):
            self.desk.open(row.candidate.name)
        elif self.desk is not None and row.candidate.slice is not None:
            self.desk.go_to(row.candidate.slice)
        self._show_buttons()

    def done(self) -> None:
        """Save what is open; when it is saved the next of the list is opened."""
        if self.desk is None or self._current is None:
            self.message.tell_error("choose a row of the list first")
            return
        self.desk.save(self._current.name)

    @property
    def _is_folder(self) -> bool:
        return self.source.currentText() == IMAGES

    def _begin(self, begin: Callable[[], None]) -> None:
        self.busy.setRange(0, 0)
        begin()
        self._show_buttons()

    def _ranking_of_folder(self) -> Callable[[], None]:
        model, folder = self.model.required_path(), self.folder.path
        if folder is None:
            raise ConfigError("choose the folder of images first")
        ranking = partial(ranking_images, model, folder, self.mirror.isChecked())
        return partial(self.ranking.start, "ProSMA: ranking images", ranking)

    def _ranking_of_volume(self) -> Callable[[], None]:
        model, image = self.model.required_path(), self.image.layer
        if image is None:
            raise ConfigError("open a volume first, or choose images of a folder")
        desk = VolumeDesk(self._viewer, self, image, self._chosen_labels())
        labelled = desk.labelled()
        self._take(desk)
        ranking = partial(
            ranking_slices, model, image_of(image), image.name, labelled, self.mirror.isChecked()
        )
        return partial(self.ranking.start, "ProSMA: ranking slices", ranking)

    def _take(self, desk: FolderDesk | VolumeDesk) -> None:
        if isinstance(desk, FolderDesk) and isinstance(self.desk, FolderDesk):
            desk.take_over(self.desk)
        if self.desk is not None:
            let_go_of(self.desk)
            self.desk.deleteLater()
        self.desk, self._done, self._current, self.rows = desk, set(), None, []
        desk.message.connect(self.message.tell)
        desk.failed.connect(self.message.tell_error)
        desk.saved.connect(self._saved)
        self._fill()

    def _happened(self, event: Event) -> None:
        from napari_prosma.segmentation.informative import CandidateSeen, LeftOut

        match event:
            case RankingBegun(data=data) if data is not None:
                self._take(FolderDesk(self._viewer, self, event.checkpoint, data))
            case RankingBegun():
                assert isinstance(self.desk, VolumeDesk)
                self.desk.names = event.checkpoint.plan.class_names
            case Predicted():
                assert isinstance(self.desk, VolumeDesk)
                self.desk.show(event)
            case CandidateSeen():
                self._seen.append(event.candidate)
            case Started():
                self.busy.setRange(0, event.total)
                self.message.tell(event.message)
            case Progress():
                self.busy.setRange(0, event.total)
                self.busy.setValue(event.done)
                self.message.tell(f"Ranking: {event.message}")
            case LeftOut():
                self._left_out += 1
            case Finished():
                self._list(event.result)

    def _ranking_ended(self, ending: Ending) -> None:
        if ending.error is not None:
            self.message.tell_error(str(ending.error))
        elif ending.stopped and self._seen:
            from napari_prosma.segmentation.informative import in_order

            self._list(in_order(self._seen, LISTED))
        elif ending.stopped:
            self.message.tell("Stopped before anything was ranked")
        self._show_buttons()

    def _list(self, rows: list[Next]) -> None:
        self.rows = rows
        self._fill()
        looked = f"{len(self._seen)} ranked"
        out = f", {self._left_out} cannot be read" if self._left_out else ""
        self.message.tell(
            f"{looked}{out}. Click a row to open it. The order is a suggestion: damaged images are "
            "uncertain, too"
        )

    # ---- the list -----------------------------------------------------------------------------------------

    def _fill(self) -> None:
        shown = [(f"{'✓ ' * (row.name in self._done)}{_called(row)}", row.why) for row in self.rows]
        if not shown:
            self.table.setRowCount(0)
            self.table.hide()
            return
        self.table.show_rows(shown)
        for number, row in enumerate(self.rows):
            item = self.table.cell(number, len(_HEADINGS) - 1)
            item.setToolTip(as_rich(f"{row.name}: {row.why}"))
            item.setTextAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
            if row is self._current:
                self.table.selectRow(number)

    def _row_chosen(self, row: int, column: int = 0) -> None:
        self.open(self.rows[row])

    def _saved(self, name: str) -> None:
        self._done.add(name)
        after = next(
            (row for row in self._from_current() if row.name not in self._done),
            None,
        )
        if after is not None:
            self.open(after)
        self._fill()
        if after is None:
            self.message.tell("The list is done. Train with the new labels, then rank again")

    def _from_current(self) -> list[Next]:
        """The rows after the current one, then those before it."""
        at = self.rows.index(self._current) if self._current in self.rows else 0
        return [*self.rows[at:], *self.rows[:at]]

    def _image_kind(self) -> ImageKind | None:
        layer = self.image.layer
        return image_kind(layer) if layer is not None and not self._is_folder else None

    def _show_source(self) -> None:
        for field, is_shown in ((self.image, not self._is_folder), (self.folder, self._is_folder)):
            self._form.setRowVisible(field, is_shown)
        self.model.show_doubts()

    def _show_buttons(self) -> None:
        running = self.ranking.is_running
        self.stop_button.setVisible(running)
        self.busy.setVisible(running)
        self.rank_button.setEnabled(not running)
        self.done_button.setVisible(self._current is not None)


def _called(row: Next) -> str:
    seen = row.candidate
    return seen.name if seen.slice is None else f"slice {seen.slice}"
