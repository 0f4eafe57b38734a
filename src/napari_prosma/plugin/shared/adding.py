"""Layers that come while somebody draws: napari takes a tenth of a second to add one, this half of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import napari
from napari.components import LayerList
from napari.layers import Layer
from qtpy.QtWidgets import QWidget

from napari_prosma.plugin.shared.layers import keeping_selection


def insert_layer(viewer: napari.Viewer, layer: Layer, index: int | None = None) -> None:
    """Put a layer into the viewer (on top, unless ``index`` says where), unselected.

    Its controls, half of the work, are made when it is first selected, where napari lets itself be told so.
    """
    layers = getattr(viewer.layers, "__wrapped__", viewer.layers)  # plugins see proxies
    made = _controls(viewer)
    without_controls = nullcontext() if made is None else layers.events.inserted.blocker(made.make)
    with keeping_selection(viewer), without_controls:
        layers.insert(len(layers) if index is None else index, layer)


def make_controls(viewer: napari.Viewer, layer: Layer) -> None:
    """Make them now, for a layer that is selected in a later turn of the event loop."""
    made = _controls(viewer)
    if made is not None and layer in viewer.layers:
        made[layer]


def _controls(viewer: napari.Viewer) -> _MadeWhenAsked | None:
    """Those of every layer; None for a napari that keeps them elsewhere."""
    window = getattr(getattr(viewer, "__wrapped__", viewer), "window", None)
    stack: Any = getattr(getattr(window, "_qt_viewer", None), "controls", None)
    made = getattr(stack, "widgets", None)
    if type(made) is dict and hasattr(stack, "_add"):
        made = stack.widgets = _MadeWhenAsked(made, stack._add, viewer.layers)
    return made if isinstance(made, _MadeWhenAsked) else None


class _MadeWhenAsked(dict[Layer, QWidget]):
    """napari's controls of each layer."""

    def __init__(self, made: dict[Layer, QWidget], make: Callable[[Any], None], layers: LayerList) -> None:
        super().__init__(made)
        self.make, self._layers = make, layers

    def __missing__(self, layer: Layer) -> QWidget:
        if layer in self._layers:
            self.make(SimpleNamespace(value=layer))  # which puts them here
        else:
            self[layer] = QWidget()  # of a layer that was removed, to be removed too
        return self.get(layer) or QWidget()
