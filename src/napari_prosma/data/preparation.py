"""What the plan does to an image before the network: resampling and intensity, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import SAME_SPACING, Plan
from napari_prosma.data.metrics import in_percent
from napari_prosma.data.planes import slice_axis, thin_axes
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

UNUSUAL_SIZE = 1.5
"""An image whose short side is so many times that of a usual training image is told."""
MUCH_LARGER = 4
"""So is a volume that is so many times larger than any that a 3D network was trained on."""


def prepare(image: Image, plan: Plan) -> Image:
    """Image as the network sees it: float32 (C, *grid) on the plan's grid, with the grid's geometry.

    Raises ``DataError``: another number of channels or axes than the plan's, an empty axis, or values that
    are not finite.
    """
    array = image.array
    if array.shape[0] != plan.channels:
        raise DataError(
            f"the model expects {plan.channels} channel(s) but the image has {array.shape[0]}; convert the "
            f"image or train a model for it"
        )
    if image.geometry.ndim < plan.dims:
        raise DataError(f"the model is {plan.dims}D but the image has {image.geometry.ndim} axes")
    if 0 in array.shape:
        raise DataError(f"the image is empty: its shape is {array.shape}")
    array = np.asarray(array, dtype=np.float32)
    if not np.all(np.isfinite(array)):
        raise DataError("the image holds NaN or infinite values; re-export it")
    size = grid_size(image.array.shape[1:], image.geometry, plan)
    if size != array.shape[1:]:
        array = np.stack([resample(channel, size) for channel in array])
    geometry = image.geometry
    if size != image.array.shape[1:]:
        factors = tuple(n / m for n, m in zip(image.array.shape[1:], size, strict=True))
        geometry = geometry.coarsened(factors, image.array.shape[1:])
    return Image(normalise(array, plan, cut_axis(plan, image.geometry)), geometry)


def filled(image: Image) -> Image:
    """The image with NaN, as registration leaves it outside a patient, as the lowest value of its channel.

    A notice says so. A channel without any number stays as it is.
    """
    if image.array.dtype.kind != "f" or not (missing := np.isnan(image.array)).any():
        return image
    array = np.array(image.array)
    for channel, holes in zip(array, missing, strict=True):
        numbers = np.isfinite(channel)
        if numbers.any():
            channel[holes] = channel[numbers].min()
    said = f"{in_percent(missing.mean(), 2)} of the image is NaN; replaced by its lowest value"
    return replace(image, array=array, notices=(*image.notices, said))


def prepare_label(label: np.ndarray, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Label (*spatial) on the plan's grid, each class resampled by its nearest element."""
    size = grid_size(label.shape, geometry, plan)
    return label if size == label.shape else resample(label, size, order=0)


def grid_size(shape: tuple[int, ...], geometry: Geometry, plan: Plan) -> tuple[int, ...]:
    """Size of the plan's grid over an image of ``shape``; at least one element per axis.

    Axes that the network does not see, such as time or that of its slices, keep their elements.
    Raises ``DataError``: as :func:`spacing_for`.
    """
    seen, wanted = seen_axes(geometry, plan), plan.of_seen_axes(plan.spacing)
    if plan.side is not None:
        factors = [plan.side / min(shape[axis] for axis in seen)] * len(seen)
    elif wanted is None:
        return tuple(shape)
    else:
        factors = [held / s for held, s in zip(spacing_for(geometry, plan), wanted, strict=True)]
        if plan.spacing == plan.native and all(abs(factor - 1) <= SAME_SPACING for factor in factors):
            return tuple(shape)
    size = list(shape)
    for axis, factor in zip(seen, factors, strict=True):
        size[axis] = max(1, round(shape[axis] * factor))
    return tuple(size)


def size_in_words(shape: tuple[int, ...], geometry: Geometry, plan: Plan) -> tuple[str, ...]:
    """How an image is looked at whose size is unknown, or quite another than in training; else nothing."""
    if plan.side is not None:
        return _short_side_in_words(shape, geometry, plan)
    said = []
    if plan.native is not None and geometry.unit == "pixel":
        said.append(
            f"The image has no physical size; the spacing of the training images is assumed: "
            f"{_product(plan.native)} {plan.unit}"
        )
    if plan.largest:
        size, unit = np.array(grid_size(shape, geometry, plan))[seen_axes(geometry, plan)], "voxels"
        largest = np.array(plan.largest)
        if size.prod() > MUCH_LARGER * largest.prod():
            if plan.spacing is not None and plan.unit != "pixel":
                size, largest, unit = size * plan.spacing, largest * plan.spacing, plan.unit
            said.append(
                f"The image is {_product(size)} {unit} large, and no training image was larger than "
                f"{_product(largest)} {unit}. If structures are found where there are none, crop the image "
                f"to what the training images showed"
            )
    return tuple(said)


