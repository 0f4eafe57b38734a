"""``segment``: a checkpoint and an image become labels on the image's own grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_prosma.data.case import Geometry, Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.preparation import prepare, resample
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.windows import Blend, Tiling, labels_of, predict, probabilities_of, tile
from napari_prosma.training.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.training.device import usable_device

OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of one image.

    Attributes
    ----------
    name : str
    labels : (*spatial) uint8
        Class indices, 0 = background.
    probabilities : (K, *spatial) float32
        Per class, background first; they sum to 1.
    geometry : Geometry
        The image's.
    class_names : tuple of str
        Background first.
    """

    name: str
    labels: np.ndarray
    probabilities: np.ndarray
    geometry: Geometry
    class_names: tuple[str, ...]


def segment(
    checkpoint: Checkpoint | Path | str,
    image: Image,
    *,
    name: str = "image",
    device: str = "auto",
    overlap: float = OVERLAP,
    batch: int = 1,
) -> Iterator[Event]:
    """Segment one image; the last event is ``Finished`` with a :class:`Segmentation`.

    Parameters
    ----------
    checkpoint : Checkpoint or path of one, or of a run folder
    image : (C, *spatial)
        2D, 3D, or a stack that a 2D model goes through slice by slice.
    name : str
        Used in messages and kept in the result.
    overlap : float
        Least overlap of neighbouring windows, as a share of the window.
    batch : int
        Windows per forward pass.

    Raises
    ------
    CheckpointError, ConfigError, DataError
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    prepared = prepare_for(checkpoint.plan, image, name)
    target = usable_device(device)
    model = checkpoint.build(target)
    tiling = model_tiling(model, checkpoint.plan, prepared, overlap)
    yield Started(len(tiling.starts), f"Segmenting {name}", str(target))
    yield from map(Notice, image.notices)
    blend = Blend(tiling, checkpoint.spec.out_channels)
    done = 0
    for starts in predict(model, prepared.array, tiling, batch, blend):
        done += starts
        yield Progress(done, len(tiling.starts), name)
    yield Finished(finish(name, blend.result(), image, checkpoint.plan))


def prepare_for(plan: Plan, image: Image, name: str) -> Image:
    """Image on the plan's grid; errors name the image."""
    try:
        return prepare(image, plan)
    except DataError as error:
        raise DataError(f"'{name}' cannot be segmented: {error}") from error


def model_tiling(
    model: ProSMAUNet | Ensemble, plan: Plan, prepared: Image, overlap: float = OVERLAP
) -> Tiling:
    """Windows of the training patch's size, since the channel gates depend on what a window shows."""
    return tile(prepared.array.shape[1:], plan.patch, model.divisor, overlap)


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
