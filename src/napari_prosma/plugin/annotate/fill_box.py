"""``FillBox``: fills between drawn slices, continues a shape to the slice on screen, and previews both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import napari
import numpy as np
from napari.layers import Labels as LabelsLayer
from qtpy.QtWidgets import QCheckBox, QPushButton, QWidget

from napari_prosma.data.labels import present_values
from napari_prosma.data.planes import AXES, slice_axis
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished
from napari_prosma.plugin.shared.fields import in_a_row, stack
from napari_prosma.plugin.shared.guesses import guesses_of
from napari_prosma.plugin.shared.keys import tip
from napari_prosma.plugin.shared.layers import geometry_of
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.placing import plane_on_screen
from napari_prosma.plugin.shared.prediction import Outline
from napari_prosma.plugin.shared.strokes import Strokes

if TYPE_CHECKING:
    from napari_prosma.data.between import Filling

PREVIEW = "fill (preview)"


class FillBox(QWidget):
    """For the labels layer that ``chosen`` gives; a volume takes seconds, so that threads do it."""

    def __init__(self, viewer: napari.Viewer, chosen: Callable[[], LabelsLayer | None]) -> None:
        super().__init__()
        self._viewer, self._chosen = viewer, chosen
        self._outline: Outline | None = None
        self._strokes = Strokes(viewer, self)
        self._strokes.rested.connect(self._preview_anew)
        self.previewing = NewestJob(self, finished=self._previewed, failed=self._preview_failed)
        self.fill_button = QPushButton("Fill between slices")
        self.fill_button.setToolTip(
            tip("Fill the slices between those you drew, class by class; what you drew stays", "fill")
        )
        self.fill_button.clicked.connect(self.fill)
        self.here_button = QPushButton("Fill to here")
        self.here_button.setToolTip(
            tip(
                "Continue the nearest drawn slice up to the one on screen, for you to correct", "fill to here"
            )
        )
        self.here_button.clicked.connect(self.fill_to_here)
        self.only_selected = QCheckBox("only the selected class")
        self.only_selected.setToolTip("Fill only the class that you paint with")
        self.only_selected.clicked.connect(self._preview_anew)
        self.preview = QCheckBox("preview")
        self.preview.setToolTip("Outline what will be filled, updated as you draw")
        self.preview.clicked.connect(self._preview_switched)
        self.message = Message()
        self.filling = NewestJob(self, finished=self._made, failed=self.message.tell_error)
        boxes = in_a_row(self.preview, self.only_selected)
        buttons = in_a_row(self.fill_button, self.here_button)
        stack(self, boxes, buttons, self.message)

    def layer_changed(self) -> None:
        """Another layer was chosen."""
        self.message.tell("")
        self._preview_switched()

    def fill(self) -> None:
        """Fill between the drawn slices, as one undo step."""
        self._begin(None)

    def fill_to_here(self) -> None:
        """Continue the nearest drawn slice up to the one on screen, as one undo step."""
        layer = self._chosen()
        if layer is None or layer.ndim != len(AXES):
            self._begin(None)  # which says why not
            return
        across = slice_axis(geometry_of(layer))
        at = plane_on_screen(self._viewer.dims, layer, layer.data.shape)
        here = None if at is None else at[across]
        if here is None:
            self.message.tell_error(
                f"no slice across {AXES[across]} of '{layer.name}' is on screen; show its slices in 2D, then "
                "go to the one up to which the shape continues"
            )
            return
        self._begin(here)

    def _begin(self, to: int | None) -> None:
        try:
            layer = self._required()
        except DataError as error:
            self.message.tell_error(str(error))
            return
        self.message.tell("Filling")
        self.filling.ask_for("ProSMA: filling", partial(_filling, layer, to, self._classes(layer)))

    def _required(self) -> LabelsLayer:
        layer = self._chosen()
        if layer is None:
            raise DataError("add a labels layer and draw on two slices first")
        if layer.ndim != len(AXES):
            raise DataError(
                f"the labels '{layer.name}' have {layer.ndim} axes; slices are filled in volumes, which have "
                "three (of a time series, split the stack and take one moment)"
            )
        guesses_of(layer)
        return layer

    def _classes(self, layer: LabelsLayer) -> list[int] | None:
        return [layer.selected_label] if self.only_selected.isChecked() else None

    def _made(self, made: tuple[LabelsLayer, Filling]) -> None:
        layer, filling = made
        if layer not in self._viewer.layers:
            self.message.tell_error(f"the labels '{layer.name}' were closed, so nothing was filled")
            return
        free = layer.data[filling.indices] == 0  # the hand may have gone on drawing
        indices = tuple(at[free] for at in filling.indices)
        count = guesses_of(layer).write("filled", indices, filling.values[free])
        across = slice_axis(geometry_of(layer))
        slices = len(np.unique(indices[across]))
        self.message.tell(
            f"{slices} slice{'s' * (slices != 1)} filled across {AXES[across]}, {count:,} voxels; "
            f"Ctrl+Z undoes it{_left_alone(filling.alone)}"
        )
        self._viewer.layers.selection.active = layer

    # ---- the preview --------------------------------------------------------------------------------------

    def _preview_switched(self) -> None:
        self.let_go()
        self._strokes.watch(self._chosen() if self.preview.isChecked() else None)
        self._preview_anew()

    def _preview_anew(self) -> None:
        if not self.preview.isChecked():
            return
        try:
            layer = self._required()
        except DataError as error:
            self.message.tell(str(error))
            return
        self.previewing.ask_for(
            "ProSMA: previewing what will be filled",
            partial(_filling, layer, None, self._classes(layer)),
        )

    def _previewed(self, made: tuple[LabelsLayer, Filling]) -> None:
        layer, filling = made
        is_wanted = self._chosen() is layer and self.preview.isChecked()
        if not is_wanted:
            return
        values = present_values(filling.values).tolist()
        if self._outline is None or not self._outline.is_there or values != self._outline.values:
            self.let_go()
            self._outline = Outline(self._viewer, layer, layer, values, PREVIEW, {})
            self._outline.insert()
        shown = np.zeros(layer.data.shape, layer.data.dtype)
        shown[filling.indices] = filling.values
        self._outline.show((None,) * shown.ndim, shown)

    def _preview_failed(self, error: str) -> None:
        self.let_go()
        if not self.message.plain_text():  # what was filled just now is not talked over
            self.message.tell(f"Preview: {error}")

    def let_go(self) -> None:
        """Take the preview out of the viewer."""
        outline, self._outline = self._outline, None
        if outline is not None:
            outline.remove()


def _left_alone(values: tuple[int, ...]) -> str:
    if not values:
        return ""
    named = ", ".join(map(str, values))
    return f". On one slice only, so not filled: class{'es' * (len(values) > 1)} {named}"


def _filling(layer: LabelsLayer, to: int | None, classes: list[int] | None) -> Iterator[Event]:
    from napari_prosma.data.between import fill_between, fill_to

    drawn, geometry = np.array(layer.data), geometry_of(layer)
    across = slice_axis(geometry)
    if to is None:
        filling = fill_between(drawn, geometry.spacing, across, classes)
    else:
        filling = fill_to(drawn, across, to, classes)
    yield Finished((layer, filling))
