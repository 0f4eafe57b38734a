"""Where layers lie: same shape is not same place. Scale, translation, rotation, shear and affine count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from napari.components import Dims
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer

from napari_prosma.errors import DataError
from napari_prosma.plugin.shared.layers import (
    CHANNELS_FIRST,
    GEOMETRY,
    LayerTuple,
    axes_of,
    geometry_of,
    image_of,
    place_like,
    spatial_shape,
    unit_and_factors,
)

_SAME_PLACE = 0.05
"""Of an element: far below what shows, far above rounding."""
_REMEDY = (
    "move it back, or, if they fit element by element, give it the image's place: right-click the image, "
    "Copy to Clipboard > All, then right-click the other layer and apply it"
)


def onto_image(stored: np.ndarray, labels: LabelsLayer, image: ImageLayer, channels: int = 0) -> np.ndarray:
    """What is drawn on a labels layer, on the grid of an image.

    Labels on a grid of the same elements that begins or ends elsewhere, as napari makes them over several
    images, are cut to the image; 0 stands where they do not reach. A model that expects ``channels`` may read
    the pages of the image as such (see :func:`axes_of`).

    Raises ``DataError``: they lie otherwise: moved by parts of an element, scaled, mirrored, turned or
    sheared, or the image has channels that nothing tells of.
    """
    shape = spatial_shape(image)[-axes_of(image, channels) :]
    if stored.ndim != len(shape):
        raise DataError(_other_axes(stored.shape, labels, image))
    moved = steps_between(labels, image, channels)
    if moved is None:
        raise DataError(_elsewhere(labels, image, channels))
    if not any(moved) and stored.shape == shape:
        return stored
    if stored.shape == shape:
        raise DataError(
            f"labels layer '{labels.name}' lies {_by(moved)} from image layer '{image.name}', though both "
            f"have the shape {shape}; {_REMEDY}"
        )
    inside = [(max(0, m), min(n, m + k)) for m, n, k in zip(moved, shape, stored.shape, strict=True)]
    if any(low >= high for low, high in inside):
        raise DataError(
            f"labels layer '{labels.name}' lies {_by(moved)} from image layer '{image.name}', beside it; "
            "select the image alone before you add a labels layer"
        )
    cut = np.zeros(shape, stored.dtype)
    there = tuple(slice(low, high) for low, high in inside)
    cut[there] = stored[tuple(slice(low - m, high - m) for m, (low, high) in zip(moved, inside, strict=True))]
    if np.count_nonzero(cut) < np.count_nonzero(stored):
        raise DataError(
            f"labels layer '{labels.name}' covers more than image layer '{image.name}' ({stored.shape} and "
            f"{shape}), and some labels lie outside the image; erase these, or select the image alone and "
            "add a new labels layer"
        )
    return cut


def require_same_place(first: LabelsLayer | ImageLayer, second: LabelsLayer | ImageLayer) -> None:
    """Refuse layers of one shape that lie in two places (raises ``DataError``)."""
    moved = steps_between(first, second)
    if moved is None or any(moved):
        raise DataError(_elsewhere(first, second))


def joined_channels(layers: Sequence[ImageLayer]) -> LayerTuple:
    """Image layers of one grid as the channels of one image, in their order; the pixels are copied.

    Raises ``DataError``: fewer than two layers, or one lies elsewhere than the first.
    """
    if len(layers) < 2:
        raise DataError(
            "select the image layers that are channels of one image in the layer list (Shift or Ctrl and a "
            "click for several), then join them"
        )
    first = layers[0]
    for other in layers[1:]:
        if spatial_shape(other) != spatial_shape(first):
            raise DataError(
                f"image layer '{other.name}' has shape {spatial_shape(other)} but image layer '{first.name}' "
                f"has {spatial_shape(first)}; channels of one image need one grid: resample one of them"
            )
        require_same_place(other, first)
    geometry = geometry_of(first)
    place = place_like(first, geometry, geometry)
    attributes = {
        "name": " + ".join(layer.name for layer in layers),
        "metadata": {GEOMETRY: geometry, CHANNELS_FIRST: True},
        "units": ("pixel", *place["units"]),
        "scale": (1.0, *place["scale"]),
        "translate": (0.0, *place["translate"]),
        "rotate": _with_channel_axis(place["rotate"]),
        "shear": _with_channel_axis(place["shear"]),
        "affine": _with_channel_axis(place["affine"].affine_matrix),
    }
    return np.concatenate([image_of(layer).array for layer in layers]), attributes, "image"


def _with_channel_axis(matrix: np.ndarray) -> np.ndarray:
    wider = np.eye(len(matrix) + 1)
    wider[1:, 1:] = matrix
    return wider


def steps_between(
    first: LabelsLayer | ImageLayer, second: LabelsLayer | ImageLayer, channels: int = 0
) -> tuple[int, ...] | None:
    """How many elements of ``second`` lie before the first one of ``first``; None if no whole number.

    ``channels`` are those that a model expects of an image ``second``.
    """
    if axes_of(first) != axes_of(second, channels):
        return None
    between = _between(first, second)
    shift = np.round(between[:-1, -1])
    expected = np.eye(len(between))
    expected[:-1, -1] = shift
    shape = spatial_shape(first)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(len(shape), -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    apart = np.abs((between - expected) @ corners)[:-1]
    return tuple(int(n) for n in shift) if apart.max() <= _SAME_PLACE else None


def plane_on_screen(
    dims: Dims, layer: ImageLayer | LabelsLayer, shape: tuple[int, ...]
) -> tuple[int | None, ...] | None:
    """The slice of a layer that the viewer shows: an index per axis of ``shape``, None along those on screen.

    ``shape`` are the layer's last axes; a first one may hold channels. None where no single plane of it is
    shown: in 3D, beyond its ends, or where one of the axes on screen is none of these.
    """
    shown = {axis - dims.ndim for axis in dims.displayed}
    if dims.ndisplay != 2 or min(shown) < -len(shape):
        return None
    point = np.round(layer.world_to_data(dims.point[-layer.ndim :])).astype(int)
    at = tuple(None if axis in shown else int(point[axis]) for axis in range(-len(shape), 0))
    inside = all(index is None or 0 <= index < n for index, n in zip(at, shape, strict=True))
    return at if inside else None


def _to_world(layer: LabelsLayer | ImageLayer, ndim: int) -> np.ndarray:
    """Index to world along the last ``ndim`` axes, in the layer's own units: (n + 1, n + 1)."""
    skipped = layer.ndim - ndim
    begin = np.array(layer.data_to_world((0.0,) * layer.ndim))[skipped:]
    matrix = np.eye(ndim + 1)
    matrix[:-1, -1] = begin
    for axis in range(ndim):
        at = [0.0] * layer.ndim
        at[skipped + axis] = 1.0
        matrix[:-1, axis] = np.array(layer.data_to_world(at))[skipped:] - begin
    return matrix


