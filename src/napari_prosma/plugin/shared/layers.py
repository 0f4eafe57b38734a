"""Layers of the viewer <-> images, cases, segmentations and maps, with their place in space kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
import pint
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer
from napari.layers.utils.layer_utils import calc_data_range
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.events import Event
from napari.utils.notifications import show_info
from napari.utils.transforms import Affine
from vispy.visuals.line.dash_atlas import DashAtlas

from napari_prosma.app.models import ImageKind
from napari_prosma.data.case import Image, Pyramid
from napari_prosma.data.class_colours import CLASS_COLOURS
from napari_prosma.data.class_names import plain
from napari_prosma.data.formats.dicom_labels import LabelObject, OverlapError, Structure, read_label
from napari_prosma.data.formats.pictures import Shown
from napari_prosma.data.label_doubts import rule_of_arrays
from napari_prosma.data.labels import LabelRule, Sparse, fullest_slice, present_values
from napari_prosma.data.marks import keep_marks, read_marks
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.preparation import filled
from napari_prosma.data.readers import as_channels, may_hold_channels, of_pages, stem
from napari_prosma.data.writers import DICOM_SUFFIXES, write_dicom, write_labels
from napari_prosma.errors import DataError, as_sentence
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.guesses import MARKS, marks_of
from napari_prosma.plugin.shared.sparse import sparse_rule

if TYPE_CHECKING:
    from napari.components.overlays.base import Overlay

    from napari_prosma.data.formats.dicom import Series
    from napari_prosma.data.layouts.dicom_studies import Labelled
    from napari_prosma.inspection.maps import MapLayer
    from napari_prosma.model.applying import Segmentation

LayerTuple = tuple[Any, dict[str, Any], str]

GEOMETRY, CLASS_NAMES, CHANNELS_FIRST = "geometry", "class_names", "channels_first"
"""Keys of a layer's metadata: the ``Geometry`` of its file, its classes, and that axis 0 is channels."""
SERIES = "series"
"""Key of the DICOM series that an image was read from, also of the labels that were made of it."""
DRAWN_NAMES = "drawn_names"
"""Key of the names that a user gave to what is drawn: value -> name."""
PLACE = "place"
"""Key of what the geometry says in words and plain numbers: axes, spacing, anatomical directions."""
IS_PREVIEW = "preview"
"""Key of the layers that follow a training run; they are no input for anything."""
MEANING = "meaning"
"""Key of the maps that were made of an image: what one shows, in a sentence. They are no images to choose."""

SOFT_TISSUE = (-160.0, 240.0)
"""Contrast limits of a CT, in Hounsfield units: the usual window of the abdomen, width 400 at level 40."""
_AIR = -900
"""A volume of whole numbers that reach so low is in Hounsfield units."""


def add_layer(viewer: napari.Viewer, layer: LayerTuple) -> Layer:
    """Open a layer in the viewer."""
    added = new_layer(layer)
    viewer.add_layer(added)
    return added  # plugins would get a proxy of it


def new_layer(layer: LayerTuple) -> Layer:
    """A layer that is in no viewer yet."""
    made = Layer.create(*layer)
    widen_range(made)
    return made


def widen_ranges() -> None:
    """:func:`widen_range` for layers that the viewer itself makes of what a reader or a sample gives it."""
    viewer = napari.current_viewer()
    if viewer is not None:
        viewer.layers.events.inserted.connect(_inserted)  # only once, however often it is called


def _inserted(event: Event) -> None:
    widen_range(event.value)


def widen_range(layer: Layer) -> None:
    """Let the contrast of a CT be set beyond its window, to which napari confines a layer made with one."""
    if isinstance(layer, ImageLayer) and tuple(layer.contrast_limits_range) == SOFT_TISSUE:
        low, high = calc_data_range(layer.data[-1] if layer.multiscale else layer.data)
        layer.contrast_limits_range = min(low, SOFT_TISSUE[0]), max(high, SOFT_TISSUE[1])


