"""Layers -> files that lie exactly over the file their image came from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.utils.notifications import show_info

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.formats import metaimage, nifti, nrrd, ome_zarr
from napari_prosma.data.formats.dicom_results import IDENTITY
from napari_prosma.data.writers import DICOM_SUFFIXES
from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.layers import CHANNELS_FIRST, image_of, write_layer
from napari_prosma.plugin.shared.unsaved import note_saved

_KEPT = ("name", "scale", "translate", "units", "metadata")
_IMAGE_FORMATS = (nrrd, metaimage, ome_zarr)


def write_labels_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Labels layer as the suffix says, in the frame of the image they belong to.

    A DICOM object carries the patient's identity, which is told.
    """
    if path.lower().endswith(DICOM_SUFFIXES):
        show_info(IDENTITY)
    layer = LabelsLayer(_finest(data, meta), **{key: meta[key] for key in _KEPT if key in meta})
    written = write_layer(path, layer, np.asarray(layer.data))
    note_saved(data)
    return [str(written)]


def write_image_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Image layer as NIfTI, NRRD, MetaImage or OME-Zarr, of its own type where the format has it.

    Raises ``DataError``: the layer has more axes than the format holds.
    """
    kept = {key: meta[key] for key in (*_KEPT, "rgb") if key in meta}
    layer = ImageLayer(_finest(data, meta), **kept)
    _require_few_axes(path, layer)
    image = image_of(layer)
    array = _of_common_type(image.array)
    name = path.lower()
    with written_whole(path) as temporary:
        if name.endswith(nifti.SUFFIXES):
            nifti.write_image(temporary, replace(image, array=array))
        else:
            module = next(module for module in _IMAGE_FORMATS if name.endswith(module.SUFFIXES))
            module.write(temporary, array[0] if len(array) == 1 else array, image.geometry)
    return [path]


def _require_few_axes(path: str, layer: ImageLayer) -> None:
    axes = layer.ndim - bool(layer.metadata.get(CHANNELS_FIRST))
    most = 3 if path.lower().endswith((*nrrd.SUFFIXES, *metaimage.SUFFIXES)) else 4
    if axes > most:
        instead = "save it as .ome.zarr, or split it" if axes == 4 else "split it, or save it as .tif"
        raise DataError(f"'{layer.name}' has {axes} axes, but '{path}' holds {most} at most; {instead}")


def _finest(data: Any, meta: dict[str, Any]) -> np.ndarray:
    return np.asarray(data[0] if meta.get("multiscale") else data)


def _of_common_type(array: np.ndarray) -> np.ndarray:
    """Truth values as bytes and half precision as single: no format for volumes has them."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    return array.astype(np.float32) if array.dtype == np.float16 else array