def _short_side_in_words(shape: tuple[int, ...], geometry: Geometry, plan: Plan) -> tuple[str, ...]:
    assert plan.side is not None
    short = min(shape[axis] for axis in seen_axes(geometry, plan))
    usual = plan.side * (plan.spacing[0] if plan.spacing else 1.0)
    if 1 / UNUSUAL_SIZE <= short / usual <= UNUSUAL_SIZE:
        return ()
    return (
        f"The short side of the image is {short} pixels, and was about {usual:.0f} in training: the image is "
        f"brought to that size as a whole. If it shows more than the training images did, crop it",
    )


def _product(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def seen_axes(geometry: Geometry, plan: Plan) -> list[int]:
    """Axes of an image that the network sees: the last ones, or those of the plane of its slices."""
    thin = thin_axes(geometry.ndim, plan.dims, cut_axis(plan, geometry))
    return [axis for axis in range(geometry.ndim) if axis not in thin]


def cut_axis(plan: Plan, geometry: Geometry) -> int:
    """Axis across which a network of ``plan`` goes through an image slice by slice; 0 where it does not.

    The plan's, or for a network of pictures the one across which the volume was acquired.
    """
    if plan.dims != 2 or geometry.ndim != 3:
        return 0
    return slice_axis(geometry) if plan.axes == 2 else plan.slice_axis


def spacing_for(geometry: Geometry, plan: Plan) -> tuple[float, ...]:
    """Spacing of an image along the axes that the network sees (dims,), in the plan's unit.

    A plan in pixels takes every image by its pixels; an image that does not know its size has the spacing of
    all training images. Raises ``DataError``: these had several.
    """
    if plan.unit == "pixel":
        return (1.0,) * plan.dims
    if geometry.unit == "pixel":
        native = plan.of_seen_axes(plan.native)
        if native is None:
            raise DataError(
                f"the model was trained on images with a spacing in {plan.unit}, but this one does not say "
                f"how large its pixels are; give it in a format that does, or set the layer's scale and units"
            )
        return native
    thousand = {("um", "mm"): 1e-3, ("mm", "um"): 1e3}.get((geometry.unit, plan.unit), 1.0)
    return tuple(thousand * geometry.spacing[axis] for axis in seen_axes(geometry, plan))


def resample(array: np.ndarray, size: tuple[int, ...], order: int = 1) -> np.ndarray:
    """Resample (*spatial) to ``size`` with the outer edges kept in place; smoothed first where it shrinks."""
    from scipy import ndimage  # panels open without it

    factors = [m / n for n, m in zip(array.shape, size, strict=True)]
    if order and min(factors) < 1:
        sigmas = [max(0.0, (1 / f - 1) / 2) for f in factors]
        array = ndimage.gaussian_filter(array, sigmas, mode="nearest")
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


def normalise(array: np.ndarray, plan: Plan, across: int = 0) -> np.ndarray:
    """Intensity rule of the plan on (C, *spatial) float32; a constant channel becomes 0.

    An image with more axes than the training images, such as a stack for a model of 2D images, is normalised
    slice by slice, across the axis ``across``.
    """
    if plan.intensity == "ct":
        normalised = array.clip(*plan.clip)
        normalised -= plan.mean
        normalised /= plan.std
        return normalised
    axes = tuple(range(-min(plan.axes or array.ndim - 1, array.ndim - 1), 0))
    if across and len(axes) == array.ndim - 2:
        axes = tuple(axis for axis in range(1, array.ndim) if axis != 1 + across)
    mean = array.mean(axis=axes, keepdims=True, dtype=np.float64)
    spread = array.std(axis=axes, keepdims=True, dtype=np.float64)
    spread[spread == 0] = 1
    normalised = np.empty_like(array)
    for n in range(array.shape[1]):  # in double precision, but not of a whole volume at once
        here = np.s_[:, n : n + 1]
        own, of_own = (each[here] if each.shape[1] > 1 else each for each in (mean, spread))
        normalised[here] = (array[here] - own) / of_own
    return normalised
