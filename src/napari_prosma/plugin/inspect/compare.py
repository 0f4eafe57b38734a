"""``ComparePart``: the masks of several models side by side, in linked views on one scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QPushButton, QWidget
from superqt.utils import signals_blocked

from napari_prosma.data.metrics import in_percent
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.inspection.maps import DIFFERENCE_COLOURS, MASK_COLOURS, MapLayer
from napari_prosma.plugin.inspect.layers import (
    CAPTION_SIZE,
    as_caption,
    canvas_grid,
    canvas_text,
)
from napari_prosma.plugin.inspect.looking import InspectionResult
from napari_prosma.plugin.inspect.trials import Drawn, pixels_of
from napari_prosma.plugin.shared.fields import in_a_row
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.layers import add_layer, keeping_selection, map_layer, remove_layers
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.model_chooser import ModelChooser

if TYPE_CHECKING:
    from napari_prosma.inspection.compare import Comparison

OTHERS = 4
"""Models beside the first: those of a gate ablation, scale, attention, dense and prosma-exact."""
GAP = 0.02
LEGEND = (12, 60)
"""Width and height of a colour bar in one of many views."""
NAME_SIZE = 7


class ComparePart(QWidget):
    """Which models, which skip, and the views.

    Signals
    -------
    wanted()
        The models are to be compared.
    figures_wanted(Comparison)
        The comparison is to be drawn.
    """

    wanted = Signal()
    figures_wanted = Signal(object)

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.views = SideBySide(viewer)
        self._compared: Comparison | None = None
        self._source: Layer | None = None
        tip = (
            "A model trained on the same data with another gate, such as attention, dense or scale; "
            "'prosma ablate RUN' in a shell trains them"
        )
        self.others = [ModelChooser("no other model", tip) for _ in range(OTHERS)]
        form = QFormLayout(self)
        form.setContentsMargins(6, 0, 0, 0)
        for number, other in enumerate(self.others, start=2):
            form.addRow(f"Model {number}", other)
        self.compare_button = QPushButton("Compare")
        self.compare_button.setToolTip("Inspect the image with all these models")
        self.compare_button.clicked.connect(self.wanted.emit)
        self.skip_box = QComboBox()
        self.skip_box.setToolTip("The skip whose masks are shown side by side")
        self.skip_box.currentIndexChanged.connect(self._show)
        self.leave_button = QPushButton("Close")
        self.leave_button.setToolTip("Close the comparison and restore the layers")
        self.leave_button.clicked.connect(self.views.leave)
        self.figures_button = QPushButton("Figures")
        self.figures_button.setToolTip(
            "Draw the masks and their histograms, which you can save with the numbers"
        )
        self.figures_button.clicked.connect(self._want_figures)
        row = in_a_row(self.compare_button, self.figures_button, self.leave_button)
        form.addRow(row)
        form.addRow("Skip", self.skip_box)
        self.message = Message()
        form.addRow(self.message)
        self._form = form
        self._show_buttons()

    def _want_figures(self) -> None:
        self.figures_wanted.emit(self._compared)

    def beside(self) -> dict[str, Path]:
        """The other models by the name of their gate, with their number where two have the same."""
        named: dict[str, Path] = {}
        for number, other in enumerate(self.others, start=2):
            if other.path is not None:
                gate = other.facts.gate if other.facts is not None else other.path.name
                named[gate if gate not in named else f"{gate}, model {number}"] = other.path
        return named

    def show_compared(self, compared: Comparison, source: Layer) -> None:
        """Show the masks of the finest skip that any model has."""
        self._compared, self._source = compared, source
        self._show_buttons()
        with signals_blocked(self.skip_box):
            self.skip_box.clear()
            for level in compared.levels:
                self.skip_box.addItem(str(level), level)
        self._show()

    @property
    def compared(self) -> Comparison | None:
        """What was compared last on the image that is looked at."""
        return self._compared

    def forget(self) -> None:
        """Another image is looked at."""
        self.views.leave()
        self._compared = None
        self._show_buttons()

    def _show_buttons(self) -> None:
        """What can be done with a comparison, where there is one."""
        for button in (self.figures_button, self.leave_button):
            button.setVisible(self._compared is not None)
        self._form.setRowVisible(self.skip_box, self._compared is not None)

    def _show(self) -> None:
        if self._compared is None or self._source is None or self.skip_box.currentIndex() < 0:
            return
        comparison, level = self._compared, int(self.skip_box.currentData())
        layers = comparison_layers(comparison, level)
        self.views.show(layers, self._source, _heading(comparison, level))
        self.message.tell("\n".join([*comparison.cautions, _floors(comparison, level)]))


class SideBySide:
    """A view per layer, moved and zoomed together; what else is open is hidden meanwhile."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._layers: list[Layer] = []
        self._seen: dict[Layer, bool] = {}
        self._shape: tuple[int, ...] | None = None
        self._text = ""

    @property
    def is_shown(self) -> bool:
        return bool(self._layers)

    def show(self, wanted: list[MapLayer], source: Layer, heading: str) -> None:
        """The image, then these maps, in reading order."""
        self._take_away()
        viewer, grid = self._viewer, canvas_grid(self._viewer)
        if not self._seen:
            self._seen = {layer: layer.visible for layer in viewer.layers}
        for layer in viewer.layers:
            layer.visible = layer is source
        with keeping_selection(viewer):
            for made in wanted:
                layer = add_layer(viewer, map_layer(made, source))
                layer.opacity = 1.0
                layer.name_overlay.visible, layer.name_overlay.font_size = True, NAME_SIZE
                # One legend per scale is enough.
                is_first = all(made.colours != other.colours for other in wanted[: len(self._layers)])
                layer.colorbar.visible, layer.colorbar.size = is_first, LEGEND
                layer.colorbar.font_size = NAME_SIZE
                self._layers.append(layer)
        if self._shape is None:
            self._shape = tuple(grid.shape)
        grid.shape = widest_grid(viewer, source, len(wanted) + 1)
        grid.stride, grid.spacing, grid.enabled = 1, GAP, True
        overlay = canvas_text(viewer)
        self._text = as_caption(viewer, heading)
        overlay.text, overlay.visible = self._text, True
        overlay.position, overlay.font_size = "bottom_left", CAPTION_SIZE
        viewer.reset_view()

    def leave(self) -> None:
        """As it was before."""
        if not self._layers:
            return
        self._take_away()
        grid = canvas_grid(self._viewer)
        grid.enabled, grid.shape, self._shape = False, self._shape, None
        if canvas_text(self._viewer).text == self._text:
            canvas_text(self._viewer).text = ""
        for layer, visible in self._seen.items():
            if layer in self._viewer.layers:
                layer.visible = visible
        self._seen = {}
        self._viewer.reset_view()

    def _take_away(self) -> None:
        remove_layers(self._viewer, *self._layers)
        self._layers = []


