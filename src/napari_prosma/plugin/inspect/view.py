"""Where the viewer looks, as a place in an image layer."""

from __future__ import annotations

import napari
import numpy as np
from napari.layers import Image as ImageLayer

from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.layers import camera_of, spatial_shape


def region_on_screen(viewer: napari.Viewer, layer: ImageLayer) -> tuple[slice, ...]:
    """The element (slices of length 1 per spatial axis) in the middle of what is on screen, in the image."""
    world = np.array(viewer.dims.point, float)
    shown = list(viewer.dims.displayed)
    world[shown] = np.array(camera_of(viewer).center)[-len(shown) :]
    shape = spatial_shape(layer)
    at = element_at(layer, world, len(shape))
    inside = np.clip(at, 0, np.array(shape) - 1)
    return tuple(slice(int(n), int(n) + 1) for n in inside)


def is_in_slice(
    viewer: napari.Viewer, layer: ImageLayer, image: Geometry, part: Geometry, size: tuple[int, ...]
) -> bool:
    """Whether the slices that are shown cut a part (its geometry and size) of the image in a layer."""
    at = element_at(layer, viewer.dims.point, image.ndim)
    first = viewer.dims.ndim - len(at)
    hidden = [axis for axis in range(len(at)) if axis + first not in viewer.dims.displayed]
    place = np.array(image.origin) + at * np.array(image.spacing)
    index = np.round((place - np.array(part.origin)) / np.array(part.spacing))
    return all(0 <= index[axis] < size[axis] for axis in hidden)


def element_at(layer: ImageLayer, world: np.ndarray | tuple[float, ...], axes: int) -> np.ndarray:
    """Index along the last ``axes`` of the element at a world position, which may lie outside."""
    at = np.asarray(layer.world_to_data(np.asarray(world)[-layer.ndim :]))
    return np.round(at[-axes:]).astype(int)
