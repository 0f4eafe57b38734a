"""A plan and its model applied to an image: what fits, on which grid, in which windows, and back again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.preparation import cut_axis, prepare, resample, seen_axes, spacing_for
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.model.windows import Tiling, labels_of, probabilities_of, tile
from napari_prosma.nn.build import Network
from napari_prosma.nn.ensemble import Ensemble

OVERLAP = 0.5
FARTHEST_SPACING = 30.0
"""A spacing this many times finer or coarser than the model's is taken for a wrong unit."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of one image."""

    name: str
    labels: np.ndarray  # (*spatial) uint8: class indices, 0 = background
    # (K, *spatial) float32: per class, background first; they sum to 1. Fewer where fewer were asked for.
    probabilities: np.ndarray
    geometry: Geometry  # the image's
    class_names: tuple[str, ...]  # background first
    # Which class each of ``probabilities`` belongs to; None = all, in order.
    kept: tuple[int, ...] | None = None
    # (*spatial) float32: how much mirrored passes, or the networks of an ensemble, disagree: 0 to 1.
    disagreement: np.ndarray | None = None
    # (F, *coarse) float32: what the network's deepest level makes of it; the axes that the network does not
    # see are as long as those of its grid.
    features: np.ndarray | None = None


def require_fit(plan: Plan, shape: Sequence[int], dtype: np.dtype, geometry: Geometry) -> None:
    """Refuse an image (C, *spatial) that the model was not made for, before any of it is read.

    Raises ``DataError``: other channels, fewer axes, an empty axis, no numbers, or a spacing far from the
    model's.
    """
    if shape[0] != plan.channels:
        raise DataError(
            f"the model expects {plan.channels} channel(s) but the image has {shape[0]}; convert the "
            f"image or train a model for it"
        )
    if geometry.ndim < plan.dims:
        raise DataError(
            f"the model is {plan.dims}D but the image has {geometry.ndim} axes; give it a volume, or train a "
            f"2D model"
        )
    if 0 in shape:
        raise DataError(f"the image is empty: its shape is {tuple(shape)}; export it again")
    if dtype.kind not in "biuf":
        raise DataError(f"the model expects real numbers but the image holds {dtype}; convert it")
    seen, wanted = seen_axes(geometry, plan), plan.of_seen_axes(plan.spacing)
    if plan.side is not None and plan.side > FARTHEST_SPACING * (short := min(shape[1 + n] for n in seen)):
        raise DataError(
            f"the model expects images with a short side of about {plan.side} pixels, but that of this one "
            f"is {short}: it is too narrow to be enlarged"
        )
    if wanted is None or plan.unit == "pixel" or geometry.unit == "pixel":
        return
    for axis, held, spacing in zip(seen, spacing_for(geometry, plan), wanted, strict=True):
        ratio = max(held / spacing, spacing / held)
        if ratio > FARTHEST_SPACING:
            raise DataError(
                f"the model expects {spacing:g} {plan.unit} along {geometry.axes[axis]} but the "
                f"image has {geometry.spacing[axis]:g} {geometry.unit}, {ratio:.0f} times off; its unit is "
                f"probably wrong: correct the spacing"
            )


@contextmanager
def named(name: str) -> Iterator[None]:
    """Errors about an image name it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"'{name}' cannot be segmented: {error}") from error


def prepare_for(plan: Plan, image: Image, name: str) -> Image:
    """The whole image on the plan's grid; errors name the image."""
    with named(name):
        require_fit(plan, image.array.shape, image.array.dtype, image.geometry)
        return prepare(image, plan)


def model_tiling(model: Network | Ensemble, plan: Plan, prepared: Image, image: Image) -> Tiling:
    """Windows of the plan's size, since the channel gates depend on what a window shows.

    Over ``prepared``, which is ``image`` on the plan's grid.
    """
    across = cut_axis(plan, image.geometry)
    return tile(prepared.array.shape[1:], plan.window, model.divisor, OVERLAP, across)


def finish(name: str, logits: np.ndarray, image: Image, plan: Plan) -> Segmentation:
    """Probabilities brought back to the image's grid, then labels."""
    probabilities = probabilities_of(logits)
    size = image.array.shape[1:]
    if probabilities.shape[1:] != size:
        probabilities = np.stack([resample(p, size) for p in probabilities])
    return Segmentation(
        name=name,
        labels=labels_of(probabilities),
        probabilities=probabilities,
        geometry=image.geometry,
        class_names=plan.class_names,
    )