def remove_layers(viewer: napari.Viewer, *layers: Layer | None) -> None:
    """Take those that are still there out of the viewer.

    Together: after each that goes by itself, napari searches all of Python for garbage (0.2 s and more).
    """
    if not any(layer is not None and layer in viewer.layers for layer in layers):
        return
    with viewer.layers.batched_update():
        for layer in layers:
            if layer is not None and layer in viewer.layers:
                viewer.layers.remove(layer)


@contextmanager
def keeping_selection(viewer: napari.Viewer) -> Iterator[None]:
    """What is selected stays so while layers are added: a brush in the hand stays in the hand.

    To select them and then what was selected before would be a third of the work, so napari is told not to;
    one that selects them all the same is put right afterwards.
    """
    layers = getattr(viewer.layers, "__wrapped__", viewer.layers)  # plugins see proxies
    active, selected = layers.selection.active, set(layers.selection)
    activates = getattr(layers, "_activate_on_insert", True)
    layers._activate_on_insert = False
    try:
        yield
    finally:
        layers._activate_on_insert = activates
    if layers.selection.active is not active:
        layers.selection = {layer for layer in selected if layer in layers}
        if active in layers:
            layers.selection.active = active


def put_away_tools(layer: Layer) -> list[Overlay]:
    """Hide, before a layer is added, what it is drawn on with: half of what napari does for labels."""
    tools = [overlay for overlay in layer._overlays.values() if overlay.visible]
    for tool in tools:
        tool.visible = False
    return tools


def is_input(layer: Layer) -> bool:
    """Whether something can be made of a layer: it is no preview and no map of ours."""
    return not layer.metadata.get(IS_PREVIEW) and MEANING not in layer.metadata


def hide_previews(viewer: napari.Viewer) -> None:
    """Make way for a result: what followed a training run is hidden, not removed."""
    for layer in viewer.layers:
        if layer.metadata.get(IS_PREVIEW):
            layer.visible = False


def go_to(viewer: napari.Viewer, layer: Layer, index: Sequence[int]) -> None:
    """Show the slice of an element of a layer, with the element in the middle."""
    point = layer.data_to_world(index)
    first = viewer.dims.ndim - layer.ndim
    viewer.dims.set_point(range(first, viewer.dims.ndim), point)
    shown = [point[axis - first] for axis in viewer.dims.displayed if axis >= first]
    camera_of(viewer).center = (0.0,) * (3 - len(shown)) + tuple(shown)


