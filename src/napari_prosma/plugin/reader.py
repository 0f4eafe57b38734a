"""Image files as layers, at their true scale and with what is needed to write a result over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_prosma.plugin.layers import LayerTuple, image_layer

PathOrPaths = str | list[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """Reader for one file or several of the formats that we read; None for anything else."""
    from napari_prosma.data.readers import can_read

    paths = [path] if isinstance(path, str) else path
    return read_layers if all(can_read(p) for p in paths) else None


def read_layers(path: PathOrPaths) -> list[LayerTuple]:
    """One layer per file."""
    from napari_prosma.data.readers import read_image, stem

    paths: list[Any] = [path] if isinstance(path, str) else path
    return [image_layer(read_image(p), stem(p)) for p in paths]
