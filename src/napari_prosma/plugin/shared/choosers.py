"""Fields of the panels: a layer of the viewer, a folder, a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import napari
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.asking import chosen_folder
from napari_prosma.plugin.shared.closing import FollowsLayers
from napari_prosma.plugin.shared.fields import in_a_row
from napari_prosma.plugin.shared.layers import add_layer, is_input, spatial_shape
from napari_prosma.plugin.shared.placing import joined_channels

DATA = "Choose the folder of images and masks"
"""Title, and topic of the folder that was chosen last."""


L = TypeVar("L", bound=Layer)


class LayerChooser(FollowsLayers, QComboBox, Generic[L]):
    """The viewer's layers of one kind, kept up to date.

    Parameters
    ----------
    none : str
        Text of the entry for "no layer"; empty = there is none.
    volumes : bool
        Whether only volumes and stacks can be chosen.
    """

    def __init__(
        self, viewer: napari.Viewer, kind: type[L], none: str = "", *, volumes: bool = False
    ) -> None:
        super().__init__()
        self._viewer, self._kind, self._none, self._volumes = viewer, kind, none, volumes
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        if not none:
            self.setPlaceholderText("no volume is open" if volumes else "none is open")
        events = viewer.layers.events
        self.follow(events.inserted, events.removed, events.renamed)
        self.refresh()

    @property
    def layer(self) -> L | None:
        """The chosen layer, if it is still open."""
        layer = self.currentData()
        return layer if layer in self._viewer.layers else None

    def choose(self, layer: Layer) -> None:
        self.setCurrentIndex(self.layers().index(layer) + bool(self._none))

    def refresh(self) -> None:
        """Fill anew; the choice stays while its layer is open, else the newest layer is chosen."""
        chosen, layers = self.currentData(), self.layers()
        with signals_blocked(self):
            self.clear()
            if self._none:
                self.addItem(self._none, None)
            for layer in layers:
                self.addItem(layer.name, layer)
            if chosen in layers:
                self.choose(chosen)
            elif self._none:
                self.setCurrentIndex(0)
            elif layers:
                self.choose(layers[-1])
        if self.currentData() is not chosen:
            self.currentIndexChanged.emit(self.currentIndex())

    def layers(self) -> list[L]:
        """What can be chosen: layers of this kind that are neither previews nor maps of our own."""
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, self._kind)
            and is_input(layer)
            and (not self._volumes or len(spatial_shape(layer)) > 2)
        ]


class LayersButton(FollowsLayers, QPushButton):
    """A button that goes by the images that are open until it is let go: enabled where there is one."""

    def __init__(self, text: str, viewer: napari.Viewer) -> None:
        super().__init__(text)
        self._viewer = viewer
        self.follow(viewer.layers.events.inserted, viewer.layers.events.removed)

    def refresh(self) -> None:
        """Whether there is an image."""
        self.setEnabled(bool(self._images()))

    def _images(self) -> list[ImageLayer]:
        return [layer for layer in self._viewer.layers if isinstance(layer, ImageLayer) and is_input(layer)]


class JoinButton(LayersButton):
    """Makes one image of image layers that are its channels: those selected in the layer list.

    Signals
    -------
    joined(layer)
    refused(str)
        Why they are no channels of one image.
    """

    joined = Signal(object)
    refused = Signal(str)

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__("Join channels", viewer)
        self.setToolTip(
            "Join the image layers selected in the layer list, such as sequences or stains, into one image: "
            "each becomes a channel, from the bottom of the list up"
        )
        self.clicked.connect(self._join)
        self._is_wanted = True
        self.refresh()

    def setVisible(self, visible: bool) -> None:
        """Qt's hook: it stays hidden while there are no two images to join."""
        self._is_wanted = visible
        super().setVisible(visible and len(self._images()) > 1)

    def refresh(self) -> None:
        """Whether there are two."""
        self.setVisible(self._is_wanted)

    def _join(self) -> None:
        chosen = [layer for layer in self._images() if layer in self._viewer.layers.selection]
        try:
            layer = add_layer(self._viewer, joined_channels(chosen))
        except DataError as error:
            self.refused.emit(str(error))
        else:
            self.joined.emit(layer)


class PathField(QWidget):
    """A path to type or to browse for.

    Signals
    -------
    chosen(Path)
        The path was entered or browsed for.
    """

    chosen = Signal(object)

    def __init__(self, title: str, placeholder: str = "") -> None:
        super().__init__()
        self._title = title
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        self.line.editingFinished.connect(self._entered)
        self.browse_button = QToolButton()
        self.browse_button.setText("…")
        self.browse_button.setToolTip(title)
        self.browse_button.clicked.connect(self._browse)
        self._announced: Path | None = None
        in_a_row(self.line, self.browse_button, owner=self, wide=self.line).setSpacing(3)
        self.setFocusProxy(self.line)

    @property
    def path(self) -> Path | None:
        text = self.line.text().strip()
        return Path(text).expanduser() if text else None

    def set_path(self, path: Path) -> None:
        """As if the user had entered it."""
        self.line.setText(str(path))
        self._entered()

    def show_path(self, path: Path) -> None:
        """Show it without telling anybody."""
        self.line.setText(str(path))
        self._announced = path

    def _entered(self) -> None:
        if self.path is not None and self.path != self._announced:
            self._announced = self.path
            self.chosen.emit(self.path)

    def _browse(self) -> None:
        found = chosen_folder(self, self._title, start=self.path)
        if found is not None:
            self._announced = None
            self.set_path(found)
