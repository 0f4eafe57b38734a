"""Image files as layers, at their true scale and with what is needed to write a result over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import show_info

from napari_prosma.errors import DataError, as_sentence
from napari_prosma.plugin.shared.layers import (
    LayerTuple,
    image_layer,
    labels_layer,
    labels_layers,
    pyramid_layer,
    widen_ranges,
    with_marks,
)
from napari_prosma.plugin.shared.panel import open_panel

PathOrPaths = str | list[str]
NO_LAYER: Any = (None,)
"""npe2's word for "opened, but no layer"."""
_SEGMENTS = ".seg.nrrd"
"""How 3D Slicer calls its segmentations."""


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
        raise DataError(f"'{path}' is a model, not an image; open napari and choose it in the Segment panel")
    panel: Any = open_panel(viewer, "Segment")
    panel.model.set_path(Path(path if isinstance(path, str) else path[0]))
    return [NO_LAYER]


def read_layers(path: PathOrPaths) -> list[LayerTuple]:
    """One layer per image: one per file or OME-Zarr, one per series of a DICOM folder."""
    paths = [path] if isinstance(path, str) else path
    widen_ranges()
    return [layer for one in paths for layer in _layers_of(one)]


def _layers_of(path: str) -> list[LayerTuple]:
    from napari_prosma.data.formats import dicom
    from napari_prosma.data.formats.ome_zarr import is_ome_zarr
    from napari_prosma.data.marks import marks_path
    from napari_prosma.data.readers import read_image, read_pyramid, stem

    where = Path(path)
    if where.is_dir() and is_ome_zarr(where):
        pyramid = read_pyramid(where)
        _tell(where.name, pyramid.notices)
        return [pyramid_layer(pyramid, stem(where).removesuffix(".ome"))]
    if dicom.is_dicom(where) or (where.is_dir() and dicom.holds_series(where, nested=True)):
        return _layers_of_studies(where)
    if where.name.lower().endswith(_SEGMENTS):
        return [with_marks(_segments_layer(where), where)]
    image = read_image(where)
    _tell(stem(where), image.notices)
    layer = image_layer(image, stem(where))
    # Labels come as an image, which napari converts with its metadata.
    return [with_marks(layer, where) if marks_path(where).is_file() else layer]


def _segments_layer(where: Path) -> LayerTuple:
    """3D Slicer's segments as labels, with their names and colours."""
    from napari_prosma.data.formats import nrrd
    from napari_prosma.data.readers import label_names, read_label, stem

    label, geometry = read_label(where)
    told = label_names(where)
    names = (
        "background",
        *(told.get(value, f"label {value}") for value in range(1, max(told, default=0) + 1)),
    )
    return labels_layer(label, geometry, stem(where), names if told else (), nrrd.label_colours(where))


def _layers_of_studies(where: Path) -> list[LayerTuple]:
    """A layer per series that is chosen, and the labels that refer to it."""
    from napari_prosma.data.formats.dicom_labels import kind_of
    from napari_prosma.data.layouts.dicom_studies import beside, studies_in
    from napari_prosma.data.readers import read_series
    from napari_prosma.plugin.contributions.series_chooser import chosen_of

    studies = beside(where) if kind_of(where) else studies_in(where)
    for notice in studies.notices:
        show_info(as_sentence(notice))
    names = [one.series.description or where.name for one in studies.series]
    layers = []
    for number in chosen_of(studies):
        one, name = studies.series[number], names[number]
        image = read_series(one.series)
        _tell(name, image.notices)
        layers.append(image_layer(image, name if names.count(name) == 1 else f"{name} {number + 1}"))
        layers += labels_layers(one)
    return layers or [NO_LAYER]  # the table was cancelled


def _tell(name: str, notices: tuple[str, ...]) -> None:
    """What was decided while reading, such as a slice that is missing."""
    for notice in notices:
        show_info(f"{name}: {notice}")
