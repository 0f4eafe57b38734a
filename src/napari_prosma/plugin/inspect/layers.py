"""``InspectLayers``: the maps of an inspection in the viewer, and on the canvas a line on what one sees."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer

from napari_prosma.inspection.maps import MapLayer, is_tried
from napari_prosma.plugin.shared.layers import (
    MEANING,
    LayerTuple,
    add_layer,
    keeping_selection,
    map_layer,
    remove_layers,
    result_layer,
)

if TYPE_CHECKING:
    from napari_prosma.model.applying import Segmentation

CAPTION_SIZE = 11
LETTER = 0.9
"""Width of a letter of a caption, relative to its size, as wide as any font needs it."""
USUAL_WIDTH = 400
"""Of the canvas, where this napari does not tell."""
OPACITY = 0.7
CHANGED = "(changed)"
"""Behind the name of a layer, while What if has changed a gate."""


class InspectLayers:
    """Layers that were made from one image; what the user closes stays closed until it is wanted again.

    Maps are filled anew in place, so that a slider can drive them; their limits and colours are fixed.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self.viewer = viewer
        self.source: Layer | None = None
        self._shown: dict[str, Layer] = {}
        self._extra: dict[str, Layer] = {}
        self._outline: Layer | None = None
        self._outline_name = self._changed = self._text = ""
        self._emitters = [
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.layers.events.reordered,
            viewer.layers.selection.events.changed,
            viewer.dims.events.ndisplay,
            viewer.canvas.events.size,
        ]
        for emitter in self._emitters:
            emitter.connect(self.tell)

    def start(self, source: Layer) -> None:
        """Make way for the maps of an image."""
        remove_layers(self.viewer, *self._shown.values(), *self._extra.values(), self._outline)
        self._shown, self._extra, self._outline, self.source = {}, {}, None, source
        self._changed = ""

    def show(self, wanted: Iterable[MapLayer], seen: Sequence[str] = ()) -> None:
        """Have these maps and no others; of those that are new, ``seen`` are visible."""
        assert self.source is not None
        drawn = {layer.name: layer for layer in wanted}
        for name in [name for name in self._shown if name not in drawn]:
            remove_layers(self.viewer, self._shown.pop(name))
        with keeping_selection(self.viewer):
            for name, made in drawn.items():
                layer_tuple = map_layer(made, self.source)
                if name in self._shown:
                    fill(self._shown[name], layer_tuple)
                else:
                    self._shown[name] = layer = self._add(layer_tuple)
                    layer.visible = name in seen
        self._rename()
        self.tell()

    def mark(self, changed: str) -> None:
        """Say in the names of all maps and on the canvas how gates are changed; empty = as trained."""
        self._changed = changed
        self._rename()
        self.tell()

    def _rename(self) -> None:
        outline = {} if self._outline is None else {self._outline_name: self._outline}
        for name, layer in (*self._shown.items(), *self._extra.items(), *outline.items()):
            if layer in self.viewer.layers and not is_tried(name):
                layer.name = f"{name} {CHANGED}" if self._changed else name

    def add(self, drawn: Iterable[MapLayer]) -> None:
        """Open these besides and see the last of them; they stay, whatever else is shown.

        Those that are open already are filled anew.
        """
        assert self.source is not None
        new = [made for made in drawn if not self.refill(made)]
        for layer in (*self._shown.values(), *self._extra.values()) if new else ():
            layer.visible = False
        for made in new:
            with keeping_selection(self.viewer):
                self._extra[made.name] = layer = self._add(map_layer(made, self.source))
            layer.visible, layer.opacity = made is new[-1], 1.0
        self.tell()

    def refill(self, made: MapLayer) -> bool:
        """New contents of a map that was opened besides; False if it is not open."""
        layer = self._extra.get(made.name)
        if layer is None or layer not in self.viewer.layers:
            return False
        fill(layer, map_layer(made, self.source))
        return True

    def drop(self, name: str) -> None:
        """Close a map that was opened besides, if it is still open."""
        remove_layers(self.viewer, self._extra.pop(name, None))

    def outline(self, segmentation: Segmentation) -> None:
        """Draw the result's outline above the maps."""
        assert self.source is not None
        labels = result_layer(segmentation, self.source)
        if self._outline is None:
            with keeping_selection(self.viewer):
                self._outline = add_layer(self.viewer, labels)
            self._outline_name = self._outline.name
            self._outline.contour = 1
            self._outline.opacity = 1.0
        else:
            fill(self._outline, labels)

    def see_only(self, names: Sequence[str]) -> None:
        """Of the maps, show these and hide the others."""
        for name, layer in (*self._shown.items(), *self._extra.items()):
            layer.visible = name in names
        self.tell()

    def names(self) -> list[str]:
        """Of the maps that are open."""
        return [name for name, layer in self._shown.items() if layer in self.viewer.layers]

    def tell(self, event: object = None) -> None:
        """Say on the canvas what the topmost visible map shows."""
        ours = (*self._shown.values(), *self._extra.values())
        maps = [layer for layer in self.viewer.layers if layer in ours and layer.visible]
        text = as_caption(self.viewer, self._meaning(maps[-1])) if maps else ""
        overlay = canvas_text(self.viewer)
        # A text that somebody else put there is theirs.
        if text or overlay.text == self._text:
            self._text = text
            overlay.position, overlay.font_size = "bottom_left", CAPTION_SIZE
            overlay.text, overlay.visible = text, bool(text)

    def _meaning(self, layer: Layer) -> str:
        told = f"{layer.name}: {layer.metadata[MEANING]}"
        told = f"Changed by What if ({self._changed}). {told}" if self._changed else told
        is_projected = self.viewer.dims.ndisplay == 3 and getattr(layer, "rendering", "") == "mip"
        return f"{told} (in 3D: the highest value along the line of sight)" if is_projected else told

    def let_go(self) -> None:
        """Follow the viewer no longer."""
        for emitter in self._emitters:
            emitter.disconnect(self.tell)

    def _add(self, layer_tuple: LayerTuple) -> Layer:
        layer = add_layer(self.viewer, layer_tuple)
        layer.opacity = OPACITY
        if isinstance(layer, ImageLayer):
            layer.interpolation3d, layer.colorbar.visible = "nearest", True
        layer.events.visible.connect(self.tell)
        if self._outline is not None and self._outline in self.viewer.layers:
            layers = self.viewer.layers
            layers.move(layers.index(layer), layers.index(self._outline))
        return layer


def fill(layer: Layer, layer_tuple: LayerTuple) -> None:
    """New contents of a layer, at their place; the look of it stays as the user set it."""
    data, attributes, _ = layer_tuple
    layer.data = data
    for name in ("scale", "translate"):
        if not np.array_equal(getattr(layer, name), attributes[name]):
            setattr(layer, name, attributes[name])


def canvas_text(viewer: napari.Viewer) -> Any:
    """The text on the canvas, wherever this napari keeps it."""
    return viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay


def canvas_grid(viewer: napari.Viewer) -> Any:
    """The grid of views, wherever this napari keeps it."""
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid


def as_caption(viewer: napari.Viewer, text: str) -> str:
    """The text in lines that fit on the canvas."""
    width = viewer.canvas.size[1] if hasattr(viewer, "canvas") else USUAL_WIDTH
    letters = max(20, int(width / (LETTER * CAPTION_SIZE)) - 2)
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, letters))
