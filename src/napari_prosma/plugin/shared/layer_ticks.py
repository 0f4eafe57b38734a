"""``LayerTicks``: the open images, each with a box to tick."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QListWidget, QListWidgetItem, QWidget
from superqt.utils import signals_blocked

from napari_prosma.plugin.shared.closing import FollowsLayers
from napari_prosma.plugin.shared.fields import stack
from napari_prosma.plugin.shared.figure_table import ROW_HEIGHT
from napari_prosma.plugin.shared.layers import is_input

_ROWS_SHOWN = 5


class LayerTicks(FollowsLayers, QWidget):
    """The viewer's images, kept up to date; maps that we made of images are none.

    Parameters
    ----------
    usual : image layer -> bool, optional
        Which are ticked until the user ticks others; by default the one in view.

    Signals
    -------
    changed()
        Other layers are ticked.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, usual: Callable[[ImageLayer], bool] | None = None) -> None:
        super().__init__()
        self._viewer, self._usual = viewer, usual
        self._left_out: ImageLayer | None = None
        self._by_hand = False
        self._known: list[ImageLayer] = []
        self.list = QListWidget()
        self.list.setToolTip("Tick the images to use; a volume or a stack counts as one image")
        self.list.itemChanged.connect(self._ticked_by_hand)
        self.all_box = QCheckBox("all of them")
        self.all_box.setToolTip("Tick all the images, or none")
        self.all_box.clicked.connect(self._tick_all)
        stack(self, self.list, self.all_box).setSpacing(3)
        self.setFocusProxy(self.list)
        events = viewer.layers.events
        active = viewer.layers.selection.events.active
        self.follow(events.inserted, events.removed, events.reordered, events.renamed, active)
        self.refresh()

    def layers(self) -> list[ImageLayer]:
        """What can be ticked."""
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, ImageLayer) and is_input(layer) and layer is not self._left_out
        ]

    def leave_out(self, layer: ImageLayer | None) -> None:
        """A layer that cannot be ticked."""
        self._left_out = layer
        self.refresh()

    def ticked(self) -> list[ImageLayer]:
        """Those that are ticked, in the viewer's order."""
        return [
            item.data(Qt.ItemDataRole.UserRole)
            for item in self._items()
            if item.checkState() == Qt.CheckState.Checked
        ]

    def tick(self, layers: Sequence[ImageLayer]) -> None:
        """Tick these and no others, whatever is opened or selected later."""
        self._by_hand = True
        self._show(self.layers(), layers)

    def refresh(self) -> None:
        """Fill anew; ticks of the user's stay while their layers are open, else what is in view is ticked."""
        open_layers = self.layers()
        kept = [layer for layer in self.ticked() if layer in open_layers]
        if self._by_hand and (kept or not open_layers or self._usual is not None):
            self._show(open_layers, kept)
            return
        if self._usual is not None:
            self._show(open_layers, [layer for layer in open_layers if self._usual(layer)])
            return
        self._by_hand = False
        active = self._viewer.layers.selection.active
        if active in open_layers:
            kept = [active]
        elif not kept or open_layers[-1] not in self._known:
            kept = open_layers[-1:]
        self._known = open_layers
        self._show(open_layers, kept)

    def _items(self) -> list[QListWidgetItem]:
        return [item for n in range(self.list.count()) if (item := self.list.item(n)) is not None]

    def _show(self, layers: Sequence[ImageLayer], ticked: Sequence[ImageLayer]) -> None:
        before = self.ticked()
        with signals_blocked(self.list):
            self.list.clear()
            for layer in layers:
                item = QListWidgetItem(layer.name)
                item.setData(Qt.ItemDataRole.UserRole, layer)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Checked if layer in ticked else Qt.CheckState.Unchecked)
                self.list.addItem(item)
            if not layers:
                nothing = QListWidgetItem("none is open")
                nothing.setFlags(Qt.ItemFlag.NoItemFlags)
                self.list.addItem(nothing)
            for item in self._items():
                item.setSizeHint(QSize(0, ROW_HEIGHT))
        shown = min(max(len(layers), 1), _ROWS_SHOWN)
        self.list.setFixedHeight(ROW_HEIGHT * shown + 6)
        self._show_all_box()
        if self.ticked() != before:
            self.changed.emit()

    def _show_all_box(self) -> None:
        self.all_box.setVisible(len(self.layers()) > 1)
        self.all_box.setChecked(len(self.ticked()) == len(self.layers()))

    def _ticked_by_hand(self) -> None:
        self._by_hand = True
        self._show_all_box()
        self.changed.emit()

    def _tick_all(self, every: bool) -> None:
        self.tick(self.layers() if every else [])