def show_some(viewer: napari.Viewer, labels: LabelsLayer) -> None:
    """Go to the fullest slice of a labels layer, if the slice on screen is empty and another is not."""
    data = labels.data
    across = slice_axis(geometry_of(labels))
    if labels.ndim < 3 or viewer.dims.ndisplay != 2 or not np.any(data):
        return
    first = viewer.dims.ndim - labels.ndim
    here = tuple(
        slice(None) if axis in viewer.dims.displayed else int(n)
        for axis, n in enumerate(np.round(labels.world_to_data(viewer.dims.point[first:])), first)
    )
    if np.any(data[here]):
        return
    fullest = fullest_slice(data, across)
    middle = [n // 2 if isinstance(at, slice) else at for n, at in zip(data.shape, fullest, strict=True)]
    for axis, world in enumerate(labels.data_to_world(middle), first):
        if axis not in viewer.dims.displayed:
            viewer.dims.set_point(axis, world)


def folder_of(layer: Layer) -> Path:
    """Where the file of a layer lies, else the user's home."""
    path = layer.source.path
    return Path(path).parent if path is not None and Path(path).parent.is_dir() else Path.home()


def camera_of(viewer: napari.Viewer) -> Any:
    """napari's camera, which its version 0.9 moved."""
    return getattr(viewer, "scene", viewer).camera


def know_units() -> None:
    """Fill pint's registry of units (0.1 s), which two threads may not do at once.

    For the main thread, before any other thread makes layers.
    """
    pint.get_application_registry().Unit("pixel")


def load_layers() -> None:
    """Load what napari loads with its first layers (units, colours, scipy, dashes), which takes a second.

    For a thread: layers that are in no viewer touch no window.
    """
    plane = np.zeros((2, 2), np.uint8)
    ImageLayer(plane + 0.0, contrast_limits=(0, 1))
    LabelsLayer(plane, colormap=class_colours())
    DashAtlas()  # kept by vispy, of which the first labels layer has lines


def image_layer(image: Image, name: str) -> LayerTuple:
    """Layer of an image: colours as RGB, further channels as a first axis with a slider."""
    pyramid = Pyramid((image.array,), ((1.0,) * image.geometry.ndim,), image.geometry)
    data, attributes, kind = pyramid_layer(pyramid, name)
    if image.series is not None:
        attributes["metadata"][SERIES] = image.series
    return data, attributes, kind


def pyramid_layer(pyramid: Pyramid, name: str) -> LayerTuple:
    """The same of an image that is read where it is looked at; several levels as one multiscale layer."""
    finest, geometry = pyramid.levels[0], pyramid.geometry
    metadata: dict[str, Any] = {GEOMETRY: geometry, PLACE: geometry.described()}
    attributes: dict[str, Any] = {"name": name, **placement(geometry), "metadata": metadata}
    levels = list(pyramid.levels)
    if len(finest) == 1:
        levels = [level[0] for level in levels]
        if _is_in_hounsfield_units(levels[-1]):
            attributes["contrast_limits"] = SOFT_TISSUE
    elif len(finest) == 3 and finest.dtype == np.uint8:
        axes = (*range(1, finest.ndim), 0)
        levels, attributes["rgb"] = [level.transpose(axes) for level in levels], True
    else:
        metadata[CHANNELS_FIRST] = True
        attributes["scale"] = (1.0, *attributes["scale"])
        attributes["translate"] = (0.0, *attributes["translate"])
        attributes["units"] = ("pixel", *attributes["units"])
    if len(levels) == 1:
        return levels[0], attributes, "image"
    return levels, {**attributes, "multiscale": True}, "image"


def _is_in_hounsfield_units(volume: Any) -> bool:
    """Whether it looks like a CT, by its middle slice: of a volume in a file no more is read."""
    if volume.ndim != 3 or not volume.size or volume.dtype.kind not in "if":
        return False
    middle = np.asarray(volume[len(volume) // 2])
    return bool(middle.min() <= _AIR and np.all(middle % 1 == 0))


def labels_layer(
    labels: np.ndarray,
    geometry: Geometry,
    name: str,
    class_names: Sequence[str],
    colours: Mapping[int, tuple[int, int, int] | None] | None = None,
) -> LayerTuple:
    """Layer of class indices (*spatial); the class under the cursor is named in the status bar.

    ``colours`` are those of the file, 0 to 255, where it tells them for all classes.
    """
    attributes: dict[str, Any] = {"name": name, **placement(geometry), "metadata": {GEOMETRY: geometry}}
    if class_names:
        attributes["metadata"][CLASS_NAMES] = tuple(class_names)
        if colours and all(colours.values()):
            every: dict[int | None, Any] = {0: "transparent", None: "transparent"}
            every |= {k: np.append(c, 255) / 255 for k, c in colours.items() if c is not None}
            attributes["colormap"] = DirectLabelColormap(color_dict=every)
        elif len(class_names) <= len(CLASS_COLOURS) + 1:
            attributes["colormap"] = class_colours()
        attributes["features"] = {"index": list(range(len(class_names))), "class": list(class_names)}
    return labels, attributes, "labels"


def with_marks(layer: LayerTuple, path: Path) -> LayerTuple:
    """The layer of labels that were read from ``path``, with what was accepted or filled of them."""
    data, attributes, kind = layer
    try:
        marks = read_marks(path, data)
    except DataError as error:
        show_info(as_sentence(str(error)))
        marks = {}
    if marks:
        attributes["metadata"] = {**attributes.get("metadata", {}), MARKS: marks}
    return data, attributes, kind


def labels_layers(labelled: Labelled) -> list[LayerTuple]:
    """Layers of the objects that label a series: one each, but one per structure where these overlap."""
    layers = []
    for one in labelled.objects:
        names = {plain(structure.name): structure for structure in one.structures}
        try:
            parts = [(stem(one.path), names, read_objects(one, labelled.series, names))]
        except OverlapError:
            parts = [
                (structure.name, {name: structure}, read_objects(one, labelled.series, {name: structure}))
                for name, structure in names.items()
            ]
        for title, shown, (label, notices) in parts:
            classes = ("background", *(structure.name for structure in shown.values()))
            colours = {n: structure.colour for n, structure in enumerate(shown.values(), 1)}
            data, attributes, kind = labels_layer(label, labelled.series.geometry, title, classes, colours)
            attributes["metadata"][SERIES] = labelled.series
            layers.append((data, attributes, kind))
            for notice in notices:
                show_info(as_sentence(notice))
    return layers


def read_objects(
    one: LabelObject, series: Series, names: Mapping[str, Structure]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Structures of an object as a label, numbered in their order."""
    return read_label([one], series, {name: number for number, name in enumerate(names, 1)})


def new_labels(image: ImageLayer) -> LayerTuple:
    """An empty labels layer over an image, to be drawn on."""
    geometry = geometry_of(image)
    attributes = {
        "name": f"{image.name} labels",
        "colormap": class_colours(),
        "metadata": {GEOMETRY: geometry},
        **place_like(image, geometry, geometry),
    }
    return np.zeros(spatial_shape(image), np.uint8), attributes, "labels"


def class_colours(every: str | None = None) -> DirectLabelColormap:
    """Colours that stand out on gray images: one per class, or ``every`` for all of them."""
    colours: dict[int | None, str] = {0: "transparent", None: every or CLASS_COLOURS[0]}
    for k, colour in enumerate(CLASS_COLOURS, start=1):
        colours[k] = every or colour
    return DirectLabelColormap(color_dict=colours)


def placement(geometry: Geometry) -> dict[str, Any]:
    """``scale``, ``translate`` and ``units`` of a layer on this grid."""
    return {
        "scale": geometry.spacing,
        "translate": geometry.origin,
        "units": tuple("pixel" if axis == "t" else geometry.unit for axis in geometry.axes),
    }


def geometry_of(layer: Layer) -> Geometry:
    """Where a layer lies; with its file's own frame while scale and translation are still the file's."""
    kept = layer.metadata.get(GEOMETRY)
    skipped = 1 if layer.metadata.get(CHANNELS_FIRST) else 0
    scale, translate = layer.scale[skipped:], layer.translate[skipped:]
    unit, factors = unit_and_factors(layer.units[skipped:])
    if (
        isinstance(kept, Geometry)
        and kept.unit == unit
        and np.array_equal(kept.spacing, scale)
        and np.array_equal(kept.origin, translate)
    ):
        return kept
    followed = isinstance(kept, Geometry) and kept.ndim == len(scale)
    return Geometry(
        tuple(float(abs(s) * f) for s, f in zip(scale, factors, strict=True)),
        tuple(float(t * f) for t, f in zip(translate, factors, strict=True)),
        unit,
        kept.axes if followed else (),
        frame_seconds=kept.frame_seconds if followed else 0.0,
    )


def finest(layer: ImageLayer | LabelsLayer) -> Any:
    """The array of a layer, of several levels the finest; nothing is read of one in a file."""
    return layer.data[0] if layer.multiscale else layer.data


def image_of(layer: ImageLayer) -> Image:
    """Image (C, *spatial) of a layer; RGB gives three channels, a multiscale layer its finest level."""
    array = np.asarray(finest(layer))
    if layer.rgb:
        array = np.moveaxis(array[..., :3], -1, 0)
    elif not layer.metadata.get(CHANNELS_FIRST):
        array = array[None]
    return Image(array, geometry_of(layer))


def image_kind(layer: ImageLayer) -> ImageKind:
    """What decides which models fit a layer; of an array that lies elsewhere no value is read."""
    held = finest(layer)
    if isinstance(held, np.ndarray):
        return ImageKind.of(replace(image_of(layer), series=layer.metadata.get(SERIES)))
    channels = held.shape[0] if layer.metadata.get(CHANNELS_FIRST) else 1
    return ImageKind(len(spatial_shape(layer)), 3 if layer.rgb else channels)


def fitting_image(image: Image, channels: int, name: str) -> Image:
    """The image with as many channels as a model expects: colour becomes gray, gray is repeated; NaN filled.

    Raises ``DataError``: when neither is possible, or the channels are the last axis, where labels of the
    others cannot lie over a layer.
    """
    try:
        fitting = filled(as_channels(image, channels))
    except DataError as error:
        raise DataError(f"'{name}': {error}") from error
    if fitting.array.shape[1:] != image.array.shape[-fitting.geometry.ndim :]:
        raise DataError(
            f"'{name}' has its {channels} channels as the last axis, so no result can lie over it here; save "
            "the image with the channels as the first axis and open it again, or give its file to prosma "
            "segment"
        )
    return fitting


def spatial_shape(layer: ImageLayer | LabelsLayer) -> tuple[int, ...]:
    """Shape without channels, of the finest level of a multiscale layer; nothing is read."""
    shape = tuple(finest(layer).shape)
    if isinstance(layer, ImageLayer) and layer.rgb:
        return shape[:-1]
    return shape[1:] if layer.metadata.get(CHANNELS_FIRST) else shape


def axes_of(layer: ImageLayer | LabelsLayer, channels: int = 0) -> int:
    """How many axes of a layer are no channels, as a model that expects so many ``channels`` reads it.

    It takes pages for channels where :func:`as_channels` does; by default only what the layer tells counts.
    """
    shape = spatial_shape(layer)
    is_told = layer.metadata.get(CHANNELS_FIRST) or getattr(layer, "rgb", False)
    if is_told or channels < 2 or shape[0] != channels:
        return len(shape)
    return len(shape) - may_hold_channels(1, geometry_of(layer), channels)


def label_rule(drawn: np.ndarray, layer: LabelsLayer, labelled: Sparse | None = None) -> LabelRule:
    """Which value of a labels layer's array is which class, named by its metadata where they fit.

    Scribbles have their own numbers (the smallest is the background), to which no names are known.

    Raises ``DataError``: when the labels are not what ``labelled`` says.
    """
    names = tuple(layer.metadata.get(CLASS_NAMES, ()))
    given: dict[int, str] = layer.metadata.get(DRAWN_NAMES, {})
    if names and labelled != "scribbles" and drawn.min() >= 0 and drawn.max() < len(names):
        rule = LabelRule.of_names(dict(enumerate(names)))
    elif given and labelled != "scribbles" and drawn.min() >= 0:
        values = [value for value in present_values(drawn).tolist() if value]
        named = {value: given.get(value, f"class {value}") for value in values}
        rule = LabelRule.of_names({0: "background", **named}) if named else rule_of_arrays([drawn])[0]
    else:
        rule, _ = rule_of_arrays([drawn])
    return sparse_rule(rule, labelled, drawn.ndim, f"the labels '{layer.name}'")


def class_indices(
    drawn: np.ndarray, layer: LabelsLayer, labelled: Sparse | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices of a labels layer's array, and their names; see :func:`label_rule`."""
    rule = label_rule(drawn, layer, labelled)
    return rule.apply(drawn, layer.name, slice_axis(geometry_of(layer))), rule.class_names


def result_layer(segmentation: Segmentation, source: Layer) -> LayerTuple:
    """The labels over the layer they were made from."""
    place = place_like(source, segmentation.geometry, segmentation.geometry)
    labels, attributes, kind = labels_layer(
        segmentation.labels,
        segmentation.geometry,
        f"{segmentation.name} segmentation",
        segmentation.class_names,
    )
    if SERIES in source.metadata:
        attributes["metadata"][SERIES] = source.metadata[SERIES]
    return labels, {**attributes, **place, "opacity": 0.5}, kind


def names_of(layer: LabelsLayer, highest: int = 0) -> tuple[str, ...]:
    """Names of the classes by value, background first, of the file or given by hand; empty = none is known.

    They reach to ``highest`` at least.
    """
    names = tuple(layer.metadata.get(CLASS_NAMES, ()))
    given: dict[int, str] = {**dict(enumerate(names)), **layer.metadata.get(DRAWN_NAMES, {})}
    if not given:
        return ()
    background = given.get(0, "background")
    return background, *(given.get(k, f"label {k}") for k in range(1, max(highest, *given) + 1))


def write_layer(
    path: str | Path,
    layer: LabelsLayer,
    labels: np.ndarray,
    by_hand: bool = False,
    shown: Shown = "numbers",
    meanings: Mapping[str, str] | None = None,
) -> Path:
    """Write the labels of a layer exactly over its image; a name in ``.dcm`` makes an object of its series.

    A PNG is ``shown`` so in other programs; the classes of a DICOM SEG have ``meanings``. What was
    accepted or filled is kept beside the file.

    Raises
    ------
    As :func:`write_labels` and :func:`write_dicom`.
    """
    names = names_of(layer)
    if str(path).lower().endswith(DICOM_SUFFIXES):
        return write_dicom(path, labels, layer.metadata.get(SERIES), names, meanings, by_hand)
    written = write_labels(path, labels, geometry_of(layer), names, shown)
    keep_marks(written, labels, marks_of(layer, labels))
    return written


def map_layer(drawn: MapLayer, source: Layer) -> LayerTuple:
    """Layer of a gate's map at its true scale and offset over the image layer; never resampled."""
    whole = geometry_of(source)
    if whole.ndim > drawn.geometry.ndim:
        whole = of_pages(whole)
    attributes: dict[str, Any] = {
        "name": drawn.name,
        **place_like(source, drawn.geometry, whole),
        "metadata": {GEOMETRY: drawn.geometry, MEANING: drawn.meaning},
        "opacity": 0.6,
    }
    if drawn.kind == "labels":
        return drawn.data, attributes, "labels"
    attributes["colormap"] = drawn.colours
    attributes["contrast_limits"] = drawn.limits
    attributes["interpolation2d"] = "nearest"
    return drawn.data, attributes, "image"


def place_like(source: Layer, geometry: Geometry, of_source: Geometry) -> dict[str, Any]:
    """Placement of a grid given in the frame of ``source``, whose rotation, shear and affine apply too.

    It has the last axes of ``source``; those before were read as channels, told by the layer or not.
    """
    skipped = source.ndim - geometry.ndim
    space = (slice(skipped, None),) * 2
    rotate, shear = source.rotate[space], Affine(shear=source.shear, ndim=source.ndim).linear_matrix[space]
    _, factors = unit_and_factors(source.units[skipped:])
    spacing, origin = np.array(geometry.spacing) / factors, np.array(geometry.origin) / factors
    moved = origin - np.array(of_source.origin) / factors
    turned = Affine(rotate=rotate, shear=shear, ndim=source.ndim - skipped)
    sign = np.sign(source.scale[skipped:])
    return {
        "units": source.units[skipped:],
        "scale": spacing * sign,
        "translate": source.translate[skipped:] + turned.linear_matrix @ (moved * sign),
        "rotate": rotate,
        "shear": shear,
        "affine": source.affine.set_slice(range(skipped, source.ndim)),
    }


def unit_and_factors(units: Sequence[pint.Unit]) -> tuple[str, np.ndarray]:
    """Our unit for a layer's units, and per axis what one of them is in it (1 where it is no length)."""
    registry = pint.get_application_registry()
    lengths = [unit.is_compatible_with("mm") for unit in units]
    if not lengths[-1] or not lengths[-2]:
        return "pixel", np.ones(len(units))
    ours = "um" if units[-1] == registry.Unit("um") else "mm"
    factors = [
        float((1 * unit).to(ours).magnitude) if is_length else 1.0
        for unit, is_length in zip(units, lengths, strict=True)
    ]
    return ours, np.array(factors)


def is_gray(array: np.ndarray) -> bool:
    """Whether the three channels of a colour image (3, *spatial) are the same."""
    return np.array_equal(array[0], array[1]) and np.array_equal(array[1], array[2])