def widest_grid(viewer: napari.Viewer, layer: Layer, views: int) -> tuple[int, int]:
    """Rows and columns in which so many pictures of a layer are largest."""
    if not hasattr(viewer, "canvas"):
        return (-1, -1)
    shown = list(viewer.dims.displayed)[-2:]
    extent = np.ptp(np.asarray(layer.extent.world), axis=0)
    high, wide = (float(extent[axis - viewer.dims.ndim]) or 1.0 for axis in shown)
    height, width = viewer.canvas.size

    def size(columns: int) -> float:
        rows = -(-views // columns)
        return min(width / columns / wide, (height / rows - 2 * NAME_SIZE) / high)

    columns = max(range(1, views + 1), key=size)
    return -(-views // columns), columns


def comparison_layers(comparison: Comparison, level: int) -> list[MapLayer]:
    """The masks of one skip, all from 0 to 1, then the first model's minus each of the others'."""
    from napari_prosma.inspection.compare import COUNTERFACTUAL

    layers = []
    for model, record in comparison.records.items():
        skip = record.skips.get(level)
        if skip is not None and skip.psi is not None:
            floor = "" if skip.floor is None else f", floor {skip.floor:.2f}"
            layers.append(
                MapLayer(
                    name=f"psi {_short(model)}",
                    data=skip.psi,
                    geometry=skip.geometry,
                    kind="image",
                    limits=(0.0, 1.0),
                    colours=MASK_COLOURS,
                    meaning=f"mask of skip {level} of {model}{floor}; every mask from 0 to 1",
                )
            )
    first, *others = comparison.records
    counterfactuals = [COUNTERFACTUAL.format(model) for model in comparison.records]
    for other in others:
        # The counterfactual of another model says nothing about the first model.
        if other in counterfactuals and other != COUNTERFACTUAL.format(first):
            continue
        found = comparison.difference(first, other, level)
        if found is not None:
            layers.append(
                MapLayer(
                    name=f"{first} - {_short(other).removeprefix(f'{first}, ')}",
                    data=found[0],
                    geometry=found[1],
                    kind="image",
                    limits=(-1.0, 1.0),
                    colours=DIFFERENCE_COLOURS,
                    meaning=f"red = {first} lets more through at skip {level}, blue = {other} does",
                )
            )
    return layers


def comparing(inspected: InspectionResult, beside: Mapping[str, Path]) -> Iterator[Event]:
    """Events of a comparison; the last one is ``Finished`` with a ``Comparison``."""
    from napari_prosma.inspection.compare import compare

    with leaving_a_core():
        yield from compare(
            inspected.models(beside), inspected.image, inspected.label, name=inspected.record.name
        )


def drawing(compared: Comparison, told: str) -> Iterator[Event]:
    """Events that end in ``Finished`` with the figures of a comparison, a tuple of ``Drawn``."""
    from napari_prosma.inspection.compare import comparison_figure, histogram_figure

    makers = {"Masks": comparison_figure, "psi inside and outside": histogram_figure}
    yield Started(len(makers), "Drawing")
    rows, drawn = tuple(compared.rows()), []
    for done, (title, make) in enumerate(makers.items(), start=1):
        figure = make(compared)
        drawn.append(Drawn("comparison", title, pixels_of(figure), figure, rows, told))
        yield Progress(done, len(makers), title)
    yield Finished(tuple(drawn))


def _short(model: str) -> str:
    """For a name; that the counterfactual was not retrained is said in its meaning."""
    return model.replace(" = 0 (not retrained)", " 0")


def _heading(comparison: Comparison, level: int) -> str:
    first = next(iter(comparison.records))
    return f"Skip {level}: bright = passes, dark = held back; red = {first} lets more through"


def _floors(comparison: Comparison, level: int) -> str:
    lines = [f"Skip {level}; AUC = the probability that psi is higher inside the structure; 0.5 = chance."]
    if comparison.reference == "prediction":
        first = next(iter(comparison.records))
        lines.append(
            f"Without a label, the structure is the prediction of {first}, to which its psi contributes: its "
            "AUC is agreement with itself, that of the others agreement with it. Neither is evidence."
        )
    for model, record in comparison.records.items():
        skip = record.skips.get(level)
        if skip is None or skip.psi is None:
            lines.append(f"{model}: no mask")
            continue
        floor = "no floor" if skip.floor is None else f"floor {skip.floor:.2f}"
        zeros = skip.measures.get("psi_zero_fraction", 0.0)
        auc = skip.measures.get("psi_auc")
        finds = "" if auc is None else f", AUC {auc:.2f}"
        lines.append(f"{model}: {floor}, psi exactly zero at {in_percent(zeros)}{finds}")
    return "\n".join(lines)
