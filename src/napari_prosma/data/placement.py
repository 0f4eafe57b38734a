"""Labels that cover a part of their image's grid -> labels on the whole of it."""

from __future__ import annotations

import numpy as np

from napari_prosma.geometry import Geometry

_SAME_PLACE = 0.05  # of the smallest spacing: far below what shows, far above float32 rounding


def placed(
    label: np.ndarray, geometry: Geometry, shape: tuple[int, ...], image: Geometry
) -> tuple[np.ndarray, Geometry]:
    """A label that was cropped out of the grid of its image, as 3D Slicer saves it, laid back by its place.

    What is neither on that grid nor inside it comes back as it was, and so does a label whose foreground
    would be cut off.

    Parameters
    ----------
    label : (*spatial)
    geometry : Geometry
        Of the label.
    shape, image
        Of the image.
    """
    if label.shape == shape or label.ndim != len(shape) or np.any(np.greater(label.shape, shape)):
        return label, geometry
    start = _start(label.shape, geometry, shape, image)
    if start is None:
        return label, geometry
    whole = np.zeros(shape, label.dtype)
    inside = [slice(max(0, s), min(n, s + m)) for s, m, n in zip(start, label.shape, shape, strict=True)]
    cut = tuple(slice(i.start - s, i.stop - s) for i, s in zip(inside, start, strict=True))
    if np.count_nonzero(label) != np.count_nonzero(label[cut]):
        return label, geometry
    whole[tuple(inside)] = label[cut]
    return whole, image


def _start(
    small: tuple[int, ...], geometry: Geometry, shape: tuple[int, ...], image: Geometry
) -> tuple[int, ...] | None:
    """Index in the image of the label's first element; None where the grids differ or do not meet."""
    if image.source is None or geometry.source is None or len(shape) != 3:
        return None
    to_image = np.linalg.inv(image.in_mm(shape)) @ geometry.in_mm(small)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in small], [1])).reshape(4, -1)
    start = np.round(to_image[:3, 3])
    apart = np.abs((to_image @ corners)[:3] - corners[:3] - start[:, None]).max()
    meets = np.all((start < shape) & (start + small > 0))
    return tuple(int(n) for n in start) if apart <= _SAME_PLACE and meets else None
