"""``RegionsTable``: the connected regions of a result as a table; a click on a row goes to its region."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import napari
import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QEvent, QSize, Qt, Signal
from qtpy.QtWidgets import QPushButton, QWidget
from superqt.utils import signals_blocked

from napari_prosma.data.keep import safe_name
from napari_prosma.data.labels import highest_class
from napari_prosma.data.texts import write_rows
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.segment.results import Result, shown_unit
from napari_prosma.plugin.shared.access import name_controls
from napari_prosma.plugin.shared.asking import save_as
from napari_prosma.plugin.shared.closing import let_go_of
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.layers import (
    IS_PREVIEW,
    camera_of,
    fitting_image,
    folder_of,
    go_to,
    image_of,
    names_of,
    remove_layers,
)
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel import has_left_its_dock
from napari_prosma.plugin.shared.strokes import Strokes
from napari_prosma.segmentation.regions import Region, element_size, kind_of_size, region_rows, regions

MARK = "region"
"""Name of the layer with the box around the region that was clicked."""
MARK_COLOUR, MARK_WIDTH = "#ffffff", 2
"""The width in pixels of the screen."""
HEIGHT = 170
MOST_ROWS = 1000
"""Rows that are shown; the file has all."""
_INDEX = Qt.ItemDataRole.UserRole


class RegionsTable(QWidget):
    """Follows the labels layer of one result, corrections included.

    Signals
    -------
    closed()
        The table left its dock.
    """

    closed = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.found: list[Region] = []
        self._result: Result | None = None
        self._mark: Shapes | None = None
        self.job = NewestJob(self, finished=self._measured, failed=self._failed)
        self._strokes = Strokes(viewer, self)
        self._strokes.rested.connect(self.measure)
        self.message = Message()
        self.table = FigureTable()
        self.table.setToolTip(
            "Click a row, or press Enter on it, to go to its region; click a title to sort by it"
        )
        self.table.open_rows(self._go_to_row)
        self.save_button = QPushButton("Save as CSV…")
        self.save_button.setToolTip("Save the table, with positions and boxes, as a CSV file")
        self.save_button.setEnabled(False)
        self.save_button.clicked.connect(self._save)
        row = in_a_row(self.message, self.save_button, wide=self.message)
        stack(self, self.table, row, wide=self.table, margins=(6, 6, 6, 6))
        name_controls(self)

    def show_result(self, result: Result | None) -> None:
        """Measure the regions of this result, and again after every correction; None = of none."""
        if result is self._result:
            return
        self._result = result
        self._strokes.watch(None if result is None else result.labels)
        self._remove_mark()
        self._show(None, [])
        self.message.tell("")
        self.measure()

    def measure(self) -> None:
        """Measure anew in a thread; of several wishes the last one wins."""
        self.job.ask(self._begin)

    def _begin(self) -> None:
        if self._result is not None:
            self.job.start("ProSMA: measuring regions", partial(_measuring, self._result))

    def go_to(self, region: Region) -> None:
        """Bring a region into view and mark it: its class is the one to paint with, a box is around it."""
        if self._result is None or self._result.labels not in self.viewer.layers:
            return
        layer = self._result.labels
        go_to(self.viewer, layer, region.at)
        layer.selected_label = region.label
        self._draw_mark(region)
        self.viewer.layers.selection.active = layer

    def save(self, path: Path) -> None:
        """Write every region as a row of a CSV file.

        Raises ``DataError``: the file cannot be written.
        """
        assert self._result is not None
        found = self._result.found
        write_rows(path, region_rows(self.found, found.geometry, found.name))

    def close_down(self) -> None:
        """Stop what runs, and let go of the viewer."""
        let_go_of(self)
        self._remove_mark()

    def sizeHint(self) -> QSize:
        """As high as a few rows, so that the image keeps its room."""
        return QSize(600, HEIGHT)

    def event(self, event: QEvent | None) -> bool:
        if has_left_its_dock(self, event):
            self.close_down()
            self.closed.emit()
        return super().event(event)

    def _measured(self, measured: tuple[Result, list[Region]]) -> None:
        result, found = measured
        if result is self._result:
            self._show(result, found)

    def _failed(self, error: str) -> None:
        self._show(None, [])
        self.message.tell_error(error)

    def _show(self, result: Result | None, found: list[Region]) -> None:
        self.found = found
        if self._mark is not None:
            self._mark.visible = False  # of the region as it was
        self.save_button.setEnabled(bool(found))
        with signals_blocked(self.table):
            self.table.setSortingEnabled(False)
            self.table.head([] if result is None else _titles(result, found))
            self.table.fill([_cells(region) for region in found[:MOST_ROWS]])
            for row in range(self.table.rowCount()):
                self.table.cell(row).setData(_INDEX, row)
            self.table.setSortingEnabled(True)
            self.table.setCurrentCell(-1, -1)
        if result is not None:
            more = f"; the first {MOST_ROWS} are shown, the file has all" if len(found) > MOST_ROWS else ""
            number = f"{len(found):,} region{'s' * (len(found) != 1)}"
            self.message.tell(f"{number} in '{result.labels.name}'{more}")

    def _go_to_row(self, row: int, column: int = 0) -> None:
        self.go_to(self.found[self.table.cell(row).data(_INDEX)])

    def _draw_mark(self, region: Region) -> None:
        """A rectangle around the region in the plane on screen."""
        assert self._result is not None
        layer, dims = self._result.labels, self.viewer.dims
        shown = [axis - (dims.ndim - layer.ndim) for axis in dims.displayed[-2:]]
        low = [each.start - 0.5 for each in region.box]
        high = [each.stop - 0.5 for each in region.box]
        corners = np.tile(np.asarray(region.at, float), (4, 1))
        for corner, ends in zip(corners, ((low, low), (low, high), (high, high), (high, low)), strict=True):
            for axis, end in zip(shown, ends, strict=True):
                corner[axis] = end[axis]
        if self._mark is None or self._mark not in self.viewer.layers:
            self._mark = self.viewer.add_shapes(
                ndim=layer.ndim,
                name=MARK,
                scale=layer.scale,
                translate=layer.translate,
                rotate=layer.rotate,
                shear=layer.shear,
                affine=layer.affine,
                units=layer.units,
                opacity=1,
                metadata={IS_PREVIEW: True},
            )
        self._mark.data = []
        pixel = 1 / (camera_of(self.viewer).zoom * min(abs(layer.scale[axis]) for axis in shown))
        self._mark.add_rectangles(
            [corners], edge_width=MARK_WIDTH * pixel, edge_color=MARK_COLOUR, face_color="transparent"
        )
        self._mark.visible = True

    def _remove_mark(self) -> None:
        mark, self._mark = self._mark, None
        remove_layers(self.viewer, mark)

    def _save(self) -> None:
        assert self._result is not None
        start = folder_of(self._result.source) / f"{safe_name(self._result.found.name)} regions.csv"
        save_as(self, "Save the regions", start, "*.csv", self.save, self.message)


def _titles(result: Result, found: list[Region]) -> list[str]:
    _, unit = element_size(result.found.geometry)
    titles = ["class", f"{kind_of_size(unit)} ({shown_unit(unit)})"]
    titles.append(f"longest diameter ({result.found.geometry.unit})")
    channels = len(found[0].intensity) if found else 0
    titles += ["mean intensity"] if channels == 1 else [f"mean of channel {n + 1}" for n in range(channels)]
    if found and found[0].confidence is not None:
        titles.append("confidence")
    return titles


def _cells(region: Region) -> list[str | float]:
    figures = [region.size, region.diameter, *region.intensity]
    if region.confidence is not None:
        figures.append(region.confidence)
    return [region.class_name, *(float(f"{figure:.4g}") for figure in figures)]


def _measuring(result: Result) -> Iterator[Event]:
    yield Started(0, "Measuring regions")
    drawn = np.array(result.labels.data)
    found = result.found
    image = fitting_image(image_of(result.source), result.model.channels, result.source.name)
    names = names_of(result.labels, highest_class(drawn))
    yield Finished((result, regions(drawn, found.geometry, names, image.array, result.probabilities)))
