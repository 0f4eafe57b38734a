"""``Outline``: a thin line at every image size. ``Prediction``: what a model makes of an image, drawn so.

What a hand draws is filled, what the program guesses is an outline: the two are never taken for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb, rgb_to_hsv
from typing import Any

import napari
import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.utils.colormaps import DirectLabelColormap

from napari_prosma.data.planes import slice_axis
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.adding import insert_layer
from napari_prosma.plugin.shared.guesses import rejected_in
from napari_prosma.plugin.shared.layers import (
    IS_PREVIEW,
    geometry_of,
    place_like,
    put_away_tools,
    remove_layers,
    spatial_shape,
)
from napari_prosma.plugin.shared.placing import steps_between

PREDICTION = "prediction"
"""Key of the layer that shows a ``Prediction``."""
FINE = 256
"""Pixels along the shorter side of a slice, at which an outline of one pixel is thin."""
_FINEST = 8
"""An image pixel is parted into no more than so many outline pixels along an axis."""
SEEN_THROUGH = 0.3
"""Opacity in 3D."""
SURE = 255
"""What certain is stored as."""

Plane = tuple[int | None, ...]
"""An index per axis of an image, None along those that are filled."""


class Outline:
    """A layer of outlines, on a grid that is finer than a coarse image, just above the labels drawn on it.

    It has the size of the image, of which only what was shown last is filled: it takes memory only there.

    Parameters
    ----------
    over : napari layer
        Whose place it has.
    drawn : napari Labels layer
        Whose colours it has, brighter.
    values : labels that may be shown
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        over: ImageLayer | LabelsLayer,
        drawn: LabelsLayer,
        values: Sequence[int],
        name: str,
        metadata: dict[str, Any],
    ) -> None:
        self._viewer, self._drawn = viewer, drawn
        self.shape, self.values = spatial_shape(over), values
        self._parts = _parts(over)
        geometry = geometry_of(over)
        self.layer = LabelsLayer(
            np.zeros([n * k for n, k in zip(self.shape, self._parts, strict=True)], drawn.dtype),
            name=name,
            colormap=vivid(drawn, values),
            metadata={IS_PREVIEW: True, **metadata},
            opacity=1.0,
            visible=False,
            **place_like(over, _parted(geometry, self._parts), geometry),
        )
        self._show_dimensions()
        self.layer.editable = False
        put_away_tools(self.layer)
        viewer.dims.events.ndisplay.connect(self._show_dimensions)
        self._filled: tuple[slice, ...] | None = None
        self._is_new = True

    def insert(self) -> None:
        """Put it into the viewer, hidden until it shows something."""
        insert_layer(self._viewer, self.layer, self._viewer.layers.index(self._drawn) + 1)

    @property
    def is_there(self) -> bool:
        """It was not removed."""
        return self.layer in self._viewer.layers

    def take_values(self, values: Sequence[int]) -> None:
        """From now on these may be shown."""
        if values != self.values:
            self.values = values
            self.layer.colormap = vivid(self._drawn, values)

    def show(self, at: Plane, values: np.ndarray) -> None:
        """Show values (*spatial), one element thick along the axes that ``at`` gives an index of."""
        data = self.layer.data
        if self._filled is not None:
            data[self._filled] = 0
        self._filled = tuple(
            slice(None) if n is None else slice(n * k, (n + 1) * k)
            for n, k in zip(at, self._parts, strict=True)
        )
        for axis, (n, k) in enumerate(zip(at, self._parts, strict=True)):
            values = values if n is not None or k == 1 else values.repeat(k, axis)
        data[self._filled] = values
        if self._is_new:
            self._is_new, self.layer.visible = False, True
        else:
            self.layer.refresh()

    def remove(self) -> None:
        """Take it out of the viewer."""
        self._viewer.dims.events.ndisplay.disconnect(self._show_dimensions)
        remove_layers(self._viewer, self.layer)

    def _show_dimensions(self, event: object = None) -> None:
        """In 3D, where napari draws no outlines, what is guessed is seen through."""
        is_flat = self._viewer.dims.ndisplay == 2
        self.layer.contour = int(is_flat)
        self.layer.opacity = 1.0 if is_flat else SEEN_THROUGH


