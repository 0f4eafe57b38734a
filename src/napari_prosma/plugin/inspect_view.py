"""Where the viewer looks, as a place in an image layer."""

from __future__ import annotations

import napari
import numpy as np
from napari.layers import Image as ImageLayer

from napari_prosma.plugin.layers import CHANNELS_FIRST, spatial_shape


def region_on_screen(viewer: napari.Viewer, layer: ImageLayer) -> tuple[slice, ...]:
    """The element (slices of length 1 per spatial axis) in the middle of what is on screen, in the image."""
    world = np.array(viewer.dims.point, float)
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    shown = list(viewer.dims.displayed)
    world[shown] = np.array(camera.center)[-len(shown) :]
    at = element_at(layer, world)
    shape = spatial_shape(layer)
    inside = np.clip(at, 0, np.array(shape) - 1)
    return tuple(slice(int(n), int(n) + 1) for n in inside)


def element_at(layer: ImageLayer, world: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Index per spatial axis of the element at a world position, which may lie outside."""
    at = np.asarray(layer.world_to_data(np.asarray(world)[-layer.ndim :]))
    return np.round(at[1:] if layer.metadata.get(CHANNELS_FIRST) else at).astype(int)
