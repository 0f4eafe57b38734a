"""``DoubtedLabels``: the suspicious labels, those that a run doubts most; a click opens one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from qtpy.QtCore import QEvent, QSize, Signal
from qtpy.QtWidgets import QPushButton, QWidget
from superqt.utils import signals_blocked

from napari_prosma.data.layouts import DataSet
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.planes import slice_axis
from napari_prosma.events import Event, Finished
from napari_prosma.plugin.doubts.doubted_case import (
    ORIGINALS,
    CaseRead,
    Written,
    listing,
    opening_case,
    saving,
)
from napari_prosma.plugin.shared.access import name_controls
from napari_prosma.plugin.shared.asking import agrees, choose_run
from napari_prosma.plugin.shared.fields import in_a_row, stack, thin_bar
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.job import Job
from napari_prosma.plugin.shared.label_file import LabelFile
from napari_prosma.plugin.shared.layers import (
    add_layer,
    camera_of,
    geometry_of,
    go_to,
    hide_previews,
    keeping_selection,
    map_layer,
    remove_layers,
)
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel import has_left_its_dock
from napari_prosma.plugin.shared.unsaved import note_saved

if TYPE_CHECKING:
    from napari_prosma.app.doubts import Compared
    from napari_prosma.training.doubt import DoubtedLabel

HEIGHT = 190
MOST_ROWS = 1000
"""Rows that are shown; the file has all."""
COLOURS = "magma"
MEANING = (
    "Probability that the model gives to anything except the label: 0 = it agrees, 1 = it is sure of "
    "something else"
)
_OPENED = "doubted label"
"""Key of a layer's metadata: the case that it shows. So it outlives the list, as corrections do."""
_CLASS, _SLICE = 3, 4
"""Columns that say nothing where all rows have the same."""
_HEADINGS = {
    "case": "Most suspicious first; training cases only",
    "counts": "Latest weight of the label: 1 = full weight",
    "differs": "Share of the marked area that only the label or only the model marks",
    "class": "The class that differs most",
    "slice": "Most suspicious slice, counted from 0",
}


@dataclass(eq=False)
class _Open:
    """A case of a folder that a run learned from, whose layers are open."""

    run_dir: Path
    file: LabelFile
    image: ImageLayer
    labels: LabelsLayer

    def is_corrected(self) -> bool:
        return not np.array_equal(self.labels.data, self.file.shown)