class Prediction:
    """What a model makes of an image, which may be accepted into the labels that are drawn on it.

    Parameters
    ----------
    values : (K,)
        What is drawn for each class, 0 first.
    name : str
        Of the layer.
    at_once : bool
        Put the layer into the viewer; else ``outline.insert`` does it in a later turn of the event loop.
    metadata : dict
        Of the layer.

    Attributes
    ----------
    at : index per axis
        What was predicted: a plane, or everything (None along every axis).
    labels : (*spatial)
        In the numbers that are drawn; one element thick where ``at`` has an index.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        image: ImageLayer,
        drawn: LabelsLayer,
        values: np.ndarray,
        name: str,
        at_once: bool = True,
        **metadata: Any,
    ) -> None:
        self.image, self.drawn, self._values = image, drawn, values.astype(drawn.dtype)
        self._offset = steps_between(drawn, image) or (0,) * len(spatial_shape(image))
        self.outline = Outline(
            viewer, image, drawn, values[1:].tolist(), name, {PREDICTION: self, **metadata}
        )
        self.at: Plane = (None,) * len(self.outline.shape)
        self.labels = np.zeros((0,) * len(self.at), drawn.dtype)
        self._sureness = np.zeros((0,) * len(self.at), np.uint8)
        self._rejected = np.zeros((0,) * len(self.at), bool)
        drawn.events.set_data.connect(self._drawn_anew)
        if at_once:
            self.outline.insert()

    @property
    def is_empty(self) -> bool:
        """Nothing was shown yet."""
        return not self.labels.size

    def take_values(self, values: np.ndarray) -> None:
        """What is drawn for each class (K,) from now on, 0 first."""
        self._values = values.astype(self.drawn.dtype)
        self.outline.take_values(values[1:].tolist())

    def show(self, at: Plane, classes: np.ndarray, sureness: np.ndarray) -> None:
        """Show class indices (*spatial), one thick where ``at`` has an index, and their sureness (uint8)."""
        self.at, self.labels, self._sureness = at, self._values[classes], sureness
        self._show(self._hidden())

    def of_slice(self, at: Plane) -> tuple[np.ndarray, ...]:
        """Elements of the labels layer, an index array per axis, that are predicted on this slice."""
        return self._indices(self._open() & self._on(at))

    def of_region(self, point: Sequence[int], at: Plane) -> tuple[np.ndarray, ...]:
        """Those of the connected piece at an element of the image, on this slice."""
        from scipy import ndimage

        inside = tuple(p if n is None else p - n for p, n in zip(point, self.at, strict=True))
        if not all(0 <= p < n for p, n in zip(inside, self.labels.shape, strict=True)):
            return self._indices(np.zeros(self.labels.shape, bool))
        same = (self.labels == self.labels[inside]) & self._seen() & self._on(at)
        pieces, _ = ndimage.label(same, np.ones((3,) * same.ndim))
        return self._indices((pieces == pieces[inside]) & same)

    def surer_than(self, share: float) -> tuple[np.ndarray, ...]:
        """Those of all that is predicted of which the model is at least so sure."""
        return self._indices(self._open() & (self._sureness >= share * SURE))

    def values_at(self, indices: tuple[np.ndarray, ...]) -> np.ndarray:
        """What is predicted for elements of the labels layer."""
        inside = tuple(
            at + moved - (n or 0) for at, moved, n in zip(indices, self._offset, self.at, strict=True)
        )
        return self.labels[inside]

    def remove(self) -> None:
        """Take it out of the viewer, and follow the labels no longer."""
        self.drawn.events.set_data.disconnect(self._drawn_anew)
        self.outline.remove()

    def _show(self, rejected: np.ndarray) -> None:
        self._rejected = rejected
        self.outline.show(self.at, np.where(rejected, 0, self.labels))

    def _seen(self) -> np.ndarray:
        return (self.labels > 0) & ~self._rejected

    def _open(self) -> np.ndarray:
        """What is predicted where nothing is drawn."""
        return self._seen() & (self._of_drawn(np.asarray(self.drawn.data)) == 0)

    def _on(self, at: Plane) -> np.ndarray:
        """Which of the predicted elements lie on a slice."""
        there = np.ones(self.labels.shape, bool)
        for axis, (wanted, n) in enumerate(zip(at, self.at, strict=True)):
            if wanted is not None:
                index = np.arange(there.shape[axis]) + (n or 0)
                there &= (index == wanted).reshape([-1 if a == axis else 1 for a in range(there.ndim)])
        return there

    def _of_drawn(self, drawn: np.ndarray) -> np.ndarray:
        """What lies on the labels' grid, on that of what is predicted; what lies beyond is drawn already."""
        found = np.ones(self.labels.shape, drawn.dtype)
        indices = tuple(
            np.arange(size) + (n or 0) - moved
            for size, n, moved in zip(self.labels.shape, self.at, self._offset, strict=True)
        )
        inside = [np.flatnonzero((at >= 0) & (at < n)) for at, n in zip(indices, drawn.shape, strict=True)]
        found[np.ix_(*inside)] = drawn[np.ix_(*(at[i] for at, i in zip(indices, inside, strict=True)))]
        return found

    def _indices(self, mask: np.ndarray) -> tuple[np.ndarray, ...]:
        """Index arrays into the labels layer, of what lies on its grid."""
        places = zip(np.nonzero(mask), self.at, self._offset, strict=True)
        indices = np.stack([at + (n or 0) - moved for at, n, moved in places])
        limits = np.reshape(self.drawn.data.shape, (-1, 1))
        return tuple(indices[:, ((indices >= 0) & (indices < limits)).all(axis=0)])

    def _hidden(self) -> np.ndarray:
        """Where the user rejected what was predicted."""
        rejected = rejected_in(self.drawn)
        if rejected is None:
            return np.zeros(self.labels.shape, bool)
        return self._of_drawn(rejected) & (self.labels > 0)

    def _drawn_anew(self, event: object = None) -> None:
        rejected = self._hidden()
        if not np.array_equal(rejected, self._rejected):
            self._show(rejected)


