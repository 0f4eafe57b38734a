"""What the plan does to an image before the network: resampling and intensity, the same everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import SAME_SPACING, Plan
from napari_prosma.data.planes import slice_axis, thin_axes
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

UNUSUAL_SIZE = 1.5
"""An image whose short side is so many times that of a usual training image is told."""


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
    said = f"{missing.mean():.2%} of the image are no numbers (NaN); taken as its lowest value"
    return replace(image, array=array, notices=(*image.notices, said))


def prepare_label(label: np.ndarray, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Label (*spatial) on the plan's grid, each class resampled by its nearest element."""
    size = grid_size(label.shape, geometry, plan)
    return label if size == label.shape else resample(label, size, order=0)


def grid_size(shape: tuple[int, ...], geometry: Geometry, plan: Plan) -> tuple[int, ...]:
    """Size of the plan's grid over an image of ``shape``; at least one element per axis.

    Raises ``DataError``: as :func:`spacing_for`.
    """
    factors = [1.0] * len(shape)
    if plan.side is not None:
        seen = _seen(shape, geometry, plan)
        for axis in seen:
            factors[axis] = plan.side / min(shape[n] for n in seen)
        return tuple(max(1, round(n * f)) for n, f in zip(shape, factors, strict=True))
    wanted = plan.spacing_within(geometry.ndim)
    if wanted is None or is_taken_as_trained(geometry, plan):
        return tuple(shape)
    held = spacing_for(geometry, plan)
    for axis, spacing in zip(resampled_axes(plan, geometry), wanted, strict=True):
        factors[axis] = held[axis] / spacing
    if plan.one_spacing and all(abs(factor - 1) <= SAME_SPACING for factor in factors):
        return tuple(shape)
    return tuple(max(1, round(n * f)) for n, f in zip(shape, factors, strict=True))


def is_taken_as_trained(geometry: Geometry, plan: Plan) -> bool:
    """Whether an image that does not know its size is taken to have the one spacing of training."""
    return plan.one_spacing and geometry.unit == "pixel"


def size_in_words(shape: tuple[int, ...], geometry: Geometry, plan: Plan) -> tuple[str, ...]:
    """What is done to an image of quite another size than those that the model learned from; else nothing."""
    if is_taken_as_trained(geometry, plan):
        return (
            f"The image does not say how large its elements are; they are taken to be those of training: "
            f"{plan.grid_in_words()}",
        )
    if plan.side is None:
        return ()
    short = min(shape[axis] for axis in _seen(shape, geometry, plan))
    usual = plan.side * (plan.spacing[0] if plan.spacing else 1.0)
    if 1 / UNUSUAL_SIZE <= short / usual <= UNUSUAL_SIZE:
        return ()
    return (
        f"The image's short side has {short} pixels, and about {usual:.0f} where the model learned: the "
        f"image is brought to that size as a whole. If it shows more or less than those did, cut it",
    )


def _seen(shape: tuple[int, ...], geometry: Geometry, plan: Plan) -> list[int]:
    """Axes of an image that the network sees."""
    thin = thin_axes(len(shape), plan.dims, cut_axis(plan, geometry))
    return [axis for axis in range(len(shape)) if axis not in thin]


def resampled_axes(plan: Plan, geometry: Geometry) -> list[int]:
    """Axes of an image that the plan's spacing is of: the last ones, or those of the plane of its slices."""
    thin = thin_axes(geometry.ndim, len(plan.spacing_within(geometry.ndim) or ()), cut_axis(plan, geometry))
    return [axis for axis in range(geometry.ndim) if axis not in thin]


def cut_axis(plan: Plan, geometry: Geometry) -> int:
    """Axis across which a network of ``plan`` goes through an image slice by slice; 0 where it does not.

    The plan's, or for a network of pictures the one across which the volume was acquired.
    """
    if plan.dims != 2 or geometry.ndim != 3:
        return 0
    return slice_axis(geometry) if plan.axes == 2 else plan.slice_axis


def spacing_for(geometry: Geometry, plan: Plan) -> tuple[float, ...]:
    """Spacing of an image in the plan's unit; a plan in pixels takes every image by its pixels.

    Raises ``DataError``: the plan has more axes, or a physical spacing where the image knows none.
    """
    unit, axes = plan.unit, len(plan.spacing_within(geometry.ndim) or ())
    if axes > geometry.ndim:
        raise DataError(f"the model was trained on images with {axes} axes, this one has {geometry.ndim}")
    if unit == "pixel":
        return (1.0,) * geometry.ndim
    if geometry.unit == "pixel":
        raise DataError(
            f"the model was trained on images with a spacing in {unit}, but this one does not say how large "
            f"its pixels are; give it in a format that does, or set the layer's scale and units"
        )
    thousand = {("um", "mm"): 1e-3, ("mm", "um"): 1e3}.get((geometry.unit, unit), 1.0)
    return tuple(thousand * s for s in geometry.spacing)


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
        return ((array.clip(*plan.clip) - plan.mean) / plan.std).astype(np.float32)
    axes = tuple(range(-min(plan.axes or array.ndim - 1, array.ndim - 1), 0))
    if across and len(axes) == array.ndim - 2:
        axes = tuple(axis for axis in range(1, array.ndim) if axis != 1 + across)
    mean = array.mean(axis=axes, keepdims=True, dtype=np.float64)
    spread = array.std(axis=axes, keepdims=True, dtype=np.float64)
    return ((array - mean) / np.where(spread > 0, spread, 1)).astype(np.float32)
