"""Image files as layers, at their true scale and with what is needed to write a result over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import show_info

from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.layers import LayerTuple, image_layer, pyramid_layer, widen_ranges
from napari_prosma.plugin.shared.panel import open_panel

PathOrPaths = str | list[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """Reader for a model, for one path or several of the formats that we read; None for anything else."""
    from napari_prosma.data.readers import can_read
    from napari_prosma.model.header import is_model

    paths = [path] if isinstance(path, str) else path
    if len(paths) == 1 and is_model(Path(paths[0])):
        return open_model
    return read_layers if all(can_read(p) for p in paths) else None


def open_model(path: PathOrPaths) -> list[LayerTuple]:
    """A model that was dropped on napari is chosen in the panel *Segment*; it is no layer."""
    viewer = napari.current_viewer()
    if viewer is None:
        raise DataError(f"'{path}' is a model and no image; open napari, then the panel Segment with it")
    panel: Any = open_panel(viewer, "Segment")
    panel.model.set_path(Path(path if isinstance(path, str) else path[0]))
    return [(None,)]  # type: ignore[list-item]  # npe2's word for "opened, but no layer"


def read_layers(path: PathOrPaths) -> list[LayerTuple]:
    """One layer per image: one per file or OME-Zarr, one per series of a DICOM folder."""
    paths = [path] if isinstance(path, str) else path
    widen_ranges()
    return [layer for one in paths for layer in _layers_of(one)]


def _layers_of(path: str) -> list[LayerTuple]:
    from napari_prosma.data.formats.ome_zarr import is_ome_zarr
    from napari_prosma.data.readers import read_images, read_pyramid, stem

    where = Path(path)
    if where.is_dir() and is_ome_zarr(where):
        pyramid = read_pyramid(where)
        _tell(where.name, pyramid.notices)
        return [pyramid_layer(pyramid, stem(where).removesuffix(".ome"))]
    images = read_images(where)
    for name, image in images:
        _tell(name, image.notices)
    return [image_layer(image, name) for name, image in images]


def _tell(name: str, notices: tuple[str, ...]) -> None:
    """What was decided while reading, such as a slice that is missing."""
    for notice in notices:
        show_info(f"{name}: {notice}")
