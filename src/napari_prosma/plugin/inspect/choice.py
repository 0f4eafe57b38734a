"""``MapChoice``: which skips and which maps are layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QGridLayout, QHBoxLayout, QWidget

from napari_prosma.inspection.maps import KINDS, TRIED, MapLayer, map_layers, tried_layer

if TYPE_CHECKING:
    from napari_prosma.inspection.one_image import Tried
    from napari_prosma.inspection.record import GateRecord

USUAL_LEVELS = (1, 2, 3, 4)
SHOWN_AT_FIRST = ("psi", "relative energy")
OFFERED = {
    **{kind: meaning for kind, meaning in KINDS.items() if kind != "second model"},
    **{f"without {what}": meaning for what, meaning in TRIED.items()},
}


class MapChoice(QWidget):
    """Boxes to tick: skips, and maps of each.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        form = QFormLayout(self)
        form.setContentsMargins(6, 0, 0, 0)
        self.level_boxes: dict[int, QCheckBox] = {}
        self._level_row = QHBoxLayout()
        self.offer(USUAL_LEVELS)
        form.addRow("Skips", self._level_row)
        self.kind_boxes: dict[str, QCheckBox] = {}
        grid = QGridLayout()
        for number, (kind, meaning) in enumerate(OFFERED.items()):
            box = QCheckBox(kind)
            box.setToolTip(meaning)
            box.setChecked(kind in (*SHOWN_AT_FIRST, "without selection"))
            box.toggled.connect(self._toggled)
            self.kind_boxes[kind] = box
            grid.addWidget(box, number // 2, number % 2)
        form.addRow(grid)

    def offer(self, levels: tuple[int, ...]) -> None:
        """Skips to choose from; at first the finest is ticked."""
        if levels == tuple(self.level_boxes):
            return
        for box in self.level_boxes.values():
            self._level_row.removeWidget(box)
            box.deleteLater()
        self.level_boxes = {}
        for level in levels:
            box = QCheckBox(str(level))
            box.setToolTip(f"Maps of skip {level}; 1 is the finest")
            box.setChecked(level == min(levels))
            box.toggled.connect(self._toggled)
            self.level_boxes[level] = box
            self._level_row.addWidget(box)

    def tick(self, level: int) -> None:
        """As if the user had ticked a skip."""
        if level in self.level_boxes:
            self.level_boxes[level].setChecked(True)

    def wanted(self, record: GateRecord, tried: dict[int, dict[str, Tried]]) -> list[MapLayer]:
        """Layers of what is ticked, coarse skips first, so that the finest lies on top."""
        levels = [level for level, box in self.level_boxes.items() if box.isChecked()]
        kinds = [kind for kind, box in self.kind_boxes.items() if box.isChecked()]
        layers: list[MapLayer] = []
        for level in sorted(levels, reverse=True):
            for what, outcome in tried.get(level, {}).items():
                if f"without {what}" in kinds:
                    layers.append(tried_layer(level, what, outcome.difference, outcome.geometry))
            layers += map_layers(record, [level], kinds)
        return layers

    def _toggled(self) -> None:
        self.changed.emit()
