"""``ViewBox``: how a reader of medical images sees them: where the patient lies, CT windows, size, scale."""

from __future__ import annotations

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Shapes
from napari.layers.utils.layer_utils import calc_data_range
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_prosma.data.planes import AXES, slice_axis
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.asking import agrees
from napari_prosma.plugin.shared.closing import FollowsLayers
from napari_prosma.plugin.shared.fields import number, stack
from napari_prosma.plugin.shared.keys import KEYS
from napari_prosma.plugin.shared.layers import (
    GEOMETRY,
    IS_PREVIEW,
    PLACE,
    SOFT_TISSUE,
    camera_of,
    geometry_of,
    is_input,
    remove_layers,
    spatial_shape,
)
from napari_prosma.plugin.shared.message import Message

CT_WINDOWS = {
    "soft tissue": SOFT_TISSUE,
    "lung": (-1350.0, 150.0),
    "bone": (-600.0, 1200.0),
    "brain": (0.0, 80.0),
    "liver": (-45.0, 105.0),
}
"""Contrast limits in Hounsfield units: the windows 400/40, 1500/-600, 1800/300, 80/40 and 150/30."""
RULER = "scale bar"
_ENDS = {"z": ("I", "S"), "y": ("A", "P"), "x": ("R", "L")}
"""Where the patient lies at the begin and the end of each axis: inferior, superior, anterior and so on."""
_EDGES = ("left", "right", "top", "bottom")
_MARGIN = 6
_NAMED = 5


