"""NIfTI files as layers, in millimetres and with what is needed to write a result exactly over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_prosma.plugin.layers import LayerTuple, image_layer

PathOrPaths = str | list[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerTuple]] | None:
    """Reader for one NIfTI file or several; None for anything else."""
    paths = [path] if isinstance(path, str) else path
    if all(str(p).lower().endswith((".nii", ".nii.gz")) for p in paths):
        return read_layers
    return None


def read_layers(path: PathOrPaths) -> list[LayerTuple]:
    """One layer per file."""
    from napari_prosma.data.readers import read_image, stem

    paths: list[Any] = [path] if isinstance(path, str) else path
    return [image_layer(read_image(p), stem(p)) for p in paths]