class DoubtedLabels(QWidget):
    """The list of a run, kept up while it goes on.

    Signals
    -------
    corrected(Path, str)
        The label of a case of the run in this folder was saved.
    """

    TITLE = "Suspicious labels"
    corrected = Signal(object, str)

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.rows: list[DoubtedLabel] = []
        self.run_dir: Path | None = None
        self._live: LiveCase | None = None
        self._data: DataSet | None = None
        self._map: Layer | None = None
        self._requested: DoubtedLabel | None = None
        self._whole_zoom = 0.0
        self._may_write: set[Path] = set()
        self.message = Message()
        self.busy = thin_bar()
        self.busy.setRange(0, 0)
        self.busy.hide()
        self.listing = NewestJob(self, finished=self._listed)
        self.opening = NewestJob(self, happened=self._opened, finished=self._show_map, ended=self.busy.hide)
        self.saving = Job(self, notify=False, happened=self._saved)
        for job in (self.listing, self.opening, self.saving):
            job.failed.connect(self.message.tell_error)
            job.ended.connect(self._show_buttons)
        self.table = FigureTable()
        self.table.setToolTip("Click a row, or press Enter on it, to open the case at the suspicious place")
        self.table.head(_HEADINGS)
        self.table.open_rows(self._row_chosen)
        self.save_button = QPushButton("Save labels")
        self.save_button.setToolTip("Save your corrections to the original label files")
        self.save_button.clicked.connect(self.save)
        self.run_button = QPushButton("Another run…")
        self.run_button.setToolTip("Choose the folder of another run to see its list")
        self.run_button.clicked.connect(self._choose_run)
        buttons = in_a_row(self.message, self.save_button, self.run_button, wide=self.message)
        stack(self, self.table, self.busy, buttons, wide=self.table, margins=(6, 6, 6, 6))
        self._show_buttons()
        name_controls(self)

    def show_run(self, run_dir: Path, live: LiveCase | None = None) -> None:
        """Read the list of a run, anew if it is the same; ``live`` are the layers that it learns from."""
        if run_dir != self.run_dir:
            self.opening.close(0)
            self.busy.hide()
            self.rows, self._data, self._requested = [], None, None
            self.message.tell("")
            self._fill()
        self.run_dir, self._live = run_dir, live
        reading = partial(listing, run_dir)
        self.listing.ask_for("ProSMA: reading suspicious labels", reading)

    def open(self, row: DoubtedLabel) -> None:
        """Open a case, go where its label is doubted most, and ask the model about all of it."""
        self.opening.ask(partial(self._begin_opening, row))

    def _begin_opening(self, row: DoubtedLabel) -> None:
        assert self.run_dir is not None
        self._requested = row
        live = self._live_case(row.case)
        source, labels = self._layers_of(row.case)
        if labels is not None:
            self._go_to_slice(labels, row)
        self.message.tell(f"Opening '{row.case}' and segmenting it")
        self.busy.show()
        self.opening.start(
            f"ProSMA: looking at the label of {row.case}",
            partial(
                opening_case,
                self.run_dir,
                row.case,
                self._data,
                live,
                source is None or labels is None,
            ),
        )

    def save(self) -> None:
        """Write every corrected label over its files, in the background; asks once per run."""
        corrected = self.corrections()
        if not corrected:
            self.message.tell("There are no corrections to save")
            return
        for run_dir in dict.fromkeys(each.run_dir for each in corrected):
            if run_dir not in self._may_write:
                if not self._agrees([each for each in corrected if each.run_dir == run_dir], run_dir):
                    self.message.tell("Nothing was saved")
                    return
                self._may_write.add(run_dir)
        work = [(each.run_dir, each.file, np.array(each.labels.data)) for each in corrected]
        self.message.tell("Saving")
        self.saving.start("ProSMA: saving labels", partial(saving, work))
        self._show_buttons()

    def corrections(self) -> list[_Open]:
        """Cases whose labels layer holds what was not saved yet, of whichever run."""
        return [each for each in self._open().values() if each.is_corrected()]

    def close_down(self) -> None:
        """Stop what runs; labels that are being written are waited for."""
        self._stop_looking()
        self.saving.close()

    def sizeHint(self) -> QSize:
        """As high as a few rows, so that the image keeps its room."""
        return QSize(600, HEIGHT)

    def event(self, event: QEvent | None) -> bool:
        if has_left_its_dock(self, event):
            self._stop_looking()  # it may be docked again
        return super().event(event)

    def _stop_looking(self) -> None:
        self.listing.close()
        self.opening.close()
        self.busy.hide()

    # ---- the list -----------------------------------------------------------------------------------------

    def _listed(self, listed: tuple[Path, list[DoubtedLabel]]) -> None:
        run_dir, rows = listed
        if run_dir == self.run_dir and rows != self.rows:
            self.rows = rows
            self._fill()
            less = sum(row.confidence < 1 for row in rows)
            if self._requested is None or self._requested.case not in {row.case for row in rows}:
                said = f"{less} of {len(rows)} labels count less than the others"
                if not less:
                    said = f"none of {len(rows)} labels counts less; those that differ most come first"
                self.message.tell(f"{run_dir.name}: {said}. Click one to open it")

    def _fill(self) -> None:
        chosen = self._requested.case if self._requested is not None else ""
        with signals_blocked(self.table):
            shown = self.rows[:MOST_ROWS]
            self.table.fill(
                [
                    (r.case, round(r.confidence, 3), in_percent(r.error_ratio), r.worst_class, r.slice)
                    for r in shown
                ]
            )
            for number, row in enumerate(shown):
                if row.case == chosen:
                    self.table.selectRow(number)
            self.table.setColumnHidden(_CLASS, len({row.worst_class for row in self.rows}) < 2)
            self.table.setColumnHidden(_SLICE, len({row.slice for row in self.rows}) < 2)
            self.table.fit(to_edge=True)

    def _row_chosen(self, row: int, column: int = 0) -> None:
        self.open(self.rows[row])

    def _choose_run(self) -> None:
        folder = choose_run(self)
        if folder is not None:
            self.show_run(folder)

    # ---- a case -------------------------------------------------------------------------------------------

    def _opened(self, event: Event) -> None:
        if isinstance(event, CaseRead):
            if event.run_dir != self.run_dir:
                return
            self._data = event.data
            if event.layers:
                self._show_case(event)

    def _show_case(self, read: CaseRead) -> None:
        """Its image and its label, in place of the last case unless that has corrections to save."""
        assert self._requested is not None
        assert read.file is not None
        hide_previews(self.viewer)
        self._remove_map()
        asked, corrected = (read.run_dir, read.file.case.name), self.corrections()
        closed = []
        for layer in self.viewer.layers:
            each = layer.metadata.get(_OPENED)
            if each is None or layer not in (each.image, each.labels):
                continue
            if each in corrected:
                layer.visible = False
            else:
                closed.append(layer)
        remove_layers(self.viewer, *closed)
        image = add_layer(self.viewer, read.layers[0])
        opened = self._open().get(asked)
        if opened is not None:  # corrected, and its image was closed
            opened.image, labels = image, opened.labels
            self.viewer.layers.move(self.viewer.layers.index(labels), len(self.viewer.layers))
        else:
            labels = add_layer(self.viewer, read.layers[1])
            labels.editable = not read.file.fixed
            opened = _Open(read.run_dir, read.file, image, labels)
        image.metadata[_OPENED] = labels.metadata[_OPENED] = opened
        if not read.file.is_scribbles:
            names, worst = read.file.rule.class_names, self._requested.worst_class
            labels.selected_label = max(1, names.index(worst)) if worst in names else 1
        self.viewer.reset_view()
        self._whole_zoom = camera_of(self.viewer).zoom
        self._go_to_slice(labels, self._requested)
        self._show_buttons()

    def _show_map(self, compared: Compared) -> None:
        from napari_prosma.inspection.maps import MapLayer

        name = compared.doubt.case
        source, labels = self._layers_of(name)
        if self._requested is None or self._requested.case != name or source is None or labels is None:
            return
        self._remove_map()
        drawn = MapLayer(
            f"{name} doubt", compared.map, compared.geometry, "image", (0.0, 1.0), COLOURS, MEANING
        )
        data, attributes, kind = map_layer(drawn, source)
        with keeping_selection(self.viewer):
            self._map = add_layer(self.viewer, (data, {**attributes, "blending": "additive"}, kind))
            self.viewer.layers.move(len(self.viewer.layers) - 1, self.viewer.layers.index(labels))
        regions = compared.doubt.regions
        figures = compared.doubt.figures
        if not regions:
            self.message.tell(f"'{name}': the model agrees with the label everywhere")
            return
        self._go_to(labels, regions[0].at)
        parts = f"in {len(regions)} places; this is the largest" if len(regions) > 1 else "here"
        said = f"'{name}': model and label differ by {in_percent(figures.error_ratio)}, {parts}. "
        if self._live_case(name) is not None:
            said += "Correct the layer: the run follows"
        else:
            fixed = self._open()[self._key(name)].file.fixed
            said += fixed or f"Correct '{labels.name}' where it is wrong, then Save labels"
        self.message.tell(said)

    def _open(self) -> dict[tuple[Path, str], _Open]:
        """The cases whose labels layer is in the viewer, by run and name."""
        opened = [(layer, layer.metadata.get(_OPENED)) for layer in self.viewer.layers]
        return {
            (each.run_dir, each.file.case.name): each
            for layer, each in opened
            if each is not None and layer == each.labels  # plugins see proxies of layers
        }

    def _key(self, name: str) -> tuple[Path, str]:
        assert self.run_dir is not None
        return self.run_dir, name

    def _live_case(self, name: str) -> LiveCase | None:
        """What the run learns from, if it is this case and both layers are still open."""
        live = self._live
        if live is None or live.name != name or not {live.image, live.labels} <= set(self.viewer.layers):
            return None
        return live

    def _layers_of(self, name: str) -> tuple[ImageLayer | None, LabelsLayer | None]:
        """Image and labels of a case of this run, each where it is open."""
        found = self._live_case(name) or self._open().get(self._key(name))
        if found is None:
            return None, None
        image, labels = found.image, found.labels
        return (
            image if image in self.viewer.layers else None,
            labels if labels in self.viewer.layers else None,
        )

    def _go_to_slice(self, labels: LabelsLayer, row: DoubtedLabel) -> None:
        middle = [n // 2 for n in labels.data.shape]
        if labels.ndim > 2:
            across = slice_axis(geometry_of(labels))
            middle[across] = min(row.slice, labels.data.shape[across] - 1)
        for layer in self._layers_of(row.case):
            if layer is not None:
                layer.visible = True
        self._go_to(labels, middle)
        self.viewer.layers.selection.active = labels

    def _go_to(self, labels: LabelsLayer, index: Sequence[int]) -> None:
        """Show the slice of an element; in the middle, unless the whole image is on screen."""
        camera = camera_of(self.viewer)
        whole, centre = camera.zoom == self._whole_zoom, camera.center
        go_to(self.viewer, labels, index)
        if whole:
            camera.center = centre

    def _remove_map(self) -> None:
        drawn, self._map = self._map, None
        remove_layers(self.viewer, drawn)

    # ---- saving -------------------------------------------------------------------------------------------

    def _agrees(self, corrected: list[_Open], run_dir: Path) -> bool:
        paths = [path for each in corrected for path in each.file.paths]
        question = f"Overwrite the label files of {len(corrected)} case{'s' * (len(corrected) != 1)}?"
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        kept = f"The original files are kept in {run_dir / ORIGINALS}. You are asked once per run."
        told = f"{paths[0]}{more}\n\n{kept}"
        return agrees(self, question, told, "Overwrite", leave="Keep them", title="Save labels")

    def _saved(self, event: Event) -> None:
        if isinstance(event, Written):
            name = event.file.case.name
            saved = self._open().get((event.run_dir, name))
            if saved is not None:
                saved.file = event.file
                if not saved.is_corrected():
                    note_saved(saved.labels)
            self.corrected.emit(event.run_dir, name)
        elif isinstance(event, Finished):
            self.message.tell(
                f"Saved the labels of {event.result}. A run that is training on them learns them at once; "
                f"otherwise train again"
            )

    def _show_buttons(self) -> None:
        self.save_button.setVisible(bool(self._open()))
        self.save_button.setEnabled(not self.saving.is_running)