class ViewBox(FollowsLayers, QWidget):
    """For the image that is selected, else the topmost one."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._ruler: Shapes | None = None
        self.windows = QComboBox()
        for name in CT_WINDOWS:
            self.windows.addItem(f"{name} ({KEYS[name].name})", name)
        self.windows.setToolTip("Contrast limits for CT, in Hounsfield units")
        self.windows.setPlaceholderText("CT window")
        self.windows.setCurrentIndex(-1)
        self.windows.activated.connect(self._window_chosen)
        self.directions = QCheckBox("directions")
        self.directions.setToolTip(
            "Letters at the edges, where the file tells: right, left, anterior, posterior, superior and "
            "inferior of the patient"
        )
        self.directions.setChecked(True)
        self.directions.clicked.connect(self.refresh)
        self.spacing = Message()
        self.draw_button = QPushButton("Draw over the scale bar")
        self.draw_button.setToolTip("Add a layer and draw a line as long as the scale bar in the picture")
        self.draw_button.clicked.connect(self.draw_ruler)
        self.length = number(0, 100_000, 0, 3, 1, "Length of the line in the patient", least="line length")
        self.length.setSuffix(" mm")
        self.set_button = QPushButton("Set scale")
        self.set_button.setToolTip("Give the picture and its labels the scale set by the line")
        self.set_button.clicked.connect(self.set_scale)
        self.message = Message()
        self._letters = _Letters(self)
        first, second = QHBoxLayout(), QHBoxLayout()
        for row, widgets in (
            (first, (self.windows, self.directions)),
            (second, (self.length, self.set_button)),
        ):
            for widget in widgets:
                row.addWidget(widget, 1)
        stack(self, first, self.spacing, self.draw_button, second, self.message)
        layers, dims = viewer.layers.events, viewer.dims.events
        self.follow(
            *(layers.inserted, layers.removed, viewer.layers.selection.events.active),
            *(dims.order, dims.ndisplay, camera_of(viewer).events.orientation),
        )
        self.refresh()

    @property
    def image(self) -> ImageLayer | None:
        """The image that is looked at."""
        images = [x for x in self._viewer.layers if isinstance(x, ImageLayer) and is_input(x)]
        active = self._viewer.layers.selection.active
        return active if active in images else images[-1] if images else None

    def set_window(self, name: str) -> None:
        """Show a CT in one of the usual windows."""
        image = self.image
        if image is None or image.rgb:
            self.message.tell_error("open a CT first; a picture in colour has no window")
            return
        low, high = CT_WINDOWS[name]
        image.contrast_limits_range = (
            min(low, image.contrast_limits_range[0]),
            max(high, image.contrast_limits_range[1]),
        )
        image.contrast_limits = low, high
        self._show_window(image)
        lowest, highest = calc_data_range(image.data[-1] if image.multiscale else image.data)
        is_ct = lowest < 0
        self.message.tell(
            ""
            if is_ct
            else f"'{image.name}' holds {lowest:g} to {highest:g}, which are hardly Hounsfield units; "
            "auto-contrast 'once' brings its contrast back"
        )

    def draw_ruler(self) -> None:
        """Take the pen for a line over the scale bar."""
        image = self.image
        if image is None:
            self.message.tell_error("open the picture first")
            return
        self._remove_ruler()
        self._ruler = self._viewer.add_shapes(
            name=RULER,
            ndim=2,
            edge_color="yellow",
            edge_width=1,
            scale=image.scale[-2:],
            translate=image.translate[-2:],
            units=image.units[-2:],
            metadata={IS_PREVIEW: True},
        )
        self._ruler.mode = "add_line"
        self.message.tell("Draw a line from end to end of the scale bar, then enter its length")
        self.message.bring_into_view()

    def set_scale(self) -> None:
        """Give the image and its labels the scale that the line tells; other pictures are asked about."""
        try:
            image, spacing = self._measured()
        except DataError as error:
            self.message.tell_error(str(error))
            self.message.bring_into_view()
            return
        layers = self._to_scale(image)
        for layer in layers:
            _scale(layer, spacing)
        self._remove_ruler()
        self._viewer.layers.selection.active = image
        self._viewer.reset_view()
        self.length.setValue(0)
        *first, last = [f"'{layer.name}'" for layer in layers]
        names = f"{', '.join(first)} and {last}" if first else last
        self.message.tell(f"A pixel of {names} is {spacing:.4g} mm wide and high")
        self.refresh()

    def refresh(self) -> None:
        """Say how large the pixels are, and where the patient lies."""
        image = self.image
        geometry = None if image is None else geometry_of(image)
        self._show_window(image)
        self.spacing.tell("" if geometry is None else _spacing_in_words(geometry))
        shown = geometry is not None and self.directions.isChecked()
        self._letters.show_letters(letters_at(self._viewer, image, geometry) if shown else {})

    def showEvent(self, event: QShowEvent | None) -> None:
        super().showEvent(event)
        self.refresh()  # the box is in napari's window, and its canvas can be found

    def let_go(self) -> None:
        """Follow the viewer no longer, and take the line out of it."""
        super().let_go()
        self._remove_ruler()

    def _show_window(self, image: ImageLayer | None) -> None:
        """Name the window that the image is seen in."""
        limits = None if image is None else tuple(image.contrast_limits)
        name = next((name for name, window in CT_WINDOWS.items() if window == limits), None)
        self.windows.setCurrentIndex(-1 if name is None else self.windows.findData(name))

    def _window_chosen(self) -> None:
        self.set_window(self.windows.currentData())

    def _measured(self) -> tuple[ImageLayer, float]:
        """The image, and how large its pixels are.

        Raises
        ------
        DataError
            Something has to be drawn or typed first.
        """
        image, ruler = self.image, self._ruler
        if image is None or ruler is None or ruler not in self._viewer.layers or not len(ruler.data):
            raise DataError("first press 'Draw over the scale bar' and draw a line over it")
        if not self.length.value():
            raise DataError("first enter the length of the line in mm")
        ends = np.asarray(ruler.data[-1])[[0, -1]]
        pixels = float(np.linalg.norm(ends[1] - ends[0]))
        if pixels < 1:
            raise DataError("the line is shorter than a pixel; draw it from end to end of the scale bar")
        return image, self.length.value() / pixels

    def _to_scale(self, image: ImageLayer) -> list[Layer]:
        """The image and what lies on its pixels; where other pictures do, too, the user is asked."""
        there = [layer for layer in self._viewer.layers if _on_grid(layer, image)]
        pictures = [layer for layer in there if isinstance(layer, ImageLayer) and is_input(layer)]
        others = [layer for layer in pictures if layer != image]  # the same one, or a proxy of it
        if others and not self._are_alike(others):
            return [layer for layer in there if image in (layer, _owner(layer, pictures))]
        return there

    def _are_alike(self, others: list[ImageLayer]) -> bool:
        is_one = len(others) == 1
        names = [f"'{layer.name}'" for layer in others]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return agrees(
            self,
            "1 more picture of this size is open. Does it have the same scale?"
            if is_one
            else f"{len(others)} more pictures of this size are open. Do they have the same scale?",
            f"{', '.join(names[:_NAMED])}{more}. A picture of another depth or zoom has another scale.",
            "Same scale",
            leave="Only this picture",
            title="Set scale",
        )

    def _remove_ruler(self) -> None:
        ruler, self._ruler = self._ruler, None
        remove_layers(self._viewer, ruler)


class _Letters(QObject):
    """Labels at the edges of the canvas."""

    def __init__(self, box: QWidget) -> None:
        super().__init__(box)
        self._box = box
        self._canvas: QWidget | None = None
        self.labels: dict[str, QLabel] = {}

    def show_letters(self, letters: dict[str, str]) -> None:
        """By the edge; none elsewhere."""
        if letters and self._canvas is None:
            self._find_canvas()
        for edge, label in self.labels.items():
            label.setText(letters.get(edge, ""))
            label.adjustSize()
            label.setVisible(edge in letters)
        self._place()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None and event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def let_go(self) -> None:
        """Take them off the canvas."""
        if self._canvas is not None:
            self._canvas.removeEventFilter(self)
        for label in self.labels.values():
            label.hide()
            label.deleteLater()
        self._canvas, self.labels = None, {}

    def _find_canvas(self) -> None:
        """Of the window that the box is in: napari has no public way to its canvas."""
        window = self._box.window()
        self._canvas = None if window is None else window.findChild(QOpenGLWidget)
        if self._canvas is None:
            return
        for edge in _EDGES:
            label = self.labels[edge] = QLabel(self._canvas)
            label.setStyleSheet(
                "color: #ffd60a; background: rgba(0, 0, 0, 150); border-radius: 3px; padding: 1px 4px;"
                "font: bold 14px;"
            )
            label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._canvas.installEventFilter(self)

    def _place(self) -> None:
        if self._canvas is None:
            return
        width, height = self._canvas.width(), self._canvas.height()
        for edge, label in self.labels.items():
            free = width - label.width(), height - label.height()
            x = {"left": _MARGIN, "right": free[0] - _MARGIN}.get(edge, free[0] // 2)
            y = {"top": _MARGIN, "bottom": free[1] - _MARGIN}.get(edge, free[1] // 2)
            label.move(x, y)


def letters_at(viewer: napari.Viewer, image: ImageLayer | None, geometry: Geometry | None) -> dict[str, str]:
    """Edge of the canvas -> where the patient lies there; nothing where no file tells, or in 3D."""
    if image is None or geometry is None or geometry.source is None or viewer.dims.ndisplay != 2:
        return {}
    first = viewer.dims.ndim - geometry.ndim
    down, right = (axis - first for axis in viewer.dims.displayed)
    if min(down, right) < 0:
        return {}
    found: dict[str, str] = {}
    towards = [str(way) for way in getattr(camera_of(viewer), "orientation2d", ("down", "right"))]
    for axis, way in ((down, towards[0]), (right, towards[1])):
        begin, end = _ENDS.get(geometry.axes[axis], ("", ""))
        if image.scale[axis - geometry.ndim] < 0:
            begin, end = end, begin
        edges = {"down": ("top", "bottom"), "up": ("bottom", "top")}.get(way) or (
            ("left", "right") if way == "right" else ("right", "left")
        )
        found |= {edge: letter for edge, letter in zip(edges, (begin, end), strict=True) if letter}
    return found


def _spacing_in_words(geometry: Geometry) -> str:
    if geometry.unit == "pixel":
        return "The pixel size is unknown; draw over the scale bar to set it"
    sizes = [f"{size:.3g}" for size in geometry.spacing]
    if geometry.ndim != len(AXES):
        return f"Pixels of {' x '.join(sizes[-2:])} {geometry.unit}"
    across = slice_axis(geometry)
    plane = [size for axis, size in enumerate(sizes) if axis != across]
    apart = f"slices {sizes[across]} {geometry.unit} apart across {AXES[across]}"
    return f"Pixels of {' x '.join(plane)} {geometry.unit}, {apart}"


def _on_grid(layer: Layer, image: ImageLayer) -> bool:
    """Whether a layer is the image, or lies on its pixels."""
    if layer is image:
        return True
    if not isinstance(layer, ImageLayer | LabelsLayer) or layer.metadata.get(IS_PREVIEW):
        return False
    if isinstance(layer, ImageLayer) and layer.units[-2:] != image.units[-2:]:
        return False
    return (
        spatial_shape(layer)[-2:] == spatial_shape(image)[-2:]
        and np.allclose(layer.scale[-2:], image.scale[-2:])
        and np.allclose(layer.translate[-2:], image.translate[-2:])
    )


def _owner(layer: Layer, pictures: list[ImageLayer]) -> ImageLayer | None:
    """The picture after which labels or a map are called."""
    owners = [picture for picture in pictures if layer.name.startswith(f"{picture.name} ")]
    return None if layer in pictures else max(owners, key=lambda owner: len(owner.name), default=None)


def _scale(layer: Layer, spacing: float) -> None:
    """Make the pixels of a layer so wide and high, in mm; its place in a file's space is no longer known."""
    axes = layer.ndim - 2
    layer.translate = (*layer.translate[:axes], *(layer.translate[-2:] / layer.scale[-2:] * spacing))
    layer.scale = (*layer.scale[:axes], spacing, spacing)
    layer.units = (*layer.units[:axes], "mm", "mm")
    if GEOMETRY in layer.metadata:
        layer.metadata[GEOMETRY] = geometry_of(layer)
    if PLACE in layer.metadata:
        layer.metadata[PLACE] = geometry_of(layer).described()
