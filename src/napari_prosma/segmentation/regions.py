"""The regions of a segmentation: its connected pieces, class by class, measured as the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

_MM3_PER_ML = 1000.0
_TIME = "t"


@dataclass(frozen=True)
class Region:
    """One connected piece of one class; elements that touch at a corner are connected."""

    label: int  # index of its class
    class_name: str
    elements: int  # pixels or voxels
    size: float  # volume or area, in ``size_unit`` (see :func:`element_size`)
    size_unit: str
    # The longest one, in ``diameter_unit``: "mm", "um" or "pixel" (see :func:`longest_diameter`).
    diameter: float
    diameter_unit: str
    intensity: tuple[float, ...]  # mean of the image, per channel; empty without an image
    confidence: float | None  # mean of the model's probability of this class; None without probabilities
    # (n,): mean index of its elements along each axis; may lie outside a bent region.
    centroid: tuple[float, ...]
    at: tuple[int, ...]  # (n,) int: index of the element nearest to the centroid: where to go to see it
    box: tuple[slice, ...]  # (n,) slices: bounding box in the array


def regions(
    labels: np.ndarray,
    geometry: Geometry,
    class_names: Sequence[str],
    image: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
) -> list[Region]:
    """Every connected piece of every foreground class; classes in order, the largest piece first.

    In a time series each moment has pieces of its own.

    Parameters
    ----------
    labels : (*spatial) integers
        Class indices; what has no name, such as ``IGNORE``, is left out.
    geometry : Geometry
        Of the labels.
    class_names : names
        Background first.
    image : (C, *spatial), optional
    probabilities : (K, *spatial), optional
        Background first; a class beyond them has no confidence.

    Raises
    ------
    DataError
        The image or the probabilities lie on another grid than the labels.
    """
    for what, array in (("image", image), ("probabilities", probabilities)):
        if array is not None and array.shape[1:] != labels.shape:
            raise DataError(
                f"the labels have shape {labels.shape} but the {what} {array.shape[1:]}; measure the labels "
                f"on the image that they were made from"
            )
    found = _found(labels, geometry, class_names, image, probabilities)
    return sorted(found, key=lambda region: (region.label, -region.elements, region.at))


def element_size(geometry: Geometry) -> tuple[float, str]:
    """Volume or area of one element, and its unit.

    "ml" in three axes of mm, "mm^2" in two, "um^3" and "um^2"; 1 and "voxels" or "pixels" where no physical
    size is known. Time is no such axis.
    """
    spacing = spatial(geometry.spacing, geometry)
    volume = math.prod(spacing)
    if geometry.unit == "pixel":
        return 1.0, "voxels" if len(spacing) == 3 else "pixels"
    if geometry.unit == "mm" and len(spacing) == 3:
        return volume / _MM3_PER_ML, "ml"
    return volume, f"{geometry.unit}^{len(spacing)}"


def kind_of_size(unit: str) -> str:
    """What is measured in a unit of :func:`element_size`."""
    return "volume" if unit in ("ml", "um^3", "voxels") else "area"


def spatial(values: Sequence[float], geometry: Geometry) -> tuple[float, ...]:
    """Those of ``values``, one per axis, that belong to an axis of space."""
    return tuple(value for value, axis in zip(values, geometry.axes, strict=True) if axis != _TIME)


def touching(geometry: Geometry) -> np.ndarray:
    """Which of the 3 x ... x 3 elements around one count as touching it: all of the same moment."""
    near = np.ones((3,) * geometry.ndim, dtype=bool)
    for n, axis in enumerate(geometry.axes):
        if axis == _TIME:
            near &= (np.arange(3) == 1).reshape([3 if m == n else 1 for m in range(geometry.ndim)])
    return near


def longest_diameter(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Longest distance between two points of the outline of ``mask`` (*spatial), in the spacing's unit.

    The outline runs half an element beyond the outermost centres along each axis: a row of n pixels is n
    pixels long, a slice is as thick as the spacing says. The distance is exact.
    """
    inside = mask.any(axis=-1)
    lines = np.argwhere(inside)
    first = mask.argmax(axis=-1)[inside]
    last = mask.shape[-1] - 1 - mask[..., ::-1].argmax(axis=-1)[inside]
    ends = np.concatenate([np.column_stack([lines, first]), np.column_stack([lines, last])])
    steps = np.concatenate([np.eye(mask.ndim), -np.eye(mask.ndim)]) / 2
    outline = ((ends[:, None] + steps) * spacing).reshape(-1, mask.ndim)
    return float(pdist(outline[ConvexHull(outline).vertices]).max())


def region_rows(regions: Sequence[Region], geometry: Geometry, case: str) -> list[dict[str, str | float]]:
    """The regions of one case as rows of a table, units in the names of the columns.

    In a time series ``frame`` says which moment a region belongs to, from 0 on as in napari.
    """
    rows = []
    for region in regions:
        row: dict[str, str | float] = {"case": case, "class": region.class_name}
        if _TIME in geometry.axes:
            row["frame"] = region.at[geometry.axes.index(_TIME)]
        row[f"{kind_of_size(region.size_unit)} ({region.size_unit})"] = region.size
        row[f"longest diameter ({region.diameter_unit})"] = region.diameter
        for channel, mean in enumerate(region.intensity, 1):
            row["mean intensity" if len(region.intensity) == 1 else f"mean of channel {channel}"] = mean
        if region.confidence is not None:
            row["confidence"] = region.confidence
        row["elements"] = region.elements
        for axis, centre, box in zip(geometry.axes, region.centroid, region.box, strict=True):
            if axis == _TIME:
                continue
            row |= {f"centre {axis}": centre, f"first {axis}": box.start, f"last {axis}": box.stop - 1}
        rows.append(row)
    return rows


def _found(
    labels: np.ndarray,
    geometry: Geometry,
    class_names: Sequence[str],
    image: np.ndarray | None,
    probabilities: np.ndarray | None,
) -> Iterator[Region]:
    element, size_unit = element_size(geometry)
    spacing = spatial(geometry.spacing, geometry)
    near = touching(geometry)
    time = tuple(n for n, axis in enumerate(geometry.axes) if axis == _TIME)
    for label, box in enumerate(ndimage.find_objects(labels, max_label=len(class_names) - 1), 1):
        if box is None:
            continue
        is_drawn = probabilities is None or label >= len(probabilities)  # by hand, beyond the model's classes
        sure = None if probabilities is None or is_drawn else probabilities[(label, *box)]
        pieces, _ = ndimage.label(labels[box] == label, near)
        for number, part in enumerate(ndimage.find_objects(pieces), 1):
            mask = pieces[part] == number
            whole = tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, part, strict=True))
            indices = np.argwhere(mask)
            centre = indices.mean(axis=0)
            nearest = indices[np.argmin(((indices - centre) ** 2).sum(axis=1))]
            corner = [each.start for each in whole]
            yield Region(
                label=label,
                class_name=class_names[label],
                elements=len(indices),
                size=len(indices) * element,
                size_unit=size_unit,
                diameter=longest_diameter(mask.squeeze(time), spacing),
                diameter_unit=geometry.unit,
                intensity=()
                if image is None
                else tuple(float(channel[whole][mask].mean(dtype=np.float64)) for channel in image),
                confidence=None if sure is None else float(sure[part][mask].mean(dtype=np.float64)),
                centroid=tuple(float(c) for c in corner + centre),
                at=tuple(int(n) for n in corner + nearest),
                box=whole,
            )
