"""``PointerPart``: what every gate did at the cursor; a click keeps it as a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from qtpy.QtWidgets import (
    QCheckBox,
    QPushButton,
    QWidget,
)

from napari_prosma.data.metrics import in_percent
from napari_prosma.data.texts import write_rows
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.record import GateRecord
from napari_prosma.plugin.shared.asking import save_as
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.message import Message

if TYPE_CHECKING:
    from napari_prosma.inspection.readout import Readout

COLUMNS = ("position", "skip", "psi", "floor", "energy kept", "support", "let through", "stopped")
STILL = 3.0
"""Pixels of the canvas that a click may move and still be a click."""


_ROUNDING = 1e-4


class PointerPart(QWidget):
    """The values at the cursor, and a table of what was pinned."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._record: GateRecord | None = None
        self._source: ImageLayer | None = None
        self._geometry: Geometry | None = None
        self.rows: list[list[str]] = []
        self.follow_box = QCheckBox("show values at cursor")
        self.follow_box.setToolTip("Show what every gate does at the position of the cursor")
        self.pin_box = QCheckBox("pin with a click")
        self.pin_box.setToolTip("Clicks add rows below; panning and painting still work")
        self.follow_box.toggled.connect(self._toggle)
        self.pin_box.toggled.connect(self._toggle)
        self.message = Message()
        self.table = FigureTable(rows_shown=8)
        self.table.head(COLUMNS)
        self.table.fit()
        self.table.hide()
        self.save_button = QPushButton("Save rows…")
        self.save_button.setToolTip("Save the pinned positions as a CSV file")
        self.save_button.clicked.connect(self._save)
        self.clear_button = QPushButton("Clear")
        self.clear_button.setToolTip("Remove the pinned positions")
        self.clear_button.clicked.connect(self.clear)
        buttons = in_a_row(self.save_button, self.clear_button)
        stack(self, self.follow_box, self.pin_box, self.message, self.table, buttons, margins=(6, 0, 0, 0))
        self.follow_box.setChecked(True)

    def show_record(self, record: GateRecord, source: ImageLayer, geometry: Geometry) -> None:
        """Read out these maps from now on; ``geometry`` is that of the whole image in the layer."""
        self._record, self._source, self._geometry = record, source, geometry
        self.message.tell("Move the mouse over the image." if self.follow_box.isChecked() else "")

    def clear(self) -> None:
        """Remove the pinned positions."""
        self.rows = []
        self.table.hide()

    def let_go(self) -> None:
        """Follow the mouse no longer."""
        self.follow_box.setChecked(False)
        self.pin_box.setChecked(False)

    def at(self, world: tuple[float, ...]) -> list[Readout]:
        """What the gates did at a position of the viewer; empty beyond the image."""
        from napari_prosma.inspection.readout import readout

        record, layer, whole = self._record, self._source, self._geometry
        if record is None or layer is None or whole is None or layer not in self._viewer.layers:
            return []
        element = np.asarray(layer.world_to_data(np.asarray(world)[-layer.ndim :]), float)[-whole.ndim :]
        place = np.array(whole.origin) + element * np.array(whole.spacing)
        grid = record.image.geometry
        found = (place - np.array(grid.origin)) / np.array(grid.spacing)
        return readout(record, [float(n) for n in found])

    def _toggle(self) -> None:
        for box, callbacks, callback in (
            (self.follow_box, self._viewer.mouse_move_callbacks, self._moved),
            (self.pin_box, self._viewer.mouse_drag_callbacks, self._pressed),
        ):
            if box.isChecked() and callback not in callbacks:
                callbacks.append(callback)
            elif not box.isChecked() and callback in callbacks:
                callbacks.remove(callback)
        if not self.follow_box.isChecked():
            self.message.tell("")

    def _moved(self, viewer: napari.Viewer, event: Any) -> None:
        if self._viewer.dims.ndisplay == 3:
            self.message.tell("In 3D there is no single position at the cursor; switch to slices.")
            return
        found = self.at(event.position)
        self.message.tell("\n".join(map(in_words, found)) or "Not over the image.")

    def _pressed(self, viewer: napari.Viewer, event: Any) -> Iterator[None]:
        begun = np.array(event.pos, float)
        active = self._viewer.layers.selection.active
        is_tool = active is not None and str(active.mode) not in ("pan_zoom", "transform")
        yield
        while event.type == "mouse_move":
            yield
        moved = np.abs(np.array(event.pos, float) - begun).max()
        if event.button == 1 and not is_tool and moved <= STILL and self._viewer.dims.ndisplay == 2:
            self._pin(event.position)

    def _pin(self, world: tuple[float, ...]) -> None:
        found = self.at(world)
        self.rows += [row_of(world, each) for each in found]
        if found:
            self.table.show_rows(self.rows)
            self.table.scrollToBottom()

    def _save(self) -> None:
        save_as(self, "Save the rows", Path.home() / "positions.csv", "*.csv", self.save, self.message)

    def save(self, path: Path) -> None:
        """Write the pinned positions as CSV (raises ``DataError``)."""
        write_rows(path, (dict(zip(COLUMNS, row, strict=True)) for row in self.rows), COLUMNS)


def in_words(readout: Readout) -> str:
    """One skip at one position, as a line."""
    said = [f"skip {readout.level}:"]
    if readout.psi is not None:
        evidence = ", no evidence" if readout.without_evidence else ""
        # What if may have put psi elsewhere.
        is_floor = evidence and readout.floor is not None and abs(readout.psi - readout.floor) < _ROUNDING
        said.append(f"psi {readout.psi:.2f}{' = gate floor' if is_floor else ''}{evidence},")
    said.append(f"energy kept {in_percent(readout.energy_kept)}")
    if readout.support is not None:
        said.append(f", {in_percent(readout.support)} of z not zero")
    if readout.through:
        said.append("; through " + " ".join(str(value.channel) for value in readout.through))
    if readout.stopped:
        said.append("; stopped " + " ".join(str(value.channel) for value in readout.stopped))
    return " ".join(said).replace(" ,", ",").replace(" ;", ";")


def row_of(world: tuple[float, ...], readout: Readout) -> list[str]:
    """One skip at one position, as cells of the table."""

    def told(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    return [
        ", ".join(f"{n:.1f}" for n in world),
        str(readout.level),
        told(readout.psi),
        told(readout.floor),
        told(readout.energy_kept),
        told(readout.support),
        " ".join(f"{value.channel} ({value.z:+.2f})" for value in readout.through),
        " ".join(f"{value.channel} ({value.u:+.2f})" for value in readout.stopped),
    ]