def _between(first: LabelsLayer | ImageLayer, second: LabelsLayer | ImageLayer) -> np.ndarray:
    """Index of ``first`` to index of ``second``, along the last axes, which both have.

    Where both know lengths, their units count too.
    """
    ndim = min(axes_of(first), axes_of(second))
    (one, ours), (other, theirs) = (unit_and_factors(layer.units[-ndim:]) for layer in (first, second))
    in_unit = np.ones(ndim)
    if "pixel" not in (one, other):
        in_unit = ours / theirs * {("mm", "um"): 1000.0, ("um", "mm"): 0.001}.get((one, other), 1.0)
    return np.linalg.solve(_to_world(second, ndim), np.diag([*in_unit, 1.0]) @ _to_world(first, ndim))


def _elsewhere(first: LabelsLayer | ImageLayer, second: LabelsLayer | ImageLayer, channels: int = 0) -> str:
    axes = [axes_of(first), axes_of(second, channels)]
    if axes[0] != axes[1]:
        return (
            f"{_kind(first)} layer '{first.name}' has {axes[0]} axes but {_kind(second)} layer "
            f"'{second.name}' has {axes[1]}; choose layers of one image"
        )
    between = _between(first, second)
    linear = between[:-1, :-1]
    sizes = np.linalg.norm(linear, axis=0)
    said = []
    if np.abs(sizes - 1).max() > 1e-3:
        said.append(f"scaled by {' x '.join(f'{s:.3g}' for s in sizes)}")
    directions = linear / sizes
    if np.abs(np.abs(directions) - np.eye(len(directions))).max() > 1e-3:
        said.append("turned or sheared")
    elif (np.diag(directions) < 0).any():
        said.append("mirrored")
    if not said:
        said.append(_by(between[:-1, -1]))
    return (
        f"{_kind(first)} layer '{first.name}' lies elsewhere than {_kind(second)} layer '{second.name}': "
        f"{' and '.join(said)}; {_REMEDY}"
    )


def _kind(layer: LabelsLayer | ImageLayer) -> str:
    return "image" if isinstance(layer, ImageLayer) else "labels"


def _by(moved: np.ndarray | tuple[int, ...]) -> str:
    return f"{', '.join(f'{m:g}' for m in np.round(moved, 2))} elements away"


def _other_axes(shape: tuple[int, ...], labels: LabelsLayer, image: ImageLayer) -> str:
    there = spatial_shape(image)
    if len(there) == len(shape) + 1 and there[1:] == shape:
        return (
            f"labels layer '{labels.name}' has shape {shape} but image layer '{image.name}' has {there}; if "
            f"its first axis holds {there[0]} channels, say so with 'first axis is channels', else draw the "
            "labels slice by slice on a layer of the same axes"
        )
    return (
        f"labels layer '{labels.name}' has shape {shape} but image layer '{image.name}' has {there}; select "
        "the image alone before you add a labels layer, so that it covers the image"
    )