def prediction_in(viewer: napari.Viewer) -> Prediction | None:
    """The topmost prediction that is visible, shows anything yet, and whose labels are open."""
    for layer in reversed(viewer.layers):
        found = layer.metadata.get(PREDICTION)
        if layer.visible and found is not None and not found.is_empty and found.drawn in viewer.layers:
            return found
    return None


def vivid(layer: LabelsLayer, values: Sequence[int]) -> DirectLabelColormap:
    """The layer's colours of some values, bright: beside what is painted, and on dark images."""
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    for value in values:
        hue, saturation, _ = rgb_to_hsv(*layer.colormap.map(value)[:3].tolist())
        colours[value] = (*hsv_to_rgb(hue, min(saturation, 0.85), 1.0), 1.0)
    return DirectLabelColormap(color_dict=colours)


def _parts(over: ImageLayer | LabelsLayer) -> tuple[int, ...]:
    """Into how many outline pixels an element is parted along each axis: only in the plane of its slices."""
    shape = spatial_shape(over)
    across = slice_axis(geometry_of(over)) if len(shape) == 3 else None
    plane = [axis for axis in range(len(shape)) if axis != across][-2:]
    parts = min(max(round(FINE / min(shape[axis] for axis in plane)), 1), _FINEST)
    return tuple(parts if axis in plane else 1 for axis in range(len(shape)))


def _parted(geometry: Geometry, parts: Sequence[int]) -> Geometry:
    """The grid whose elements are parted so, in the same place."""
    spacing = np.array(geometry.spacing)
    finer = spacing / parts
    return Geometry(tuple(finer), tuple(geometry.origin + (finer - spacing) / 2), geometry.unit)
