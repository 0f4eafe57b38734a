"""Image files as layers, at their true scale and with what is needed to write a result over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari.utils.notifications import show_info

from napari_prosma.plugin.shared.layers import LayerTuple, image_layer, pyramid_layer, widen_ranges

PathOrPaths = str | list[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """Reader for one path or several of the formats that we read; None for anything else."""
    from napari_prosma.data.readers import can_read

    paths = [path] if isinstance(path, str) else path
    return read_layers if all(can_read(p) for p in paths) else None


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
