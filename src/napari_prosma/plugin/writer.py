"""Layers -> files that lie exactly over the file their image came from."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer

from napari_prosma.data import nifti
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.plugin.layers import CLASS_NAMES, geometry_of, image_of

_KEPT = ("name", "scale", "translate", "units", "metadata")


def write_labels_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Labels layer as NIfTI, TIFF or PNG, in the frame of the image they belong to."""
    layer = LabelsLayer(np.asarray(data), **{key: meta[key] for key in _KEPT if key in meta})
    names = layer.metadata.get(CLASS_NAMES, ())
    return [str(write_labels(path, np.asarray(layer.data), geometry_of(layer), names))]


def write_image_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Image layer as NIfTI of its own type, or as TIFF of real numbers."""
    kept = {key: meta[key] for key in (*_KEPT, "rgb") if key in meta}
    image = image_of(ImageLayer(np.asarray(data), **kept))
    if path.lower().endswith(nifti.SUFFIXES):
        with written_whole(path) as temporary:
            nifti.write_image(temporary, image)
        return [path]
    return [str(write_map(path, image.array, image.geometry))]
